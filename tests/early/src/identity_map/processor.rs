// SPDX-License-Identifier: GPL-2.0

//! A processor's view of page tables, written from the manual alone (APM vol. 2, 5.3 and 5.4).
//! Nothing of the code under test is used here.

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

use super::memory::Ram;

/// What a processor knows before it walks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processor {
    /// CR3.
    pub(super) root: u64,
    /// CR4.LA57.
    pub(super) five_levels: bool,
    /// The C-bit's mask, or zero.
    pub(super) c_bit: u64,
    /// The lowest physical address bit that is reserved.
    pub(super) reserved_from: u32,
}

/// A page as it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) size: u64,
    pub(super) physical: u64,
    pub(super) private: bool,
    /// Of PAT, PCD and PWT, as a number: which of the eight memory types.
    pub(super) memory_type: u8,
    pub(super) writable: bool,
    pub(super) executable: bool,
    pub(super) user: bool,
}

/// Why a walk does not end at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NotPresent,
    Reserved,
}

fn bit(value: u64, position: u32) -> bool {
    (value >> position) & 1 == 1
}

/// Bits `low` to `high`, both included, in place; none if `low` is just above `high`.
fn field(value: u64, high: u32, low: u32) -> u64 {
    let width = high + 1 - low;

    ((value >> low) & ((1 << width) - 1)) << low
}

impl Processor {
    /// The page that `address` is in.
    pub(super) fn translate(&self, ram: &Ram, address: u64) -> Result<Page, Fault> {
        let mut page = self.step(
            ram,
            self.root,
            if self.five_levels { 5 } else { 4 },
            address,
        )?;

        // Only what all levels allow is allowed; the step tells about the last one alone.
        page.physical += address % page.size;
        Ok(page)
    }

    fn step(&self, ram: &Ram, table: u64, level: u32, address: u64) -> Result<Page, Fault> {
        let low = 12 + 9 * (level - 1);
        let entry = ram.load(table + (field(address, low + 8, low) >> low) * 8);

        if !bit(entry, 0) {
            return Err(Fault::NotPresent);
        }

        let c_bit = entry & self.c_bit != 0;
        let entry_without_c = entry & !self.c_bit;

        if field(entry_without_c, 51, self.reserved_from) != 0 {
            return Err(Fault::Reserved);
        }
        if level > 1 && !bit(entry, 7) {
            let mut page = self.step(ram, field(entry_without_c, 51, 12), level - 1, address)?;

            page.writable &= bit(entry, 1);
            page.user &= bit(entry, 2);
            page.executable &= !bit(entry, 63);
            return Ok(page);
        }
        if level > 3 {
            return Err(Fault::Reserved);
        }
        if level > 1 && field(entry_without_c, low - 1, 13) != 0 {
            return Err(Fault::Reserved);
        }

        let pat = if level == 1 {
            bit(entry, 7)
        } else {
            bit(entry_without_c, 12)
        };

        Ok(Page {
            size: 1 << low,
            physical: field(entry_without_c, 51, low),
            private: c_bit,
            memory_type: (u8::from(pat) << 2)
                | (u8::from(bit(entry, 4)) << 1)
                | u8::from(bit(entry, 3)),
            writable: bit(entry, 1),
            executable: !bit(entry, 63),
            user: bit(entry, 2),
        })
    }

    /// All pages that are mapped, by virtual address, and all tables.
    pub(super) fn everything(&self, ram: &Ram) -> (BTreeMap<u64, Page>, BTreeSet<u64>) {
        let mut pages = BTreeMap::new();
        let mut tables = BTreeSet::new();

        self.collect(
            ram,
            self.root,
            if self.five_levels { 5 } else { 4 },
            0,
            &mut pages,
            &mut tables,
        );
        (pages, tables)
    }

    fn collect(
        &self,
        ram: &Ram,
        table: u64,
        level: u32,
        base: u64,
        pages: &mut BTreeMap<u64, Page>,
        tables: &mut BTreeSet<u64>,
    ) {
        assert!(
            tables.insert(table),
            "the table at {table:#x} is used twice"
        );

        let size = 1u64 << (12 + 9 * (level - 1));

        for index in 0..512 {
            let address = base + index * size;
            let entry = ram.load(table + index * 8);

            if !bit(entry, 0) {
                continue;
            }
            if level == 1 || bit(entry, 7) {
                let page = self
                    .translate(ram, address)
                    .unwrap_or_else(|fault| panic!("{fault:?} at {address:#x}: {entry:#x}"));

                assert_eq!(page.size, size);
                pages.insert(address, page);
            } else {
                let below = field(entry & !self.c_bit, 51, 12);

                assert_eq!(entry & self.c_bit, self.c_bit, "table with a wrong C-bit");
                self.collect(ram, below, level - 1, address, pages, tables);
            }
        }
    }
}
