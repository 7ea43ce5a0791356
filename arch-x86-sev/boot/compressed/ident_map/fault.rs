// SPDX-License-Identifier: GPL-2.0

//! Page faults (APM vol. 2, 8.2.15).

use core::{
    cell::Cell,
    ffi::CStr,
    ptr::addr_of, //
};

use super::{
    c,
    cpu,
    failure::{
        self,
        Report, //
    },
    grow::grow,
    paging::Error,
    probe, //
};

/// Bits of an error code that an access to unmapped memory may have: it writes, it fetches an
/// instruction. Others mean a page that is present, reserved bits, or an access by user mode.
const EXPECTED: u64 = (1 << 1) | (1 << 4);

/// Faults at pages that are mapped are put up with so many times in a boot. Processors have none,
/// but a hypervisor's shadow of page tables may lag behind.
const SPURIOUS_MAX: u32 = 64;

/// How many there were.
struct Spurious(Cell<u32>);

// SAFETY: There is one CPU, and the page-fault handler does not fault.
unsafe impl Sync for Spurious {}

static SPURIOUS: Spurious = Spurious(Cell::new(0));

/// The registers as the entry stub has saved them: `struct pt_regs`, up to what is used.
#[repr(C)]
pub(crate) struct Registers {
    general: [u64; 15],
    error_code: u64,
    ip: u64,
}

/// Maps the 2 MiB around an address that was accessed. Ends the boot if there is more to the fault
/// than that.
///
/// # Safety
///
/// Called by the entry stub only, after `load_stage2_idt()`.
#[no_mangle]
unsafe extern "C" fn do_boot_page_fault(registers: *mut Registers, error_code: u64) {
    let address = cpu::cr2();

    if let Some(ip) = probe::resume() {
        // SAFETY: The entry stub passes the registers, and restores them when this returns.
        unsafe { (*registers).ip = ip };
        return;
    }

    if let Err(what) = handle(address, error_code) {
        // SAFETY: The entry stub passes the registers.
        let ip = unsafe { (*registers).ip };

        Report::new(what)
            .value(c"\nError Code: ", error_code)
            .value(c"\nCR2: 0x", address)
            .value(
                c"\nRIP relative to _head: 0x",
                ip.wrapping_sub(addr_of!(c::_head) as u64),
            )
            .stop();
    }
}

#[inline(always)]
fn handle(address: u64, error_code: u64) -> Result<(), &'static CStr> {
    if error_code & !EXPECTED != 0 {
        return Err(c"Unexpected page-fault:");
    }

    // SAFETY: Compares addresses.
    if unsafe { c::sev_es_check_ghcb_fault(address) } {
        return Err(c"Page-fault on GHCB page:");
    }

    // SAFETY: Read-only since `sev_enable()`.
    let encryption = unsafe { c::sme_me_mask };

    let added = grow(|map, ram| {
        if cpu::top_table(encryption) == map.root() {
            map.map_missing(ram, address)
        } else {
            // The identity map is not in use yet: the fault would come again.
            Err(Error::NothingToMap)
        }
    })
    .map_err(failure::reason)?;

    if !added {
        let count = SPURIOUS.0.get();

        if count == SPURIOUS_MAX {
            return Err(c"Page-fault on a mapped page:");
        }
        SPURIOUS.0.set(count.wrapping_add(1));
    }
    Ok(())
}
