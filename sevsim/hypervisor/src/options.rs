// SPDX-License-Identifier: GPL-2.0
//! sevsim's options: `key=value` words separated by blanks.

use core::fmt;

use crate::hostile::Plan;
use crate::lies::{Lie, MAX_LIES};

/// The most vCPUs that a VM can have.
pub const MAX_VCPUS: usize = 8;

/// The most guest RAM, in MiB: with its two backings and the host's own memory it must lie below
/// 510 GiB, which is what the host maps.
pub const MAX_MEM_MIB: u64 = 252 << 10;

/// Which local APIC interface the guest is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apic {
    /// xAPIC only: CPUID does not show x2APIC.
    Xapic,
    /// x2APIC is shown in CPUID; the guest still starts in xAPIC mode.
    X2apic,
}

/// Which events the machine intercepts and so turns into #VC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// What KVM intercepts for a SEV-ES guest.
    Default,
    /// Also RDTSC and RDTSCP, which KVM does not, so that each exit can be exercised.
    All,
}

/// Whether the GHCB is searched for what the hypervisor should not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakCheck {
    /// No.
    Off,
    /// What is found is reported.
    Report,
    /// And is an error of the run.
    On,
}

/// Whether exits are handled in an address space of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// No: everything is mapped all the time.
    Off,
    /// Yes; a fault inside ends the run.
    On,
    /// Yes; a fault inside is reported, and the exit goes on in the full address space.
    Report,
}

/// What the first exit that has a GHCB touches on purpose though it is not mapped, to show what
/// becomes of such a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Private memory of the guest.
    Private,
    /// Where the processor has just reached private memory.
    Window,
    /// Another vCPU's part.
    Sibling,
    /// Shared memory that the exit did not name.
    Shared,
    /// What belongs to the host as a whole.
    Host,
    /// A write to the hypervisor's code.
    Code,
}

/// How the guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The firmware runs, from the reset vector.
    Firmware,
    /// Without firmware, at the kernel's 64-bit entry.
    Raw,
}

/// Where the launch of a guest without firmware puts things; `None` leaves it the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// `kernel-at`: kernel image.
    pub kernel: Option<u64>,
    /// `params-at`: boot parameters.
    pub params: Option<u64>,
    /// `cmdline-at`: command line.
    pub command_line: Option<u64>,
    /// `initrd-at`: initramfs.
    pub initrd: Option<u64>,
    /// `rsdp-at`: ACPI root pointer; without it the kernel has to search the BIOS area.
    pub rsdp: Option<u64>,
}

/// The options of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `mem`: guest RAM in MiB.
    pub mem_mib: u64,
    /// `vcpus`: number of vCPUs, 1 to 8.
    pub vcpus: usize,
    /// `cbit`: position of the C-bit in page table entries, 39 to 51.
    pub cbit: u8,
    /// `ghcb`: the highest GHCB protocol version offered, 1 or 2.
    pub ghcb: u16,
    /// `apic`: local APIC interface offered.
    pub apic: Apic,
    /// `intercept`: set of intercepted events.
    pub intercept: Intercept,
    /// `reduction`: CPUID 0x8000001f's reduction of the physical address space in bits, 0 to 63.
    pub reduction: u8,
    /// `monitor`: whether CPUID shows MONITOR/MWAIT (`on` or `off`).
    pub monitor: bool,
    /// `tsc`: whether the guest's TSC stands still while the guest does not run (`guest`), so that
    /// it counts what the guest itself costs, or is that of the machine (`host`). One vCPU only.
    pub guest_tsc: bool,
    /// `nmi-test`: whether the guest finds the test port, by which it can ask for NMIs (`on`,
    /// `off`).
    pub nmi_test: bool,
    /// `nmi-between`: two virtual addresses of the guest, for a plan of NMIs at each instruction
    /// from the first one to the second one.
    pub nmi_between: Option<(u64, u64)>,
    /// `entry`: how the guest starts, `firmware` or `raw`.
    pub entry: Entry,
    /// `kernel-at` and so on: addresses for `entry=raw`.
    pub place: Place,
    /// `lie`: how the host deceives the guest, see `lies.rs`; may be given several times.
    pub lies: [Option<Lie>; MAX_LIES],
    /// `hostile`: replies and events at random, see `hostile/mod.rs`.
    pub hostile: Option<Plan>,
    /// `leak-check`: whether the GHCB is searched for leaks (`on`, `report` or `off`).
    pub leak_check: LeakCheck,
    /// `asi`: address space isolation (`on`, `report` or `off`).
    pub isolation: Isolation,
    /// `asi-touch`: a fault on purpose (`private`, `window`, `sibling`, `shared`,
    /// `host` or `code`).
    pub touch: Option<Touch>,
}

impl Default for Options {
    /// What a Milan host with a current KVM would offer.
    fn default() -> Self {
        Self {
            mem_mib: 512,
            vcpus: 1,
            cbit: 51,
            ghcb: 2,
            apic: Apic::Xapic,
            intercept: Intercept::Default,
            reduction: 5,
            monitor: false,
            guest_tsc: false,
            nmi_test: false,
            nmi_between: None,
            entry: Entry::Firmware,
            place: Place::default(),
            lies: [None; MAX_LIES],
            hostile: None,
            leak_check: LeakCheck::Off,
            isolation: Isolation::Off,
            touch: None,
        }
    }
}

/// Why a word of the option string was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError<'a> {
    /// The word is not of the form `key=value`.
    NotKeyValue(&'a str),
    /// No option has this name.
    UnknownKey(&'a str),
    /// The value does not fit the option; `expected` says what would.
    BadValue {
        /// The option's name.
        key: &'a str,
        /// What was given.
        value: &'a str,
        /// What is accepted.
        expected: &'static str,
    },
    /// An option that makes no sense without another one.
    Needs {
        /// The option's name.
        key: &'static str,
        /// What has to be there.
        what: &'static str,
    },
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotKeyValue(word) => {
                write!(f, "option `{word}` is not of the form key=value")
            }
            Self::UnknownKey(key) => write!(
                f,
                "unknown option `{key}`; known are mem, vcpus, cbit, ghcb, apic, intercept, \
                 reduction, monitor, nmi-test, nmi-between, entry, kernel-at, params-at, \
                 cmdline-at, initrd-at, rsdp-at, tsc, smm, lie, hostile, leak-check, asi and \
                 asi-touch"
            ),
            Self::BadValue {
                key,
                value,
                expected,
            } => {
                write!(f, "option {key}={value}: expected {expected}")
            }
            Self::Needs { key, what } => write!(f, "option {key} needs {what}"),
        }
    }
}

impl Options {
    /// Whether the guest finds a test port.
    pub fn test_port(&self) -> bool {
        self.nmi_test || self.hostile.is_some()
    }

    /// Reads an option string. A later word overrides an earlier one of the same name.
    pub fn parse(text: &str) -> Result<Self, OptionError<'_>> {
        let mut options = Self::default();
        for word in text.split_ascii_whitespace() {
            // The machine's: what the secure processor is told, no business of the host.
            if word.starts_with("launch-") {
                continue;
            }
            let (key, value) = word.split_once('=').ok_or(OptionError::NotKeyValue(word))?;
            options
                .set(key, value)
                .ok_or(OptionError::UnknownKey(key))?
                .map_err(|expected| OptionError::BadValue {
                    key,
                    value,
                    expected,
                })?;
        }
        options.check_touch()?;
        Ok(options)
    }

    /// A fault on purpose needs what it is to show.
    fn check_touch(&self) -> Result<(), OptionError<'static>> {
        let what = match self.touch {
            Some(_) if self.isolation == Isolation::Off => "asi=on or asi=report",
            Some(Touch::Sibling) if self.vcpus == 1 => "vcpus=2 or more to touch a sibling",
            _ => return Ok(()),
        };
        Err(OptionError::Needs {
            key: "asi-touch",
            what,
        })
    }

    /// Sets one option; `None` for an unknown key, an inner error says what would be accepted.
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), &'static str>> {
        let result = match key {
            "mem" => number(value, 64, MAX_MEM_MIB)
                .map(|n| self.mem_mib = n)
                .ok_or("MiB, from 64 to 258048 (252 GiB)"),
            "vcpus" => number(value, 1, MAX_VCPUS as u64)
                .map(|n| self.vcpus = n as usize)
                .ok_or("a number from 1 to 8"),
            "cbit" => number(value, 39, 51)
                .map(|n| self.cbit = n as u8)
                .ok_or("a bit position from 39 to 51"),
            "ghcb" => number(value, 1, 2)
                .map(|n| self.ghcb = n as u16)
                .ok_or("1 or 2"),
            "apic" => match value {
                "xapic" => Some(Apic::Xapic),
                "x2apic" => Some(Apic::X2apic),
                _ => None,
            }
            .map(|apic| self.apic = apic)
            .ok_or("xapic or x2apic"),
            "intercept" => match value {
                "default" => Some(Intercept::Default),
                "all" => Some(Intercept::All),
                _ => None,
            }
            .map(|intercept| self.intercept = intercept)
            .ok_or("default or all"),
            "reduction" => number(value, 0, 63)
                .map(|n| self.reduction = n as u8)
                .ok_or("a number of bits from 0 to 63"),
            "monitor" => match value {
                "on" => Some(true),
                "off" => Some(false),
                _ => None,
            }
            .map(|on| self.monitor = on)
            .ok_or("on or off"),
            "tsc" => match value {
                "guest" => Some(true),
                "host" => Some(false),
                _ => None,
            }
            .map(|guest| self.guest_tsc = guest)
            .ok_or("host or guest"),
            "nmi-test" => match value {
                "on" => Some(true),
                "off" => Some(false),
                _ => None,
            }
            .map(|on| self.nmi_test = on)
            .ok_or("on or off"),
            "nmi-between" => value
                .split_once(',')
                .and_then(|(from, to)| Some((address(from).ok()?, address(to).ok()?)))
                .map(|range| self.nmi_between = Some(range))
                .ok_or("two addresses such as 0xffffffff81000000,0xffffffff81000040"),
            "entry" => match value {
                "firmware" => Some(Entry::Firmware),
                "raw" => Some(Entry::Raw),
                _ => None,
            }
            .map(|entry| self.entry = entry)
            .ok_or("firmware or raw"),
            "kernel-at" => address(value).map(|at| self.place.kernel = Some(at)),
            "params-at" => address(value).map(|at| self.place.params = Some(at)),
            "cmdline-at" => address(value).map(|at| self.place.command_line = Some(at)),
            "initrd-at" => address(value).map(|at| self.place.initrd = Some(at)),
            "rsdp-at" => address(value).map(|at| self.place.rsdp = Some(at)),
            // KVM answers KVM_CAP_X86_SMM by "no" for such a VM, so that the VMM does not start
            // one.
            "smm" => match value {
                "off" => Ok(()),
                _ => Err(
                    "off: a SEV-ES guest has no system management mode, as its host cannot \
                          switch its registers",
                ),
            },
            "lie" => self.add_lie(value),
            "hostile" => Plan::parse(value)
                .map(|plan| self.hostile = Some(plan))
                .ok_or("SEED, SEED:RATE or SEED:only=STEP"),
            "leak-check" => match value {
                "on" => Some(LeakCheck::On),
                "report" => Some(LeakCheck::Report),
                "off" => Some(LeakCheck::Off),
                _ => None,
            }
            .map(|check| self.leak_check = check)
            .ok_or("on, report or off"),
            "asi" => match value {
                "on" => Some(Isolation::On),
                "report" => Some(Isolation::Report),
                "off" => Some(Isolation::Off),
                _ => None,
            }
            .map(|isolation| self.isolation = isolation)
            .ok_or("on, report or off"),
            "asi-touch" => match value {
                "private" => Some(Touch::Private),
                "window" => Some(Touch::Window),
                "sibling" => Some(Touch::Sibling),
                "shared" => Some(Touch::Shared),
                "host" => Some(Touch::Host),
                "code" => Some(Touch::Code),
                _ => None,
            }
            .map(|touch| self.touch = Some(touch))
            .ok_or("private, window, sibling, shared, host or code"),
            _ => return None,
        };
        Some(result)
    }

    fn add_lie(&mut self, text: &str) -> Result<(), &'static str> {
        let lie = Lie::parse(text).ok_or("a lie such as stage1:cpuid:0x8000001f:eax:clear:0x2")?;
        let slot = self.lies.iter_mut().find(|slot| slot.is_none());
        *slot.ok_or("four lies at most")? = Some(lie);
        Ok(())
    }
}

/// A decimal number within bounds.
fn number(text: &str, min: u64, max: u64) -> Option<u64> {
    text.parse().ok().filter(|n| (min..=max).contains(n))
}

/// A guest-physical address, in hexadecimal.
fn address(text: &str) -> Result<u64, &'static str> {
    let digits = text.strip_prefix("0x");
    digits
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or("an address such as 0x140000000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_string_gives_defaults() {
        assert_eq!(Options::parse("  "), Ok(Options::default()));
    }

    #[test]
    fn every_option_is_read() {
        let text = "mem=1024 vcpus=8 cbit=47 ghcb=1 apic=x2apic intercept=all reduction=1 \
                    monitor=on nmi-test=on nmi-between=0x10,0xffffffff81000000 tsc=guest \
                    entry=raw kernel-at=0x1000000 params-at=0x2000 cmdline-at=0x3000 \
                    initrd-at=0x140000000 rsdp-at=0x5000 lie=any:late-fault \
                    lie=stage2:vc:0x7c hostile=5:10 leak-check=on asi=report asi-touch=sibling";
        let want = Options {
            mem_mib: 1024,
            vcpus: 8,
            cbit: 47,
            ghcb: 1,
            apic: Apic::X2apic,
            intercept: Intercept::All,
            reduction: 1,
            monitor: true,
            guest_tsc: true,
            nmi_test: true,
            nmi_between: Some((0x10, 0xffff_ffff_8100_0000)),
            entry: Entry::Raw,
            place: Place {
                kernel: Some(0x100_0000),
                params: Some(0x2000),
                command_line: Some(0x3000),
                initrd: Some(0x1_4000_0000),
                rsdp: Some(0x5000),
            },
            lies: [
                Lie::parse("any:late-fault"),
                Lie::parse("stage2:vc:0x7c"),
                None,
                None,
            ],
            hostile: Plan::parse("5:10"),
            leak_check: LeakCheck::On,
            isolation: Isolation::Report,
            touch: Some(Touch::Sibling),
        };
        assert_eq!(Options::parse(text), Ok(want));
    }

    #[test]
    fn last_word_wins() {
        assert_eq!(Options::parse("vcpus=2 vcpus=4").unwrap().vcpus, 4);
    }

    #[test]
    fn bad_words_are_refused() {
        assert_eq!(Options::parse("mem"), Err(OptionError::NotKeyValue("mem")));
        assert_eq!(Options::parse("mum=5"), Err(OptionError::UnknownKey("mum")));
        for bad in [
            "mem=63",
            "mem=x",
            "mem=",
            "vcpus=0",
            "vcpus=9",
            "cbit=38",
            "cbit=52",
            "ghcb=0",
            "ghcb=3",
            "apic=x3apic",
            "intercept=some",
            "reduction=64",
            "monitor=1",
            "tsc=1",
            "nmi-test=1",
            "smm=on",
            "smm=",
            "nmi-between=0x1000",
            "nmi-between=0x1000,end",
            "mem=-64",
            "entry=bios",
            "kernel-at=1000",
            "rsdp-at=0x",
            "lie=any:truth",
            "hostile=x",
            "leak-check=1",
            "asi=1",
            "asi=yes",
            "asi=on asi-touch=all",
            "lie=any:vc:1 lie=any:vc:1 lie=any:vc:1 lie=any:vc:1 lie=any:vc:1",
        ] {
            assert!(
                matches!(Options::parse(bad), Err(OptionError::BadValue { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn system_management_mode_is_refused_for_the_vm() {
        assert_eq!(Options::parse("smm=off"), Ok(Options::default()));
        let text = Options::parse("smm=on").unwrap_err().to_string();
        assert!(
            text.contains("SEV-ES guest has no system management mode"),
            "{text}"
        );
    }

    #[test]
    fn words_of_the_launch_are_left_alone() {
        let text = "launch-tik=00 launch-policy=x mem=1024";
        assert_eq!(Options::parse(text).unwrap().mem_mib, 1024);
    }

    #[test]
    fn a_fault_on_purpose_needs_isolation() {
        let error = |text| Options::parse(text).unwrap_err().to_string();
        let want = "option asi-touch needs asi=on or asi=report";
        assert_eq!(error("asi-touch=private"), want);
        assert_eq!(error("asi=off asi-touch=private"), want);
        assert!(error("asi=on asi-touch=sibling").contains("vcpus=2"));
        assert!(Options::parse("asi-touch=sibling vcpus=2 asi=on").is_ok());
        assert!(Options::parse("asi=report asi-touch=private").is_ok());
    }

    #[test]
    fn errors_name_the_remedy() {
        let text = Options::parse("vcpus=9").unwrap_err().to_string();
        assert_eq!(text, "option vcpus=9: expected a number from 1 to 8");
        assert!(Options::parse("mem=258048").is_ok());
        let text = Options::parse("mem=258049").unwrap_err().to_string();
        assert!(text.contains("to 258048"));
        let text = Options::parse("cpus=9").unwrap_err().to_string();
        assert!(text.contains("unknown option `cpus`") && text.contains("vcpus"));
    }
}
