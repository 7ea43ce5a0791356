// SPDX-License-Identifier: GPL-2.0
//! The command line.

use std::path::PathBuf;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use machine::launch::options;
use machine::launch::policy::Policy;
use machine::launch::vmsa::Fpu;
use machine::launch::Firmware;

/// The firmware of Debian's package ovmf.
pub const FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";

/// Local APIC interface offered to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Apic {
    /// xAPIC only
    Xapic,
    /// x2APIC as well
    X2apic,
}

/// Which instructions and events the hypervisor intercepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Intercept {
    /// What KVM intercepts for a SEV-ES guest
    Default,
    /// Everything that can become a #VC
    All,
}

/// How the kernel is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Entry {
    /// By the UEFI firmware, as an EFI application
    Firmware,
    /// Without firmware: sevsim puts it into memory and starts it at its 64-bit entry. With
    /// --plain: by QEMU's BIOS, at its 32-bit entry
    Raw,
}

const AFTER_HELP: &str = "\
Exit status:
    0  success: the guest did what was expected and powered off
    2  wrong usage, or something needed is missing
    3  the guest powered off, but the check failed or did not run
    4  the guest's kernel panicked
    5  the guest asked to be terminated (GHCB protocol); reason set and code are shown
    6  the guest's processor shut down (triple fault)
    7  hang: no console output and no progress for --idle-timeout seconds
    8  --timeout seconds were over
    9  QEMU or sevsim failed
   10  the guest reset its machine
  130  stopped by the user

On a terminal all keys go to the guest; Ctrl-A is the runner's: Ctrl-A x ends the guest,
Ctrl-A Ctrl-A (or Ctrl-A a) sends Ctrl-A, Ctrl-A h shows this help.

Example: a SEV-ES guest with two vCPUs that runs the check and powers off
    sevsim-run --batch --sevsim build/sevsim/sevsim.elf32 --kernel bzImage \\
        --initrd build/initramfs.cpio.gz --vcpus 2";

/// What the guest's owner and the secure processor agree on.
#[derive(Clone, Debug, Args)]
pub struct Launch {
    /// Guest policy: bit 0 forbids debugging, bit 2 demands SEV-ES and has to be set, bits 23:16
    /// and 31:24 are the least SEV API version (major, minor)
    #[arg(long, value_name = "BITS", default_value = "0x4", value_parser = policy)]
    pub policy: Policy,

    /// The owner's transport integrity key (16 bytes): the launch is measured, and digest and
    /// measurement are printed at the end
    #[arg(long, value_name = "FILE")]
    pub tik: Option<PathBuf>,

    /// The measurement's nonce in hexadecimal, in place of a random one
    #[arg(long, value_name = "HEX", value_parser = nonce, requires = "tik")]
    pub nonce: Option<Bytes>,

    /// Version of the secure processor's firmware
    #[arg(
        long,
        value_name = "MAJOR.MINOR.BUILD",
        default_value = "1.55.21",
        value_parser = firmware
    )]
    pub sev_firmware: Firmware,

    /// FPU in the vCPUs' initial state: reset (KVM since 6.10), or zero (before)
    #[arg(long, value_name = "STATE", default_value = "reset", value_parser = fpu)]
    pub initial_fpu: Fpu,

    /// The above as sevsim's words
    #[arg(skip)]
    pub words: String,
}

/// 16 bytes.
pub type Bytes = u128;

fn policy(text: &str) -> Result<Policy, String> {
    let hint = "give bits such as 0x5; 6 to 15 are reserved";
    options::policy(text).ok_or_else(|| hint.into())
}

fn nonce(text: &str) -> Result<Bytes, String> {
    let bytes = options::hex(text).map(u128::from_be_bytes);
    bytes.ok_or_else(|| "give 32 hexadecimal digits".into())
}

fn firmware(text: &str) -> Result<Firmware, String> {
    options::firmware(text).ok_or_else(|| "give three numbers such as 1.55.21".into())
}

fn fpu(text: &str) -> Result<Fpu, String> {
    Fpu::parse(text).ok_or_else(|| "it is reset or zero".into())
}

/// What else there is to do than to start a guest.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Compute the digest of a launch, as its guest's owner does, and its measurement
    Measure(Measure),
}

/// What `sevsim-run measure` needs to know.
#[derive(Clone, Debug, Args)]
pub struct Measure {
    /// The guest's firmware
    #[arg(long, value_name = "FILE", default_value = FIRMWARE)]
    pub firmware: PathBuf,

    /// Number of virtual processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub vcpus: usize,

    /// Processor: EAX of CPUID leaf 1, by default that of QEMU's EPYC-Milan
    #[arg(long, value_name = "NUMBER", default_value = "0xa00f11", value_parser = signature)]
    pub signature: u32,

    /// Kernel; with it the hashes of kernel, initramfs and command line are measured
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Initramfs
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,

    /// The kernel's whole command line
    #[arg(
        long,
        value_name = "LINE",
        requires = "kernel",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub append: String,

    /// Write the save areas to vmsa0.bin, vmsa1.bin ... in this folder
    #[arg(long, value_name = "DIR")]
    pub dump_vmsa: Option<PathBuf>,

    /// What owner and secure processor agree on
    #[command(flatten)]
    pub launch: Launch,
}

fn signature(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "give a number such as 0xa00f11".into())
}

/// Start a guest in QEMU under sevsim, show its console and tell how it ended.
#[derive(Clone, Debug, Parser)]
#[command(name = "sevsim-run", version, after_help = AFTER_HELP, args_override_self = true)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Something else than to start a guest
    #[command(subcommand)]
    pub command: Option<Command>,

    /// sevsim's image (32-bit ELF, multiboot)
    #[arg(long, value_name = "FILE", default_value = "build/sevsim/sevsim.elf32")]
    pub sevsim: PathBuf,

    /// Run the guest without sevsim, as a plain (not encrypted) guest of the same QEMU
    #[arg(long)]
    pub plain: bool,

    /// The guest's firmware
    #[arg(long, value_name = "FILE", default_value = FIRMWARE)]
    pub firmware: PathBuf,

    /// Kernel that the firmware boots (bzImage with EFI stub); without it the firmware boots
    /// the disk, or is all there is to run
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// How the kernel is started
    #[arg(long, value_enum, default_value_t = Entry::Firmware, requires_if("raw", "kernel"))]
    pub entry: Entry,

    /// Initramfs for the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,

    /// Words added to the kernel's command line
    #[arg(
        long,
        value_name = "WORDS",
        requires = "kernel",
        allow_hyphen_values = true
    )]
    pub append: Vec<String>,

    /// Do not put the runner's own words (console=ttyS0 panic=-1 pci=lastbus=0, tsc=nowatchdog with
    /// several vCPUs, and sevsim.check with --batch) on the kernel's command line
    #[arg(long)]
    pub bare_cmdline: bool,

    /// Disk image (raw), attached by AHCI; the guest may write to it
    #[arg(long, value_name = "FILE")]
    pub disk: Option<PathBuf>,

    /// Number of virtual processors, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub vcpus: u32,

    /// The guest's memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub memory: u64,

    /// Position of the C-bit in page table entries, 39 to 51
    #[arg(long, value_name = "BIT", default_value_t = 51)]
    pub cbit: u32,

    /// Reduction of the physical address width that CPUID reports, in bits
    #[arg(long, value_name = "BITS", default_value_t = 5)]
    pub reduction: u32,

    /// Highest GHCB protocol version offered to the guest, 1 or 2
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub ghcb_version: u32,

    /// Local APIC interface
    #[arg(long, value_enum, default_value_t = Apic::X2apic)]
    pub apic: Apic,

    /// What is intercepted
    #[arg(long, value_enum, default_value_t = Intercept::Default)]
    pub intercept: Intercept,

    /// Count instructions: the TSC counts those that the guest executes, not what the host does
    /// for it. Needs --vcpus 1 and --apic xapic; slow
    #[arg(long)]
    pub count_instructions: bool,

    /// What owner and secure processor agree on
    #[command(flatten)]
    pub launch: Launch,

    /// Let the firmware check kernel, initramfs and command line by hashes that are measured with
    /// it. Needs a firmware that was built for it
    #[arg(long, requires = "kernel")]
    pub kernel_hashes: bool,

    /// For a test of NMIs at each instruction: the guest's code from the first address to the
    /// second one, each a SYMBOL, SYMBOL+0xOFFSET or 0xADDRESS. The kernel is not relocated then
    #[arg(long, value_name = "FROM,TO", conflicts_with = "plain")]
    pub nmi_between: Option<String>,

    /// The kernel's ELF file, with the symbols for --nmi-between
    #[arg(long, value_name = "FILE")]
    pub vmlinux: Option<PathBuf>,

    /// Further option for sevsim (KEY=VALUE)
    #[arg(long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,

    /// Without a terminal: run the check, power off, tell the result by the exit status
    #[arg(long)]
    pub batch: bool,

    /// What counts as success: check, poweroff, text:TEXT (TEXT on the console, then power-off), or
    /// terminate:SET:CODE (the guest asks to be terminated, for this reason).
    /// Default: check with --batch, else poweroff
    #[arg(long, value_name = "WHAT")]
    pub expect: Option<String>,

    /// List of tests that are known to fail with this kernel, one name per line
    #[arg(long, value_name = "FILE")]
    pub known_failures: Option<PathBuf>,

    /// End after this many seconds, not counting those in which QEMU had no processor, 0 = never.
    /// Default: 300 with --batch, else 0
    #[arg(long, value_name = "S")]
    pub timeout: Option<u64>,

    /// End after this many seconds without a sign of life, not counting those in which QEMU had
    /// no processor, 0 = never. Default: 60 with --batch, else 0
    #[arg(long, value_name = "S")]
    pub idle_timeout: Option<u64>,

    /// Folder for console.log, sevsim.log, qemu.log, machine.log and qemu-command
    #[arg(long, value_name = "DIR", default_value = "build/logs/run")]
    pub log_dir: PathBuf,

    /// Also write the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Do not show the console, nor the report
    #[arg(long, short)]
    pub quiet: bool,

    /// QEMU
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,

    /// Processor that QEMU emulates, in place of the default
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,

    /// Further argument for QEMU, taken as it is
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_args: Vec<String>,
}
