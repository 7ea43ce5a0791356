// SPDX-License-Identifier: GPL-2.0
//! From what was seen to one verdict: pure, so that every way to end is tested without QEMU.

use crate::codes::termination_reason;
use crate::isolation;
use crate::ktap::{Judgement, KnownFailures, Ktap, Outcome};
use crate::simlog::SimLog;

/// What must be seen for the run to count as a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The check ran, nothing unexpected failed, and the guest powered off.
    Check,
    /// The guest powered off.
    PowerOff,
    /// The console showed this text, and the guest powered off.
    Text(String),
    /// The guest asked to be terminated, for this reason.
    Terminate {
        /// Reason set.
        set: u64,
        /// Reason code.
        code: u64,
    },
}

/// Why the runner ended QEMU itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Neither console nor sevsim said anything for the idle time-out.
    Idle(u64),
    /// The time for the whole run was over.
    Timeout(u64),
    /// The user quit, or a signal came.
    User,
    /// The guest had come to its end, but QEMU did not go away.
    Lingering,
}

/// How QEMU's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QemuExit {
    /// It exited with this status.
    Status(i32),
    /// A signal ended it.
    Signal(i32),
}

/// Everything that is seen of a run.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Whether sevsim runs below the guest.
    pub sevsim: bool,
    /// First line of a kernel panic.
    pub panic: Option<String>,
    /// The kernel said that it powers off.
    pub power_down: bool,
    /// The kernel said that it restarts the machine.
    pub restart: bool,
    /// The exit status of the check, as /init told it.
    pub init_status: Option<i64>,
    /// The text of [`Expect::Text`] was on the console.
    pub text: bool,
    /// The check's results.
    pub ktap: Ktap,
    /// What sevsim said.
    pub log: SimLog,
    /// QEMU logged that the processor which it emulates shut down.
    pub machine_triple_fault: bool,
    /// What the runner did.
    pub ended: Option<Ended>,
    /// What QEMU did.
    pub qemu: Option<QemuExit>,
    /// Last line of QEMU's own messages.
    pub qemu_says: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Success(String),
    /// The guest powered off, but did not show what was expected.
    CheckFailed(String),
    /// The guest's kernel panicked.
    Panic(String),
    /// The guest asked for its termination.
    Terminated(String),
    /// The guest's processor shut down.
    TripleFault(String),
    /// Nothing happened for too long.
    Hang(String),
    /// The run took too long.
    Timeout(String),
    /// QEMU or sevsim failed, the guest is not to blame.
    HostFailed(String),
    /// The guest reset its machine.
    Reset(String),
    /// The user ended it.
    Stopped(String),
}

impl Verdict {
    /// Exit status of the runner. Usage errors have 2.
    pub fn exit_code(&self) -> i32 {
        match self {
            Verdict::Success(_) => 0,
            Verdict::CheckFailed(_) => 3,
            Verdict::Panic(_) => 4,
            Verdict::Terminated(_) => 5,
            Verdict::TripleFault(_) => 6,
            Verdict::Hang(_) => 7,
            Verdict::Timeout(_) => 8,
            Verdict::HostFailed(_) => 9,
            Verdict::Reset(_) => 10,
            Verdict::Stopped(_) => 130,
        }
    }

    /// One word, for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Success(_) => "success",
            Verdict::CheckFailed(_) => "check-failed",
            Verdict::Panic(_) => "panic",
            Verdict::Terminated(_) => "terminated",
            Verdict::TripleFault(_) => "triple-fault",
            Verdict::Hang(_) => "hang",
            Verdict::Timeout(_) => "timeout",
            Verdict::HostFailed(_) => "host-failed",
            Verdict::Reset(_) => "reset",
            Verdict::Stopped(_) => "stopped",
        }
    }

    /// One line, for people.
    pub fn line(&self) -> &str {
        match self {
            Verdict::Success(text)
            | Verdict::CheckFailed(text)
            | Verdict::Panic(text)
            | Verdict::Terminated(text)
            | Verdict::TripleFault(text)
            | Verdict::Hang(text)
            | Verdict::Timeout(text)
            | Verdict::HostFailed(text)
            | Verdict::Reset(text)
            | Verdict::Stopped(text) => text,
        }
    }
}

/// Judges a run. The order is that of causes: a panic explains the termination request that the
/// kernel makes after it, a request explains why there is no result of the check, and so on.
pub fn classify(seen: &Seen, expect: &Expect, known: &KnownFailures) -> Verdict {
    if let Some(verdict) = wanted_termination(seen, expect) {
        return verdict;
    }
    if let Some(panic) = &seen.panic {
        return Verdict::Panic(format!("the guest's kernel panicked: {panic}"));
    }
    if let Some(verdict) = from_event(seen) {
        return verdict;
    }
    if seen.machine_triple_fault {
        return if seen.sevsim {
            Verdict::HostFailed("sevsim itself crashed (triple fault of the machine)".into())
        } else {
            Verdict::TripleFault("the guest's processor shut down (triple fault)".into())
        };
    }
    match seen.ended {
        Some(Ended::User) => return Verdict::Stopped("stopped by the user".into()),
        Some(Ended::Idle(seconds)) => {
            return Verdict::Hang(format!(
                "the guest hangs: nothing on the console and no sign of progress from sevsim \
                 for {seconds} s"
            ))
        }
        Some(Ended::Timeout(seconds)) => {
            return Verdict::Timeout(format!("the run took longer than {seconds} s"))
        }
        Some(Ended::Lingering) | None => {}
    }
    if powered_off(seen) {
        if let Some(leak) = seen.log.report.iter().find(|record| record.name == "leak") {
            return Verdict::CheckFailed(format!(
                "the guest showed its hypervisor what it should not: {}",
                leak.pairs()
            ));
        }
        if let Some(fault) = isolation::first_fault(&seen.log) {
            return Verdict::CheckFailed(format!(
                "sevsim's handling of an exit touched what is not mapped: {fault}"
            ));
        }
        return judge_result(seen, expect, known);
    }
    let reset_by_sevsim = seen.log.event("reset").is_some();
    if seen.restart || reset_by_sevsim {
        return Verdict::Reset("the guest reset its machine instead of powering off".into());
    }
    Verdict::HostFailed(host_failure(seen))
}

/// The guest asked to be terminated just as it should have. A panic that it told of before is then
/// how it said why.
fn wanted_termination(seen: &Seen, expect: &Expect) -> Option<Verdict> {
    let Expect::Terminate { set, code } = *expect else {
        return None;
    };
    let event = seen.log.last_act()?;
    let asked = event.name == "terminate"
        && event.number("set") == Some(set)
        && event.number("code") == Some(code);
    asked.then(|| {
        Verdict::Success(format!(
            "the guest asked to be terminated, set {set} code {code}: {}",
            termination_reason(set, code)
        ))
    })
}

/// Verdicts that sevsim's last event alone decides.
fn from_event(seen: &Seen) -> Option<Verdict> {
    let event = seen.log.last_act()?;
    let vcpu = event
        .get("vcpu")
        .map(|n| format!(" (vCPU {n})"))
        .unwrap_or_default();
    match event.name.as_str() {
        "terminate" => {
            let set = event.number("set").unwrap_or(u64::MAX);
            let code = event.number("code").unwrap_or(u64::MAX);
            Some(Verdict::Terminated(format!(
                "the guest asked to be terminated{vcpu}, set {set} code {code}: {}",
                termination_reason(set, code)
            )))
        }
        "unsupported-event" => Some(Verdict::Terminated(format!(
            "the guest reported an exit that it does not support{vcpu}, exit code {}",
            event.get("code").unwrap_or("unknown")
        ))),
        "triple-fault" | "shutdown" => Some(Verdict::TripleFault(format!(
            "the guest's processor shut down{vcpu}: {} {}",
            event.name,
            event.pairs()
        ))),
        "fatal" => Some(Verdict::HostFailed(format!(
            "sevsim gave up{vcpu}: {}",
            event.get("text").unwrap_or("no reason given")
        ))),
        _ => None,
    }
}

fn powered_off(seen: &Seen) -> bool {
    seen.log.event("poweroff").is_some()
        || (seen.power_down && matches!(seen.qemu, Some(QemuExit::Status(0))))
        || (seen.power_down && seen.ended == Some(Ended::Lingering))
}

fn judge_result(seen: &Seen, expect: &Expect, known: &KnownFailures) -> Verdict {
    match expect {
        Expect::PowerOff => Verdict::Success("the guest powered off".into()),
        Expect::Text(text) if seen.text => {
            Verdict::Success(format!("the guest showed \"{text}\" and powered off"))
        }
        Expect::Text(text) => {
            Verdict::CheckFailed(format!("the guest powered off without showing \"{text}\""))
        }
        Expect::Check => judge_check(seen, &seen.ktap.judge(known)),
        Expect::Terminate { set, code } => Verdict::CheckFailed(format!(
            "the guest powered off instead of asking for its termination, set {set} code {code}"
        )),
    }
}

fn judge_check(seen: &Seen, judgement: &Judgement) -> Verdict {
    if seen.ktap.plan.is_none() && seen.ktap.results.is_empty() {
        return Verdict::CheckFailed("the guest powered off without running the check".into());
    }
    let mut faults = Vec::new();
    if !judgement.unexpected_failures.is_empty() {
        faults.push(format!(
            "failed: {}",
            judgement.unexpected_failures.join(", ")
        ));
    }
    if !judgement.unexpected_passes.is_empty() {
        faults.push(format!(
            "passed, but is listed as a known failure: {}",
            judgement.unexpected_passes.join(", ")
        ));
    }
    faults.extend(judgement.missing.clone());
    match seen.init_status {
        None => faults.push("/init did not report the end of the check".into()),
        // kselftest's statuses: 0 if all passed, 1 if one failed.
        Some(status) if status != i64::from(seen.ktap.count(Outcome::Fail) > 0) => faults.push(
            format!("the check exited with {status}, which its results do not explain"),
        ),
        Some(_) => {}
    }
    if !faults.is_empty() {
        return Verdict::CheckFailed(format!("the check is not good: {}", faults.join("; ")));
    }
    let mut text = format!(
        "the check passed: {} passed",
        seen.ktap.count(Outcome::Pass)
    );
    let known = judgement.known_failures.len();
    if known > 0 {
        text += &format!(", {known} failed as known");
    }
    let skipped = seen.ktap.count(Outcome::Skip);
    if skipped > 0 {
        text += &format!(", {skipped} skipped");
    }
    Verdict::Success(text + "; the guest powered off")
}

fn host_failure(seen: &Seen) -> String {
    let mut text = match seen.qemu {
        Some(QemuExit::Status(status)) => format!("QEMU ended with status {status}"),
        Some(QemuExit::Signal(signal)) => format!("QEMU was ended by signal {signal}"),
        None => "QEMU could not be watched".to_string(),
    };
    text += match (seen.sevsim, seen.log.event("start").is_some()) {
        (true, false) => " before sevsim started",
        (true, true) => " while sevsim ran, without a last word from it",
        (false, _) => " before the guest powered off",
    };
    if let Some(says) = &seen.qemu_says {
        text += &format!("; it said: {says}");
    }
    text
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
