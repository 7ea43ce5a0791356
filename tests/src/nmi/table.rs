// SPDX-License-Identifier: GPL-2.0
//! The results of the sweeps, Rust and C side by side.

use super::row::End;
use super::sweep::Result;
use crate::cases::Kernel;

/// Columns of one kernel.
const COLUMNS: &str = "boundaries     NMIs  wrong  lost";

fn cells(end: Option<&End>) -> String {
    match end {
        None => "not run".into(),
        Some(End::Done(counts, problem)) => {
            let note = problem.as_ref().map(|text| format!(" {text}"));
            format!(
                "{:>10} {:>8} {:>6} {:>5}{}",
                counts.boundaries,
                counts.nmis,
                counts.wrong,
                counts.lost,
                note.unwrap_or_default()
            )
        }
        Some(other) => other.to_string(),
    }
}

/// One table for each run, a line for each exit kind and mode.
pub fn tables(results: &[Result]) -> String {
    let mut text = String::new();
    let mut runs: Vec<&str> = Vec::new();
    for result in results {
        if !runs.contains(&result.run) {
            runs.push(result.run);
        }
    }
    for run in runs {
        let of = |kernel: Kernel, name: &str| {
            let mut found = results.iter().filter(|result| result.run == run);
            found
                .find(|result| result.kernel == kernel && result.name == name)
                .map(|result| &result.end)
        };
        let any = |kernel| {
            let mut found = results.iter().filter(|result| result.run == run);
            found.any(|result| result.kernel == kernel)
        };
        let kernels: Vec<_> = [("Rust", Kernel::Rust), ("C", Kernel::C)]
            .into_iter()
            .filter(|(_, kernel)| any(*kernel))
            .collect();
        text += &format!("\n# {run}\n# {:<20}", "exit");
        for (title, _) in &kernels {
            text += &format!(" | {:<44}", format!("{title}: {COLUMNS}"));
        }
        text += "\n";
        for name in super::sweep::names() {
            if kernels
                .iter()
                .all(|(_, kernel)| of(*kernel, &name).is_none())
            {
                continue;
            }
            text += &format!("# {name:<20}");
            for (title, kernel) in &kernels {
                let indent = " ".repeat(title.len() + 2);
                text += &format!(
                    " | {:<44}",
                    format!("{indent}{}", cells(of(*kernel, &name)))
                );
            }
            text.truncate(text.trim_end().len());
            text += "\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::row::Counts;
    use super::*;

    #[test]
    fn both_kernels_stand_in_one_line() {
        let counts = Counts {
            boundaries: 774,
            nmis: 773,
            handled: 773,
            wrong: 0,
            lost: 1,
        };
        let result = |kernel, end| Result {
            run: "one NMI each",
            kernel,
            name: "user-cpuid".into(),
            end,
        };
        let text = tables(&[
            result(Kernel::Rust, End::Done(counts, None)),
            result(Kernel::C, End::Panic("GHCB in use".into())),
        ]);
        let line = text.lines().last().unwrap();
        assert!(line.starts_with("# user-cpuid"), "{text}");
        assert!(line.contains("774      773      0     1"), "{text}");
        assert!(line.ends_with("panic: GHCB in use"), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
