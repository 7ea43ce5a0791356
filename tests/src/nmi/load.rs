// SPDX-License-Identifier: GPL-2.0
//! Work for all CPUs of a guest in a storm of NMIs: tests/guest/load, on the disk that
//! scripts/load-image makes.

use std::collections::BTreeMap;

use clap::ValueEnum;

use super::lost;
use super::Guest;
use crate::cases::Kernel;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;
use crate::suite;
use crate::suite::Test;

/// Who handles #VC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Handler {
    /// The Rust implementation
    Rust,
    /// The C implementation
    C,
}

/// Bursts of two NMIs per second and vCPU. The handler of each performs four exits.
const RATE: u32 = 50;

/// Seconds for all that is not work: the boot, the last round of stress-ng, the check of the file
/// system.
const MARGIN: u64 = 900;

/// A simulated CPU is slow, and may have to wait for one of the host's.
const WATCHDOGS: &str = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120";

/// One boot.
struct Load {
    name: String,
    kernel: Kernel,
    vcpus: usize,
    seconds: u64,
}

/// What `load: KEY=NUMBER ...` lines of the work add up to.
fn totals(console: &str) -> BTreeMap<&str, u64> {
    let mut totals = BTreeMap::new();
    let lines = console.lines().map(|line| line.trim_start_matches("# "));
    for line in lines.filter_map(|line| line.trim_end().strip_prefix("load: ")) {
        for word in line.split_whitespace() {
            let Some((key, number)) = word.split_once('=') else {
                continue;
            };
            *totals.entry(key).or_insert(0) += number.parse().unwrap_or(0);
        }
    }
    totals
}

impl Load {
    fn new(handler: Handler, vcpus: usize, seconds: u64) -> Self {
        let kernel = match handler {
            Handler::Rust => Kernel::Rust,
            Handler::C => Kernel::C,
        };
        Self {
            name: format!("load-{}-{vcpus}cpu", kernel.name()),
            kernel,
            vcpus,
            seconds,
        }
    }

    /// The work's figures; or what is wrong with the run.
    fn judge(&self, outcome: &Outcome) -> Result<String, String> {
        let wrong = outcome
            .console
            .lines()
            .find(|line| line.contains("WRONG: "));
        if let Some(line) = wrong {
            return Err(line.trim_start_matches("# ").trim_end().into());
        }
        if outcome.status != Some(0) {
            return Err(outcome.line.clone());
        }
        if outcome.console.contains("1..0 # SKIP") {
            return Err("was skipped".into());
        }
        let totals = totals(&outcome.console);
        let of = |key| totals.get(key).copied().unwrap_or(0);
        let workers = outcome.console.matches("load: cpu=").count();
        if workers != self.vcpus {
            return Err(format!("{workers} of {} CPUs did their work", self.vcpus));
        }
        if of("seconds") < self.seconds {
            return Err(format!("it took {} s only", of("seconds")));
        }
        if of("passes") < self.vcpus as u64 || of("rounds") == 0 {
            return Err("there was not a round on each CPU".into());
        }
        let storm = outcome
            .console
            .lines()
            .find(|l| l.starts_with("ok 1 storm"));
        let nmis = storm.and_then(|line| line.split_once("; "));
        let Some((_, nmis)) = nmis else {
            return Err("the storm had no result".into());
        };
        Ok(format!(
            "{} s of work, {} passes, {} files as they have to be, {} rounds of stress-ng; {}",
            of("seconds"),
            of("passes"),
            of("files"),
            of("rounds"),
            nmis.trim_end()
        ))
    }
}

impl Test for Load {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        let disk = places.build.join("load/disk.ext4");
        if !disk.exists() {
            return Err(format!("{} is not there: make test-load", disk.display()));
        }
        let program = format!("nmi_storm,-r,{RATE},/bin/load,{}", self.seconds);
        let options = format!("--vcpus {} --memory 1536", self.vcpus);
        let guest = Guest {
            kernel: self.kernel,
            program: &program,
            args: &options,
            words: WATCHDOGS,
            idle: 180,
        };
        let mut args = guest.arguments(places, timeout)?;
        // Each run begins with the same disk.
        let disk = disk.to_string_lossy().into_owned();
        args.extend(["--disk".into(), disk]);
        args.extend(["--qemu-arg".into(), "-snapshot".into()]);
        let outcome = runner::run(places, &self.name, &args).map_err(|error| error.to_string())?;
        let figures = self.judge(&outcome)?;
        Ok(format!("{figures}, {}", lost::none(places, &self.name)?))
    }
}

/// Runs it with each of the handlers.
pub fn run(places: &Places, handlers: &[Handler], vcpus: usize, seconds: u64) -> bool {
    let cases = handlers.iter().map(|h| Load::new(*h, vcpus, seconds));
    suite::run_all(places, cases.collect(), &[], seconds + MARGIN, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "KTAP version 1\n1..1\n# CPU 1: pass 1 is right\n\
        # load: cpu=1 passes=2 files=35\r\n# load: rounds=3\n# load: cpu=0 passes=1 files=16\n\
        # load: seconds=61\nok 1 storm # /bin/load; 900 NMIs, 850 handled\r\n";

    fn judge(console: &str) -> Result<String, String> {
        let load = Load::new(Handler::Rust, 2, 60);
        load.judge(&Outcome::made_up(0, "success", console))
    }

    #[test]
    fn good_work() {
        let line = judge(GOOD).unwrap();
        let figures =
            "61 s of work, 3 passes, 51 files as they have to be, 3 rounds of stress-ng; \
            900 NMIs, 850 handled";
        assert_eq!(line, figures);
    }

    #[test]
    fn what_is_not_good() {
        for (from, to) in [
            ("load: cpu=1", "no"),
            ("seconds=61", "seconds=59"),
            ("passes=2", "passes=0"),
            ("rounds=3", "rounds=0"),
            ("ok 1 storm", "ok 1 other"),
            ("# CPU 1: pass 1 is right", "# WRONG: bzip2.o"),
        ] {
            assert!(GOOD.contains(from));
            judge(&GOOD.replace(from, to)).unwrap_err();
        }
        let load = Load::new(Handler::C, 2, 60);
        assert_eq!(load.name(), "load-c-2cpu");
        let panic = Outcome::made_up(4, "panic", GOOD);
        assert_eq!(load.judge(&panic), Err("panic".into()));
    }
}
