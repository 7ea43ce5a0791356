// SPDX-License-Identifier: GPL-2.0

//! Messages of the decompressor, and ends of a boot that cannot go on. Shared by the objects here.

use core::{
    arch::asm,
    ffi::{
        c_char,
        CStr, //
    }, //
};

extern "C" {
    // mem_encrypt.S: the SEV_STATUS MSR, 0 in other machines.
    static mut sev_status: u64;

    // misc.c. Printing on a serial port raises #VC; there is no output before the console is set
    // up.
    fn __putstr(text: *const c_char);
    fn __puthex(value: u64);

    // startup/sev_es/ghcb_msr.rs
    fn sev_es_terminate(set: u32, reason: u32) -> !;
}

/// Bit of `sev_status` (APM vol. 2, 15.34.10): the registers of this guest are encrypted.
const STATUS_ES: u64 = 1 << 1;
/// Bit of `sev_status`: SEV-SNP.
const STATUS_SNP: u64 = 1 << 2;
/// Bit of `sev_status`: the TSC is not the hypervisor's.
const STATUS_SECURE_TSC: u64 = 1 << 11;

/// What kind of guest this is. Known from `sev_enable()` on; nothing before.
#[derive(Clone, Copy)]
pub(crate) struct Status(u64);

#[allow(dead_code)]
impl Status {
    /// What `sev_enable()` found out.
    pub(crate) fn get() -> Status {
        // SAFETY: There is one CPU, and a value of one word.
        Status(unsafe { sev_status })
    }

    /// An SEV-ES guest.
    pub(crate) fn es(self) -> bool {
        self.0 & STATUS_ES != 0
    }

    /// An SEV-SNP guest, which is one of SEV-ES as well.
    pub(crate) fn snp(self) -> bool {
        self.0 & STATUS_SNP != 0
    }

    /// A guest with a TSC of its own.
    pub(crate) fn secure_tsc(self) -> bool {
        self.0 & STATUS_SECURE_TSC != 0
    }
}

/// Prints a text if there is a console. The GHCB must not be in use.
pub(crate) fn print(text: &CStr) {
    // SAFETY: The text ends with a NUL. If printing raises #VC, its handler is in the IDT.
    unsafe { __putstr(text.to_bytes_with_nul().as_ptr().cast()) };
}

/// Prints a number in hexadecimal, without a prefix. The GHCB must not be in use.
pub(crate) fn print_hex(value: u64) {
    // SAFETY: As in `print`.
    unsafe { __puthex(value) };
}

/// Ends the boot with a message, as `error()` does, but for SEV-ES guests: see [`stop`]. The GHCB
/// must not be in use.
pub(crate) fn fatal(message: &CStr) -> ! {
    print(c"\n\n");
    print(message);
    print(c"\n\n -- System halted");
    stop()
}

/// Ends the boot. An SEV-ES guest asks the hypervisor to end it, for the general reason, so that
/// whoever started it learns about it; other machines stop.
pub(crate) fn stop() -> ! {
    if Status::get().es() {
        // SAFETY: The MSR protocol needs no GHCB, and nothing comes after this.
        unsafe { sev_es_terminate(0, 0) };
    }
    loop {
        // SAFETY: Nothing is to happen any more.
        unsafe { asm!("hlt", options(nomem, nostack, preserves_flags)) };
    }
}
