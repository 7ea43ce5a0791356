// SPDX-License-Identifier: GPL-2.0

//! Entries of page tables, and the levels at which they are.

/// An entry of a page table at any level (APM vol. 2, 5.4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(u64);

impl Entry {
    /// P: the entry refers to something.
    pub(crate) const PRESENT: u64 = 1 << 0;
    /// R/W: writes are allowed.
    pub(crate) const WRITABLE: u64 = 1 << 1;
    /// A: the processor has used the entry. Set at once, so that it need not write it.
    pub(crate) const ACCESSED: u64 = 1 << 5;
    /// D: the processor has written to the page. Set at once, likewise.
    pub(crate) const DIRTY: u64 = 1 << 6;
    /// PS: the entry maps a page of its level's size; elsewhere it refers to a table.
    pub(crate) const LARGE: u64 = 1 << 7;
    /// PAT of a 4 KiB page, at the place where others have PS.
    pub(crate) const PAT: u64 = 1 << 7;
    /// G: the translation stays in the TLB when CR3 is loaded, with CR4.PGE.
    const GLOBAL: u64 = 1 << 8;
    /// PAT of a large page.
    pub(crate) const PAT_LARGE: u64 = 1 << 12;
    /// Where the architecture has the physical address.
    const ADDRESS: u64 = (1 << 52) - (1 << 12);

    const MAPPED: u64 = Self::PRESENT | Self::WRITABLE | Self::ACCESSED | Self::DIRTY;

    /// The entry with these bits.
    #[inline(always)]
    pub(crate) const fn new(bits: u64) -> Entry {
        Entry(bits)
    }

    /// The entry that refers to a table; `encryption` is the C-bit's mask, or zero.
    #[inline(always)]
    pub(crate) const fn table(table: u64, encryption: u64) -> Entry {
        Entry(table | Self::MAPPED | encryption)
    }

    /// The entry that maps 2 MiB, writable and executable. It is not global: loading CR3 has to
    /// drop the old translation when an attribute is changed, whatever CR4.PGE says.
    #[inline(always)]
    pub(crate) const fn large_page(page: u64, encryption: u64) -> Entry {
        Entry(page | Self::MAPPED | Self::LARGE | encryption)
    }

    /// The entry's bits.
    #[inline(always)]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the processor follows the entry.
    #[inline(always)]
    pub(crate) const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether the entry maps a page itself. Does not tell anything at the lowest level.
    #[inline(always)]
    pub(crate) const fn is_large(self) -> bool {
        self.0 & Self::LARGE != 0
    }

    /// The physical address of what the entry refers to, if that is a table or a 4 KiB page.
    #[inline(always)]
    pub(crate) const fn address(self, encryption: u64) -> u64 {
        self.0 & Self::ADDRESS & !encryption
    }

    /// The attributes of the 4 KiB pages that a 2 MiB page is split into: the same, with PAT where
    /// small pages have it, and not global. `startup_32` makes global pages.
    #[inline(always)]
    pub(crate) const fn small_attributes(self, encryption: u64) -> u64 {
        let same = self.0 & !(Self::ADDRESS & !encryption) & !(Self::LARGE | Self::GLOBAL);

        if self.0 & Self::PAT_LARGE & !encryption != 0 {
            same | Self::PAT
        } else {
            same
        }
    }
}

/// A level of page tables, by the position of its index in an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(u32);

impl Level {
    /// Entries map 4 KiB pages.
    pub(crate) const PTE: Level = Level(12);
    /// Entries map 2 MiB pages.
    pub(crate) const PMD: Level = Level(21);
    /// Entries map 1 GiB pages.
    pub(crate) const PUD: Level = Level(30);
    /// The top level if four are in use.
    pub(crate) const FOURTH: Level = Level(39);
    /// The top level if five are in use.
    pub(crate) const FIFTH: Level = Level(48);

    /// What one entry covers.
    #[inline(always)]
    pub(crate) const fn size(self) -> u64 {
        1u64.wrapping_shl(self.0)
    }

    /// What one table covers.
    #[inline(always)]
    pub(crate) const fn table_size(self) -> u64 {
        self.size().wrapping_shl(9)
    }

    /// The level that this level's entries refer to. Not for the lowest.
    #[inline(always)]
    pub(crate) const fn below(self) -> Level {
        Level(self.0.wrapping_sub(9))
    }

    /// How many levels this one is above another.
    #[inline(always)]
    pub(crate) const fn above(self, other: Level) -> u64 {
        (self.0.saturating_sub(other.0) / 9) as u64
    }

    /// The address of the entry for `address` in this level's table.
    #[inline(always)]
    pub(crate) const fn slot(self, table: u64, address: u64) -> u64 {
        table.wrapping_add((address.wrapping_shr(self.0) & 511).wrapping_mul(8))
    }

    /// `address` without what is inside of one entry.
    #[inline(always)]
    pub(crate) const fn align_down(self, address: u64) -> u64 {
        address & !self.size().wrapping_sub(1)
    }

    /// Where the entry after the one for `address` starts. Zero after the last.
    #[inline(always)]
    pub(crate) const fn next(self, address: u64) -> u64 {
        self.align_down(address).wrapping_add(self.size())
    }
}
