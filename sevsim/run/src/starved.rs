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

/// Adds up the time in which a thread of a process could run, but had no processor.
pub struct Starved {
    /// `/proc/PID/task`.
    tasks: PathBuf,
    /// Each thread's waiting time when it was last looked at.
    before: HashMap<String, Duration>,
    looked: Instant,
    total: Duration,
}

impl Starved {
    /// Begins to watch the process `pid`.
    pub fn new(pid: u32) -> Self {
        Self {
            tasks: PathBuf::from(format!("/proc/{pid}/task")),
            before: HashMap::new(),
            looked: Instant::now(),
            total: Duration::ZERO,
        }
    }

    /// Time waited so far, of the threads that waited longest. Stays 0 if the kernel does not tell.
    pub fn total(&mut self) -> Duration {
        let elapsed = self.looked.elapsed();
        if elapsed >= PERIOD {
            self.looked = Instant::now();
            let now = waits(&self.tasks);
            self.total += longest(&self.before, &now).min(elapsed);
            self.before = now;
        }
        self.total
    }
}

/// The longest wait of a thread between two looks.
fn longest(before: &HashMap<String, Duration>, now: &HashMap<String, Duration>) -> Duration {
    let wait = |(thread, wait): (&String, &Duration)| {
        wait.saturating_sub(before.get(thread).copied().unwrap_or_default())
    };
    now.iter().map(wait).max().unwrap_or_default()
}

fn waits(tasks: &Path) -> HashMap<String, Duration> {
    let Ok(threads) = fs::read_dir(tasks) else {
        return HashMap::new();
    };
    let threads = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        Some((thread.file_name().into_string().ok()?, wait(&text)?))
    });
    threads.collect()
}

/// The second number of `schedstat`: nanoseconds on a run queue
/// (Documentation/scheduler/sched-stats of the kernel).
fn wait(schedstat: &str) -> Option<Duration> {
    let wait = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(list: &[(&str, u64)]) -> HashMap<String, Duration> {
        let second = |(name, wait): &(&str, u64)| (name.to_string(), Duration::from_secs(*wait));
        list.iter().map(second).collect()
    }

    #[test]
    fn the_longest_wait_of_a_thread_counts() {
        let before = threads(&[("1", 10), ("2", 3), ("3", 9)]);
        // 3 has ended, 4 is new.
        let now = threads(&[("1", 11), ("2", 7), ("4", 2)]);
        assert_eq!(longest(&before, &now), Duration::from_secs(4));
        assert_eq!(longest(&now, &now), Duration::ZERO);
        assert_eq!(longest(&before, &threads(&[])), Duration::ZERO);
    }

    #[test]
    fn schedstat_is_read() {
        assert_eq!(
            wait("616833 1045388 2\n"),
            Some(Duration::from_nanos(1_045_388))
        );
        assert_eq!(wait(""), None);
        assert_eq!(wait("1 x 2"), None);
        assert!(waits(Path::new("/no/such/folder")).is_empty());
        assert!(!waits(Path::new("/proc/self/task")).is_empty());
    }

    #[test]
    fn a_process_that_sleeps_is_not_starved() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut starved = Starved::new(child.id());
        std::thread::sleep(PERIOD + Duration::from_millis(100));
        starved.total();
        std::thread::sleep(PERIOD + Duration::from_millis(100));
        let total = starved.total();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(total < PERIOD, "{total:?}");
    }
}
