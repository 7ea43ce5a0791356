// SPDX-License-Identifier: GPL-2.0
//! Sweeps: an NMI at each instruction of the handler of each exit, in as many boots as it takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;

use super::row;
use super::row::End;
use super::Guest;
use crate::cases::Kernel;
use crate::runner;
use crate::runner::Places;

/// Exit kinds, and whether user mode has them. It has no exit for what raises #GP there by itself;
/// and its MMIO is refused by SIGBUS, without an exit.
const KINDS: [(&str, bool); 20] = [
    ("cpuid", true),
    ("cpuid-xsave", true),
    ("rdmsr", false),
    ("wrmsr", false),
    ("in", true),
    ("out", true),
    ("ins", true),
    ("outs", true),
    ("mmio-read", false),
    ("mmio-write", false),
    ("movs", false),
    ("rdtsc", true),
    ("rdtscp", true),
    ("rdpmc", false),
    ("dr7-read", false),
    ("dr7-write", false),
    ("wbinvd", false),
    ("vmmcall", true),
    ("nmi", true),
    ("nmi-vc", true),
];

/// The work of an NMI handler that is stepped itself is set by the program, whatever the run says.
fn own_work(name: &str) -> bool {
    name.contains("-nmi")
}

/// The kernel's log takes four exits a character on the console, and is half of the boot.
const SWEEP_WORDS: &str = "nowatchdog loglevel=5";

/// Names of the sweep program's tests.
pub fn names() -> Vec<String> {
    let user = KINDS.iter().filter(|(_, user)| *user);
    let user = user.map(|(kind, _)| format!("user-{kind}"));
    user.chain(KINDS.iter().map(|(kind, _)| format!("kernel-{kind}")))
        .collect()
}

/// What became of one test.
#[derive(Clone, Debug)]
pub struct Result {
    /// Title of the run.
    pub run: &'static str,
    /// Kernel.
    pub kernel: Kernel,
    /// Exit and mode.
    pub name: String,
    /// Result.
    pub end: End,
}

/// The results of all sweeps.
pub type Results = Arc<Mutex<Vec<Result>>>;

/// A way to do it.
#[derive(Clone, Copy)]
pub struct Run {
    /// Title of its table.
    pub title: &'static str,
    /// Name of its boots.
    pub name: &'static str,
    /// Kernel.
    pub kernel: Kernel,
    /// Part of `make test`.
    pub short: bool,
    /// Boundaries from one NMI to the next; 0: one NMI per execution.
    pub stride: u32,
    /// What the NMI handler does.
    pub work: u32,
    /// Guests that share the exits.
    pub guests: usize,
    /// Only these exits.
    pub only: Option<&'static [&'static str]>,
}

/// Some of the exits of a run, for guests one after the other.
pub struct Sweep {
    run: Run,
    name: String,
    tests: Vec<String>,
    results: Results,
}

impl Run {
    /// Deals the exits out.
    pub fn sweeps(self, results: &Results) -> Vec<Sweep> {
        let names = match self.only {
            Some(only) => only.iter().map(|name| (*name).to_string()).collect(),
            // Once is enough.
            None if self.work == super::FEW => {
                names().into_iter().filter(|name| !own_work(name)).collect()
            }
            None => names(),
        };
        let sweep = |guest: usize| Sweep {
            run: self,
            name: match self.guests {
                1 => self.name.to_string(),
                _ => format!("{}-{}", self.name, guest + 1),
            },
            tests: names
                .iter()
                .skip(guest)
                .step_by(self.guests)
                .cloned()
                .collect(),
            results: results.clone(),
        };
        (0..self.guests).map(sweep).collect()
    }
}

/// Tests of a run that are known to fail, by the list `tests/known/c-nmi`: run and test in a line.
fn known(list: &str, run: &str) -> BTreeSet<String> {
    let lines = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    let pairs = lines.filter_map(|line| line.trim().split_once(' '));
    let of = pairs.filter(|(name, _)| *name == run);
    of.map(|(_, test)| test.trim().to_string()).collect()
}

/// What differs from what is known.
fn complaint(ends: &[(String, End)], tests: &[String], known: &BTreeSet<String>) -> Option<String> {
    for test in tests {
        let Some((_, end)) = ends.iter().find(|(name, _)| name == test) else {
            return Some(format!("{test} did not run"));
        };
        if end.good() == known.contains(test) {
            let but = if end.good() {
                ", but is known to fail"
            } else {
                ""
            };
            return Some(format!("{test}: {end}{but}"));
        }
    }
    None
}

impl Sweep {
    /// Name of the case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Boots until each test has a result: one that ends its guest does not keep the others from
    /// theirs.
    pub fn boot(&self, places: &Places, timeout: u64) -> std::result::Result<String, String> {
        let mut ends: Vec<(String, End)> = Vec::new();
        let mut boots = 0;
        loop {
            let done = |test: &&String| !ends.iter().any(|(name, _)| name == *test);
            let left: Vec<&str> = self.tests.iter().filter(done).map(String::as_str).collect();
            if left.is_empty() {
                break;
            }
            boots += 1;
            let program = format!(
                "nmi_sweep,-s,{},-w,{},{}",
                self.run.stride,
                self.run.work,
                left.join(",")
            );
            let guest = Guest {
                kernel: self.run.kernel,
                program: &program,
                args: "--vcpus 1 --intercept all",
                words: SWEEP_WORDS,
                idle: 60,
            };
            let name = format!("{}/boot-{boots}", self.name);
            let outcome = runner::run(places, &name, &guest.arguments(places, timeout)?)
                .map_err(|error| error.to_string())?;
            let new = row::results(&outcome);
            if new.is_empty() {
                return Err(format!("no test ran: {}", outcome.line));
            }
            ends.extend(new);
        }
        let list = match self.run.kernel {
            Kernel::C => std::fs::read_to_string(places.top.join("tests/known/c-nmi"))
                .map_err(|error| format!("tests/known/c-nmi: {error}"))?,
            _ => String::new(),
        };
        let complaint = complaint(&ends, &self.tests, &known(&list, self.run.name));
        let sum = summary(&ends, boots);
        let mut results = self.results.lock().map_err(|error| error.to_string())?;
        results.extend(ends.into_iter().map(|(name, end)| Result {
            run: self.run.title,
            kernel: self.run.kernel,
            name,
            end,
        }));
        match complaint {
            Some(text) => Err(format!("{text} ({sum})")),
            None => Ok(sum),
        }
    }
}

fn summary(ends: &[(String, End)], boots: usize) -> String {
    let good = ends.iter().filter(|(_, end)| end.good()).count();
    let nmis: u64 = ends
        .iter()
        .map(|(_, end)| match end {
            End::Done(counts, _) => counts.nmis,
            _ => 0,
        })
        .sum();
    let boots = if boots == 1 {
        String::new()
    } else {
        format!(", {boots} boots")
    };
    format!("{good} of {} exits good, {nmis} NMIs{boots}", ends.len())
}

#[cfg(test)]
mod tests {
    use super::super::row::Counts;
    use super::*;

    fn ends(list: &[(&str, bool)]) -> Vec<(String, End)> {
        let end = |good: bool| match good {
            true => End::Done(Counts::default(), None),
            false => End::Panic("why".into()),
        };
        let pairs = list
            .iter()
            .map(|(name, good)| (name.to_string(), end(*good)));
        pairs.collect()
    }

    #[test]
    fn each_exit_is_dealt_out_once() {
        let mut run = Run {
            title: "title",
            name: "nmi-x",
            kernel: Kernel::Rust,
            short: false,
            stride: 0,
            work: super::super::ALL,
            guests: 3,
            only: None,
        };
        let sweeps = run.sweeps(&Results::default());
        assert_eq!(sweeps[2].name(), "nmi-x-3");
        let mut all: Vec<_> = sweeps
            .iter()
            .flat_map(|sweep| sweep.tests.clone())
            .collect();
        let mut wanted = names();
        all.sort();
        wanted.sort();
        assert_eq!(all, wanted);
        assert_eq!(wanted.len(), 31);
        run.work = super::super::FEW;
        let few = run.sweeps(&Results::default());
        assert_eq!(few.iter().map(|sweep| sweep.tests.len()).sum::<usize>(), 27);
    }

    #[test]
    fn what_is_known_is_strict() {
        let list = "# comment\nnmi-a user-in # panics\nnmi-b user-out\n";
        let a = known(list, "nmi-a");
        assert_eq!(a.iter().collect::<Vec<_>>(), ["user-in"]);
        let tests = ["user-in".to_string(), "user-out".to_string()];
        let check = |ends: &[(&str, bool)]| complaint(&self::ends(ends), &tests, &a);
        assert_eq!(check(&[("user-out", true), ("user-in", false)]), None);
        let why = check(&[("user-out", true), ("user-in", true)]).unwrap();
        assert!(why.contains("known to fail"), "{why}");
        let why = check(&[("user-out", false), ("user-in", false)]).unwrap();
        assert!(why.contains("panic: why"), "{why}");
        let why = check(&[("user-in", false)]).unwrap();
        assert!(why.contains("user-out did not run"), "{why}");
    }
}
