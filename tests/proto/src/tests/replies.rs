// SPDX-License-Identifier: GPL-2.0

//! Replies of a hostile hypervisor, and the GHCB's accessors.

use std::ptr::NonNull;

use proptest::prelude::*;

use super::{
    hypervisor::{field, SharedPage, INJECT_GP},
    machine::{Machine, DATA, DEVICE},
};
use crate::proto::{
    exit_info,
    ghcb::{Field, SHARED_BUFFER_SIZE},
    result::Vector,
    Error, ExitCode, Fault, Ghcb, Outcome, Reply, Request, Width,
};

/// A handle of a page.
fn ghcb(page: &mut SharedPage) -> Ghcb {
    // SAFETY: The tests use the page and the handle in turn.
    unsafe { Ghcb::new(NonNull::from(page).cast()) }
}

fn filled(byte: u8) -> Box<SharedPage> {
    Box::new(SharedPage([byte; 4096]))
}

/// What the result of an exit must be, said in other words than the core does.
fn expected(info_1: Option<u64>, info_2: Option<u64>) -> Result<(), Error> {
    let Some(info_1) = info_1 else {
        return Err(Error::Vmm);
    };

    if info_1 % (1 << 32) == 0 {
        return Ok(());
    }

    let Some(event) = info_2 else {
        return Err(Error::Vmm);
    };
    let bytes = event.to_le_bytes();
    let (vector, kind, code_given, valid) = (
        bytes[0],
        bytes[1] & 7,
        bytes[1] & 8 != 0,
        bytes[3] & 0x80 != 0,
    );

    if info_1 % (1 << 32) != 1 || kind != 3 || !valid {
        return Err(Error::Vmm);
    }
    match vector {
        13 => Err(Error::Exception(Fault {
            cr2: 0,
            error_code: if code_given { (event >> 32) as u32 } else { 0 },
            vector: Vector::GeneralProtection,
        })),
        6 => Err(Error::Exception(Fault {
            cr2: 0,
            error_code: 0,
            vector: Vector::InvalidOpcode,
        })),
        _ => Err(Error::Vmm),
    }
}

fn verify(info_1: Option<u64>, info_2: Option<u64>) -> Result<(), Error> {
    let mut page = filled(0);

    if let Some(value) = info_1 {
        page.reply(field::INFO_1, value);
    }
    if let Some(value) = info_2 {
        page.reply(field::INFO_2, value);
    }

    let reply = Reply::current(ghcb(&mut page));

    exit_info::verify(&reply)
}

#[test]
fn only_gp_and_ud_may_be_injected() {
    let mut accepted = 0;

    for info_1 in [
        0,
        1,
        2,
        3,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0001,
        0x1_0000_0002,
    ] {
        for vector in 0..=255 {
            for high in [0x80, 0x00] {
                for kind in 0..16 {
                    let event = vector | (kind << 8) | (high << 24) | (0x1234 << 32);

                    for info_1 in [Some(info_1), None] {
                        for info_2 in [Some(event), None] {
                            let result = verify(info_1, info_2);

                            assert_eq!(result, expected(info_1, info_2));
                            accepted += usize::from(matches!(result, Err(Error::Exception(_))));
                        }
                    }
                }
            }
        }
    }
    // Two values of SW_EXITINFO1, two vectors, with and without an error code.
    assert_eq!(accepted, 2 * 2 * 2);
}

proptest! {
    #[test]
    fn results_are_as_expected(
        info_1 in proptest::option::of(prop_oneof![0..4u64, any::<u64>()]),
        info_2 in proptest::option::of(prop_oneof![
            any::<u64>(),
            any::<u64>().prop_map(|event| event & !0xffff_07ff | INJECT_GP),
        ]),
    ) {
        prop_assert_eq!(verify(info_1, info_2), expected(info_1, info_2));
    }

    /// Whatever the reply is, an exit either succeeds with values of the reply or leaves the
    /// registers alone.
    #[test]
    fn no_reply_leads_to_half_an_instruction(
        which in 0..8usize,
        noise in proptest::collection::vec((0x1f0..0x400usize, any::<u64>()), 0..20),
        valid in any::<[u8; 16]>(),
        info_1 in prop_oneof![0..3u64, any::<u64>()],
        info_2 in prop_oneof![Just(INJECT_GP), any::<u64>()],
    ) {
        let (code, bytes): (u64, &[u8]) = [
            (0x72, &[0x0f, 0xa2][..]),
            (0x6e, &[0x0f, 0x31]),
            (0x7c, &[0x0f, 0x32]),
            (0x7c, &[0x0f, 0x30]),
            (0x7b, &[0xed]),
            (0x7b, &[0xf3, 0x6c]),
            (0x400, &[0x48, 0x8b, 0x07]),
            (0x81, &[0x0f, 0x01, 0xd9]),
        ][which];
        let mut machine = Machine::new(bytes);

        machine.regs.di = if code == 0x400 { DEVICE } else { DATA };
        machine.regs.cx = 3;
        machine.regs.ax = 0x1111_2222_3333_4444;
        machine.regs.dx = 0x5555_6666_7777_8888;
        machine.hypervisor.msrs.insert(3, 5);
        machine.hypervisor.tamper = Some(Box::new(move |page| {
            for &(offset, value) in &noise {
                page.put(offset / 8 * 8, value, 8);
            }
            page.put(field::INFO_1, info_1, 8);
            page.put(field::INFO_2, info_2, 8);
            page.0[field::VALID..field::VALID + 16].copy_from_slice(&valid);
        }));

        let before = machine.regs;
        let outcome = machine.vc(code);
        let reply = &machine.shared;
        let given = |field| reply.is_valid(field).then(|| reply.get(field, 8));

        match expected(given(field::INFO_1), given(field::INFO_2)) {
            Err(error) => prop_assert_eq!(outcome, Outcome::from(error)),
            Ok(()) => {
                let needed: &[usize] = match which {
                    0 => &[field::RAX, field::RBX, field::RCX, field::RDX],
                    1 | 2 => &[field::RAX, field::RDX],
                    4 | 7 => &[field::RAX],
                    _ => &[],
                };
                let complete = needed.iter().all(|field| reply.is_valid(*field));

                prop_assert_eq!(
                    outcome,
                    if complete { Outcome::Done { single_step: false } } else { Outcome::VmmError }
                );
            }
        }

        if !matches!(outcome, Outcome::Done { .. }) {
            prop_assert_eq!(machine.regs, before);
            return Ok(());
        }

        // Registers that the instruction does not write are never the hypervisor's to change.
        let (after, rax, rdx) = (machine.regs, reply.get(field::RAX, 8), reply.get(field::RDX, 8));

        match which {
            0 => prop_assert_eq!((after.ax, after.dx), (rax & 0xffff_ffff, rdx & 0xffff_ffff)),
            1 | 2 => {
                prop_assert_eq!((after.ax, after.dx), (rax & 0xffff_ffff, rdx & 0xffff_ffff));
                prop_assert_eq!((after.bx, after.cx), (before.bx, before.cx));
            }
            3 | 5 => {
                prop_assert_eq!((after.ax, after.bx), (before.ax, before.bx));
                prop_assert_eq!(after.dx, before.dx);
            }
            4 => {
                prop_assert_eq!(after.ax, rax & 0xffff_ffff);
                prop_assert_eq!((after.cx, after.dx), (before.cx, before.dx));
            }
            6 => prop_assert_eq!(after.ax, reply.get(field::BUFFER, 8)),
            _ => prop_assert_eq!(after.ax, rax),
        }
    }
}

#[test]
fn fields_are_where_the_specification_puts_them() {
    for (name, offset) in [
        (Field::XSS, field::XSS),
        (Field::RAX, field::RAX),
        (Field::RCX, field::RCX),
        (Field::RDX, field::RDX),
        (Field::RBX, field::RBX),
        (Field::EXIT_CODE, field::EXIT_CODE),
        (Field::EXIT_INFO_1, field::INFO_1),
        (Field::EXIT_INFO_2, field::INFO_2),
        (Field::SCRATCH, field::SCRATCH),
        (Field::XCR0, field::XCR0),
    ] {
        let mut page = filled(0);
        let request = Request::new(ghcb(&mut page)).set(name, 0x1122_3344_5566_7788);
        let _ = request.commit(2, 0, 0, 0);

        if ![field::EXIT_CODE, field::INFO_1, field::INFO_2].contains(&offset) {
            assert_eq!(page.get(offset, 8), 0x1122_3344_5566_7788);
        }
        assert!(page.is_valid(offset), "{name:?}");

        // And only one bit beside those that are always there.
        let ones: u32 = page.0[field::VALID..field::VALID + 16]
            .iter()
            .map(|byte| byte.count_ones())
            .sum();

        assert!(ones == 4 || (ones == 3 && page.is_valid(offset)));

        // The reply.
        let mut page = filled(0);

        page.put(offset, 0x99, 8);
        assert_eq!(Reply::current(ghcb(&mut page)).get(name), None);
        page.reply(offset, 0x99);
        assert_eq!(Reply::current(ghcb(&mut page)).get(name), Some(0x99));
    }

    let mut page = filled(0);
    let _ = Request::new(ghcb(&mut page)).cpl(3).commit(2, 0, 0, 0);

    assert_eq!(page.get(field::CPL, 1), 3);
    assert!(page.is_valid(field::CPL / 8 * 8));
}

#[test]
fn a_request_forgets_what_was_valid_before() {
    let mut page = filled(0xff);
    let pending = Request::new(ghcb(&mut page)).commit(1, ExitCode::NmiComplete as u64, 7, 8);

    drop(pending);
    assert_eq!(page.get(field::EXIT_CODE, 8), 0x8000_0003);
    assert_eq!(page.get(field::INFO_1, 8), 7);
    assert_eq!(page.get(field::INFO_2, 8), 8);
    assert_eq!(page.get(field::VERSION, 2), 1);
    assert_eq!(page.get(field::USAGE, 4), 0);
    assert!(page.is_valid(field::INFO_1));
    assert!(!page.is_valid(field::RAX));
    assert!(!page.is_valid(field::SCRATCH));
}

#[test]
fn an_adopted_request_keeps_what_c_code_set() {
    let mut page = filled(0);

    page.reply(field::RAX, 5);
    page.reply(field::SCRATCH, 6);

    let _ = Request::adopt(ghcb(&mut page)).commit(2, 0x8000_0010, 0, 0);

    assert!(page.is_valid(field::RAX) && page.is_valid(field::SCRATCH));
    assert!(page.is_valid(field::EXIT_CODE));
    assert!(!page.is_valid(field::RCX));
    assert_eq!(page.get(field::RAX, 8), 5);
}

#[test]
fn an_invalidated_page_is_no_request() {
    let mut page = filled(0xff);

    ghcb(&mut page).invalidate();
    assert_eq!(page.get(field::EXIT_CODE, 8), 0);
    assert!(page.0[field::VALID..field::VALID + 16]
        .iter()
        .all(|byte| *byte == 0));
}

#[test]
fn the_shared_buffer_has_bounds() {
    let mut page = filled(0x11);
    let handle = ghcb(&mut page);

    for (offset, len, ok) in [
        (0, SHARED_BUFFER_SIZE, true),
        (0, SHARED_BUFFER_SIZE + 1, false),
        (SHARED_BUFFER_SIZE, 0, true),
        (SHARED_BUFFER_SIZE, 1, false),
        (SHARED_BUFFER_SIZE - 8, 8, true),
        (SHARED_BUFFER_SIZE - 7, 8, false),
        (usize::MAX, 1, false),
        (1, usize::MAX, false),
    ] {
        assert_eq!(handle.buffer(offset, len).is_some(), ok, "{offset} {len}");
    }

    for width in [Width::B1, Width::B2, Width::B4, Width::B8] {
        let bytes = width.bytes() as usize;

        handle.write_buffer(3, 0xf8f7_f6f5_f4f3_f2f1, width);
        assert_eq!(
            handle.read_buffer(3, width),
            width.truncate(0xf8f7_f6f5_f4f3_f2f1)
        );
        // Beyond the end nothing is read or written.
        handle.write_buffer(SHARED_BUFFER_SIZE - bytes + 1, 0, width);
        assert_eq!(handle.read_buffer(SHARED_BUFFER_SIZE - bytes + 1, width), 0);
    }
    assert_eq!(page.get(field::BUFFER + 3, 8), 0xf8f7_f6f5_f4f3_f2f1);
    assert_eq!(page.get(field::BUFFER + 11, 1), 0x11);
    assert_eq!(
        page.get(field::BUFFER + SHARED_BUFFER_SIZE - 8, 8),
        0x1111_1111_1111_1111
    );
    assert_eq!(
        page.get(field::BUFFER + SHARED_BUFFER_SIZE, 8),
        0x1111_1111_1111_1111
    );
}

/// NMI_COMPLETE between any two accesses of an interrupted exit leaves no trace.
#[test]
fn an_exit_between_save_and_restore_leaves_no_trace() {
    for filler in [0x00, 0x5a, 0xff] {
        let mut page = filled(filler);
        let before = page.0;
        let saved = ghcb(&mut page).save();
        let pending = Request::new(ghcb(&mut page)).commit(2, ExitCode::NmiComplete as u64, 0, 0);

        drop(pending);
        for register in [field::RAX, field::RBX, field::RCX, field::RDX] {
            page.reply(register, 0x1234_5678);
        }
        page.result(1, INJECT_GP);
        assert!(page.0 != before);
        ghcb(&mut page).restore(&saved);
        assert!(page.0 == before);
    }
}

/// Whatever a nested user and an honest reply write, the interrupted user finds what it left.
#[test]
fn a_nested_use_leaves_no_trace() {
    // All fields of table 3 that this code knows, as ranges of bytes; the rest is reserved.
    let fields = [
        field::CPL..field::CPL + 1,
        field::XSS..field::XSS + 8,
        0x160..0x168,
        0x178..0x180,
        0x1d8..0x1e0,
        field::RAX..field::RAX + 8,
        field::RCX..0x320,
        0x328..0x380,
        field::EXIT_CODE..0x3b0,
        field::XCR0..0x408,
        field::BUFFER..field::BUFFER + 64,
        field::VERSION..0x1000,
    ];

    for filler in [0x00, 0x5a, 0xff] {
        let mut page = filled(filler);
        let before = page.0;
        let saved = ghcb(&mut page).save_use();

        for range in fields.clone() {
            page.0[range].fill(0xa5);
        }
        assert!(page.0 != before);
        ghcb(&mut page).restore_use(&saved);
        assert!(page.0 == before);
    }
}
