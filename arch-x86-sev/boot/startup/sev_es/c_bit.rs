// SPDX-License-Identifier: GPL-2.0

//! Whether the page tables in use contradict the hypervisor about the position of the C-bit.
//!
//! A hypervisor that reports a wrong position makes the guest build page tables with which it does
//! not survive, or shares its memory: `sev_verify_cbit()` finds the latter, nobody the former. But
//! the page tables that the guest was started with are the loader's, and right.
//!
//! For code that runs before the kernel is relocated: the decompressor and the startup code include
//! this. Pure.

/// Bits of CR3 and of entries that are an address, or the C-bit.
const ADDRESS: u64 = (1 << 52) - (1 << 12);
/// Bits of entries (APM vol. 2, 5.4): present; maps a page itself, at two of the levels.
const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;

/// Index of the lowest level of page tables and of that of 1 GiB pages: where it is in an address.
const PTE: u32 = 12;
const PUD: u32 = 30;

/// True if `mask` cannot be the C-bit: if the tables at `cr3` have no C-bit there in the page at
/// `address`, which holds data of this guest, or lead to where no memory is.
///
/// Tables that cannot be read, for which `read` returns `None`, contradict nothing.
#[inline(always)]
pub(crate) fn contradicts(
    cr3: u64,
    five_levels: bool,
    mask: u64,
    address: u64,
    read: impl Fn(u64) -> Option<u64>,
) -> bool {
    // Page tables are not above the C-bit, nor above what four levels can map to itself: then some
    // bit of their addresses is the C-bit, which processors have at 47 or 51.
    let end = mask.min(1 << 47);
    let mut shift: u32 = if five_levels { 48 } else { 39 };
    let mut table = cr3 & ADDRESS & !mask;

    loop {
        if table >= end {
            return true;
        }

        let index = address.wrapping_shr(shift) & 0x1ff;
        let entry = match read(table | (index << 3)) {
            Some(entry) if entry & PRESENT != 0 => entry,
            _ => return false,
        };

        // Entries that refer to tables may do without: walks are private anyway (APM vol. 2,
        // 15.34.5).
        if shift == PTE || (shift <= PUD && entry & LARGE != 0) {
            return entry & mask == 0;
        }
        table = entry & ADDRESS & !mask;
        shift = shift.wrapping_sub(9);
    }
}
