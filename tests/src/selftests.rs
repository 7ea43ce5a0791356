// SPDX-License-Identifier: GPL-2.0
//! The kernel's own selftests and the check of user space's exits, in three guests: without SEV,
//! with SEV-ES handled in C, and with SEV-ES handled in Rust. A table shows them side by side.
//!
//! What passes in the plain guest has to pass with Rust, apart from `tests/known/selftests`, which
//! names what SEV-ES itself does not allow. That list is strict. C is shown for comparison.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::thread;

use crate::cases::Kernel;
use crate::kunit;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It passed, and so did this many of its parts.
    Pass(u64),
    /// It could not run.
    Skip,
    /// It failed, or this many of its parts did, or the kernel complained.
    Fail(u64),
    /// It took too long.
    TimeOut,
    /// The guest came to its end, as was to be expected.
    Dies,
    /// The guest said nothing about it.
    Missing,
}

impl Verdict {
    fn good(self) -> bool {
        matches!(self, Verdict::Pass(_))
    }

    /// Reads what follows the name in the guest's line.
    fn parse(words: &str) -> Option<Verdict> {
        let mut values = BTreeMap::new();
        for word in words.split_whitespace() {
            let (key, value) = word.split_once('=')?;
            values.insert(key, value.parse::<u64>().ok()?);
        }
        let value = |key| values.get(key).copied().unwrap_or(0);
        let complaints = value("complaints");
        Some(match *values.get("status")? {
            // Killed at the end of its time.
            137 => Verdict::TimeOut,
            4 if complaints == 0 => Verdict::Skip,
            0 if value("fail") + complaints == 0 => match (value("ok"), value("skip")) {
                (0, 1..) => Verdict::Skip,
                (ok, _) => Verdict::Pass(ok),
            },
            _ => Verdict::Fail(value("fail") + complaints),
        })
    }

    fn text(self) -> String {
        match self {
            Verdict::Pass(0) => "pass".into(),
            Verdict::Pass(parts) => format!("pass {parts}"),
            Verdict::Skip => "skip".into(),
            Verdict::Fail(0) => "FAIL".into(),
            Verdict::Fail(parts) => format!("FAIL {parts}"),
            Verdict::TimeOut => "TIME".into(),
            Verdict::Dies => "DIES".into(),
            Verdict::Missing => "-".into(),
        }
    }
}

/// A guest of the table.
struct Column {
    title: &'static str,
    kernel: Kernel,
    args: &'static str,
}

/// 32-bit programs are off in encrypted guests unless they are asked for.
const APPEND: &str = "ia32_emulation=1 nowatchdog sevsim.run=/bin/selftests_run";

const COLUMNS: [Column; 3] = [
    Column {
        title: "no SEV",
        kernel: Kernel::Rust,
        args: "--plain --vcpus 2",
    },
    Column {
        title: "SEV-ES, C",
        kernel: Kernel::C,
        args: "--vcpus 2",
    },
    Column {
        title: "SEV-ES, Rust",
        kernel: Kernel::Rust,
        args: "--vcpus 2",
    },
];

/// Tests that the C implementation does not survive, in a boot each: what is run, and what is said
/// at the end, by the console or by the runner.
const FATAL: [(&str, &str, &str); 3] = [
    (
        "mmio/mov_load_ah",
        "sevsim.run=/bin/selftests_mmio,mov_load_ah",
        // What RIP and RSP become depends on where the stack was.
        "Oops: ",
    ),
    (
        "mmio/xchg",
        "sevsim.run=/bin/selftests_mmio,xchg",
        "asked to be terminated",
    ),
    (
        "mmio/stos",
        "sevsim.run=/bin/selftests_mmio,stos",
        "asked to be terminated",
    ),
];

/// Seconds for one of these.
const FATAL_TIMEOUT: u64 = 90;

/// Tests by name, in the order in which they ran.
type Results = Vec<(String, Verdict)>;

fn results(console: &str) -> Results {
    let lines = console
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("selftest: "));
    let parse = |line: &str| {
        let (name, words) = line.split_once(' ')?;
        Some((name.to_string(), Verdict::parse(words)?))
    };
    // What it consists of is told one by one.
    lines
        .filter_map(parse)
        .filter(|(name, _)| name != "check/sev_es_check")
        .collect()
}

/// Arguments for sevsim-run.
fn arguments(
    places: &Places,
    kernel: Kernel,
    args: &str,
    append: &str,
    timeout: u64,
) -> Result<Vec<String>, String> {
    let image = places.kernel(kernel)?;
    let initramfs = places.build.join("selftests-kernel/initramfs.cpio.gz");
    let mut all: Vec<String> = args.split_whitespace().map(String::from).collect();
    for (key, value) in [
        ("--kernel", image.to_string_lossy().into_owned()),
        ("--initrd", initramfs.to_string_lossy().into_owned()),
        ("--append", append.to_string()),
        ("--timeout", timeout.to_string()),
        // A test prints nothing while it runs.
        ("--idle-timeout", "0".into()),
        ("--expect", "poweroff".into()),
    ] {
        all.extend([key.into(), value]);
    }
    Ok(all)
}

/// Boots a column's guest. Returns its results.
fn boot(places: &Places, column: &Column, timeout: u64) -> (Results, Result<(), String>) {
    let name = format!("selftests-{}", column.title.replace([' ', ','], ""));
    let kunit = column.kernel == Kernel::Rust;
    let append = if kunit {
        format!("{} {APPEND}", kunit::COMMAND_LINE)
    } else {
        APPEND.into()
    };
    let run = || -> Result<Outcome, String> {
        let args = arguments(places, column.kernel, column.args, &append, timeout)?;
        runner::run(places, &name, &args).map_err(|error| error.to_string())
    };
    let outcome = match run() {
        Ok(outcome) => outcome,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let good = if outcome.status != Some(0) {
        Err(outcome.line.clone())
    } else if !outcome.console.contains("selftest: done") {
        Err("its tests did not come to an end".into())
    } else if kunit {
        match kunit::suites(&places.top.join("arch-x86-sev")) {
            Ok(suites) => kunit::complaint(&outcome.console, &suites).map_or(Ok(()), Err),
            Err(error) => Err(error.to_string()),
        }
    } else {
        Ok(())
    };
    (results(&outcome.console), good)
}

/// Boots a guest with C that is to die of a test. What happened otherwise is the error.
fn die(places: &Places, name: &str, append: &str, text: &str) -> Result<(), String> {
    let args = arguments(places, Kernel::C, "--vcpus 2", append, FATAL_TIMEOUT)?;
    let logs = format!("selftests-C-{}", name.replace('/', "-"));
    let outcome = runner::run(places, &logs, &args).map_err(|error| error.to_string())?;
    if outcome.console.contains(text) || outcome.line.contains(text) {
        Ok(())
    } else {
        Err(format!("no \"{text}\": {}", outcome.line))
    }
}

/// Names in `tests/known/selftests`.
fn known(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// What is wrong with Rust's result: `Ok` with a remark, `Err` with a reason. `None` if there is
/// nothing to compare with.
fn judge(plain: Verdict, rust: Verdict, known: bool) -> Option<Result<&'static str, &'static str>> {
    if known && rust.good() {
        return Some(Err("is in tests/known/selftests, and passes"));
    }
    match (plain, rust) {
        (_, Verdict::Fail(_) | Verdict::TimeOut) | (Verdict::Pass(_), _) if known => {
            Some(Ok("known, see tests/known/selftests"))
        }
        (Verdict::Pass(all), Verdict::Pass(parts)) if parts < all => {
            Some(Err("fewer parts pass than in the plain guest"))
        }
        (_, Verdict::Pass(_)) => Some(Ok("")),
        (Verdict::Pass(_), _) => Some(Err("passes in the plain guest")),
        (Verdict::Skip, Verdict::Fail(_) | Verdict::TimeOut) => {
            Some(Err("is skipped in the plain guest"))
        }
        _ => None,
    }
}

/// Runs the guests and prints the table as KTAP. Whether all is well.
pub fn run(places: &Places, timeout: u64) -> bool {
    let list = fs::read_to_string(places.top.join("tests/known/selftests")).unwrap_or_default();
    let known = known(&list);
    // The plain guest keeps few CPUs busy, so that one with C runs beside it. Rust's comes alone.
    let mut guests = thread::scope(|scope| {
        let both = [0, 1].map(|n| scope.spawn(move || boot(places, &COLUMNS[n], timeout)));
        both.map(|thread| {
            thread
                .join()
                .unwrap_or((Vec::new(), Err("panicked".into())))
        })
        .to_vec()
    });
    guests.push(boot(places, &COLUMNS[2], timeout));
    let deaths = FATAL.map(|(name, append, text)| die(places, name, append, text));

    let mut names: Vec<&String> = Vec::new();
    for (results, _) in &guests {
        for (name, _) in results {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let verdict = |column: usize, name: &str| {
        let mut fatal = FATAL.iter().zip(&deaths);
        if column == 1 && fatal.any(|((test, ..), death)| *test == name && death.is_ok()) {
            return Verdict::Dies;
        }
        let results = &guests[column].0;
        let found = results.iter().find(|(known, _)| known == name);
        found.map_or(Verdict::Missing, |(_, verdict)| *verdict)
    };
    let total = names.len() + COLUMNS.len() + FATAL.len();
    println!("KTAP version 1\n1..{total}");
    let (mut number, mut passed, mut failed) = (0, 0, 0);
    let mut count = |good: Option<bool>, text: &str| {
        number += 1;
        match good {
            Some(true) => passed += 1,
            Some(false) => failed += 1,
            None => {}
        }
        let word = if good == Some(false) { "not ok" } else { "ok" };
        println!("{:<11}{text}", format!("{word} {number}"));
    };
    for (column, (results, good)) in COLUMNS.iter().zip(&guests) {
        let text = good.clone().err();
        let text = text.unwrap_or(format!("{} tests", results.len()));
        let title = format!("guest: {}", column.title);
        count(Some(good.is_ok()), &format!("{title:<44} # {text}"));
    }
    for ((name, ..), death) in FATAL.iter().zip(&deaths) {
        let text = death.clone().err().unwrap_or("as expected".into());
        let title = format!("guest: C dies of {name}");
        count(Some(death.is_ok()), &format!("{title:<44} # {text}"));
    }
    let [first, second, third] = COLUMNS.map(|column| column.title);
    println!("#          {:<44} # {first:<10} {second:<10} {third}", "");
    for name in &names {
        let columns = [0, 1, 2].map(|column| verdict(column, name));
        let [plain, c, rust] = columns.map(Verdict::text);
        let judged = judge(columns[0], columns[2], known.contains(name.as_str()));
        let (good, remark) = match judged {
            Some(Ok(remark)) => (Some(true), remark),
            Some(Err(remark)) => (Some(false), remark),
            None => (None, "nothing to compare with"),
        };
        let row = format!("{name:<44} # {plain:<10} {c:<10} {rust:<10} {remark}");
        count(good, row.trim_end());
    }
    for name in known
        .iter()
        .filter(|name| !names.iter().any(|n| n == *name))
    {
        count(
            Some(false),
            &format!("{name:<44} # listed, but there is no such test"),
        );
    }
    println!("{passed} passed, {failed} failed");
    let _ = std::io::stdout().flush();
    failed == 0 && passed > COLUMNS.len() + FATAL.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::*;

    #[test]
    fn lines_are_read() {
        let console =
            "selftest: x86/iopl_64 status=0 seconds=1 ok=3 fail=0 skip=0 complaints=0\r\n\
            noise\nselftest: x86/lam_64 status=4 seconds=0 ok=0 fail=0 skip=1 complaints=0\n\
            selftest: signal/sas status=0 seconds=0 ok=3 fail=0 skip=0 complaints=1\n\
            selftest: rseq/basic_test status=137 seconds=60 ok=0 fail=0 skip=0 complaints=0\n\
            selftest: x86/a status=0 seconds=0 ok=0 fail=0 skip=2 complaints=0\n\
            selftest: check/breakpoint status=1\nselftest: done\n";
        let read = results(console);
        let verdicts: Vec<Verdict> = read.iter().map(|(_, verdict)| *verdict).collect();
        assert_eq!(verdicts, [Pass(3), Skip, Fail(1), TimeOut, Skip, Fail(0)]);
        assert_eq!(read[0].0, "x86/iopl_64");
    }

    #[test]
    fn rust_is_held_to_the_plain_guest() {
        let ok = |plain, rust, known| judge(plain, rust, known).map(|result| result.is_ok());
        assert_eq!(ok(Pass(3), Pass(3), false), Some(true));
        assert_eq!(ok(Pass(3), Pass(2), false), Some(false));
        for bad in [Fail(0), Fail(2), Skip, TimeOut, Missing] {
            assert_eq!(ok(Pass(3), bad, false), Some(false), "{bad:?}");
            assert_eq!(ok(Pass(3), bad, true), Some(true), "{bad:?}");
        }
        assert_eq!(ok(Skip, Fail(1), false), Some(false));
        // A known failure that passes is no longer one.
        assert_eq!(ok(Pass(3), Pass(3), true), Some(false));
        assert_eq!(ok(Skip, Skip, false), None);
        assert_eq!(ok(Fail(1), Fail(1), false), None);
    }

    #[test]
    fn the_list_has_comments() {
        let list = "# why\nx86/lam_64\n\n";
        assert_eq!(known(list).into_iter().collect::<Vec<_>>(), ["x86/lam_64"]);
    }
}
