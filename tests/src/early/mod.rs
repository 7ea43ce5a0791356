// SPDX-License-Identifier: GPL-2.0
//! The early boot: every way into the kernel, every stage, and a host that deceives each of them.
//!
//! C and Rust run the same cases. What has to happen is the same for both; where C is known to do
//! something else, the case names it, and fails when C does a third thing.

mod boots;
mod case;
mod jump_table;
mod lies;

use std::path::Path;
use std::path::PathBuf;

use crate::kexec;
use crate::runner;
use crate::runner::Places;
use crate::suite::Test;
use case::Case;
use case::End;

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = boots::cases();
    cases.extend(lies::cases());
    cases.extend(jump_table::cases());
    cases
}

/// Shows the cases.
pub fn list() {
    for case in cases() {
        println!("{:<32} {}", case.name, case.describe());
    }
}

/// The initramfs of a case.
fn initramfs(places: &Places, case: &Case, image: &Path) -> Result<PathBuf, String> {
    if !case.kexec {
        return Ok(places.initramfs());
    }
    let to = places.logs(&case.name).join("kexec.cpio.gz");
    kexec::initramfs(places, image, &to).map_err(|error| format!("cannot make it: {error}"))?;
    Ok(to)
}

fn run_case(places: &Places, case: &Case, timeout: u64) -> Result<String, String> {
    let image = places.kernel(case.kernel)?;
    let logs = places.logs(&case.name);
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let initrd = initramfs(places, case, &image)?;
    let mut args = case.arguments();
    if case.end == End::Check {
        args.extend(runner::known_failures(places, case.kernel, &logs)?);
    }
    args.extend([
        "--timeout".into(),
        timeout.to_string(),
        "--kernel".into(),
        image.to_string_lossy().into_owned(),
        "--initrd".into(),
        initrd.to_string_lossy().into_owned(),
    ]);
    let outcome = runner::run(places, &case.name, &args)
        .map_err(|error| format!("{}: {error}", places.sevsim_run().display()))?;
    match case.complaint(&outcome) {
        Some(text) => Err(text),
        None => Ok(case.summary(&outcome)),
    }
}

/// RAM of this machine in MiB, as /proc/meminfo tells it.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    // sevsim-run refuses by the same number, and says so.
    total.map_or(u64::MAX, |kib| kib / 1024)
}

impl Test for Case {
    fn name(&self) -> &str {
        &self.name
    }

    fn skip(&self) -> Option<String> {
        self.too_large(host_memory())
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        run_case(places, self, timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Kernel;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = cases().into_iter().map(|case| case.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn both_handlers_run_the_same_cases() {
        let names = |kernel: Kernel| {
            let of = |case: &Case| case.name.strip_prefix(kernel.name()).map(String::from);
            cases().iter().filter_map(of).collect::<Vec<_>>()
        };
        assert_eq!(names(Kernel::Rust), names(Kernel::C));
    }
}
