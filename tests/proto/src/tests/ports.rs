// SPDX-License-Identifier: GPL-2.0

//! IN, OUT, INS and OUTS.

use super::{
    hypervisor::{Event, INJECT_GP},
    machine::{Descriptor, Machine, Page, CODE, DATA, DEVICE},
    Random,
};
use crate::proto::{
    result::{PF_PRESENT, PF_USER, PF_WRITE},
    CodeSize, Fault, Outcome,
};

const IOIO: u64 = 0x7b;
const DF: u64 = 1 << 10;
const TF: u64 = 1 << 8;
const AC: u64 = 1 << 18;

/// SW_EXITINFO1, written out anew: direction, string, repeated, widths, segment, port.
fn info(
    input: bool,
    string: bool,
    rep: bool,
    width: u64,
    address: u64,
    segment: u64,
    port: u64,
) -> u64 {
    u64::from(input)
        | (u64::from(string) << 2)
        | (u64::from(rep) << 3)
        | (width << 4)
        | match address {
            16 => 1 << 7,
            32 => 1 << 8,
            64 => 1 << 9,
            _ => panic!(),
        }
        | (segment << 10)
        | (port << 16)
}

const ES: u64 = 0;
const DS: u64 = 3;
const GS: u64 = 5;

/// Everything that a completed OUTS or INS in these tests is.
fn strings(machine: &Machine) -> Vec<(u64, u64, Vec<u8>)> {
    machine
        .hypervisor
        .events
        .iter()
        .map(|event| match event {
            Event::String { info, count, data } => (*info, *count, data.clone()),
            event => panic!("{event:?}"),
        })
        .collect()
}

#[test]
fn out_of_all_widths() {
    for (bytes, port, width, value) in [
        (vec![0xee], 0x3f8, 1, 0x88),
        (vec![0x66, 0xef], 0x3f8, 2, 0x7788),
        (vec![0xef], 0x3f8, 4, 0x5566_7788),
        // REX.W does not make a port wider, and REP does not make OUT a string instruction.
        (vec![0x48, 0xef], 0x3f8, 4, 0x5566_7788),
        (vec![0xf3, 0xee], 0x3f8, 1, 0x88),
        (vec![0xe6, 0x80], 0x80, 1, 0x88),
        (vec![0x66, 0xe7, 0xff], 0xff, 2, 0x7788),
        (vec![0xe7, 0x42], 0x42, 4, 0x5566_7788),
    ] {
        for peek in [true, false] {
            let mut machine = Machine::new(&bytes);

            machine.peek = peek;
            machine.regs.ax = 0x1122_3344_5566_7788;
            machine.regs.dx = 0xffff_ffff_ffff_03f8;

            let before = machine.regs;

            machine.complete(IOIO);
            assert_eq!(
                machine.event(),
                Event::Port {
                    info: info(false, false, false, width, 64, 0, port),
                    value: Some(value)
                },
                "{bytes:02x?}"
            );
            assert_eq!(machine.regs.ip, CODE + bytes.len() as u64);
            assert_eq!(machine.regs.ax, before.ax);
        }
    }
}

#[test]
fn in_of_all_widths_merges() {
    for (bytes, port, width, after) in [
        (vec![0xec], 0x3f8, 1, 0x1122_3344_5566_77a1),
        (vec![0x66, 0xed], 0x3f8, 2, 0x1122_3344_5566_a2a1),
        (vec![0xed], 0x3f8, 4, 0xa4a3_a2a1),
        (vec![0xe4, 0x80], 0x80, 1, 0x1122_3344_5566_77a1),
        (vec![0x66, 0xe5, 0xff], 0xff, 2, 0x1122_3344_5566_a2a1),
        (vec![0xe5, 0x42], 0x42, 4, 0xa4a3_a2a1),
    ] {
        for peek in [true, false] {
            let mut machine = Machine::new(&bytes);

            machine.peek = peek;
            machine.regs.ax = 0x1122_3344_5566_7788;
            machine.regs.dx = 0x3f8;
            machine.hypervisor.input.extend([0xa1, 0xa2, 0xa3, 0xa4]);
            machine.complete(IOIO);
            assert_eq!(
                machine.event(),
                Event::Port {
                    info: info(true, false, false, width, 64, 0, port),
                    value: None
                }
            );
            assert_eq!(machine.regs.ax, after, "{bytes:02x?}");
        }
    }
}

#[test]
fn user_mode_needs_permission_for_all_ports_of_an_access() {
    for (allowed, bytes, ok) in [
        (vec![], vec![0xee], false),
        (vec![0x3f8], vec![0xee], true),
        (vec![0x3f8], vec![0xef], false),
        (vec![0x3f8, 0x3f9, 0x3fa], vec![0xef], false),
        (vec![0x3f8, 0x3f9, 0x3fa, 0x3fb], vec![0xef], true),
        (vec![0x3f8], vec![0x66, 0xed], false),
        (vec![0x3f8, 0x3f9], vec![0x66, 0xed], true),
        (vec![], vec![0x6e], false),
        (vec![0x3f8], vec![0x6e], true),
        (vec![0x3f8, 0x3f9], vec![0xf3, 0x6d], false),
        (vec![0x80], vec![0xe6, 0x81], false),
        (vec![0x81], vec![0xe6, 0x81], true),
    ] {
        let mut machine = Machine::user(&bytes);

        machine.allowed_ports = allowed.clone();
        machine.regs.dx = 0x3f8;
        machine.regs.cx = 1;
        machine.regs.si = DATA;
        machine.regs.di = DATA;

        let before = machine.regs;
        let outcome = machine.vc(IOIO);

        if ok {
            assert_eq!(
                outcome,
                Outcome::Done { single_step: false },
                "{bytes:02x?}"
            );
        } else {
            assert_eq!(
                outcome,
                Outcome::Exception(Fault::GP),
                "{bytes:02x?} {allowed:x?}"
            );
            assert_eq!((machine.regs, machine.vmgexits), (before, 0));
        }
    }
}

#[test]
fn last_port_does_not_wrap() {
    let mut machine = Machine::user(&[0x66, 0xef]);

    machine.allowed_ports = vec![0xffff, 0];
    machine.regs.dx = 0xffff;
    assert_eq!(machine.vc(IOIO), Outcome::Exception(Fault::GP));
}

#[test]
fn outs_of_all_widths() {
    for (bytes, width) in [(vec![0x6e], 1), (vec![0x66, 0x6f], 2), (vec![0x6f], 4)] {
        for peek in [true, false] {
            let mut machine = Machine::new(&bytes);

            machine.peek = peek;
            machine.poke(DATA, &[1, 2, 3, 4, 5, 6, 7, 8]);
            machine.regs.si = DATA + 1;
            machine.regs.dx = 0x1f0;
            // Without REP the count is not looked at, nor changed.
            machine.regs.cx = 77;
            machine.complete(IOIO);
            assert_eq!(
                strings(&machine),
                [(
                    info(false, true, false, width, 64, DS, 0x1f0),
                    1,
                    (2..2 + width as u8).collect::<Vec<_>>()
                )]
            );
            assert_eq!(machine.regs.si, DATA + 1 + width);
            assert_eq!(machine.regs.cx, 77);
            assert_eq!(machine.regs.ip, CODE + bytes.len() as u64);
        }
    }
}

#[test]
fn rep_outs_goes_in_chunks_of_the_buffer() {
    for (bytes, width, count) in [
        (vec![0xf3, 0x6e], 1u64, 5000u64),
        (vec![0x66, 0xf3, 0x6f], 2, 3000),
        (vec![0xf2, 0x6f], 4, 1024),
        (vec![0xf3, 0x48, 0x6f], 4, 509),
        (vec![0xf3, 0x6e], 1, 2032),
        (vec![0xf3, 0x6e], 1, 1),
    ] {
        let mut machine = Machine::new(&bytes);
        let data: Vec<u8> = (0..width * count).map(|n| (n * 7 % 251) as u8).collect();

        for page in 0..2 {
            machine
                .pages
                .insert(DATA + page * 4096, Page::private(0x20_0000 + page * 4096));
        }
        machine.poke(DATA, &data);
        machine.regs.si = DATA;
        machine.regs.dx = 0x1f0;
        machine.regs.cx = count;

        let chunk = 2032 / width;
        let exits = machine.complete_all(IOIO) as u64;

        assert_eq!(exits, count.div_ceil(chunk));
        assert_eq!(machine.vmgexits as u64, exits);
        assert_eq!(
            strings(&machine)
                .into_iter()
                .flat_map(|event| event.2)
                .collect::<Vec<_>>(),
            data
        );
        assert_eq!(
            strings(&machine)[0].0,
            info(false, true, true, width, 64, DS, 0x1f0)
        );
        assert_eq!(machine.regs.si, DATA + width * count);
        assert_eq!(machine.regs.cx, 0);
        assert_eq!(machine.regs.ip, CODE + bytes.len() as u64);
    }
}

/// A nested user stays in the part of the buffer that it saved, and gets there all the same.
#[test]
fn a_small_buffer_means_more_exits() {
    for (bytes, width) in [
        (vec![0xf3, 0x6e], 1u64),
        (vec![0xf3, 0x6f], 4),
        (vec![0xf3, 0x6c], 1),
        (vec![0xf3, 0x6d], 4),
    ] {
        let mut machine = Machine::new(&bytes);

        machine.buffer_size = 64;
        machine.pages.insert(DATA, Page::private(0x20_0000));
        machine.shared.0[0x840..0xff0].fill(0x77);
        (machine.regs.si, machine.regs.di) = (DATA, DATA);
        machine.regs.dx = 0x1f0;
        machine.regs.cx = 100;

        let exits = machine.complete_all(IOIO) as u64;

        assert_eq!(exits, (100 * width).div_ceil(64));
        assert_eq!(machine.regs.cx, 0);
        assert!(machine.shared.0[0x840..0xff0]
            .iter()
            .all(|&byte| byte == 0x77));
    }
}

#[test]
fn rip_and_rf_stay_while_a_string_is_in_progress() {
    let mut machine = Machine::new(&[0xf3, 0x6e]);

    machine.regs.si = DATA;
    machine.regs.cx = 3000;

    let before = machine.regs;

    assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: false });
    assert_eq!(
        (machine.regs.ip, machine.regs.flags),
        (before.ip, before.flags)
    );
    assert_eq!((machine.regs.si, machine.regs.cx), (DATA + 2032, 968));
}

#[test]
fn single_step_sees_every_iteration() {
    let mut machine = Machine::new(&[0xf3, 0x6e]);

    machine.regs.si = DATA;
    machine.regs.cx = 2;
    machine.regs.flags |= TF;
    assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: true });
    assert_eq!(machine.regs.cx, 1);
    assert_eq!(machine.vc(IOIO), Outcome::Done { single_step: true });
    assert_eq!(machine.regs.ip, CODE + 2);
}

#[test]
fn what_exits_is_no_branch() {
    let mut machine = Machine::new(&[0xf3, 0x6e]);

    machine.steps_blocks = true;
    machine.regs.si = DATA;
    machine.regs.cx = 2;
    machine.regs.flags |= TF;
    while machine.regs.cx != 1 {
        assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: false });
    }
    machine.complete(IOIO);
    assert_eq!(machine.regs.ip, CODE + 2);
    assert_ne!(machine.regs.flags & TF, 0);
}

#[test]
fn count_of_zero_does_nothing() {
    for bytes in [[0xf3, 0x6e], [0xf3, 0x6c]] {
        let mut machine = Machine::new(&bytes);

        // Addresses that would fault.
        machine.regs.si = 1;
        machine.regs.di = 1;
        machine.complete(IOIO);
        assert_eq!(
            (machine.regs.si, machine.regs.di, machine.regs.cx),
            (1, 1, 0)
        );
        assert_eq!(machine.vmgexits, 0);
    }
}

#[test]
fn rep_ins_of_all_widths() {
    for (bytes, width, count) in [
        (vec![0xf3, 0x6c], 1u64, 4000u64),
        (vec![0xf3, 0x66, 0x6d], 2, 1500),
        (vec![0xf3, 0x6d], 4, 700),
        (vec![0x6d], 4, 1),
    ] {
        for peek in [true, false] {
            let mut machine = Machine::new(&bytes);
            let rep = bytes[0] == 0xf3;
            let data: Vec<u8> = (0..width * count).map(|n| (n * 11 % 253) as u8).collect();

            machine.peek = peek;
            machine.pages.insert(DATA + 4096, Page::private(0x30_0000));
            machine.hypervisor.input.extend(&data);
            machine.regs.di = DATA + 96;
            machine.regs.dx = 0x1f0;
            machine.regs.cx = count;
            machine.complete_all(IOIO);
            assert_eq!(machine.dump(DATA + 96, data.len()), data);
            assert_eq!(
                strings(&machine)[0].0,
                info(true, true, rep, width, 64, ES, 0x1f0)
            );
            assert_eq!(machine.regs.di, DATA + 96 + width * count);
            assert_eq!(machine.regs.cx, if rep { 0 } else { count });
        }
    }
}

#[test]
fn backwards_goes_down_in_the_order_of_iterations() {
    for (bytes, width) in [
        (vec![0xf3, 0x6e], 1u64),
        (vec![0xf3, 0x66, 0x6f], 2),
        (vec![0xf3, 0x6f], 4),
    ] {
        let mut machine = Machine::new(&bytes);
        let count = 2032 / width + 3;
        let data: Vec<u8> = (0..width * count).map(|n| (n % 251) as u8).collect();
        let last = DATA + width * (count - 1);

        machine.poke(DATA, &data);
        machine.regs.flags |= DF;
        machine.regs.si = last;
        machine.regs.cx = count;
        machine.complete_all(IOIO);

        let expected: Vec<u8> = data
            .chunks(width as usize)
            .rev()
            .flatten()
            .copied()
            .collect();

        assert_eq!(
            strings(&machine)
                .into_iter()
                .flat_map(|event| event.2)
                .collect::<Vec<_>>(),
            expected
        );
        assert_eq!(machine.regs.si, DATA.wrapping_sub(width));
        assert_eq!(machine.regs.cx, 0);

        // And INS puts them back where they came from.
        let mut machine = Machine::new(&bytes);
        let opcode = bytes.len() - 1;

        machine.poke(CODE + opcode as u64, &[bytes[opcode] - 2]);
        machine.hypervisor.input.extend(&expected);
        machine.regs.flags |= DF;
        machine.regs.di = last;
        machine.regs.cx = count;
        machine.complete_all(IOIO);
        assert_eq!(machine.dump(DATA, data.len()), data);
        assert_eq!(machine.regs.di, DATA.wrapping_sub(width));
    }
}

#[test]
fn outs_honours_segment_overrides() {
    // outsb from GS in 64-bit mode; a CS override does nothing.
    for (bytes, segment, address) in [
        (vec![0x65, 0x6e], GS, DATA + 0x200 + 5),
        (vec![0x2e, 0x6e], DS, DATA + 5),
        (vec![0x65, 0xf3, 0x6e], GS, DATA + 0x200 + 5),
    ] {
        let mut machine = Machine::new(&bytes);
        let base = if segment == GS { DATA + 0x200 } else { 0 };

        machine.segments[5].base = DATA + 0x200;
        machine.poke(address, &[0x5a]);
        machine.regs.si = address - base;
        machine.regs.cx = 1;
        machine.complete(IOIO);
        assert_eq!(strings(&machine)[0].2, [0x5a]);
        assert_eq!((strings(&machine)[0].0 >> 10) & 7, segment);
    }
}

#[test]
fn outs_in_32_bit_code_uses_ds_and_ins_uses_es() {
    let mut machine = Machine::user32(&[0xf3, 0x6e, 0xf3, 0x6c]);

    machine.allowed_ports = vec![0x10];
    machine.segments[3].base = DATA + 0x100;
    machine.segments[0].base = DATA + 0x800;
    machine.poke(DATA + 0x110, &[1, 2, 3]);
    machine.hypervisor.input.extend([4, 5]);
    machine.regs.dx = 0x10;
    // The upper halves mean nothing to 32-bit code.
    machine.regs.si = 0x7777_7777_0000_0010;
    machine.regs.di = 0x7777_7777_0000_0020;
    machine.regs.cx = 0x7777_7777_0000_0003;
    machine.complete(IOIO);
    assert_eq!(
        strings(&machine),
        [(info(false, true, true, 1, 32, DS, 0x10), 3, vec![1, 2, 3])]
    );
    assert_eq!((machine.regs.si, machine.regs.cx), (0x13, 0));

    machine.regs.cx = 2;
    machine.complete(IOIO);
    assert_eq!(machine.dump(DATA + 0x820, 2), [4, 5]);
    assert_eq!(machine.regs.di, 0x22);
}

#[test]
fn address_size_prefix_limits_the_registers() {
    // 32-bit addresses in 64-bit code.
    let mut machine = Machine::new(&[0x67, 0xf3, 0x6e]);

    machine.poke(DATA, &[9, 8]);
    machine.regs.si = 0xdead_0000_0000_0000 | DATA;
    machine.regs.cx = 0xdead_0000_0000_0002;
    machine.complete(IOIO);
    assert_eq!(strings(&machine)[0].2, [9, 8]);
    assert_eq!(
        strings(&machine)[0].0,
        info(false, true, true, 1, 32, DS, 0)
    );
    assert_eq!((machine.regs.si, machine.regs.cx), (DATA + 2, 0));

    // 16-bit addresses in 32-bit code: only the low parts of the registers change.
    let mut machine = Machine::user32(&[0x67, 0xf3, 0x6e]);

    machine.allowed_ports = vec![0];
    machine.segments[3].base = DATA;
    machine.poke(DATA + 0x20, &[7, 6]);
    machine.regs.si = 0x1111_0020;
    machine.regs.cx = 0x2222_0002;
    machine.complete(IOIO);
    assert_eq!(strings(&machine)[0].2, [7, 6]);
    assert_eq!(
        strings(&machine)[0].0,
        info(false, true, true, 1, 16, DS, 0)
    );
    assert_eq!(
        (machine.regs.si, machine.regs.cx),
        (0x1111_0022, 0x2222_0000)
    );
}

#[test]
fn offset_wraps_at_the_address_size() {
    let mut machine = Machine::user32(&[0x67, 0xf3, 0x6e]);

    machine.allowed_ports = vec![0];
    for page in 1..16 {
        machine
            .pages
            .insert(DATA + page * 4096, Page::private(0x90_0000 + page * 4096));
    }
    // What is behind the last offset must not be read.
    machine
        .pages
        .insert(DATA + 0x1_0000, Page::private(0xa0_0000));
    machine.poke(DATA + 0x1_0000, &[9]);
    machine.segments[3].base = DATA;
    machine.poke(DATA + 0xfffe, &[1, 2]);
    machine.poke(DATA, &[3]);
    machine.regs.si = 0xfffe;
    machine.regs.cx = 3;
    machine.complete_all(IOIO);
    assert_eq!(
        strings(&machine)
            .into_iter()
            .flat_map(|event| event.2)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(machine.regs.si, 1);
}

#[test]
fn offset_wraps_downwards_too() {
    let mut machine = Machine::user32(&[0x67, 0xf3, 0x6e]);

    machine.allowed_ports = vec![0];
    for page in 1..16 {
        machine
            .pages
            .insert(DATA + page * 4096, Page::private(0x90_0000 + page * 4096));
    }
    machine.pages.insert(DATA - 4096, Page::private(0xa0_0000));
    machine.poke(DATA - 1, &[9]);
    machine.segments[3].base = DATA;
    machine.poke(DATA, &[2, 1]);
    machine.poke(DATA + 0xffff, &[3]);
    machine.regs.flags |= DF;
    machine.regs.si = 1;
    machine.regs.cx = 3;
    machine.complete_all(IOIO);
    assert_eq!(
        strings(&machine)
            .into_iter()
            .flat_map(|event| event.2)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(machine.regs.si, 0xfffe);
}

#[test]
fn segment_limit_stops_where_it_is() {
    let mut machine = Machine::user32(&[0xf3, 0x6e]);

    machine.allowed_ports = vec![0];
    machine.segments[3] = Descriptor {
        base: DATA,
        limit: 1,
    };
    machine.poke(DATA, &[1, 2, 3]);
    machine.regs.cx = 3;
    assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: false });
    assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: false });
    assert_eq!(machine.vc(IOIO), Outcome::Exception(Fault::GP));
    assert_eq!((machine.regs.si, machine.regs.cx), (2, 1));
}

#[test]
fn fault_in_the_middle_keeps_what_is_done() {
    // OUTS: the readable part goes out, then the fault comes.
    let mut machine = Machine::user(&[0xf3, 0x6f]);

    machine.allowed_ports = vec![0, 1, 2, 3];
    machine.poke(DATA + 4096 - 8, &[1, 2, 3, 4, 5, 6, 7, 8]);
    machine.regs.si = DATA + 4096 - 8;
    machine.regs.cx = 5;
    assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: false });
    assert_eq!(strings(&machine)[0].2, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((machine.regs.si, machine.regs.cx), (DATA + 4096, 3));

    let before = machine.regs;

    assert_eq!(
        machine.vc(IOIO),
        Outcome::Exception(Fault::page(DATA + 4096, PF_USER))
    );
    assert_eq!((machine.regs, machine.vmgexits), (before, 1));

    // INS: no more is taken from the device than can be stored.
    let mut machine = Machine::user(&[0xf3, 0x6d]);

    machine.allowed_ports = vec![0, 1, 2, 3];
    machine.hypervisor.input.extend(1..=20);
    machine.regs.di = DATA + 4096 - 10;
    machine.regs.cx = 5;
    assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: false });
    assert_eq!(machine.dump(DATA + 4096 - 10, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((machine.regs.di, machine.regs.cx), (DATA + 4096 - 2, 3));
    assert_eq!(
        machine.vc(IOIO),
        Outcome::Exception(Fault::page(DATA + 4096, PF_USER | PF_WRITE))
    );
    assert_eq!(machine.hypervisor.input.len(), 12);

    // Once the page is there, the instruction goes on.
    machine.pages.insert(DATA + 4096, Page::private(0x30_0000));
    machine.complete(IOIO);
    assert_eq!(
        machine.dump(DATA + 4096 - 10, 20),
        (1..=20).collect::<Vec<_>>()
    );
}

#[test]
fn ins_backwards_takes_no_more_than_can_be_stored() {
    let mut machine = Machine::new(&[0xf3, 0x6d]);

    machine.regs.flags |= DF;
    machine.hypervisor.input.extend(1..=20);
    // Elements at +6 and +2 fit; the third would begin before the page.
    machine.regs.di = DATA + 6;
    machine.regs.cx = 4;
    assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: false });
    assert_eq!(machine.dump(DATA + 2, 8), [5, 6, 7, 8, 1, 2, 3, 4]);
    assert_eq!((machine.regs.di, machine.regs.cx), (DATA - 2, 2));
    assert_eq!(
        machine.vc(IOIO),
        Outcome::Exception(Fault::page(DATA - 2, PF_WRITE))
    );
    assert_eq!(machine.hypervisor.input.len(), 12);
}

#[test]
fn ins_to_a_read_only_page_is_a_fault() {
    for probes in [true, false] {
        let mut machine = Machine::user(&[0x6c]);

        machine.allowed_ports = vec![0];
        machine.probes = probes;
        machine.pages.get_mut(&DATA).unwrap().writable = false;
        machine.regs.di = DATA + 3;

        let before = machine.regs;

        assert_eq!(
            machine.vc(IOIO),
            Outcome::Exception(Fault::page(DATA + 3, PF_USER | PF_WRITE | PF_PRESENT))
        );
        assert_eq!(machine.regs, before);
        // Without a check before the exit, the input is lost.
        assert_eq!(machine.vmgexits, usize::from(!probes));
    }
}

#[test]
fn operand_on_a_device_is_refused_before_the_exit() {
    for user in [false, true] {
        for backwards in [false, true] {
            // OUTS and INS, once and repeated; all on the device, and half of an element.
            for bytes in [vec![0x6f], vec![0xf3, 0x6f], vec![0x6d], vec![0xf3, 0x6d]] {
                for address in [DEVICE + 0x100, DEVICE - 2, DEVICE + 4096 - 2] {
                    let mut machine = if user {
                        Machine::user(&bytes)
                    } else {
                        Machine::new(&bytes)
                    };

                    machine.allowed_ports = vec![0, 1, 2, 3];
                    for page in [DEVICE - 4096, DEVICE + 4096] {
                        machine.pages.insert(page, Page::private(page));
                    }
                    machine.hypervisor.input.extend(1..=64);
                    if backwards {
                        machine.regs.flags |= DF;
                    }
                    machine.regs.si = address;
                    machine.regs.di = address;
                    machine.regs.cx = 4;

                    let before = machine.regs;

                    assert_eq!(machine.vc(IOIO), Outcome::Unsupported, "{bytes:02x?}");
                    assert_eq!((machine.regs, machine.vmgexits), (before, 0));
                }
            }
        }
    }
}

#[test]
fn input_stops_before_a_device() {
    let mut machine = Machine::user(&[0xf3, 0x6d]);

    machine.allowed_ports = vec![0, 1, 2, 3];
    machine
        .pages
        .insert(DEVICE - 4096, Page::private(0x30_0000));
    machine.hypervisor.input.extend(1..=16);
    machine.regs.di = DEVICE - 8;
    machine.regs.cx = 4;
    assert_eq!(machine.vc(IOIO), Outcome::Retry { single_step: false });
    assert_eq!(machine.dump(DEVICE - 8, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(machine.vc(IOIO), Outcome::Unsupported);
    assert_eq!((machine.regs.di, machine.regs.cx), (DEVICE, 2));
    assert_eq!((machine.vmgexits, machine.hypervisor.input.len()), (1, 8));
}

#[test]
fn memory_shared_with_the_hypervisor_is_no_device() {
    for bytes in [[0x6e], [0x6c]] {
        let mut machine = Machine::new(&bytes);

        machine.pages.get_mut(&DEVICE).unwrap().memory = true;
        machine.hypervisor.input.push_back(1);
        machine.regs.si = DEVICE;
        machine.regs.di = DEVICE;
        machine.complete(IOIO);
        assert_eq!(machine.vmgexits, 1);
    }
}

#[test]
fn user_mode_cannot_name_kernel_addresses() {
    const KERNEL: u64 = 0xffff_8880_0000_0000;

    for (bytes, write) in [
        (vec![0x6e], false),
        (vec![0xf3, 0x6e], false),
        (vec![0x6c], true),
        (vec![0xf3, 0x6c], true),
        (vec![0x65, 0x6e], false),
    ] {
        let mut machine = Machine::user(&bytes);
        let mut page = Page::private(0x40_0000);

        // Even if the environment would let it through.
        page.user = true;
        machine.pages.insert(KERNEL, page);
        machine.segments[5].base = 0;
        machine.allowed_ports = vec![0];
        machine.regs.si = KERNEL;
        machine.regs.di = KERNEL;
        machine.regs.cx = 1;

        let code = if write { PF_USER | PF_WRITE } else { PF_USER };

        assert_eq!(
            machine.vc(IOIO),
            Outcome::Exception(Fault::page(KERNEL, code)),
            "{bytes:02x?}"
        );
        assert_eq!(machine.vmgexits, 0);
    }
}

/// RFLAGS.AC is about user mode's elements of more than one byte; it comes before the page fault,
/// and after #GP.
#[test]
fn unaligned_operand_is_an_alignment_check() {
    const ABSENT: u64 = 0x99_0000;
    const HIGH: u64 = 0x8888_0000_0000_0001;

    let ac = Outcome::Exception(Fault::AC);
    let done = Outcome::Done { single_step: false };

    for (user, flags, bytes, address, outcome) in [
        (true, AC, vec![0x66, 0x6d], DATA + 1, ac),
        (true, AC, vec![0x66, 0xf3, 0x6d], DATA + 1, ac),
        (true, AC, vec![0x6d], DATA + 2, ac),
        (true, AC, vec![0x6f], DATA + 2, ac),
        (true, AC | DF, vec![0xf3, 0x6f], DATA + 0x103, ac),
        (true, AC, vec![0x6d], ABSENT + 2, ac),
        (true, AC, vec![0x6d], !0x5555_5555 + 4, ac),
        (true, AC, vec![0x6d], HIGH, Outcome::Exception(Fault::GP)),
        (
            true,
            AC,
            vec![0x6d],
            ABSENT,
            Outcome::Exception(Fault::page(ABSENT, PF_USER | PF_WRITE)),
        ),
        (true, AC, vec![0x66, 0x6d], DATA + 2, done),
        (true, AC, vec![0x6c], DATA + 1, done),
        (true, 0, vec![0x6d], DATA + 2, done),
        // For the kernel the bit means something else.
        (false, AC, vec![0x6d], DATA + 2, done),
    ] {
        for repeats in [0, 1] {
            let mut machine = if user {
                Machine::user(&bytes)
            } else {
                Machine::new(&bytes)
            };

            machine.allowed_ports = vec![0, 1, 2, 3];
            machine.regs.flags |= flags;
            machine.regs.si = address;
            machine.regs.di = address;
            machine.regs.cx = repeats;
            machine.hypervisor.input = vec![0x5a; 4].into();

            let repeated = bytes.contains(&0xf3);
            let expected = if repeated && repeats == 0 {
                done
            } else {
                outcome
            };

            assert_eq!(
                machine.vc(IOIO),
                expected,
                "{bytes:02x?} at {address:#x}, RFLAGS {flags:#x}"
            );
            if expected != done {
                assert_eq!(machine.vmgexits, 0);
            }
        }
    }
}

#[test]
fn non_canonical_addresses_are_gp() {
    for address in [0x8000_0000_0000, 0x7fff_ffff_ffff, 0xffff_7fff_ffff_fffe] {
        let mut machine = Machine::new(&[0x6f]);

        machine.regs.si = address;
        assert_eq!(
            machine.vc(IOIO),
            Outcome::Exception(Fault::GP),
            "{address:#x}"
        );
        assert_eq!(machine.vmgexits, 0);
    }
}

#[test]
fn hypervisor_can_refuse_a_port() {
    for (bytes, reg) in [
        (vec![0xee], 0u64),
        (vec![0xf3, 0x6e], DATA),
        (vec![0xec], 0),
    ] {
        let mut machine = Machine::new(&bytes);

        machine.regs.si = reg;
        machine.regs.cx = 2;
        machine.hypervisor.tamper = Some(Box::new(|page| page.result(1, INJECT_GP)));

        let before = machine.regs;

        assert_eq!(machine.vc(IOIO), Outcome::Exception(Fault::GP));
        assert_eq!(machine.regs, before);
    }
}

/// Random string transfers against a model that moves one element after the other.
#[test]
fn random_strings_agree_with_a_model_of_one_element_at_a_time() {
    let mut random = Random::new(5);

    for _ in 0..20_000 {
        let input = random.below(2) == 0;
        let width = random.pick(&[1u64, 2, 4]);
        let rep = random.below(4) != 0;
        let backwards = random.below(2) == 0;
        let count = random.pick(&[0, 1, 2, 3, 7, 100, 600, 1500]);
        let mut bytes = vec![];

        if width == 2 {
            bytes.push(0x66);
        }
        if rep {
            bytes.push(random.pick(&[0xf2, 0xf3]));
        }
        bytes.push(if input { 0x6c } else { 0x6e } + u8::from(width != 1));

        let mut machine = Machine::new(&bytes);

        machine.peek = random.below(2) == 0;
        machine.probes = random.below(4) != 0;
        for page in 1..4 {
            machine
                .pages
                .insert(DATA + page * 4096, Page::private(0x30_0000 + page * 4096));
        }

        let contents: Vec<u8> = (0..4 * 4096).map(|_| random.next() as u8).collect();

        machine.poke(DATA, &contents);
        // A hole that may or may not be reached.
        if random.below(2) == 0 {
            machine.pages.remove(&(DATA + 4096 * random.below(4)));
        }

        let start = DATA + 8192 - 1024 + random.below(2048);

        machine.regs.si = start;
        machine.regs.di = start;
        machine.regs.cx = count;
        if backwards {
            machine.regs.flags |= DF;
        }

        let stream: Vec<u8> = (0..8192).map(|_| random.next() as u8).collect();

        machine.hypervisor.input.extend(&stream);

        // The model.
        let mut model = machine.pages.clone();
        let mut out = vec![];
        let mut taken = 0;
        let mut address = start;
        let mut left = if rep { count } else { 1 };
        let mut fault = false;

        while left != 0 {
            let touched: Vec<u64> = (address..address + width).collect();

            if touched.iter().any(|at| !model.contains_key(&(at & !0xfff))) {
                fault = true;
                break;
            }
            for at in touched {
                let byte = &mut model.get_mut(&(at & !0xfff)).unwrap().data[(at & 0xfff) as usize];

                if input {
                    *byte = stream[taken];
                    taken += 1;
                } else {
                    out.push(*byte);
                }
            }
            address = if backwards {
                address - width
            } else {
                address + width
            };
            left -= 1;
        }

        // The core.
        let faulted = loop {
            match machine.vc(IOIO) {
                Outcome::Done { .. } => break false,
                Outcome::Retry { .. } => {}
                Outcome::Exception(_) => break true,
                outcome => panic!("{outcome:?}"),
            }
        };
        let context = format!("{bytes:02x?} count {count} at {start:#x} backwards {backwards}");

        assert_eq!(faulted, fault, "{context}");
        assert_eq!(
            if input {
                machine.regs.di
            } else {
                machine.regs.si
            },
            address,
            "{context}"
        );
        if rep {
            assert_eq!(machine.regs.cx, left, "{context}");
        }
        assert_eq!(
            machine.regs.ip,
            CODE + if fault { 0 } else { bytes.len() as u64 },
            "{context}"
        );
        if input {
            for (at, page) in &model {
                assert_eq!(machine.pages[at].data, page.data, "{context}");
            }
            if machine.probes {
                assert_eq!(
                    machine.hypervisor.input.len(),
                    stream.len() - taken,
                    "{context}"
                );
            }
        } else {
            let sent: Vec<u8> = strings(&machine)
                .into_iter()
                .flat_map(|event| event.2)
                .collect();

            assert_eq!(sent, out, "{context}");
        }
    }
}

#[test]
fn sixteen_bit_code_has_16_bit_defaults() {
    let mut machine = Machine::user32(&[0xef]);

    machine.code_size = CodeSize::Bits16;
    machine.allowed_ports = vec![0x10, 0x11];
    machine.regs.dx = 0x10;
    machine.regs.ax = 0x1234_5678;
    machine.regs.ip = CODE;
    machine.complete(IOIO);
    assert_eq!(
        machine.event(),
        Event::Port {
            info: info(false, false, false, 2, 16, 0, 0x10),
            value: Some(0x5678)
        }
    );
}
