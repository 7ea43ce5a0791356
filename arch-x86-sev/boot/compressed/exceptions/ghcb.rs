// SPDX-License-Identifier: GPL-2.0

//! The decompressor's GHCB: shared with the hypervisor by the first #VC of stage 2, and private
//! memory again before the decompressed kernel runs.
//!
//! One CPU, interrupts off: the GHCB is in use from a request to its reply only, in a #VC handler
//! or in `sev_es_ghcb_terminate()`.

use core::{
    mem::size_of,
    ptr::{
        addr_of_mut,
        null_mut,
        NonNull, //
    }, //
};

use super::{
    c,
    ghcb_msr::{
        sev_es_terminate,
        terminate,
        GhcbMsr, //
    },
    proto::{
        msr_protocol::{
            self,
            Termination, //
        },
        ExitCode,
        Ghcb,
        GhcbPage,
        Request, //
    },
    report::{
        fatal,
        Status, //
    },
    vmgexit::vmgexit, //
};

/// The page. Nothing else is in it, for it is the hypervisor's as well.
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

const PAGE_SIZE: usize = 4096;
const _: () = assert!(size_of::<GhcbPage>() == PAGE_SIZE);

/// Known to sev.c.
#[no_mangle]
static mut boot_ghcb_page: Page = Page([0; PAGE_SIZE]);

/// The GHCB while it can be used. Known to sev.c. In `.data`, as in the C implementation: whatever
/// reads it before `.bss` is cleared finds none.
#[no_mangle]
#[link_section = ".data"]
static mut boot_ghcb: *mut GhcbPage = null_mut();

/// The GHCB has been taken back: no #VC is to be handled any more.
static mut CLOSED: bool = false;

fn page() -> *mut GhcbPage {
    addr_of_mut!(boot_ghcb_page).cast()
}

/// The GHCB, set up if this is the first use. Ends the guest if that fails, or if the GHCB has been
/// taken back.
pub(crate) fn get() -> Ghcb {
    // SAFETY: There is one CPU. If the pointer is set, the page is mapped, shared, and not in use:
    // #VC handlers do not raise #VC while they use it.
    unsafe {
        if boot_ghcb.is_null() && !early_setup_ghcb() {
            terminate(Termination::General);
        }
        match NonNull::new(boot_ghcb) {
            Some(page) => Ghcb::new(page),
            None => terminate(Termination::General),
        }
    }
}

/// Shares the GHCB with the hypervisor. False if that is not possible.
///
/// # Safety
///
/// The decompressor's own page table must be in use.
#[no_mangle]
unsafe extern "C" fn early_setup_ghcb() -> bool {
    let page = page();

    // SAFETY: Nobody else accesses the page, and it holds no secret. It is cleared after it was
    // shared: before, the memory would be encrypted.
    unsafe {
        if CLOSED || c::set_page_decrypted(page as usize) != 0 {
            return false;
        }
        page.write_bytes(0, 1);
        boot_ghcb = page;

        // SEV-SNP wants to know the address first.
        if Status::get().snp() && msr_protocol::register_ghcb(&mut GhcbMsr, page as u64).is_err() {
            terminate(Termination::Register);
        }
    }
    true
}

/// Makes the GHCB private memory again, and unmaps it: what uses it from now on is a bug, or a #VC
/// that the hypervisor made up.
///
/// This is also where a CPU without RDRAND ends the boot: then the only sources of randomness would
/// be the hypervisor's.
///
/// # Safety
///
/// The GHCB must not be in use. #VC must not be needed any more.
#[no_mangle]
pub(crate) unsafe extern "C" fn sev_es_shutdown_ghcb() {
    // SAFETY: By the contract of the function; there is one CPU.
    unsafe {
        if boot_ghcb.is_null() {
            CLOSED = true;
            return;
        }

        // CPUID may be needed for this, so the GHCB is still in place.
        if !c::has_cpuflag(c::FEATURE_RDRAND) {
            fatal(c"RDRAND instruction not supported - no trusted source of randomness available");
        }

        // Before the page is private memory, so that no request is put into it after that. From
        // here on nothing can be printed.
        boot_ghcb = null_mut();
        CLOSED = true;

        // The caches are flushed as well: the kernel will use the memory with the other encryption
        // attribute.
        if c::set_page_encrypted(page() as usize) != 0
            || c::set_page_non_present(page() as usize) != 0
        {
            terminate(Termination::General);
        }
    }
}

/// True if a fault at `address` was on the GHCB.
///
/// # Safety
///
/// None; the function is called from C.
#[no_mangle]
unsafe extern "C" fn sev_es_check_ghcb_fault(address: usize) -> bool {
    address & !(PAGE_SIZE - 1) == page() as usize
}

/// Ends the guest for a reason that has data with it, through the GHCB.
///
/// # Safety
///
/// `ghcb` must be the decompressor's GHCB, set up and not in use.
#[no_mangle]
unsafe extern "C" fn sev_es_ghcb_terminate(
    ghcb: *mut GhcbPage,
    set: u32,
    reason: u32,
    data: u64,
) -> ! {
    if let Some(page) = NonNull::new(ghcb) {
        // SW_EXITINFO1: the set of reasons in bits 3:0, the reason in bits 11:4.
        let info = u64::from(set & 0xf) | (u64::from(reason & 0xff) << 4);

        // SAFETY: By the contract of the function. The address is a physical one too, for the
        // decompressor is identity-mapped.
        unsafe {
            let version = c::ghcb_version;
            let _ = Request::new(Ghcb::new(page)).commit(
                version,
                ExitCode::TerminationRequest as u64,
                info,
                data,
            );

            vmgexit(ghcb as u64);
        }
    }
    // SAFETY: The MSR protocol needs no GHCB. The hypervisor that returned is told once more.
    unsafe { sev_es_terminate(set, reason) }
}

/// Agrees with the hypervisor on a version of the protocol. False if there is none.
///
/// # Safety
///
/// Called by `sev_enable()` only, in stage 1 or by the EFI stub: the firmware's GHCB is not in use.
#[no_mangle]
unsafe extern "C" fn sev_es_negotiate_protocol() -> bool {
    match msr_protocol::negotiate(&mut GhcbMsr) {
        Some(version) => {
            // SAFETY: There is one CPU.
            unsafe { c::ghcb_version = version };
            true
        }
        None => false,
    }
}
