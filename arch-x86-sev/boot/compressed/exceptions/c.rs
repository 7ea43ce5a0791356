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

    // misc.c
    pub(crate) static mut spurious_nmi_count: i32;

    // cpuflags.c: executes CPUID when called first.
    pub(crate) fn has_cpuflag(flag: i32) -> bool;

    // ident_map/: 0, or an error. They flush the caches and the TLB, and tell the hypervisor of
    // a SEV-SNP guest.
    pub(crate) fn set_page_decrypted(address: usize) -> i32;
    pub(crate) fn set_page_encrypted(address: usize) -> i32;
    pub(crate) fn set_page_non_present(address: usize) -> i32;

    // sev.c: the version of the GHCB protocol.
    pub(crate) static mut ghcb_version: u16;
}

/// `X86_FEATURE_RDRAND` of asm/cpufeatures.h.
pub(crate) const FEATURE_RDRAND: i32 = 4 * 32 + 30;
/// `X86_FEATURE_SHSTK`.
pub(crate) const FEATURE_SHSTK: i32 = 16 * 32 + 7;
