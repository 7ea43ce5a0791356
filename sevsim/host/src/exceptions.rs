// SPDX-License-Identifier: GPL-2.0
//! The host's own descriptor tables, and the report when the host itself faults.

use core::arch::asm;

use spin::Once;

use crate::isolation;

/// An interrupt gate.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// What the entry code pushes.
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
}

extern "C" {
    static exception_entries: [[u8; 16]; 32];
    static host_gdt_pointer: [u8; 10];
    fn nmi_entry();
}

static IDT: Once<[Gate; 32]> = Once::new();

fn gate(handler: u64) -> Gate {
    const CODE: u64 = 8;
    const PRESENT_INTERRUPT: u64 = 0x8e00;
    Gate {
        low: handler & 0xffff
            | (CODE << 16)
            | (PRESENT_INTERRUPT << 32)
            | (((handler >> 16) & 0xffff) << 48),
        high: handler >> 32,
    }
}

/// Loads GDT and IDT on this CPU.
pub fn load() {
    let idt = IDT.call_once(|| {
        core::array::from_fn(|vector| {
            if vector == 2 {
                return gate(nmi_entry as usize as u64);
            }
            // SAFETY: the assembly defines 32 entries; only the address is taken.
            gate(unsafe { &raw const exception_entries[vector] } as u64)
        })
    });
    let limit = (size_of::<[Gate; 32]>() - 1) as u16;
    let pointer = Pointer {
        limit,
        base: idt.as_ptr() as u64,
    };
    // SAFETY: both tables are static and hold the segments in use.
    unsafe {
        asm!("lgdt [{}]", in(reg) &raw const host_gdt_pointer, options(nostack));
        asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack));
    }
}

/// A page fault in the host. True if the instruction is to be executed again.
#[no_mangle]
extern "C" fn host_page_fault(frame: &Frame, cr2: u64) -> bool {
    isolation::fault(frame.error, frame.rip, frame.rsp, cr2)
}

/// An exception that the host did not expect.
#[no_mangle]
extern "C" fn host_exception(frame: &Frame, cr2: u64) -> ! {
    let Frame {
        vector,
        error,
        rip,
        cs: _,
        rflags,
        rsp,
    } = *frame;
    crate::fatal!(
        "exception {vector} in the host: error={error:#x} rip={rip:#x} rsp={rsp:#x} \
         rflags={rflags:#x} cr2={cr2:#x}"
    )
}
