// SPDX-License-Identifier: GPL-2.0
//! Tests of the plan.

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

/// Executes a handler whose instructions are at these addresses, the last one an IRET, as the mode
/// says: by steps, or up to breakpoints. NMIs are masked before those at odd addresses. Returns the
/// boundaries that had an NMI. A repeated address is a string instruction: breakpoints stop at its
/// first round only.
fn go(sweep: &mut Sweep, rips: &[u64]) -> Vec<usize> {
    let user = place(0x1000, 0x7000, 3);
    let mut nmis = Vec::new();
    sweep.delivered(EXIT, user);
    for (at, rip) in rips.iter().enumerate() {
        let here = place(*rip, 0x9000, 0);
        if let Mode::Seek(seek) = sweep.mode() {
            assert!(seek.iret && seek.at[1].is_none());
            let again = at != 0 && rips[at - 1] == *rip;
            if seek.at[0] == Some(*rip) && !again {
                sweep.reached(here);
            }
        }
        let stepping = sweep.mode() == Mode::Step;
        if sweep.nmi_due(*rip, rip % 2 == 0) {
            nmis.push(at);
            sweep.leaves(here, true);
            assert_eq!(sweep.mode(), Mode::Free, "one NMI is all");
            return nmis;
        }
        let last = at + 1 == rips.len();
        match sweep.mode() {
            Mode::Step if last => sweep.stepped(&user, true),
            Mode::Step => sweep.stepped(&place(rips[at + 1], 0x9000, 0), false),
            Mode::Seek(_) if last && !stepping => {
                assert!(sweep.leads_back(&user));
                sweep.is_back();
            }
            _ => (),
        }
    }
    nmis
}

#[test]
fn one_boundary_after_the_other() {
    let mut sweep = Sweep::new();
    sweep.arm(target(0), None);
    // A loop of two rounds, a string instruction, and two boundaries at which NMIs are masked.
    let rips = [1, 3, 10, 20, 22, 20, 22, 24, 24, 24];
    assert_eq!(go(&mut sweep, &rips), [], "the first one shows the way");
    for at in 2..10 {
        assert_eq!(sweep.status(), Status::Running);
        assert_eq!(go(&mut sweep, &rips), [at]);
    }
    assert_eq!(sweep.status(), Status::Done);
    let counts = sweep.counts();
    assert_eq!((counts.boundaries, counts.nmis, counts.masked), (10, 8, 2));
    assert_eq!((counts.instructions, counts.covered), (6, 6));
    assert_eq!((counts.occurrences, counts.skipped), (9, 0));
    assert_eq!(go(&mut sweep, &rips), [], "done is done");
}

#[test]
fn a_boundary_that_is_passed_by_is_tried_again_and_then_skipped() {
    let mut sweep = Sweep::new();
    sweep.arm(target(0), None);
    let (long, short) = ([10, 20, 30, 40], [10, 30, 40]);
    go(&mut sweep, &long);
    assert_eq!(go(&mut sweep, &long), [0]);
    assert_eq!(go(&mut sweep, &short), [], "no such boundary");
    assert_eq!(sweep.skipped(), []);
    assert_eq!(go(&mut sweep, &long), [1], "tried again");
    assert_eq!(go(&mut sweep, &long), [2]);
    assert_eq!(go(&mut sweep, &long), [3]);
    assert_eq!((sweep.status(), sweep.counts().skipped), (Status::Done, 0));

    sweep.arm(target(0), None);
    go(&mut sweep, &long);
    assert_eq!(go(&mut sweep, &long), [0]);
    for _ in 0..MAX_TRIES {
        assert_eq!(go(&mut sweep, &short), []);
    }
    assert_eq!(go(&mut sweep, &short), [1], "the next one");
    let counts = sweep.counts();
    assert_eq!((counts.skipped, counts.covered), (1, 2));
    let skipped = Skipped {
        rip: 20,
        visit: 1,
        at: 1,
    };
    assert_eq!(sweep.skipped(), [skipped]);
}

/// Runs code that passes the addresses in `rips`; returns the boundaries that had an NMI.
fn pass(sweep: &mut Sweep, rips: &[u64]) -> Vec<u64> {
    let mut nmis = Vec::new();
    for (at, rip) in rips.iter().enumerate() {
        let here = place(*rip, 0x9000, 0);
        // A breakpoint is met again until the guest goes past it.
        while let Mode::Seek(seek) = sweep.mode() {
            if !seek.at.contains(&Some(*rip)) {
                break;
            }
            assert!(!seek.iret);
            sweep.reached(here);
        }
        if sweep.nmi_due(*rip, true) {
            nmis.push(*rip);
            sweep.leaves(here, true);
        }
        if sweep.mode() == Mode::Step {
            assert!(sweep.holds_interrupts());
            let next = rips.get(at + 1).copied().unwrap_or_default();
            sweep.stepped(&place(next, 0x9000, 0), false);
        }
    }
    nmis
}

#[test]
fn code_between_two_addresses() {
    let mut sweep = Sweep::new();
    let between = Target {
        code: BETWEEN,
        kernel: true,
        ..target(0)
    };
    sweep.arm(between, None);
    assert_eq!(sweep.status(), Status::Failed, "there is no range");
    sweep.arm(between, Some((20, 50)));
    assert!(!sweep.wants(EXIT, &place(0, 0, 0)));
    let rips = [10, 20, 30, 40, 30, 40, 50, 60];
    assert_eq!(pass(&mut sweep, &rips), [], "the first one shows the way");
    let mut nmis = Vec::new();
    while sweep.status() == Status::Running {
        nmis.extend(pass(&mut sweep, &rips));
    }
    assert_eq!(nmis, [20, 30, 40, 30, 40]);
    let counts = sweep.counts();
    assert_eq!((counts.boundaries, counts.skipped), (5, 0));
    assert_eq!((counts.instructions, counts.covered), (3, 3));
}

#[test]
fn a_stride_covers_all_in_as_many_occurrences() {
    let mut sweep = Sweep::new();
    sweep.arm(target(4), None);
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
    sweep.arm(target(4), None);
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
    sweep.arm(target(1), None);
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
    sweep.arm(
        Target {
            code: NMI,
            ..target(2)
        },
        None,
    );
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
fn an_exception_leads_away_and_back() {
    let mut sweep = Sweep::new();
    sweep.arm(target(1), None);
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
    sweep.arm(target(2), None);
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
    sweep.arm(target(1), None);
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

#[test]
fn a_breakpoint_that_rf_hides_is_met_by_the_iret_before_it() {
    let user = place(0x1000, 0x7000, 3);
    let (rdtsc, behind) = (place(10, 0x9000, 0), place(12, 0x9000, 0));
    let mut sweep = Sweep::new();
    sweep.arm(target(0), None);
    // The way: RDTSC, the one instruction of its handler, and what comes behind it.
    go(&mut sweep, &[10, 50, 12]);
    for at in 0..2 {
        assert_eq!(go(&mut sweep, &[10, 50, 12]), [at]);
    }
    sweep.delivered(EXIT, user);
    assert!(matches!(sweep.mode(), Mode::Seek(seek) if seek.at[0] == Some(behind.rip)));
    assert!(!sweep.leads_back(&behind), "the stack is another one");
    // Elsewhere it has no meaning, and without RF the breakpoint is to come.
    sweep.landed(rdtsc, true);
    sweep.landed(behind, false);
    assert!(!sweep.nmi_due(behind.rip, true));
    sweep.landed(behind, true);
    assert_eq!(sweep.mode(), Mode::Step);
    assert!(sweep.nmi_due(behind.rip, true));
    sweep.leaves(behind, true);
    assert_eq!((sweep.status(), sweep.counts().skipped), (Status::Done, 0));
    // While it is stepped, or no longer, there is no breakpoint.
    sweep.landed(behind, true);
    assert_eq!(sweep.status(), Status::Done);
}
