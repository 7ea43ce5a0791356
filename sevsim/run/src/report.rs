// SPDX-License-Identifier: GPL-2.0
//! What is told at the end: a line for people, sevsim's numbers as tables, a file for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use crate::isolation;
use crate::ktap::Outcome;
use crate::measure;
use crate::process::Run;
use crate::setup::Config;
use crate::simlog::Record;
use crate::verdict::Verdict;

/// Joins rows of the same vCPU that tell different things: sevsim writes one line per number.
fn join<'a>(rows: &[&'a Record]) -> Vec<Vec<(&'a str, &'a str)>> {
    let mut joined: Vec<Vec<(&str, &str)>> = Vec::new();
    for row in rows {
        let fields: Vec<_> = row
            .fields
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let fits = joined.last().is_some_and(|last| {
            fields
                .first()
                .is_some_and(|first| first.0 == "vcpu" && last.contains(first))
                && fields[1..]
                    .iter()
                    .all(|(key, _)| last.iter().all(|(known, _)| known != key))
        });
        match joined.last_mut() {
            Some(last) if fits => last.extend(&fields[1..]),
            _ => joined.push(fields),
        }
    }
    joined
}

/// sevsim's report: one table per name, a column per key, numbers to the right.
pub fn tables(report: &[Record]) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut groups: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in report {
        if !order.contains(&record.name.as_str()) {
            order.push(&record.name);
        }
        groups.entry(&record.name).or_default().push(record);
    }
    let mut text = String::new();
    for name in order {
        let rows = join(&groups[name]);
        let _ = writeln!(text, "  {}", if name.is_empty() { "total" } else { name });
        if let [row] = rows.as_slice() {
            for (key, value) in row {
                let _ = writeln!(text, "    {key:<24} {value:>14}");
            }
            continue;
        }
        let mut keys: Vec<&str> = Vec::new();
        for (key, _) in rows.iter().flatten() {
            if !keys.contains(key) {
                keys.push(key);
            }
        }
        let cell = |row: &Vec<(&str, &str)>, key: &str| {
            let field = row.iter().find(|(known, _)| *known == key);
            field.map_or(String::new(), |(_, value)| value.to_string())
        };
        let widths: Vec<usize> = keys
            .iter()
            .map(|key| {
                rows.iter()
                    .map(|row| cell(row, key).len())
                    .max()
                    .unwrap_or(0)
                    .max(key.len())
            })
            .collect();
        let mut line = |cells: Vec<String>, numbers: &dyn Fn(usize) -> bool| {
            text += "   ";
            for (column, cell) in cells.iter().enumerate() {
                let width = widths[column];
                let _ = if numbers(column) {
                    write!(text, " {cell:>width$} ")
                } else {
                    write!(text, " {cell:<width$} ")
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        };
        let numeric: Vec<bool> = keys
            .iter()
            .map(|key| {
                rows.iter()
                    .all(|row| cell(row, key).chars().all(|c| c.is_ascii_digit()))
            })
            .collect();
        line(
            keys.iter().map(|key| key.to_string()).collect(),
            &|column| numeric[column],
        );
        for row in &rows {
            line(keys.iter().map(|key| cell(row, key)).collect(), &|column| {
                numeric[column]
            });
        }
    }
    text
}

/// What is printed after the run.
pub fn summary(config: &Config, run: &Run, verdict: &Verdict) -> String {
    let mut text = String::new();
    let good = verdict.exit_code() == 0;
    if config.cli.batch && !config.cli.quiet && !run.seen.log.report.is_empty() {
        let _ = writeln!(text, "sevsim-run: what sevsim counted:");
        text += &tables(&run.seen.log.report);
    }
    if !good && config.cli.quiet && !run.tail.is_empty() {
        let _ = writeln!(text, "sevsim-run: last lines of the console:");
        for line in &run.tail {
            let _ = writeln!(text, "  {line}");
        }
    }
    text += &measure::told(&run.seen.log);
    let image = std::fs::read(&config.cli.sevsim).unwrap_or_default();
    text += &isolation::told(&run.seen.log, &image);
    let word = verdict.word();
    let wall = run.wall.as_secs_f64();
    let _ = writeln!(text, "sevsim-run: {word}: {} ({wall:.1} s)", verdict.line());
    if !good {
        let _ = writeln!(
            text,
            "sevsim-run: logs are in {}: console.log (guest), sevsim.log, qemu.log, qemu-command",
            config.cli.log_dir.display()
        );
    }
    text
}

/// The result for programs.
pub fn json(config: &Config, run: &Run, verdict: &Verdict, qemu: &str) -> serde_json::Value {
    let seen = &run.seen;
    let judgement = seen.ktap.judge(&config.known);
    let marks: BTreeMap<_, _> = run.marks.iter().copied().collect();
    json!({
        "verdict": verdict.word(),
        "exit_code": verdict.exit_code(),
        "text": verdict.line(),
        "wall_seconds": run.wall.as_secs_f64(),
        "cpu_seconds": run.cpu,
        "marks": marks,
        "mode": if config.cli.plain { "plain" } else { "sevsim" },
        "vcpus": config.cli.vcpus,
        "memory": config.cli.memory,
        "qemu": qemu,
        "check": {
            "passed": seen.ktap.count(Outcome::Pass),
            "failed": seen.ktap.count(Outcome::Fail),
            "skipped": seen.ktap.count(Outcome::Skip),
            "results": seen.ktap.results,
            "unexpected_failures": judgement.unexpected_failures,
            "unexpected_passes": judgement.unexpected_passes,
            "known_failures": judgement.known_failures,
            "missing": judgement.missing,
            "good": judgement.good(),
        },
        "last_lines": run.tail,
        "events": seen.log.events,
        "report": seen.log.report_tree(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simlog::SimLog;

    #[test]
    fn a_report_becomes_tables() {
        let mut log = SimLog::default();
        log.line("sevsim: report exits kind=cpuid vcpu=0 count=12");
        log.line("sevsim: report exits kind=npf vcpu=1 count=34567");
        log.line("sevsim: report time guest_percent=71");
        let text = tables(&log.report);
        let want = "  exits\n    kind   vcpu  count\n    cpuid     0     12\n    npf       1  \
                    34567\n  time\n    guest_percent                        71\n";
        assert_eq!(text, want);
    }

    #[test]
    fn numbers_of_one_vcpu_share_a_line() {
        let mut log = SimLog::default();
        for line in [
            "vcpu=0 cpuid=1",
            "vcpu=0 ioio=22",
            "vcpu=1 ioio=3",
            "vcpu=1 ioio=4",
        ] {
            log.line(&format!("sevsim: report exits {line}"));
        }
        let want = [
            "  exits",
            "    vcpu  cpuid  ioio",
            "       0      1    22",
            "       1            3",
            "       1            4",
        ];
        assert_eq!(tables(&log.report).lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn no_report_no_table() {
        assert_eq!(tables(&[]), "");
    }
}
