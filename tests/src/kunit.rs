// SPDX-License-Identifier: GPL-2.0
//! Results of the KUnit suites that the series adds, from the console of a guest that ran them.
//!
//! What has to be there is read from the kernel's source: each suite, and each of its tests, in
//! order, all passed. Nothing may be missing, skipped or added.

use std::fs;
use std::io;
use std::path::Path;

/// On a guest's command line: run the suites of the series, and no others.
pub const COMMAND_LINE: &str = "kunit.enable=1 kunit.autorun=1 kunit.filter_glob=amd_sev_*";

/// A suite and its tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    name: String,
    tests: Vec<String>,
}

/// The suites in Rust and C files below `folder`.
pub fn suites(folder: &Path) -> io::Result<Vec<Suite>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(suites(&path)?);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            found.extend(suite(&fs::read_to_string(&path)?));
        } else if path.extension().is_some_and(|suffix| suffix == "c") {
            found.extend(c_suite(&fs::read_to_string(&path)?));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The suite in a file, if it has one.
fn suite(source: &str) -> Option<Suite> {
    let lines = || source.lines().map(str::trim);
    let name = lines().find_map(|line| between(line, "#[kunit_tests(", ")]"))?;
    let after_marks = lines().zip(lines().skip(1));
    let tests = after_marks
        .filter(|(mark, _)| *mark == "#[test]")
        .filter_map(|(_, line)| between(line, "fn ", "("));
    Some(Suite {
        name: name.to_string(),
        tests: tests.map(String::from).collect(),
    })
}

/// The suite in a C file, if it has one.
fn c_suite(source: &str) -> Option<Suite> {
    let lines = || source.lines().map(str::trim);
    let tests = lines().filter_map(|line| between(line, "KUNIT_CASE(", ")"));
    let tests: Vec<_> = tests.map(String::from).collect();
    if tests.is_empty() {
        return None;
    }
    let name = lines().find_map(|line| between(line, ".name = \"", "\""))?;
    Some(Suite {
        name: name.to_string(),
        tests,
    })
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(line.strip_prefix(before)?.split_once(after)?.0)
}

/// What is wrong with the results on a console, if anything.
pub fn complaint(console: &str, suites: &[Suite]) -> Option<String> {
    if suites.iter().all(|suite| suite.tests.is_empty()) {
        return Some("the source has no KUnit tests".into());
    }
    let log: Vec<&str> = console.lines().filter_map(message).collect();
    let told: Vec<&str> = log.into_iter().filter(|line| is_result(line)).collect();
    let mut wanted = wanted(suites, &told).into_iter();
    let mut told = told.into_iter();
    loop {
        return match (wanted.next(), told.next()) {
            (None, None) => None,
            (Some(want), Some(line)) if want == line => continue,
            (Some(want), line) => Some(format!(
                "KUnit says \"{}\" instead of \"{want}\"",
                line.unwrap_or_default()
            )),
            (None, Some(line)) => Some(format!("KUnit also says \"{line}\"")),
        };
    }
}

/// The lines that say that all went well. The suites come in the order in which the kernel was
/// linked, which is taken from what it told.
fn wanted(suites: &[Suite], told: &[&str]) -> Vec<String> {
    let mut ordered: Vec<&Suite> = suites.iter().collect();
    ordered.sort_by_key(|suite| {
        let subtest = format!("    # Subtest: {}", suite.name);
        told.iter().position(|line| *line == subtest)
    });
    let mut lines = vec!["KTAP version 1".into(), format!("1..{}", suites.len())];
    for (number, suite) in (1..).zip(ordered) {
        lines.push("    KTAP version 1".into());
        lines.push(format!("    # Subtest: {}", suite.name));
        lines.push(format!("    1..{}", suite.tests.len()));
        let tests = (1..).zip(&suite.tests);
        lines.extend(tests.map(|(number, test)| format!("    ok {number} {test}")));
        lines.push(format!("ok {number} {}", suite.name));
    }
    lines
}

/// True for lines of KTAP that count: versions, plans, names and results.
fn is_result(line: &str) -> bool {
    ["KTAP ", "1..", "ok ", "not ok ", "# Subtest: "]
        .iter()
        .any(|word| line.trim_start().starts_with(word))
}

/// A line of the kernel's log without its time.
fn message(line: &str) -> Option<&str> {
    let (time, message) = line.strip_prefix('[')?.split_once("] ")?;
    time.trim().parse::<f64>().ok()?;
    Some(message.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        #[kunit_tests(amd_sev_a)]
        mod tests {
            fn not_a_test() {}

            #[test]
            fn first() {}

            #[test]
            fn second() {}
        }";

    const GOOD: &str = "\
[    7.1] KTAP version 1
[    7.1] 1..2
[    7.1]     KTAP version 1
[    7.1]     # Subtest: amd_sev_b
[    7.1]     # speed: normal
[    7.1]     1..1
[    7.1]     ok 1 only
[    7.1] ok 1 amd_sev_b
[    7.2]     KTAP version 1
[    7.2]     # Subtest: amd_sev_a
[    7.2]     1..2
[    7.2]     ok 1 first
[    7.2] rtc_cmos: something else
[    7.3]     ok 2 second
[    7.3] # amd_sev_a: pass:2 fail:0 skip:0 total:2
[    7.3] ok 2 amd_sev_a
TAP version 13
1..1
not ok 1 not_of_the_kernel
";

    fn both() -> Vec<Suite> {
        let b = Suite {
            name: "amd_sev_b".into(),
            tests: vec!["only".into()],
        };
        vec![suite(SOURCE).unwrap(), b]
    }

    #[test]
    fn the_source_tells_what_to_expect() {
        assert_eq!(both()[0].tests, ["first", "second"]);
        assert_eq!(suite("fn main() {}"), None);
        let c = "KUNIT_CASE(one),\n\tKUNIT_CASE(two),\n\t.name = \"amd_sev_c\",\n";
        let c = c_suite(c).unwrap();
        assert_eq!((c.name.as_str(), c.tests.len()), ("amd_sev_c", 2));
        assert_eq!(c_suite("\t.name = \"device\",\n"), None);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../arch-x86-sev");
        let suites = suites(&folder).unwrap();
        assert!(suites.iter().any(|suite| suite.tests.len() > 5));
        assert!(suites.iter().any(|suite| suite.name == "amd_sev_nmi"));
    }

    #[test]
    fn all_passed() {
        assert_eq!(complaint(GOOD, &both()), None);
        assert_eq!(complaint(&GOOD.replace('\n', "\r\n"), &both()), None);
    }

    #[test]
    fn anything_else_is_a_failure() {
        for (good, bad) in [
            ("    ok 1 first", "    not ok 1 first"),
            ("    ok 1 first", "    ok 1 first # SKIP"),
            ("    ok 1 first", "    ok 1 another"),
            ("    ok 1 first", ""),
            ("    ok 2 second", "    ok 3 second"),
            ("    1..2", "    1..3"),
            ("] 1..2\n", "] 1..3\n"),
            ("[    7.3] ok 2 amd_sev_a", "[    7.3] not ok 2 amd_sev_a"),
            ("[    7.3] ok 2 amd_sev_a", ""),
            (
                "[    7.3] ok 2 amd_sev_a",
                "[    7.3] ok 2 amd_sev_a\n[    7.4] ok 3 amd_sev_c",
            ),
            ("# Subtest: amd_sev_b", "# Subtest: amd_sev_c"),
            (GOOD, ""),
        ] {
            assert!(GOOD.contains(good));
            let console = GOOD.replacen(good, bad, 1);
            assert_ne!(complaint(&console, &both()), None, "{good} -> {bad}");
        }
        assert_ne!(complaint(GOOD, &[]), None);
    }
}
