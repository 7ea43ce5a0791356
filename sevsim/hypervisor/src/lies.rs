// SPDX-License-Identifier: GPL-2.0
//! Lies: a host that deceives its guest on purpose, so that the guest's defences can be tested.
//!
//! A lie is an option `lie=STAGE:WHAT`, and up to [`MAX_LIES`] of them make a hostile host out of
//! an honest one. STAGE is the stage of the guest's boot in which the lie is told, or `any`. A real
//! host learns the stage from the page faults and exits that it sees; here the machine tells it.
//!
//! | WHAT | what happens |
//! |---|---|
//! | `cpuid:LEAF:REGISTER:put:VALUE` | a register (`eax` to `edx`) of a CPUID leaf holds VALUE |
//! | `cpuid:LEAF:REGISTER:clear:VALUE` | these bits of it are 0 |
//! | `cpuid:LEAF:REGISTER:set:VALUE` | these bits of it are 1 |
//! | `versions:MIN:MAX` | the protocol versions offered |
//! | `msr-reply:VALUE` | every reply by the MSR protocol but that to SEV_INFO is VALUE |
//! | `response:VALUE`, `response:VALUE:N` | SW_EXITINFO1 is VALUE from the first or Nth reply on |
//! | `upper:VALUE` | the upper halves of RAX to RDX in every reply are VALUE |
//! | `jump-table:ADDRESS` | the AP jump table is said to be at ADDRESS, 0 for nowhere |
//! | `vc:CODE`, `vc:CODE:N` | the first or Nth #VC of the stage has CODE as its error code |
//! | `cpuid-vc:LEAF:CODE` | the #VC of CPUID with this leaf has CODE as its error code |
//! | `nmi`, `nmi:N` | an NMI comes right behind the first or Nth #VC of the stage |
//! | `late-vc:CODE` | a #VC comes where the stage gives its IDT up, the GHCB being shut down |
//! | `late-fault` | a page fault on the GHCB's page comes there |
//! | `hold:at-once`, `hold:never` | an AP reset hold ends at once as if by SIPI, or never |
//! | `sipi`, `sipi:N` | INIT and SIPI reach all vCPUs at the first or every Nth reply |
//! | `init:N` | and reset the local APIC of the vCPU of the Nth reply |
//! | `swap:N` | at every Nth reply the GHCB's page changes places with another vCPU's |
//! | `tsc-back:CYCLES:N` | the TSC goes back by so much at every Nth #VC |
//! | `sev-status:VALUE` | RDMSR of SEV_STATUS is intercepted, and gives VALUE |
//! | `random:SEED:N` | one of the first N #VCs or replies is spoiled (see `hostile::boot`) |
//! | `random-cpuid:SEED:N` | one of the first N CPUIDs of the stage is wrong |
//!
//! All but the page fault are within a hypervisor's power, which can inject #VC as well. Here the
//! #VCs and the page fault need the machine. They stand for all that leads the guest to the same
//! place: an injected event, an intercept that no host is known to set, a page of code that became
//! a device.

use crate::atomic::Word;
use crate::hostile::boot;
use crate::hostile::boot::Act;
use crate::hostile::random::Random;

/// The most lies of a run.
pub const MAX_LIES: usize = 4;

/// Stages of the guest's boot, told apart by the IDT in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Firmware and EFI stub.
    Firmware,
    /// Decompressor before it moves itself: CPUID by the MSR protocol.
    Stage1,
    /// Decompressor with its own page tables and GHCB.
    Stage2,
    /// The kernel at its physical address, before relocation.
    Startup,
    /// The kernel until the final IDT.
    Early,
    /// Afterwards.
    Runtime,
}

impl Stage {
    /// All stages, each at its own index.
    pub const ALL: [Self; 6] = [
        Self::Firmware,
        Self::Stage1,
        Self::Stage2,
        Self::Startup,
        Self::Early,
        Self::Runtime,
    ];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Firmware => "firmware",
            Self::Stage1 => "stage1",
            Self::Stage2 => "stage2",
            Self::Startup => "startup",
            Self::Early => "early",
            Self::Runtime => "runtime",
        }
    }

    /// The stage of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// A change of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// All of it.
    Put(u32),
    /// Bits that become 0.
    Clear(u32),
    /// Bits that become 1.
    Set(u32),
}

impl Change {
    fn apply(self, value: u32) -> u32 {
        match self {
            Self::Put(new) => new,
            Self::Clear(bits) => value & !bits,
            Self::Set(bits) => value | bits,
        }
    }
}

/// What is lied about; see the module for the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Result of CPUID.
    Cpuid {
        /// Leaf.
        leaf: u32,
        /// Register, EAX first.
        register: usize,
        /// Change.
        change: Change,
    },
    /// Protocol versions.
    Versions {
        /// Lowest.
        min: u16,
        /// Highest.
        max: u16,
    },
    /// Reply by the MSR protocol.
    MsrReply(u64),
    /// SW_EXITINFO1 of a reply.
    Response {
        /// SW_EXITINFO1.
        value: u64,
        /// The first reply of the stage that has it, from 1.
        from: u64,
    },
    /// Upper halves of the general registers in a reply.
    Upper(u32),
    /// Address of the AP jump table.
    JumpTable(u64),
    /// Error code of a #VC.
    Vc {
        /// Error code.
        code: u32,
        /// Which #VC of the stage, from 1.
        nth: u64,
    },
    /// Error code of the #VC of a CPUID.
    CpuidVc {
        /// Leaf.
        leaf: u32,
        /// Error code.
        code: u32,
    },
    /// An NMI, right behind a #VC.
    Nmi {
        /// Which #VC of the stage, from 1.
        nth: u64,
    },
    /// #VC after the GHCB's shutdown.
    LateVc(u32),
    /// Fault on the GHCB's page after its shutdown.
    LateFault,
    /// Whether AP reset holds end at once, or never.
    Hold {
        /// At once.
        at_once: bool,
    },
    /// INIT and SIPI for all vCPUs.
    Sipi {
        /// At every so many replies.
        every: u64,
    },
    /// INIT and SIPI, and a local APIC that is reset.
    Init {
        /// Which reply of the stage, from 1.
        nth: u64,
    },
    /// GHCBs change places.
    Swap {
        /// At every so many replies.
        every: u64,
    },
    /// The TSC goes back.
    TscBack {
        /// How much.
        cycles: u64,
        /// At every so many #VCs.
        every: u64,
    },
    /// Value of SEV_STATUS.
    SevStatus(u64),
    /// One act at random.
    Random {
        /// Decides what, and when.
        seed: u64,
        /// Within so many #VCs or replies of the stage.
        within: u64,
    },
    /// A wrong register of CPUID.
    RandomCpuid {
        /// Decides which, and when.
        seed: u64,
        /// Within so many CPUIDs of the stage.
        within: u64,
    },
}

impl What {
    /// Its word.
    fn name(self) -> &'static str {
        match self {
            Self::Cpuid { .. } => "cpuid",
            Self::Versions { .. } => "versions",
            Self::MsrReply(_) => "msr-reply",
            Self::Response { .. } => "response",
            Self::Upper(_) => "upper",
            Self::JumpTable(_) => "jump-table",
            Self::Vc { .. } => "vc",
            Self::CpuidVc { .. } => "cpuid-vc",
            Self::Nmi { .. } => "nmi",
            Self::LateVc(_) => "late-vc",
            Self::LateFault => "late-fault",
            Self::Hold { .. } => "hold",
            Self::Sipi { .. } => "sipi",
            Self::Init { .. } => "init",
            Self::Swap { .. } => "swap",
            Self::TscBack { .. } => "tsc-back",
            Self::SevStatus(_) => "sev-status",
            Self::Random { .. } => "random",
            Self::RandomCpuid { .. } => "random-cpuid",
        }
    }
}

/// What is done to a reply.
pub enum Deed {
    /// INIT and SIPI for all vCPUs.
    Sipi,
    /// The same, and the local APIC is reset.
    Init,
    /// The page changes places with that of another vCPU.
    Swap,
    /// It is spoiled.
    Spoil(Random),
}

/// One lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lie {
    /// When; `None` is always.
    pub stage: Option<Stage>,
    /// What about.
    pub what: What,
}

/// A decimal or hexadecimal number.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn number32(text: &str) -> Option<u32> {
    number(text)?.try_into().ok()
}

/// Which of several, from 1; the first if nothing is said.
fn ordinal(text: Option<&str>) -> Option<u64> {
    match text {
        Some(text) => number(text).filter(|nth| *nth != 0),
        None => Some(1),
    }
}

impl Lie {
    /// Reads what follows `lie=`.
    pub fn parse(text: &str) -> Option<Self> {
        let (stage, what) = text.split_once(':')?;
        let stage = match stage {
            "any" => None,
            name => Some(Stage::from_name(name)?),
        };
        let mut words = what.split(':');
        let what = match words.next()? {
            "cpuid" => What::Cpuid {
                leaf: number32(words.next()?)?,
                register: {
                    let name = words.next()?;
                    let names = ["eax", "ebx", "ecx", "edx"];
                    names.into_iter().position(|known| known == name)?
                },
                change: {
                    let operation = words.next()?;
                    let value = number32(words.next()?)?;
                    match operation {
                        "put" => Change::Put(value),
                        "clear" => Change::Clear(value),
                        "set" => Change::Set(value),
                        _ => return None,
                    }
                },
            },
            "versions" => What::Versions {
                min: number(words.next()?)?.try_into().ok()?,
                max: number(words.next()?)?.try_into().ok()?,
            },
            "msr-reply" => What::MsrReply(number(words.next()?)?),
            "response" => What::Response {
                value: number(words.next()?)?,
                from: ordinal(words.next())?,
            },
            "upper" => What::Upper(number32(words.next()?)?),
            "cpuid-vc" => What::CpuidVc {
                leaf: number32(words.next()?)?,
                code: number32(words.next()?)?,
            },
            "jump-table" => What::JumpTable(number(words.next()?)?),
            "vc" => What::Vc {
                code: number32(words.next()?)?,
                nth: ordinal(words.next())?,
            },
            "nmi" => What::Nmi {
                nth: ordinal(words.next())?,
            },
            "late-vc" => What::LateVc(number32(words.next()?)?),
            "late-fault" => What::LateFault,
            "hold" => What::Hold {
                at_once: match words.next()? {
                    "at-once" => true,
                    "never" => false,
                    _ => return None,
                },
            },
            "sipi" => What::Sipi {
                every: ordinal(words.next())?,
            },
            "init" => What::Init {
                nth: ordinal(words.next())?,
            },
            "swap" => What::Swap {
                every: ordinal(words.next())?,
            },
            "tsc-back" => What::TscBack {
                cycles: number(words.next()?)?,
                every: ordinal(words.next())?,
            },
            "sev-status" => What::SevStatus(number(words.next()?)?),
            "random" => What::Random {
                seed: number(words.next()?)?,
                within: ordinal(words.next())?,
            },
            "random-cpuid" => What::RandomCpuid {
                seed: number(words.next()?)?,
                within: ordinal(words.next())?,
            },
            _ => return None,
        };
        words.next().is_none().then_some(Self { stage, what })
    }
}

/// The lies of a run, and how often each was told.
#[derive(Default)]
pub struct Lies {
    list: [Option<Lie>; MAX_LIES],
    told: [Word; MAX_LIES],
    /// Replies that each lie about them could have been told in.
    replies: [Word; MAX_LIES],
}

impl Lies {
    /// Starts with no lie told.
    pub fn new(list: [Option<Lie>; MAX_LIES]) -> Self {
        Self {
            list,
            ..Self::default()
        }
    }

    /// The first result of `pick` for the lies of a stage. What is picked counts as told.
    fn tell<T>(&self, stage: Stage, pick: impl Fn(What) -> Option<T>) -> Option<T> {
        // They are put into the list one behind the other, and most runs have none.
        for (lie, told) in self.list.iter().zip(&self.told) {
            let lie = (*lie)?;
            if lie.stage.is_some_and(|wanted| wanted != stage) {
                continue;
            }
            if let Some(found) = pick(lie.what) {
                told.add(1);
                return Some(found);
            }
        }
        None
    }

    /// Changes the result of CPUID.
    pub fn cpuid(&self, stage: Stage, leaf: u32, registers: &mut [u32; 4]) {
        for ((lie, told), replies) in self.list.iter().zip(&self.told).zip(&self.replies) {
            let Some(lie) = lie else {
                return;
            };
            let now = lie.stage.is_none_or(|wanted| wanted == stage);
            match lie.what {
                What::Cpuid {
                    leaf: about,
                    register,
                    change,
                } if now && about == leaf => {
                    registers[register] = change.apply(registers[register]);
                    told.add(1);
                }
                What::RandomCpuid { seed, within } if now => {
                    replies.add(1);
                    if let Some((register, value)) = boot::cpuid(seed, stage, within, replies.get())
                    {
                        registers[register] = value;
                        told.add(1);
                    }
                }
                _ => {}
            }
        }
    }

    /// The versions to offer, lowest and highest.
    pub fn versions(&self, stage: Stage) -> Option<(u16, u16)> {
        self.tell(stage, |what| match what {
            What::Versions { min, max } => Some((min, max)),
            _ => None,
        })
    }

    /// The reply to give by the MSR protocol.
    pub fn msr_reply(&self, stage: Stage) -> Option<u64> {
        self.tell(stage, |what| match what {
            What::MsrReply(value) => Some(value),
            _ => None,
        })
    }

    /// SW_EXITINFO1 to give. Called once for each reply.
    pub fn response(&self, stage: Stage) -> Option<u64> {
        for (index, lie) in self.list.iter().enumerate() {
            let lie = (*lie)?;
            let now = lie.stage.is_none_or(|wanted| wanted == stage);
            if let (What::Response { value, from }, true) = (lie.what, now) {
                self.replies[index].add(1);
                if self.replies[index].get() >= from {
                    self.told[index].add(1);
                    return Some(value);
                }
            }
        }
        None
    }

    /// The upper halves of the general registers to give.
    pub fn upper(&self, stage: Stage) -> Option<u64> {
        self.tell(stage, |what| match what {
            What::Upper(value) => Some(u64::from(value) << 32),
            _ => None,
        })
    }

    /// The error code of the #VC of a CPUID with this leaf.
    pub fn cpuid_vc(&self, stage: Stage, about: u32) -> Option<u32> {
        self.tell(stage, |what| match what {
            What::CpuidVc { leaf, code } if leaf == about => Some(code),
            _ => None,
        })
    }

    /// The address to give for the AP jump table.
    pub fn jump_table(&self, stage: Stage) -> Option<u64> {
        self.tell(stage, |what| match what {
            What::JumpTable(address) => Some(address),
            _ => None,
        })
    }

    /// The error code of the stage's `nth` #VC.
    pub fn vc(&self, stage: Stage, nth: u64) -> Option<u32> {
        self.tell(stage, |what| match what {
            What::Vc { code, nth: wanted } if wanted == nth => Some(code),
            What::Random { seed, within } => match boot::act(seed, stage, within, nth) {
                Some((Act::Vc(code), _)) => Some(code),
                _ => None,
            },
            _ => None,
        })
    }

    /// Whether an NMI comes with the stage's `nth` #VC.
    pub fn nmi(&self, stage: Stage, nth: u64) -> bool {
        let due = |what| match what {
            What::Random { seed, within } => {
                matches!(boot::act(seed, stage, within, nth), Some((Act::Nmi, _)))
            }
            what => what == What::Nmi { nth },
        };
        self.tell(stage, |what| due(what).then_some(())).is_some()
    }

    /// Whether there is any lie.
    pub fn any(&self) -> bool {
        self.list[0].is_some()
    }

    /// Whether an AP reset hold ends at once, or never; `None` if it ends as it should.
    pub fn hold(&self, stage: Stage) -> Option<bool> {
        self.tell(stage, |what| match what {
            What::Hold { at_once } => Some(at_once),
            _ => None,
        })
    }

    /// By how much the TSC goes back at the stage's `nth` #VC.
    pub fn tsc_back(&self, stage: Stage, nth: u64) -> Option<u64> {
        self.tell(stage, |what| match what {
            What::TscBack { cycles, every } if nth % every == 0 => Some(cycles),
            _ => None,
        })
    }

    /// The value of SEV_STATUS. Asked by the machine and by the hypervisor: `count` of one of them.
    pub fn sev_status(&self, stage: Stage) -> Option<u64> {
        self.tell(stage, |what| match what {
            What::SevStatus(value) => Some(value),
            _ => None,
        })
    }

    /// What is done to a reply besides its fields. Called once for each reply, with a GHCB or by
    /// the MSR protocol; calls `each` for what is due.
    pub fn reply(&self, stage: Stage, mut each: impl FnMut(Deed)) {
        for ((lie, told), replies) in self.list.iter().zip(&self.told).zip(&self.replies) {
            let Some(lie) = lie.filter(|lie| lie.stage.is_none_or(|wanted| wanted == stage)) else {
                continue;
            };
            let due: fn(u64, u64) -> bool = |nth, every| nth % every == 0;
            // Others count by themselves.
            if let What::Sipi { .. } | What::Init { .. } | What::Swap { .. } | What::Random { .. } =
                lie.what
            {
                replies.add(1);
            }
            let nth = replies.get();
            let deed = match lie.what {
                What::Sipi { every } if due(nth, every) => Deed::Sipi,
                What::Init { nth: wanted } if nth == wanted => Deed::Init,
                What::Swap { every } if due(nth, every) => Deed::Swap,
                What::Random { seed, within } => match boot::act(seed, stage, within, nth) {
                    Some((Act::Reply, random)) => Deed::Spoil(random),
                    _ => continue,
                },
                _ => continue,
            };
            told.add(1);
            each(deed);
        }
    }

    /// What happens where the stage gives its IDT up, once.
    pub fn late(&self, stage: Stage) -> Option<What> {
        let before = |what| {
            let same = |lie: &Option<Lie>| lie.is_some_and(|lie| lie.what == what);
            let index = self.list.iter().position(same);
            index.is_some_and(|index| self.told[index].get() != 0)
        };
        self.tell(stage, |what| match what {
            What::LateVc(_) | What::LateFault if !before(what) => Some(what),
            _ => None,
        })
    }

    /// Whether [`Lies::late`] may ever give something, so that the machine has to watch the IDTR.
    pub fn watches_idt(&self) -> bool {
        let late = |lie: &Lie| matches!(lie.what, What::LateVc(_) | What::LateFault);
        self.list.iter().flatten().any(late)
    }

    /// Word and count of each lie.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counted = self.list.iter().zip(&self.told);
        counted.filter_map(|(lie, told)| Some(((*lie)?.what.name(), told.get())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lies(texts: &[&str]) -> Lies {
        let mut list = [None; MAX_LIES];
        for (slot, text) in list.iter_mut().zip(texts) {
            *slot = Some(Lie::parse(text).unwrap());
        }
        Lies::new(list)
    }

    #[test]
    fn every_word_is_read() {
        let read = |text| Lie::parse(text).unwrap();
        let lie = read("stage1:cpuid:0x8000001f:eax:clear:2");
        assert_eq!(lie.stage, Some(Stage::Stage1));
        let what = What::Cpuid {
            leaf: 0x8000_001f,
            register: 0,
            change: Change::Clear(2),
        };
        assert_eq!(lie.what, what);
        assert_eq!(read("any:late-fault").stage, None);
        assert_eq!(read("any:versions:3:4").what.name(), "versions");
        assert_eq!(read("early:msr-reply:0xfff").what, What::MsrReply(0xfff));
        let response = |from| What::Response { value: 2, from };
        assert_eq!(read("runtime:response:2").what, response(1));
        assert_eq!(read("runtime:response:2:9").what, response(9));
        assert_eq!(read("runtime:upper:7").what, What::Upper(7));
        let cpuid = What::CpuidVc {
            leaf: 0x5e50_0051,
            code: 0x51,
        };
        assert_eq!(read("runtime:cpuid-vc:0x5e500051:0x51").what, cpuid);
        let table = What::JumpTable(0xfe00_0000);
        assert_eq!(read("runtime:jump-table:0xfe000000").what, table);
        let vc = |nth| What::Vc { code: 0x7c, nth };
        assert_eq!(read("stage2:vc:0x7c").what, vc(1));
        assert_eq!(read("stage2:vc:0x7c:5").what, vc(5));
        assert_eq!(read("stage2:late-vc:0x6e").what, What::LateVc(0x6e));
        assert_eq!(
            read("runtime:hold:never").what,
            What::Hold { at_once: false }
        );
        assert_eq!(
            read("runtime:hold:at-once").what,
            What::Hold { at_once: true }
        );
        assert_eq!(read("any:sipi:9").what, What::Sipi { every: 9 });
        assert_eq!(read("any:init:9").what, What::Init { nth: 9 });
        assert_eq!(read("any:swap").what, What::Swap { every: 1 });
        let (cycles, every) = (1000, 7);
        assert_eq!(
            read("early:tsc-back:1000:7").what,
            What::TscBack { cycles, every }
        );
        assert_eq!(read("any:sev-status:0").what, What::SevStatus(0));
        let (seed, within) = (3, 40);
        assert_eq!(read("any:random:3:40").what, What::Random { seed, within });
        assert_eq!(
            read("any:random-cpuid:3:40").what,
            What::RandomCpuid { seed, within }
        );
    }

    #[test]
    fn bad_words_are_refused() {
        for text in [
            "",
            "stage1",
            "stage3:late-fault",
            "any:cpuid:1:efx:put:0",
            "any:cpuid:1:eax:xor:0",
            "any:cpuid:0x100000000:eax:put:0",
            "any:cpuid:1:eax:put",
            "any:versions:1",
            "any:versions:1:65536",
            "any:jump-table",
            "any:jump-table:none",
            "any:vc:1:0",
            "any:response:1:0",
            "any:upper:0x100000000",
            "any:cpuid-vc:1",
            "any:vc:x",
            "any:nmi:0",
            "any:late-fault:1",
            "any:hold",
            "any:hold:late",
            "any:swap:0",
            "any:tsc-back",
            "any:sev-status",
            "any:random",
            "any:random:1:0",
            "any:truth",
        ] {
            assert_eq!(Lie::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_lie_is_told_in_its_stage_only() {
        let lies = lies(&["stage1:versions:3:4", "any:msr-reply:7"]);
        assert_eq!(lies.versions(Stage::Stage2), None);
        assert_eq!(lies.versions(Stage::Stage1), Some((3, 4)));
        assert_eq!(lies.msr_reply(Stage::Runtime), Some(7));
        assert_eq!(lies.response(Stage::Stage1), None);
        let counts: Vec<_> = lies.counts().collect();
        assert_eq!(counts, [("versions", 1), ("msr-reply", 1)]);
    }

    #[test]
    fn a_response_begins_with_the_nth_reply() {
        let lies = lies(&["early:response:2:3", "any:upper:0xabc"]);
        let replies = |stage| [(); 4].map(|()| lies.response(stage));
        assert_eq!(replies(Stage::Stage2), [None; 4]);
        assert_eq!(replies(Stage::Early), [None, None, Some(2), Some(2)]);
        assert_eq!(lies.upper(Stage::Early), Some(0xabc_0000_0000));
        let counts: Vec<_> = lies.counts().collect();
        assert_eq!(counts, [("response", 2), ("upper", 1)]);
    }

    #[test]
    fn replies_are_counted_for_each_lie() {
        let lies = lies(&[
            "early:sipi:3",
            "early:init:4",
            "any:swap:2",
            "early:random:1:1",
        ]);
        let deeds = |stage| {
            let mut text = String::new();
            lies.reply(stage, |deed| {
                text.push(match deed {
                    Deed::Sipi => 's',
                    Deed::Init => 'i',
                    Deed::Swap => 'w',
                    Deed::Spoil(_) => 'r',
                });
            });
            text.replace('r', "")
        };
        assert_eq!(deeds(Stage::Runtime), "");
        let five = [(); 5].map(|()| deeds(Stage::Early));
        assert_eq!(five, ["w", "", "sw", "i", "w"]);
    }

    #[test]
    fn holds_and_times() {
        let lies = lies(&[
            "runtime:hold:at-once",
            "any:tsc-back:50:4",
            "any:sev-status:7",
        ]);
        assert_eq!(lies.hold(Stage::Early), None);
        assert_eq!(lies.hold(Stage::Runtime), Some(true));
        assert_eq!(lies.tsc_back(Stage::Early, 3), None);
        assert_eq!(lies.tsc_back(Stage::Early, 8), Some(50));
        assert_eq!(lies.sev_status(Stage::Stage1), Some(7));
        assert!(lies.any() && !self::lies(&[]).any());
    }

    #[test]
    fn one_cpuid_of_the_stage_is_wrong() {
        let lies = lies(&["early:random-cpuid:5:20"]);
        let wrong = (0..40)
            .filter(|_| {
                let mut registers = [0x1234_5678; 4];
                lies.cpuid(Stage::Early, 1, &mut registers);
                registers != [0x1234_5678; 4]
            })
            .count();
        assert_eq!(wrong, 1);
    }

    #[test]
    fn a_cpuid_is_known_by_its_leaf() {
        let lies = lies(&["runtime:cpuid-vc:7:0x51"]);
        assert_eq!(lies.cpuid_vc(Stage::Runtime, 7), Some(0x51));
        assert_eq!(lies.cpuid_vc(Stage::Runtime, 8), None);
        assert_eq!(lies.cpuid_vc(Stage::Early, 7), None);
    }

    #[test]
    fn all_lies_about_a_leaf_are_told() {
        let lies = lies(&[
            "any:cpuid:1:eax:put:0xff",
            "stage2:cpuid:1:ecx:clear:0x40000000",
            "stage2:cpuid:1:eax:set:0x100",
        ]);
        let told = |stage, leaf| {
            let mut registers = [u32::MAX; 4];
            lies.cpuid(stage, leaf, &mut registers);
            registers
        };
        assert_eq!(told(Stage::Stage1, 2), [u32::MAX; 4]);
        assert_eq!(told(Stage::Stage1, 1)[0], 0xff);
        assert_eq!(
            told(Stage::Stage2, 1),
            [0x1ff, u32::MAX, 0xbfff_ffff, u32::MAX]
        );
    }

    #[test]
    fn events_come_once() {
        let lies = lies(&[
            "stage2:vc:0x7c:3",
            "stage2:late-vc:0x6e",
            "any:late-fault",
            "stage2:nmi:4",
        ]);
        assert!(lies.watches_idt());
        assert_eq!(lies.vc(Stage::Stage2, 2), None);
        assert_eq!(lies.vc(Stage::Stage2, 3), Some(0x7c));
        assert!(!lies.nmi(Stage::Stage2, 3) && !lies.nmi(Stage::Stage1, 4));
        assert!(lies.nmi(Stage::Stage2, 4));
        assert_eq!(lies.late(Stage::Stage2), Some(What::LateVc(0x6e)));
        assert_eq!(lies.late(Stage::Stage2), Some(What::LateFault));
        assert_eq!(lies.late(Stage::Stage2), None);
        assert!(!self::lies(&["any:vc:1"]).watches_idt());
    }
}
