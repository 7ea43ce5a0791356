// SPDX-License-Identifier: GPL-2.0
//! Address space isolation of sevsim: boots and a load with it, a host that attacks its guest and
//! sends NMIs from inside, what it costs, faults inside on purpose, and options that make no sense.

use std::path::Path;

use serde_json::Value;

use crate::cases::Kernel;
use crate::hostile;
use crate::runner;
use crate::runner::Outcome;
use crate::runner::Places;
use crate::suite::Test;

/// Per cent of exits, and of VMGEXITs, that have to be handled without leaving.
const GOAL: f64 = 99.0;
/// What isolation may make of a boot's instructions, guest and host together.
const COST: f64 = 1.05;
/// Paired boots for the ratio of processor times.
const PAIRS: usize = 3;
/// What it may make of a boot's processor time: wide, for other work on the machine blurs it.
const TIME: f64 = 1.25;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The guest's check, and how many exits were handled inside.
    Boot,
    /// The same with a load in the place of the check.
    Load,
    /// A program of other tests, and a host that does more in exits than to handle them.
    Runs(Program),
    /// A fault inside ends the run with a report that holds these texts.
    Fault(&'static [&'static str]),
    /// A fault inside is reported, the guest powers off, and the run counts as failed.
    Survived,
    /// sevsim refuses the options and says this.
    Refused(&'static str),
    /// Instructions with and without isolation.
    Instructions,
    /// Processor time with and without isolation.
    Time,
}

/// A program in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Program {
    /// Its initramfs, in the build folder.
    initramfs: &'static str,
    /// Further words of the kernel's command line.
    append: &'static str,
    /// The line of its result.
    says: &'static str,
    /// Number of attacks after each of which the guest is put back.
    rewinds: u64,
}

impl Program {
    const HOSTILE: Self = Self {
        initramfs: "hostile/initramfs.cpio.gz",
        append: "sevsim.run=/bin/hostile_run hostile.run=/bin/hostile,-n,300",
        says: "ok 6 kernel-log",
        rewinds: 0,
    };
    const REWIND: Self = Self {
        initramfs: "hostile/initramfs.cpio.gz",
        append: "sevsim.run=/bin/hostile_run hostile.run=/bin/assault,-n,12",
        says: "ok 1 attempts",
        rewinds: 12,
    };
    const SWEEP: Self = Self {
        initramfs: "nmi/initramfs-rust.cpio.gz",
        append: "sevsim.run=/bin/nmi_run nmi.run=nmi_sweep,-s,8,user-cpuid,kernel-cpuid",
        says: "ok 2 kernel-cpuid",
        rewinds: 0,
    };
    const STORM: Self = Self {
        initramfs: "nmi/initramfs-rust.cpio.gz",
        append: "sevsim.run=/bin/nmi_run nmi.run=nmi_storm,-f,/bin/sev_es_check",
        says: "ok 1 storm",
        rewinds: 0,
    };
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    name: &'static str,
    args: &'static str,
    what: What,
}

/// All of them.
pub fn cases() -> Vec<Case> {
    use What::*;
    const TOUCH: &str = "sevsim::isolation::fault::touch+0x";
    let case = |name, args, what| Case { name, args, what };
    vec![
        case(
            "asi-fault-private",
            "asi=on asi-touch=private",
            Fault(&[TOUCH, "error=0x0"]),
        ),
        case(
            "asi-fault-window",
            "asi=on asi-touch=window",
            Fault(&[TOUCH, "error=0x0"]),
        ),
        case(
            "asi-fault-host",
            "asi=on asi-touch=host",
            Fault(&[TOUCH, "error=0x0"]),
        ),
        // Present, a write.
        case(
            "asi-fault-code",
            "asi=on asi-touch=code",
            Fault(&[TOUCH, "error=0x3"]),
        ),
        // A page of shared memory that the request did not name, in the hypervisor's own way.
        case(
            "asi-fault-shared",
            "asi=on asi-touch=shared",
            Fault(&[TOUCH, "0xffffff800000"]),
        ),
        case("asi-fault-report", "asi=report asi-touch=private", Survived),
        case(
            "asi-wrong-value",
            "asi=maybe",
            Refused("option asi=maybe: expected on, report or off"),
        ),
        case(
            "asi-wrong-touch",
            "asi=on asi-touch=all",
            Refused("asi-touch=all: expected private, window, sibling, shared, host or code"),
        ),
        case(
            "asi-touch-alone",
            "asi-touch=private",
            Refused("option asi-touch needs asi=on or asi=report"),
        ),
        case(
            "asi-touch-no-sibling",
            "--vcpus 1 asi=on asi-touch=sibling",
            Refused("option asi-touch needs vcpus=2 or more to touch a sibling"),
        ),
        case("asi-instructions", "", Instructions),
        case("asi-boot-1cpu", "--vcpus 1 --apic xapic", Boot),
        case("asi-time", "", Time),
        case(
            "asi-fault-sibling",
            "--vcpus 2 asi=on asi-touch=sibling",
            Fault(&[TOUCH]),
        ),
        case("asi-boot-4cpu", "--vcpus 4 --apic x2apic", Boot),
        // Scratch areas outside of the GHCB, memory above 4 GiB.
        case(
            "asi-boot-2cpu-ghcb1-4gib",
            "--vcpus 2 --ghcb-version 1 --memory 4096",
            Boot,
        ),
        case("asi-load-2cpu", "--vcpus 2", Load),
        case(
            "asi-hostile",
            "--entry raw --vcpus 1 --intercept all hostile=1 leak-check=on",
            Runs(Program::HOSTILE),
        ),
        case(
            "asi-rewind",
            "--entry raw --vcpus 1 --intercept all --memory 256 hostile=1",
            Runs(Program::REWIND),
        ),
        case(
            "asi-nmi-sweep",
            "--vcpus 1 --intercept all nmi-test=on",
            Runs(Program::SWEEP),
        ),
        case(
            "asi-nmi-storm",
            "--vcpus 2 nmi-test=on",
            Runs(Program::STORM),
        ),
    ]
}

/// Arguments for sevsim-run: of the case's words, those with an equals sign are sevsim's own
/// options.
fn words(text: &str) -> Vec<String> {
    let each = |word: &str| match word.contains('=') {
        true => vec!["--option".to_string(), word.to_string()],
        false => vec![word.to_string()],
    };
    text.split_whitespace().flat_map(each).collect()
}

/// Sum of a number over the rows of a section of sevsim's report.
fn sum(json: &Value, section: &str, key: &str) -> u64 {
    let rows = json["report"][section].as_array().into_iter().flatten();
    rows.filter_map(|row| row[key].as_u64()).sum()
}

/// The shares that the report comes to, in per cent; or why it is not good.
fn shares(json: &Value, vcpus: usize) -> Result<String, String> {
    let of = |key| sum(json, "asi", key);
    let rows = json["report"]["asi"].as_array().map_or(0, Vec::len);
    if rows != vcpus {
        return Err(format!(
            "the report has {rows} lines about isolation, not {vcpus}"
        ));
    }
    let share = |left: u64, all: u64| 100.0 * (1.0 - left as f64 / all as f64);
    let (exits, requests) = (of("exits"), of("requests"));
    if exits != sum(json, "machine", "exits") || requests < 1000 || exits < requests {
        return Err(format!("{exits} exits and {requests} VMGEXITs cannot be"));
    }
    let reasons = sum(json, "asi-left", "count");
    if reasons < of("exits-left") || reasons == 0 {
        return Err(format!(
            "{} exits left, for {reasons} reasons",
            of("exits-left")
        ));
    }
    if vcpus > 1 && of("kicks") == 0 {
        return Err("no sibling was told".into());
    }
    let (a, b) = (
        share(of("exits-left"), exits),
        share(of("requests-left"), requests),
    );
    let line = format!(
        "{a:.3} % of {exits} exits, {b:.3} % of {requests} VMGEXITs inside; left {reasons} times, \
         {} kicks",
        of("kicks")
    );
    match a > GOAL && b > GOAL {
        true => Ok(line),
        false => Err(format!("below {GOAL} %: {line}")),
    }
}

/// What the program's run comes to, or why it is not good. An attack may well end in a panic or a
/// hang of the guest, and then it is put back: so the status of sevsim-run, which tells of those,
/// does not count where there are attacks of that kind.
fn program(program: Program, vcpus: usize, outcome: &Outcome) -> Result<String, String> {
    let mut lines = outcome.console.lines().map(str::trim);
    let ended = lines.any(|line| line.starts_with(program.says));
    if !ended || program.rewinds == 0 && outcome.status != Some(0) {
        return Err(format!(
            "no \"{}\", or more than that: {}",
            program.says, outcome.line
        ));
    }
    let left = outcome.json["report"]["asi-left"].as_array();
    let rows = left.into_iter().flatten();
    let of = |reason: &str| {
        let rows = rows.clone().filter(|row| row["reason"] == reason);
        rows.filter_map(|row| row["count"].as_u64()).sum::<u64>()
    };
    // The state is kept, and put back.
    if of("rewind") != 2 * program.rewinds {
        return Err(format!("{} times left to rewind", of("rewind")));
    }
    shares(&outcome.json, vcpus)
}

/// What is wrong with the report of a fault.
fn fault(outcome: &Outcome, output: &str, texts: &[&str]) -> Result<String, String> {
    let said = output
        .lines()
        .find(|line| line.contains("asi: page fault error="));
    let Some(said) = said else {
        return Err(format!("no fault was told: {}", outcome.line));
    };
    let callers = output.lines().filter(|line| line.contains("asi:   from "));
    let callers: Vec<&str> = callers.collect();
    if !callers.iter().any(|line| line.contains("vmgexit+0x")) {
        return Err(format!(
            "the stack does not show the exit's handler: {callers:?}"
        ));
    }
    if !callers
        .iter()
        .any(|line| line.contains("sevsim::vcpu::cycle+0x"))
    {
        return Err(format!(
            "the stack does not show the exit loop: {callers:?}"
        ));
    }
    let whole = [said]
        .into_iter()
        .chain(callers)
        .collect::<Vec<_>>()
        .join("\n");
    match texts.iter().find(|text| !whole.contains(**text)) {
        Some(text) => Err(format!("\"{text}\" is not in the report: {said}")),
        None => Ok(said.trim_start_matches("sevsim-run: ").to_string()),
    }
}

/// Judges a run; `output` is all that sevsim-run printed.
fn judge(what: What, vcpus: usize, outcome: &Outcome, output: &str) -> Result<String, String> {
    let status = |want: i32| match outcome.status == Some(want) {
        true => Ok(()),
        false => Err(format!(
            "status {:?}, not {want}: {}",
            outcome.status, outcome.line
        )),
    };
    match what {
        What::Boot | What::Load => {
            status(0)?;
            shares(&outcome.json, vcpus)
        }
        What::Runs(one) => program(one, vcpus, outcome),
        What::Fault(texts) => {
            status(9)?;
            fault(outcome, output, texts)
        }
        What::Survived => {
            status(3)?;
            let report = &outcome.json["report"];
            let powered_off = outcome.console.contains("sevsim-init: done status=0");
            let counted = report["asi-left"].as_array().into_iter().flatten();
            let mut faults = counted.filter(|row| row["reason"] == "fault");
            if !powered_off || faults.next().is_none_or(|row| row["count"] != 1) {
                return Err(format!(
                    "the guest did not go on, or the fault is not counted: {report}"
                ));
            }
            fault(outcome, output, &[])
        }
        What::Refused(text) => {
            status(9)?;
            match outcome.line.contains(text) {
                true => Ok(text.to_string()),
                false => Err(format!("not \"{text}\", but: {}", outcome.line)),
            }
        }
        What::Instructions | What::Time => unreachable!("these take more than one run"),
    }
}

impl Case {
    fn arguments(
        &self,
        places: &Places,
        more: &[&str],
        timeout: u64,
    ) -> Result<Vec<String>, String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let kernel = text(&places.kernel(Kernel::Rust)?);
        let initramfs = match self.what {
            What::Load => places.build.join("asi/initramfs.cpio.gz"),
            What::Runs(program) => places.build.join(program.initramfs),
            _ => places.initramfs(),
        };
        let mut args = words(self.args);
        args.extend(["--kernel", &kernel, "--initrd", &text(&initramfs)].map(String::from));
        args.extend(["--timeout".into(), timeout.to_string()]);
        match self.what {
            What::Boot => args.extend(["--option", "asi=on"].map(String::from)),
            What::Load => args.extend(
                ["--option", "asi=on", "--append", "sevsim.run=/bin/load,5"].map(String::from),
            ),
            What::Runs(program) => {
                let append = format!("quiet loglevel=1 nowatchdog {}", program.append);
                args.extend(["--option", "asi=on", "--append", &append].map(String::from));
                args.extend(["--idle-timeout", "0"].map(String::from));
                if program.rewinds != 0 {
                    args.extend(hostile::attempt_machine());
                }
            }
            _ => args.extend(
                ["--append", "quiet sevsim.poweroff", "--expect", "poweroff"].map(String::from),
            ),
        }
        args.extend(more.iter().map(|word| word.to_string()));
        Ok(args)
    }

    fn once(&self, places: &Places, more: &[&str], timeout: u64) -> Result<Outcome, String> {
        let args = self.arguments(places, more, timeout)?;
        runner::run(places, self.name, &args)
            .map_err(|error| format!("{}: {error}", places.sevsim_run().display()))
    }

    /// The result file of a boot with and of one without isolation.
    fn pair(&self, places: &Places, more: &[&str], timeout: u64) -> Result<[Value; 2], String> {
        let one = |option| {
            let more = [more, &["--vcpus", "1", "--option", option][..]].concat();
            let outcome = self.once(places, &more, timeout)?;
            match outcome.status {
                Some(0) => Ok(outcome.json),
                _ => Err(format!("with {option}: {}", outcome.line)),
            }
        };
        Ok([one("asi=on")?, one("asi=off")?])
    }
}

/// Instructions of host and guest, and exits: under -icount the TSC counts instructions.
fn instructions(json: &Value) -> (f64, f64, f64) {
    let of = |key| sum(json, "machine", key) as f64;
    (of("host-tsc"), of("guest-tsc"), of("exits"))
}

/// The ratio of all instructions, and a line.
fn compare(with: &Value, without: &Value) -> Result<String, String> {
    let [(host, guest, exits), (host_off, guest_off, exits_off)] =
        [with, without].map(instructions);
    let ratio = (host + guest) / (host_off + guest_off);
    let line = format!(
        "host instructions an exit: {:.0} with, {:.0} without; of the whole boot: ratio {ratio:.3}",
        host / exits,
        host_off / exits_off
    );
    // A NaN is not good either.
    match ratio > 1.0 && ratio < COST {
        true => Ok(line),
        false => Err(format!("not between 1 and {COST}: {line}")),
    }
}

/// The median of the ratios of processor times, and a line.
fn times(mut ratios: Vec<f64>) -> Result<String, String> {
    ratios.sort_by(f64::total_cmp);
    let all: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
    let line = format!(
        "QEMU's processor time, with to without: median {median:.3} of {}",
        all.join(" ")
    );
    match median < TIME {
        true => Ok(line),
        false => Err(format!("not below {TIME}: {line}")),
    }
}

/// The number that follows `--vcpus` in the options for sevsim-run; without it there is one vCPU.
fn vcpus(options: &str) -> usize {
    let mut words = options.split_whitespace();
    words
        .find(|word| *word == "--vcpus")
        .and_then(|_| words.next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(1)
}

impl Test for Case {
    fn name(&self) -> &str {
        self.name
    }

    fn alone(&self) -> bool {
        // Not to share the processors' caches.
        matches!(self.what, What::Time)
    }

    fn run(&self, places: &Places, timeout: u64) -> Result<String, String> {
        match self.what {
            What::Instructions => {
                let more = ["--apic", "xapic", "--count-instructions"];
                let [with, without] = self.pair(places, &more, timeout)?;
                compare(&with, &without)
            }
            What::Time => {
                let seconds = |json: &Value| json["cpu_seconds"].as_f64().unwrap_or(f64::NAN);
                let one = |_| {
                    let [with, without] = self.pair(places, &[], timeout)?;
                    Ok(seconds(&with) / seconds(&without))
                };
                times((0..PAIRS).map(one).collect::<Result<_, String>>()?)
            }
            what => {
                let outcome = self.once(places, &[], timeout)?;
                let output = std::fs::read(places.logs(self.name).join("output"));
                let output = output.map_err(|error| format!("no output was kept: {error}"))?;
                judge(
                    what,
                    vcpus(self.args),
                    &outcome,
                    &String::from_utf8_lossy(&output),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(left: u64, kicks: u64) -> Value {
        json!({"report": {
            "machine": [{"exits": 10000}],
            "asi-left": [{"reason": "transfer", "count": left}],
            "asi": [{"exits": 10000, "exits-left": left, "requests": 5000,
                "requests-left": left.min(10), "kicks": kicks}],
        }})
    }

    #[test]
    fn shares_have_to_reach_the_goal() {
        assert!(shares(&report(99, 0), 1).unwrap().contains("99.010 %"));
        assert!(shares(&report(100, 0), 1).unwrap_err().contains("below"));
        assert!(shares(&report(0, 0), 1).unwrap_err().contains("reasons"));
        assert!(shares(&report(99, 0), 2).unwrap_err().contains("1 lines"));
        assert!(shares(&Value::Null, 1).is_err());
        let mut none = report(99, 0);
        none["report"]["machine"][0]["exits"] = 9999.into();
        assert!(shares(&none, 1).unwrap_err().contains("cannot be"));
    }

    #[test]
    fn siblings_have_to_be_told() {
        let mut two = report(9, 0);
        let row = two["report"]["asi"][0].clone();
        two["report"]["asi"] = json!([row, {"exits": 0}]);
        assert!(shares(&two, 2).unwrap_err().contains("told"));
        two["report"]["asi"][1]["kicks"] = 3.into();
        assert!(shares(&two, 2).unwrap().contains("3 kicks"));
    }

    #[test]
    fn a_program_has_to_come_to_its_end() {
        let judged = |program, status, console: &str, rewinds: u64| {
            let mut outcome = Outcome::made_up(status, "", console);
            outcome.json = report(9, 0);
            let rows = outcome.json["report"]["asi-left"].as_array_mut().unwrap();
            rows.push(json!({"reason": "rewind", "count": rewinds}));
            judge(What::Runs(program), 1, &outcome, "")
        };
        let rewind = |console, rewinds| judged(Program::REWIND, 3, console, rewinds);
        assert!(rewind("x\nok 1 attempts # 12\nnot ok 2 ends", 24).is_ok());
        assert!(rewind("ok 1 attempts", 23).unwrap_err().contains("23"));
        assert!(rewind("ok 1 other", 24).unwrap_err().contains("ok 1 a"));
        assert!(rewind("not ok 1 attempts", 24).is_err());
        let sweep = |status, console| judged(Program::SWEEP, status, console, 0);
        assert!(sweep(0, "ok 2 kernel-cpuid # 889 NMIs").is_ok());
        assert!(sweep(0, "ok 1 user-cpuid").is_err());
        assert!(sweep(3, "not ok 1 user-cpuid\nok 2 kernel-cpuid").is_err());
    }

    #[test]
    fn a_fault_needs_its_report() {
        let outcome = Outcome::made_up(9, "sevsim gave up", "");
        let good = "sevsim-run: asi: page fault error=0x0 at a::touch+0x1 on 0x5, vCPU 0\n\
                    sevsim-run: asi:   from sevsim::vcpu::vmgexit+0x5\n\
                    sevsim-run: asi:   from sevsim::vcpu::cycle+0x9\n";
        let judged = |what, output: &str| judge(what, 1, &outcome, output);
        assert!(judged(What::Fault(&["touch+0x"]), good).is_ok());
        assert!(judged(What::Fault(&["other"]), good)
            .unwrap_err()
            .contains("other"));
        assert!(judged(What::Fault(&[]), &good.replace("cycle", "x")).is_err());
        assert!(judged(What::Fault(&[]), &good.replace("vmgexit", "x")).is_err());
        assert!(judged(What::Fault(&[]), "").is_err());
        assert!(judged(What::Survived, good).unwrap_err().contains("status"));
        assert!(judged(What::Refused("gave up"), "").is_ok());
        assert!(judged(What::Refused("because"), "").is_err());
        assert!(judged(What::Boot, "").is_err());
    }

    #[test]
    fn costs_are_ratios_with_limits() {
        let run = |host: u64, guest: u64| {
            let row = json!({"host-tsc": host, "guest-tsc": guest, "exits": 10});
            json!({"report": {"machine": [row]}})
        };
        let line = compare(&run(120, 1000), &run(100, 1000)).unwrap();
        assert!(
            line.contains("12 with, 10 without") && line.contains("1.018"),
            "{line}"
        );
        assert!(compare(&run(200, 1000), &run(100, 1000)).is_err());
        assert!(
            compare(&run(100, 1000), &run(100, 1000)).is_err(),
            "it cannot be free"
        );
        assert!(compare(&Value::Null, &Value::Null).is_err());
        assert!(times(vec![1.1, 1.0, 1.9]).unwrap().contains("median 1.100"));
        assert!(times(vec![1.3, 1.0, 1.9]).is_err());
        assert!(times(vec![f64::NAN]).is_err() && times(vec![]).is_err());
    }

    #[test]
    fn words_with_an_equals_sign_are_options() {
        let want = ["--vcpus", "2", "--option", "asi=on"].map(String::from);
        assert_eq!(words("--vcpus 2 asi=on"), want);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases().len());
    }

    #[test]
    fn options_tell_the_vcpus() {
        assert_eq!(vcpus("--vcpus 8 --cbit 47"), 8);
        assert_eq!(vcpus("--memory 512 --vcpus 2"), 2);
        assert_eq!(vcpus("--cbit 47"), 1);
        assert_eq!(vcpus(""), 1);
    }
}
