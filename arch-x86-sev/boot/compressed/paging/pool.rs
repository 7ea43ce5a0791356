// SPDX-License-Identifier: GPL-2.0

//! The memory that page tables come from.

/// Size of a page table.
pub(crate) const TABLE_SIZE: u64 = 4096;

/// A range of memory that is given away a table at a time, and never comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    next: u64,
    end: u64,
}

impl Pool {
    /// The tables from `start` to `end`, both at page boundaries.
    #[inline(always)]
    pub(crate) const fn new(start: u64, end: u64) -> Pool {
        Pool { next: start, end }
    }

    /// How many tables are left.
    #[inline(always)]
    pub(crate) const fn left(&self) -> u64 {
        self.end.saturating_sub(self.next) / TABLE_SIZE
    }

    /// Takes a table. It holds whatever was there before.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Option<u64> {
        if self.left() == 0 {
            return None;
        }

        let table = self.next;

        self.next = table.wrapping_add(TABLE_SIZE);
        Some(table)
    }
}
