// SPDX-License-Identifier: GPL-2.0

//! Making the identity map, and what has to be in it from the beginning.

use core::{
    ffi::c_void,
    mem::size_of,
    ptr::addr_of, //
};

use super::{
    c,
    c_bit::contradicts,
    cpu,
    failure::{
        self,
        Report, //
    },
    grow::kernel_add_identity_map,
    memory::Ram,
    paging::{
        pool::TABLE_SIZE,
        IdentityMap,
        Paging, //
    },
    probe,
    report::{
        stop,
        Status, //
    },
    state, //
};

/// What C code takes for the bits of a physical address in an entry (`__PHYSICAL_MASK`).
#[no_mangle]
static mut physical_mask: u64 = (1 << 52) - 1;

/// What C code takes for the bits that an entry may have. All, this early.
#[no_mangle]
static mut __default_kernel_pte_mask: u64 = !0;

/// Size of `struct boot_params`: the zero page (Documentation/arch/x86/zero-page.rst).
const BOOT_PARAMS_SIZE: u64 = 4096;

/// Where it has the address of the first `struct setup_data` (Documentation/arch/x86/boot.rst).
const SETUP_DATA: u64 = 0x250;

/// Head of data for the kernel, in a linked list: `struct setup_data`.
#[derive(Clone, Copy)]
#[repr(C)]
struct SetupData {
    next: u64,
    kind: u32,
    len: u32,
}

const SETUP_DATA_SIZE: u64 = 16;
const _: () = assert!(size_of::<SetupData>() as u64 == SETUP_DATA_SIZE);

/// Makes an identity map and uses it.
///
/// If `startup_32` was run, there are page tables in `_pgtable` that map the first 4 GiB; they are
/// extended, the one above them included if there are five levels. Otherwise the page tables are
/// those of a boot loader, and only have to map the decompressor, the boot parameters and the
/// command line: not themselves.
///
/// # Safety
///
/// Called once, by the entry code, after `load_stage2_idt()`, with the address of the boot
/// parameters.
#[no_mangle]
unsafe extern "C" fn initialize_identity_maps(boot_params: *const c_void) {
    // SAFETY: Read-only since `sev_enable()`.
    let encryption = unsafe { c::sme_me_mask };
    let paging = Paging {
        five_levels: cpu::has_five_levels(),
        encryption,
    };

    // With new page tables in use, it would be too late. There is no console yet either: an SEV-ES
    // guest can ask to be ended, another one would hang here, and shuts down with the new tables.
    if Status::get().es()
        && contradicts(
            cpu::cr3(),
            paging.five_levels,
            encryption,
            addr_of!(physical_mask) as u64,
            probe::read,
        )
    {
        stop();
    }

    let start = addr_of!(c::_pgtable) as u64;
    // The last page is the top table for five levels, which `configure_5level_paging()` fills.
    let end = (addr_of!(c::_epgtable) as u64).wrapping_sub(TABLE_SIZE);
    let current = cpu::top_table(encryption);

    // SAFETY: The only CPU, before anybody else uses what is written here.
    let mut ram = unsafe {
        physical_mask &= !encryption;
        c::boot_params_ptr = boot_params;
        Ram::new()
    };
    let area = (start, c::BOOT_INIT_PGT_SIZE, end);
    let map = match IdentityMap::new(&mut ram, paging, current, area) {
        Ok(map) => map,
        Err(error) => Report::new(failure::reason(error)).stop(),
    };
    let top = map.root();

    // SAFETY: Called once, and nobody else sets the map.
    unsafe { state::set(map) };

    // The kernel needs the boot parameters and the command line in the identity map as well, and
    // the decompressor may not touch all of their pages.
    //
    // SAFETY: The map is there. `sev_prep_identity_maps()` compares memory as the old and as the
    // new tables map it, to find a wrong C-bit; the new ones have all that is in use.
    unsafe {
        let parameters = boot_params as u64;
        let command_line = c::get_cmd_line_ptr();

        kernel_add_identity_map(addr_of!(c::_head) as u64, addr_of!(c::_end) as u64);
        kernel_add_identity_map(parameters, parameters.wrapping_add(BOOT_PARAMS_SIZE));
        kernel_add_identity_map(
            command_line,
            command_line.wrapping_add(c::COMMAND_LINE_SIZE),
        );
        c::sev_prep_identity_maps(top);
        cpu::load_top_table(top);
        add_setup_data(parameters);
        // A GHCB can be used from here on.
        c::snp_check_features();
    }
}

/// Maps the data for the kernel that is not in the boot parameters. A boot loader need not have
/// mapped them: this is done under the new page tables, where a page fault maps what is read.
///
/// # Safety
///
/// The boot parameters must be right.
unsafe fn add_setup_data(parameters: u64) {
    // SAFETY: Inside of the boot parameters.
    let mut next = unsafe { (parameters.wrapping_add(SETUP_DATA) as *const u64).read_unaligned() };

    while next != 0 {
        // SAFETY: The list is part of the boot parameters.
        let data = unsafe { (next as *const SetupData).read_unaligned() };
        let end = next
            .wrapping_add(SETUP_DATA_SIZE)
            .wrapping_add(data.len.into());

        // SAFETY: The map is there.
        unsafe { kernel_add_identity_map(next, end) };
        next = data.next;
    }
}
