// SPDX-License-Identifier: GPL-2.0
//! The boots: a covering set, not the full product of all settings.
//!
//! Each value of each setting (handler, number of vCPUs, APIC mode, position of the C-bit, GHCB
//! version, intercepts, way to boot) occurs with Rust, and every pair that can meaningfully
//! interact occurs at least once: more than one vCPU with each APIC mode, GHCB version 1 with AP
//! start, all intercepts with more than one vCPU. C is the reference and gets fewer.

use std::path::Path;
use std::path::PathBuf;

/// Where a case's kernel comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Built with `CONFIG_AMD_SEV_ES_RUST=y`.
    Rust,
    /// Built without it.
    C,
    /// Debian's package, untouched.
    Debian,
}

impl Kernel {
    /// Both handlers of the same tree, for cases that are run with each.
    pub const BOTH: [Self; 2] = [Self::Rust, Self::C];

    /// As it appears in the names of cases and files.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Rust => "rust",
            Kernel::C => "c",
            Kernel::Debian => "debian",
        }
    }

    /// Its image below the build folder.
    pub fn image(self, build: &Path) -> Option<PathBuf> {
        let image = |variant: &str| build.join(variant).join("arch/x86/boot/bzImage");
        match self {
            Kernel::Rust => Some(image("kernel-rust")),
            Kernel::C => Some(image("kernel-c")),
            Kernel::Debian => newest_debian(&build.join("debian/boot")),
        }
    }

    /// Lists of tests that are known to fail, below `tests/known`; Rust has none.
    pub fn known_failures(self) -> &'static [&'static str] {
        match self {
            Kernel::Rust => &[],
            Kernel::C => &["c", "c-debug"],
            Kernel::Debian => &["c", "debian"],
        }
    }
}

fn newest_debian(folder: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let is_image = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
    };
    names.filter(is_image).max()
}

/// How the guest is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// SEV-ES guest, kernel and initramfs handed over by sevsim.
    Direct,
    /// SEV-ES guest, kernel on a disk's EFI system partition.
    Disk,
    /// No sevsim, not encrypted.
    Plain,
    /// Not a kernel but sevsim's own guest, which checks the machine.
    Probe,
}

/// One boot.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the test.
    pub name: &'static str,
    /// Kernel.
    pub kernel: Kernel,
    /// Way to boot.
    pub way: Way,
    /// Arguments for sevsim-run.
    pub args: &'static str,
    /// What must be on the console besides a good check.
    pub wants: &'static [&'static str],
    /// The kernel runs the series' KUnit suites first.
    pub kunit: bool,
}

impl Case {
    fn with_kunit(self) -> Case {
        Case {
            kunit: true,
            ..self
        }
    }
}

/// A host that fills the upper halves of registers, and gives #VCs of CPUID other exit codes; and
/// the tests that show it.
const LIES: &str = "--vcpus 1 --intercept all --option lie=runtime:upper:0xdeadbeef \
    --option lie=runtime:cpuid-vc:0x5e500051:0x51 --option lie=runtime:cpuid-vc:0x5e50007c:0x7c \
    --append sevsim.check=made_up,cpuid_,rdtsc,port_in,kernel_log";

/// The same for C, whose kernel comes to no user space if registers hold more than they should.
const LIES_FOR_C: &str = "--vcpus 1 --option lie=runtime:cpuid-vc:0x5e500051:0x51 \
    --option lie=runtime:cpuid-vc:0x5e50007c:0x7c --append sevsim.check=made_up,cpuid_,kernel_log";

const ACTIVE: &str = "protection: Memory Encryption Features active: AMD SEV SEV-ES";
const BY_RUST: &str = "handler: SEV-ES: #VC handler: Rust";
const BY_C: &str = "handler: #VC handler: C";
const PLAIN: &str = "protection: none: not an encrypted guest";

/// All boots.
pub fn cases() -> Vec<Case> {
    let case = |name, kernel, way, args| Case {
        name,
        kernel,
        way,
        args,
        wants: match (kernel, way) {
            (_, Way::Plain) => &[PLAIN],
            (_, Way::Probe) => &[],
            (Kernel::Rust, _) => &[ACTIVE, BY_RUST],
            _ => &[ACTIVE, BY_C],
        },
        kunit: false,
    };
    use Kernel::*;
    use Way::*;
    vec![
        case("probe", Rust, Probe, "--vcpus 1 --expect terminate:2:0"),
        case(
            "probe-intercept-all",
            Rust,
            Probe,
            "--vcpus 1 --intercept all --expect terminate:2:0",
        ),
        // Set 3: the NMI window was checked as well.
        case(
            "probe-nmi",
            Rust,
            Probe,
            "--vcpus 1 --option nmi-test=on --expect terminate:3:0",
        ),
        case("rust-1cpu-xapic", Rust, Direct, "--vcpus 1 --apic xapic"),
        case("rust-2cpu-x2apic", Rust, Direct, "--vcpus 2 --apic x2apic").with_kunit(),
        case("rust-8cpu-x2apic", Rust, Direct, "--vcpus 8 --apic x2apic"),
        case(
            "rust-2cpu-xapic-cbit47",
            Rust,
            Direct,
            "--vcpus 2 --apic xapic --cbit 47",
        ),
        case(
            "rust-2cpu-ghcb1-4gib",
            Rust,
            Direct,
            "--vcpus 2 --ghcb-version 1 --memory 4096",
        ),
        case(
            "rust-2cpu-intercept-all",
            Rust,
            Direct,
            "--vcpus 2 --intercept all",
        ),
        // The page of the AP jump table is not in the kernel's own memory map.
        case(
            "rust-2cpu-exactmap",
            Rust,
            Direct,
            "--vcpus 2 --append memmap=exactmap,512K@0,900M@1M",
        ),
        case("rust-lies", Rust, Direct, LIES),
        case("rust-disk", Rust, Disk, "--vcpus 1"),
        case("rust-plain", Rust, Plain, "--vcpus 2").with_kunit(),
        case(
            "c-1cpu-xapic-cbit47",
            C,
            Direct,
            "--vcpus 1 --apic xapic --cbit 47",
        ),
        case("c-2cpu-x2apic", C, Direct, "--vcpus 2 --apic x2apic"),
        case("c-8cpu-xapic", C, Direct, "--vcpus 8 --apic xapic"),
        case("c-lies", C, Direct, LIES_FOR_C),
        case("c-plain", C, Plain, "--vcpus 2"),
        case("debian-2cpu", Debian, Direct, "--vcpus 2"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_set_covers_each_value() {
        let cases = cases();
        let with = |kernel, words: &str| {
            cases.iter().any(|case| {
                case.kernel == kernel && words.split('+').all(|word| case.args.contains(word))
            })
        };
        for kernel in Kernel::BOTH {
            for value in [
                "--vcpus 1",
                "--vcpus 2",
                "--vcpus 8",
                "xapic",
                "x2apic",
                "--cbit 47",
            ] {
                assert!(with(kernel, value), "{kernel:?} without {value}");
            }
            assert!(cases
                .iter()
                .any(|case| case.kernel == kernel && case.way == Way::Plain));
        }
        assert!(with(Kernel::Rust, "--ghcb-version 1"));
        assert!(with(Kernel::Rust, "--intercept all"));
        assert!(with(Kernel::Debian, "--vcpus 2"));
        for plain in [false, true] {
            assert!(cases
                .iter()
                .any(|case| case.kunit && (case.way == Way::Plain) == plain));
        }
    }
}
