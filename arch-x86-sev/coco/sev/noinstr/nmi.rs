// SPDX-License-Identifier: GPL-2.0

//! The end of an NMI, which the hypervisor cannot see: IRET is not intercepted for SEV-ES guests.

use core::sync::atomic::{
    compiler_fence,
    Ordering, //
};

use kernel::{
    bindings,
    prelude::*, //
};

use crate::{
    ghcb,
    proto::{
        ExitCode,
        Ghcb,
        Request, //
    },
    vmgexit::vmgexit,
};

/// Tells the hypervisor that NMIs may be delivered again (GHCB specification: NMI Complete).
///
/// The first thing that an NMI handler does. It must not raise #VC, so it is all VMGEXIT.
///
/// From then on a further NMI can come at any time, and so this can interrupt any use of the GHCB,
/// nested ones included. There is no taking turns: if the GHCB is in use, the few words that the
/// exit overwrites are saved and restored.
///
/// # Safety
///
/// Must be called by the NMI handler of an SEV-ES guest.
#[export]
#[link_section = ".noinstr.text"]
pub(crate) unsafe extern "C" fn __sev_es_nmi_complete() {
    match ghcb::current() {
        Some((ghcb, false)) => {
            // A machine check can come before the exit, and its handler has to save the request.
            // SAFETY: There is no other user, and none is left below.
            unsafe { ghcb::set_users(1) };
            compiler_fence(Ordering::SeqCst);
            exit(ghcb);
            ghcb.invalidate();
            compiler_fence(Ordering::SeqCst);
            // SAFETY: As above; whoever came in between has gone.
            unsafe { ghcb::set_users(0) };
        }
        Some((ghcb, true)) => nested(ghcb),
        None => {}
    }
}

/// Completes an NMI that interrupted a user of the GHCB.
#[inline(never)]
#[link_section = ".noinstr.text"]
fn nested(ghcb: Ghcb) {
    let saved = ghcb.save();

    exit(ghcb);
    ghcb.restore(&saved);
}

/// Performs the exit. The hypervisor's reply has nothing of interest.
#[inline(always)]
fn exit(ghcb: Ghcb) {
    // SAFETY: The version was negotiated before the first GHCB was set up, and stays.
    let version = unsafe { bindings::ghcb_version };

    let _ = Request::new(ghcb).commit(version, ExitCode::NmiComplete as u64, 0, 0);
    // SAFETY: The request in the GHCB is complete, and this is the address of the GHCB.
    unsafe { vmgexit(bindings::sev_es_shim_pa_nodebug(ghcb.as_ptr().cast()) as u64) };
}
