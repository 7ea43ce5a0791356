// SPDX-License-Identifier: GPL-2.0

//! Accesses to MMIO.

use super::{
    hypervisor::{Event, INJECT_GP},
    machine::{Machine, Page, CODE, DATA, DEVICE, DEVICE_GPA},
};
use crate::proto::{
    result::{PF_PRESENT, PF_WRITE},
    Fault, Note, Outcome,
};

const NPF: u64 = 0x400;
const DF: u64 = 1 << 10;

/// Puts a value into the device.
fn set_device(machine: &mut Machine, offset: u64, value: u64, len: usize) {
    for (n, byte) in value.to_le_bytes()[..len].iter().enumerate() {
        machine
            .hypervisor
            .mmio
            .insert(DEVICE_GPA + offset + n as u64, *byte);
    }
}

/// Contents of the device.
fn device(machine: &Machine, gpa: u64, len: u64) -> Vec<u8> {
    (gpa..gpa + len)
        .map(|gpa| machine.hypervisor.mmio.get(&gpa).copied().unwrap_or(0))
        .collect()
}

#[test]
fn stores_of_all_widths() {
    for (bytes, len, value) in [
        (vec![0x88, 0x47, 0x10], 1, 0x88),
        (vec![0x66, 0x89, 0x47, 0x10], 2, 0x7788),
        (vec![0x89, 0x47, 0x10], 4, 0x5566_7788),
        (vec![0x48, 0x89, 0x47, 0x10], 8, 0x1122_3344_5566_7788),
        // AH, and with REX the low byte of RSP's number: SPL is not used, R12B is.
        (vec![0x88, 0x67, 0x10], 1, 0x77),
        (vec![0x44, 0x88, 0x67, 0x10], 1, 0xcc),
        // Immediates; the widest is sign-extended.
        (vec![0xc6, 0x47, 0x10, 0xfe], 1, 0xfe),
        (vec![0x66, 0xc7, 0x47, 0x10, 0xfe, 0xff], 2, 0xfffe),
        (
            vec![0xc7, 0x47, 0x10, 0xfe, 0xff, 0xff, 0xff],
            4,
            0xffff_fffe,
        ),
        (
            vec![0x48, 0xc7, 0x47, 0x10, 0xfe, 0xff, 0xff, 0xff],
            8,
            0xffff_ffff_ffff_fffe,
        ),
        // MOVNTI.
        (vec![0x0f, 0xc3, 0x47, 0x10], 4, 0x5566_7788),
        (vec![0x48, 0x0f, 0xc3, 0x47, 0x10], 8, 0x1122_3344_5566_7788),
    ] {
        for peek in [true, false] {
            let mut machine = Machine::new(&bytes);

            machine.peek = peek;
            machine.regs.di = DEVICE;
            machine.regs.ax = 0x1122_3344_5566_7788;
            machine.regs.sp = 0xbb;
            machine.regs.r12 = 0xcc;

            let before = machine.regs;

            machine.complete(NPF);
            assert_eq!(
                machine.event(),
                Event::MmioWrite {
                    gpa: DEVICE_GPA + 0x10,
                    len,
                    value
                },
                "{bytes:02x?}"
            );
            assert_eq!(machine.regs.ip, CODE + bytes.len() as u64);
            assert_eq!(machine.regs.ax, before.ax);
        }
    }
}

#[test]
fn loads_of_all_widths() {
    const OLD: u64 = 0x1122_3344_5566_7788;

    for (bytes, len, after) in [
        (vec![0x8a, 0x07], 1, 0x1122_3344_5566_77f1u64),
        (vec![0x8a, 0x27], 1, 0x1122_3344_5566_f188),
        (vec![0x66, 0x8b, 0x07], 2, 0x1122_3344_5566_f2f1),
        (vec![0x8b, 0x07], 4, 0xf4f3_f2f1),
        (vec![0x48, 0x8b, 0x07], 8, 0xf8f7_f6f5_f4f3_f2f1),
        // MOVZX
        (vec![0x0f, 0xb6, 0x07], 1, 0xf1),
        (vec![0x66, 0x0f, 0xb6, 0x07], 1, 0x1122_3344_5566_00f1),
        (vec![0x48, 0x0f, 0xb6, 0x07], 1, 0xf1),
        (vec![0x0f, 0xb7, 0x07], 2, 0xf2f1),
        (vec![0x48, 0x0f, 0xb7, 0x07], 2, 0xf2f1),
        // MOVSX
        (vec![0x0f, 0xbe, 0x07], 1, 0xffff_fff1),
        (vec![0x66, 0x0f, 0xbe, 0x07], 1, 0x1122_3344_5566_fff1),
        (vec![0x48, 0x0f, 0xbe, 0x07], 1, 0xffff_ffff_ffff_fff1),
        (vec![0x0f, 0xbf, 0x07], 2, 0xffff_f2f1),
        (vec![0x48, 0x0f, 0xbf, 0x07], 2, 0xffff_ffff_ffff_f2f1),
        // MOVSXD
        (vec![0x48, 0x63, 0x07], 4, 0xffff_ffff_f4f3_f2f1),
        (vec![0x63, 0x07], 4, 0xf4f3_f2f1),
    ] {
        for peek in [true, false] {
            let mut machine = Machine::new(&bytes);

            machine.peek = peek;
            machine.regs.ax = OLD;
            machine.regs.di = DEVICE;
            set_device(&mut machine, 0, 0xf8f7_f6f5_f4f3_f2f1, 8);
            machine.complete(NPF);
            assert_eq!(
                machine.event(),
                Event::MmioRead {
                    gpa: DEVICE_GPA,
                    len
                }
            );
            assert_eq!(machine.regs.ax, after, "{bytes:02x?}");
        }
    }
}

#[test]
fn moves_with_the_address_in_the_instruction() {
    let address = DEVICE + 0x20;
    let mut bytes = vec![0x48, 0xa3];

    bytes.extend(address.to_le_bytes());

    // 64-bit address: the whole instruction does not fit in eight bytes.
    let mut machine = Machine::new(&bytes);

    machine.regs.ax = 0x1122_3344_5566_7788;
    machine.complete(NPF);
    assert_eq!(
        machine.event(),
        Event::MmioWrite {
            gpa: DEVICE_GPA + 0x20,
            len: 8,
            value: 0x1122_3344_5566_7788
        }
    );
    assert_eq!(machine.regs.ip, CODE + 10);

    let mut bytes = vec![0x67, 0xa0];

    bytes.extend((address as u32).to_le_bytes());

    let mut machine = Machine::new(&bytes);

    set_device(&mut machine, 0x20, 0x5a, 1);
    machine.regs.ax = 0xffff;
    machine.complete(NPF);
    assert_eq!(machine.regs.ax, 0xff5a);
    assert_eq!(machine.regs.ip, CODE + 6);
}

#[test]
fn addresses() {
    for (bytes, gpa) in [
        // [rip + disp32]: relative to the next instruction, the immediate included.
        (
            [
                &[0xc6, 0x05][..],
                &((DEVICE + 8 - CODE - 7) as u32).to_le_bytes(),
                &[1],
            ]
            .concat(),
            DEVICE_GPA + 8,
        ),
        // [rax + rcx * 8 + disp8]
        (
            vec![0xc6, 0x44, 0xc8, 0xf0, 0x01],
            DEVICE_GPA + 8 * 4 - 0x10 + 0x40,
        ),
        // [rbp]: the stack segment, which has no base.
        (vec![0xc6, 0x45, 0x01, 0x01], DEVICE_GPA + 0x101),
        // gs:[disp32]
        (
            vec![0x65, 0xc6, 0x04, 0x25, 0x24, 0, 0, 0, 0x01],
            DEVICE_GPA + 0x224,
        ),
        // [eax]: the upper half does not count.
        (vec![0x67, 0xc6, 0x03, 0x01], DEVICE_GPA + 0x60),
    ] {
        let mut machine = Machine::new(&bytes);

        machine.regs.ax = DEVICE + 0x40;
        machine.regs.cx = 4;
        machine.regs.bp = DEVICE + 0x100;
        machine.regs.bx = 0xdddd_dddd_0000_0000 | (DEVICE + 0x60);
        machine.segments[5].base = DEVICE + 0x200;
        machine.complete(NPF);
        assert_eq!(
            machine.event(),
            Event::MmioWrite {
                gpa,
                len: 1,
                value: 1
            },
            "{bytes:02x?}"
        );
        assert_eq!(machine.regs.ip, CODE + bytes.len() as u64);
    }
}

#[test]
fn user_mode_is_refused() {
    for bytes in [
        vec![0x8b, 0x07],
        vec![0x89, 0x07],
        vec![0xa4],
        vec![0xaa],
        vec![0xac],
    ] {
        let mut machine = Machine::user(&bytes);

        machine.regs.di = DEVICE;
        machine.regs.si = DEVICE;
        assert_eq!(machine.vc(NPF), Outcome::Unsupported);
        assert_eq!(machine.vmgexits, 0);
    }
}

/// Instructions with an operand at RDI, or RSI, and whether they write to it.
fn at_si_and_di() -> Vec<(Vec<u8>, bool)> {
    vec![
        (vec![0x8b, 0x07], false),
        (vec![0x89, 0x07], true),
        (vec![0xaa], true),
        (vec![0xac], false),
        (vec![0xae], false),
        (vec![0xff, 0x07], true),
    ]
}

#[test]
fn private_memory_is_refused() {
    const KERNEL_DATA: u64 = 0xffff_8880_0050_0000;

    for (bytes, _) in at_si_and_di() {
        let mut machine = Machine::new(&bytes);

        machine.pages.insert(KERNEL_DATA, Page::private(0x80_0000));
        machine.regs.di = KERNEL_DATA;
        machine.regs.si = KERNEL_DATA;
        assert_eq!(machine.vc(NPF), Outcome::Unsupported, "{bytes:02x?}");
        assert_eq!(machine.vmgexits, 0);
        let address = KERNEL_DATA;
        assert_eq!(machine.notes, [Note::EncryptedMmio { address }]);
    }
}

/// User space can put memory where a device was when the exit happened. The kernel's access, which
/// is one for user space, fails; the kernel goes on.
#[test]
fn private_memory_of_user_space_is_a_fault() {
    for (bytes, writes) in at_si_and_di() {
        let mut machine = Machine::new(&bytes);
        let code = if writes { PF_WRITE } else { 0 };

        machine.regs.di = DATA;
        machine.regs.si = DATA;
        let fault = Outcome::Exception(Fault::page(DATA, code));
        assert_eq!(machine.vc(NPF), fault, "{bytes:02x?}");
        assert_eq!(machine.vmgexits, 0);
        assert_eq!(machine.notes, []);
    }
}

#[test]
fn faults_come_before_any_exit() {
    // Absent, and read-only for everything that writes.
    for (bytes, writes) in [
        (vec![0x8b, 0x07], false),
        (vec![0x3b, 0x07], false),
        (vec![0x85, 0x07], false),
        (vec![0x0f, 0xa3, 0x07], false),
        (vec![0x03, 0x07], false),
        (vec![0x89, 0x07], true),
        (vec![0x01, 0x07], true),
        (vec![0x87, 0x07], true),
        (vec![0xff, 0x07], true),
        (vec![0x0f, 0xb1, 0x07], true),
        (vec![0x0f, 0xab, 0x07], true),
        (vec![0xab], true),
    ] {
        let mut machine = Machine::new(&bytes);

        machine.pages.remove(&DEVICE);
        machine.regs.di = DEVICE + 8;

        let before = machine.regs;
        let code = if writes { PF_WRITE } else { 0 };

        assert_eq!(
            machine.vc(NPF),
            Outcome::Exception(Fault::page(DEVICE + 8, code)),
            "{bytes:02x?}"
        );
        assert_eq!((machine.regs, machine.vmgexits), (before, 0));

        let mut machine = Machine::new(&bytes);

        machine.pages.get_mut(&DEVICE).unwrap().writable = false;
        machine.regs.di = DEVICE + 8;

        let expected = if writes {
            Outcome::Exception(Fault::page(DEVICE + 8, PF_WRITE | PF_PRESENT))
        } else {
            Outcome::Done { single_step: false }
        };

        assert_eq!(machine.vc(NPF), expected, "{bytes:02x?}");
    }
}

#[test]
fn non_canonical_is_gp_or_ss() {
    for (bytes, fault) in [
        (vec![0x8b, 0x07], Fault::GP),
        (vec![0x8b, 0x45, 0], Fault::SS),
    ] {
        let mut machine = Machine::new(&bytes);

        machine.regs.di = 0x8000_0000_0000;
        machine.regs.bp = 0x8000_0000_0000;
        assert_eq!(machine.vc(NPF), Outcome::Exception(fault));
    }
}

#[test]
fn access_that_crosses_a_page_is_split() {
    for offset in 1..8u64 {
        let start = DEVICE + 4096 - offset;
        let mut machine = Machine::new(&[0x48, 0x89, 0x07, 0x48, 0x8b, 0x0f]);

        // The next page is elsewhere.
        machine
            .pages
            .insert(DEVICE + 4096, Page::device(0xfed0_0000));
        machine.regs.di = start;
        machine.regs.ax = 0x8877_6655_4433_2211;
        machine.complete(NPF);

        let all: Vec<u8> = [
            device(&machine, DEVICE_GPA + 4096 - offset, offset),
            device(&machine, 0xfed0_0000, 8 - offset),
        ]
        .concat();

        assert_eq!(all, 0x8877_6655_4433_2211u64.to_le_bytes());
        machine.complete(NPF);
        assert_eq!(machine.regs.cx, 0x8877_6655_4433_2211);

        // Naturally aligned pieces, nothing beyond.
        for event in &machine.hypervisor.events {
            let (Event::MmioWrite { gpa, len, .. } | Event::MmioRead { gpa, len }) = *event else {
                panic!("{event:?}");
            };

            assert_eq!(gpa % len, 0);
        }
    }
}

#[test]
fn second_page_is_checked_before_the_first_is_written() {
    let mut machine = Machine::new(&[0x48, 0x89, 0x07]);

    machine.regs.di = DEVICE + 4092;
    assert_eq!(
        machine.vc(NPF),
        Outcome::Exception(Fault::page(DEVICE + 4096, PF_WRITE))
    );
    assert_eq!(machine.vmgexits, 0);

    // Private memory is refused; at an address of user space as if it were absent.
    machine.pages.insert(DEVICE + 4096, Page::private(0x7000));
    assert_eq!(
        machine.vc(NPF),
        Outcome::Exception(Fault::page(DEVICE + 4096, PF_WRITE))
    );
    assert_eq!(machine.vmgexits, 0);
}

#[test]
fn bit_number_in_a_register_selects_the_element() {
    // bts [rdi], ecx with bits before, in and after the operand.
    for bit in [-1i64, -32, -33, 0, 31, 32, 100] {
        let mut machine = Machine::new(&[0x0f, 0xab, 0x0f]);

        machine.regs.di = DEVICE + 0x100;
        // The upper half does not belong to the operand.
        machine.regs.cx = u64::from(bit as u32) | 0x5555_5555_0000_0000;
        set_device(&mut machine, 0, 0, 8);
        for n in 0..0x200 {
            machine.hypervisor.mmio.insert(DEVICE_GPA + n, 0);
        }
        machine.complete(NPF);

        let byte = DEVICE_GPA.wrapping_add(0x100).wrapping_add_signed(bit >> 3);

        assert_eq!(machine.hypervisor.mmio[&byte], 1 << (bit & 7), "bit {bit}");
        assert_eq!(
            machine
                .hypervisor
                .mmio
                .values()
                .filter(|byte| **byte != 0)
                .count(),
            1
        );
    }
}

#[test]
fn movs_between_device_and_memory() {
    for (device_is_source, bytes, width) in [
        (true, vec![0xf3, 0xa4], 1u64),
        (false, vec![0xf3, 0xa4], 1),
        (true, vec![0xf3, 0xa5], 4),
        (false, vec![0xf3, 0x48, 0xa5], 8),
        (false, vec![0xf3, 0x66, 0xa5], 2),
        (true, vec![0xa5], 4),
    ] {
        for backwards in [false, true] {
            let rep = bytes[0] == 0xf3;
            let count = if rep { 100 } else { 1 };
            let data: Vec<u8> = (0..count * width).map(|n| (n * 3 + 1) as u8).collect();
            let mut machine = Machine::new(&bytes);

            if device_is_source {
                for (n, byte) in data.iter().enumerate() {
                    machine.hypervisor.mmio.insert(DEVICE_GPA + n as u64, *byte);
                }
            } else {
                machine.poke(DATA, &data);
            }

            let (from, to) = if device_is_source {
                (DEVICE, DATA)
            } else {
                (DATA, DEVICE)
            };
            let last = if backwards { (count - 1) * width } else { 0 };

            machine.regs.si = from + last;
            machine.regs.di = to + last;
            machine.regs.cx = count;
            if backwards {
                machine.regs.flags |= DF;
            }
            machine.complete_all(NPF);

            let moved = if device_is_source {
                machine.dump(DATA, data.len())
            } else {
                device(&machine, DEVICE_GPA, data.len() as u64)
            };
            let distance = if backwards {
                0u64.wrapping_sub(width)
            } else {
                count * width
            };

            assert_eq!(moved, data, "{bytes:02x?}");
            assert_eq!(machine.regs.si, from.wrapping_add(distance));
            assert_eq!(machine.regs.di, to.wrapping_add(distance));
            assert_eq!(machine.regs.cx, if rep { 0 } else { count });
            assert_eq!(machine.hypervisor.events.len() as u64, count);
        }
    }
}

#[test]
fn movs_between_devices_and_with_shared_memory() {
    // Device to device.
    let mut machine = Machine::new(&[0xa5]);

    set_device(&mut machine, 0, 0x1234_5678, 4);
    machine.regs.si = DEVICE;
    machine.regs.di = DEVICE + 0x10;
    machine.complete(NPF);
    assert_eq!(
        device(&machine, DEVICE_GPA + 0x10, 4),
        0x1234_5678u32.to_le_bytes()
    );

    // Shared memory that is known to be memory is accessed directly.
    let mut machine = Machine::new(&[0xa5]);

    machine.pages.get_mut(&DATA).unwrap().encrypted = false;
    machine.pages.get_mut(&DATA).unwrap().memory = true;
    machine.poke(DATA, &[1, 2, 3, 4]);
    machine.regs.si = DATA;
    machine.regs.di = DEVICE;
    machine.complete(NPF);
    assert_eq!(machine.vmgexits, 1);
    assert_eq!(device(&machine, DEVICE_GPA, 4), [1, 2, 3, 4]);
}

#[test]
fn string_stops_where_the_device_ends() {
    let mut machine = Machine::new(&[0xf3, 0xaa]);

    machine
        .pages
        .insert(DEVICE + 4096, Page::private(0x80_0000));
    machine.regs.di = DEVICE + 4096 - 3;
    machine.regs.ax = 0x5a;
    machine.regs.cx = 10;
    // Three bytes by the hypervisor; memory is written by the instruction itself.
    assert_eq!(machine.vc(NPF), Outcome::Retry { single_step: false });
    assert_eq!((machine.regs.di, machine.regs.cx), (DEVICE + 4096, 7));
    assert_eq!(machine.vmgexits, 3);
    assert_eq!(machine.dump(DEVICE + 4096, 1), [0]);
}

#[test]
fn string_that_fails_in_the_middle_keeps_what_is_done() {
    let mut machine = Machine::new(&[0xf3, 0xab]);

    machine.regs.di = DEVICE + 4096 - 8;
    machine.regs.cx = 10;
    assert_eq!(machine.vc(NPF), Outcome::Retry { single_step: false });
    assert_eq!((machine.regs.di, machine.regs.cx), (DEVICE + 4096, 8));
    assert_eq!(
        machine.vc(NPF),
        Outcome::Exception(Fault::page(DEVICE + 4096, PF_WRITE))
    );
}

#[test]
fn long_strings_leave_room_for_interrupts() {
    let mut machine = Machine::new(&[0xf3, 0xaa]);

    machine.regs.di = DEVICE;
    machine.regs.cx = 1000;
    assert_eq!(machine.vc(NPF), Outcome::Retry { single_step: false });
    assert!(machine.vmgexits <= 64, "{}", machine.vmgexits);
    machine.complete_all(NPF);
    assert_eq!(machine.vmgexits, 1000);
}

#[test]
fn lods_loads_the_accumulator() {
    let mut machine = Machine::new(&[0xac, 0xad]);

    machine.regs.ax = 0x1122_3344_5566_7788;
    machine.regs.si = DEVICE;
    set_device(&mut machine, 0, 0x00f5_f4f3_f2f1, 5);
    machine.complete(NPF);
    assert_eq!(machine.regs.ax, 0x1122_3344_5566_77f1);
    machine.complete(NPF);
    assert_eq!(machine.regs.ax, 0xf5f4_f3f2);
    assert_eq!(machine.regs.si, DEVICE + 5);
}

#[test]
fn comparisons_end_where_the_prefix_says() {
    const ZF: u64 = 1 << 6;

    // Prefix, opcode, iterations, ZF after the last one. The device holds 5, 5, 5, 6, 5; memory
    // nothing but 5.
    for (bytes, iterations, zero) in [
        (vec![0xf3, 0xa6], 4, 0),
        (vec![0xf2, 0xa6], 1, ZF),
        (vec![0xf2, 0xf3, 0xa6], 4, 0),
        (vec![0xf3, 0xf2, 0xa6], 1, ZF),
        (vec![0xf3, 0xae], 4, 0),
        (vec![0xf2, 0xae], 1, ZF),
    ] {
        for step in [false, true] {
            let mut machine = Machine::new(&bytes);
            let trap = if step { 1 << 8 } else { 0 };

            set_device(&mut machine, 0, 0x05_0605_0505, 5);
            machine.poke(DATA, &[5; 5]);
            machine.regs.ax = 5;
            machine.regs.cx = 5;
            machine.regs.di = DEVICE;
            machine.regs.si = DATA;
            machine.regs.flags = 0x202 | trap;

            let ip = machine.regs.ip;

            for _ in 1..if step { iterations } else { 1 } {
                assert_eq!(machine.vc(NPF), Outcome::Retry { single_step: true });
                assert_eq!(machine.regs.ip, ip);
            }
            assert_eq!(machine.vc(NPF), Outcome::Done { single_step: step });
            assert_eq!(machine.regs.ip, ip + bytes.len() as u64);
            assert_eq!(machine.regs.cx, 5 - iterations, "{bytes:02x?}");
            assert_eq!(machine.regs.di, DEVICE + iterations);
            assert_eq!(machine.regs.flags & ZF, zero, "{bytes:02x?}");
            assert_eq!(machine.vmgexits, iterations as usize);
        }
    }

    // Nothing to compare: flags stay.
    let mut machine = Machine::new(&[0xf3, 0xae]);

    machine.regs.di = DEVICE;
    machine.regs.flags = 0x8d7;
    machine.complete(NPF);
    assert_eq!((machine.regs.flags & 0x8d7, machine.vmgexits), (0x8d7, 0));
}

#[test]
fn hypervisor_can_refuse() {
    for bytes in [
        vec![0x8b, 0x07],
        vec![0x89, 0x07],
        vec![0x01, 0x07],
        vec![0xf3, 0xab],
    ] {
        for (info, outcome) in [(1, Outcome::Exception(Fault::GP)), (2, Outcome::VmmError)] {
            let mut machine = Machine::new(&bytes);

            machine.regs.di = DEVICE;
            machine.regs.cx = 3;
            machine.hypervisor.tamper = Some(Box::new(move |page| page.result(info, INJECT_GP)));

            let before = machine.regs;

            assert_eq!(machine.vc(NPF), outcome, "{bytes:02x?}");
            assert_eq!(machine.regs, before);
        }
    }
}

#[test]
fn read_modify_write_that_fails_in_the_write_changes_no_register() {
    for bytes in [
        vec![0x01, 0x0f],
        vec![0x87, 0x0f],
        vec![0x0f, 0xc1, 0x0f],
        vec![0x0f, 0xb1, 0x0f],
    ] {
        let mut machine = Machine::new(&bytes);
        let mut exits = 0;

        machine.regs.di = DEVICE;
        machine.regs.cx = 5;
        machine.hypervisor.tamper = Some(Box::new(move |page| {
            exits += 1;
            if exits == 2 {
                page.result(1, INJECT_GP);
            }
        }));

        let before = machine.regs;

        assert_eq!(machine.vc(NPF), Outcome::Exception(Fault::GP));
        assert_eq!(machine.vmgexits, 2);
        assert_eq!(machine.regs, before);
    }
}
