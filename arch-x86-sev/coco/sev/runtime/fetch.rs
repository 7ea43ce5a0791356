// SPDX-License-Identifier: GPL-2.0

//! The bytes of the interrupted instruction.

use core::ffi::c_void;

use kernel::{
    bindings,
    task::Task, //
};

use crate::{
    cpu,
    memory,
    proto::{
        insn::MAX_INSN_LEN,
        result::{PF_FETCH, PF_USER},
        Fault,
        Regs,
        Result, //
    },
    segment, //
};

/// True if the kernel's code runs on the page tables of the EFI runtime services. They are at user
/// addresses there.
fn in_efi_runtime() -> bool {
    #[cfg(CONFIG_EFI)]
    {
        // SAFETY: `current` is valid, and its active mm does not change under a #VC handler.
        let active_mm = unsafe { (*Task::current_raw()).active_mm };

        active_mm == &raw mut bindings::efi_mm
    }
    #[cfg(not(CONFIG_EFI))]
    {
        false
    }
}

/// Copies from a user address as far as that works; returns how far.
fn copy_user(bytes: &mut [u8; MAX_INSN_LEN], address: u64) -> usize {
    // SAFETY: The buffer has that length. Page faults are disabled, or cannot sleep in NMI context.
    let len = unsafe {
        bindings::sev_es_shim_fetch(bytes.as_mut_ptr().cast(), address as usize, MAX_INSN_LEN)
    };

    len.min(MAX_INSN_LEN)
}

/// Reads the instruction of user code, or of code at user addresses.
fn fetch_user(regs: &Regs, bytes: &mut [u8; MAX_INSN_LEN]) -> Result<usize> {
    let address = if segment::is_64bit(regs) {
        regs.ip
    } else {
        segment::code(regs)?.base().wrapping_add(regs.ip) & 0xffff_ffff
    };

    // A hypervisor that makes up a #VC of user code at a kernel address must not have the kernel's
    // memory taken for instructions.
    if regs.user_mode() && memory::is_kernel_address(address) {
        return Err(Fault::page(address, PF_FETCH | PF_USER).into());
    }

    let mut len = copy_user(bytes, address);

    // Code in an execute-only page is fetched by the processor, but cannot be read: a protection
    // key forbids it. A page fault would find nothing wrong with it, and come again for ever.
    if len < MAX_INSN_LEN {
        if let Some(pkru) = cpu::pkru().filter(|&pkru| pkru != 0) {
            // SAFETY: There are keys, and the value is restored right behind.
            unsafe { cpu::set_pkru(0) };
            len = copy_user(bytes, address);
            // SAFETY: As above.
            unsafe { cpu::set_pkru(pkru) };
        }
    }

    if len == 0 {
        return Err(Fault::page(address, PF_FETCH | PF_USER).into());
    }
    Ok(len)
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

/// Reads up to 15 bytes at the interrupted instruction; returns how many there were. Interrupts
/// must be off.
pub(crate) fn fetch(regs: &Regs, bytes: &mut [u8; MAX_INSN_LEN]) -> Result<usize> {
    if regs.user_mode() || in_efi_runtime() {
        fetch_user(regs, bytes)
    } else {
        fetch_kernel(regs.ip, bytes)
    }
}
