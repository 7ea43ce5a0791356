// SPDX-License-Identifier: GPL-2.0

//! The GHCB MSR and the VMGEXIT instruction (GHCB specification, 2.3; APM vol. 2, 15.35.6).

use core::arch::asm;

use crate::proto::msr_protocol::MSR_GHCB;

/// Writes the GHCB MSR and exits to the hypervisor.
///
/// An NMI can come between the two instructions, and its handler performs exits. It leaves the page
/// as it was, but not the MSR, in which it leaves the address of this CPU's GHCB:
///
/// * If `value` is that address, nothing has changed, and the exit is the intended one.
/// * If `value` is a request of the MSR protocol, it is lost: the exit finds an invalidated GHCB,
///   the hypervisor refuses it, and the MSR has no reply. The same is true of an NMI before the
///   reply is read. So the MSR protocol is for code that no NMI handler can interrupt.
///
/// # Safety
///
/// `value` must be the address of this CPU's GHCB with a completed request; or a request of the MSR
/// protocol, when this CPU has no user of the GHCB and no NMI handler that would be one.
#[inline(always)]
pub(crate) unsafe fn vmgexit(value: u64) {
    // SAFETY: By the contract of the function the hypervisor gets a request that it may perform. It
    // can change the GHCB, which is memory that the compiler does not know to be unchanged.
    unsafe {
        asm!(
            "wrmsr",
            "rep vmmcall",
            in("ecx") MSR_GHCB,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}
