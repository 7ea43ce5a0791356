// SPDX-License-Identifier: GPL-2.0
//! NMIs at each instruction of the #VC handler, and in storms: boots of the programs in
//! tests/guest/nmi.

pub mod load;
mod lost;
mod row;
mod storm;
mod sweep;
mod table;

use std::num::NonZero;

use crate::cases::Kernel;
use crate::runner::Places;
use crate::suite;
use crate::suite::Test;
use storm::Storm;
use sweep::Results;
use sweep::Run;
use sweep::Sweep;

/// A guest, and the program that it runs.
struct Guest<'a> {
    kernel: Kernel,
    /// Program and its arguments, with commas.
    program: &'a str,
    args: &'a str,
    /// Words on the kernel's command line.
    words: &'a str,
    /// Seconds of silence after which it is taken for dead; 0: never.
    idle: u32,
}

impl Guest<'_> {
    /// Arguments for sevsim-run.
    fn arguments(&self, places: &Places, timeout: u64) -> Result<Vec<String>, String> {
        let kernel = places.kernel(self.kernel)?;
        let name = self.kernel.name();
        let initramfs = places.build.join(format!("nmi/initramfs-{name}.cpio.gz"));
        if !initramfs.exists() {
            return Err(format!(
                "{} is not there: make test-nmi",
                initramfs.display()
            ));
        }
        let mut args: Vec<String> = self.args.split_whitespace().map(String::from).collect();
        // The whole log is searched for trouble.
        let append = format!(
            "log_buf_len=4M {} sevsim.run=/bin/nmi_run nmi.run={}",
            self.words, self.program
        );
        let kernel = kernel.to_string_lossy().into_owned();
        let initramfs = initramfs.to_string_lossy().into_owned();
        for (key, value) in [
            ("--kernel", kernel),
            ("--initrd", initramfs),
            ("--append", append),
            ("--option", "nmi-test=on".into()),
            ("--timeout", timeout.to_string()),
            ("--idle-timeout", self.idle.to_string()),
        ] {
            args.extend([key.into(), value]);
        }
        Ok(args)
    }
}

/// A handler that is executed step by step takes its time.
const NO_WATCHDOG: &str = "nowatchdog";

/// A case of the suite.
enum Case {
    Sweep(Sweep),
    Storm(Storm),
}

impl Test for Case {
    fn name(&self) -> &str {
        match self {
            Self::Sweep(sweep) => sweep.name(),
            Self::Storm(storm) => storm.name,
        }
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        match self {
            Self::Sweep(sweep) => sweep.boot(places, timeout),
            Self::Storm(storm) => storm.boot(places, timeout),
        }
    }
}

const ONE_EACH: &str = "one NMI per execution, its handler performs each kind of exit";
const FEW_EXITS: &str = "one NMI per execution, its handler performs CPUID, RDMSR, IN and MMIO";
const MANY: &str = "an NMI at each fourth instruction, its handler performs each kind of exit";

/// Work of the NMI handler, a sum: CPUID, MSR, port and MMIO, each one exit.
const FEW: u32 = 15;
/// Also string I/O, MOVS with MMIO, the CPUID leaf whose handler reads an MSR, and a single step,
/// so that some of them are performed in the handler of #DB in that of the NMI.
const ALL: u32 = 255;

const RUNS: [Run; 6] = [
    Run {
        title: ONE_EACH,
        name: "nmi-rust-short",
        kernel: Kernel::Rust,
        short: true,
        stride: 0,
        work: ALL,
        guests: 2,
        only: Some(&[
            "user-cpuid",
            "kernel-rdmsr",
            "user-outs",
            "kernel-movs",
            "user-nmi-vc",
            "kernel-nmi",
        ]),
    },
    Run {
        title: ONE_EACH,
        name: "nmi-rust-each",
        kernel: Kernel::Rust,
        short: false,
        stride: 0,
        work: ALL,
        guests: 6,
        only: None,
    },
    Run {
        title: FEW_EXITS,
        name: "nmi-rust-few",
        kernel: Kernel::Rust,
        short: false,
        stride: 0,
        work: FEW,
        guests: 4,
        only: None,
    },
    Run {
        title: MANY,
        name: "nmi-rust-many",
        kernel: Kernel::Rust,
        short: false,
        stride: 4,
        work: ALL,
        guests: 2,
        only: None,
    },
    Run {
        title: FEW_EXITS,
        name: "nmi-c-few",
        kernel: Kernel::C,
        short: false,
        stride: 0,
        work: FEW,
        guests: 6,
        only: None,
    },
    Run {
        title: ONE_EACH,
        name: "nmi-c-each",
        kernel: Kernel::C,
        short: false,
        stride: 0,
        work: ALL,
        guests: 6,
        only: None,
    },
];

/// The cases: all, or those that take little time.
fn cases(short: bool, results: &Results) -> Vec<Case> {
    // The short ones are part of the long ones.
    let runs = RUNS.into_iter().filter(|run| run.short == short);
    let sweeps = runs.flat_map(|run| run.sweeps(results)).map(Case::Sweep);
    let storms = storm::STORMS
        .into_iter()
        .filter(|storm| storm.short == short);
    sweeps.chain(storms.map(Case::Storm)).collect()
}

/// Runs the cases whose name begins with one of `names`, and prints the tables.
pub fn run_all(
    places: &Places,
    short: bool,
    names: &[String],
    timeout: u64,
    jobs: Option<NonZero<usize>>,
) -> bool {
    let results = Results::default();
    let good = suite::run_all(places, cases(short, &results), names, timeout, jobs);
    if let Ok(results) = results.lock() {
        print!("{}", table::tables(&results));
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kernels_and_a_short_form() {
        for kernel in Kernel::BOTH {
            let all = |run: &&Run| run.kernel == kernel && run.only.is_none();
            assert!(RUNS.iter().any(|run| all(&run)));
        }
        let results = Results::default();
        let (short, long) = (cases(true, &results), cases(false, &results));
        assert!(!short.is_empty() && short.len() < long.len());
        let mut names: Vec<_> = long.iter().chain(&short).map(Test::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
