// SPDX-License-Identifier: GPL-2.0
//! Runs one boot and tells why it failed.

use std::path::Path;

use crate::cases;
use crate::cases::Case;
use crate::cases::Way;
use crate::disk;
use crate::kunit;
use crate::kunit::Suite;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;
use crate::suite::Test;

/// Shows the cases.
pub fn list() {
    for case in cases::cases() {
        println!(
            "{:<26} {:?} kernel, {:?}: {}",
            case.name, case.kernel, case.way, case.args
        );
    }
}

/// Arguments for sevsim-run.
fn arguments(places: &Places, case: &Case, timeout: u64) -> Result<Vec<String>, String> {
    let logs = places.logs(case.name);
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut args: Vec<String> = case.args.split_whitespace().map(String::from).collect();
    args.extend(["--timeout".into(), timeout.to_string()]);
    if case.way == Way::Probe {
        let image = places.build.join("sevsim/probe.bin");
        args.extend(["--firmware".into(), text(&image)]);
        return Ok(args);
    }

    let kernel = places.kernel(case.kernel)?;
    if case.way == Way::Disk {
        let image = logs.join("disk.img");
        // The firmware tells the kernel its console by nothing but this command line.
        let cmdline = "console=ttyS0 panic=-1 sevsim.check";
        disk::make(&image, &kernel, &places.initramfs(), cmdline)
            .map_err(|error| format!("cannot make a disk: {error}"))?;
        args.extend(["--disk".into(), text(&image)]);
    } else {
        args.extend(["--kernel".into(), text(&kernel)]);
        args.extend(["--initrd".into(), text(&places.initramfs())]);
    }
    if case.kunit {
        args.extend(["--append".into(), kunit::COMMAND_LINE.into()]);
    }
    if case.way == Way::Plain {
        args.push("--plain".into());
    } else {
        args.extend(runner::known_failures(places, case.kernel, &logs)?);
    }
    Ok(args)
}

/// What is wrong with a run, if anything.
fn complaint(case: &Case, outcome: &Outcome, suites: &[Suite]) -> Option<String> {
    if outcome.status != Some(0) {
        return Some(outcome.line.clone());
    }
    let missing = case
        .wants
        .iter()
        .find(|want| !outcome.console.contains(**want));
    if let Some(want) = missing {
        return Some(format!("the console does not say \"{want}\""));
    }
    if case.kunit {
        return kunit::complaint(&outcome.console, suites);
    }
    None
}

fn run_case(places: &Places, case: &Case, timeout: u64) -> Result<String, String> {
    let args = arguments(places, case, timeout)?;
    let outcome = runner::run(places, case.name, &args)
        .map_err(|error| format!("{}: {error}", places.sevsim_run().display()))?;
    let suites = kunit::suites(&places.top.join("arch-x86-sev"))
        .map_err(|error| format!("cannot read the KUnit tests' source: {error}"))?;
    match complaint(case, &outcome, &suites) {
        Some(text) => Err(text),
        None => Ok(outcome.line),
    }
}

impl Test for Case {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        run_case(places, self, timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: i32, console: &str) -> Outcome {
        Outcome::made_up(status, "panic: why", console)
    }

    #[test]
    fn a_good_status_is_not_enough() {
        let all = cases::cases();
        let case = all.iter().find(|case| case.way == Way::Direct).unwrap();
        let told = |status, console: &str| complaint(case, &outcome(status, console), &[]);
        assert_eq!(told(4, ""), Some("panic: why".into()));
        assert!(told(0, "").unwrap().contains("does not say"));
        assert_eq!(told(0, &case.wants.join("\r\n")), None);
    }

    #[test]
    fn kunit_must_have_run() {
        let all = cases::cases();
        let case = all.iter().find(|case| case.kunit).unwrap();
        let console = case.wants.join("\r\n");
        assert!(complaint(case, &outcome(0, &console), &[]).is_some());
    }
}
