// SPDX-License-Identifier: GPL-2.0
//! QEMU's arguments, and what its own messages mean.
//!
//! QEMU runs in the log folder and sees its input by fixed names in `files/` (links to the real
//! files): blanks and commas in the user's file names so never meet QEMU's own quoting, in which a
//! multiboot module cannot have a blank in its name at all.

use std::process::Command;

use crate::cli::Apic;
use crate::cli::Cli;
use crate::cli::Entry;
use crate::cli::Intercept;
use crate::setup::file_sizes;
use crate::setup::Config;
use crate::setup::Memory;
use crate::setup::SetupError;

/// The oldest QEMU whose SVM emulation is known to do.
pub const MIN_VERSION: (u32, u32) = (10, 0);

/// Features that the model has and TCG lacks: switched off by name, so that QEMU's warnings are few
/// and mean something.
const NOT_IN_TCG: &str = "-pcid,-invpcid,-fxsr-opt,-misalignsse,-osvw,-topoext,-perfctr-core,\
                          -clzero,-ibpb,-ibrs,-amd-stibp,-amd-ssbd,-nrip-save,-xsavec,-xsaves";

/// Links in `files/`: name there, and the file meant.
pub fn links(cli: &Cli) -> Vec<(&'static str, std::path::PathBuf)> {
    let mut links = Vec::new();
    if cli.entry == Entry::Firmware {
        links.push(("firmware", cli.firmware.clone()));
    }
    if !cli.plain {
        links.push(("sevsim", cli.sevsim.clone()));
    }
    let optional = [
        ("kernel", &cli.kernel),
        ("initrd", &cli.initrd),
        ("disk", &cli.disk),
    ];
    for (name, path) in optional {
        if let Some(path) = path {
            links.push((name, path.clone()));
        }
    }
    links
}

/// sevsim's options, as its multiboot command line carries them.
pub fn sevsim_options(cli: &Cli) -> String {
    let apic = match cli.apic {
        Apic::Xapic => "xapic",
        Apic::X2apic => "x2apic",
    };
    let intercept = match cli.intercept {
        Intercept::Default => "default",
        Intercept::All => "all",
    };
    let mut text = format!(
        "mem={} vcpus={} cbit={} ghcb={} apic={apic} intercept={intercept} reduction={}",
        cli.memory, cli.vcpus, cli.cbit, cli.ghcb_version, cli.reduction
    );
    if cli.entry == Entry::Raw {
        text += " entry=raw";
    }
    if cli.count_instructions {
        text += " tsc=guest";
    }
    text += &cli.launch.words;
    for option in &cli.options {
        text += " ";
        text += option;
    }
    text
}

/// The processor that QEMU emulates. sevsim needs SVM, 52 bits of physical address and LA57 (so
/// that it can place any C-bit); a plain guest gets what sevsim would show it.
pub fn cpu(cli: &Cli) -> String {
    if let Some(cpu) = &cli.cpu {
        return cpu.clone();
    }
    let apic = if cli.plain && cli.apic == Apic::Xapic {
        "-x2apic"
    } else {
        "+x2apic"
    };
    if cli.plain {
        format!("EPYC-Milan,phys-bits=46,-svm,-npt,-la57,{apic},+invtsc,{NOT_IN_TCG}")
    } else {
        format!("EPYC-Milan,phys-bits=52,+svm,+npt,+la57,{apic},{NOT_IN_TCG}")
    }
}

/// The board: no more devices than the guest can use, the same with and without sevsim. Firmware
/// and kernels poll what they find, and each access is a #VC: the keyboard controller alone, which
/// has no keyboard, costs a boot a quarter of its exits. There is no system management mode in
/// sevsim, nothing to find on the SMBus, and AHCI is there for a disk only.
fn machine(cli: &Cli, memory: &Memory) -> String {
    let sata = if cli.disk.is_some() { "on" } else { "off" };
    format!(
        "q35,max-ram-below-4g={}M,i8042=off,vmport=off,smm=off,smbus=off,sata={sata}",
        memory.low
    )
}

/// All arguments.
pub fn arguments(config: &Config) -> Vec<String> {
    let cli = &config.cli;
    let memory = Memory::new(cli.memory, file_sizes(cli), cli.plain);
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| word.to_string()));

    add(&["-name", "sevsim", "-no-user-config", "-nodefaults"]);
    if cli.count_instructions {
        // QEMU's clocks, the TSC among them, advance by 1 ns an instruction, and jump over idle
        // times.
        add(&["-accel", "tcg,thread=single"]);
        add(&["-icount", "shift=0,sleep=off"]);
    } else {
        add(&["-accel", "tcg,thread=multi"]);
    }
    add(&["-machine", &machine(cli, &memory)]);
    if !cli.plain {
        // A SEV-ES guest's vCPU cannot be put back to its reset state, where S3 would wake it up.
        add(&["-global", "ICH9-LPC.disable_s3=1"]);
    }
    add(&["-cpu", &cpu(cli)]);
    add(&["-smp", &cli.vcpus.to_string()]);
    add(&["-m", &format!("{}M", memory.total)]);
    add(&[
        "-display", "none", "-vga", "none", "-nic", "none", "-monitor", "none",
    ]);
    add(&["-no-reboot", "-d", "cpu_reset", "-D", "machine.log"]);
    add(&[
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    if let Some(_disk) = &cli.disk {
        add(&["-drive", "file=files/disk,if=none,id=disk,format=raw"]);
        add(&["-device", "ide-hd,drive=disk,bootindex=1"]);
    }
    if cli.plain {
        if cli.entry == Entry::Firmware {
            add(&["-bios", "files/firmware"]);
        }
        if cli.kernel.is_some() {
            add(&["-kernel", "files/kernel", "-append", &config.cmdline]);
        }
        if cli.initrd.is_some() {
            add(&["-initrd", "files/initrd"]);
        }
    } else {
        add(&["-chardev", "file,id=log,path=sevsim.log"]);
        add(&["-device", "isa-debugcon,iobase=0xe9,chardev=log"]);
        add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        add(&["-kernel", "files/sevsim", "-append", &sevsim_options(cli)]);
        add(&["-initrd", &modules(cli)]);
    }
    args.extend(cli.qemu_args.iter().cloned());
    args
}

/// Multiboot modules: file name, blank, what it is.
fn modules(cli: &Cli) -> String {
    let mut modules = Vec::new();
    if cli.entry == Entry::Firmware {
        modules.push("files/firmware firmware");
    }
    if cli.kernel.is_some() {
        modules.push("files/kernel kernel");
        modules.push("files/cmdline cmdline");
    }
    if cli.initrd.is_some() {
        modules.push("files/initrd initrd");
    }
    modules.join(",")
}

/// The command as a shell takes it, for the log.
pub fn command_line(cli: &Cli, args: &[String]) -> String {
    let quote = |word: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.to_string()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let mut text = quote(&cli.qemu.to_string_lossy());
    for arg in args {
        text += if arg.starts_with('-') { " \\\n  " } else { " " };
        text += &quote(arg);
    }
    text + "\n"
}

/// Major and minor version out of what `--version` prints.
pub fn parse_version(text: &str) -> Option<(u32, u32)> {
    let rest = text.split("QEMU emulator version ").nth(1)?;
    let number = rest
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Asks QEMU for its version; gives its first line.
pub fn probe(cli: &Cli) -> Result<String, SetupError> {
    let name = cli.qemu.display();
    let output = Command::new(&cli.qemu)
        .arg("--version")
        .output()
        .map_err(|error| {
            SetupError(format!(
                "cannot start QEMU as {name}: {error}; install qemu-system-x86 {}.{} or later, or \
             name it with --qemu",
                MIN_VERSION.0, MIN_VERSION.1
            ))
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match parse_version(&text) {
        Some(version) if version >= MIN_VERSION => {
            Ok(text.lines().next().unwrap_or_default().to_string())
        }
        Some((major, minor)) => Err(SetupError(format!(
            "{name} is QEMU {major}.{minor}, but {}.{} or later is needed: install a newer one, \
             or name it with --qemu",
            MIN_VERSION.0, MIN_VERSION.1
        ))),
        None => Err(SetupError(format!(
            "{name} does not look like QEMU: name it with --qemu"
        ))),
    }
}

/// Finds in QEMU's messages what the user can mend.
pub fn setup_problem(messages: &str) -> Option<String> {
    for line in messages.lines() {
        if line.contains("doesn't support requested feature") && line.contains(".svm ") {
            return Some(
                "this QEMU does not emulate SVM (AMD's virtualization): install Debian's \
                 qemu-system-x86 or build QEMU with TCG for x86_64, or name it with --qemu"
                    .into(),
            );
        }
        if line.contains("invalid accelerator tcg") {
            return Some(
                "this QEMU was built without TCG: install Debian's qemu-system-x86, or name \
                 another with --qemu"
                    .into(),
            );
        }
        if line.contains("cannot set up guest memory") || line.contains("Cannot allocate memory") {
            return Some(
                "this machine does not have enough free memory: choose less (--memory)".into(),
            );
        }
        if line.contains("unable to find CPU model") || line.contains("Property '") {
            return Some(format!("QEMU does not take this processor (--cpu): {line}"));
        }
    }
    None
}

/// QEMU's last message that is not a mere warning.
pub fn last_message(messages: &str) -> Option<String> {
    let told = |line: &&str| !line.trim().is_empty() && !line.contains("warning:");
    messages
        .lines()
        .rev()
        .find(told)
        .map(|line| line.trim().to_string())
}

#[cfg(test)]
#[path = "qemu_tests.rs"]
mod tests;
