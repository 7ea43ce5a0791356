// SPDX-License-Identifier: GPL-2.0
//! Guests in a storm of NMIs: CPUs that go offline and online, sleep of the whole machine. And one
//! with an NMI at each instruction of a system call, which is no handler of an exit.

use super::lost;
use super::Guest;
use crate::cases::Kernel;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;

/// One boot.
#[derive(Clone, Copy)]
pub struct Storm {
    /// Name of the case.
    pub name: &'static str,
    /// Kernel.
    pub kernel: Kernel,
    /// Part of `make test`.
    pub short: bool,
    /// Program in the guest and its arguments, with commas.
    pub program: &'static str,
    /// Options for sevsim-run.
    pub args: &'static str,
    /// The machine sleeps: its clock has to wake it.
    pub sleeps: bool,
    /// Two symbols of the kernel for `--nmi-between`.
    pub between: Option<&'static str>,
}

const fn storm(name: &'static str, args: &'static str, program: &'static str) -> Storm {
    Storm {
        name,
        kernel: Kernel::Rust,
        short: false,
        program,
        args,
        sleeps: false,
        between: None,
    }
}

impl Storm {
    const fn short(mut self) -> Self {
        self.short = true;
        self
    }

    const fn sleeps(mut self) -> Self {
        self.sleeps = true;
        self
    }

    const fn between(mut self, symbols: &'static str) -> Self {
        self.between = Some(symbols);
        self
    }

    /// Boots it.
    pub fn boot(&self, places: &Places, timeout: u64) -> Result<String, String> {
        let guest = Guest {
            kernel: self.kernel,
            program: self.program,
            args: self.args,
            // Else the HPET makes the clock's interrupts, and it sleeps as well.
            words: if self.sleeps {
                "nowatchdog hpet=disable"
            } else {
                super::NO_WATCHDOG
            },
            idle: 120,
        };
        let mut args = guest.arguments(places, timeout)?;
        if let Some(symbols) = self.between {
            let vmlinux = places.build.join("kernel-rust/vmlinux");
            args.extend(["--nmi-between".into(), symbols.into(), "--vmlinux".into()]);
            args.push(vmlinux.to_string_lossy().into_owned());
        }
        let outcome = runner::run(places, self.name, &args).map_err(|error| error.to_string())?;
        match self.complaint(&outcome) {
            Some(text) => Err(text),
            None => {
                let none = lost::none(places, self.name)?;
                Ok(format!("{}; {none}", summary(&outcome.console)))
            }
        }
    }

    /// What is wrong with a run, if anything.
    fn complaint(&self, outcome: &Outcome) -> Option<String> {
        if outcome.status != Some(0) {
            return Some(outcome.line.clone());
        }
        // A test that was skipped as a whole tried nothing.
        if outcome.console.contains("1..0 # SKIP") {
            return Some("was skipped".into());
        }
        let slept = outcome.console.contains("PM: suspend exit");
        (self.sleeps && !slept).then(|| "it did not sleep".into())
    }
}

/// The line of the guest's test.
fn summary(console: &str) -> String {
    let lines = console.lines().filter(|line| line.starts_with("ok "));
    let details = lines.filter_map(|line| Some(line.split_once(" # ")?.1.trim_end()));
    details.collect::<Vec<_>>().join("; ")
}

/// All of them. Exits and NMIs of one vCPU are what the sweeps try, each by itself.
pub const STORMS: [Storm; 13] = [
    storm("nmi-hotplug-short", "--vcpus 4", "nmi_hotplug,-n,3").short(),
    storm(
        "nmi-suspend-short",
        "--vcpus 2",
        "nmi_storm,/bin/nmi_suspend,1",
    )
    .short()
    .sleeps(),
    // It begins on the stack, and with the GS base, of user mode.
    storm(
        "nmi-between",
        "--vcpus 1 --intercept all",
        "nmi_sweep,-s,0,-w,255,between",
    )
    .between("entry_SYSCALL_64,entry_SYSRETQ_unsafe_stack"),
    storm("nmi-storm-1", "--vcpus 1", "nmi_storm,-f,/bin/sev_es_check"),
    storm("nmi-hotplug-2", "--vcpus 2", "nmi_hotplug,-n,20,-r,40"),
    storm("nmi-hotplug-3", "--vcpus 3", "nmi_hotplug,-n,20,-r,40"),
    storm(
        "nmi-hotplug-4",
        "--vcpus 4 --apic xapic",
        "nmi_hotplug,-n,20,-r,40",
    ),
    storm("nmi-hotplug-5", "--vcpus 5", "nmi_hotplug,-n,20,-r,40"),
    storm("nmi-hotplug-6", "--vcpus 6", "nmi_hotplug,-n,20,-r,40"),
    storm(
        "nmi-hotplug-7",
        "--vcpus 7 --apic xapic",
        "nmi_hotplug,-n,20,-r,40",
    ),
    storm("nmi-hotplug-8", "--vcpus 8", "nmi_hotplug,-n,200,-r,40"),
    storm(
        "nmi-hotplug-selftest",
        "--vcpus 8",
        "nmi_storm,/bin/nmi_cpu_on_off",
    ),
    storm("nmi-suspend", "--vcpus 8", "nmi_storm,/bin/nmi_suspend,5").sleeps(),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: i32, console: &str) -> Outcome {
        Outcome::made_up(status, "why", console)
    }

    #[test]
    fn verdicts() {
        let storm = storm("x", "--vcpus 2", "nmi_storm").sleeps();
        let slept = "ok 1 x\nPM: suspend exit\n1..1";
        assert_eq!(storm.complaint(&outcome(0, slept)), None);
        assert!(storm.complaint(&outcome(4, slept)).is_some());
        assert!(storm
            .complaint(&outcome(0, "1..0 # SKIP no port"))
            .is_some());
        assert!(storm.complaint(&outcome(0, "ok 1 x")).is_some());
    }

    #[test]
    fn one_to_eight_vcpus() {
        for vcpus in 1..=8 {
            let option = format!("--vcpus {vcpus}");
            assert!(STORMS.iter().any(|storm| storm.args.contains(&option)));
        }
    }

    #[test]
    fn the_test_says_what_it_did() {
        let console = "KTAP version 1\nok 1 hotplug # 5 rounds of 7 CPUs; 40 NMIs, 28 handled\r\n";
        assert_eq!(summary(console), "5 rounds of 7 CPUs; 40 NMIs, 28 handled");
    }
}
