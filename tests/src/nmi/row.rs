// SPDX-License-Identifier: GPL-2.0
//! What the sweep program told about one exit kind, or what became of the guest instead.

use std::fmt;

use crate::runner::Outcome;

/// The counters of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions of one execution of the handler.
    pub boundaries: u64,
    /// NMIs injected.
    pub nmis: u64,
    /// NMIs handled.
    pub handled: u64,
    /// Wrong results, of the exit and of those in the NMI handler.
    pub wrong: u64,
    /// NMIs that were not handled.
    pub lost: u64,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With results; and what is wrong with them.
    Done(Counts, Option<String>),
    /// Not intercepted.
    Skipped,
    /// The kernel panicked.
    Panic(String),
    /// Otherwise.
    Dead(String),
}

impl End {
    /// Whether all is well.
    pub fn good(&self) -> bool {
        matches!(self, Self::Done(_, None))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(counts, None) => write!(f, "{} boundaries", counts.boundaries),
            Self::Done(_, Some(problem)) => f.write_str(problem),
            Self::Skipped => f.write_str("not intercepted"),
            Self::Panic(text) => write!(f, "panic: {text}"),
            Self::Dead(text) => f.write_str(text),
        }
    }
}

/// The number before a word.
fn number(line: &str, word: &str) -> u64 {
    let before = line.split_once(word).map(|(before, _)| before);
    let digits = before.and_then(|text| text.rsplit(' ').next());
    digits.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A line of KTAP: the test's name and its result.
fn result(line: &str) -> Option<(String, End)> {
    let (good, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (test, detail) = rest.split_once(" # ")?;
    let (_, name) = test.split_once(' ')?;
    if detail.starts_with("SKIP") {
        return Some((name.into(), End::Skipped));
    }
    let counts = Counts {
        boundaries: number(detail, " executed"),
        nmis: number(detail, " NMIs"),
        handled: number(detail, " handled"),
        wrong: number(detail, " wrong"),
        lost: number(detail, " lost"),
    };
    let problem = detail.split_once(": ").map(|(_, text)| text.to_string());
    let problem = problem.or_else(|| (!good).then(|| "failed".into()));
    Some((name.into(), End::Done(counts, problem)))
}

/// The results of one boot. If it ended in the middle of a test, this is that test's result.
pub fn results(outcome: &Outcome) -> Vec<(String, End)> {
    let lines = || outcome.console.lines().map(str::trim_end);
    let mut rows: Vec<_> = lines().filter_map(result).collect();
    let last = lines()
        .filter_map(|line| line.strip_prefix("# begin "))
        .next_back();
    let Some(last) = last else {
        return rows;
    };
    if rows.iter().any(|(name, _)| name == last) {
        return rows;
    }
    let panic = lines().find_map(|line| Some(line.split_once("Kernel panic - not syncing: ")?.1));
    let end = match panic {
        Some(text) => End::Panic(text.into()),
        None => End::Dead(outcome.line.clone()),
    };
    rows.push((last.into(), end));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(console: &str) -> Outcome {
        Outcome::made_up(0, "hang: silence", console)
    }

    const GOOD: &str = "KTAP version 1\n# begin user-cpuid\n# 700 exits so far\n\
        ok 1 user-cpuid # 607 instructions, 774 executed, 775 exits; 773 NMIs, 773 handled, \
        0 wrong, 0 lost\r\n# begin user-rdtsc\nok 2 user-rdtsc # SKIP not intercepted\n";

    #[test]
    fn results_are_read() {
        let rows = results(&outcome(GOOD));
        let counts = Counts {
            boundaries: 774,
            nmis: 773,
            handled: 773,
            wrong: 0,
            lost: 0,
        };
        assert_eq!(rows[0], ("user-cpuid".into(), End::Done(counts, None)));
        assert_eq!(rows[1], ("user-rdtsc".into(), End::Skipped));
        assert!(rows[0].1.good() && !rows[1].1.good());
    }

    #[test]
    fn a_failure_has_its_reason() {
        let bad = "# begin kernel-in\nnot ok 1 kernel-in # 6 instructions, 7 executed, 8 exits; \
            5 NMIs, 4 handled, 3 wrong, 1 lost: wrong results\n";
        let rows = results(&outcome(bad));
        let End::Done(counts, Some(problem)) = &rows[0].1 else {
            panic!("{rows:?}");
        };
        assert_eq!((counts.wrong, counts.lost), (3, 1));
        assert_eq!(problem, "wrong results");
        assert!(!rows[0].1.good());
    }

    #[test]
    fn the_test_that_ended_the_guest_has_a_result() {
        let begun = format!("{GOOD}# begin user-in\n");
        let rows = results(&outcome(&begun));
        let dead = End::Dead("hang: silence".into());
        assert_eq!(rows[2], ("user-in".into(), dead));
        let panic = format!("{begun}[   9.1] Kernel panic - not syncing: GHCB in use\n");
        let rows = results(&outcome(&panic));
        assert_eq!(rows[2].1, End::Panic("GHCB in use".into()));
        assert!(results(&outcome("Kernel panic - not syncing: early")).is_empty());
    }
}
