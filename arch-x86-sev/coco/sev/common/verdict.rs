// SPDX-License-Identifier: GPL-2.0

//! What the entry code has to do after the runtime handler, as a value that crosses objects.

// One object makes the value, another one takes it apart.
#![allow(dead_code)]

/// Nothing: the interrupted context can go on.
pub(crate) const CONTINUE: u16 = 0;
/// The exit was not handled, and the reason has been printed.
pub(crate) const FAIL: u16 = 1;
/// An exception has to be raised for the interrupted context.
pub(crate) const RAISE: u16 = 2;
/// The emulated instruction was single-stepped: #DB has to be raised.
pub(crate) const SINGLE_STEP: u16 = 3;

/// The runtime handler's result. Small enough to be returned in registers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Verdict {
    /// One of the constants above.
    pub(crate) kind: u16,
    /// For `RAISE`: the vector.
    pub(crate) vector: u16,
    /// For `RAISE`: the error code.
    pub(crate) error_code: u32,
    /// For `RAISE` of a page fault: the address.
    pub(crate) cr2: u64,
}

extern "C" {
    /// Handles a #VC exception. Interrupts are off, and instrumentation is allowed.
    pub(crate) fn sev_es_handle_vc(regs: *mut kernel::bindings::pt_regs, exit_code: u64)
        -> Verdict;
    /// Ends the guest after a #VC exception of the kernel that was not handled.
    pub(crate) fn sev_es_vc_fatal(regs: *mut kernel::bindings::pt_regs) -> !;
}
