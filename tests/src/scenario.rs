// SPDX-License-Identifier: GPL-2.0
//! Scenarios: small files, each with a case of its own.

use std::path::Path;

/// Reads the scenarios in a folder, with their names and in the order of these. Complains of a file
/// that `parse` does not take.
pub fn read_all<T>(folder: &Path, parse: impl Fn(&str) -> Option<T>) -> Vec<(String, T)> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<_> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "scenario"))
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_string();
            let scenario = parse(&std::fs::read_to_string(&path).ok()?);
            if scenario.is_none() {
                eprintln!("sev-tests: {}: not a scenario", path.display());
            }
            Some((name, scenario?))
        })
        .collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}
