// SPDX-License-Identifier: GPL-2.0

//! Changing single pages of the identity map, for the GHCB.

use core::ffi::c_int;

use super::{
    c,
    cpu,
    grow::grow,
    paging::{
        pool::TABLE_SIZE,
        Attribute,
        Error, //
    },
    state, //
};

/// Shares a page with the hypervisor: maps it without C-bit. Its contents are lost.
///
/// # Errors
///
/// `-ENOMEM` if there is no memory for a page table, `-EINVAL` if `address` cannot be mapped.
///
/// # Safety
///
/// Called after `initialize_identity_maps()`. Nothing secret may be written to the page from here
/// on.
#[no_mangle]
unsafe extern "C" fn set_page_decrypted(address: u64) -> c_int {
    // SAFETY: By the contract of the function.
    status(unsafe { change(address, Attribute::Decrypted) })
}

/// Takes a page back from the hypervisor: maps it with C-bit. Its contents are lost.
///
/// # Errors
///
/// As [`set_page_decrypted`].
///
/// # Safety
///
/// Called after `initialize_identity_maps()`, for a page that nobody uses to talk to the
/// hypervisor.
#[no_mangle]
unsafe extern "C" fn set_page_encrypted(address: u64) -> c_int {
    // SAFETY: By the contract of the function.
    status(unsafe { change(address, Attribute::Encrypted) })
}

/// Makes any further access to a page fault, and the fault end the boot.
///
/// # Errors
///
/// As [`set_page_decrypted`].
///
/// # Safety
///
/// Called after `initialize_identity_maps()`, for a page that is not used any more.
#[no_mangle]
unsafe extern "C" fn set_page_non_present(address: u64) -> c_int {
    // SAFETY: By the contract of the function.
    status(unsafe { change(address, Attribute::NonPresent) })
}

/// What C gets for a result.
fn status(result: Result<(), Error>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(Error::OutOfTables) => -c::ENOMEM,
        Err(_) => -c::EINVAL,
    }
}

/// # Safety
///
/// As the functions that call this.
unsafe fn change(address: u64, attribute: Attribute) -> Result<(), Error> {
    // SAFETY: Read-only since `sev_enable()`.
    let encrypted = unsafe { c::sme_me_mask } != 0;
    let start = address & !(TABLE_SIZE - 1);
    let (page, top) = grow(|map, ram| Ok((map.page(ram, start)?, map.root())))?;

    // SAFETY: The map has all that was mapped before, in smaller pages at most. The contents of the
    // page are given up. The C functions do nothing outside of SEV-SNP guests; there, the state of
    // the page is not to be private while it is mapped decrypted.
    unsafe {
        cpu::load_top_table(top);
        if encrypted && attribute != Attribute::NonPresent {
            cpu::flush_page(start);
        }
        if encrypted && attribute == Attribute::Decrypted {
            c::snp_set_page_shared(start);
        }
        state::with(|map, ram| map.change(ram, page, attribute));
        if encrypted && attribute == Attribute::Encrypted {
            c::snp_set_page_private(start);
        }
        cpu::load_top_table(top);
    }
    Ok(())
}
