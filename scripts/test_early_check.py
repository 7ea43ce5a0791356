# SPDX-License-Identifier: GPL-2.0
"""Tests of the check that keeps early boot code in Rust free of relocations and panics, on objects
that rustc makes here.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
CHECK = Path(__file__).resolve().parent.parent / "arch-x86-sev/boot/check-early-rust.sh"

# The flags of Makefile.rust that decide about addresses.
FLAGS = (
    "--edition=2021 --crate-type=lib --crate-name=early -Cpanic=abort -Copt-level=2"
    " -Cforce-unwind-tables=n -Coverflow-checks=n -Cdebug-assertions=n -Ccode-model=small"
    " -Crelocation-model=pie -Csymbol-mangling-version=v0 -Awarnings"
).split()
DIRECT = [
    "-Zdirect-access-external-data=yes",
    "-Zdefault-visibility=hidden",
    "-Zplt=yes",
    "-Zno-jump-tables",
]

CLEAN = """
static TABLE: [u8; 4] = [1, 3, 5, 7];
extern "C" { fn handler(); static mut counter: u64; fn print(text: *const u8); }
#[no_mangle] pub unsafe extern "C" fn count(index: usize) -> u64 {
    counter = counter.wrapping_add(TABLE.get(index).copied().unwrap_or(0) as u64);
    print(b"counted\\0".as_ptr());
    handler as usize as u64
}
"""
PANICS = """
#[no_mangle] pub extern "C" fn divide(a: u64, b: u64) -> u64 { a / b }
"""
INDEXES = """
#[no_mangle] pub extern "C" fn element(table: &[u8; 4], index: usize) -> u8 { table[index] }
"""
REFERENCES = """
static NAMES: [&str; 2] = ["one", "two"];
#[no_mangle] pub extern "C" fn name(second: bool) -> *const u8 { NAMES[second as usize].as_ptr() }
"""
POINTERS = """
extern "C" { static there: u64; }
#[no_mangle] #[used] #[link_section = ".data"] pub static mut POINTER: Pointer = Pointer(unsafe {
    core::ptr::addr_of!(there)
});
pub struct Pointer(*const u64);
unsafe impl Sync for Pointer {}
"""
LIBRARY = """
#[no_mangle] pub extern "C" fn valid(bytes: &[u8; 64]) -> bool {
    core::str::from_utf8(bytes).is_ok()
}
"""
SECTION = """
#[no_mangle] #[link_section = ".init.text"]
pub extern "C" fn modulo(a: u64, b: u64) -> u64 { a % b }
"""

# As a core with today's mangling would have it: <[u8]>::copy_from_slice.
METHOD = """
extern "C" {
    #[link_name = "_RNvMNtCshGpAVYOtgW1_4core5sliceSh15copy_from_slice"] fn copy();
}
#[no_mangle] pub unsafe extern "C" fn first() { copy(); copy() }
"""
POINTER_CALL = """
#[no_mangle] pub extern "C" fn through(f: extern "C" fn() -> u64) -> u64 { f() + 1 }
"""
POINTER_JUMP = """
pub trait Console { fn put(&self, byte: u8); }
#[no_mangle] pub fn say(console: &dyn Console) { console.put(7) }
"""
TABLE_JUMP = """
extern "C" { fn a(); fn b(); fn c(); fn d(); fn e(); fn f(); }
#[no_mangle] pub unsafe extern "C" fn choose(which: u64) {
    match which { 0 => a(), 1 => b(), 2 => c(), 3 => d(), 4 => e(), 5 => f(), _ => {} }
}
"""
# Instantiated here, so that it is here.
GENERIC = """
#[inline(never)] fn twice<T: Copy + core::ops::Add<Output = T>>(value: T) -> T { value + value }
#[no_mangle] pub extern "C" fn four(value: u64) -> u64 { twice(twice(value)) }
"""


class EarlyCheck(unittest.TestCase):
    """Each object, by each objdump that is here."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.tools = [tool for tool in ("objdump", "llvm-objdump") if shutil.which(tool)]
        self.assertTrue(self.tools)

    def check(self, source, direct=True, flags=()):
        """Compile, check, and give the message; None if there is nothing to complain about."""
        rust = self.folder / "early.rs"
        rust.write_text("#![no_std]\n" + source)
        output = self.folder / "early.o"
        subprocess.run(
            ["rustc", *FLAGS, *(DIRECT if direct else []), *flags, f"--emit=obj={output}", rust],
            check=True,
            env={"RUSTC_BOOTSTRAP": "1", "PATH": "/usr/bin:/bin"},
        )
        messages = set()
        for tool in self.tools:
            result = subprocess.run(
                ["sh", CHECK, tool, output], capture_output=True, text=True, check=False
            )
            self.assertEqual(result.returncode != 0, result.stderr != "", result.stderr)
            # The host's core has hashes in its names, which only some tools leave out.
            messages.add(re.sub("::h[0-9a-f]{16}", "", result.stderr))
        self.assertEqual(len(messages), 1, messages)
        return messages.pop() or None

    def test_clean(self):
        """Tables of numbers, strings, addresses of functions and variables are all right."""
        self.assertIsNone(self.check(CLEAN))

    def test_panics(self):
        """The message names the function that panics, and how."""
        self.assertRegex(self.check(PANICS), "function divide can panic: it calls core::panicking")
        self.assertRegex(self.check(INDEXES), "function element .*panic_bounds_check")

    def test_other_section(self):
        """Code does not hide in another section."""
        self.assertRegex(self.check(SECTION), "function modulo can panic")

    def test_references(self):
        """A table of references needs relocations."""
        message = self.check(REFERENCES)
        self.assertRegex(message, "function name uses data that would have to be relocated")
        self.assertRegex(message, r"section \.data\.rel\.ro\S* holds the absolute address")

    def test_pointers(self):
        """So does a variable that points somewhere."""
        self.assertRegex(self.check(POINTERS), "section .data holds the absolute address of there")

    def test_got(self):
        """Without direct access to external data, its address comes from a GOT."""
        self.assertRegex(self.check(CLEAN, direct=False), "function count takes the address .* GOT")

    def test_library(self):
        """What is not inlined from core is not there."""
        self.assertRegex(self.check(LIBRARY), "function valid calls core::str::.*not linked in")

    def test_method(self):
        """Nor is a method of a primitive type, whose name does not begin with core."""
        message = self.check(METHOD)
        self.assertRegex(message, r"function first calls <\[u8\]>::copy_from_slice.*not linked in")

    def test_generic(self):
        """What is instantiated here may be called."""
        self.assertIsNone(self.check(GENERIC))

    def test_indirect(self):
        """There are no calls by pointer, of functions or of methods."""
        self.assertRegex(self.check(POINTER_CALL), "function through has an indirect branch")
        self.assertRegex(self.check(POINTER_JUMP), "function say has an indirect branch")

    def test_retpoline(self):
        """Nor through the thunks of the kernel proper."""
        features = ("external-thunk", "indirect-branches", "indirect-calls")
        flag = "-Ctarget-feature=" + ",".join(f"+retpoline-{name}" for name in features)
        message = self.check(POINTER_CALL, flags=[flag])
        self.assertRegex(message, "function through has an indirect branch")

    def test_jump_table(self):
        """A table of addresses to jump to is none either."""
        self.assertIsNone(self.check(TABLE_JUMP))
        tables = [flag for flag in DIRECT if flag != "-Zno-jump-tables"]
        message = self.check(TABLE_JUMP, direct=False, flags=tables)
        self.assertRegex(message, "function choose has an indirect branch")

    def test_garbage(self):
        """What is no object is an error."""
        garbage = self.folder / "garbage.o"
        garbage.write_bytes(b"no object")
        for tool in self.tools:
            result = subprocess.run(["sh", CHECK, tool, garbage], capture_output=True, check=False)
            self.assertNotEqual(result.returncode, 0)


if __name__ == "__main__":
    unittest.main()
