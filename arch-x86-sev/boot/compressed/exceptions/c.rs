// SPDX-License-Identifier: GPL-2.0

//! What the decompressor's C code and assembly provide. Kept in step with misc.h by hand: the
//! generated bindings are those of the kernel proper.

use super::idt::{
    Descriptor,
    Gate,
    BOOT_IDT_ENTRIES, //
};

extern "C" {
    // head_64.S
    pub(crate) static mut boot_idt: [Gate; BOOT_IDT_ENTRIES];
    pub(crate) static mut boot_idt_desc: Descriptor;

    // idt_handlers_64.S: never called, only put into the IDT.
    pub(crate) fn boot_page_fault();
    pub(crate) fn boot_nmi_trap();
    pub(crate) fn boot_stage1_vc();
    pub(crate) fn boot_stage2_vc();

    // mem_encrypt.S: the SEV_STATUS MSR, 0 in other machines.
    pub(crate) static sev_status: u64;

    // misc.c
    pub(crate) static mut spurious_nmi_count: i32;

    // sev-es.c
    pub(crate) fn sev_es_shutdown_ghcb();
}

/// Bit of `sev_status`: the registers of this guest are encrypted (APM vol. 2, 15.34.10).
pub(crate) const SEV_STATUS_ES: u64 = 1 << 1;
