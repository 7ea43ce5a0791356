// SPDX-License-Identifier: GPL-2.0

//! Use of the GHCB by C code, and by NMI_COMPLETE.
//!
//! Rust code uses the GHCB through `GhcbGuard`, which says how users are nested. C code (SEV-SNP:
//! page state changes, guest requests, calls of the SVSM, AP creation) is one more kind of user. It
//! may fill any part of the page, so that as a nested user it has to save all of it, for which each
//! CPU has one backup page, as in the C implementation. It mostly runs in task context, where it is
//! the first user and needs no backup; only with Secure AVIC in interrupts and in NMIs (that of
//! performance counters before PerfMonV2 writes LVTPC) as well. Two such users that are both nested
//! (in a machine check, and in an NMI in that) end in a panic.

use core::{
    arch::asm,
    mem::{offset_of, size_of},
    ptr::{addr_of_mut, null_mut, NonNull},
    sync::atomic::{compiler_fence, Ordering},
};

use kernel::{
    bindings,
    prelude::*,
    warn_on, //
};

use crate::{
    instrumentation::instrumentation_begin,
    proto::{Ghcb, GhcbPage}, //
};

const RFLAGS_IF: u64 = 1 << 9;

extern "C" {
    /// Users of the GHCB; per-CPU, see `GhcbGuard`.
    static sev_es_ghcb_users: u64;
}

// The page has to be shared with the hypervisor as a whole.
const _: () = assert!(offset_of!(bindings::sev_es_runtime_data, ghcb_page) == 0);

#[inline(always)]
fn irqs_disabled() -> bool {
    let flags: u64;

    // SAFETY: Reads RFLAGS through the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & RFLAGS_IF == 0
}

#[inline(always)]
fn runtime_data() -> *mut bindings::sev_es_runtime_data {
    this_cpu_read!(bindings::runtime_data) as *mut bindings::sev_es_runtime_data
}

#[inline(always)]
fn users() -> u64 {
    this_cpu_read!(sev_es_ghcb_users)
}

/// Sets the number of users of this CPU's GHCB.
///
/// # Safety
///
/// Must be in step with who uses it.
#[inline(always)]
pub(crate) unsafe fn set_users(users: u64) {
    // SAFETY: By the contract of the function.
    unsafe { this_cpu_write!(sev_es_ghcb_users, 0, users) };
}

/// Copies a page of which the hypervisor can write one side at any time.
///
/// # Safety
///
/// Both must be valid, aligned to eight bytes, and not overlap.
#[inline(always)]
unsafe fn copy_page(to: *mut bindings::ghcb, from: *const bindings::ghcb) {
    let (to, from) = (to.cast::<u64>(), from.cast::<u64>());

    for index in 0..size_of::<bindings::ghcb>() / size_of::<u64>() {
        // SAFETY: By the contract of the function.
        unsafe {
            to.add(index)
                .write_volatile(from.add(index).read_volatile())
        };
    }
}

/// The GHCB of the current CPU, and whether somebody may be using it. `None` before there is one.
#[inline(always)]
pub(crate) fn current() -> Option<(Ghcb, bool)> {
    // SAFETY: As in `__sev_get_ghcb()`. `GhcbPage` has the layout of `struct ghcb`.
    unsafe {
        let (page, in_use) = if bindings::sev_es_shim_ghcbs_initialized() {
            (addr_of_mut!((*runtime_data()).ghcb_page), users() != 0)
        } else {
            // Its users are not counted.
            (bindings::boot_ghcb, true)
        };

        NonNull::new(page.cast::<GhcbPage>()).map(|page| (Ghcb::new(page), in_use))
    }
}

/// Takes the GHCB of the current CPU, for C code.
///
/// Before the per-CPU GHCBs are set up this is the boot GHCB, or NULL before there is one.
///
/// # Safety
///
/// `state` must be valid for writes. Interrupts must be off until `__sev_put_ghcb()`.
#[export]
#[link_section = ".noinstr.text"]
pub(crate) unsafe extern "C" fn __sev_get_ghcb(
    state: *mut bindings::ghcb_state,
) -> *mut bindings::ghcb {
    warn_on!(!irqs_disabled());

    // SAFETY: `state` is valid by the contract. The flag is set once, before other CPUs run, and
    // cleared by the last CPU that runs before a kexec. The runtime data is set up for all CPUs
    // while it is set, and is accessed by this CPU only. The copy reads memory that the hypervisor
    // can write, but only stores it.
    unsafe {
        (*state).ghcb = null_mut();
        if !bindings::sev_es_shim_ghcbs_initialized() {
            return bindings::boot_ghcb;
        }

        let data = runtime_data();
        let backup_active = addr_of_mut!((*data).backup_ghcb_active);
        let ghcb = addr_of_mut!((*data).ghcb_page);
        let users = users();

        set_users(users.wrapping_add(1));
        // Whoever comes in between from here on has to save and restore.
        compiler_fence(Ordering::SeqCst);
        if users == 0 {
            return ghcb;
        }

        if backup_active.read_volatile() {
            // No way to go on. Those who use the page do not either, so it is free for what a panic
            // needs: the console, stopping other CPUs, and a crash kernel.
            backup_active.write_volatile(false);
            set_users(0);
            instrumentation_begin();
            bindings::panic(c"GHCB and backup GHCB are already in use".as_char_ptr());
        }

        // Mark the backup before it is written: an NMI can come in between.
        backup_active.write_volatile(true);
        compiler_fence(Ordering::SeqCst);

        let backup = addr_of_mut!((*data).backup_ghcb);

        copy_page(backup, ghcb);
        (*state).ghcb = backup;
        ghcb
    }
}

/// Gives the GHCB back.
///
/// # Safety
///
/// `state` must come from the matching `__sev_get_ghcb()`.
#[export]
#[link_section = ".noinstr.text"]
pub(crate) unsafe extern "C" fn __sev_put_ghcb(state: *mut bindings::ghcb_state) {
    warn_on!(!irqs_disabled());

    // SAFETY: As in `__sev_get_ghcb()`; if there is a backup, it was made there. `GhcbPage` has the
    // layout of `struct ghcb`, and the page is not NULL.
    unsafe {
        if !bindings::sev_es_shim_ghcbs_initialized() {
            return;
        }

        let data = runtime_data();
        let ghcb = addr_of_mut!((*data).ghcb_page);

        let users = users();

        if (*state).ghcb.is_null() {
            // A VMGEXIT of user space must not find a valid request.
            if let Some(page) = NonNull::new(ghcb.cast::<GhcbPage>()) {
                Ghcb::new(page).invalidate();
            }
        } else {
            copy_page(ghcb, (*state).ghcb);
            compiler_fence(Ordering::SeqCst);
            addr_of_mut!((*data).backup_ghcb_active).write_volatile(false);
            (*state).ghcb = null_mut();
        }
        compiler_fence(Ordering::SeqCst);
        set_users(users.wrapping_sub(1));
    }
}
