// SPDX-License-Identifier: GPL-2.0

//! #VC exceptions on the boot GHCB, before the runtime handler is in the IDT.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        Ordering, //
    }, //
};

use kernel::{
    bindings,
    prelude::*, //
};

use crate::{
    cpu,
    env::KernelEnv,
    proto::{
        exit,
        Env,
        Fault,
        Outcome,
        Vector, //
    },
};

/// Raises an exception at a time when there are no handlers but the early ones.
///
/// # Safety
///
/// `regs` must be the interrupted registers.
#[link_section = ".init.text"]
unsafe fn forward_early(regs: *mut bindings::pt_regs, fault: Fault) {
    if fault.vector == Vector::PageFault {
        cpu::write_cr2(fault.cr2);
    }
    // SAFETY: By the contract of the function. The early handler takes the error code from there.
    unsafe {
        (*regs).orig_ax = fault.error_code as usize;
        bindings::do_early_exception(regs, i32::from(fault.vector as u8));
    }
}

/// A failure is being reported. Not in .bss, which is cleared later than the first #VC.
#[link_section = ".data"]
static REPORTING: AtomicBool = AtomicBool::new(false);

/// Says why the guest ends, and ends it.
///
/// The console is a serial port, which causes #VC exceptions as well. If the hypervisor refuses
/// them, too, the next one would be reported, and so on until the stack overflows. So there is one
/// report at most.
///
/// # Safety
///
/// `regs` must be the interrupted registers, and the format must be one for two numbers.
#[link_section = ".init.text"]
unsafe fn fail(regs: *mut bindings::pt_regs, format: &CStr, exit_code: u64, ip: u64) -> ! {
    // SAFETY: By the contract of the function. The last call does not return.
    unsafe {
        if !REPORTING.swap(true, Ordering::Relaxed) {
            #[cfg(CONFIG_EARLY_PRINTK)]
            bindings::early_printk(format.as_char_ptr(), exit_code, ip);
            #[cfg(not(CONFIG_EARLY_PRINTK))]
            let _ = (format, exit_code, ip);
            bindings::show_regs(regs);
        }
        bindings::sev_es_terminate(bindings::SEV_TERM_SET_GEN, bindings::GHCB_SEV_ES_GEN_REQ)
    }
}

/// Handles a #VC exception. Returns true; if the exception cannot be handled, the guest ends.
///
/// # Safety
///
/// Called by the early exception entry only, with the interrupted registers.
#[export]
#[link_section = ".init.text"]
pub(crate) unsafe extern "C" fn handle_vc_boot_ghcb(regs: *mut bindings::pt_regs) -> bool {
    let Some(env_regs) = NonNull::new(regs) else {
        return false;
    };
    let (outcome, exit_code, ip) = {
        // SAFETY: By the contract of the function; interrupts are off all along.
        let mut env = unsafe { KernelEnv::new(env_regs) };
        let exit_code = env.regs().orig_ax;
        let ip = env.regs().ip;

        (exit::handle(&mut env, exit_code), exit_code, ip)
    };

    let message = match outcome {
        // There is nobody who could single-step yet.
        Outcome::Done { .. } | Outcome::Retry { .. } => return true,
        Outcome::Exception(fault) => {
            // SAFETY: By the contract of the function.
            unsafe { forward_early(regs, fault) };
            return true;
        }
        Outcome::Unsupported => {
            c"PANIC: Unsupported exit-code 0x%02lx in early #VC exception (IP: 0x%lx)\n"
        }
        Outcome::VmmError => {
            c"PANIC: Failure in communication with VMM (exit-code 0x%02lx IP: 0x%lx)\n"
        }
        Outcome::DecodeFailed => {
            c"PANIC: Failed to decode instruction (exit-code 0x%02lx IP: 0x%lx)\n"
        }
    };

    // SAFETY: The format fits, and `regs` is valid.
    unsafe { fail(regs, message, exit_code, ip) }
}
