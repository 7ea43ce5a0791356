// SPDX-License-Identifier: GPL-2.0
//! Scenarios: small files, each with a case of its own.

use std::path::Path;

/// Reads the scenarios in a folder, with their names and in the order of these.
///
/// # Panics
///
/// If a file cannot be read, or `parse` does not take it: it would be missed by nobody.
pub fn read_all<T>(folder: &Path, parse: impl Fn(&str) -> Option<T>) -> Vec<(String, T)> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<_> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "scenario"))
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let scenario =
                parse(&text).unwrap_or_else(|| panic!("{}: not a scenario", path.display()));
            (name.into_owned(), scenario)
        })
        .collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}
