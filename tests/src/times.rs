// SPDX-License-Identifier: GPL-2.0
//! What sevsim costs: processor time of QEMU for boots with and without it.
//!
//! Not wall time, which a busy machine stretches at will, and only as a ratio of paired boots, one
//! right after the other, so that what slows down the processor slows down both. Each pair has the
//! same kernel, command line and devices, and every other pair begins with the boot without sevsim:
//! a processor that becomes slower and slower favours neither. What disturbs a boot only ever adds
//! to its time, so that the least times of all say something as well.

use serde_json::Value;

use crate::bench::boot;
use crate::cases::Kernel;
use crate::runner::Places;

/// The ratio that a boot under sevsim is to stay below.
const GOAL: f64 = 1.8;

/// Processor time of both boots of a pair, in seconds.
struct Pair {
    with: f64,
    without: f64,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.with / self.without
    }
}

fn cpu(result: &Value) -> f64 {
    result["cpu_seconds"].as_f64().unwrap_or(f64::NAN)
}

/// Median of some numbers.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => numbers[n / 2],
        n => (numbers[n / 2 - 1] + numbers[n / 2]) / 2.0,
    }
}

fn measure(
    places: &Places,
    kernel: Kernel,
    count: usize,
    quiet: bool,
) -> Result<Vec<Pair>, String> {
    let mut more = vec!["--vcpus", "1"];
    if quiet {
        more.extend(["--append", "quiet"]);
    }
    let mut plain = more.clone();
    plain.push("--plain");
    let hosted = || boot(places, "bench-with", kernel, &more).map(|result| cpu(&result));
    let alone = || boot(places, "bench-without", kernel, &plain).map(|result| cpu(&result));
    let pair = |index| {
        if index % 2 == 0 {
            let with = hosted()?;
            let without = alone()?;
            Ok(Pair { with, without })
        } else {
            let without = alone()?;
            let with = hosted()?;
            Ok(Pair { with, without })
        }
    };
    (0..count).map(pair).collect()
}

/// A row of the table: seconds and ratio are medians, each of its own; `least` is the ratio of the
/// least times.
fn row(kernel: &str, quiet: bool, pairs: &[Pair]) -> String {
    let of = |number: fn(&Pair) -> f64| median(pairs.iter().map(number).collect());
    let least = |number: fn(&Pair) -> f64| pairs.iter().map(number).fold(f64::NAN, f64::min);
    let ratio = of(Pair::ratio);
    let all: Vec<_> = pairs.iter().map(|p| format!("{:.2}", p.ratio())).collect();
    format!(
        "  {kernel:<8} {:<12} {:>8.2} {:>8.2} {ratio:>8.2}  {:<6} {:>7.2}  {}",
        if quiet { "quiet" } else { "log" },
        of(|pair| pair.without),
        of(|pair| pair.with),
        if ratio <= GOAL { "meets" } else { "misses" },
        least(|pair| pair.with) / least(|pair| pair.without),
        all.join(" ")
    )
}

/// Prints the table.
pub fn print(places: &Places, count: usize) -> Result<(), String> {
    println!(
        "\nBoot of firmware, kernel and /init, and power-off: QEMU's processor time in seconds, \
         {count} pairs, 1 vCPU\n(quiet: as distributions boot; log: the kernel's log on the serial \
         console, 4 exits a character)\n  {:<8} {:<12} {:>8} {:>8} {:>8}  {:<6} {:>7}  ratios",
        "kernel",
        "console",
        "plain",
        "sevsim",
        "ratio",
        format!("{GOAL}"),
        "least"
    );
    for (kernel, name) in [
        (Kernel::C, "C"),
        (Kernel::Rust, "Rust"),
        (Kernel::Debian, "Debian"),
    ] {
        if places.kernel(kernel).is_err() {
            println!("  {name:<8} not built");
            continue;
        }
        for quiet in [true, false] {
            println!(
                "{}",
                row(name, quiet, &measure(places, kernel, count, quiet)?)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn rows_judge_by_the_median_of_the_ratios() {
        let pair = |with, without| Pair { with, without };
        let pairs = [pair(3.0, 2.0), pair(9.0, 2.0), pair(5.1, 3.0)];
        let row = row("C", true, &pairs);
        let cells: Vec<&str> = row.split_whitespace().collect();
        let want = [
            "C", "quiet", "2.00", "5.10", "1.70", "meets", "1.50", "1.50", "4.50", "1.70",
        ];
        assert_eq!(cells, want);
        assert!(super::row("C", false, &[pair(3.0, 1.0)]).contains("misses"));
    }
}
