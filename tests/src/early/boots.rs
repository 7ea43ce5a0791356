// SPDX-License-Identifier: GPL-2.0
//! Boots that have to succeed: by firmware and EFI stub, by the 64-bit entry, without SEV-ES.

use super::case::Case;
use super::case::Count;
use super::case::End;
use crate::cases::Kernel;

/// The decompressor's console, and its wish for something to say.
const SAYS: &str = "nokaslr earlyprintk=ttyS0";
/// What it says then.
const SAID: [&str; 3] = [
    "KASLR disabled: 'nokaslr' on cmdline.",
    "early console in extract_kernel",
    "Decompressing Linux...",
];

/// Both stages of the decompressor and the code before relocation have to have run.
const STAGES: [Count; 3] = [
    ("stage1", "cpuid", 3),
    ("stage2", "cpuid", 1),
    ("startup", "cpuid", 3),
];
const SILENT: [Count; 2] = [("stage1", "cpuid", 3), ("startup", "cpuid", 3)];
/// By firmware the decompressor is not entered.
const STARTUP: [Count; 1] = [("startup", "cpuid", 3)];

const ONE_GIB: &str = "--vcpus 1 --memory 1024";
const SIX_GIB: &str = "--vcpus 1 --memory 6144";
/// Everything above 4 GiB, each in a 1 GiB range of its own where the memory suffices.
const FAR: &str = "--option kernel-at=0x100000000 --option params-at=0x141234000 \
                   --option cmdline-at=0x1512345f0 --option initrd-at=0x180000000 \
                   --option rsdp-at=0x1a0000000";
/// What the boot log says of the far places.
const FAR_TEXTS: [&str; 2] = [
    "RAMDISK: [mem 0x180000000-",
    "ACPI: RSDP 0x00000001A0000000",
];

/// Guests under sevsim.
fn encrypted(kernel: Kernel) -> Vec<Case> {
    let raw = |name: &str, options: &str, append: &str| {
        let name = format!("raw-{name}");
        let case = Case::new(kernel, &name, &format!("--entry raw {options}"), append);
        // Without KASLR and console nothing in the second stage needs the hypervisor.
        let silent = append == "nokaslr";
        case.counts(if silent { &SILENT } else { &STAGES })
    };
    let firmware = |name: &str, options: &str, append: &str| {
        Case::new(kernel, &format!("efi-{name}"), options, append).counts(&STARTUP)
    };
    let mut kexec = raw("kexec", ONE_GIB, "").counts(&[
        // Six and more each time.
        ("stage1", "cpuid", 10),
        ("startup", "cpuid", 10),
    ]);
    kexec.kexec = true;
    vec![
        raw("1gib", ONE_GIB, ""),
        raw("6gib-far", &format!("{SIX_GIB} {FAR}"), "").texts(&FAR_TEXTS),
        raw("6gib-far-nokaslr", &format!("{SIX_GIB} {FAR}"), "nokaslr").texts(&FAR_TEXTS),
        raw("console", ONE_GIB, SAYS)
            .texts(&SAID)
            .counts(&[("stage2", "ioio", 50)]),
        raw(
            "console-far",
            &format!("{SIX_GIB} {FAR} --cbit 47 --ghcb-version 1"),
            SAYS,
        )
        .texts(&SAID),
        // An NMI is only counted there.
        raw(
            "nmi",
            &format!("{ONE_GIB} --option lie=stage2:nmi:30"),
            SAYS,
        )
        .texts(&["Spurious early NMIs ignored: 1"]),
        raw("check", ONE_GIB, "").end(End::Check),
        kexec,
        firmware("1gib", ONE_GIB, ""),
        firmware("6gib-nokaslr", SIX_GIB, "nokaslr earlyprintk=ttyS0"),
    ]
}

/// Guests without sevsim: the same code serves every processor.
fn plain(kernel: Kernel) -> Vec<Case> {
    // As Linux names the levels of its page tables.
    const FOUR: &str = "sevsim-init: paging: 4 levels";
    const FIVE: &str = "sevsim-init: paging: 5 levels";
    let mut cases = Vec::new();
    for (model, cpu, paging) in [
        ("qemu64", "qemu64", FOUR),
        ("intel", "Nehalem", FOUR),
        ("la57", "max,la57=on", FIVE),
    ] {
        for (entry, option) in [("raw", "--entry raw"), ("efi", "")] {
            cases.push(
                Case::new(
                    kernel,
                    &format!("plain-{entry}-{model}"),
                    &format!("--plain {option} --cpu {cpu} --vcpus 2"),
                    "",
                )
                .texts(&[paging]),
            );
        }
    }
    let la57 = "--plain --entry raw --cpu max,la57=on --vcpus 2";
    cases.push(Case::new(kernel, "plain-raw-no5lvl", la57, "no5lvl").texts(&[FOUR]));
    cases.push(Case::new(kernel, "plain-raw-console", la57, SAYS).texts(&SAID));
    cases
}

/// All boots.
pub fn cases() -> Vec<Case> {
    let both = Kernel::BOTH.into_iter();
    both.flat_map(|kernel| [encrypted(kernel), plain(kernel)].concat())
        .collect()
}
