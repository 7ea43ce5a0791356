// SPDX-License-Identifier: GPL-2.0
//! A plan: an NMI after each instruction of an exception handler, or of code between two addresses.
//!
//! The guest's test program arms the plan for one exit code, and repeats an instruction with this
//! exit until the plan is complete. From the delivery of the #VC on the handler is executed step by
//! step. Between two instructions - at a boundary - the plan may ask for an NMI; then the guest
//! runs freely until the NMI's handler returns. At the handler's own return the occurrence ends.
//!
//! With a stride of N there is an NMI at each Nth boundary, and N occurrences cover them all. With
//! a stride of 0 each occurrence has one NMI, so that nothing can hide behind another one. The
//! first occurrence has none, but its way is noted; the following ones run freely to a breakpoint
//! at the boundary that is next. So the effort for each boundary is one execution of the handler.
//!
//! In the handler of an NMI a further one is only noted, and the handler repeated for all of them.
//! So with a stride the first execution has no NMI but the one that it is for, and shows how long
//! the handler is; the following ones have NMIs up to that length, and in the repetition only
//! before instructions that had none yet.
//!
//! The plan also remembers the addresses of the instructions it stepped and those before which an
//! NMI came. If the handler does not take the same path each time, these sets differ, and
//! boundaries were missed.
//!
//! Code between two addresses is treated like a handler, which begins where the first address is
//! reached and ends at the second one.

mod instructions;
mod trace;

use instructions::Instructions;
use trace::Trace;

/// Exit code that stands for the NMI handler itself.
pub const NMI: u32 = 0x61;

/// Exit code that stands for the code between two addresses.
pub const BETWEEN: u32 = 0xffff;

/// Occurrences that could not be stepped to their end before the plan is given up.
const MAX_ABANDONED: u32 = 64;

/// Entries during one absence after which the interrupted code is taken for lost.
const MAX_AWAY: u32 = 1 << 20;

/// Occurrences that may pass by a boundary before the next one is tried.
const MAX_TRIES: u32 = 4;

/// Skipped boundaries whose places are kept.
const MAX_SKIPPED: usize = 8;

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Exit code.
    pub code: u32,
    /// From user mode.
    pub user: bool,
    /// From kernel mode.
    pub kernel: bool,
    /// Boundaries from one NMI to the next; 0: one NMI per occurrence.
    pub stride: u32,
}

impl Target {
    /// The target in a word of the test port: exit code in bits 15:0, user mode in bit 16, kernel
    /// mode in bit 17, stride in bits 31:20.
    pub fn from_word(word: u32) -> Self {
        Self {
            code: word & 0xffff,
            user: word & (1 << 16) != 0,
            kernel: word & (1 << 17) != 0,
            stride: word >> 20,
        }
    }

    /// Whether an NMI in the handler makes it run once more.
    fn repeats(&self) -> bool {
        self.code == NMI && self.stride != 0
    }

    fn level(&self, place: &Place) -> bool {
        if place.cpl == 3 {
            self.user
        } else {
            self.kernel
        }
    }
}

/// Where code was interrupted. Its stack tells it from what runs in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Privilege level.
    pub cpl: u8,
}

impl Place {
    fn same_stack(&self, other: &Self) -> bool {
        self.rsp == other.rsp && self.cpl == other.cpl
    }
}

/// How the guest is to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As ever.
    Free,
    /// For one instruction.
    Step,
    /// Freely, but for the IRET that leads back.
    Away,
    /// Freely up to breakpoints.
    Seek(Seek),
}

/// What to stop at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seek {
    /// Addresses; the second one is where the code ends.
    pub at: [Option<u64>; 2],
    /// Also at the IRET that leads back.
    pub iret: bool,
}

/// State of a plan, as the test port reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No plan.
    Idle = 0,
    /// There are boundaries left.
    Running = 1,
    /// All boundaries had their NMI.
    Done = 2,
    /// The handler could not be stepped.
    Failed = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for the exit.
    Waiting,
    /// In the handler, step by step.
    Stepping,
    /// In the handler, on the way to a boundary that has been met so many times; whether the guest
    /// is at the breakpoint and has to be brought past it.
    Seeking(u32, bool),
    /// In the handler of an event that interrupted it at a place; whether this was an NMI.
    Away(Place, bool),
}

/// The plan.
pub struct Sweep {
    target: Option<Target>,
    /// The addresses for [`BETWEEN`].
    range: Option<(u64, u64)>,
    status: Status,
    state: State,
    /// The instruction whose exits count: the first one that was seen.
    origin: Option<u64>,
    /// Where the exit was.
    place: Place,
    /// Instructions of this occurrence so far.
    at: u32,
    /// Whether the boundary is a new one.
    fresh: bool,
    /// The boundary for the next NMI, with stride 0.
    next: usize,
    /// Occurrences that passed by it.
    tries: u32,
    /// Instructions of the first execution, without NMIs; 0: not known yet.
    length: u32,
    away: u32,
    counts: Counts,
    /// The first places that were skipped.
    skipped: [Skipped; MAX_SKIPPED],
    seen: Instructions,
    trace: Trace,
}

/// A boundary that only the first execution came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Instruction behind it.
    pub rip: u64,
    /// The how manieth time it was met there, from 1.
    pub visit: u32,
    /// The how manieth boundary of that execution it was, from 0.
    pub at: u32,
}

/// The counters of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Executions of the handler.
    pub occurrences: u32,
    /// Those not followed to their end.
    pub abandoned: u32,
    /// Boundaries of the longest execution.
    pub boundaries: u32,
    /// NMIs asked for.
    pub nmis: u32,
    /// Boundaries at which NMIs are masked.
    pub masked: u32,
    /// Boundaries that no later execution came to.
    pub skipped: u32,
    /// Different instructions of the handler.
    pub instructions: u32,
    /// Those before which an NMI came, or could not for it was masked.
    pub covered: u32,
}

impl Sweep {
    /// No plan.
    pub const fn new() -> Self {
        Self {
            target: None,
            range: None,
            status: Status::Idle,
            state: State::Waiting,
            origin: None,
            place: Place {
                rip: 0,
                rsp: 0,
                cpl: 0,
            },
            at: 0,
            fresh: false,
            next: 0,
            tries: 0,
            length: 0,
            away: 0,
            counts: Counts {
                occurrences: 0,
                abandoned: 0,
                boundaries: 0,
                nmis: 0,
                masked: 0,
                skipped: 0,
                instructions: 0,
                covered: 0,
            },
            skipped: [Skipped {
                rip: 0,
                visit: 0,
                at: 0,
            }; MAX_SKIPPED],
            seen: Instructions::new(),
            trace: Trace::new(),
        }
    }

    /// Begins a plan. `range` has the addresses for [`BETWEEN`].
    pub fn arm(&mut self, target: Target, range: Option<(u64, u64)>) {
        self.disarm();
        self.target = Some(target);
        self.range = range.filter(|_| target.code == BETWEEN);
        self.status = Status::Running;
        self.origin = None;
        self.next = 0;
        self.tries = 0;
        self.length = 0;
        self.counts = Counts::default();
        self.seen.clear();
        self.trace.clear();
        if target.code == BETWEEN && self.range.is_none() {
            self.fail();
        }
    }

    /// Ends a plan; the counters stay.
    pub fn disarm(&mut self) {
        self.target = None;
        self.status = Status::Idle;
        self.state = State::Waiting;
    }

    /// State of the plan.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        Counts {
            instructions: self.seen.count,
            covered: self.seen.covered,
            ..self.counts
        }
    }

    /// The first boundaries that no later execution came to, to find out why.
    pub fn skipped(&self) -> &[Skipped] {
        let count = usize::try_from(self.counts.skipped).unwrap_or(MAX_SKIPPED);
        &self.skipped[..count.min(MAX_SKIPPED)]
    }

    /// An exception or NMI is delivered to the guest, which was at `place`.
    pub fn delivered(&mut self, code: u32, place: Place) {
        if !self.wants(code, &place) {
            return;
        }
        if code != NMI {
            self.origin = Some(place.rip);
        }
        self.begin(place);
    }

    fn begin(&mut self, place: Place) {
        let one_each = self.target.is_some_and(|target| target.stride == 0);
        self.state = if one_each && self.length != 0 {
            State::Seeking(0, false)
        } else {
            State::Stepping
        };
        self.place = place;
        self.at = 0;
        self.away = 0;
        self.fresh = true;
        self.seen.begin();
    }

    /// Whether the plan steps the handler of this event.
    pub fn wants(&self, code: u32, place: &Place) -> bool {
        let Some(target) = self.target else {
            return false;
        };
        let same = code == NMI || self.origin.is_none_or(|origin| origin == place.rip);
        self.status == Status::Running
            && self.state == State::Waiting
            && target.code == code
            && target.level(place)
            && same
    }

    /// Whether interrupts have to wait: in the code between two addresses they may be on.
    pub fn holds_interrupts(&self) -> bool {
        self.range.is_some() && matches!(self.state, State::Stepping | State::Seeking(..))
    }

    /// How to enter the guest.
    pub fn mode(&self) -> Mode {
        match self.state {
            State::Waiting => match self.range {
                Some((from, _)) if self.status == Status::Running => Mode::Seek(Seek {
                    at: [Some(from), None],
                    iret: false,
                }),
                _ => Mode::Free,
            },
            State::Stepping | State::Seeking(_, true) => Mode::Step,
            State::Seeking(_, false) => Mode::Seek(Seek {
                at: [
                    Some(self.trace.place(self.next).0),
                    self.range.map(|range| range.1),
                ],
                iret: self.range.is_none(),
            }),
            State::Away(..) => Mode::Away,
        }
    }

    /// The guest is at a breakpoint of [`Mode::Seek`].
    pub fn reached(&mut self, place: Place) {
        match self.state {
            State::Waiting => match self.target {
                Some(target) if target.level(&place) => self.begin(place),
                // Not the level that is wanted: there is no way past the breakpoint but to give up.
                _ => self.fail(),
            },
            State::Seeking(met, false) => self.met(met + 1, &place),
            _ => (),
        }
    }

    /// An IRET of [`Mode::Seek`] has been executed that does not lead back. With `RFLAGS.RF`, as a
    /// handler leaves it that emulates an instruction without the end of it, the breakpoint does
    /// not stop the guest at the instruction that it leads to (APM vol. 2, 13.1.1.2).
    pub fn landed(&mut self, place: Place, resume: bool) {
        let sought = matches!(self.mode(), Mode::Seek(seek) if seek.at.contains(&Some(place.rip)));
        if resume && sought {
            self.reached(place);
        }
    }

    /// The guest is where the next NMI is to come, for the so manieth time, or at the end.
    fn met(&mut self, times: u32, place: &Place) {
        let (rip, visit) = self.trace.place(self.next);
        if rip != place.rip {
            self.missed();
        } else if times == visit {
            self.state = State::Stepping;
            self.fresh = true;
        } else {
            self.state = State::Seeking(times, true);
        }
    }

    /// Whether to inject an NMI before the instruction at `rip`. `open`: NMIs are not masked.
    pub fn nmi_due(&mut self, rip: u64, open: bool) -> bool {
        let Some(target) = self.target else {
            return false;
        };
        if self.state != State::Stepping || !core::mem::take(&mut self.fresh) {
            return false;
        }
        if target.repeats() && self.length != 0 && self.at >= self.length {
            // The repetition, but for the handler's end, to which it comes only now.
            let late = open && self.seen.uncovered(rip);
            if let (true, Some(slot)) = (late, self.seen.slot(rip)) {
                self.seen.cover(slot);
                self.counts.nmis += 1;
            }
            return late;
        }
        let Some(slot) = self.seen.slot(rip) else {
            self.fail();
            return false;
        };
        let due = match target.stride {
            0 if self.length == 0 => {
                if !self.trace.push(rip, open) {
                    self.fail();
                }
                if !open {
                    // As good as covered: no NMI can come.
                    self.seen.cover(slot);
                    self.counts.masked += 1;
                }
                return false;
            }
            0 => true,
            _ if target.repeats() && self.length == 0 => false,
            stride => self.at % stride == self.counts.occurrences % stride,
        };
        if due && open {
            self.seen.cover(slot);
            self.counts.nmis += 1;
        } else if target.stride == 0 {
            self.missed();
        } else if !open {
            self.seen.cover(slot);
            self.counts.masked += u32::from(due);
        }
        due && open
    }

    /// An event is injected, its handler runs freely. `nmi`: it is an NMI.
    pub fn leaves(&mut self, place: Place, nmi: bool) {
        if self.state != State::Stepping {
            return;
        }
        if nmi && self.target.is_some_and(|target| target.stride == 0) {
            // The rest of this occurrence is of no interest.
            self.next += 1;
            self.tries = 0;
            return self.finish();
        }
        self.away = 0;
        self.state = State::Away(place, nmi);
    }

    /// Whether an IRET to `to` leads back.
    pub fn leads_back(&mut self, to: &Place) -> bool {
        self.away += 1;
        if self.away > MAX_AWAY {
            self.abandon();
            return false;
        }
        match self.state {
            State::Away(place, _) => place.same_stack(to),
            State::Seeking(..) => to.cpl == 3 || self.place.same_stack(to),
            _ => false,
        }
    }

    /// That IRET has been executed.
    pub fn is_back(&mut self) {
        match self.state {
            State::Away(_, nmi) => {
                self.state = State::Stepping;
                if !nmi {
                    self.at += 1;
                    self.fresh = true;
                }
            }
            State::Seeking(..) => self.missed(),
            _ => (),
        }
    }

    /// An instruction of the handler has been executed; `returned`: it is an IRET.
    pub fn stepped(&mut self, now: &Place, returned: bool) {
        let returned = returned && (now.cpl == 3 || self.place.same_stack(now));
        let ended = match self.range {
            Some((_, to)) => now.rip == to,
            None => returned,
        };
        match self.state {
            State::Seeking(..) if ended => self.missed(),
            // The next round of a string instruction, at which a breakpoint does not stop.
            State::Seeking(met, _) if now.rip == self.trace.place(self.next).0 => {
                self.met(met + 1, now);
            }
            State::Seeking(met, _) => self.state = State::Seeking(met, false),
            State::Stepping => {
                self.at += 1;
                self.fresh = true;
                if !ended {
                    return;
                }
                if self.length == 0 || !self.target.is_some_and(|target| target.repeats()) {
                    self.counts.boundaries = self.counts.boundaries.max(self.at);
                    self.length = self.counts.boundaries;
                }
                self.finish();
            }
            _ => (),
        }
    }

    /// The handler cannot be followed to its end.
    pub fn abandon(&mut self) {
        if self.state == State::Waiting {
            return;
        }
        self.state = State::Waiting;
        self.seen.forget();
        if self.length == 0 {
            self.trace.clear();
        }
        self.counts.abandoned += 1;
        if self.counts.abandoned >= MAX_ABANDONED {
            self.fail();
        }
    }

    /// This execution ended, or went another way, before it came to the boundary.
    fn missed(&mut self) {
        self.tries += 1;
        if self.tries == MAX_TRIES {
            let (rip, visit) = self.trace.place(self.next);
            let at = self.next as u32;
            let free = self.skipped.get_mut(self.counts.skipped as usize);
            if let Some(free) = free {
                *free = Skipped { rip, visit, at };
            }
            self.counts.skipped += 1;
            self.next += 1;
            self.tries = 0;
        }
        self.finish();
    }

    fn fail(&mut self) {
        self.status = Status::Failed;
        self.state = State::Waiting;
    }

    fn finish(&mut self) {
        self.state = State::Waiting;
        self.counts.occurrences += 1;
        let Some(target) = self.target else {
            return;
        };
        let done = match target.stride {
            0 => match self.trace.open_from(self.next) {
                Some(next) => {
                    self.next = next;
                    false
                }
                None => true,
            },
            // Some more, if the path differs from time to time.
            stride => {
                let all = self.seen.covered == self.seen.count;
                let passes = self.counts.occurrences - u32::from(target.repeats());
                passes >= stride && all || passes >= 4 * stride
            }
        };
        if done {
            self.status = Status::Done;
        }
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
