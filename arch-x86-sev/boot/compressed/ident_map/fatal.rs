// SPDX-License-Identifier: GPL-2.0

//! The end of a boot that cannot go on.

use core::{
    cell::Cell,
    ffi::CStr, //
};

use super::{
    c,
    cpu,
    paging::Error, //
};

/// Whether a report has begun.
struct Begun(Cell<bool>);

// SAFETY: There is one CPU, and a bool cannot be half written.
unsafe impl Sync for Begun {}

static BEGUN: Begun = Begun(Cell::new(false));

/// Prints a text if there is a console.
pub(crate) fn print(text: &CStr) {
    // SAFETY: The text ends with a NUL. If printing raises #VC, its handler is in the IDT.
    unsafe { c::__putstr(text.to_bytes_with_nul().as_ptr().cast()) };
}

/// A message that ends the boot: what is wrong, then values by name.
///
/// The console may be what does not work: it may need a page that faults, or a GHCB that is gone.
/// An exception in the midst of a report ends the boot without one.
pub(crate) struct Report(());

impl Report {
    /// Begins a report with what is wrong.
    #[cold]
    pub(crate) fn new(what: &CStr) -> Report {
        if BEGUN.0.replace(true) {
            terminate();
        }
        print(what);
        Report(())
    }

    /// Adds a value. `name` ends in what is to be before the hexadecimal digits.
    pub(crate) fn value(self, name: &CStr, value: u64) -> Report {
        print(name);
        // SAFETY: Prints a number. If that raises #VC, its handler is in the IDT.
        unsafe { c::__puthex(value) };
        self
    }

    /// Ends the boot.
    pub(crate) fn stop(self) -> ! {
        print(c"\n\n\nStopping.\n\n\n -- System halted");
        terminate()
    }
}

/// Ends an SEV-ES guest, so that whoever started it learns about it. Other machines stop.
fn terminate() -> ! {
    // SAFETY: Read-only since `sev_enable()`. Nobody uses the GHCB: neither this code nor the
    // console, which has returned or will not. The reason is the general one.
    unsafe {
        if c::sev_status & c::SEV_STATUS_ES != 0 {
            c::sev_es_terminate(0, 0);
        }
    }
    cpu::stop()
}

/// What to say about an error.
#[inline(always)]
pub(crate) fn reason(error: Error) -> &'static CStr {
    match error {
        Error::OutOfTables => c"No memory left for page tables, raise BOOT_PGT_SIZE:",
        Error::OutOfRange => c"Address cannot be identity-mapped:",
        Error::NothingToMap => c"Page-fault on an unmapped page:",
        Error::Huge => c"Page of 1 GiB cannot be split:",
    }
}
