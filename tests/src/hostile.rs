// SPDX-License-Identifier: GPL-2.0
//! A host that is hostile at random: boots of the programs in tests/guest/hostile, and what was
//! found once (tests/hostile).

use std::path::Path;

use serde_json::Value;

use crate::attempts;
use crate::attempts::Attempt;
use crate::cases::Kernel;
use crate::deceived;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;
use crate::scenario;
use crate::suite::Test;

/// Hostile acts per 100 steps, at least: 16 come in a step that attacks the kernel.
const ACTS_PER_100_STEPS: u64 = 180;

/// Steps for which there is one whose reply changes while the guest reads it, instruction by
/// instruction; acts per such step, at least.
const STEPS_PER_REWRITE: u64 = 8;
const ACTS_PER_REWRITE: u64 = 20;

/// Boots of a seed that end with a refusal.
const DEADLY: u64 = 3;

/// Attempts for each 1000 steps.
const ATTEMPTS_PER_1000_STEPS: u64 = 35;

/// Operations of assault.c whose entry code is swept, each event at each instruction, and at how
/// many instructions there has to be one. The second is three instructions in the kernel; to a
/// timer's interrupt some events come too late.
const SWEPT: [(u32, usize); 8] = [
    (0, 60),
    (1, 3),
    (3, 100),
    (5, 120),
    (9, 60),
    (10, 240),
    (11, 50),
    (12, 100),
];

/// Events for each instruction of a sweep, at least: there are 8, and 7 where an NMI comes before.
const SWEEP_EVENTS: usize = 7;

/// vCPUs of a guest that is attacked on all of them, and for how many steps of the other guest it
/// makes one.
const SMP_CPUS: usize = 2;
const STEPS_PER_SMP: u64 = 6;

/// Steps for which there is a boot with an act at random, for each stage.
const STEPS_PER_BOOT: u64 = 3000;

/// What an attempt needs of QEMU: memory for the copy, a device for MMIO, and a watchdog.
const ATTEMPT_MACHINE: &str = "-m 1536M -device pci-testdev -device ib700 \
                               -action watchdog=inject-nmi";

/// The same as arguments of sevsim-run.
pub fn attempt_machine() -> impl Iterator<Item = String> {
    let words = ATTEMPT_MACHINE.split_whitespace();
    words.flat_map(|word| ["--qemu-arg".into(), word.into()])
}

/// What the C handler is known to do, and so does not fail for: the words in front of the details.
const KNOWN: &str = "tests/hostile/known-c";

/// Something that was found: a step that is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    seed: u64,
    step: u32,
    /// What the C handler does wrong still; empty if nothing.
    c: String,
    /// The operation that is attacked, if the step is an attempt.
    operation: Option<u32>,
}

impl Finding {
    /// Reads a file of tests/hostile.
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let lines = text.lines();
            let mut found = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            found.next().map(str::trim)
        };
        Some(Self {
            seed: value("seed")?.parse().ok()?,
            step: value("step")?.parse().ok()?,
            c: value("c").unwrap_or_default().into(),
            operation: value("operation").and_then(|number| number.parse().ok()),
        })
    }
}

/// What a boot does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    /// So many steps.
    Steps(u64),
    /// So many steps on each of two CPUs, at the same time.
    Smp(u64),
    /// So many steps whose replies change while the guest reads them.
    Rewrites(u64),
    /// What was found with the same seed.
    Findings(Vec<Finding>),
    /// Replies to the kernel that it must refuse, until it does.
    Deadly,
    /// So many attacks on the kernel, after each of which the guest is put back.
    Attempts(u64),
    /// An attack by each event at each instruction of the entry code of this operation, and how
    /// many instructions these are at least.
    Sweep(u32, usize),
    /// An attack on the kernel that was found with the same seed: step, operation, and what the C
    /// handler does wrong still.
    Attempt(u32, u32, String),
}

/// One boot.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    kernel: Kernel,
    seed: u64,
    work: Work,
}

/// What the guest's program says of a kind of problem: how many times it occurred, at which step
/// the first time, and what it was.
fn problems(console: &str) -> impl Iterator<Item = (u32, &str)> {
    console.lines().filter_map(|line| {
        let (_, rest) = line
            .trim()
            .strip_prefix("# ")?
            .split_once(" times: step ")?;
        let (step, text) = rest.split_once(": ")?;
        Some((step.parse().ok()?, text))
    })
}

/// The number in a report of sevsim.
fn reported(report: &Value, name: &str, key: &str) -> u64 {
    let rows = report[name].as_array().into_iter().flatten();
    rows.filter_map(|row| row[key].as_u64()).sum()
}

impl Case {
    fn vcpus(&self) -> usize {
        match self.work {
            Work::Smp(_) => SMP_CPUS,
            _ => 1,
        }
    }

    fn arguments(&self, places: &Places, timeout: u64) -> Result<Vec<String>, String> {
        let kernel = places.kernel(self.kernel)?;
        let initramfs = places.build.join("hostile/initramfs.cpio.gz");
        if !initramfs.exists() {
            let missing = initramfs.display();
            return Err(format!("{missing} is not there: make test-hostile"));
        }
        let program = match &self.work {
            Work::Steps(steps) => format!("-n,{steps}"),
            Work::Smp(steps) => format!("-j,{SMP_CPUS},-n,{steps}"),
            Work::Rewrites(steps) => format!("-t,r,-n,{steps}"),
            Work::Findings(findings) => {
                let steps: Vec<_> = findings.iter().map(|one| one.step.to_string()).collect();
                format!("-s,{}", steps.join("."))
            }
            Work::Deadly => "-d,-t,k,-n,200".into(),
            Work::Attempts(count) => format!("-n,{count}"),
            Work::Sweep(operation, _) => format!("-x,-c,{operation}"),
            Work::Attempt(step, operation, _) => format!("-s,{step},-c,{operation},-t,e"),
        };
        let name = if self.attempts() {
            "assault"
        } else {
            "hostile"
        };
        let check = match self.kernel {
            Kernel::Rust => "on",
            _ => "report",
        };
        let append = format!(
            "quiet loglevel=1 nowatchdog sevsim.run=/bin/hostile_run \
             hostile.run=/bin/{name},{program}"
        );
        let entry = match self.work {
            Work::Smp(_) => "firmware",
            _ => "raw",
        };
        let args = "--intercept all --idle-timeout 0".split(' ');
        let mut args: Vec<String> = args.map(String::from).collect();
        for (key, value) in [
            ("--entry", entry.into()),
            ("--vcpus", self.vcpus().to_string()),
            ("--kernel", kernel.to_string_lossy().into_owned()),
            ("--initrd", initramfs.to_string_lossy().into_owned()),
            ("--append", append),
            ("--option", format!("hostile={}", self.seed)),
            ("--option", format!("leak-check={check}")),
            ("--timeout", timeout.to_string()),
        ] {
            args.extend([key.into(), value]);
        }
        if self.attempts() {
            args.extend(["--memory".into(), "256".into()]);
            args.extend(attempt_machine());
        }
        Ok(args)
    }

    /// Whether the guest is put back after each attack.
    fn attempts(&self) -> bool {
        matches!(
            self.work,
            Work::Attempts(_) | Work::Attempt(..) | Work::Sweep(..)
        )
    }

    /// Whether the guest showed its hypervisor more than exits need, and must not: C may.
    fn leaks(&self, outcome: &Outcome) -> bool {
        self.kernel == Kernel::Rust && !outcome.json["report"]["leak"].is_null()
    }

    /// What is wrong with a run of attempts, if anything.
    fn attempts_complaint(
        &self,
        outcome: &Outcome,
        known: &str,
        all: &[Attempt],
    ) -> Option<String> {
        if !outcome.console.contains("ok 1 attempts") || outcome.console.contains("not ok 1") {
            return Some(format!("the program did not end: {}", outcome.line));
        }
        match self.work {
            Work::Attempts(count) if all.len() as u64 != count => {
                return Some(format!("{} of {count} attempts", all.len()));
            }
            Work::Attempt(..) if all.len() != 1 => return Some("no attempt".into()),
            Work::Sweep(_, least) => {
                let injected = all.iter().filter(|one| one.injected()).count();
                if injected < least * SWEEP_EVENTS {
                    return Some(format!("{injected} events only"));
                }
                // Not so attempts at random: they interrupt requests as well that are partly in the
                // GHCB, and the exits in between show that.
                if self.leaks(outcome) {
                    return Some("the guest shows its hypervisor what it should not".into());
                }
            }
            _ => (),
        }
        let mut lines: Vec<_> = known.lines().filter(|line| !line.is_empty()).collect();
        if self.kernel == Kernel::Rust {
            lines.clear();
        }
        let mut problems = attempts::problems(all);
        if let (Work::Attempt(_, _, c), Kernel::C) = (&self.work, self.kernel) {
            let found = problems.next().map(|(_, text)| text).unwrap_or_default();
            let good = found.starts_with(c.as_str()) && found.is_empty() == c.is_empty();
            return (!good).then(|| format!("\"{c}\" was expected, but it is \"{found}\""));
        }
        let mut new = problems.filter(|(_, text)| !lines.iter().any(|line| text.starts_with(line)));
        new.next()
            .map(|(step, text)| format!("step {step}: {text}"))
    }

    /// What is wrong with a run, if anything. `known`: what the C handler may do.
    fn complaint(&self, outcome: &Outcome, known: &str) -> Option<String> {
        if self.work == Work::Deadly {
            // It ends by its own will: no shutdown, no hang.
            let verdict = outcome.json["verdict"].as_str().unwrap_or_default();
            let deliberate = matches!(verdict, "terminated" | "panic");
            return (!deliberate || self.leaks(outcome)).then(|| outcome.line.clone());
        }
        if self.kernel == Kernel::Rust && outcome.status != Some(0) {
            return Some(outcome.line.clone());
        }
        // It has to come to its end in any case, and to have tried something.
        if !outcome.console.contains("ok 6 kernel-log") {
            return Some(format!("the program did not end: {}", outcome.line));
        }
        let acts = reported(&outcome.json["report"], "hostile", "acts");
        match &self.work {
            Work::Steps(steps) | Work::Smp(steps)
                if acts * 100 < steps * self.vcpus() as u64 * ACTS_PER_100_STEPS =>
            {
                return Some(format!("only {acts} hostile acts in {steps} steps a CPU"));
            }
            Work::Rewrites(steps) if acts < steps * ACTS_PER_REWRITE => {
                return Some(format!("only {acts} changes in {steps} steps"));
            }
            Work::Findings(_) if acts == 0 => return Some("no hostile act".into()),
            _ => (),
        }
        if self.kernel == Kernel::Rust {
            return None;
        }
        if let Work::Findings(findings) = &self.work {
            let there = |one: &&Finding| {
                let mut all = problems(&outcome.console);
                all.any(|(_, text)| !one.c.is_empty() && text.starts_with(&one.c))
            };
            let mut missing = findings
                .iter()
                .filter(|one| !one.c.is_empty() && !there(one));
            return missing
                .next()
                .map(|one| format!("step {} is good, but \"{}\" was expected", one.step, one.c));
        }
        let mut lines = known.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<_> = lines.by_ref().filter(|line| !line.is_empty()).collect();
        let mut new = problems(&outcome.console)
            .filter(|(_, text)| !lines.iter().any(|line| text.starts_with(line)));
        new.next()
            .map(|(step, text)| format!("not known of C: step {step}: {text}"))
    }

    fn summary(&self, outcome: &Outcome) -> String {
        let report = &outcome.json["report"];
        format!(
            "{} steps, {} hostile acts, {} kinds of problems, {} leaks",
            reported(report, "hostile", "steps"),
            reported(report, "hostile", "acts"),
            problems(&outcome.console).count(),
            reported(report, "leak-seen", "count") + reported(report, "leak", "count"),
        )
    }
}

impl Test for Case {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        let known = std::fs::read_to_string(places.top.join(KNOWN))
            .map_err(|error| format!("{KNOWN}: {error}"))?;
        let args = self.arguments(places, timeout)?;
        let outcome = runner::run(places, &self.name, &args).map_err(|error| error.to_string())?;
        if self.attempts() {
            let log = std::fs::read(places.logs(&self.name).join("sevsim.log"));
            let log = log.map_err(|error| format!("sevsim.log: {error}"))?;
            let all = attempts::attempts(&String::from_utf8_lossy(&log));
            return match self.attempts_complaint(&outcome, &known, &all) {
                Some(text) => Err(text),
                None => Ok(attempts::summary(&all)),
            };
        }
        match self.complaint(&outcome, &known) {
            Some(text) => Err(text),
            None => Ok(self.summary(&outcome)),
        }
    }
}

/// What was found, from the files in tests/hostile, by seed.
fn findings(top: &Path) -> Vec<Finding> {
    let found = scenario::read_all(&top.join("tests/hostile"), Finding::parse);
    let mut findings: Vec<_> = found.into_iter().map(|(_, finding)| finding).collect();
    findings.sort_by_key(|one| (one.seed, one.step));
    findings
}

/// The cases: each seed and what was found, with both handlers.
pub fn cases(top: &Path, seeds: &[u64], steps: u64) -> Vec<Case> {
    let findings = findings(top);
    let (found, findings): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|one| one.operation.is_some());
    // What takes longest comes first, so that it does not run alone at the end.
    let mut work: Vec<_> = seeds
        .iter()
        .map(|seed| (*seed, Work::Steps(steps)))
        .collect();
    let groups = findings.chunk_by(|one, next| one.seed == next.seed);
    work.extend(groups.map(|group| (group[0].seed, Work::Findings(group.to_vec()))));
    for one in found {
        let operation = one.operation.unwrap_or_default();
        work.push((one.seed, Work::Attempt(one.step, operation, one.c)));
    }
    work.extend(SWEPT.map(|(operation, least)| (0, Work::Sweep(operation, least))));
    for seed in seeds {
        work.push((*seed, Work::Smp(steps / STEPS_PER_SMP)));
        work.push((*seed, Work::Rewrites(steps / STEPS_PER_REWRITE)));
        let attempts = (steps * ATTEMPTS_PER_1000_STEPS).div_ceil(1000);
        work.push((*seed, Work::Attempts(attempts)));
        let deadly = (0..DEADLY).map(|nth| (1000 * seed + nth, Work::Deadly));
        work.extend(deadly);
    }
    let case = |kernel: Kernel, (seed, work): &(u64, Work)| {
        let kind: String = match work {
            Work::Steps(_) => "seed".into(),
            Work::Smp(_) => "smp".into(),
            Work::Rewrites(_) => "rewrites".into(),
            Work::Findings(_) => "findings".into(),
            Work::Deadly => "deadly".into(),
            Work::Attempts(_) => "attempts".into(),
            Work::Attempt(step, operation, _) => format!("attempt-{operation}-{step}"),
            // No seed has a say.
            Work::Sweep(operation, _) => format!("sweep-{operation}"),
        };
        let suffix = match work {
            Work::Sweep(..) => String::new(),
            _ => format!("-{seed}"),
        };
        Case {
            name: format!("hostile-{}-{kind}{suffix}", kernel.name()),
            kernel,
            seed: *seed,
            work: work.clone(),
        }
    };
    let of = |work| Kernel::BOTH.map(|kernel| case(kernel, work));
    work.iter().flat_map(of).collect()
}

/// These cases and the boots of [`deceived`], of which there are some for each seed.
pub fn all(top: &Path, seeds: &[u64], steps: u64) -> Vec<Box<dyn Test>> {
    fn boxed<T: Test + 'static>(case: T) -> Box<dyn Test> {
        Box::new(case)
    }
    let boots = deceived::cases(top, seeds, steps.div_ceil(STEPS_PER_BOOT));
    let steps = cases(top, seeds, steps).into_iter().map(boxed);
    steps.chain(boots.into_iter().map(boxed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FINDING: &str = "# Why.\nseed 2\nstep 941\nc rdmsr: executed\n";

    fn case(kernel: Kernel, work: Work) -> Case {
        Case {
            name: "x".into(),
            kernel,
            seed: 2,
            work,
        }
    }

    fn outcome(status: i32, acts: u64, problems: &str) -> Outcome {
        Outcome {
            status: Some(status),
            line: "why".into(),
            json: json!({"report": {"hostile": [{"acts": acts, "steps": 1}]}}),
            console: format!("{problems}\nok 6 kernel-log\n"),
        }
    }

    #[test]
    fn findings_are_read() {
        let finding = Finding::parse(FINDING).unwrap();
        assert_eq!((finding.seed, finding.step), (2, 941));
        assert_eq!(finding.c, "rdmsr: executed");
        assert_eq!(Finding::parse("seed 2\nc x"), None);
        assert_eq!(Finding::parse("seed 2\nstep 3").unwrap().c, "");
        assert_eq!(finding.operation, None);
        let attempt = Finding::parse("seed 2\nstep 3\noperation 7").unwrap();
        assert_eq!(attempt.operation, Some(7));
    }

    #[test]
    fn rust_has_to_be_good_and_attacked() {
        let rust = case(Kernel::Rust, Work::Steps(100));
        assert_eq!(rust.complaint(&outcome(0, 200, ""), ""), None);
        assert!(rust.complaint(&outcome(3, 200, ""), "").is_some());
        assert!(rust.complaint(&outcome(0, 20, ""), "").is_some());
        let rewrites = case(Kernel::Rust, Work::Rewrites(10));
        assert_eq!(rewrites.complaint(&outcome(0, 200, ""), ""), None);
        assert!(rewrites.complaint(&outcome(0, 199, ""), "").is_some());
    }

    #[test]
    fn c_may_do_what_is_known_only() {
        let c = case(Kernel::C, Work::Steps(100));
        let run = outcome(
            3,
            200,
            "# 2 times: step 941: rdmsr: executed, event 0x101d007c",
        );
        assert_eq!(c.complaint(&run, "# why\nrdmsr: executed\n"), None);
        assert!(c.complaint(&run, "rdpmc: executed\n").is_some());
        assert!(c.complaint(&run, "").is_some());
    }

    #[test]
    fn a_deadly_reply_ends_the_guest_deliberately() {
        let rust = case(Kernel::Rust, Work::Deadly);
        let ended = |verdict: &str, report: Value| Outcome {
            json: json!({"verdict": verdict, "report": report}),
            ..outcome(5, 0, "")
        };
        assert_eq!(rust.complaint(&ended("terminated", json!({})), ""), None);
        assert_eq!(rust.complaint(&ended("panic", json!({})), ""), None);
        for verdict in ["triple-fault", "hang", "timeout", "success"] {
            assert!(rust.complaint(&ended(verdict, json!({})), "").is_some());
        }
        let leak = json!({"leak": [{"exit": 0x72}]});
        assert!(rust.complaint(&ended("terminated", leak), "").is_some());
    }

    #[test]
    fn c_has_to_show_what_was_found() {
        let finding = Finding::parse(FINDING).unwrap();
        let c = case(Kernel::C, Work::Findings(vec![finding]));
        let run = outcome(
            3,
            9,
            "# 2 times: step 941: rdmsr: executed, event 0x101d007c",
        );
        assert_eq!(c.complaint(&run, ""), None);
        assert!(c.complaint(&outcome(0, 9, ""), "").is_some());
        let end = outcome(3, 9, "").console.replace("kernel-log", "");
        let cut = Outcome {
            console: end,
            ..run
        };
        assert!(c.complaint(&cut, "").unwrap().contains("did not end"));
    }

    #[test]
    fn attempts_are_all_made_and_c_does_what_is_known() {
        let line =
            "attempt 1 bytes=[90] event=Some(Vc(7c)) end=Oops detail=0x0 warned=false cr2=0x0";
        let (oops, good) = (
            attempts::attempts(line),
            attempts::attempts(&line.replace("Oops", "Panic")),
        );
        let run = Outcome {
            console: "ok 1 attempts # status 0\n".into(),
            ..outcome(0, 0, "")
        };
        let rust = case(Kernel::Rust, Work::Attempts(1));
        assert_eq!(rust.attempts_complaint(&run, "attempt: oops", &good), None);
        assert!(rust
            .attempts_complaint(&run, "attempt: oops", &oops)
            .is_some());
        assert!(rust.attempts_complaint(&run, "", &[]).is_some());
        assert!(rust
            .attempts_complaint(&outcome(0, 0, ""), "", &good)
            .is_some());
        let sweep = case(Kernel::Rust, Work::Sweep(1, 3));
        assert!(sweep.attempts_complaint(&run, "", &good).is_some());
        let many = vec![good[0].clone(); 3 * SWEEP_EVENTS];
        assert_eq!(sweep.attempts_complaint(&run, "", &many), None);
        let leak = Outcome {
            json: json!({"report": {"leak": [{"exit": 0x87}]}}),
            ..run.clone()
        };
        assert!(sweep.attempts_complaint(&leak, "", &many).is_some());
        assert_eq!(rust.attempts_complaint(&leak, "", &good), None);
        let c = case(Kernel::C, Work::Attempts(1));
        assert_eq!(c.attempts_complaint(&run, "attempt: oops", &oops), None);
        assert!(c.attempts_complaint(&run, "attempt: hang", &oops).is_some());
        let found = |text: &str| case(Kernel::C, Work::Attempt(1, 3, text.into()));
        assert_eq!(
            found("attempt: oops").attempts_complaint(&run, "", &oops),
            None
        );
        assert!(found("").attempts_complaint(&run, "", &oops).is_some());
        assert!(found("attempt: oops")
            .attempts_complaint(&run, "", &good)
            .is_some());
        assert_eq!(found("").attempts_complaint(&run, "", &good), None);
    }

    #[test]
    fn both_handlers_get_the_same() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let cases = cases(top, &[7], 10);
        let names = |prefix: &str| -> Vec<_> {
            let names = cases.iter().map(|case| case.name.as_str());
            names.filter_map(|name| name.strip_prefix(prefix)).collect()
        };
        assert_eq!(names("hostile-rust-"), names("hostile-c-"));
        assert!(names("hostile-c-").contains(&"seed-7"));
        assert!(names("hostile-c-").contains(&"findings-2"));
    }
}
