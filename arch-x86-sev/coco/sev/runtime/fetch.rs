// SPDX-License-Identifier: GPL-2.0

//! The bytes of the interrupted instruction.

use core::{
    ffi::c_void,
    ptr::{addr_of_mut, NonNull},
};

use kernel::{
    bindings,
    task::Task, //
};

use crate::{
    memory,
    proto::{
        insn::MAX_INSN_LEN,
        result::{PF_FETCH, PF_USER},
        Fault,
        Result, //
    },
};

/// True if the instruction has to be fetched as user code's. That is so for EFI runtime services,
/// too: they run in kernel mode, but where their page tables map user addresses.
fn fetches_as_user(regs: &bindings::pt_regs) -> bool {
    // SAFETY: All members of the union are valid. `current` is valid, and its active mm does not
    // change under a #VC handler.
    unsafe {
        regs.__bindgen_anon_1.cs & 3 != 0
            || (*Task::current_raw()).active_mm == addr_of_mut!(bindings::efi_mm)
    }
}

/// Reads the instruction of user code.
fn fetch_user(regs: &mut bindings::pt_regs, bytes: &mut [u8; MAX_INSN_LEN]) -> Result<usize> {
    // SAFETY: The buffer holds MAX_INSN_SIZE bytes. Page faults are disabled, or cannot sleep in
    // NMI context.
    let len = unsafe { bindings::insn_fetch_from_user_inatomic(regs, bytes.as_mut_ptr()) };

    match usize::try_from(len) {
        // Nothing could be copied.
        Ok(0) => Err(Fault::page(regs.ip as u64, PF_FETCH | PF_USER).into()),
        Ok(len) => Ok(len),
        // The code segment is gone.
        Err(_) => Err(Fault::GP.into()),
    }
}

/// Reads the instruction of kernel code, which may end at the end of what is mapped.
fn fetch_kernel(ip: u64, bytes: &mut [u8; MAX_INSN_LEN]) -> Result<usize> {
    let first = (memory::bytes_in_page(ip) as usize).min(MAX_INSN_LEN);

    for len in [MAX_INSN_LEN, first] {
        // SAFETY: The buffer has that many bytes; faults are caught.
        let result = unsafe {
            bindings::copy_from_kernel_nofault(bytes.as_mut_ptr().cast(), ip as *const c_void, len)
        };

        if result == 0 {
            return Ok(len);
        }
    }
    Err(Fault::page(ip, PF_FETCH).into())
}

/// Reads up to 15 bytes at the interrupted instruction; returns how many there were.
///
/// # Safety
///
/// `regs` must be the interrupted registers, with interrupts off.
pub(crate) unsafe fn fetch(
    regs: NonNull<bindings::pt_regs>,
    bytes: &mut [u8; MAX_INSN_LEN],
) -> Result<usize> {
    // SAFETY: By the contract of the function.
    let regs = unsafe { &mut *regs.as_ptr() };

    if fetches_as_user(regs) {
        fetch_user(regs, bytes)
    } else {
        fetch_kernel(regs.ip as u64, bytes)
    }
}
