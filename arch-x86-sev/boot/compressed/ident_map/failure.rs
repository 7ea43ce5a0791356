// SPDX-License-Identifier: GPL-2.0

//! Reports of what the identity map cannot do.

use core::{
    cell::Cell,
    ffi::CStr, //
};

use super::{
    paging::Error,
    report::{
        fatal,
        print,
        print_hex,
        stop, //
    }, //
};

/// Whether a report has begun.
struct Begun(Cell<bool>);

// SAFETY: There is one CPU, and a bool cannot be half written.
unsafe impl Sync for Begun {}

static BEGUN: Begun = Begun(Cell::new(false));

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
            stop();
        }
        print(what);
        Report(())
    }

    /// Adds a value. `name` ends in what is to be before the hexadecimal digits.
    pub(crate) fn value(self, name: &CStr, value: u64) -> Report {
        print(name);
        print_hex(value);
        self
    }

    /// Ends the boot.
    pub(crate) fn stop(self) -> ! {
        fatal(c"Stopping.")
    }
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
