// SPDX-License-Identifier: GPL-2.0

//! Memory with page tables in it, which tells when something else is touched.

use crate::paging::{
    entry::Entry,
    Memory, //
};

/// Size of a table.
pub(super) const PAGE: u64 = 4096;

/// What memory holds that nobody has written: as an entry, present and of any kind.
const GARBAGE: u64 = 0xdead_beef_5a5a_a5a7;

/// A range of memory, and what was done to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ram {
    start: u64,
    words: Vec<u64>,
}

impl Ram {
    /// Memory of this many pages, full of garbage.
    pub(super) fn new(start: u64, pages: u64) -> Ram {
        assert_eq!(start % PAGE, 0);
        Ram {
            start,
            words: vec![GARBAGE; (pages * PAGE / 8) as usize],
        }
    }

    fn index(&self, address: u64) -> usize {
        assert_eq!(address % 8, 0, "{address:#x} is no entry's address");

        let index = address.wrapping_sub(self.start) / 8;

        assert!(
            (index as usize) < self.words.len(),
            "{address:#x} is outside of the memory for page tables"
        );
        index as usize
    }

    /// What the processor sees.
    pub(super) fn load(&self, address: u64) -> u64 {
        self.words[self.index(address)]
    }

    /// Writes behind the back of the code under test.
    pub(super) fn store(&mut self, address: u64, value: u64) {
        let index = self.index(address);

        self.words[index] = value;
    }

    /// Whether the page at this address is as it was at the beginning.
    pub(super) fn is_untouched(&self, page: u64) -> bool {
        (0..512).all(|index| self.load(page + index * 8) == GARBAGE)
    }
}

impl Memory for Ram {
    fn read(&self, slot: u64) -> Entry {
        Entry::new(self.load(slot))
    }

    fn write(&mut self, slot: u64, entry: Entry) {
        self.store(slot, entry.bits());
    }

    fn clear(&mut self, table: u64) {
        assert_eq!(table % PAGE, 0);
        for index in 0..512 {
            self.store(table + index * 8, 0);
        }
    }
}
