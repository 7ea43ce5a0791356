// SPDX-License-Identifier: GPL-2.0

//! The GHCB MSR and the VMGEXIT instruction (GHCB specification, 2.3; APM vol. 2, 15.35.6).

use core::arch::asm;

use kernel::bindings;

/// Writes the GHCB MSR and exits to the hypervisor.
///
/// Nothing is between the two instructions: the MSR also belongs to nested handlers, which leave it
/// with the same address of the GHCB, but not to code that speaks the MSR protocol.
///
/// # Safety
///
/// `value` must be the address of a GHCB with a completed request, or a request of the MSR protocol.
#[inline(always)]
pub(crate) unsafe fn vmgexit(value: u64) {
    // SAFETY: By the contract of the function the hypervisor gets a request that it may perform. It
    // can change the GHCB, which is memory that the compiler does not know to be unchanged.
    unsafe {
        asm!(
            "wrmsr",
            "rep vmmcall",
            in("ecx") bindings::MSR_AMD64_SEV_ES_GHCB,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}
