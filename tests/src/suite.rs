// SPDX-License-Identifier: GPL-2.0
//! Runs the cases of a suite, prints KTAP, and tells of each failure where its logs are.
//!
//! A guest under sevsim keeps one CPU of the host busy, however many vCPUs it has
//! (sevsim/run/src/host_cpu.rs tells why), so that as many of them run side by side as the host has
//! CPUs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::runner::Places;

/// How much of a guest's console is shown if its test fails.
const LAST_LINES: usize = 8;

/// A case of a suite.
pub trait Test: Sync {
    /// Name, which is that of the folder with its logs.
    fn name(&self) -> &str;

    /// Whether nothing is to run beside it, as it measures time.
    fn alone(&self) -> bool {
        false
    }

    /// Why this machine cannot run it, if that is so.
    fn skip(&self) -> Option<String> {
        None
    }

    /// Runs it: a line about the result, or what was wrong.
    fn run(&self, places: &Places, timeout: u64) -> Result<String, String>;
}

impl<T: Test + ?Sized> Test for Box<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn alone(&self) -> bool {
        (**self).alone()
    }

    fn skip(&self) -> Option<String> {
        (**self).skip()
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        (**self).run(places, timeout)
    }
}

/// Calls `work` for each index below `count`, on `jobs` threads; `done` sees the results in order.
fn in_order<R: Send>(
    count: usize,
    jobs: usize,
    work: impl Fn(usize) -> R + Sync,
    mut done: impl FnMut(usize, R),
) {
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, count.max(1)) {
            let sender = sender.clone();
            let (next, work) = (&next, &work);
            scope.spawn(move || loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count || sender.send((index, work(index))).is_err() {
                    break;
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut shown = 0;
        for (index, result) in results {
            early.insert(index, result);
            while let Some(result) = early.remove(&shown) {
                done(shown, result);
                shown += 1;
            }
        }
    });
}

/// The last lines of the guest's console, of the last guest if a test has several; `logs` is the
/// test's folder. Who reads no more than what the tests print sees as well how far a guest came.
fn last_lines(logs: &Path) -> Vec<String> {
    let folders = fs::read_dir(logs).into_iter().flatten().flatten();
    let results = folders
        .map(|entry| entry.path())
        .chain([logs.to_path_buf()])
        .map(|folder| folder.join("result.json"));
    let newest =
        results.max_by_key(|result| fs::metadata(result).and_then(|of| of.modified()).ok());
    let result = newest.and_then(|result| fs::read(result).ok());
    let result: Value = serde_json::from_slice(&result.unwrap_or_default()).unwrap_or_default();
    let lines = result["last_lines"].as_array().into_iter().flatten();
    let mut lines: Vec<_> = lines.filter_map(Value::as_str).map(String::from).collect();
    lines.split_off(lines.len().saturating_sub(LAST_LINES))
}

/// Runs the cases whose name begins with one of `names` (all, if there are none). `timeout` is
/// that of one case, in seconds. Whether all passed, and there was one.
pub fn run_all<T: Test>(
    places: &Places,
    cases: Vec<T>,
    names: &[String],
    timeout: u64,
    jobs: Option<NonZero<usize>>,
) -> bool {
    let wanted = |case: &T| names.is_empty() || names.iter().any(|n| case.name().starts_with(n));
    let (alone, together): (Vec<T>, Vec<T>) =
        cases.into_iter().filter(wanted).partition(Test::alone);
    let jobs = jobs.or_else(|| thread::available_parallelism().ok());
    let jobs = jobs.map_or(1, NonZero::get);

    println!("KTAP version 1\n1..{}", together.len() + alone.len());
    let mut number = 0;
    let mut skipped = 0;
    let mut failures = Vec::new();
    for (cases, jobs) in [(&together, jobs), (&alone, 1)] {
        let run = |index: usize| {
            let start = Instant::now();
            if let Some(why) = cases[index].skip() {
                return (Ok(why), None);
            }
            // What an earlier run left must not be taken for this one's.
            let _ = fs::remove_dir_all(places.logs(cases[index].name()));
            let result = cases[index].run(places, timeout);
            (result, Some(start.elapsed().as_secs()))
        };
        in_order(cases.len(), jobs, run, |index, (result, seconds)| {
            let name = cases[index].name();
            number += 1;
            let Some(seconds) = seconds else {
                skipped += 1;
                println!("ok {number} {name} # SKIP {}", result.unwrap_or_default());
                return;
            };
            let (word, line) = match &result {
                Ok(line) => ("ok", line),
                Err(line) => ("not ok", line),
            };
            if result.is_err() {
                for line in last_lines(&places.logs(name)) {
                    println!("# {name}: {line}");
                }
                failures.push(name);
            }
            println!("{word} {number} {name} # {seconds} s: {line}");
            let _ = std::io::stdout().flush();
        });
    }
    if !failures.is_empty() {
        println!("\nWhat failed, and its logs:");
        for name in &failures {
            println!("  {name}: {}", places.logs(name).display());
        }
    }
    println!(
        "{} passed, {} failed",
        number - skipped - failures.len(),
        failures.len()
    );
    failures.is_empty() && number != skipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_all_of_them() {
        for jobs in [1, 2, 7] {
            let mut seen = Vec::new();
            let work = |index: usize| {
                // The first takes longest.
                thread::sleep(std::time::Duration::from_millis(8 - index as u64));
                index * index
            };
            in_order(8, jobs, work, |index, square| seen.push((index, square)));
            let expected: Vec<_> = (0..8).map(|index| (index, index * index)).collect();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn work_runs_side_by_side() {
        let barrier = std::sync::Barrier::new(2);
        let mut seen = 0;
        // Neither ends before the other has begun.
        in_order(2, 2, |_| barrier.wait().is_leader(), |_, _| seen += 1);
        assert_eq!(seen, 2);
    }

    #[test]
    fn the_last_guest_of_a_failed_test_is_quoted() {
        let logs = std::env::temp_dir().join(format!("sev-tests-quote-{}", std::process::id()));
        assert!(last_lines(&logs).is_empty());
        let many: Vec<_> = (0..20).map(|line| line.to_string()).collect();
        for (boot, lines) in [("boot-2", &many[..2]), ("boot-1", &many[..])] {
            fs::create_dir_all(logs.join(boot)).unwrap();
            let result = serde_json::json!({ "last_lines": lines }).to_string();
            fs::write(logs.join(boot).join("result.json"), result).unwrap();
            let lines = &lines[lines.len().saturating_sub(LAST_LINES)..];
            assert_eq!(last_lines(&logs), lines);
            // Times of files are those of the kernel's tick.
            thread::sleep(std::time::Duration::from_millis(20));
        }
        fs::write(logs.join("result.json"), "{}").unwrap();
        assert!(last_lines(&logs).is_empty());
        fs::remove_dir_all(&logs).unwrap();
    }

    #[test]
    fn nothing_to_do_ends() {
        in_order(0, 2, |_| (), |_, ()| panic!("there is no result"));
    }
}
