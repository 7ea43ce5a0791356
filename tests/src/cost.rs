// SPDX-License-Identifier: GPL-2.0
//! The table of what an exit costs: guest instructions from the intercepted instruction to the one
//! after it, for C and Rust.
//!
//! Counted, not timed (see `counting`): a program and a module in the guest read the TSC before and
//! after each instruction; what that alone costs is subtracted. The kernel's rows are exact. The
//! count begins with the first instruction of the exception's entry code, so the hardware's work is
//! not in it, nor is the hypervisor's.

use crate::cases::Kernel;
use crate::counting;
use crate::runner::Places;

/// Prefix of the lines with results.
const PREFIX: &str = "sev-es-cost: ";
/// The last line of them.
const DONE: &str = "sev-es-cost: done";
/// A switch to the hypervisor and back without any work for the guest: tells if sevsim's own
/// instructions are kept apart from the guest's.
const SWITCH: &str = "kernel ghcb-msr";

/// The most that Rust may cost of what C costs.
const GOAL: f64 = 1.0;
/// The same, for the exits that come most often.
const HOT_GOAL: f64 = 0.7;
const HOT: [&str; 7] = [
    "kernel cpuid",
    "kernel rdmsr",
    "kernel wrmsr",
    "kernel out-1",
    "kernel rep-outs-4k",
    "kernel mmio-read-4",
    "kernel mmio-write-4",
];

/// Results by name, in the order of their measurement.
type Costs = Vec<(String, u64)>;

/// Reads the results out of what the guest printed.
fn parse(console: &str) -> Result<Costs, String> {
    let mut costs = Costs::new();
    let lines = console.lines().map(str::trim_end);
    for line in lines.filter_map(|line| line.strip_prefix(PREFIX)) {
        let Some((name, count)) = line.rsplit_once(' ') else {
            continue;
        };
        let count = count.parse();
        costs.push((name.to_string(), count.map_err(|_| line.to_string())?));
    }
    match costs.iter().find(|(name, _)| name == SWITCH) {
        Some((_, 0)) => Ok(costs),
        Some((_, count)) => Err(format!(
            "a switch to sevsim counts as {count} instructions of the guest: sevsim's calibration \
             is wrong"
        )),
        None => Err("the guest did not measure all".into()),
    }
}

/// Boots, and measures in user space and in the kernel.
fn measure(places: &Places, name: &str, kernel: Kernel, module: &str) -> Result<Costs, String> {
    let run = counting::Run {
        name,
        kernel,
        initramfs: &places.build.join("cost/initramfs.cpio.gz"),
        append: &format!("quiet sevsim.run=/bin/sev_es_cost,/lib/{module}"),
        expect: &format!("text:{DONE}"),
        options: &["--intercept=all"],
    };
    parse(&run.boot(places)?.console)
}

fn find(costs: &Costs, name: &str) -> Option<u64> {
    let found = costs.iter().find(|(other, _)| other == name);
    found.map(|(_, count)| *count)
}

/// The goal of a row.
fn goal(name: &str) -> f64 {
    if HOT.contains(&name) {
        HOT_GOAL
    } else {
        GOAL
    }
}

/// The rows, and the names of those that miss their goal.
fn rows(c: &Costs, rust: &Costs) -> (Vec<String>, Vec<String>) {
    let (mut rows, mut missed) = (Vec::new(), Vec::new());
    for (name, count) in rust.iter().filter(|(name, _)| name != SWITCH) {
        let Some(c) = find(c, name) else { continue };
        let ratio = *count as f64 / c as f64;
        let hot = if HOT.contains(&name.as_str()) {
            "*"
        } else {
            ""
        };
        rows.push(format!(
            "  {name:<34} {c:>12} {count:>12} {ratio:>8.2}{hot}"
        ));
        if ratio > goal(name) {
            missed.push(format!("{name} ({ratio:.2})"));
        }
    }
    (rows, missed)
}

/// The largest difference between two runs, and where it is.
fn largest_difference<'a>(one: &'a Costs, other: &Costs) -> (u64, &'a str) {
    let differences = one.iter().filter_map(|(name, count)| {
        find(other, name).map(|other| (count.abs_diff(other), name.as_str()))
    });
    differences.max().unwrap_or((0, ""))
}

/// Measures and prints the table; Rust twice, to show what the counts are worth.
pub fn print(places: &Places) -> Result<(), String> {
    let c = measure(places, "cost-c", Kernel::C, "cost-c.ko")?;
    let rust = measure(places, "cost-rust", Kernel::Rust, "cost-rust.ko")?;
    let again = measure(places, "cost-rust-again", Kernel::Rust, "cost-rust.ko")?;
    println!(
        "\nGuest instructions of one exit (*: hot, goal {HOT_GOAL:.1}; else {GOAL:.1})\n  \
         {:<34} {:>12} {:>12} {:>8}",
        "", "C", "Rust", "Rust/C"
    );
    let (rows, missed) = rows(&c, &rust);
    println!("{}", rows.join("\n"));
    let (difference, name) = largest_difference(&rust, &again);
    println!("  largest difference when repeated: {difference} {name}");
    if missed.is_empty() {
        println!("  all rows meet their goals");
    } else {
        println!("  above their goals: {}", missed.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "[    1.0] x\nsev-es-cost: user cpuid 12\r\nsev-es-cost: kernel ghcb-msr 0\n\
                        sev-es-cost: kernel cpuid 8\nsev-es-cost: done\n";

    #[test]
    fn results_are_read() {
        let costs = parse(GOOD).unwrap();
        assert_eq!(find(&costs, "user cpuid"), Some(12));
        assert_eq!(find(&costs, "kernel cpuid"), Some(8));
        assert_eq!(costs.len(), 3);
    }

    #[test]
    fn a_switch_that_costs_something_is_an_error() {
        let bad = GOOD.replace("ghcb-msr 0", "ghcb-msr 3");
        assert!(parse(&bad).unwrap_err().contains("counts as 3"));
        assert!(parse("sev-es-cost: user cpuid 12\n").is_err());
        assert!(parse("sev-es-cost: user cpuid x\n").is_err());
    }

    #[test]
    fn goals_are_judged_by_row() {
        let costs = |n| {
            let row = |name: &str| (name.to_string(), n);
            vec![row("kernel wrmsr"), row("kernel wbinvd"), row(SWITCH)]
        };
        let (rows, missed) = rows(&costs(100), &costs(80));
        assert_eq!(rows.len(), 2);
        assert_eq!(missed, ["kernel wrmsr (0.80)"]);
    }

    #[test]
    fn differences_are_found() {
        let one = vec![("a".to_string(), 5), ("b".to_string(), 9)];
        let other = vec![("a".to_string(), 5), ("b".to_string(), 2)];
        assert_eq!(largest_difference(&one, &other), (7, "b"));
        assert_eq!(largest_difference(&one, &one).0, 0);
    }
}
