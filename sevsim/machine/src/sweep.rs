// SPDX-License-Identifier: GPL-2.0
//! A plan: an NMI after each instruction of an exception handler.
//!
//! The guest's test program arms the plan for one exit code, and repeats an instruction with this
//! exit until the plan is complete. From the delivery of the #VC on the handler is executed step by
//! step. Between two instructions - at a boundary - the plan may ask for an NMI; then the guest
//! runs freely until the NMI's handler returns. At the handler's own return the occurrence ends.
//!
//! With a stride of 0 each occurrence has one NMI, one boundary later than the last one: nothing
//! can hide behind another NMI, but the effort grows with the square of the handler's length. With
//! a stride of N there is one at each Nth boundary, and N occurrences cover them all.
//!
//! In the handler of an NMI a further one is only noted, and the handler repeated for all of them. So
//! the first execution has no NMI but the one that it is for, and shows how long the handler is; the
//! following ones have NMIs up to that length, and in the repetition only before instructions that
//! had none yet.
//!
//! The plan also remembers the addresses of the instructions it stepped and those before which an
//! NMI came. If the handler does not take the same path each time, these sets differ, and boundaries
//! were missed.

/// Exit code that stands for the NMI handler itself.
pub const NMI: u32 = 0x61;

/// How many different instructions can be told apart.
const INSTRUCTIONS: usize = 8192;

/// Occurrences that could not be stepped to their end before the plan is given up.
const MAX_ABANDONED: u32 = 64;

/// Entries during one absence after which the interrupted code is taken for lost.
const MAX_AWAY: u32 = 1 << 20;

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
}

impl Target {
    /// Whether an NMI in the handler makes it run once more.
    fn repeats(&self) -> bool {
        self.code == NMI && self.stride != 0
    }
}

/// Where code was interrupted. Its stack tells it from what runs in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// In the handler.
    Stepping,
    /// In the handler of an event that interrupted it at a place; whether this was an NMI.
    Away(Place, bool),
}

/// The plan.
pub struct Sweep {
    target: Option<Target>,
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
    /// Whether this occurrence had its NMI.
    hit: bool,
    /// The boundary for the next NMI, with stride 0.
    next: u32,
    /// Instructions of the NMI handler without its repetition; 0: not known yet.
    length: u32,
    away: u32,
    occurrences: u32,
    abandoned: u32,
    boundaries: u32,
    nmis: u32,
    masked: u32,
    seen: Instructions,
}

/// The counters of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            hit: false,
            next: 0,
            length: 0,
            away: 0,
            occurrences: 0,
            abandoned: 0,
            boundaries: 0,
            nmis: 0,
            masked: 0,
            seen: Instructions::new(),
        }
    }

    /// Begins a plan.
    pub fn arm(&mut self, target: Target) {
        self.disarm();
        self.target = Some(target);
        self.status = Status::Running;
        self.origin = None;
        self.next = 0;
        self.length = 0;
        self.occurrences = 0;
        self.abandoned = 0;
        self.boundaries = 0;
        self.nmis = 0;
        self.masked = 0;
        self.seen.clear();
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
            occurrences: self.occurrences,
            abandoned: self.abandoned,
            boundaries: self.boundaries,
            nmis: self.nmis,
            masked: self.masked,
            instructions: self.seen.count,
            covered: self.seen.covered,
        }
    }

    /// An exception or NMI is delivered to the guest, which was at `place`.
    pub fn delivered(&mut self, code: u32, place: Place) {
        if !self.wants(code, &place) {
            return;
        }
        if code != NMI {
            self.origin = Some(place.rip);
        }
        self.state = State::Stepping;
        self.place = place;
        self.at = 0;
        self.fresh = true;
        self.hit = false;
        self.seen.begin();
    }

    /// Whether the plan steps the handler of this event.
    pub fn wants(&self, code: u32, place: &Place) -> bool {
        let Some(target) = self.target else {
            return false;
        };
        let level = if place.cpl == 3 {
            target.user
        } else {
            target.kernel
        };
        let same = code == NMI || self.origin.is_none_or(|origin| origin == place.rip);
        self.status == Status::Running
            && self.state == State::Waiting
            && target.code == code
            && level
            && same
    }

    /// How to enter the guest.
    pub fn mode(&self) -> Mode {
        match self.state {
            State::Waiting => Mode::Free,
            State::Stepping => Mode::Step,
            State::Away(..) => Mode::Away,
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
                self.nmis += 1;
            }
            return late;
        }
        let Some(slot) = self.seen.slot(rip) else {
            self.fail();
            return false;
        };
        let due = match target.stride {
            0 => !self.hit && self.at >= self.next,
            _ if target.repeats() && self.length == 0 => false,
            stride => self.at % stride == self.occurrences % stride,
        };
        if !open {
            // As good as covered: no NMI can come.
            self.seen.cover(slot);
            if due {
                self.masked += 1;
                self.next = self.at + 1;
            }
            return false;
        }
        if due {
            self.seen.cover(slot);
            self.nmis += 1;
            self.hit = true;
            self.next = self.at + 1;
        }
        due
    }

    /// An event is injected, its handler runs freely. `nmi`: it is an NMI.
    pub fn leaves(&mut self, place: Place, nmi: bool) {
        if self.state != State::Stepping {
            return;
        }
        if nmi && self.target.is_some_and(|target| target.stride == 0) {
            // The rest of this occurrence is of no interest.
            self.finish();
            return;
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
        matches!(self.state, State::Away(place, _) if place.same_stack(to))
    }

    /// That IRET has been executed.
    pub fn is_back(&mut self) {
        if let State::Away(_, nmi) = self.state {
            self.state = State::Stepping;
            if !nmi {
                self.at += 1;
                self.fresh = true;
            }
        }
    }

    /// An instruction of the handler has been executed; `returned`: it is an IRET.
    pub fn stepped(&mut self, now: &Place, returned: bool) {
        if self.state != State::Stepping {
            return;
        }
        self.at += 1;
        self.fresh = true;
        if returned && (now.cpl == 3 || self.place.same_stack(now)) {
            if self.length == 0 || !self.target.is_some_and(|target| target.repeats()) {
                self.boundaries = self.boundaries.max(self.at);
                self.length = self.boundaries;
            }
            self.finish();
        }
    }

    /// The handler cannot be followed to its end.
    pub fn abandon(&mut self) {
        if self.state == State::Waiting {
            return;
        }
        self.state = State::Waiting;
        self.seen.forget();
        self.abandoned += 1;
        if self.abandoned >= MAX_ABANDONED {
            self.fail();
        }
    }

    fn fail(&mut self) {
        self.status = Status::Failed;
        self.state = State::Waiting;
    }

    fn finish(&mut self) {
        self.state = State::Waiting;
        self.occurrences += 1;
        let Some(target) = self.target else {
            return;
        };
        let done = match target.stride {
            // It ended before its boundary.
            0 => !self.hit,
            // Some more, if the path differs from time to time.
            stride => {
                let all = self.seen.covered == self.seen.count;
                let passes = self.occurrences - u32::from(target.repeats());
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

/// A set of instruction addresses.
struct Instructions {
    /// Twice the address; bit 0: covered. 0: free. 1: no longer in use.
    slots: [u64; INSTRUCTIONS],
    count: u32,
    covered: u32,
    /// Slots that were taken in this occurrence.
    added: [u16; INSTRUCTIONS],
    additions: usize,
}

impl Instructions {
    const fn new() -> Self {
        Self {
            slots: [0; INSTRUCTIONS],
            count: 0,
            covered: 0,
            added: [0; INSTRUCTIONS],
            additions: 0,
        }
    }

    fn clear(&mut self) {
        self.slots.fill(0);
        self.count = 0;
        self.covered = 0;
        self.additions = 0;
    }

    /// An occurrence begins.
    fn begin(&mut self) {
        self.additions = 0;
    }

    /// Forgets what only this occurrence met: it went another way than the others.
    fn forget(&mut self) {
        for slot in &self.added[..core::mem::take(&mut self.additions)] {
            let slot = &mut self.slots[usize::from(*slot)];
            self.count -= 1;
            self.covered -= (*slot & 1) as u32;
            *slot = 1;
        }
    }

    /// Where an address is, or now is; `None` if there is no room.
    fn slot(&mut self, rip: u64) -> Option<usize> {
        let key = rip << 1;
        let start = (rip.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 51) as usize;
        for step in 0..INSTRUCTIONS {
            let slot = (start + step) % INSTRUCTIONS;
            if self.slots[slot] == 0 {
                self.slots[slot] = key;
                self.count += 1;
                self.added[self.additions] = slot as u16;
                self.additions += 1;
                return Some(slot);
            }
            if self.slots[slot] & !1 == key {
                return Some(slot);
            }
        }
        None
    }

    /// Whether an address is in the set and not covered.
    fn uncovered(&self, rip: u64) -> bool {
        self.slots.contains(&(rip << 1))
    }

    fn cover(&mut self, slot: usize) {
        if self.slots[slot] & 1 == 0 {
            self.slots[slot] |= 1;
            self.covered += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: u32 = 0x72;

    fn place(rip: u64, rsp: u64, cpl: u8) -> Place {
        Place { rip, rsp, cpl }
    }

    fn target(stride: u32) -> Target {
        Target {
            code: EXIT,
            user: true,
            kernel: false,
            stride,
        }
    }

    /// Executes a handler of `length` instructions, the last one an IRET; returns the boundaries
    /// that had an NMI.
    fn occur(sweep: &mut Sweep, length: u32) -> Vec<u32> {
        let user = place(0x1000, 0x7000, 3);
        let mut nmis = Vec::new();
        sweep.delivered(EXIT, user);
        for at in 0..length {
            let here = place(0x8000_0000 + u64::from(at), 0x9000, 0);
            // A boundary is asked for once, however often it is entered.
            if sweep.nmi_due(here.rip, true) {
                nmis.push(at);
                sweep.leaves(here, true);
                // IRETs of exceptions inside the NMI's handler.
                assert!(!sweep.leads_back(&place(here.rip, 0x5000, 0)));
                if sweep.leads_back(&here) {
                    sweep.is_back();
                }
            }
            assert!(!sweep.nmi_due(here.rip, true));
            if at + 1 < length {
                // An IRET that leads elsewhere is no end.
                sweep.stepped(&place(here.rip + 1, 0x9000, 0), at == 3);
            } else {
                sweep.stepped(&user, true);
            }
        }
        nmis
    }

    #[test]
    fn one_boundary_after_the_other() {
        let mut sweep = Sweep::new();
        sweep.arm(target(0));
        for at in 0..10 {
            assert_eq!(sweep.status(), Status::Running);
            assert_eq!(occur(&mut sweep, 10), [at]);
        }
        assert_eq!(occur(&mut sweep, 10), [], "past the end");
        assert_eq!(sweep.status(), Status::Done);
        let counts = sweep.counts();
        assert_eq!((counts.boundaries, counts.nmis), (10, 10));
        assert_eq!((counts.instructions, counts.covered), (10, 10));
        assert_eq!(occur(&mut sweep, 10), [], "done is done");
    }

    #[test]
    fn a_stride_covers_all_in_as_many_occurrences() {
        let mut sweep = Sweep::new();
        sweep.arm(target(4));
        assert_eq!(occur(&mut sweep, 10), [0, 4, 8]);
        assert_eq!(occur(&mut sweep, 10), [1, 5, 9]);
        assert_eq!(occur(&mut sweep, 10), [2, 6]);
        assert_eq!(sweep.status(), Status::Running);
        assert_eq!(occur(&mut sweep, 10), [3, 7]);
        assert_eq!(sweep.status(), Status::Done);
        let counts = sweep.counts();
        assert_eq!((counts.instructions, counts.covered), (10, 10));
        assert_eq!(counts.boundaries, 10);
    }

    #[test]
    fn a_path_that_differs_is_noticed() {
        let mut sweep = Sweep::new();
        sweep.arm(target(4));
        for length in [10, 10, 10, 11] {
            occur(&mut sweep, length);
        }
        assert_eq!(sweep.status(), Status::Running, "one was missed");
        for _ in 0..4 {
            occur(&mut sweep, 11);
        }
        assert_eq!(sweep.status(), Status::Done);
        assert_eq!(sweep.counts().covered, 11);
    }

    #[test]
    fn only_the_chosen_exits_count() {
        let mut sweep = Sweep::new();
        let user = place(0x1000, 0x7000, 3);
        assert!(!sweep.wants(EXIT, &user), "not armed");
        sweep.arm(target(1));
        assert!(sweep.wants(EXIT, &user));
        assert!(!sweep.wants(EXIT, &place(0x1000, 0x7000, 0)));
        assert!(!sweep.wants(0x7b, &user));
        sweep.delivered(EXIT, user);
        assert!(!sweep.wants(EXIT, &user), "nested");
        sweep.stepped(&user, true);
        assert!(!sweep.wants(EXIT, &place(0x2000, 0x7000, 3)), "other code");
        sweep.disarm();
        assert_eq!(sweep.mode(), Mode::Free);
        assert!(!sweep.wants(EXIT, &user));
    }

    #[test]
    fn repetitions_of_the_nmi_handler_have_no_nmi() {
        let mut sweep = Sweep::new();
        sweep.arm(Target {
            code: NMI,
            ..target(2)
        });
        let user = place(0x1000, 0x7000, 3);
        let mut run = |length: u32| {
            let mut nmis = Vec::new();
            sweep.delivered(NMI, user);
            for at in 0..length {
                let here = place(0x8000 + u64::from(at % 10), 0x9000, 0);
                if sweep.nmi_due(here.rip, at > 2) {
                    nmis.push(at);
                    sweep.leaves(here, true);
                    sweep.is_back();
                }
                let last = at + 1 == length;
                sweep.stepped(if last { &user } else { &here }, last);
            }
            (nmis, sweep.status())
        };
        assert_eq!(run(10), (vec![], Status::Running));
        let first = vec![3, 5, 7, 9, 14, 16, 18];
        assert_eq!(run(20), (first, Status::Running));
        assert_eq!(run(20), (vec![4, 6, 8], Status::Done));
        let counts = sweep.counts();
        assert_eq!((counts.instructions, counts.covered), (10, 10));
        assert_eq!(counts.boundaries, 10);
    }

    #[test]
    fn masked_boundaries_are_counted_and_passed() {
        let mut sweep = Sweep::new();
        sweep.arm(target(0));
        sweep.delivered(EXIT, place(0x1000, 0x7000, 3));
        let here = place(0x8000, 0x9000, 0);
        assert!(!sweep.nmi_due(here.rip, false));
        sweep.stepped(&here, false);
        assert!(!sweep.nmi_due(here.rip, false));
        sweep.stepped(&here, false);
        assert!(sweep.nmi_due(here.rip, true), "the first open one");
        sweep.leaves(here, true);
        assert_eq!(sweep.mode(), Mode::Free, "one NMI is all");
        let counts = sweep.counts();
        assert_eq!((counts.masked, counts.nmis), (2, 1));
    }

    #[test]
    fn a_boundary_that_is_passed_over_is_made_up_for() {
        let mut sweep = Sweep::new();
        sweep.arm(target(0));
        sweep.delivered(EXIT, place(0x1000, 0x7000, 3));
        let here = place(0x8000, 0x9000, 0);
        // An event is injected at the first boundary; nobody asks for an NMI there.
        sweep.leaves(here, false);
        assert!(sweep.leads_back(&here));
        sweep.is_back();
        assert!(sweep.nmi_due(here.rip, true));
    }

    #[test]
    fn an_exception_leads_away_and_back() {
        let mut sweep = Sweep::new();
        sweep.arm(target(1));
        sweep.delivered(EXIT, place(0x1000, 0x7000, 3));
        let here = place(0x8000, 0x9000, 0);
        assert!(sweep.nmi_due(here.rip, true));
        sweep.leaves(here, false);
        assert_eq!(sweep.mode(), Mode::Away);
        // Its fix-up returns elsewhere, on the same stack.
        assert!(sweep.leads_back(&place(0x8800, 0x9000, 0)));
        sweep.is_back();
        assert_eq!(sweep.mode(), Mode::Step);
        assert!(sweep.nmi_due(0x8800, true), "a new boundary");
    }

    #[test]
    fn an_abandoned_occurrence_leaves_no_instructions() {
        let mut sweep = Sweep::new();
        sweep.arm(target(2));
        occur(&mut sweep, 10);
        let before = sweep.counts();
        sweep.delivered(EXIT, place(0x1000, 0x7000, 3));
        for rip in [0x8000_0000, 0x9000, 0x9001, 0x9002] {
            let here = place(rip, 0x9000, 0);
            if sweep.nmi_due(rip, true) {
                sweep.leaves(here, true);
                sweep.is_back();
            }
            sweep.stepped(&here, false);
        }
        assert_eq!(sweep.counts().instructions, 13);
        sweep.abandon();
        let after = sweep.counts();
        assert_eq!(after.instructions, before.instructions);
        assert_eq!(after.covered, before.covered);
        assert_eq!(after.occurrences, before.occurrences);
        occur(&mut sweep, 10);
        assert_eq!(sweep.status(), Status::Done);
        assert_eq!(sweep.counts().covered, 10);
    }

    #[test]
    fn what_cannot_be_followed_ends_in_failure() {
        let mut sweep = Sweep::new();
        sweep.arm(target(1));
        for _ in 0..MAX_ABANDONED {
            assert_eq!(sweep.status(), Status::Running);
            sweep.delivered(EXIT, place(0x1000, 0x7000, 3));
            sweep.abandon();
        }
        assert_eq!(sweep.status(), Status::Failed);
    }

    #[test]
    fn words_of_the_port() {
        let want = Target {
            code: 0x400,
            user: false,
            kernel: true,
            stride: 8,
        };
        assert_eq!(Target::from_word(0x0082_0400), want);
    }
}
