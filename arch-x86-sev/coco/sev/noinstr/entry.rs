// SPDX-License-Identifier: GPL-2.0

//! Entry of runtime #VC exceptions.
//!
//! From kernel mode the handler runs in NMI context, since the exception can hit anywhere; from
//! user mode in IRQ context.
//!
//! An exception that the emulated instruction causes is raised inside the NMI context for kernel
//! mode: `paranoid_exit` restores the GSBASE that `paranoid_entry` saved, so nothing until then may
//! sleep, reschedule, or move to another CPU, and the raised count of `irqentry_nmi_enter()` keeps
//! the exception's handler from that. For user mode it is raised after the handler has left
//! its context, so that its handler finds what it would find if hardware had raised it.

use core::arch::asm;

use kernel::{
    bindings,
    prelude::*, //
};

use crate::{
    instrumentation::{instrumentation_begin, instrumentation_end},
    ist::is_vc2_stack,
    verdict::{self, Verdict}, //
};

/// Exit code of an intercepted #DB.
const EXIT_DB: u64 = 0x41;
/// DR6 at a single-step trap: its value at reset, and BS (APM vol. 2, 13.1.1.3).
const DR6_SINGLE_STEP: u64 = 0xffff_0ff0 | 1 << 14;

const GP: u16 = bindings::X86_TRAP_GP as u16;
const PF: u16 = bindings::X86_TRAP_PF as u16;
const SS: u16 = bindings::X86_TRAP_SS as u16;
const AC: u16 = bindings::X86_TRAP_AC as u16;

#[inline(always)]
fn user_mode(regs: *mut bindings::pt_regs) -> bool {
    // SAFETY: The entry code passes valid registers.
    unsafe { (*regs).__bindgen_anon_1.cs & 3 != 0 }
}

/// True if the entry code found no stack to use but VC2.
///
/// That is fine for code that ran on VC2 before: its #VC exceptions can be handled.
#[inline(always)]
fn from_invalid_context(regs: *mut bindings::pt_regs) -> bool {
    // SAFETY: The entry code passes valid registers.
    let interrupted_sp = unsafe { (*regs).sp } as u64;

    is_vc2_stack(regs as u64) && !is_vc2_stack(interrupted_sp)
}

/// Raises an exception as hardware would have done.
///
/// `orig_ax` stays -1, which the entry code makes it for hardware's exceptions, too. Anything else
/// means a system call, and the delivery of a signal would restart it, or change RAX.
///
/// # Safety
///
/// For kernel mode, must be called in NMI context; for user mode, must be the last thing that the
/// #VC entry does, outside of the context it entered.
#[inline(always)]
unsafe fn raise(regs: *mut bindings::pt_regs, verdict: Verdict) {
    let error_code = verdict.error_code as usize;

    // SAFETY: These are handlers that expect to be called by entry code, on the stack of #VC.
    unsafe {
        match verdict.vector {
            GP => bindings::exc_general_protection(regs, error_code),
            PF => {
                bindings::sev_es_shim_set_fault_address(regs, verdict.cr2 as usize);
                bindings::exc_page_fault(regs, error_code);
            }
            SS => bindings::exc_stack_segment(regs, error_code),
            AC => bindings::exc_alignment_check(regs, error_code),
            // The vector is a `proto::Vector`, of which only #UD is left.
            _ => bindings::exc_invalid_op(regs),
        }
    }
}

/// Makes DR6 say that a single-step trap happened, and nothing else: what it said before was for
/// an earlier #DB, whose handler need not have reset it (with FRED it does not).
#[inline(always)]
fn set_dr6_single_step() {
    // SAFETY: DR6 only reports. Accesses to it are not intercepted.
    unsafe {
        asm!(
            "mov dr6, {dr6}",
            dr6 = in(reg) DR6_SINGLE_STEP,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// #VC from kernel mode. A failure is fatal: the kernel relies on the instruction.
///
/// # Safety
///
/// Called by entry code only, and by boot code through `initial_vc_handler`.
#[export]
#[link_section = ".noinstr.text"]
pub(crate) unsafe extern "C" fn kernel_exc_vmm_communication(
    regs: *mut bindings::pt_regs,
    error_code: usize,
) {
    let exit_code = error_code as u64;

    // There is always a safe stack to switch to, because #VC happens at known places. If the rules
    // for noinstr code were broken somewhere, this is where it shows.
    if from_invalid_context(regs) {
        instrumentation_begin();
        // SAFETY: Ends the kernel; the message is a C string.
        unsafe {
            bindings::panic(c"Can't handle #VC exception from unsupported context\n".as_char_ptr())
        };
    }

    // SAFETY: The registers are valid, and the functions are called in the order and the context
    // that entry code calls them. #DB is handled before anything that could be instrumented, and so
    // raise #DB again.
    unsafe {
        if exit_code == EXIT_DB {
            bindings::exc_debug(regs);
            return;
        }

        let irq_state = bindings::irqentry_nmi_enter(regs);

        instrumentation_begin();
        let verdict = verdict::sev_es_handle_vc(regs, exit_code);

        if verdict.kind == verdict::FAIL {
            verdict::sev_es_vc_fatal(regs);
        }
        if verdict.kind == verdict::RAISE {
            raise(regs, verdict);
        }
        instrumentation_end();

        bindings::irqentry_nmi_exit(regs, irq_state);

        // #DB of kernel mode is an NMI-like exception itself: it neither sleeps nor reschedules.
        if verdict.kind == verdict::SINGLE_STEP {
            set_dr6_single_step();
            bindings::exc_debug(regs);
        }
    }
}

/// #VC from user mode. A failure kills the task, since user space can cause it.
///
/// # Safety
///
/// Called by entry code only.
#[export]
#[link_section = ".noinstr.text"]
pub(crate) unsafe extern "C" fn user_exc_vmm_communication(
    regs: *mut bindings::pt_regs,
    error_code: usize,
) {
    let exit_code = error_code as u64;

    // SAFETY: As in `kernel_exc_vmm_communication()`.
    unsafe {
        if exit_code == EXIT_DB {
            bindings::noist_exc_debug(regs);
            return;
        }

        let irq_state = bindings::irqentry_enter(regs);

        instrumentation_begin();
        let verdict = verdict::sev_es_handle_vc(regs, exit_code);

        if verdict.kind == verdict::FAIL {
            bindings::force_sig_fault(
                bindings::SIGBUS as c_int,
                bindings::BUS_OBJERR as c_int,
                core::ptr::null_mut(),
            );
        }
        instrumentation_end();

        if verdict.kind != verdict::RAISE && verdict.kind != verdict::SINGLE_STEP {
            bindings::irqentry_exit(regs, irq_state);
            return;
        }

        // Leave without the work that is done before a return to user mode (signals would change
        // the registers): the exception comes first.
        bindings::sev_es_shim_exit_to_user_mode();

        if verdict.kind == verdict::RAISE {
            raise(regs, verdict);
        } else {
            set_dr6_single_step();
            bindings::noist_exc_debug(regs);
        }
    }
}

/// #VC from anywhere: `idtentry_vc` and FRED's dispatcher call it.
///
/// # Safety
///
/// Called by entry code only.
#[export]
#[link_section = ".noinstr.text"]
pub(crate) unsafe extern "C" fn exc_vmm_communication(
    regs: *mut bindings::pt_regs,
    error_code: usize,
) {
    // SAFETY: By the contract of the function.
    unsafe {
        if user_mode(regs) {
            user_exc_vmm_communication(regs, error_code);
        } else {
            kernel_exc_vmm_communication(regs, error_code);
        }
    }
}
