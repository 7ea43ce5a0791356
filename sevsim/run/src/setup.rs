// SPDX-License-Identifier: GPL-2.0
//! From the command line to a checked configuration. Every complaint says what to do.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use crate::cli::Apic;
use crate::cli::Cli;
use crate::cli::Entry;
use crate::cli::FIRMWARE;
use crate::ktap::KnownFailures;
use crate::measure;
use crate::symbols;
use crate::verdict::Expect;

/// The most vCPUs that sevsim knows.
pub const MAX_VCPUS: u32 = 8;
/// OVMF, a kernel and its initramfs need this much.
pub const MIN_MEMORY: u64 = 256;
/// The most that sevsim can map twice.
pub const MAX_MEMORY: u64 = 252 << 10;
/// RAM below 4 GiB is at most this much, as on the machine that the firmware knows.
pub const MAX_LOW_MEMORY: u64 = 2048;
/// Room for sevsim itself, its copies of kernel and initramfs, and its tables.
pub const HOST_MEMORY: u64 = 256;

/// A wrong option or a missing thing, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupError(pub String);

/// Everything about a run, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The command line that it was made from.
    pub cli: Cli,
    /// Words on the kernel's command line.
    pub cmdline: String,
    /// What counts as success.
    pub expect: Expect,
    /// Tests that may fail.
    pub known: KnownFailures,
    /// Seconds, 0 = never.
    pub timeout: u64,
    /// Seconds, 0 = never.
    pub idle_timeout: u64,
}

/// Memory sizes in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// RAM below 4 GiB.
    pub low: u64,
    /// What QEMU gets by `-m`.
    pub total: u64,
}

impl Memory {
    /// Sizes for a guest of `guest` MiB. Under sevsim the machine holds every guest page twice (its
    /// private and its shared backing), the nested tables that 8 vCPUs need if the guest shares all
    /// of its memory (8 bytes a page each), and sevsim.
    /// `files` MiB of kernel and initramfs are held on top.
    pub fn new(guest: u64, files: u64, plain: bool) -> Self {
        let total = if plain {
            guest
        } else {
            2 * guest + guest.div_ceil(64) + HOST_MEMORY + files
        };
        Self {
            low: guest.min(MAX_LOW_MEMORY),
            total,
        }
    }
}

/// Checks numbers against limits; `host` is the host's RAM in MiB.
pub fn check_numbers(cli: &Cli, host: u64) -> Result<(), SetupError> {
    let fail = |text: String| Err(SetupError(text));
    if cli.vcpus == 0 || cli.vcpus > MAX_VCPUS {
        return fail(format!(
            "{} vCPUs are not possible: choose 1 to {MAX_VCPUS} (--vcpus)",
            cli.vcpus
        ));
    }
    if cli.entry == Entry::Raw && !cli.plain && cli.vcpus > 1 {
        return fail(
            "without firmware nobody tells where other vCPUs start: choose --vcpus 1 with \
             --entry raw"
                .into(),
        );
    }
    if cli.count_instructions && cli.vcpus != 1 {
        return fail(format!(
            "instructions of {} vCPUs cannot be counted apart: choose --vcpus 1",
            cli.vcpus
        ));
    }
    if cli.count_instructions && cli.apic != Apic::Xapic {
        return fail("QEMU cannot count instructions with x2APIC: choose --apic xapic".into());
    }
    if cli.memory < MIN_MEMORY {
        return fail(format!(
            "{} MiB of memory are too few: firmware and kernel need at least {MIN_MEMORY} \
             (--memory)",
            cli.memory
        ));
    }
    let largest = if cli.plain {
        host
    } else {
        host.saturating_sub(HOST_MEMORY) / 2
    };
    if cli.memory > largest {
        let why = if cli.plain {
            ""
        } else {
            ", and sevsim holds the guest's memory twice"
        };
        return fail(format!(
            "{} MiB of memory are too many: this machine has {host} MiB{why}; choose at most \
             {largest} (--memory)",
            cli.memory
        ));
    }
    if !cli.plain && cli.memory > MAX_MEMORY {
        return fail(format!(
            "{} MiB of memory are too many: sevsim maps up to {MAX_MEMORY} MiB twice; choose at \
             most that (--memory)",
            cli.memory
        ));
    }
    if !(39..=51).contains(&cli.cbit) {
        return fail(format!(
            "the C-bit cannot be at bit {}: choose 39 to 51, 51 is that of EPYC (--cbit)",
            cli.cbit
        ));
    }
    if cli.reduction > 63 {
        return fail(format!(
            "reduction {} does not fit CPUID: choose 0 to 63",
            cli.reduction
        ));
    }
    if !(1..=2).contains(&cli.ghcb_version) {
        return fail(format!(
            "there is no GHCB protocol version {} here: choose 1 or 2 (--ghcb-version)",
            cli.ghcb_version
        ));
    }
    for option in &cli.options {
        let key_value = option.split_once('=').filter(|(key, value)| {
            !key.is_empty() && !value.is_empty() && !option.contains(char::is_whitespace)
        });
        if key_value.is_none() {
            return fail(format!(
                "--option takes KEY=VALUE without blanks, not '{option}'"
            ));
        }
    }
    Ok(())
}

/// Reads `--expect`.
pub fn parse_expect(text: Option<&str>, batch: bool) -> Result<Expect, SetupError> {
    match text {
        None if batch => Ok(Expect::Check),
        None | Some("poweroff") => Ok(Expect::PowerOff),
        Some("check") => Ok(Expect::Check),
        Some(other) => match other.split_once(':') {
            Some(("text", text)) if !text.is_empty() => Ok(Expect::Text(text.into())),
            Some(("terminate", reason)) => parse_reason(reason),
            _ => Err(()),
        }
        .map_err(|()| {
            SetupError(format!(
                "--expect takes check, poweroff, text:TEXT or terminate:SET:CODE, not '{other}'"
            ))
        }),
    }
}

fn parse_reason(text: &str) -> Result<Expect, ()> {
    let (set, code) = text.split_once(':').ok_or(())?;
    let number = |text: &str| text.parse().map_err(|_| ());
    Ok(Expect::Terminate {
        set: number(set)?,
        code: number(code)?,
    })
}

/// The kernel's command line.
pub fn compose_cmdline(cli: &Cli, expect: &Expect) -> String {
    let mut words = Vec::new();
    if !cli.bare_cmdline {
        words.push("console=ttyS0 panic=-1");
        // The board has one root bus. Without being told so, the kernel looks for more on all 256
        // bus numbers, by 8160 reads through ports: two #VC exceptions each.
        words.push("pci=lastbus=0");
        // Linux 7.3 can hang as it changes from jiffies to a better clock (sevsim/README.md).
        if cli.vcpus > 1 {
            words.push("tsc=nowatchdog");
        }
        if *expect == Expect::Check {
            words.push("sevsim.check");
        }
    }
    words.extend(cli.append.iter().map(String::as_str));
    words.join(" ")
}

/// Checks that `path` can be read and is a file that is not empty; `what` and `hint` go into the
/// message.
fn check_file(what: &str, path: &Path, hint: &str) -> Result<PathBuf, SetupError> {
    let complain = |why: String| {
        SetupError(format!(
            "cannot use {what} {}: {why}; {hint}",
            path.display()
        ))
    };
    let mut file = File::open(path).map_err(|error| complain(error.to_string()))?;
    let metadata = file
        .metadata()
        .map_err(|error| complain(error.to_string()))?;
    if metadata.is_dir() {
        return Err(complain("it is a folder".into()));
    }
    if file
        .read(&mut [0])
        .map_err(|error| complain(error.to_string()))?
        == 0
    {
        return Err(complain("it is empty".into()));
    }
    fs::canonicalize(path).map_err(|error| complain(error.to_string()))
}

/// Checks the first bytes of sevsim's image and of the kernel, so that a mix-up is told in words.
fn check_formats(cli: &Cli) -> Result<(), SetupError> {
    let head = |path: &Path| {
        let mut bytes = vec![0; 0x210];
        let count = File::open(path)
            .and_then(|mut file| file.read(&mut bytes))
            .unwrap_or(0);
        bytes.truncate(count);
        bytes
    };
    if !cli.plain {
        let bytes = head(&cli.sevsim);
        if bytes.get(..5) != Some(b"\x7fELF\x01") {
            return Err(SetupError(format!(
                "{} is not a 32-bit ELF image of sevsim: build it with 'make sevsim'",
                cli.sevsim.display()
            )));
        }
    }
    if let Some(kernel) = &cli.kernel {
        let bytes = head(kernel);
        if bytes.get(..2) != Some(b"MZ") {
            return Err(SetupError(format!(
                "{} is not a kernel that a UEFI firmware can start: give a bzImage or vmlinuz \
                 that was built with CONFIG_EFI_STUB",
                kernel.display()
            )));
        }
    }
    Ok(())
}

/// RAM of the host in MiB, as /proc/meminfo tells it.
pub fn host_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib / 1024)
}

/// Size of kernel and initramfs in MiB, rounded up.
pub fn file_sizes(cli: &Cli) -> u64 {
    let files = [&cli.kernel, &cli.initrd].into_iter().flatten();
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    files.map(size).sum::<u64>().div_ceil(1 << 20)
}

/// Makes the configuration, or says what is wrong.
pub fn configure(mut cli: Cli) -> Result<Config, SetupError> {
    // Another firmware may well be a guest of its own.
    let own_firmware = cli.firmware != Path::new(FIRMWARE);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    check_numbers(&cli, host_memory(&meminfo).unwrap_or(u64::MAX))?;
    let expect = parse_expect(cli.expect.as_deref(), cli.batch)?;

    if !cli.plain {
        let hint = "build it with 'make sevsim', or name it with --sevsim";
        cli.sevsim = check_file("sevsim's image", &cli.sevsim, hint)?;
    }
    if cli.entry == Entry::Firmware {
        let hint = "install the package ovmf, or name it with --firmware";
        cli.firmware = check_file("the firmware", &cli.firmware, hint)?;
    }
    if let Some(kernel) = &cli.kernel {
        let hint = "build one with 'make LLVM=1', or name another with --kernel";
        cli.kernel = Some(check_file("the kernel", kernel, hint)?);
    }
    if let Some(initrd) = &cli.initrd {
        let hint = "build one with scripts/initramfs, or name another with --initrd";
        cli.initrd = Some(check_file("the initramfs", initrd, hint)?);
    }
    if let Some(disk) = &cli.disk.clone() {
        cli.disk = Some(check_file(
            "the disk image",
            disk,
            "name another with --disk",
        )?);
        fs::OpenOptions::new()
            .write(true)
            .open(disk)
            .map_err(|error| {
                SetupError(format!(
                    "cannot write to the disk image {}: {error}; copy it first",
                    disk.display()
                ))
            })?;
    }
    if cli.kernel.is_none() && cli.disk.is_none() && !own_firmware {
        return Err(SetupError(
            "nothing to boot: give --kernel or --disk".into(),
        ));
    }
    check_formats(&cli)?;
    cli.launch.words = measure::words(&cli.launch, cli.kernel_hashes)?;

    if let Some(text) = &cli.nmi_between {
        let option = symbols::option(text, cli.vmlinux.as_deref())?;
        cli.options.extend(["nmi-test=on".into(), option]);
        // The symbols' addresses are those of a kernel that stays where it was linked to.
        cli.append.push("nokaslr".into());
    }

    let known = match &cli.known_failures {
        None => KnownFailures::default(),
        Some(path) => KnownFailures::parse(&fs::read_to_string(path).map_err(|error| {
            SetupError(format!("cannot read the list {}: {error}", path.display()))
        })?),
    };
    let cmdline = compose_cmdline(&cli, &expect);
    let by_mode = |batch, interactive| if cli.batch { batch } else { interactive };
    Ok(Config {
        timeout: cli.timeout.unwrap_or(by_mode(300, 0)),
        idle_timeout: cli.idle_timeout.unwrap_or(by_mode(60, 0)),
        cli,
        cmdline,
        expect,
        known,
    })
}

#[cfg(test)]
#[path = "setup_tests.rs"]
mod tests;
