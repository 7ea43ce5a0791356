// SPDX-License-Identifier: GPL-2.0
//! Bits of an entry of a page table (APM vol. 2, 5.4), the guest's and the nested ones alike.

pub(crate) const PRESENT: u64 = 1 << 0;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;
pub(crate) const LARGE: u64 = 1 << 7;
pub(crate) const NX: u64 = 1 << 63;
/// The next table, or the page; the C-bit is within.
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// What an entry of a page directory maps.
pub(crate) const LARGE_SIZE: u64 = 2 << 20;
