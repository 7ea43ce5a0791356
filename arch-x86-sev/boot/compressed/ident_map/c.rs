// SPDX-License-Identifier: GPL-2.0

//! What the decompressor's C code, assembly and linker script provide. Kept in step with misc.h and
//! error.h by hand: the generated bindings are those of the kernel proper.

use core::ffi::{
    c_int,
    c_void, //
};

/// `COMMAND_LINE_SIZE` of asm/setup.h.
pub(crate) const COMMAND_LINE_SIZE: u64 = 2048;

/// `BOOT_INIT_PGT_SIZE` of asm/boot.h: the six tables that `startup_32` makes.
pub(crate) const BOOT_INIT_PGT_SIZE: u64 = 6 * 4096;

/// `-ENOMEM`, `-EINVAL`.
pub(crate) const ENOMEM: c_int = 12;
pub(crate) const EINVAL: c_int = 22;

extern "C" {
    // vmlinux.lds.S: only their addresses mean something.
    pub(crate) static _head: c_void;
    pub(crate) static _end: c_void;
    pub(crate) static _pgtable: c_void;
    pub(crate) static _epgtable: c_void;

    // mem_encrypt.S, set by sev_enable(): the C-bit's mask, 0 if memory is not encrypted.
    pub(crate) static mut sme_me_mask: u64;

    // misc.c
    pub(crate) static mut boot_params_ptr: *const c_void;

    // cmdline.c
    pub(crate) fn get_cmd_line_ptr() -> u64;

    // sev.c
    pub(crate) fn sev_prep_identity_maps(top_level_pgt: u64);
    pub(crate) fn snp_check_features();
    pub(crate) fn snp_set_page_private(address: u64);
    pub(crate) fn snp_set_page_shared(address: u64);

    // exceptions/ghcb.rs
    pub(crate) fn sev_es_check_ghcb_fault(address: u64) -> bool;
}
