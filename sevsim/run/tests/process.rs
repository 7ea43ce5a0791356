// SPDX-License-Identifier: GPL-2.0
//! The runner's handling of QEMU, with a script in QEMU's place: each way to end, and to go wrong.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

const VERSION: &str =
    "if [ \"$1\" = --version ]; then echo 'QEMU emulator version 10.0.1'; exit; fi";

/// A folder with input files, a script as QEMU, and blanks and commas in its name.
struct Bench {
    dir: PathBuf,
}

impl Bench {
    fn new(name: &str, script: &str) -> Self {
        let id = std::process::id();
        let dir = std::env::temp_dir().join(format!("sevsim run,test {id} {name}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("sevsim.elf32"), b"\x7fELF\x01 and so on").unwrap();
        fs::write(dir.join("OVMF.fd"), b"firmware").unwrap();
        fs::write(dir.join("bzImage"), b"MZ kernel").unwrap();
        let bench = Self { dir };
        bench.script("qemu", &format!("#!/bin/sh\n{VERSION}\n{script}\n"));
        bench
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        // Closed before it is executed: else the kernel says that the file is busy.
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755))
            .unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sevsim-run"));
        command.current_dir(&self.dir);
        command.args([
            "--sevsim",
            "sevsim.elf32",
            "--firmware",
            "OVMF.fd",
            "--kernel",
            "bzImage",
        ]);
        command.args([
            "--qemu",
            "./qemu",
            "--log-dir",
            "logs",
            "--memory",
            "256",
            "--batch",
        ]);
        command.args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[track_caller]
fn expect(output: &Output, code: i32, words: &str) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "no '{words}' in: {text}");
}

const POWER_OFF: &str = "echo 'sevsim: event start' >>sevsim.log
echo '[    1.0] reboot: Power down'
echo 'sevsim: event poweroff' >>sevsim.log
exit 17";

#[test]
fn success() {
    let script =
        format!("echo '1..1'; echo 'ok 1 a'; echo 'sevsim-init: done status=0'\n{POWER_OFF}");
    let bench = Bench::new("success", &script);
    let output = bench.run(&["--json", "result.json"]);
    expect(&output, 0, "success: the check passed: 1 passed");
    let json = fs::read_to_string(bench.dir.join("result.json")).unwrap();
    assert!(json.contains("\"verdict\": \"success\""));
    assert!(json.contains("\"last_lines\": ["));
    let console = fs::read_to_string(bench.dir.join("logs/console.log")).unwrap();
    assert!(console.contains("ok 1 a"));
}

#[test]
fn input_is_seen_by_fixed_names() {
    let bench = Bench::new(
        "names",
        &format!("cat files/kernel files/cmdline\n{POWER_OFF}"),
    );
    let output = bench.run(&["--expect", "poweroff", "--append", "hello=1"]);
    expect(
        &output,
        0,
        "MZ kernelconsole=ttyS0 panic=-1 pci=lastbus=0 tsc=nowatchdog hello=1",
    );
    let command = fs::read_to_string(bench.dir.join("logs/qemu-command")).unwrap();
    let modules = "'files/firmware firmware,files/kernel kernel,files/cmdline cmdline'";
    assert!(command.contains(modules));
}

#[test]
fn a_check_that_did_not_run() {
    let bench = Bench::new("no check", POWER_OFF);
    expect(&bench.run(&[]), 3, "without running the check");
}

#[test]
fn panic_and_termination() {
    let bench = Bench::new(
        "panic",
        "echo '[ 1.0] Kernel panic - not syncing: oh'; exit 0",
    );
    expect(&bench.run(&[]), 4, "Kernel panic - not syncing: oh");
    let bench = Bench::new(
        "term",
        "echo 'sevsim: event terminate set=0 code=1 vcpu=0' >sevsim.log",
    );
    expect(&bench.run(&[]), 5, "GHCB protocol versions");
    let bench = Bench::new(
        "triple",
        "echo 'sevsim: event triple-fault vcpu=1' >sevsim.log",
    );
    expect(&bench.run(&[]), 6, "vCPU 1");
}

#[test]
fn qemu_that_fails_at_once() {
    let bench = Bench::new("early", "echo 'qemu: no such thing' >&2; exit 1");
    expect(&bench.run(&[]), 9, "qemu: no such thing");
    let bench = Bench::new("signal", "kill -SEGV $$");
    expect(&bench.run(&[]), 9, "signal 11");
}

/// Ignores SIGTERM, as a QEMU with a wedged vCPU thread does; leaves a child behind.
const WEDGED: &str = "trap '' TERM; echo $$ >pid; sleep 100 & while :; do sleep 1; done";

fn is_gone(dir: &Path) -> bool {
    let pid = fs::read_to_string(dir.join("logs/pid")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn a_wedged_qemu_is_ended() {
    let bench = Bench::new("wedged", WEDGED);
    let start = Instant::now();
    expect(&bench.run(&["--idle-timeout", "1"]), 7, "hangs");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(is_gone(&bench.dir));
}

#[test]
fn a_qemu_that_lingers_after_power_off_is_ended() {
    let script = format!("{}; {WEDGED}", POWER_OFF.replace("\nexit 17", ""));
    let bench = Bench::new("linger", &script);
    expect(
        &bench.run(&["--expect", "poweroff"]),
        0,
        "the guest powered off",
    );
    assert!(is_gone(&bench.dir));
}

#[test]
fn output_does_not_stop_the_clock_of_the_whole_run() {
    let bench = Bench::new(
        "timeout",
        "echo $$ >pid; while :; do echo alive; sleep 0.1; done",
    );
    expect(
        &bench.run(&["--timeout", "2", "--idle-timeout", "1"]),
        8,
        "longer than 2 s",
    );
    assert!(is_gone(&bench.dir));
}

#[test]
fn signs_of_life_of_sevsim_are_no_hang() {
    let script =
        format!("for i in 1 2 3 4 5; do echo alive >>sevsim.log; sleep 0.5; done\n{POWER_OFF}");
    let bench = Bench::new("alive", &script);
    expect(
        &bench.run(&["--expect", "poweroff", "--idle-timeout", "1"]),
        0,
        "powered off",
    );
}

#[test]
fn a_signal_ends_qemu_too() {
    let bench = Bench::new("signalled", WEDGED);
    let mut child = bench.command(&["-q"]).spawn().unwrap();
    let start = Instant::now();
    let pid_file = bench.dir.join("logs/pid");
    while fs::read_to_string(&pid_file)
        .unwrap_or_default()
        .trim()
        .is_empty()
    {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the script did not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let kill = format!("kill -TERM {}", child.id());
    assert!(Command::new("sh")
        .args(["-c", &kill])
        .status()
        .unwrap()
        .success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(is_gone(&bench.dir));
}

#[test]
fn mistakes_are_told() {
    let bench = Bench::new("mistakes", "exit 1");
    expect(&bench.run(&["--vcpus", "9"]), 2, "choose 1 to 8");
    expect(&bench.run(&["--initrd", "missing.gz"]), 2, "missing.gz");
    expect(
        &bench.run(&["--qemu", "/nonexistent/qemu"]),
        2,
        "install qemu-system-x86",
    );
    expect(
        &bench.run(&["--firmware", "/nonexistent"]),
        2,
        "install the package ovmf",
    );
    expect(&bench.run(&["--kernel", "OVMF.fd"]), 2, "EFI_STUB");
    expect(&bench.run(&["--sevsim", "bzImage"]), 2, "make sevsim");
    expect(&bench.run(&["--expect", "nonsense"]), 2, "text:TEXT");
    expect(&bench.run(&["--no-such-option"]), 2, "--help");
    bench.script("old", "#!/bin/sh\necho 'QEMU emulator version 7.2.0'\n");
    expect(
        &bench.run(&["--qemu", "./old"]),
        2,
        "QEMU 7.2, but 10.0 or later is needed",
    );
    let svm =
        "qemu: warning: TCG doesn'\\''t support requested feature: CPUID.80000001H:ECX.svm [bit 2]";
    bench.script(
        "nosvm",
        &format!("#!/bin/sh\n{VERSION}\necho '{svm}' >&2; sleep 30\n"),
    );
    expect(
        &bench.run(&["--qemu", "./nosvm"]),
        2,
        "does not emulate SVM",
    );
}
