// SPDX-License-Identifier: GPL-2.0

//! Builds what the tests compare the core with: the kernel's instruction decoder, compiled for the
//! host from the kernel's source, and the bindings of the Unicorn engine.
//!
//! Nothing of the kernel's is copied into the project: the decoder's source, its generated tables
//! and the part of `insn-eval.c` that decodes MMIO exist in the build folder only.

use std::{
    env,
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Command,
        Stdio, //
    }, //
};

/// Where the kernel's source is if the environment does not say.
const DEFAULT_TREE: &str = "../../build/pristine";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=KERNEL_TREE");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let tree = kernel_tree();

    kernel_decoder(&tree, &out);
    bindgen(
        &out.join("unicorn.rs"),
        "unicorn/unicorn.h",
        &["--allowlist-item", "(uc|UC)_.*", "--no-prepend-enum-name"],
        &[],
    );
    println!("cargo:rustc-link-lib=dylib=unicorn");
}

/// The kernel's source.
fn kernel_tree() -> PathBuf {
    let tree = env::var_os("KERNEL_TREE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(DEFAULT_TREE),
        PathBuf::from,
    );

    if !tree.join("tools/arch/x86/lib/insn.c").is_file() {
        panic!(
            "no kernel source at {}: run `make tree`, or set KERNEL_TREE to a Linux 7.3 tree",
            tree.display()
        );
    }
    tree.canonicalize().expect("the tree exists")
}

/// Reads a file of the kernel, and builds anew when it changes.
fn source(path: &Path) -> String {
    println!("cargo:rerun-if-changed={}", path.display());
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The part of a source file from `start` to the first line that is `end`.
fn excerpt<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text
        .find(start)
        .unwrap_or_else(|| panic!("the kernel's source has no '{start}'"));
    let len = text[from..].find(end).expect("the definition ends") + end.len();

    &text[from..from + len]
}

/// Compiles the decoder (the tools' copy, which is the kernel's but for the headers' paths) and
/// `insn_decode_mmio()`, and makes bindings.
fn kernel_decoder(tree: &Path, out: &Path) {
    let tools = tree.join("tools");
    let tables = run(Command::new("awk").args([
        tools
            .join("arch/x86/tools/gen-insn-attr-x86.awk")
            .as_os_str()
            .to_str()
            .map(|script| format!("-f{script}"))
            .expect("the path is UTF-8")
            .as_str(),
        tools
            .join("arch/x86/lib/x86-opcode-map.txt")
            .to_str()
            .expect("the path is UTF-8"),
    ]));
    let eval = source(&tree.join("arch/x86/lib/insn-eval.c"));
    let header = source(&tree.join("arch/x86/include/asm/insn-eval.h"));
    let types = excerpt(&header, "enum insn_mmio_type {", "\n};\n");
    let decode = excerpt(&eval, "enum insn_mmio_type insn_decode_mmio(", "\n}\n");

    fs::write(out.join("inat-tables.c"), tables).expect("the build folder is writable");
    fs::write(
        out.join("kernel.h"),
        format!(
            "#include <asm/insn.h>\n{types}\n\
             enum insn_mmio_type insn_decode_mmio(struct insn *insn, int *bytes);\n"
        ),
    )
    .expect("the build folder is writable");
    fs::write(
        out.join("mmio.c"),
        format!("#include <linux/compiler.h>\n#include \"kernel.h\"\n{decode}"),
    )
    .expect("the build folder is writable");

    let includes = [
        out.to_owned(),
        tools.join("include"),
        tools.join("include/uapi"),
        tools.join("arch/x86/include"),
    ];
    let library = tools.join("arch/x86/lib");

    source(&library.join("insn.c"));
    source(&library.join("inat.c"));
    source(&library.join("x86-opcode-map.txt"));
    cc::Build::new()
        .includes(&includes)
        .file(library.join("insn.c"))
        .file(library.join("inat.c"))
        .file(out.join("mmio.c"))
        .opt_level(2)
        .warnings(false)
        .cargo_warnings(false)
        .compile("kernel_insn");

    let includes: Vec<_> = includes
        .iter()
        .map(|path| format!("-I{}", path.display()))
        .collect();

    bindgen(
        &out.join("kernel.rs"),
        out.join("kernel.h").to_str().expect("the path is UTF-8"),
        &[
            "--allowlist-function",
            "insn_(init|get_length|decode_mmio)",
            "--no-layout-tests",
        ],
        &includes,
    );
}

/// Makes bindings of a header, which is found as the C compiler finds it.
fn bindgen(to: &Path, header: &str, options: &[&str], arguments: &[String]) {
    let wrapper = to.with_extension("bindgen.h");

    fs::write(&wrapper, format!("#include <{header}>\n")).expect("the build folder is writable");

    let bindings = run(Command::new("bindgen")
        .arg(&wrapper)
        .args(["--use-core", "--with-derive-default"])
        .args(options)
        .arg("--")
        .args(arguments));

    fs::write(to, bindings).expect("the build folder is writable");
}

/// Runs a tool and returns what it prints.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));

    assert!(output.status.success(), "{command:?} failed");
    output.stdout
}
