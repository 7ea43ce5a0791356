// SPDX-License-Identifier: GPL-2.0

//! The core has no reachable panic, calls no library function, and needs no relocation.
//!
//! Builds `freestanding/`, which wraps the core in an environment that the compiler knows nothing
//! about, and looks at the result. Early boot code could not be linked otherwise.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// What is wrong with a build of the core.
#[derive(Debug, PartialEq)]
enum Flaw {
    /// It does not link, since a panic is reachable.
    Panic,
    /// It does not build for another reason.
    Build(String),
    /// It calls these functions that are not its own.
    Foreign(Vec<String>),
    /// It has this many bytes of relocations.
    Relocations(u64),
}

fn freestanding() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "freestanding"]
        .iter()
        .collect()
}

/// Builds the wrapper into a target folder of its own, with a feature if one is given.
fn build(feature: Option<&str>) -> (Output, PathBuf) {
    let target = freestanding().join("../../../build/target/tests-proto-freestanding");
    let mut command = Command::new(env!("CARGO"));

    // The flags of this test's own build are for another target.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    command
        .current_dir(freestanding())
        // For -Zbuild-std, which the wrapper's configuration asks for.
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(&target);
    if let Some(feature) = feature {
        command.args(["--features", feature]);
    }

    let output = command.output().expect("cargo can be started");

    (
        output,
        target.join("x86_64-unknown-none/release/proto-freestanding"),
    )
}

/// Reads a little-endian number.
fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
    bytes[offset..offset + len]
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// A section of a 64-bit ELF file: type, offset, size, link.
fn sections(elf: &[u8]) -> Vec<(u64, usize, usize, usize)> {
    let start = number(elf, 0x28, 8) as usize;
    let entry = number(elf, 0x3a, 2) as usize;
    let count = number(elf, 0x3c, 2) as usize;

    (0..count)
        .map(|index| start + index * entry)
        .map(|at| {
            (
                number(elf, at + 4, 4),
                number(elf, at + 0x18, 8) as usize,
                number(elf, at + 0x20, 8) as usize,
                number(elf, at + 0x28, 4) as usize,
            )
        })
        .collect()
}

/// Names of the functions that a linked file contains.
fn functions(elf: &[u8]) -> Vec<String> {
    const SYMTAB: u64 = 2;
    const FUNCTION: u64 = 2;

    let sections = sections(elf);
    let mut names = Vec::new();

    for &(kind, offset, size, link) in &sections {
        if kind != SYMTAB {
            continue;
        }
        for at in (offset..offset + size).step_by(24) {
            if number(elf, at + 4, 1) & 0xf != FUNCTION {
                continue;
            }

            let name = sections[link].1 + number(elf, at, 4) as usize;
            let end = elf[name..].iter().position(|byte| *byte == 0).unwrap();

            names.push(String::from_utf8_lossy(&elf[name..name + end]).into_owned());
        }
    }
    names
}

fn examine(feature: Option<&str>) -> Result<(), Flaw> {
    let (output, path) = build(feature);

    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();

        return Err(if text.contains("a_panic_is_reachable") {
            Flaw::Panic
        } else {
            Flaw::Build(text)
        });
    }

    let elf = std::fs::read(path).expect("the linker wrote its output");
    let names = functions(&elf);

    assert!(
        names.iter().any(|name| name.contains("dispatch")),
        "the file has no symbols to look at: {names:?}"
    );

    let foreign: Vec<_> = names
        .into_iter()
        .filter(|name| name != "_start" && !name.contains("proto_freestanding"))
        .collect();

    if !foreign.is_empty() {
        return Err(Flaw::Foreign(foreign));
    }

    const RELA: u64 = 4;
    let relocations: usize = sections(&elf)
        .iter()
        .filter(|section| section.0 == RELA)
        .map(|section| section.2)
        .sum();

    if relocations != 0 {
        return Err(Flaw::Relocations(relocations as u64));
    }
    Ok(())
}

/// One test, since the builds share a folder. The flawed builds show that the checks can fail.
#[test]
fn core_is_fit_for_early_boot() {
    assert_eq!(examine(Some("provoke-panic")), Err(Flaw::Panic));
    assert!(matches!(
        examine(Some("provoke-compare")),
        Err(Flaw::Foreign(_))
    ));
    assert!(matches!(
        examine(Some("provoke-relocation")),
        Err(Flaw::Relocations(_))
    ));

    match examine(None) {
        Ok(()) => {}
        Err(Flaw::Panic) => panic!(
            "a panic is reachable in the protocol core: replace indexing by get(), arithmetic by \
             wrapping_*() or checked_*(), and unwrap() by a match"
        ),
        Err(Flaw::Foreign(names)) => panic!(
            "the protocol core calls functions that early boot code does not have: {names:?}"
        ),
        Err(Flaw::Relocations(bytes)) => {
            panic!("the protocol core has {bytes} bytes of relocations: no statics with references")
        }
        Err(Flaw::Build(text)) => panic!("the protocol core does not build:\n{text}"),
    }
}
