// SPDX-License-Identifier: GPL-2.0
//! One case: how the guest is started, and what has to be seen of it.

use serde_json::Value;

use crate::cases::Kernel;
use crate::runner::Outcome;

/// How a run has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// User space is reached, and the guest powers off.
    PowerOff,
    /// The check of user space runs and is good.
    Check,
    /// The guest asks to be terminated: reason set, reason code.
    Terminate(u64, u64),
    /// The kernel panics.
    Panic,
    /// The guest's processor shuts down.
    TripleFault,
    /// Nothing happens any more: only as something that C is known to do.
    Hang,
    /// The stack overflows, and then the guest asks to be terminated, its processor shuts down, or
    /// it goes on for ever, as memory has it: only as something that C is known to do.
    Overflow,
}

impl End {
    /// What sevsim-run is to expect.
    fn expectation(self) -> String {
        match self {
            Self::Check => "check".into(),
            Self::Terminate(set, code) => format!("terminate:{set}:{code}"),
            _ => "poweroff".into(),
        }
    }

    /// The verdicts that sevsim-run may give then.
    fn verdicts(self) -> &'static [&'static str] {
        match self {
            Self::PowerOff | Self::Check | Self::Terminate(..) => &["success"],
            Self::Panic => &["panic"],
            Self::TripleFault => &["triple-fault"],
            Self::Hang => &["hang"],
            Self::Overflow => &["triple-fault", "terminated", "hang"],
        }
    }
}

/// #VCs of a stage by name, and how many of them there have to be at least.
pub type Count = (&'static str, &'static str, u64);

/// One run.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the test.
    pub name: String,
    /// Kernel.
    pub kernel: Kernel,
    /// Options for sevsim-run.
    pub options: String,
    /// Words on the kernel's command line.
    pub append: String,
    /// How it has to end.
    pub end: End,
    /// What has to be on the console.
    pub texts: Vec<&'static str>,
    /// What has to be counted.
    pub counts: Vec<Count>,
    /// Whether the guest starts the same kernel once more by kexec.
    pub kexec: bool,
}

/// Seconds without a sign of life after which a guest hangs.
const IDLE: &str = "20";

impl Case {
    /// A case that reaches user space and powers off.
    pub fn new(kernel: Kernel, name: &str, options: &str, append: &str) -> Self {
        Self {
            name: format!("{}-{name}", kernel.name()),
            kernel,
            options: options.into(),
            append: append.into(),
            end: End::PowerOff,
            texts: Vec::new(),
            counts: Vec::new(),
            kexec: false,
        }
    }

    /// Sets how it has to end.
    pub fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// Adds what has to be on the console.
    pub fn texts(mut self, texts: &[&'static str]) -> Self {
        self.texts.extend(texts);
        self
    }

    /// Adds what has to be counted.
    pub fn counts(mut self, counts: &[Count]) -> Self {
        self.counts.extend(counts);
        self
    }

    /// One line about it.
    pub fn describe(&self) -> String {
        format!("{:?}: {} {}", self.end, self.options, self.append)
    }

    /// Arguments for sevsim-run, but for the files.
    pub fn arguments(&self) -> Vec<String> {
        let mut args: Vec<String> = self.options.split_whitespace().map(String::from).collect();
        args.extend(["--expect".into(), self.end.expectation()]);
        args.extend(["--idle-timeout".into(), IDLE.into()]);
        let mut words = self.append.clone();
        if self.kexec {
            words += " sevsim.run=/kexec/again";
        } else if self.end != End::Check {
            words += " sevsim.poweroff";
        }
        args.extend(["--append".into(), words.trim().into()]);
        args
    }

    /// Why this machine, of so many MiB, cannot run it, if that is so. sevsim-run would refuse: it
    /// holds the guest's memory twice, and 256 MiB of its own.
    pub fn too_large(&self, host: u64) -> Option<String> {
        let mut words = self.options.split_whitespace();
        words.find(|word| *word == "--memory")?;
        let needed = 2 * words.next()?.parse::<u64>().ok()? + 256;
        let plain = self.options.contains("--plain");
        (!plain && needed > host).then(|| format!("{needed} MiB of RAM are needed"))
    }

    /// What is wrong with a run, if anything.
    pub fn complaint(&self, outcome: &Outcome) -> Option<String> {
        let verdict = outcome.json["verdict"].as_str().unwrap_or_default();
        if !self.end.verdicts().contains(&verdict) {
            return Some(format!("{} (wanted: {:?})", outcome.line, self.end));
        }
        for text in &self.texts {
            if !outcome.console.contains(text) {
                return Some(format!("the console does not say \"{text}\""));
            }
        }
        let report = &outcome.json["report"];
        for (stage, name, least) in &self.counts {
            let count = counted(report, stage, name);
            if count < *least {
                return Some(format!(
                    "{count} #VCs of kind {name} in {stage}, at least {least} were due"
                ));
            }
        }
        // The guests' policy permits debugging.
        let kept = rows(report, "remains").any(|row| row["exits"].as_u64() > Some(1));
        if verdict == "triple-fault" && !kept {
            return Some("sevsim shows nothing of what came before the shutdown".into());
        }
        // A lie that was never told proves nothing.
        let silent = rows(report, "lie").find(|row| row["count"].as_u64() == Some(0));
        silent.map(|row| format!("the lie about {} was never told", row["name"]))
    }

    /// What is told of a good run: how it ended, and the #VCs by stage.
    pub fn summary(&self, outcome: &Outcome) -> String {
        let stages: Vec<String> = rows(&outcome.json["report"], "stage")
            .filter_map(|row| {
                let name = row["name"].as_str()?;
                Some(format!("{name} {}", row["count"].as_u64()?))
            })
            .collect();
        match stages.is_empty() {
            true => outcome.line.clone(),
            false => format!("{}; #VC: {}", outcome.line, stages.join(", ")),
        }
    }
}

fn rows<'a>(report: &'a Value, section: &str) -> impl Iterator<Item = &'a Value> {
    report[section].as_array().into_iter().flatten()
}

/// #VCs of a kind in a stage, over all vCPUs.
fn counted(report: &Value, stage: &str, name: &str) -> u64 {
    let of = |row: &&Value| row["stage"] == stage && row["name"] == name;
    let counts = rows(report, "vc").filter(of);
    counts.filter_map(|row| row["count"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(verdict: &str, report: Value, console: &str) -> Outcome {
        Outcome {
            status: Some(0),
            line: "line".into(),
            json: json!({ "verdict": verdict, "report": report }),
            console: console.into(),
        }
    }

    fn case() -> Case {
        Case::new(Kernel::Rust, "x", "--entry raw", "quiet")
            .texts(&["hello"])
            .counts(&[("stage1", "cpuid", 2)])
    }

    fn vcs(count: u64) -> Value {
        json!({
            "vc": [
                {"vcpu": 0, "stage": "stage1", "name": "cpuid", "count": count},
                {"vcpu": 0, "stage": "stage2", "name": "cpuid", "count": 9},
            ],
            "stage": [{"vcpu": 0, "name": "stage1", "count": count}],
        })
    }

    #[test]
    fn everything_has_to_be_right() {
        let case = case();
        let good = outcome("success", vcs(2), "oh hello");
        assert_eq!(case.complaint(&good), None);
        assert_eq!(case.summary(&good), "line; #VC: stage1 2");
        let complaint = |outcome: &Outcome| case.complaint(outcome).unwrap();
        assert!(complaint(&outcome("hang", vcs(2), "hello")).contains("wanted: PowerOff"));
        assert!(complaint(&outcome("success", vcs(2), "bye")).contains("does not say"));
        assert!(complaint(&outcome("success", vcs(1), "hello")).contains("1 #VCs"));
        assert!(complaint(&outcome("success", json!({}), "hello")).contains("0 #VCs"));
    }

    #[test]
    fn a_lie_has_to_be_told() {
        let mut report = vcs(2);
        report["lie"] = json!([{"name": "cpuid", "count": 1}, {"name": "vc", "count": 0}]);
        let case = case().end(End::Hang);
        let complaint = case.complaint(&outcome("hang", report, "hello"));
        assert!(complaint.unwrap().contains("\"vc\" was never told"));
    }

    #[test]
    fn a_shutdown_leaves_something_to_look_at() {
        let case = case().end(End::TripleFault);
        let complaint = |remains: Value| {
            let mut report = vcs(2);
            report["remains"] = remains;
            case.complaint(&outcome("triple-fault", report, "hello"))
        };
        assert_eq!(complaint(json!([{"exits": 16}])), None);
        // The exit by the shutdown itself is one.
        for nothing in [Value::Null, json!([{"exits": 1}])] {
            assert!(complaint(nothing).unwrap().contains("before the shutdown"));
        }
    }

    #[test]
    fn large_guests_need_large_machines() {
        let case = |options| Case::new(Kernel::C, "x", options, "");
        assert_eq!(case("--vcpus 1").too_large(0), None);
        let large = case("--memory 6144 --vcpus 1");
        assert_eq!(large.too_large(12544), None);
        assert!(large.too_large(12543).unwrap().contains("12544"));
        assert_eq!(case("--plain --memory 6144").too_large(8000), None);
    }

    #[test]
    fn arguments_say_what_is_expected() {
        let args = case().end(End::Terminate(0, 1)).arguments();
        let text = args.join(" ");
        assert!(text.starts_with("--entry raw --expect terminate:0:1"));
        assert!(text.ends_with("--append quiet sevsim.poweroff"));
        let check = case().end(End::Check).arguments().join(" ");
        assert!(check.ends_with("--append quiet"));
    }
}
