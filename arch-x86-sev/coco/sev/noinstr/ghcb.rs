// SPDX-License-Identifier: GPL-2.0

//! Who uses the GHCB.
//!
//! There is one GHCB for each CPU, used with interrupts off. An NMI can interrupt its user and
//! raise a #VC of its own: the nested user saves the page to a backup and restores it. One level
//! is enough, since NMIs do not nest. Plain flags do: a nested user always unwinds before the
//! interrupted one goes on.

use core::{
    arch::asm,
    mem::offset_of,
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

/// The GHCB of the current CPU, whoever uses it. `None` before there is one.
#[inline(always)]
pub(crate) fn current() -> Option<Ghcb> {
    // SAFETY: As in `__sev_get_ghcb()`. `GhcbPage` has the layout of `struct ghcb`.
    unsafe {
        let page = if bindings::sev_es_shim_ghcbs_initialized() {
            addr_of_mut!((*runtime_data()).ghcb_page)
        } else {
            bindings::boot_ghcb
        };

        NonNull::new(page.cast::<GhcbPage>()).map(|page| Ghcb::new(page))
    }
}

/// Takes the GHCB of the current CPU; see `GhcbGuard`, which is how Rust code does it.
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

    // SAFETY: `state` is valid by the contract. The flag changes once, before other CPUs run. The
    // runtime data is set up for all CPUs by then, and is accessed by this CPU only. The copy
    // reads memory that the hypervisor can write, but only stores it.
    unsafe {
        (*state).ghcb = null_mut();
        if !bindings::sev_es_shim_ghcbs_initialized() {
            return bindings::boot_ghcb;
        }

        let data = runtime_data();
        let active = addr_of_mut!((*data).ghcb_active);
        let backup_active = addr_of_mut!((*data).backup_ghcb_active);
        let ghcb = addr_of_mut!((*data).ghcb_page);

        if !active.read_volatile() {
            active.write_volatile(true);
            compiler_fence(Ordering::SeqCst);
            return ghcb;
        }

        if backup_active.read_volatile() {
            // No way to go on. Mark both as unused, so that the messages can be printed.
            active.write_volatile(false);
            backup_active.write_volatile(false);
            instrumentation_begin();
            bindings::panic(
                c"Unable to handle #VC exception! GHCB and Backup GHCB are already in use"
                    .as_char_ptr(),
            );
        }

        // Mark the backup before it is written: an NMI can come in between.
        backup_active.write_volatile(true);
        compiler_fence(Ordering::SeqCst);

        let backup = addr_of_mut!((*data).backup_ghcb);

        backup.copy_from_nonoverlapping(ghcb, 1);
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

        if (*state).ghcb.is_null() {
            // A VMGEXIT of user space must not find a valid request.
            if let Some(page) = NonNull::new(ghcb.cast::<GhcbPage>()) {
                Ghcb::new(page).invalidate();
            }
            compiler_fence(Ordering::SeqCst);
            addr_of_mut!((*data).ghcb_active).write_volatile(false);
        } else {
            ghcb.copy_from_nonoverlapping((*state).ghcb, 1);
            compiler_fence(Ordering::SeqCst);
            addr_of_mut!((*data).backup_ghcb_active).write_volatile(false);
            (*state).ghcb = null_mut();
        }
    }
}
