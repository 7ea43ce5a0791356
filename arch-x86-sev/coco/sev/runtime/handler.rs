// SPDX-License-Identifier: GPL-2.0

//! The #VC handler behind the entry code.

use core::ptr::NonNull;

use kernel::{
    bindings,
    prelude::*, //
};

use crate::{
    env::KernelEnv,
    proto::{
        exit,
        Env,
        Fault,
        Outcome, //
    },
    verdict::{self, Verdict}, //
};

impl Verdict {
    const fn new(kind: u16) -> Verdict {
        Verdict {
            kind,
            vector: 0,
            error_code: 0,
            cr2: 0,
        }
    }

    fn stepped(single_step: bool) -> Verdict {
        Verdict::new(if single_step {
            verdict::SINGLE_STEP
        } else {
            verdict::CONTINUE
        })
    }

    fn raise(fault: Fault) -> Verdict {
        Verdict {
            kind: verdict::RAISE,
            vector: u16::from(fault.vector as u8),
            error_code: fault.error_code,
            cr2: fault.cr2,
        }
    }
}

/// Page faults of user space's memory are for its own handler, not to be resolved here, where that
/// could sleep. In NMI context they are never resolved.
struct NoPageFaults;

impl NoPageFaults {
    fn new() -> NoPageFaults {
        // SAFETY: Undone by `drop`.
        unsafe { bindings::sev_es_shim_pagefault_disable() };
        NoPageFaults
    }
}

impl Drop for NoPageFaults {
    fn drop(&mut self) {
        // SAFETY: Undoes `new`.
        unsafe { bindings::sev_es_shim_pagefault_enable() };
    }
}

/// Handles a #VC exception.
///
/// # Safety
///
/// `regs` must be the interrupted registers; interrupts must be off.
#[no_mangle]
unsafe extern "C" fn sev_es_handle_vc(regs: *mut bindings::pt_regs, exit_code: u64) -> Verdict {
    let Some(regs) = NonNull::new(regs) else {
        return Verdict::new(verdict::FAIL);
    };
    // The GHCB is given back at the end of the block, before printing, which needs it for the
    // console.
    let (outcome, ip, user_mode) = {
        // SAFETY: By the contract of the function.
        let mut env = unsafe { KernelEnv::new(regs) };
        let ip = env.regs().ip;
        let user_mode = env.regs().user_mode();
        let _no_page_faults = NoPageFaults::new();

        (exit::handle(&mut env, exit_code), ip, user_mode)
    };

    let reason = match outcome {
        Outcome::Done { single_step } | Outcome::Retry { single_step } => {
            return Verdict::stepped(single_step);
        }
        Outcome::Exception(fault) => return Verdict::raise(fault),
        Outcome::Unsupported => "unsupported exit code",
        Outcome::VmmError => "failure in communication with the hypervisor",
        Outcome::DecodeFailed => "instruction not decoded",
    };

    // A failure of the kernel ends the guest, and its reason must not be lost because user space
    // used the limit up.
    // SAFETY: Only keeps count.
    if !user_mode || unsafe { bindings::sev_es_shim_ratelimit() } {
        pr_err!("#VC exception: {reason} (exit code {exit_code:#x}, IP: {ip:#x})\n");
    }
    Verdict::new(verdict::FAIL)
}

/// Ends the guest after a #VC exception of the kernel that was not handled.
///
/// # Safety
///
/// `regs` must be the interrupted registers.
#[no_mangle]
unsafe extern "C" fn sev_es_vc_fatal(regs: *mut bindings::pt_regs) -> ! {
    // SAFETY: By the contract of the function.
    unsafe {
        bindings::show_regs(regs);
        bindings::sev_es_terminate(bindings::SEV_TERM_SET_GEN, bindings::GHCB_SEV_ES_GEN_REQ)
    }
}
