// SPDX-License-Identifier: GPL-2.0

//! The MSR protocol, and termination by it (GHCB specification, 2.3).
//!
//! For code that runs before the kernel is relocated: the decompressor and the startup code include
//! this.

use core::arch::asm;

use super::{
    proto::msr_protocol::{
        self,
        MsrExchange,
        Termination,
        MSR_GHCB, //
    },
    vmgexit::vmgexit, //
};

extern "C" {
    /// The version of the protocol that was negotiated, 0 before.
    static mut ghcb_version: u16;
}

/// The MSR protocol. It leaves the MSR changed: whoever has a GHCB writes its address to the MSR
/// before each exit.
pub(crate) struct GhcbMsr;

impl MsrExchange for GhcbMsr {
    // Not inlined: CPUID has four exchanges.
    #[inline(never)]
    fn exchange(&mut self, request: u64) -> u64 {
        let (low, high): (u32, u32);

        // SAFETY: Requests of the MSR protocol do not touch memory. The MSR exists, for #VC is only
        // raised and the protocol is only spoken in SEV-ES guests, and it is not intercepted.
        unsafe {
            vmgexit(request);
            asm!(
                "rdmsr",
                in("ecx") MSR_GHCB,
                out("eax") low,
                out("edx") high,
                options(nostack, preserves_flags),
            );
        }
        u64::from(high) << 32 | u64::from(low)
    }
}

/// Asks the hypervisor to end the guest, and stops in any case.
#[inline(always)]
pub(crate) fn terminate(why: Termination) -> ! {
    request_termination(why.request())
}

/// Writes a request for termination and stops.
#[inline(never)]
fn request_termination(request: u64) -> ! {
    // SAFETY: A request of the MSR protocol.
    unsafe { vmgexit(request) };
    stop()
}

/// Stops this CPU. The hypervisor may resume a guest that it should have ended.
fn stop() -> ! {
    loop {
        // SAFETY: Nothing is to happen any more.
        unsafe { asm!("hlt", options(nostack)) };
    }
}

/// Ends the guest for a reason that C code gives.
///
/// # Safety
///
/// May be called at any time. Only the low 4 bits of `set` and the low 8 bits of `reason` count.
#[no_mangle]
pub(crate) unsafe extern "C" fn sev_es_terminate(set: u32, reason: u32) -> ! {
    request_termination(msr_protocol::termination_request(set.into(), reason.into()))
}

/// The hypervisor's features; 0 if it does not say, or speaks version 1 of the protocol.
///
/// # Safety
///
/// The protocol must have been negotiated, and no GHCB may be in use.
#[no_mangle]
unsafe extern "C" fn get_hv_features() -> u64 {
    // SAFETY: Written once, by the only CPU.
    let version = unsafe { ghcb_version };

    msr_protocol::hv_features(&mut GhcbMsr, version)
}
