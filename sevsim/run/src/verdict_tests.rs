// SPDX-License-Identifier: GPL-2.0
//! Tests of the classification: one for each way to end, and for what wins when several apply.

use super::*;

fn seen() -> Seen {
    let mut seen = Seen {
        sevsim: true,
        ..Seen::default()
    };
    seen.log.line("sevsim: event start version=1");
    seen
}

fn checked(results: &[&str], status: i64) -> Seen {
    let mut seen = seen();
    results.iter().for_each(|line| seen.ktap.line(line));
    seen.init_status = Some(status);
    seen.power_down = true;
    seen.log.line("sevsim: event poweroff");
    seen.qemu = Some(QemuExit::Status(0));
    seen
}

fn verdict(seen: &Seen) -> Verdict {
    classify(seen, &Expect::Check, &KnownFailures::default())
}

#[test]
fn success_needs_results_and_power_off() {
    let good = checked(&["1..1", "ok 1 a"], 0);
    assert_eq!(verdict(&good).exit_code(), 0);

    let mut not_off = good.clone();
    not_off.log = SimLog::default();
    not_off.log.line("sevsim: event start");
    not_off.power_down = false;
    assert_eq!(verdict(&not_off).exit_code(), 9);

    assert_eq!(verdict(&checked(&[], 0)).exit_code(), 3);
    assert_eq!(verdict(&checked(&["1..1", "not ok 1 a"], 1)).exit_code(), 3);
    assert_eq!(verdict(&checked(&["1..2", "ok 1 a"], 0)).exit_code(), 3);
    assert_eq!(verdict(&checked(&["1..1", "ok 1 a"], 139)).exit_code(), 3);
    assert_eq!(verdict(&checked(&["1..1", "ok 1 a"], 1)).exit_code(), 3);
}

#[test]
fn known_failures_are_no_failures() {
    let seen = checked(&["1..2", "ok 1 a", "not ok 2 b"], 1);
    let known = KnownFailures::parse("b");
    let verdict = classify(&seen, &Expect::Check, &known);
    assert_eq!(verdict.exit_code(), 0);
    assert!(verdict.line().contains("1 failed as known"));
    let stale = classify(&seen, &Expect::Check, &KnownFailures::parse("a\nb"));
    assert_eq!(stale.exit_code(), 3);
    assert!(stale.line().contains("known failure: a"));
}

#[test]
fn panic_wins_over_what_follows_it() {
    let mut seen = checked(&["1..1", "ok 1 a"], 0);
    seen.panic = Some("Kernel panic - not syncing: Attempted to kill init!".into());
    seen.log.line("sevsim: event terminate set=0 code=0 vcpu=1");
    assert_eq!(verdict(&seen).exit_code(), 4);
    assert!(verdict(&seen).line().contains("kill init"));
}

#[test]
fn termination_is_decoded() {
    let mut seen = seen();
    seen.log.line("sevsim: event terminate set=1 code=5 vcpu=0");
    seen.qemu = Some(QemuExit::Status(1));
    let verdict = verdict(&seen);
    assert_eq!(verdict.exit_code(), 5);
    assert!(verdict.line().contains("set 1 code 5"));
    assert!(verdict.line().contains("CPUID by the MSR protocol failed"));
}

#[test]
fn the_wanted_termination_is_a_success() {
    let judge = |seen: &Seen, set, code| {
        let expect = Expect::Terminate { set, code };
        classify(seen, &expect, &KnownFailures::default()).exit_code()
    };
    let mut terminated = seen();
    terminated.log.line("sevsim: event terminate set=0 code=1");
    assert_eq!(judge(&terminated, 0, 1), 0);
    assert_eq!(judge(&terminated, 0, 0), 5);
    assert_eq!(judge(&terminated, 1, 1), 5);
    terminated.panic = Some("why".into());
    assert_eq!(judge(&terminated, 0, 1), 0);
    assert_eq!(judge(&terminated, 0, 0), 4);

    let mut off = seen();
    off.log.line("sevsim: event poweroff");
    assert_eq!(judge(&off, 0, 0), 3);
    let mut fault = seen();
    fault.log.line("sevsim: event triple-fault vcpu=0");
    assert_eq!(judge(&fault, 0, 0), 6);
    assert_eq!(judge(&seen(), 0, 0), 9);
}

#[test]
fn an_unsupported_event_is_a_termination() {
    let mut seen = seen();
    seen.log
        .line("sevsim: event unsupported-event code=0x7b vcpu=1");
    assert_eq!(verdict(&seen).exit_code(), 5);
    assert!(verdict(&seen).line().contains("(vCPU 1), exit code 0x7b"));
}

#[test]
fn triple_fault_of_guest_and_of_host_differ() {
    let mut guest = seen();
    guest
        .log
        .line("sevsim: event triple-fault vcpu=0 rip=0x1000");
    assert_eq!(verdict(&guest).exit_code(), 6);

    let mut host = seen();
    host.machine_triple_fault = true;
    host.qemu = Some(QemuExit::Status(0));
    assert_eq!(verdict(&host).exit_code(), 9);
    host.sevsim = false;
    assert_eq!(verdict(&host).exit_code(), 6);
}

#[test]
fn hang_time_out_and_user_differ() {
    let mut run = seen();
    run.ended = Some(Ended::Idle(30));
    assert_eq!(verdict(&run).exit_code(), 7);
    run.ended = Some(Ended::Timeout(120));
    assert_eq!(verdict(&run).exit_code(), 8);
    run.ended = Some(Ended::User);
    assert_eq!(verdict(&run).exit_code(), 130);
}

#[test]
fn host_failures_name_their_cause() {
    let mut run = seen();
    run.log
        .line("sevsim: event fatal text=unknown option: foo=1");
    assert_eq!(verdict(&run).exit_code(), 9);
    assert!(verdict(&run).line().contains("unknown option: foo=1"));

    let mut early = Seen {
        sevsim: true,
        ..Seen::default()
    };
    early.qemu = Some(QemuExit::Status(1));
    early.qemu_says = Some("qemu: could not load kernel".into());
    assert_eq!(verdict(&early).exit_code(), 9);
    assert!(verdict(&early).line().contains("before sevsim started"));
    assert!(verdict(&early).line().contains("could not load"));
    early.qemu = Some(QemuExit::Signal(11));
    assert!(verdict(&early).line().contains("signal 11"));
}

#[test]
fn plain_guest_powers_off_by_its_console() {
    let mut run = Seen {
        power_down: true,
        qemu: Some(QemuExit::Status(0)),
        ..Seen::default()
    };
    let expect = Expect::PowerOff;
    assert_eq!(
        classify(&run, &expect, &KnownFailures::default()).exit_code(),
        0
    );
    run.power_down = false;
    assert_eq!(
        classify(&run, &expect, &KnownFailures::default()).exit_code(),
        9
    );
    run.restart = true;
    assert_eq!(
        classify(&run, &expect, &KnownFailures::default()).exit_code(),
        10
    );
}

#[test]
fn expected_text_must_be_seen() {
    let mut run = checked(&[], 0);
    let expect = Expect::Text("hello".into());
    assert_eq!(
        classify(&run, &expect, &KnownFailures::default()).exit_code(),
        3
    );
    run.text = true;
    assert_eq!(
        classify(&run, &expect, &KnownFailures::default()).exit_code(),
        0
    );
}

#[test]
fn reset_event_is_its_own_verdict() {
    let mut run = seen();
    run.log.line("sevsim: event reset vcpu=0");
    run.qemu = Some(QemuExit::Status(0));
    assert_eq!(verdict(&run).exit_code(), 10);
}

#[test]
fn a_leak_is_a_failure_of_the_run() {
    let mut leaks = checked(&["1..1", "ok 1 a"], 0);
    leaks
        .log
        .line("sevsim: report leak-seen exit=0x72 offset=0x308 bits=0x1 count=1");
    assert_eq!(verdict(&leaks).exit_code(), 0);
    leaks
        .log
        .line("sevsim: report leak exit=0x72 offset=0x308 bits=0x1 count=1");
    let verdict = verdict(&leaks);
    assert_eq!(verdict.exit_code(), 3);
    assert!(verdict.line().contains("offset=0x308"));
}

#[test]
fn a_fault_in_the_isolated_space_is_a_failure_of_the_run() {
    let mut fault = checked(&["1..1", "ok 1 a"], 0);
    fault
        .log
        .line("sevsim: event asi-fault vcpu=0 error=0x0 rip=0x10 address=0x2000");
    let verdict = verdict(&fault);
    assert_eq!(verdict.exit_code(), 3);
    assert!(verdict.line().contains("on 0x2000"));
}
