// SPDX-License-Identifier: GPL-2.0
//! Tests of QEMU's arguments and messages.

use clap::Parser;

use super::*;
use crate::ktap::KnownFailures;
use crate::verdict::Expect;

fn config(args: &[&str]) -> Config {
    let cli = Cli::try_parse_from([&["sevsim-run"], args].concat()).unwrap();
    Config {
        cli,
        cmdline: "console=ttyS0 a,b".into(),
        expect: Expect::Check,
        known: KnownFailures::default(),
        timeout: 0,
        idle_timeout: 0,
    }
}

fn value<'a>(args: &'a [String], option: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == option)?;
    args.get(at + 1).map(String::as_str)
}

#[test]
fn a_guest_under_sevsim() {
    let config = config(&[
        "--kernel",
        "/k,1 x",
        "--initrd",
        "i",
        "--vcpus",
        "4",
        "--memory",
        "3072",
        "--cbit",
        "47",
        "--apic",
        "xapic",
        "--intercept",
        "all",
        "--option",
        "hostile=1",
        "--qemu-arg",
        "-S",
    ]);
    let args = arguments(&config);
    assert_eq!(value(&args, "-kernel"), Some("files/sevsim"));
    assert_eq!(
        value(&args, "-initrd"),
        Some(
            "files/firmware firmware,files/kernel kernel,files/cmdline cmdline,files/initrd initrd"
        )
    );
    assert_eq!(
        value(&args, "-append"),
        Some("mem=3072 vcpus=4 cbit=47 ghcb=2 apic=xapic intercept=all reduction=5 hostile=1")
    );
    assert_eq!(value(&args, "-m"), Some("6448M"));
    assert_eq!(
        value(&args, "-machine"),
        Some("q35,max-ram-below-4g=2048M,i8042=off,vmport=off,smm=off,smbus=off,sata=off")
    );
    assert_eq!(value(&args, "-global"), Some("ICH9-LPC.disable_s3=1"));
    assert_eq!(value(&args, "-smp"), Some("4"));
    assert_eq!(args.last().map(String::as_str), Some("-S"));
    assert!(value(&args, "-cpu").unwrap().contains("+la57"));
    assert!(!args.iter().any(|arg| arg.contains("/k,1")));
}

#[test]
fn no_firmware_by_the_raw_entry() {
    let raw = ["--entry", "raw", "--vcpus", "1", "--kernel", "k"];
    let args = arguments(&config(&raw));
    let modules = Some("files/kernel kernel,files/cmdline cmdline");
    assert_eq!(value(&args, "-initrd"), modules);
    assert!(value(&args, "-append").unwrap().ends_with(" entry=raw"));
    let plain = arguments(&config(&[&raw[..], &["--plain"]].concat()));
    assert_eq!(value(&plain, "-bios"), None);
    assert_eq!(value(&plain, "-kernel"), Some("files/kernel"));
    let links = links(&config(&raw).cli);
    assert!(links.iter().all(|(name, _)| *name != "firmware"));
}

#[test]
fn a_guest_whose_instructions_are_counted() {
    let mut args = vec!["--kernel", "k", "--count-instructions"];
    let with = arguments(&config(&args));
    assert_eq!(value(&with, "-accel"), Some("tcg,thread=single"));
    assert_eq!(value(&with, "-icount"), Some("shift=0,sleep=off"));
    assert!(value(&with, "-append").unwrap().ends_with(" tsc=guest"));
    args.pop();
    let without = arguments(&config(&args));
    assert_eq!(value(&without, "-accel"), Some("tcg,thread=multi"));
    assert_eq!(value(&without, "-icount"), None);
    assert!(!value(&without, "-append").unwrap().contains("tsc"));
}

#[test]
fn a_plain_guest() {
    let args = arguments(&config(&["--plain", "--kernel", "k", "--memory", "512"]));
    assert_eq!(value(&args, "-bios"), Some("files/firmware"));
    assert_eq!(value(&args, "-kernel"), Some("files/kernel"));
    assert_eq!(value(&args, "-append"), Some("console=ttyS0 a,b"));
    assert_eq!(value(&args, "-m"), Some("512M"));
    assert_eq!(value(&args, "-global"), None);
    assert!(value(&args, "-machine").unwrap().contains(",i8042=off,"));
    assert_eq!(value(&args, "-initrd"), None);
    assert!(value(&args, "-cpu").unwrap().contains("-svm"));
    assert!(!args.iter().any(|arg| arg.contains("debug-exit")));
}

#[test]
fn a_disk_without_kernel() {
    let args = arguments(&config(&["--disk", "d"]));
    assert_eq!(value(&args, "-initrd"), Some("files/firmware firmware"));
    assert!(value(&args, "-machine").unwrap().ends_with(",sata=on"));
    assert!(args
        .iter()
        .any(|arg| arg == "ide-hd,drive=disk,bootindex=1"));
}

#[test]
fn links_name_what_is_used() {
    let config = config(&["--plain", "--kernel", "k", "--disk", "d"]);
    let names: Vec<_> = links(&config.cli)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["firmware", "kernel", "disk"]);
}

#[test]
fn versions_are_parsed() {
    let debian = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright";
    assert_eq!(parse_version(debian), Some((10, 0)));
    assert_eq!(parse_version("QEMU emulator version 9.2.1"), Some((9, 2)));
    assert_eq!(parse_version("GNU bash"), None);
    assert!((9, 2) < MIN_VERSION && (10, 0) >= MIN_VERSION && (11, 1) >= MIN_VERSION);
}

#[test]
fn messages_become_advice() {
    let svm = "qemu: warning: TCG doesn't support requested feature: \
               CPUID.80000001H:ECX.svm [bit 2]";
    assert!(setup_problem(svm).unwrap().contains("does not emulate SVM"));
    let other = "qemu: warning: TCG doesn't support requested feature: \
                 CPUID.01H:ECX.pcid [bit 17]";
    assert_eq!(setup_problem(other), None);
    assert!(setup_problem("qemu: invalid accelerator tcg")
        .unwrap()
        .contains("without TCG"));
    assert!(setup_problem("cannot set up guest memory 'pc.ram'")
        .unwrap()
        .contains("--memory"));
    assert_eq!(
        last_message("qemu: could not open\nqemu: warning: x\n\n").as_deref(),
        Some("qemu: could not open")
    );
}

#[test]
fn the_logged_command_can_be_typed() {
    let config = config(&["--kernel", "k"]);
    let text = command_line(&config.cli, &["-append".into(), "it's a".into(), "".into()]);
    assert_eq!(text, "qemu-system-x86_64 \\\n  -append 'it'\\''s a' ''\n");
}
