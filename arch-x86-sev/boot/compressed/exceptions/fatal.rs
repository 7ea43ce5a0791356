// SPDX-License-Identifier: GPL-2.0

//! Ends of a boot that cannot go on.

use core::ffi::CStr;

use super::{
    c,
    ghcb_msr::terminate,
    proto::msr_protocol::Termination, //
};

/// Prints a text if there is a console.
pub(crate) fn print(text: &CStr) {
    // SAFETY: The text ends with a NUL. If printing raises #VC, its handler is in the IDT.
    unsafe { c::__putstr(text.to_bytes_with_nul().as_ptr().cast()) };
}

/// Prints a number in hexadecimal, without a prefix.
pub(crate) fn print_hex(value: u64) {
    // SAFETY: As in `print`.
    unsafe { c::__puthex(value) };
}

/// Ends the boot. An SEV-ES guest asks the hypervisor to end it, so that whoever started it learns
/// about it; other machines stop.
///
/// The GHCB must not be in use: printing may need it.
pub(crate) fn fatal(message: &CStr, why: Termination) -> ! {
    // SAFETY: Reads what `sev_enable()` found out.
    if unsafe { c::sev_status } & c::SEV_STATUS_ES == 0 {
        // SAFETY: The message ends with a NUL.
        unsafe { c::error(message.to_bytes_with_nul().as_ptr().cast()) };
    }
    print(c"\n\n");
    print(message);
    print(c"\n\n");
    terminate(why)
}
