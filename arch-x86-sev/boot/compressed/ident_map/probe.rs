// SPDX-License-Identifier: GPL-2.0

//! Reading what may not be mapped, before there is an identity map to put it into.

use core::{
    arch::asm,
    cell::Cell,
    sync::atomic::{
        compiler_fence,
        Ordering, //
    }, //
};

/// Where to go on after a page fault, or 0 if none is expected.
struct Resume(Cell<u64>);

// SAFETY: There is one CPU, and the page-fault handler runs between two instructions.
unsafe impl Sync for Resume {}

static RESUME: Resume = Resume(Cell::new(0));

/// Reads a word. `None` if that is a page fault.
///
/// `address` must be canonical, for nobody handles #GP.
#[inline(never)]
pub(crate) fn read(address: u64) -> Option<u64> {
    let value: u64;
    let faulted: u32;

    // SAFETY: Reads memory, which has no side effect but a page fault. That goes to the second
    // label, with all registers as they were. The address of the label is relative: this code is
    // not where it is linked to.
    unsafe {
        asm!(
            "lea {value}, [rip + 3f]",
            "mov [{resume}], {value}",
            "mov {value}, [{address}]",
            "xor {faulted:e}, {faulted:e}",
            "3:",
            value = out(reg) value,
            faulted = inout(reg) 1u32 => faulted,
            resume = in(reg) RESUME.0.as_ptr(),
            address = in(reg) address,
            options(nostack),
        );
    }
    compiler_fence(Ordering::SeqCst);
    RESUME.0.set(0);
    (faulted == 0).then_some(value)
}

/// Where a page fault is expected to go on, if it is.
pub(crate) fn resume() -> Option<u64> {
    match RESUME.0.replace(0) {
        0 => None,
        ip => Some(ip),
    }
}
