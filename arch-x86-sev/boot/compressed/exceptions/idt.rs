// SPDX-License-Identifier: GPL-2.0

//! The decompressor's IDT (APM vol. 2, 8.2 and 4.8.4).

use core::{
    arch::asm,
    mem::size_of,
    ptr::addr_of_mut, //
};

use super::{
    c,
    ghcb,
    report::Status, //
};

/// Entries of the IDT: the exceptions. `BOOT_IDT_ENTRIES` of asm/desc_defs.h.
pub(crate) const BOOT_IDT_ENTRIES: usize = 32;

/// The decompressor's code segment, `__KERNEL_CS` of asm/segment.h.
const KERNEL_CS: u64 = 0x10;
/// Gate: a 64-bit trap gate.
const GATE_TRAP: u64 = 0xf << 40;
/// Gate: present.
const GATE_PRESENT: u64 = 1 << 47;

/// Exceptions that are handled.
#[derive(Clone, Copy)]
enum Vector {
    Nmi = 2,
    PageFault = 14,
    VmmCommunication = 29,
}

/// An entry of the IDT.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Gate {
    low: u64,
    high: u64,
}

const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    /// No handler: the exception becomes a double fault, and that ends the machine.
    const NONE: Gate = Gate { low: 0, high: 0 };

    /// A gate to `handler`, on the current stack.
    fn new(handler: unsafe extern "C" fn()) -> Gate {
        let address = handler as usize as u64;

        Gate {
            low: (address & 0xffff)
                | (KERNEL_CS << 16)
                | GATE_TRAP
                | GATE_PRESENT
                | ((address & 0xffff_0000) << 32),
            high: address >> 32,
        }
    }
}

/// What LIDT loads: `struct desc_ptr`.
#[repr(C, packed)]
pub(crate) struct Descriptor {
    /// Size of the table in bytes, less one.
    size: u16,
    /// Linear address of the table.
    address: u64,
}

const _: () = assert!(size_of::<Descriptor>() == 10);

/// Sets an entry.
///
/// # Safety
///
/// The gate must be that of a handler for the vector, which can run from now on if the IDT is
/// loaded.
#[inline(always)]
unsafe fn set(vector: Vector, gate: Gate) {
    // SAFETY: There is one CPU, and no reference to the table. The constants are less than its
    // size.
    unsafe {
        addr_of_mut!(c::boot_idt)
            .cast::<Gate>()
            .add(vector as usize)
            .write(gate);
    }
}

/// Loads the IDT that `boot_idt_desc` describes, at the address where it is now.
///
/// # Safety
///
/// Its entries must be right.
#[inline(always)]
unsafe fn load() {
    let descriptor = addr_of_mut!(c::boot_idt_desc);

    // SAFETY: By the contract of the function. The assembly may read all memory, so that the
    // entries are written before.
    unsafe {
        (*descriptor).address = addr_of_mut!(c::boot_idt) as u64;
        lidt(descriptor);
    }
}

/// # Safety
///
/// The descriptor and the table must be right.
#[inline(always)]
unsafe fn lidt(descriptor: *const Descriptor) {
    // SAFETY: By the contract of the function.
    unsafe { asm!("lidt [{}]", in(reg) descriptor, options(nostack, preserves_flags)) };
}

/// Sets up the IDT for the time before the decompressor moves itself out of the kernel's way.
///
/// # Safety
///
/// Called once, by the entry code, before `sev_enable()`.
#[no_mangle]
unsafe extern "C" fn load_stage1_idt() {
    // SAFETY: The handler is the one for #VC before there is a GHCB.
    unsafe {
        set(Vector::VmmCommunication, Gate::new(c::boot_stage1_vc));
        load();
    }
}

/// Sets up the IDT after the decompressor has moved.
///
/// The page-fault handler makes `initialize_identity_maps()` possible, which comes next. The #VC
/// handler comes with it: it needs a GHCB, which needs the new page table, so that it can only be
/// set up by the first #VC.
///
/// # Safety
///
/// Called once, by the entry code, after `.bss` was cleared.
#[no_mangle]
unsafe extern "C" fn load_stage2_idt() {
    // SAFETY: The handlers are those of stage 2.
    unsafe {
        set(Vector::PageFault, Gate::new(c::boot_page_fault));
        set(Vector::Nmi, Gate::new(c::boot_nmi_trap));
        // A #VC in a machine that has not been found to be an SEV-ES guest is a lie.
        set(
            Vector::VmmCommunication,
            if Status::get().es() {
                Gate::new(c::boot_stage2_vc)
            } else {
                Gate::NONE
            },
        );
        load();
    }
}

/// Ends exception handling, before control goes to the decompressed kernel: the GHCB becomes
/// private memory again, and there are no handlers any more.
///
/// # Safety
///
/// Called once, by `extract_kernel()`, when nothing is left to be mapped and nothing is printed any
/// more.
#[no_mangle]
unsafe extern "C" fn cleanup_exception_handling() {
    // SAFETY: An empty table is right when no exceptions are to come. Nobody uses the GHCB from
    // here on.
    unsafe {
        ghcb::sev_es_shutdown_ghcb();

        let descriptor = addr_of_mut!(c::boot_idt_desc);

        (*descriptor).size = 0;
        (*descriptor).address = 0;
        lidt(descriptor);
    }
}
