// SPDX-License-Identifier: GPL-2.0

//! Exits that move values between registers and the hypervisor: CPUID, TSC, MSRs, DR7, VMMCALL.

use super::{
    hypervisor::{field, Event},
    machine::Machine,
};
use crate::proto::{Fault, Note, Outcome, SnpCpuid};

const RF: u64 = 1 << 16;
const TF: u64 = 1 << 8;

/// Fills the registers with values that show up if they are used wrongly.
fn fill(machine: &mut Machine) {
    machine.regs.ax = 0xaaaa_aaaa_0000_0001;
    machine.regs.bx = 0xbbbb_bbbb_0000_0002;
    machine.regs.cx = 0xcccc_cccc_0000_0003;
    machine.regs.dx = 0xdddd_dddd_0000_0004;
}

#[test]
fn cpuid_asks_and_truncates() {
    for peek in [true, false] {
        let mut machine = Machine::new(&[0x0f, 0xa2]);

        fill(&mut machine);
        machine.peek = peek;

        let before = machine.regs;

        machine.complete(0x72);
        assert_eq!(machine.event(), Event::Cpuid(1, 3, None, None));
        assert_eq!(machine.regs.ax, 0x10);
        assert_eq!(machine.regs.bx, 0x6874_7541);
        assert_eq!(machine.regs.cx, 0x444d_4163);
        assert_eq!(machine.regs.dx, 0x6974_6e65);
        assert_eq!(machine.regs.ip, before.ip + 2);
        assert_eq!(machine.regs.flags, before.flags & !RF);
        assert_eq!(machine.regs.si, before.si);
    }
}

#[test]
fn cpuid_sends_xcr0_and_xss_only_where_needed() {
    for (leaf, subleaf, xss, expected) in [
        (0xd, 0, Some(0x1800), Event::Cpuid(0xd, 0, Some(7), None)),
        (
            0xd,
            1,
            Some(0x1800),
            Event::Cpuid(0xd, 1, Some(7), Some(0x1800)),
        ),
        (0xd, 1, None, Event::Cpuid(0xd, 1, Some(7), None)),
        (0xd, 2, Some(0x1800), Event::Cpuid(0xd, 2, Some(7), None)),
        (0x7, 0, Some(0x1800), Event::Cpuid(7, 0, None, None)),
    ] {
        let mut machine = Machine::new(&[0x0f, 0xa2]);

        machine.regs.ax = 0xffff_ffff_0000_0000 | leaf;
        machine.regs.cx = 0xffff_ffff_0000_0000 | subleaf;
        machine.xss = xss;
        machine.complete(0x72);
        assert_eq!(machine.event(), expected);
    }
}

#[test]
fn cpuid_of_an_snp_guest_comes_from_the_table() {
    let mut machine = Machine::new(&[0x0f, 0xa2]);

    fill(&mut machine);
    machine.snp_cpuid = SnpCpuid::Found;
    machine.complete(0x72);
    assert_eq!(machine.vmgexits, 0);
    assert_eq!(machine.regs.ax, 0xffff_fffe);
    assert_eq!(machine.regs.bx, 0xffff_fffc);
    assert_eq!((machine.regs.cx, machine.regs.dx), (3, 4));

    machine.regs.ip -= 2;
    machine.snp_cpuid = SnpCpuid::Failed;

    let before = machine.regs;

    assert_eq!(machine.vc(0x72), Outcome::VmmError);
    assert_eq!((machine.regs, machine.vmgexits), (before, 0));
}

#[test]
fn rdtsc_and_rdtscp() {
    let mut machine = Machine::new(&[0x0f, 0x31, 0x0f, 0x01, 0xf9]);

    fill(&mut machine);
    machine.complete(0x6e);
    assert_eq!(machine.regs.ax, 0x1111_2222);
    assert_eq!(machine.regs.dx, 0x3333_4444);
    assert_eq!(machine.regs.cx, 0xcccc_cccc_0000_0003);

    machine.complete(0x87);
    assert_eq!(machine.regs.cx, 7);
    assert_eq!(machine.regs.ip, super::machine::CODE + 5);
    assert_eq!(
        machine.hypervisor.events,
        [Event::Tsc(0x6e), Event::Tsc(0x87)]
    );
}

#[test]
fn secure_tsc_does_not_ask() {
    for (code, bytes) in [(0x6e, vec![0x0f, 0x31]), (0x87, vec![0x0f, 0x01, 0xf9])] {
        let mut machine = Machine::new(&bytes);

        machine.features.secure_tsc = true;
        assert_eq!(machine.vc(code), Outcome::VmmError);
        assert_eq!(machine.vmgexits, 0);
    }
}

#[test]
fn rdpmc() {
    let mut machine = Machine::user(&[0x0f, 0x33]);

    fill(&mut machine);
    machine.cr4 = 1 << 8;
    machine.complete(0x6f);
    assert_eq!(machine.event(), Event::Pmc(3));
    assert_eq!((machine.regs.ax, machine.regs.dx), (0x9abc, 0x12));
}

#[test]
fn what_cr4_keeps_from_user_mode() {
    let (tsd, pce) = (1 << 2, 1 << 8);

    for (code, bytes, user_may, user_may_not) in [
        (0x6e, vec![0x0f, 0x31], pce, tsd | pce),
        (0x87, vec![0x0f, 0x01, 0xf9], pce, tsd | pce),
        (0x6f, vec![0x0f, 0x33], pce | tsd, tsd),
    ] {
        let mut machine = Machine::user(&bytes);

        machine.cr4 = user_may_not;
        assert_eq!(machine.vc(code), Outcome::Exception(Fault::GP));
        assert_eq!(machine.vmgexits, 0);
        machine.cr4 = user_may;
        machine.complete(code);

        let mut machine = Machine::new(&bytes);

        machine.cr4 = user_may_not;
        machine.complete(code);
    }
}

#[test]
fn cpuid_can_be_kept_from_user_mode() {
    // With a prefix, too: those do not take the short cut.
    for bytes in [vec![0x0f, 0xa2], vec![0x66, 0x0f, 0xa2]] {
        let mut machine = Machine::user(&bytes);

        machine.cpuid_faults = true;
        assert_eq!(machine.vc(0x72), Outcome::Exception(Fault::GP));
        assert_eq!(machine.vmgexits, 0);
        machine.cpuid_faults = false;
        machine.complete(0x72);

        let mut machine = Machine::new(&bytes);

        machine.cpuid_faults = true;
        machine.complete(0x72);
    }
}

#[test]
fn rdmsr_and_wrmsr() {
    let mut machine = Machine::new(&[0x0f, 0x32, 0x0f, 0x30]);

    machine
        .hypervisor
        .msrs
        .insert(0xc001_0015, 0x1234_5678_9abc_def0);
    machine.regs.cx = 0xffff_ffff_c001_0015;
    machine.complete(0x7c);
    assert_eq!(
        (machine.regs.ax, machine.regs.dx),
        (0x9abc_def0, 0x1234_5678)
    );

    machine.regs.ax = 0xffff_ffff_0000_0011;
    machine.regs.dx = 0xffff_ffff_0000_0022;
    machine.complete(0x7c);
    assert_eq!(machine.hypervisor.msrs[&0xc001_0015], 0x22_0000_0011);
    assert_eq!(machine.regs.ax, 0xffff_ffff_0000_0011);
    assert_eq!(
        machine.hypervisor.events,
        [
            Event::ReadMsr(0xc001_0015),
            Event::WriteMsr(0xc001_0015, 0x22_0000_0011)
        ]
    );
}

#[test]
fn msr_that_does_not_exist_is_gp() {
    for bytes in [[0x0f, 0x32], [0x0f, 0x30]] {
        let mut machine = Machine::new(&bytes);

        fill(&mut machine);

        let before = machine.regs;

        assert_eq!(machine.vc(0x7c), Outcome::Exception(Fault::GP));
        assert_eq!(machine.regs, before);
    }
}

#[test]
fn msrs_that_are_not_the_hypervisors() {
    const CAA: u64 = 0xc001_f000;
    const TSC: u64 = 0x10;
    const FREQ: u64 = 0xc001_0134;
    const SAVIC: u64 = 0xc001_0138;

    let done = Outcome::Done { single_step: false };
    let gp = Outcome::Exception(Fault::GP);

    for (msr, write, outcome, value) in [
        (CAA, false, done, 0xaaaa_bbbb_cccc_d000u64),
        (CAA, true, done, 0x0000_0004_0000_0001),
        (TSC, false, done, 0x1234_5678_9abc_def0),
        (TSC, true, gp, 0),
        (FREQ, false, Outcome::VmmError, 0),
        (FREQ, true, gp, 0),
        (SAVIC, false, Outcome::VmmError, 0),
        (SAVIC, true, Outcome::VmmError, 0),
    ] {
        let mut machine = Machine::new(&[0x0f, if write { 0x30 } else { 0x32 }]);

        fill(&mut machine);
        machine.regs.cx = msr;
        machine.features.secure_tsc = true;
        machine.features.secure_avic = true;

        let before = machine.regs;

        assert_eq!(machine.vc(0x7c), outcome, "{msr:#x} write: {write}");
        assert_eq!(machine.vmgexits, 0);
        if outcome != done {
            assert_eq!(machine.regs, before);
        } else if !write {
            assert_eq!(machine.regs.ax, value & 0xffff_ffff);
            assert_eq!(machine.regs.dx, value >> 32);
        }
    }

    // Without these features they are MSRs like others.
    for msr in [TSC, FREQ, SAVIC] {
        let mut machine = Machine::new(&[0x0f, 0x32]);

        machine.regs.cx = msr;
        machine.hypervisor.msrs.insert(msr as u32, 5);
        machine.complete(0x7c);
        assert_eq!(machine.event(), Event::ReadMsr(msr as u32));
    }
}

#[test]
fn privileged_instructions_in_user_mode_are_gp() {
    for (code, bytes) in [
        (0x7c, vec![0x0f, 0x30]),
        (0x7c, vec![0x0f, 0x32]),
        (0x27, vec![0x0f, 0x21, 0xf8]),
        (0x37, vec![0x0f, 0x23, 0xf8]),
        (0x89, vec![0x0f, 0x09]),
        (0x76, vec![0x0f, 0x08]),
    ] {
        let mut machine = Machine::user(&bytes);

        assert_eq!(machine.vc(code), Outcome::Exception(Fault::GP));
        assert_eq!(machine.vmgexits, 0);
    }
}

#[test]
fn dr7_write() {
    // mov dr7, r9
    for (value, shadow, outcome, stored) in [
        (0x401, Some(0x400), None, Some(0x401)),
        // Reserved bits are cleared and bit 10 is set.
        (0xffff_ffff, Some(0x400), None, Some(0xffff_27ff)),
        (0, Some(0x401), None, Some(0x400)),
        (
            0x1_0000_0000,
            Some(0x400),
            Some(Outcome::Exception(Fault::GP)),
            Some(0x400),
        ),
        // Without a shadow only the value at reset.
        (0, None, None, None),
        (0x400, None, None, None),
        (1, None, Some(Outcome::Unsupported), None),
    ] {
        let mut machine = Machine::new(&[0x41, 0x0f, 0x23, 0xf9]);

        machine.regs.r9 = value;
        machine.dr7 = shadow;

        let outcome_seen = machine.vc(0x37);

        assert_eq!(
            outcome_seen,
            outcome.unwrap_or(Outcome::Done { single_step: false }),
            "{value:#x}"
        );
        assert_eq!(machine.dr7, stored);
        if outcome.is_none() {
            assert_eq!(machine.event(), Event::Dr7(stored.unwrap_or(0x400)));
        } else {
            assert_eq!(machine.vmgexits, 0);
        }
    }
}

#[test]
fn dr7_write_that_fails_keeps_the_shadow() {
    let mut machine = Machine::new(&[0x0f, 0x23, 0xf8]);

    machine.regs.ax = 0x401;
    machine.hypervisor.tamper = Some(Box::new(|page| page.result(2, 5)));
    assert_eq!(machine.vc(0x37), Outcome::VmmError);
    assert_eq!(machine.dr7, Some(0x400));
}

#[test]
fn dr7_read() {
    for (shadow, value) in [(Some(0x55), 0x55), (None, 0x400)] {
        let mut machine = Machine::new(&[0x0f, 0x21, 0xfe]);

        machine.dr7 = shadow;
        machine.complete(0x27);
        assert_eq!(machine.regs.si, value);
        assert_eq!(machine.vmgexits, 0);
    }
}

#[test]
fn debug_swap_has_no_dr7_exits() {
    for (code, bytes) in [(0x27, [0x0f, 0x21, 0xf8]), (0x37, [0x0f, 0x23, 0xf8])] {
        let mut machine = Machine::new(&bytes);

        machine.features.debug_swap = true;
        assert_eq!(machine.vc(code), Outcome::VmmError);
        assert_eq!(machine.vmgexits, 0);
    }
}

#[test]
fn vmmcall() {
    for (user, rsi) in [(false, None), (true, None), (false, Some(0x77))] {
        let mut machine = Machine::new(&[0x0f, 0x01, 0xd9]);

        if user {
            machine.regs.cs = super::machine::USER_CS;
        }
        machine.regs.ax = 0x1234_5678_9abc_def0;
        machine.hypercall_rsi = rsi;
        machine.complete(0x81);
        assert_eq!(
            machine.event(),
            Event::Hypercall(0x1234_5678_9abc_def0, if user { 3 } else { 0 })
        );
        assert_eq!(machine.regs.ax, !0x1234_5678_9abc_def0);
        assert_eq!(machine.regs.si, if rsi.is_some() { 0x515 } else { 0 });
        assert_eq!(machine.regs.ip, super::machine::CODE + 3);
    }
}

#[test]
fn vmmcall_that_the_platform_refuses() {
    let mut machine = Machine::new(&[0x0f, 0x01, 0xd9]);

    machine.hypercall_accepted = false;
    machine.regs.ax = 0x1234;

    let before = machine.regs;

    assert_eq!(machine.vc(0x81), Outcome::VmmError);
    assert_eq!(machine.regs, before);
}

#[test]
fn wbinvd_and_wbnoinvd() {
    for bytes in [vec![0x0f, 0x09], vec![0xf3, 0x0f, 0x09]] {
        let mut machine = Machine::new(&bytes);

        machine.complete(0x89);
        assert_eq!(machine.event(), Event::Wbinvd);
        assert_eq!(machine.regs.ip, super::machine::CODE + bytes.len() as u64);
    }
}

#[test]
fn invd_is_refused() {
    let mut machine = Machine::new(&[0x0f, 0x08]);

    assert_eq!(machine.vc(0x76), Outcome::Unsupported);
    assert_eq!(machine.notes, [Note::Invd]);
    assert_eq!(machine.vmgexits, 0);
}

#[test]
fn monitor_and_mwait_tell_nothing() {
    for (code, last) in [(0x8a, 0xc8), (0x8a, 0xfa), (0x8b, 0xc9), (0x8b, 0xfb)] {
        let mut machine = Machine::new(&[0x0f, 0x01, last]);

        machine.complete(code);
        assert_eq!(machine.vmgexits, 0);
        assert_eq!(machine.regs.ip, super::machine::CODE + 3);
    }
}

#[test]
fn rip_wraps_in_32_bit_code() {
    let mut machine = Machine::user32(&[]);

    machine
        .pages
        .insert(0xffff_f000, super::machine::Page::private(0x70_0000));
    machine.poke(0xffff_fffe, &[0x0f, 0xa2]);
    machine.regs.ip = 0xffff_fffe;
    machine.complete(0x72);
    assert_eq!(machine.regs.ip, 0);
}

#[test]
fn single_step_is_reported() {
    let mut machine = Machine::new(&[0x0f, 0xa2]);

    machine.regs.flags |= TF;
    assert_eq!(machine.vc(0x72), Outcome::Done { single_step: true });
    assert_ne!(machine.regs.flags & TF, 0);
    assert_eq!(machine.regs.flags & RF, 0);
}

#[test]
fn protocol_version_is_the_negotiated_one() {
    let mut machine = Machine::new(&[0x0f, 0xa2]);

    machine.hypervisor.version = 1;
    machine.complete(0x72);
}

/// Each register that a reply must hold, missing: an error, and the registers as before.
#[test]
fn reply_without_a_needed_register_is_refused() {
    for (code, bytes, fields) in [
        (
            0x72,
            vec![0x0f, 0xa2],
            vec![field::RAX, field::RBX, field::RCX, field::RDX],
        ),
        (0x6e, vec![0x0f, 0x31], vec![field::RAX, field::RDX]),
        (
            0x87,
            vec![0x0f, 0x01, 0xf9],
            vec![field::RAX, field::RCX, field::RDX],
        ),
        (0x6f, vec![0x0f, 0x33], vec![field::RAX, field::RDX]),
        (0x7c, vec![0x0f, 0x32], vec![field::RAX, field::RDX]),
        (0x81, vec![0x0f, 0x01, 0xd9], vec![field::RAX]),
        (0x7b, vec![0xec], vec![field::RAX]),
        (0x89, vec![0x0f, 0x09], vec![]),
    ] {
        for missing in fields.iter().copied().chain([field::INFO_1]) {
            let mut machine = Machine::new(&bytes);

            fill(&mut machine);
            machine.hypervisor.msrs.insert(3, 4);
            machine.hypervisor.tamper = Some(Box::new(move |page| page.set_valid(missing, false)));

            let before = machine.regs;

            assert_eq!(
                machine.vc(code),
                Outcome::VmmError,
                "{code:#x} {missing:#x}"
            );
            assert_eq!(machine.regs, before);
            assert_eq!(machine.vmgexits, 1);
        }
    }
}
