// SPDX-License-Identifier: GPL-2.0
//! What the decompressor costs, C and Rust side by side: its size, and the guest's instructions
//! from the 64-bit entry to the first #VC of the decompressed kernel.
//!
//! The instructions are counted as for the other table (see `counting`). Each run ends at the first
//! #VC of the startup code, by an exit code that no guest can handle. Most of a run is
//! decompressing the kernel, which is another one for C and for Rust. What the exceptions of stage
//! 2 cost does not depend on that: it is the difference between a run with a console and a silent
//! one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cases::Kernel;
use crate::counting;
use crate::runner::Places;

/// Sections that hold the decompressor itself; `.rodata..compressed` is the kernel.
const SECTIONS: [&str; 5] = [".head.text", ".text", ".rodata", ".data", ".bss"];

/// Sizes of sections, by name, from what `size -A` prints.
fn parse_sections(text: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let mut columns = line.split_whitespace();
        let name = columns.next()?;
        let size = columns.next()?.parse().ok()?;
        SECTIONS.contains(&name).then(|| (name.to_string(), size))
    };
    text.lines().filter_map(row).collect()
}

/// Sizes of the decompressor's sections in bytes.
fn sections(variant: &Path) -> Result<BTreeMap<String, u64>, String> {
    let image = variant.join("arch/x86/boot/compressed/vmlinux");
    let output = Command::new("size").args(["-A", "-d"]).arg(&image).output();
    let output = output.map_err(|error| error.to_string())?;
    let sizes = parse_sections(&String::from_utf8_lossy(&output.stdout));
    match sizes.len() == SECTIONS.len() {
        true => Ok(sizes),
        false => Err(format!("{} has no sizes", image.display())),
    }
}

/// What one run counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    /// Instructions of the guest.
    instructions: u64,
    /// #VCs in stage 2.
    exceptions: u64,
}

impl Count {
    fn parse(report: &Value) -> Option<Self> {
        let rows = |section: &str| report[section].as_array().into_iter().flatten();
        let stage = rows("stage").find(|row| row["name"] == "stage2");
        Some(Self {
            instructions: rows("machine").next()?["guest-tsc"].as_u64()?,
            exceptions: stage.map_or(Some(0), |row| row["count"].as_u64())?,
        })
    }

    /// Instructions for each exception that this run has more than another one.
    fn per_exception(self, silent: Self) -> Option<u64> {
        let exceptions = self.exceptions.checked_sub(silent.exceptions)?;
        self.instructions
            .checked_sub(silent.instructions)?
            .checked_div(exceptions)
    }
}

/// Boots, and measures until the startup code's first #VC.
fn measure(places: &Places, kernel: Kernel, name: &str, append: &str) -> Result<Count, String> {
    let run = counting::Run {
        name,
        kernel,
        initramfs: &places.initramfs(),
        append,
        expect: "terminate:0:0",
        options: &[
            "--entry=raw",
            // A page of the guest that is not validated: there is no such thing without SEV-SNP.
            "--option=lie=startup:vc:0x404",
        ],
    };
    Count::parse(&run.boot(places)?.json["report"]).ok_or_else(|| "no counts".into())
}

/// The runs of one kernel: entry to the end of the decompressor without and with a console.
fn runs(places: &Places, kernel: Kernel, name: &str) -> Result<(Count, Count), String> {
    let silent = measure(places, kernel, &format!("{name}-silent"), "nokaslr")?;
    let append = "nokaslr earlyprintk=ttyS0";
    let console = measure(places, kernel, &format!("{name}-console"), append)?;
    match console.exceptions > silent.exceptions {
        true => Ok((silent, console)),
        false => Err(format!("{name}: the console caused no #VC in stage 2")),
    }
}

fn row(label: &str, c: u64, rust: u64) -> String {
    let ratio = rust as f64 / c as f64;
    format!("  {label:<34} {c:>12} {rust:>12} {ratio:>8.2}")
}

/// What Rust must not have more of than C, and has.
fn exceeded(rows: &[(&str, u64, u64)]) -> Result<(), String> {
    match rows.iter().find(|(_, c, rust)| rust > c) {
        Some((label, c, rust)) => Err(format!("{label}: {rust} are more than C's {c}")),
        None => Ok(()),
    }
}

/// Measures and prints the table. The error also tells of a row where Rust has more than C.
pub fn print(places: &Places) -> Result<(), String> {
    let c_sizes = sections(&places.build.join("kernel-c"))?;
    let rust_sizes = sections(&places.build.join("kernel-rust"))?;
    let c = runs(places, Kernel::C, "decompressor-c")?;
    let rust = runs(places, Kernel::Rust, "decompressor-rust")?;
    println!(
        "\nThe decompressor: bytes, and guest instructions\n  {:<34} {:>12} {:>12} {:>8}",
        "", "C", "Rust", "Rust/C"
    );
    for section in SECTIONS {
        println!("{}", row(section, c_sizes[section], rust_sizes[section]));
    }
    let total = |sizes: &BTreeMap<String, u64>| sizes.values().sum();
    let mut limits = vec![("all", total(&c_sizes), total(&rust_sizes))];
    println!("{}", row("all", total(&c_sizes), total(&rust_sizes)));
    let each = |(silent, console): (Count, Count)| console.per_exception(silent);
    if let (Some(c), Some(rust)) = (each(c), each(rust)) {
        println!("{}", row("a #VC of stage 2 (console)", c, rust));
        limits.push(("a #VC of stage 2", c, rust));
    }
    let whole = row(
        "entry to startup code, silent",
        c.0.instructions,
        rust.0.instructions,
    );
    println!("{whole}  (two different kernels)");
    exceeded(&limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sections_are_read() {
        let text = "vmlinux  :\nsection   size   addr\n.head.text  1460  0\n.text 80 96\n\
                    .rodata..compressed 3950000 1500\n.rodata 9 1\n.data 7 1\n.bss 5 1\nTotal 1\n";
        let sizes = parse_sections(text);
        assert_eq!(sizes.len(), SECTIONS.len());
        assert_eq!(sizes.values().sum::<u64>(), 1460 + 80 + 9 + 7 + 5);
    }

    #[test]
    fn rust_must_not_have_more() {
        assert_eq!(exceeded(&[("a", 5, 5), ("b", 9, 2)]), Ok(()));
        assert!(exceeded(&[("a", 5, 5), ("b", 2, 9)])
            .unwrap_err()
            .contains("b: 9"));
    }

    #[test]
    fn counts_are_read() {
        let report = json!({
            "stage": [{"name": "stage1", "count": 6}, {"name": "stage2", "count": 10}],
            "machine": [{"vcpu": 0, "guest-tsc": 5000}],
        });
        let console = Count::parse(&report).unwrap();
        assert_eq!((console.instructions, console.exceptions), (5000, 10));
        let silent = Count::parse(&json!({"machine": [{"guest-tsc": 3000}]})).unwrap();
        assert_eq!(silent.exceptions, 0);
        assert_eq!(console.per_exception(silent), Some(200));
        assert_eq!(silent.per_exception(silent), None);
        assert_eq!(silent.per_exception(console), None);
        assert_eq!(Count::parse(&json!({})), None);
    }
}
