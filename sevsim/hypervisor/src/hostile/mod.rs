// SPDX-License-Identifier: GPL-2.0
//! Hostile on purpose: replies and events at random, to be replayed by their number.
//!
//! The option `hostile=SEED[:RATE]` gives the guest a test port (not a device of the simulated
//! host), by which a program in it says *when*: it numbers its steps, and arms the host for each
//! one. What the host does in a step follows from seed and number alone, so `hostile=SEED:only=N`
//! repeats step N in a run in which all other steps are honest. RATE is the part of the steps, in
//! percent, in which the host is hostile.
//!
//! A real host has to guess when; nothing else here is beyond its power. A step attacks the exits
//! of user space or those of the kernel ([`reply`]), or injects an event ([`event`]).

pub mod boot;
pub mod event;
pub mod random;
pub mod reply;

use crate::atomic::{Bool, Word};
use random::Random;

/// Hostile replies within a step: an NMI has exits of its own, which bring further NMIs.
const MAX_PARTS: u64 = 16;

/// What the option says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Decides what is done.
    pub seed: u64,
    /// Hostile steps of a hundred.
    pub rate: u8,
    /// The only step that is hostile.
    pub only: Option<u32>,
}

impl Plan {
    /// Reads what follows `hostile=`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let mut plan = Self {
            seed: words.next()?.parse().ok()?,
            rate: 100,
            only: None,
        };
        for word in words {
            match word.strip_prefix("only=") {
                Some(number) => plan.only = Some(number.parse().ok()?),
                None => plan.rate = word.parse().ok().filter(|rate| (1..=100).contains(rate))?,
            }
        }
        Some(plan)
    }

    /// The random numbers of part `part` of a step; `None` if the host is honest in this step.
    fn random(&self, step: u32, part: u64) -> Option<Random> {
        if self.only.is_some_and(|only| only != step) {
            return None;
        }
        let mut random = Random::new(self.seed, step.into(), u64::MAX);
        let hostile = self.only.is_some() || random.below(100) < self.rate.into();
        hostile.then(|| Random::new(self.seed, step.into(), part))
    }
}

/// What a step attacks. The numbers are those of the test port, bits 31:28 of the word that arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Target {
    /// Nothing.
    Off = 0,
    /// Replies to exits that come from user mode: anything goes.
    User = 1,
    /// Replies to exits that come from the kernel: only what must make no difference.
    Kernel = 2,
    /// Replies to exits that come from the kernel: anything goes. It usually ends the guest.
    Deadly = 3,
    /// An event, before the next instruction in user mode.
    Event = 4,
    /// An event in the kernel, somewhere in what the test port's address begins.
    KernelEvent = 5,
    /// Replies to exits that come from user mode, changed again before each instruction of the
    /// handler that reads them.
    Rewrite = 6,
    /// The same for exits of the kernel.
    KernelRewrite = 7,
}

impl Target {
    fn of(number: u64) -> Self {
        match number {
            1 => Self::User,
            2 => Self::Kernel,
            3 => Self::Deadly,
            4 => Self::Event,
            5 => Self::KernelEvent,
            6 => Self::Rewrite,
            7 => Self::KernelRewrite,
            _ => Self::Off,
        }
    }
}

/// State of one vCPU.
#[derive(Default)]
pub struct Hostile {
    /// Step as the test port got it.
    armed: Word,
    /// Hostile acts of the step so far.
    parts: Word,
    /// Changes of a reply while it is read, in this step.
    rewritten: Word,
    /// What was done in this step (see [`reply`] and [`event`]).
    done: Word,
    /// Whether the last #VC was one to attack.
    aim: Bool,
    /// Whether the event is due.
    due: Bool,
    /// Hostile acts of the run.
    acts: Word,
    /// Steps of the run.
    steps: Word,
}

impl Hostile {
    /// Arms for a step: its number in bits 27:0, what it attacks in bits 31:28.
    pub fn arm(&self, word: u32) {
        self.armed.set(word.into());
        self.parts.set(0);
        self.rewritten.set(0);
        self.done.set(0);
        self.aim.set(false);
        self.due.set(false);
        if self.target() != Target::Off {
            self.steps.add(1);
        }
    }

    /// The event of the step is due.
    pub fn trigger(&self) {
        self.due.set(true);
    }

    /// What this step attacks.
    pub fn target(&self) -> Target {
        Target::of(self.armed.get() >> 28)
    }

    /// The step's number.
    pub fn step(&self) -> u32 {
        self.armed.get() as u32 & 0x0fff_ffff
    }

    /// What was done in this step.
    pub fn done(&self) -> u64 {
        self.done.get()
    }

    /// Hostile acts and steps of the run.
    pub fn counts(&self) -> (u64, u64) {
        (self.acts.get(), self.steps.get())
    }

    /// A #VC came, in user mode or in the kernel.
    pub fn exception(&self, user: bool) {
        let target = self.target();
        self.aim.set(match target {
            Target::User | Target::Rewrite => user,
            Target::Kernel | Target::Deadly | Target::KernelRewrite => !user,
            Target::Off | Target::Event | Target::KernelEvent => false,
        });
    }

    /// Random numbers for the next hostile act on an exit, if there is to be one, and its number
    /// within the step.
    pub fn attack(&self, plan: &Plan) -> Option<(Random, u64)> {
        if !self.aim.get() || self.rewrites() {
            return None;
        }
        let part = self.parts.get();
        if part == MAX_PARTS {
            return None;
        }
        self.parts.add(1);
        Some((plan.random(self.step(), part)?, part))
    }

    /// Random numbers for the event that is due, if one is. It is taken by that.
    pub fn inject(&self, plan: &Plan) -> Option<Random> {
        if self.target() != Target::Event || !self.due.get() {
            return None;
        }
        self.due.set(false);
        plan.random(self.step(), 0)
    }

    /// Random numbers for the event in the kernel of this step.
    pub fn kernel_event(&self, plan: &Plan) -> Option<Random> {
        if self.target() != Target::KernelEvent {
            return None;
        }
        plan.random(self.step(), 0)
    }

    /// Random numbers for a change of the reply that the guest is reading, if there is to be one
    /// now. Some steps have many, some about one.
    pub fn rewrite(&self, plan: &Plan) -> Option<Random> {
        if !self.rewrites() {
            return None;
        }
        self.rewritten.add(1);
        let rarity = plan
            .random(self.step(), MAX_PARTS)?
            .pick(&[1, 4, 16, 64, 128]);
        let mut random = plan.random(self.step(), MAX_PARTS + self.rewritten.get())?;
        random.one_in(rarity).then_some(random)
    }

    /// Whether the last #VC is one whose reply changes while it is read.
    pub fn rewrites(&self) -> bool {
        self.aim.get() && matches!(self.target(), Target::Rewrite | Target::KernelRewrite)
    }

    /// Notes what was done.
    pub fn did(&self, what: u64) {
        self.done.set(self.done.get() | what);
        self.acts.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let plan = |seed, rate, only| Some(Plan { seed, rate, only });
        assert_eq!(Plan::parse("7"), plan(7, 100, None));
        assert_eq!(Plan::parse("7:25"), plan(7, 25, None));
        assert_eq!(Plan::parse("7:only=12"), plan(7, 100, Some(12)));
        for bad in ["", "x", "7:", "7:0", "7:101", "7:only=", "7:only=x"] {
            assert_eq!(Plan::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_rate_holds_and_one_step_can_be_repeated() {
        let plan = Plan::parse("3:25").unwrap();
        let steps: Vec<_> = (0..4000)
            .filter_map(|n| plan.random(n, 0).map(|_| n))
            .collect();
        assert!((800..1200).contains(&steps.len()), "{}", steps.len());
        let only = Plan {
            only: Some(steps[7]),
            ..plan
        };
        let hostile: Vec<_> = (0..4000).filter(|n| only.random(*n, 0).is_some()).collect();
        assert_eq!(hostile, [steps[7]]);
        let mut first = plan.random(steps[7], 5).unwrap();
        let mut again = only.random(steps[7], 5).unwrap();
        assert_eq!(first.next(), again.next());
    }

    #[test]
    fn only_exits_from_where_the_step_aims() {
        let plan = Plan::parse("1").unwrap();
        let hostile = Hostile::default();
        hostile.exception(true);
        assert!(hostile.attack(&plan).is_none());
        for (target, user, kernel) in [(1, true, false), (2, false, true), (3, false, true)] {
            hostile.arm((target << 28) | 5);
            assert_eq!(hostile.step(), 5);
            assert!(hostile.attack(&plan).is_none(), "no #VC since");
            hostile.exception(true);
            assert_eq!(hostile.attack(&plan).is_some(), user);
            hostile.exception(false);
            assert_eq!(hostile.attack(&plan).is_some(), kernel);
            assert!(hostile.inject(&plan).is_none());
        }
        for (target, user, kernel) in [(6, true, false), (7, false, true)] {
            hostile.arm((target << 28) | 5);
            for (mode, wanted) in [(true, user), (false, kernel)] {
                hostile.exception(mode);
                assert!(hostile.attack(&plan).is_none(), "honest at first");
                let changes = (0..1000).filter_map(|_| hostile.rewrite(&plan)).count();
                assert_eq!(changes > 0, wanted);
            }
        }
        hostile.arm((5 << 28) | 5);
        assert!(hostile.kernel_event(&plan).is_some());
        hostile.arm((3 << 28) | 5);
        assert!(hostile.kernel_event(&plan).is_none());
        hostile.exception(false);
        let acts = (0..100).filter_map(|_| hostile.attack(&plan)).count();
        assert_eq!(acts as u64, MAX_PARTS, "a step comes to its end");
        hostile.arm((4 << 28) | 6);
        hostile.exception(true);
        assert!(hostile.attack(&plan).is_none());
        assert!(hostile.inject(&plan).is_none(), "not yet");
        hostile.trigger();
        assert!(hostile.inject(&plan).is_some());
        assert!(hostile.inject(&plan).is_none(), "once a step");
        assert_eq!(hostile.counts(), (0, 8));
    }
}
