// SPDX-License-Identifier: GPL-2.0
//! Tests of limits, messages and the composition of the kernel's command line.

use clap::Parser;

use super::*;

fn cli(args: &[&str]) -> Cli {
    Cli::try_parse_from([&["sevsim-run"], args].concat()).unwrap()
}

fn complaint(args: &[&str]) -> String {
    check_numbers(&cli(args), 16384).unwrap_err().0
}

#[test]
fn the_defaults_are_good() {
    assert_eq!(check_numbers(&cli(&[]), 16384), Ok(()));
}

#[test]
fn limits_are_told_with_what_to_do() {
    assert!(complaint(&["--vcpus", "9"]).contains("choose 1 to 8"));
    assert!(complaint(&["--vcpus", "0"]).contains("choose 1 to 8"));
    assert!(complaint(&["--memory", "100"]).contains("at least 256"));
    assert!(complaint(&["--memory", "9000"]).contains("choose at most 8064"));
    assert!(complaint(&["--plain", "--memory", "17000"]).contains("choose at most 16384"));
    let huge = ["--memory", "258049"];
    let text = check_numbers(&cli(&huge), 1 << 20).unwrap_err().0;
    assert!(text.contains("258048 MiB twice"), "{text}");
    assert!(check_numbers(&cli(&["--memory", "258048"]), 1 << 20).is_ok());
    assert!(complaint(&["--cbit", "52"]).contains("choose 39 to 51"));
    assert!(complaint(&["--cbit", "38"]).contains("choose 39 to 51"));
    assert!(complaint(&["--ghcb-version", "3"]).contains("choose 1 or 2"));
    assert!(complaint(&["--reduction", "64"]).contains("0 to 63"));
    assert!(complaint(&["--count-instructions"]).contains("--vcpus 1"));
    let x2apic = complaint(&["--count-instructions", "--vcpus", "1"]);
    assert!(x2apic.contains("--apic xapic"));
    assert!(complaint(&["--option", "x"]).contains("KEY=VALUE"));
    assert!(complaint(&["--option", "a=b c=d"]).contains("KEY=VALUE"));
}

#[test]
fn every_vcpu_count_and_cbit_of_the_range_is_taken() {
    for vcpus in 1..=8 {
        assert!(check_numbers(&cli(&["--vcpus", &vcpus.to_string()]), 16384).is_ok());
    }
    for cbit in [39, 47, 51] {
        assert!(check_numbers(&cli(&["--cbit", &cbit.to_string()]), 16384).is_ok());
    }
}

#[test]
fn memory_is_doubled_under_sevsim_only() {
    assert_eq!(
        Memory::new(1024, 0, false),
        Memory {
            low: 1024,
            total: 2320
        }
    );
    assert_eq!(
        Memory::new(4096, 100, false),
        Memory {
            low: 2048,
            total: 8612
        }
    );
    assert_eq!(
        Memory::new(1024, 100, true),
        Memory {
            low: 1024,
            total: 1024
        }
    );
}

#[test]
fn expectations_are_parsed() {
    assert_eq!(parse_expect(None, true), Ok(Expect::Check));
    assert_eq!(parse_expect(None, false), Ok(Expect::PowerOff));
    assert_eq!(
        parse_expect(Some("text:a b"), true),
        Ok(Expect::Text("a b".into()))
    );
    assert_eq!(
        parse_expect(Some("terminate:1:5"), true),
        Ok(Expect::Terminate { set: 1, code: 5 })
    );
    for bad in [
        "terminate",
        "terminate:1",
        "terminate:1:x",
        "terminate:1:5:6",
    ] {
        assert!(parse_expect(Some(bad), true).is_err(), "{bad}");
    }
    assert!(parse_expect(Some("text:"), true).is_err());
    assert!(parse_expect(Some("nonsense"), true).is_err());
}

#[test]
fn without_firmware_there_is_one_vcpu() {
    let raw = ["--entry", "raw", "--kernel", "k"];
    assert!(complaint(&raw).contains("choose --vcpus 1"));
    let one = [&raw[..], &["--vcpus", "1"]].concat();
    assert_eq!(check_numbers(&cli(&one), 16384), Ok(()));
    // QEMU's BIOS starts them.
    let plain = [&raw[..], &["--plain"]].concat();
    assert_eq!(check_numbers(&cli(&plain), 16384), Ok(()));
    assert!(Cli::try_parse_from(["sevsim-run", "--entry", "raw"]).is_err());
}

#[test]
fn the_command_line_holds_own_and_added_words() {
    let cli = cli(&[
        "--batch", "--kernel", "k", "--append", "quiet", "--append", "a,b=c d", "--vcpus", "1",
    ]);
    assert_eq!(
        compose_cmdline(&cli, &Expect::Check),
        "console=ttyS0 panic=-1 pci=lastbus=0 sevsim.check quiet a,b=c d"
    );
    assert_eq!(
        compose_cmdline(&cli, &Expect::PowerOff),
        "console=ttyS0 panic=-1 pci=lastbus=0 quiet a,b=c d"
    );
    let two = Cli { vcpus: 2, ..cli };
    assert_eq!(
        compose_cmdline(&two, &Expect::PowerOff),
        "console=ttyS0 panic=-1 pci=lastbus=0 tsc=nowatchdog quiet a,b=c d"
    );
    let bare = Cli {
        bare_cmdline: true,
        ..two
    };
    assert_eq!(compose_cmdline(&bare, &Expect::Check), "quiet a,b=c d");
}

#[test]
fn host_memory_is_read() {
    assert_eq!(
        host_memory("MemTotal:       16384000 kB\nMemFree: 1 kB\n"),
        Some(16000)
    );
    assert_eq!(host_memory("nothing"), None);
}

#[test]
fn files_are_checked_before_qemu_starts() {
    let missing = check_file("the kernel", Path::new("/nonexistent/k"), "build one").unwrap_err();
    assert!(missing.0.contains("/nonexistent/k"));
    assert!(missing.0.ends_with("build one"));
    assert!(check_file("x", Path::new("/"), "y")
        .unwrap_err()
        .0
        .contains("folder"));
    assert!(check_file("x", Path::new("/dev/null"), "y")
        .unwrap_err()
        .0
        .contains("empty"));
}
