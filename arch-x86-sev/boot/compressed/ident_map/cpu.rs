// SPDX-License-Identifier: GPL-2.0

//! The processor's control registers and caches (APM vol. 2, 3.1).
//!
//! None of this is intercepted in a way that an SEV-ES guest would see as #VC. A move to or from a
//! control register leaves the arithmetic flags undefined on Intel's processors.

use core::arch::asm;

use super::paging::pool::TABLE_SIZE;

/// CR4.LA57: page tables have five levels.
const CR4_LA57: u64 = 1 << 12;

/// Bits of CR3 that are the top table's address, or the C-bit.
const CR3_ADDRESS: u64 = (1 << 52) - (1 << 12);

/// Distance of the cache lines to write back. CPUID could tell, but it causes a #VC exception, for
/// which there may be no GHCB yet.
const CACHE_LINE: u64 = 64;

/// CR2: the address of the last page fault.
#[inline(always)]
pub(crate) fn cr2() -> u64 {
    let address: u64;

    // SAFETY: Reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack)) };
    address
}

/// CR3.
#[inline(always)]
pub(crate) fn cr3() -> u64 {
    let cr3: u64;

    // SAFETY: Reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack)) };
    cr3
}

/// The top table's address, less the C-bit `encryption`.
#[inline(always)]
pub(crate) fn top_table(encryption: u64) -> u64 {
    cr3() & CR3_ADDRESS & !encryption
}

/// Whether page tables have five levels.
#[inline(always)]
pub(crate) fn has_five_levels() -> bool {
    let cr4: u64;

    // SAFETY: Reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack)) };
    cr4 & CR4_LA57 != 0
}

/// Uses the page tables at `top` from now on, and forgets what the TLB has of others. CR4.PGE is
/// clear, and the identity map has no global pages.
///
/// # Safety
///
/// The tables must map what is in use to the memory that is in use.
#[inline(always)]
pub(crate) unsafe fn load_top_table(top: u64) {
    // SAFETY: By the contract of the function. The assembly may access all memory, so that the
    // tables are written before.
    unsafe { asm!("mov cr3, {}", in(reg) top, options(nostack)) };
}

/// Writes a page back to memory and drops it from the caches: a line is cached apart with and
/// without C-bit.
///
/// # Safety
///
/// The page must be mapped.
#[inline(always)]
pub(crate) unsafe fn flush_page(address: u64) {
    let start = address & !(TABLE_SIZE - 1);
    let mut line = start;

    // SAFETY: Orders accesses. The assembly may access all memory, so that writes are done before.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
    while line < start.wrapping_add(TABLE_SIZE) {
        // SAFETY: By the contract of the function, the line is mapped. No memory is changed.
        unsafe { asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)) };
        line = line.wrapping_add(CACHE_LINE);
    }
}
