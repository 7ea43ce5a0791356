// SPDX-License-Identifier: GPL-2.0
//! The table: C and Rust side by side, from the same run on the same machine.
//!
//! Counted, not timed, wherever possible: size of text, exits and VMGEXITs of one boot with one
//! vCPU. For times see `times`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cases::Kernel;
use crate::cost;
use crate::decompressor;
use crate::runner;
use crate::runner::Places;
use crate::times;

/// Text size of each object that the kernel is made of, in bytes. The folder may hold others, which
/// somebody made by hand: the members of its archive count.
fn text_sizes(folder: &Path) -> BTreeMap<String, u64> {
    sizes_of(&folder.join("built-in.a"))
}

/// Text size of an object, or of each in an archive.
fn sizes_of(file: &Path) -> BTreeMap<String, u64> {
    let output = Command::new("size").arg(file).output();
    let text = output.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    parse_sizes(&text.unwrap_or_default())
}

/// Reads what `size` prints: text in the first column, the member of the archive in the sixth.
fn parse_sizes(text: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let size = columns.first()?.parse().ok()?;
        let name = Path::new(columns.get(5)?)
            .file_name()?
            .to_string_lossy()
            .into_owned();
        Some((name, size))
    };
    text.lines().filter_map(row).collect()
}

/// Whether a field is a number to be summed: a named row has one, its count (its code is none).
fn counts(name: Option<&str>, key: &str) -> bool {
    match name {
        Some(_) => key == "count",
        None => key != "vcpu",
    }
}

/// Sums a report's numbers over all vCPUs: (name of the line, key or `name=`) -> count.
fn totals(report: &Value) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::new();
    for (section, rows) in report.as_object().into_iter().flatten() {
        for row in rows.as_array().into_iter().flatten() {
            let name = row.get("name").and_then(Value::as_str);
            for (key, value) in row.as_object().into_iter().flatten() {
                let Some(value) = value.as_u64().filter(|_| counts(name, key)) else {
                    continue;
                };
                let label = match name {
                    Some(name) => format!("{section} {name}"),
                    None => format!("{section} {key}"),
                };
                *totals.entry(label).or_default() += value;
            }
        }
    }
    totals
}

/// One row of the table; missing numbers stay empty.
fn row(label: &str, c: Option<u64>, rust: Option<u64>) -> String {
    let cell = |number: Option<u64>| number.map_or(String::new(), |n| n.to_string());
    let ratio = match (c, rust) {
        (Some(c), Some(rust)) if c > 0 => format!("{:.2}", rust as f64 / c as f64),
        _ => String::new(),
    };
    let line = format!(
        "  {label:<34} {:>12} {:>12} {ratio:>8}",
        cell(c),
        cell(rust)
    );
    line.trim_end().to_string()
}

fn table(c: &BTreeMap<String, u64>, rust: &BTreeMap<String, u64>) -> String {
    let mut labels: Vec<&String> = c.keys().chain(rust.keys()).collect();
    labels.sort();
    labels.dedup();
    let rows = labels
        .iter()
        .map(|label| row(label, c.get(*label).copied(), rust.get(*label).copied()));
    rows.collect::<Vec<_>>().join("\n")
}

/// Boots to user space and powers off; gives the result file.
pub fn boot(places: &Places, name: &str, kernel: Kernel, more: &[&str]) -> Result<Value, String> {
    let image = places.kernel(kernel)?;
    let mut args: Vec<String> = [
        "--expect",
        "poweroff",
        "--append",
        "sevsim.poweroff",
        "--kernel",
    ]
    .map(String::from)
    .to_vec();
    args.push(image.to_string_lossy().into_owned());
    args.extend([
        "--initrd".into(),
        places.initramfs().to_string_lossy().into_owned(),
    ]);
    args.extend(more.iter().map(|arg| arg.to_string()));
    let outcome = runner::run(places, name, &args).map_err(|error| error.to_string())?;
    match outcome.status {
        Some(0) => Ok(outcome.json),
        _ => Err(outcome.line),
    }
}

fn tables(places: &Places, pairs: usize) -> Result<(), String> {
    let head = |title: &str| {
        println!(
            "\n{title}\n  {:<34} {:>12} {:>12} {:>8}",
            "", "C", "Rust", "Rust/C"
        );
    };
    let sizes = |variant: &str| text_sizes(&places.build.join(variant).join("arch/x86/coco/sev"));
    let (c, mut rust) = (sizes("kernel-c"), sizes("kernel-rust"));
    // Without the tests in it, if it was built so.
    rust.extend(sizes_of(&places.build.join("cost/es_runtime.o")));
    head("Size of text in arch/x86/coco/sev without KUnit tests, bytes");
    println!("{}", table(&c, &rust));
    println!(
        "{}",
        row("all", Some(c.values().sum()), Some(rust.values().sum()))
    );

    cost::print(places)?;
    // What is wrong with it is told when all tables are there.
    let decompressor = decompressor::print(places);

    let vcpu = ["--vcpus", "1"];
    let c = boot(places, "bench-c", Kernel::C, &vcpu)?;
    let rust = boot(places, "bench-rust", Kernel::Rust, &vcpu)?;
    head("One boot: exits and VMGEXITs by kind (counts; guest-tsc and host-tsc are ticks)");
    println!("{}", table(&totals(&c["report"]), &totals(&rust["report"])));
    times::print(places, pairs)?;
    decompressor
}

/// Prints the tables.
pub fn run(places: &Places, pairs: usize) -> bool {
    told(tables(places, pairs))
}

/// Prints the tables of guest instructions only.
pub fn instructions(places: &Places) -> bool {
    told(cost::print(places).and_then(|()| decompressor::print(places)))
}

/// Prints the table of processor times only.
pub fn times(places: &Places, pairs: usize) -> bool {
    told(times::print(places, pairs))
}

fn told(result: Result<(), String>) -> bool {
    match result {
        Ok(()) => true,
        Err(text) => {
            println!("bench: {text}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_are_read() {
        let text = "   text\t   data\t    bss\t    dec\t    hex\tfilename\n\
                    \t  1234\t      5\t      6\t   1245\t    4dd\tbuild/x/core.o \
                    (ex build/x/built-in.a)\n";
        assert_eq!(
            parse_sizes(text),
            BTreeMap::from([("core.o".to_string(), 1234)])
        );
    }

    #[test]
    fn reports_are_summed_over_vcpus() {
        let report = json!({
            "exits": [{"vcpu": 0, "cpuid": 2}, {"vcpu": 1, "cpuid": 3}],
            "ghcb-exit": [{"vcpu": 0, "name": "msr", "code": 124, "count": 7}],
        });
        let want = BTreeMap::from([
            ("exits cpuid".to_string(), 5),
            ("ghcb-exit msr".to_string(), 7),
        ]);
        assert_eq!(totals(&report), want);
    }

    #[test]
    fn rows_show_a_ratio_only_when_there_is_one() {
        assert!(row("x", Some(200), Some(100)).ends_with("0.50"));
        assert!(row("x", None, Some(100)).ends_with("100"));
    }
}
