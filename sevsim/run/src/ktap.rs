// SPDX-License-Identifier: GPL-2.0
//! Reads the check's KTAP output from the guest's console, and compares it with what may fail.

use std::collections::BTreeSet;

use serde::Serialize;

/// How one test of the check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// `ok`.
    Pass,
    /// `not ok`.
    Fail,
    /// `ok ... # SKIP`.
    Skip,
}

/// One line of test result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestResult {
    /// The test's name: first word of its description.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Rest of the line, with the reason of a skip or failure.
    pub detail: String,
}

/// Collects the results while console lines come in.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ktap {
    /// Number of tests announced by the plan, if there was one.
    pub plan: Option<usize>,
    /// Results in the order of the console.
    pub results: Vec<TestResult>,
    /// `Bail out!` was seen.
    pub bailed_out: bool,
    /// The numbers of the results are not 1, 2, 3 ...: output was lost, or is not the check's.
    pub out_of_order: bool,
}

impl Ktap {
    /// Takes one console line (without its end). Lines that are not KTAP are ignored.
    pub fn line(&mut self, line: &str) {
        if let Some(plan) = line.strip_prefix("1..") {
            if let Ok(count) = plan.trim().parse() {
                self.plan = Some(count);
            }
            return;
        }
        if line.starts_with("Bail out!") {
            self.bailed_out = true;
            return;
        }
        let (passed, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return,
        };
        let Some((number, rest)) = rest.split_once(' ') else {
            return;
        };
        let Ok(number) = number.parse::<usize>() else {
            return;
        };
        self.out_of_order |= number != self.results.len() + 1;
        let rest = rest.trim().trim_start_matches("- ").trim();
        // kselftest.h puts the directive before the name.
        let (skipped, rest) = match rest.strip_prefix("# SKIP ") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (name, detail) = rest.split_once(' ').unwrap_or((rest, ""));
        let detail = detail.trim();
        let skipped = skipped || detail.to_ascii_uppercase().contains("# SKIP");
        let outcome = match (passed, skipped) {
            (_, true) => Outcome::Skip,
            (true, false) => Outcome::Pass,
            (false, false) => Outcome::Fail,
        };
        self.results.push(TestResult {
            name: name.into(),
            outcome,
            detail: detail.into(),
        });
    }

    /// Number of results with `outcome`.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.results.iter().filter(|r| r.outcome == outcome).count()
    }

    /// Holds the results against the tests that are known to fail.
    ///
    /// Strict in both directions: a test on the list that passes is reported too, because the list
    /// is then out of date.
    pub fn judge(&self, known: &KnownFailures) -> Judgement {
        let mut judgement = Judgement::default();
        for result in &self.results {
            let listed = known.names.contains(&result.name);
            match (result.outcome, listed) {
                (Outcome::Fail, false) => judgement.unexpected_failures.push(result.name.clone()),
                (Outcome::Fail, true) => judgement.known_failures.push(result.name.clone()),
                (Outcome::Pass, true) => judgement.unexpected_passes.push(result.name.clone()),
                _ => {}
            }
        }
        judgement.missing = match self.plan {
            None => Some("the check did not announce its number of tests".into()),
            Some(plan) if plan != self.results.len() => Some(format!(
                "{} of {plan} tests reported a result",
                self.results.len()
            )),
            Some(0) => Some("the check ran no test".into()),
            Some(_) if self.out_of_order => Some("the results are not numbered in order".into()),
            Some(_) if self.bailed_out => Some("the check gave up".into()),
            Some(_) => None,
        };
        judgement
    }
}

/// What the results mean in the light of [`KnownFailures`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Failed, and not on the list.
    pub unexpected_failures: Vec<String>,
    /// Failed, as the list says.
    pub known_failures: Vec<String>,
    /// On the list, but passed.
    pub unexpected_passes: Vec<String>,
    /// Why the results are not complete.
    pub missing: Option<String>,
}

impl Judgement {
    /// Complete, and nothing differs from what was expected.
    pub fn good(&self) -> bool {
        self.unexpected_failures.is_empty()
            && self.unexpected_passes.is_empty()
            && self.missing.is_none()
    }
}

/// Names of tests that are known to fail with the kernel under test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownFailures {
    /// First words of the tests' descriptions.
    pub names: BTreeSet<String>,
}

impl KnownFailures {
    /// Reads a list: one name per line, `#` starts a comment.
    pub fn parse(text: &str) -> Self {
        let names = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or("").trim())
            .filter(|name| !name.is_empty())
            .map(String::from)
            .collect();
        Self { names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Ktap {
        let mut ktap = Ktap::default();
        lines.iter().for_each(|line| ktap.line(line));
        ktap
    }

    #[test]
    fn results_are_read_among_other_lines() {
        let ktap = read(&[
            "TAP version 13",
            "1..4",
            "[    1.0] something of the kernel",
            "ok 1 cpuid_vendor",
            "not ok 2 string_down # element 2 went astray",
            "ok 3 ac_check # SKIP the processor raises no #AC",
            "ok 4 # SKIP rtc no clock",
            "not ok without a number",
            "okay 4 no",
        ]);
        assert_eq!(ktap.plan, Some(4));
        assert_eq!(ktap.results.len(), 4);
        assert_eq!(ktap.results[1].name, "string_down");
        assert_eq!(ktap.results[1].outcome, Outcome::Fail);
        assert_eq!(ktap.results[2].outcome, Outcome::Skip);
        assert_eq!(ktap.results[3].name, "rtc");
        assert_eq!(ktap.results[3].outcome, Outcome::Skip);
        assert_eq!(ktap.count(Outcome::Pass), 1);
    }

    #[test]
    fn known_failures_are_strict() {
        let ktap = read(&["1..2", "ok 1 a", "not ok 2 b"]);
        assert!(!ktap.judge(&KnownFailures::default()).good());
        assert!(ktap.judge(&KnownFailures::parse("b # why\n\n# c\n")).good());
        let stale = ktap.judge(&KnownFailures::parse("a\nb"));
        assert_eq!(stale.unexpected_passes, ["a"]);
        assert!(!stale.good());
    }

    #[test]
    fn incomplete_results_are_not_good() {
        let none = KnownFailures::default();
        assert!(!read(&[]).judge(&none).good());
        assert!(!read(&["1..0"]).judge(&none).good());
        assert!(!read(&["1..2", "ok 1 a"]).judge(&none).good());
        assert!(!read(&["1..1", "ok 1 a", "Bail out! no memory"])
            .judge(&none)
            .good());
        assert!(!read(&["1..2", "ok 1 a", "ok 1 a"]).judge(&none).good());
        assert!(read(&["1..1", "ok 1 a"]).judge(&none).good());
    }
}
