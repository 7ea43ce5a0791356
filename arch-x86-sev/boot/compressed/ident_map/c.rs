// SPDX-License-Identifier: GPL-2.0

//! What the decompressor's C code, assembly and linker script provide. Kept in step with misc.h and
//! error.h by hand: the generated bindings are those of the kernel proper.

use core::ffi::{
    c_char,
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
    // mem_encrypt.S: the SEV_STATUS MSR, 0 in other machines.
    pub(crate) static mut sev_status: u64;

    // misc.c
    pub(crate) static mut boot_params_ptr: *const c_void;
    pub(crate) fn __putstr(text: *const c_char);
    pub(crate) fn __puthex(value: u64);

    // cmdline.c
    pub(crate) fn get_cmd_line_ptr() -> u64;

    // sev.c
    pub(crate) fn sev_prep_identity_maps(top_level_pgt: u64);
    pub(crate) fn snp_check_features();
    pub(crate) fn snp_set_page_private(address: u64);
    pub(crate) fn snp_set_page_shared(address: u64);

    // exceptions/ghcb.rs, startup/sev_es/ghcb_msr.rs
    pub(crate) fn sev_es_check_ghcb_fault(address: u64) -> bool;
    pub(crate) fn sev_es_terminate(set: u32, reason: u32) -> !;
}

/// Bit of `sev_status` (APM vol. 2, 15.34.10): the registers of this guest are encrypted.
pub(crate) const SEV_STATUS_ES: u64 = 1 << 1;
