// SPDX-License-Identifier: GPL-2.0
//! How long a process has waited for a processor. A guest on a loaded machine is not hung.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// How often the threads are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// What a thread has had so far (Documentation/scheduler/sched-stats of the kernel).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Times {
    /// On a processor.
    ran: Duration,
    /// On a run queue.
    waited: Duration,
}

/// Adds up the time in which a thread of a process could run, but had no processor, as other
/// processes had it.
pub struct Starved {
    /// `/proc/PID/task`.
    tasks: PathBuf,
    /// Each thread's times when it was last looked at.
    before: HashMap<String, Times>,
    looked: Instant,
    total: Duration,
    /// How many processors the process may use.
    cpus: u32,
}

impl Starved {
    /// Begins to watch the process `pid`, which may use `cpus` processors.
    pub fn new(pid: u32, cpus: u32) -> Self {
        Self {
            tasks: PathBuf::from(format!("/proc/{pid}/task")),
            before: HashMap::new(),
            looked: Instant::now(),
            total: Duration::ZERO,
            cpus,
        }
    }

    /// Time without a processor so far. Stays 0 if the kernel does not tell.
    pub fn total(&mut self) -> Duration {
        let elapsed = self.looked.elapsed();
        if elapsed >= PERIOD {
            self.looked = Instant::now();
            let now = threads(&self.tasks);
            self.total += starved(&self.before, &now, elapsed, self.cpus);
            self.before = now;
        }
        self.total
    }
}

/// How much of `elapsed` the process lacked a processor: as long as the thread waited that waited
/// longest, but not while all `cpus` were its own, and its threads waited for each other.
fn starved(
    before: &HashMap<String, Times>,
    now: &HashMap<String, Times>,
    elapsed: Duration,
    cpus: u32,
) -> Duration {
    let mut longest = Duration::ZERO;
    let mut ran = Duration::ZERO;
    for (thread, times) in now {
        let before = before.get(thread).copied().unwrap_or_default();
        longest = longest.max(times.waited.saturating_sub(before.waited));
        ran += times.ran.saturating_sub(before.ran);
    }
    longest
        .min((elapsed * cpus).saturating_sub(ran))
        .min(elapsed)
}

fn threads(tasks: &Path) -> HashMap<String, Times> {
    let Ok(threads) = fs::read_dir(tasks) else {
        return HashMap::new();
    };
    let threads = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        Some((thread.file_name().into_string().ok()?, times(&text)?))
    });
    threads.collect()
}

/// The first two numbers of `schedstat`: nanoseconds on a processor and on a run queue.
fn times(schedstat: &str) -> Option<Times> {
    let mut numbers = schedstat.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok().map(Duration::from_nanos);
    Some(Times {
        ran: next()?,
        waited: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads by name, with the seconds that they ran and waited.
    fn all(list: &[(&str, u64, u64)]) -> HashMap<String, Times> {
        let second = |(name, ran, waited): &(&str, u64, u64)| {
            let (ran, waited) = (Duration::from_secs(*ran), Duration::from_secs(*waited));
            (name.to_string(), Times { ran, waited })
        };
        list.iter().map(second).collect()
    }

    #[test]
    fn the_longest_wait_of_a_thread_counts() {
        let before = all(&[("1", 0, 10), ("2", 1, 3), ("3", 2, 9)]);
        // 3 has ended, 4 is new.
        let now = all(&[("1", 0, 11), ("2", 2, 7), ("4", 0, 2)]);
        let within = |seconds| starved(&before, &now, Duration::from_secs(seconds), 1);
        assert_eq!(within(10), Duration::from_secs(4));
        assert_eq!(within(3), Duration::from_secs(2), "no more than there was");
        assert_eq!(starved(&now, &now, PERIOD, 1), Duration::ZERO);
        assert_eq!(starved(&before, &all(&[]), PERIOD, 1), Duration::ZERO);
    }

    #[test]
    fn threads_that_wait_for_each_other_are_not_starved() {
        let none = HashMap::new();
        let lacked = |threads: &[(&str, u64, u64)], cpus| {
            starved(&none, &all(threads), Duration::from_secs(10), cpus).as_secs()
        };
        assert_eq!(lacked(&[("1", 5, 5), ("2", 5, 5)], 1), 0);
        assert_eq!(lacked(&[("1", 3, 7), ("2", 2, 8)], 1), 5);
        // Each could have had a processor of its own.
        assert_eq!(lacked(&[("1", 5, 5), ("2", 5, 5)], 2), 5);
        assert_eq!(lacked(&[("1", 10, 0), ("2", 9, 1)], 2), 1);
    }

    #[test]
    fn schedstat_is_read() {
        let both = Times {
            ran: Duration::from_nanos(616_833),
            waited: Duration::from_nanos(1_045_388),
        };
        assert_eq!(times("616833 1045388 2\n"), Some(both));
        assert_eq!(times(""), None);
        assert_eq!(times("1 x 2"), None);
        assert!(threads(Path::new("/no/such/folder")).is_empty());
        assert!(!threads(Path::new("/proc/self/task")).is_empty());
    }

    #[test]
    fn a_process_that_sleeps_is_not_starved() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut starved = Starved::new(child.id(), 1);
        std::thread::sleep(PERIOD + Duration::from_millis(100));
        starved.total();
        std::thread::sleep(PERIOD + Duration::from_millis(100));
        let total = starved.total();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(total < PERIOD, "{total:?}");
    }
}
