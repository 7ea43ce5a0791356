// SPDX-License-Identifier: GPL-2.0

//! What the SEV-SNP code in C calls.
//!
//! Its callers pass a `struct es_em_ctxt` that they did not initialise, but for `regs` where that
//! is used. So it is only handled as a pointer, and only its `fi` is written.

use core::ptr::{addr_of_mut, NonNull};

use kernel::{
    bindings,
    prelude::*, //
};

use crate::{
    env::KernelEnv,
    proto::{
        exit::msr,
        exit_info,
        Error,
        Ghcb,
        GhcbPage,
        Reply,
        Request,
        Result, //
    },
    vmgexit::vmgexit,
};

/// Reports a result to C, the fault in the context.
///
/// # Safety
///
/// `ctxt` must be valid for writes.
unsafe fn report(ctxt: *mut bindings::es_em_ctxt, result: Result) -> bindings::es_result {
    match result {
        Ok(()) => bindings::es_result_ES_OK,
        Err(Error::Unsupported) => bindings::es_result_ES_UNSUPPORTED,
        Err(Error::Vmm) => bindings::es_result_ES_VMM_ERROR,
        Err(Error::DecodeFailed) => bindings::es_result_ES_DECODE_FAILED,
        Err(Error::Exception(fault)) => {
            let fi = bindings::es_fault_info {
                vector: usize::from(fault.vector as u8),
                error_code: fault.error_code as usize,
                cr2: fault.cr2 as usize,
            };

            // SAFETY: By the contract of the function.
            unsafe { addr_of_mut!((*ctxt).fi).write(fi) };
            bindings::es_result_ES_EXCEPTION
        }
    }
}

/// A handle of the GHCB that the C caller owns.
///
/// # Safety
///
/// The caller must own the GHCB, for as long as the handle is used.
unsafe fn callers_ghcb(ghcb: *mut bindings::ghcb) -> Option<Ghcb> {
    let page = NonNull::new(ghcb.cast::<GhcbPage>())?;

    // SAFETY: By the contract of the function; `layout` checks that the layouts are the same.
    Some(unsafe { Ghcb::new(page) })
}

/// Performs the exit that the C caller prepared: it has set fields and marked them valid.
///
/// # Safety
///
/// The caller must own the GHCB. `ctxt` must be valid for writes.
#[export]
pub(crate) unsafe extern "C" fn sev_es_ghcb_hv_call(
    ghcb: *mut bindings::ghcb,
    ctxt: *mut bindings::es_em_ctxt,
    exit_code: u64,
    exit_info_1: u64,
    exit_info_2: u64,
) -> bindings::es_result {
    // SAFETY: By the contract of the function. The request is complete when VMGEXIT is executed.
    unsafe {
        let Some(handle) = callers_ghcb(ghcb) else {
            return bindings::es_result_ES_UNSUPPORTED;
        };
        let pending = Request::adopt(handle).commit(
            bindings::ghcb_version,
            exit_code,
            exit_info_1,
            exit_info_2,
        );

        vmgexit(bindings::sev_es_shim_pa_nodebug(ghcb.cast()) as u64);
        report(ctxt, pending.checked_reply().map(|_| ()))
    }
}

/// Checks the reply to an exit that the C caller performed.
///
/// Other than in C, SW_EXITINFO1 has to be marked valid. That is no new demand on hypervisors: the
/// caller marked it itself when it filled in its request, so the mark is missing only if the
/// hypervisor cleared the bitmap and did not mark its own reply, which the specification demands.
///
/// # Safety
///
/// As for `sev_es_ghcb_hv_call()`.
#[export]
pub(crate) unsafe extern "C" fn verify_exception_info(
    ghcb: *mut bindings::ghcb,
    ctxt: *mut bindings::es_em_ctxt,
) -> bindings::es_result {
    // SAFETY: By the contract of the function.
    unsafe {
        let Some(handle) = callers_ghcb(ghcb) else {
            return bindings::es_result_ES_UNSUPPORTED;
        };

        report(ctxt, exit_info::verify(&Reply::current(handle)))
    }
}

/// Reads or writes the MSR in `ctxt->regs` by way of the hypervisor.
///
/// # Safety
///
/// As for `sev_es_ghcb_hv_call()`, and `ctxt->regs` must be valid. Interrupts must be off.
#[export]
pub(crate) unsafe extern "C" fn __vc_handle_msr(
    ghcb: *mut bindings::ghcb,
    ctxt: *mut bindings::es_em_ctxt,
    write: bool,
) -> bindings::es_result {
    // SAFETY: By the contract of the function.
    unsafe {
        let (Some(handle), Some(regs)) = (
            callers_ghcb(ghcb),
            NonNull::new(addr_of_mut!((*ctxt).regs).read()),
        ) else {
            return bindings::es_result_ES_UNSUPPORTED;
        };
        let mut env = KernelEnv::with_ghcb(regs, handle);

        report(ctxt, msr::access(&mut env, write))
    }
}
