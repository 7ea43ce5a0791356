// SPDX-License-Identifier: GPL-2.0

//! Exits in any state, with a hypervisor that replies what it likes.
//!
//! The model of the hypervisor checks each request as strictly as for the unit tests, and then the
//! input changes its reply. Whatever the reply is, the core must not panic, must leave what is not
//! the instruction's alone, and must not have done half of what it refuses.

use std::{cell::RefCell, rc::Rc};

use crate::{
    hypervisor::field,
    input::Input,
    machine::{Descriptor, Machine, Page, CODE, DATA, DEVICE, KERNEL_CS, USER_CS},
    proto::{
        regs::{Gpr, Regs, FLAGS_RF},
        CodeSize, Outcome, SnpCpuid,
    },
};

/// Exit codes that a handler knows, and some that it must refuse.
const EXITS: [u64; 20] = [
    0x27,
    0x37,
    0x41,
    0x51,
    0x6e,
    0x6f,
    0x72,
    0x76,
    0x7b,
    0x7c,
    0x81,
    0x87,
    0x89,
    0x8a,
    0x8b,
    0x400,
    0x8000_0001,
    0x8000_0010,
    0x4d,
    0x5e,
];

/// Flags that an instruction which is emulated may change: CF, PF, AF, ZF, SF, OF; and RF.
const FLAGS: u64 = 0x8d5 | FLAGS_RF;

/// Fields of the reply that are worth a lie.
const FIELDS: [usize; 8] = [
    field::RAX,
    field::RBX,
    field::RCX,
    field::RDX,
    field::INFO_1,
    field::INFO_2,
    field::EXIT_CODE,
    field::SCRATCH,
];

/// An address that leads somewhere, or anywhere.
fn address(input: &mut Input<'_>) -> u64 {
    let offset = input.number();

    match input.byte() % 8 {
        0 => DATA.wrapping_add(offset),
        1 | 2 => DEVICE.wrapping_add(offset),
        3 => DEVICE + 0xff8 + (offset & 0xf),
        4 => DATA + 0xff8 + (offset & 0xf),
        5 => 0x7fff_ffff_f000u64.wrapping_add(offset),
        6 => (0xffff_8000_0000_0000u64).wrapping_add(offset),
        _ => offset,
    }
}

/// A machine in a state that the input describes.
fn machine(input: &mut Input<'_>) -> Machine {
    let options = input.byte();
    let code_size = match options & 3 {
        0 => CodeSize::Bits32,
        1 => CodeSize::Bits16,
        _ => CodeSize::Bits64,
    };
    let len = usize::from(input.byte() % 16);
    let code: Vec<u8> = (0..len).map(|_| input.byte()).collect();
    let mut machine = Machine::new(&code);

    machine.code_size = code_size;
    if options & 4 != 0 {
        machine.regs.cs = USER_CS;
    }
    if options & 8 != 0 {
        // The instruction reaches the end of the page, and what is behind it.
        machine.regs.ip = CODE + 0x1000 - u64::from(input.byte() % 16);
        if options & 16 != 0 {
            machine
                .pages
                .insert(CODE + 0x1000, Page::private(0x11_0000));
        }
        let end = (CODE + 0x1000 - machine.regs.ip) as usize;

        if options & 16 != 0 || code.len() <= end {
            machine.poke(machine.regs.ip, &code);
        } else {
            machine.poke(machine.regs.ip, &code[..end]);
        }
    }
    machine.peek = options & 32 == 0;
    machine.features.debug_swap = options & 64 != 0;
    machine.features.secure_tsc = options & 64 != 0;
    machine.features.secure_avic = options & 128 != 0;

    let options = input.byte();

    machine.hypervisor.version = u16::from(options & 1) + 1;
    machine.dr7 = (options & 2 == 0).then_some(0x400);
    machine.xss = (options & 4 == 0).then_some(input.number());
    machine.xcr0 = 7;
    machine.snp_cpuid =
        [SnpCpuid::NoTable, SnpCpuid::Found, SnpCpuid::Failed][usize::from(options >> 3) % 3];
    machine.hypercall_accepted = options & 64 == 0;
    if options & 128 != 0 {
        machine.buffer_size = 64;
    }
    machine.allowed_ports = (0x60..0x68).chain(0xfffc..=0xffff).collect();

    // A page that only the kernel may use, one that nobody may write, and shared memory.
    let kernel = machine
        .pages
        .entry(DATA + 0x1000)
        .or_insert(Page::private(0x21_0000));

    kernel.user = false;

    let shared = machine
        .pages
        .entry(DEVICE + 0x1000)
        .or_insert(Page::device(0x30_0000));

    shared.writable = options & 16 != 0;
    shared.memory = options & 32 != 0;

    for number in 0..16 {
        let value = match input.byte() & 3 {
            0 => input.number(),
            _ => address(input),
        };

        machine.regs.set_gpr(Gpr::new(number), value);
    }
    for segment in &mut machine.segments {
        *segment = Descriptor {
            base: input.number(),
            limit: if input.byte() & 1 == 0 {
                0xffff_ffff
            } else {
                input.number() & 0xffff_ffff
            },
        };
    }
    if machine.code_size != CodeSize::Bits64 {
        for segment in &mut machine.segments {
            segment.base &= 0xffff_ffff;
        }
    }
    machine.regs.flags = (input.number() & 0x24_ffd5) | FLAGS_RF | 2;
    machine.hypervisor.msrs.insert(0x10, input.number());
    machine.hypervisor.input = (0..4096u32).map(|n| n as u8).collect();
    machine
}

/// Registers that no instruction which is emulated writes.
fn fixed(regs: &Regs) -> (u64, u64, u64, u64) {
    (regs.cs, regs.ss, regs.orig_ax, regs.flags & !FLAGS)
}

/// Handles an exit, and the exits of the instruction's rest.
pub fn handle_exits(data: &[u8]) {
    let mut input = Input(data);
    let code = EXITS[usize::from(input.byte()) % EXITS.len()];
    let mut machine = machine(&mut input);
    let lies = Rc::new(RefCell::new(input.0.to_vec()));
    let taken = Rc::clone(&lies);

    machine.hypervisor.tamper = Some(Box::new(move |page| {
        let mut bytes = taken.borrow_mut();
        let mut input = Input(&bytes);

        for _ in 0..input.byte() % 4 {
            let choice = input.byte();
            let value = input.number();

            match choice % 16 {
                n @ 0..=7 => page.reply(FIELDS[usize::from(n)], value),
                n @ 8..=13 => page.set_valid(FIELDS[usize::from(n) - 8], false),
                14 => page.put(field::VALID + usize::from(choice & 16) / 2, value, 8),
                _ => page.put((value as usize >> 8) & 0xff8, value, 8),
            }
        }

        let left = input.0.to_vec();

        *bytes = left;
    }));

    for _ in 0..8 {
        let before = machine.regs;
        let exits = machine.vmgexits;
        let outcome = machine.vc(code);
        let after = machine.regs;

        assert_eq!(fixed(&before), fixed(&after), "{outcome:x?}");
        assert!(machine.vmgexits - exits <= 4096);
        match outcome {
            Outcome::Done { .. } => {
                let mask = match machine.code_size {
                    CodeSize::Bits64 => u64::MAX,
                    CodeSize::Bits32 => 0xffff_ffff,
                    CodeSize::Bits16 => 0xffff,
                };
                let len = after.ip.wrapping_sub(before.ip) & mask;

                assert!((1..=15).contains(&len), "{len}");
                assert_eq!(after.flags & FLAGS_RF, 0);
                return;
            }
            Outcome::Retry { .. } => {
                assert_eq!(after.ip, before.ip);
                assert_ne!(after.cx, before.cx, "no progress");
            }
            _ => {
                assert_eq!(after, before, "{outcome:x?} changed registers");
                return;
            }
        }
    }
}

// The kernel's code segment is what a machine starts with.
const _: () = assert!(KERNEL_CS & 3 == 0);
