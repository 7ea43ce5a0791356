// SPDX-License-Identifier: GPL-2.0
//! NMIs at each instruction of the #VC handler, and in storms: boots of the programs in
//! tests/guest/nmi.

use crate::cases::Kernel;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;
use crate::suite;
use crate::suite::Test;

/// What a boot has to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// All tests in the guest pass.
    Good,
    /// The kernel panics, and says this: what the C implementation does not survive.
    Panic(&'static str),
}

/// One boot.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    kernel: Kernel,
    /// Part of `make test`.
    short: bool,
    /// Program in the guest and its arguments, with commas.
    run: &'static str,
    args: &'static str,
    expect: Expect,
}

/// The work of the NMI handler is a sum: 15 are CPUID, MSR, port and MMIO, each one exit. 127 adds
/// string I/O, MOVS with MMIO, and the CPUID leaf whose handler reads an MSR.
const CASES: [Case; 7] = [
    Case {
        name: "nmi-rust-sweep-short",
        kernel: Kernel::Rust,
        short: true,
        run: "nmi_sweep,-s,1,-w,127,user-cpuid,user-outs,kernel-rdmsr,kernel-movs,kernel-ins",
        args: "--vcpus 1",
        expect: Expect::Good,
    },
    Case {
        name: "nmi-rust-sweep",
        kernel: Kernel::Rust,
        short: false,
        run: "nmi_sweep,-s,4,-w,127",
        args: "--vcpus 2 --intercept all",
        expect: Expect::Good,
    },
    Case {
        name: "nmi-rust-one-each",
        kernel: Kernel::Rust,
        short: false,
        run: "nmi_sweep,-s,0,-w,15",
        args: "--vcpus 1 --intercept all",
        expect: Expect::Good,
    },
    Case {
        name: "nmi-rust-hotplug-short",
        kernel: Kernel::Rust,
        short: true,
        run: "nmi_hotplug,-n,3",
        args: "--vcpus 4",
        expect: Expect::Good,
    },
    Case {
        name: "nmi-rust-hotplug",
        kernel: Kernel::Rust,
        short: false,
        run: "nmi_hotplug,-n,200",
        args: "--vcpus 8",
        expect: Expect::Good,
    },
    Case {
        name: "nmi-c-sweep",
        kernel: Kernel::C,
        short: false,
        run: "nmi_sweep,-s,4,-w,15",
        args: "--vcpus 2 --intercept all",
        expect: Expect::Good,
    },
    Case {
        name: "nmi-c-nested",
        kernel: Kernel::C,
        short: false,
        run: "nmi_sweep,-s,1,-w,127",
        args: "--vcpus 1",
        expect: Expect::Panic("GHCB and Backup GHCB are already in use"),
    },
];

fn arguments(places: &Places, case: &Case, timeout: u64) -> Result<Vec<String>, String> {
    let kernel = places.kernel(case.kernel)?;
    let variant = match case.kernel {
        Kernel::Rust => "rust",
        _ => "c",
    };
    let initramfs = places
        .build
        .join(format!("nmi/initramfs-{variant}.cpio.gz"));
    if !initramfs.exists() {
        return Err(format!(
            "{} is not there: make test-nmi",
            initramfs.display()
        ));
    }
    let mut args: Vec<String> = case.args.split_whitespace().map(String::from).collect();
    // A handler that is executed step by step takes its time.
    let append = format!("nowatchdog sevsim.run=/bin/nmi_run nmi.run={}", case.run);
    let kernel = kernel.to_string_lossy().into_owned();
    let initramfs = initramfs.to_string_lossy().into_owned();
    for (key, value) in [
        ("--kernel", kernel),
        ("--initrd", initramfs),
        ("--append", append),
        ("--option", "nmi-test=on".into()),
        ("--timeout", timeout.to_string()),
        // A plan prints nothing for a while.
        ("--idle-timeout", "0".into()),
    ] {
        args.extend([key.into(), value]);
    }
    Ok(args)
}

/// What is wrong with a run, if anything.
fn complaint(case: &Case, outcome: &Outcome) -> Option<String> {
    match case.expect {
        Expect::Panic(text) if outcome.console.contains(text) => None,
        Expect::Panic(text) => Some(format!("no panic \"{text}\": {}", outcome.line)),
        Expect::Good if outcome.status != Some(0) => Some(outcome.line.clone()),
        // A test that was skipped as a whole tried nothing.
        Expect::Good if outcome.console.contains("1..0 # SKIP") => Some("was skipped".into()),
        Expect::Good => None,
    }
}

/// What the guest's tests counted: how many there were, and the NMIs handled. Each test's line is
/// on the console.
fn summary(console: &str) -> String {
    let tests = console.lines().filter(|line| line.starts_with("ok "));
    let tests: Vec<&str> = tests.filter(|line| !line.contains("# SKIP")).collect();
    let sum = |word: &str| -> u64 {
        let counts = tests.iter().filter_map(|line| {
            let (before, _) = line.split_once(word)?;
            before.rsplit(' ').next()?.parse::<u64>().ok()
        });
        counts.sum()
    };
    format!(
        "{} tests, {} NMIs, {} handled",
        tests.len(),
        sum(" NMIs"),
        sum(" handled")
    )
}

impl Test for Case {
    fn name(&self) -> &str {
        self.name
    }

    fn vcpus(&self) -> usize {
        suite::vcpus(self.args)
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        let args = arguments(places, self, timeout)?;
        let outcome = runner::run(places, self.name, &args).map_err(|error| error.to_string())?;
        match complaint(self, &outcome) {
            Some(text) => Err(text),
            None => Ok(format!("{}: {}", summary(&outcome.console), outcome.line)),
        }
    }
}

/// The cases: all, or those that take little time.
pub fn cases(short: bool) -> Vec<Case> {
    let cases = CASES.into_iter();
    cases.filter(|case| case.short || !short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: i32, console: &str) -> Outcome {
        Outcome::made_up(status, "why", console)
    }

    #[test]
    fn verdicts() {
        let good = &CASES[0];
        assert_eq!(complaint(good, &outcome(0, "ok 1 x\n1..1")), None);
        assert!(complaint(good, &outcome(4, "")).is_some());
        assert!(complaint(good, &outcome(0, "1..0 # SKIP no port")).is_some());
        let panics = CASES.iter().find(|case| case.expect != Expect::Good);
        let panics = panics.unwrap();
        let text = "GHCB and Backup GHCB are already in use";
        assert_eq!(complaint(panics, &outcome(4, text)), None);
        assert!(complaint(panics, &outcome(0, "")).is_some());
        assert!(complaint(panics, &outcome(4, "another panic")).is_some());
    }

    #[test]
    fn both_kernels_and_a_short_form() {
        for kernel in [Kernel::Rust, Kernel::C] {
            assert!(CASES.iter().any(|case| case.kernel == kernel));
        }
        assert!(!cases(true).is_empty() && cases(true).len() < cases(false).len());
    }

    #[test]
    fn nmis_are_summed_up() {
        let console = "KTAP version 1\n\
            ok 1 user-cpuid # 607 instructions, 774 executed, 8 exits; 773 NMIs, 773 handled\n\
            ok 2 user-rdtsc # SKIP not intercepted\n\
            ok 3 hotplug # 5 rounds of 7 CPUs; 40 NMIs, 28 handled\n1..3\n";
        assert_eq!(summary(console), "2 tests, 813 NMIs, 801 handled");
    }
}
