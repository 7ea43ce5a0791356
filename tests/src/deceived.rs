// SPDX-License-Identifier: GPL-2.0
//! Boots under a host that lies (sevsim's option `lie`): what the files in tests/hostile/boots say,
//! and boots in which one act at random hits one of the early stages.

use std::path::Path;

use crate::cases::Kernel;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;
use crate::scenario;
use crate::suite::Test;

/// Ways to end that are deliberate. Anything else needs a reason, which a scenario's file gives.
const DELIBERATE: [&str; 3] = ["success", "terminated", "panic"];

/// An act at random in a stage.
struct Act {
    stage: &'static str,
    /// The lie that chooses it.
    what: &'static str,
    /// Within how many #VCs or replies it comes.
    within: u64,
    /// With the kernel's early console: the stage gets its #VCs by it, or it has to tell a panic.
    console: bool,
}

const fn act(stage: &'static str, what: &'static str, within: u64, console: bool) -> Act {
    Act {
        stage,
        what,
        within,
        console,
    }
}

const ACTS: [Act; 6] = [
    act("stage1", "random", 6, false),
    act("stage2", "random", 150, true),
    act("startup", "random", 7, false),
    act("early", "random", 240, false),
    act("early", "random", 3000, true),
    act("early", "random-cpuid", 90, true),
];

/// Seconds without a sign of life after which a guest hangs.
const IDLE: &str = "25";

/// What the kernel says when it stops early, where there is no panic yet.
const STOPPED: [&str; 2] = ["PANIC: early exception", "-- System halted"];

/// How a run ended. A kernel that stops with a message does not hang.
fn verdict(outcome: &Outcome) -> &str {
    match outcome.json["verdict"].as_str().unwrap_or_default() {
        "hang" if STOPPED.iter().any(|text| outcome.console.contains(text)) => "panic",
        verdict => verdict,
    }
}

/// A file of tests/hostile/boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scenario {
    lies: Vec<String>,
    /// Options for sevsim-run.
    options: String,
    /// Program in the guest, with commas between its arguments.
    run: Option<String>,
    /// Words on the kernel's command line.
    append: String,
    /// Verdicts that are right, of Rust and of C.
    rust: Vec<String>,
    c: Vec<String>,
    /// What Rust says on the console.
    says: Vec<String>,
}

impl Scenario {
    /// Reads a file; `None` if it is not one.
    fn parse(text: &str) -> Option<Self> {
        let mut scenario = Self::default();
        let words = |value: &str| value.split_whitespace().map(String::from).collect();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line.split_once(' ')?;
            match key {
                "lie" => scenario.lies.push(value.into()),
                "options" => scenario.options = value.into(),
                "run" => scenario.run = Some(value.into()),
                "append" => scenario.append = value.into(),
                "rust" => scenario.rust = words(value),
                "c" => scenario.c = words(value),
                "says" => scenario.says.push(value.into()),
                _ => return None,
            }
        }
        let complete = !scenario.lies.is_empty() && !scenario.rust.is_empty();
        (complete && !scenario.c.is_empty()).then_some(scenario)
    }
}

/// One boot.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    kernel: Kernel,
    scenario: Scenario,
}

impl Case {
    fn arguments(&self, places: &Places, timeout: u64) -> Result<Vec<String>, String> {
        let Scenario {
            lies,
            options,
            run,
            append,
            ..
        } = &self.scenario;
        let kernel = places.kernel(self.kernel)?;
        let initramfs = places.build.join("hostile/initramfs.cpio.gz");
        let mut args: Vec<String> = options.split_whitespace().map(String::from).collect();
        for lie in lies {
            args.extend(["--option".into(), format!("lie={lie}")]);
        }
        let (expect, work) = match run {
            Some(run) => ("check", format!("sevsim.run={run}")),
            None => ("poweroff", "sevsim.poweroff".into()),
        };
        for (key, value) in [
            ("--expect", expect.into()),
            ("--idle-timeout", IDLE.into()),
            ("--timeout", timeout.to_string()),
            ("--kernel", kernel.to_string_lossy().into_owned()),
            ("--initrd", initramfs.to_string_lossy().into_owned()),
            ("--append", format!("{append} {work}").trim().into()),
        ] {
            args.extend([key.into(), value]);
        }
        Ok(args)
    }

    /// What is wrong with a run, if anything.
    fn complaint(&self, outcome: &Outcome) -> Option<String> {
        let (wanted, says): (_, &[String]) = match self.kernel {
            Kernel::Rust => (&self.scenario.rust, &self.scenario.says),
            _ => (&self.scenario.c, &[]),
        };
        let verdict = verdict(outcome);
        if !wanted.iter().any(|one| one == verdict) {
            return Some(format!("{} (wanted: {})", outcome.line, wanted.join(", ")));
        }
        if let Some(text) = says.iter().find(|text| !outcome.console.contains(*text)) {
            return Some(format!("the console does not say \"{text}\""));
        }
        // A lie that was never told proves nothing.
        let told = outcome.json["report"]["lie"].as_array();
        let mut lies = told.into_iter().flatten();
        let silent = lies.find(|row| row["count"].as_u64() == Some(0));
        silent.map(|row| format!("the lie about {} was never told", row["name"]))
    }
}

impl Test for Case {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        let args = self.arguments(places, timeout)?;
        let outcome = runner::run(places, &self.name, &args).map_err(|error| error.to_string())?;
        match self.complaint(&outcome) {
            Some(text) => Err(text),
            None => Ok(outcome.line),
        }
    }
}

/// The scenarios in tests/hostile/boots, by name.
fn scenarios(top: &Path) -> Vec<(String, Scenario)> {
    scenario::read_all(&top.join("tests/hostile/boots"), Scenario::parse)
}

/// A boot with one act at random.
fn random(act: &Act, seed: u64) -> (String, Scenario) {
    let Act {
        stage,
        what,
        within,
        console,
    } = act;
    let append = match console {
        true => "nokaslr earlyprintk=ttyS0",
        false => "nokaslr quiet",
    };
    let deliberate = DELIBERATE.map(String::from);
    // How C ends is told; what it does wrong is in the table of tests/hostile/README.md.
    let others = ["triple-fault", "hang", "reset"].map(String::from);
    let scenario = Scenario {
        lies: vec![format!("{stage}:{what}:{seed}:{within}")],
        options: "--entry raw --vcpus 1".into(),
        append: append.into(),
        rust: deliberate.to_vec(),
        c: deliberate.into_iter().chain(others).collect(),
        ..Scenario::default()
    };
    (format!("{what}-{stage}-{within}-{seed}"), scenario)
}

/// The cases, with both handlers: the scenarios, and for each stage `count` boots a seed.
pub fn cases(top: &Path, seeds: &[u64], count: u64) -> Vec<Case> {
    let mut all = scenarios(top);
    for seed in seeds {
        for nth in 0..count {
            all.extend(ACTS.iter().map(|act| random(act, 1000 * seed + nth)));
        }
    }
    let of = |kernel: Kernel| {
        all.iter().map(move |(name, scenario)| Case {
            name: format!("hostile-{}-boot-{name}", kernel.name()),
            kernel,
            scenario: scenario.clone(),
        })
    };
    Kernel::BOTH.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = "# Why.\nlie any:sipi\noptions --vcpus 2\nrun /bin/hold\nrust success\n\
                        c panic hang\nsays no SIPI\n";

    fn outcome(verdict: &str, count: u64, console: &str) -> Outcome {
        Outcome {
            status: Some(0),
            line: "why".into(),
            json: json!({"verdict": verdict,
                         "report": {"lie": [{"name": "sipi", "count": count}]}}),
            console: console.into(),
        }
    }

    fn case(kernel: Kernel) -> Case {
        Case {
            name: "x".into(),
            kernel,
            scenario: Scenario::parse(TEXT).unwrap(),
        }
    }

    #[test]
    fn scenarios_are_read() {
        let scenario = Scenario::parse(TEXT).unwrap();
        assert_eq!(scenario.lies, ["any:sipi"]);
        assert_eq!(scenario.run.as_deref(), Some("/bin/hold"));
        assert_eq!(scenario.c, ["panic", "hang"]);
        for word in ["lie any:sipi\n", "rust success\n", "c panic hang\n"] {
            assert_eq!(Scenario::parse(&TEXT.replace(word, "")), None, "{word}");
        }
        assert_eq!(Scenario::parse(&TEXT.replace("options", "option")), None);
    }

    #[test]
    fn all_files_are_scenarios() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let files = std::fs::read_dir(top.join("tests/hostile/boots")).unwrap();
        assert_eq!(scenarios(top).len(), files.count());
    }

    #[test]
    fn a_verdict_is_right_for_one_handler() {
        let complaint = |kernel, outcome: &Outcome| case(kernel).complaint(outcome);
        let good = outcome("success", 1, "no SIPI came");
        assert_eq!(complaint(Kernel::Rust, &good), None);
        assert!(complaint(Kernel::C, &good).is_some());
        assert_eq!(complaint(Kernel::C, &outcome("hang", 1, "")), None);
        assert!(complaint(Kernel::Rust, &outcome("success", 1, "")).is_some());
        assert!(complaint(Kernel::Rust, &outcome("hang", 1, "no SIPI")).is_some());
        let silent = complaint(Kernel::C, &outcome("hang", 0, ""));
        assert!(silent.unwrap().contains("never told"));
        assert_eq!(verdict(&outcome("hang", 1, "boot")), "hang");
        let stopped = outcome("hang", 1, "PANIC: early exception 0x06 IP");
        assert_eq!(verdict(&stopped), "panic");
    }

    #[test]
    fn rust_ends_deliberately_at_random() {
        let (name, scenario) = random(&ACTS[1], 7);
        assert_eq!(name, "random-stage2-150-7");
        assert_eq!(scenario.lies, ["stage2:random:7:150"]);
        assert_eq!(scenario.rust, DELIBERATE);
        assert!(scenario.append.contains("earlyprintk"));
    }
}
