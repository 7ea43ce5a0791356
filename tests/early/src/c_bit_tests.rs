// SPDX-License-Identifier: GPL-2.0

//! Tests of the check of the C-bit's position: tables of four and five levels, with the right
//! position, wrong ones, and tables that cannot be read.

use std::collections::HashMap;

use crate::c_bit::contradicts;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;

/// Where things are: the tables from the first address on.
const TABLES: u64 = 0x20_0000;
const ADDRESS: u64 = 0x1234_5678;

/// Tables that map the address to itself.
struct Tables {
    entries: HashMap<u64, u64>,
    cr3: u64,
    five_levels: bool,
}

/// How tables are built.
#[derive(Clone, Copy)]
struct Shape {
    five_levels: bool,
    /// Position of the index in an address at the level that maps the page.
    leaf: u32,
    /// The C-bit, where: in the leaf, in what refers to tables, in CR3.
    c_bit: u64,
    in_tables: bool,
    in_cr3: bool,
}

impl Shape {
    fn build(self) -> Tables {
        let mut entries = HashMap::new();
        let mut table = TABLES;
        let mut shift = if self.five_levels { 48 } else { 39 };
        let inner = if self.in_tables { self.c_bit } else { 0 };

        while shift > self.leaf {
            entries.insert(slot(table, shift), (table + 0x1000) | PRESENT | inner);
            table += 0x1000;
            shift -= 9;
        }
        let page = ADDRESS >> shift << shift;
        let large = if shift > 12 { LARGE } else { 0 };
        entries.insert(slot(table, shift), page | PRESENT | large | self.c_bit);
        Tables {
            entries,
            cr3: TABLES | if self.in_cr3 { self.c_bit } else { 0 } | 0x18,
            five_levels: self.five_levels,
        }
    }
}

fn slot(table: u64, shift: u32) -> u64 {
    table + ((ADDRESS >> shift) & 0x1ff) * 8
}

impl Tables {
    fn contradict(&self, mask: u64) -> bool {
        contradicts(self.cr3, self.five_levels, mask, ADDRESS, |address| {
            Some(self.entries[&address])
        })
    }
}

/// All shapes with a C-bit.
fn shapes(c_bit: u64) -> impl Iterator<Item = Shape> {
    let flags = (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0));

    flags.flat_map(move |(five_levels, in_tables, in_cr3)| {
        [12, 21, 30].map(|leaf| Shape {
            five_levels,
            leaf,
            c_bit,
            in_tables,
            in_cr3,
        })
    })
}

#[test]
fn the_right_position_is_not_contradicted() {
    for position in [39, 43, 47, 51] {
        for shape in shapes(1 << position) {
            assert!(!shape.build().contradict(1 << position));
        }
    }
}

#[test]
fn a_wrong_position_is() {
    for position in [47, 51] {
        for shape in shapes(1 << position) {
            let tables = shape.build();

            // A lower one would be a bit of the page's address, which may be set.
            for wrong in (32..64).filter(|wrong| *wrong != position) {
                assert!(tables.contradict(1 << wrong), "{position} {wrong}");
            }
        }
    }
}

/// Reads outside of what the processor can address would not be page faults.
#[test]
fn reads_are_canonical_and_in_tables() {
    for shape in shapes(1 << 51) {
        let tables = shape.build();

        for wrong in 0..64 {
            let _ = contradicts(
                tables.cr3,
                tables.five_levels,
                1 << wrong,
                ADDRESS,
                |address| {
                    assert!(address < 1 << 47);
                    Some(*tables.entries.get(&address).unwrap_or(&0))
                },
            );
        }
    }
}

#[test]
fn what_cannot_be_read_contradicts_nothing() {
    let shape = shapes(1 << 51).next().unwrap();
    let mut tables = shape.build();

    assert!(!contradicts(TABLES, false, 1 << 47, ADDRESS, |_| None));
    // Nor does an entry that is not present.
    for entry in tables.entries.values_mut() {
        *entry = 0;
    }
    tables.cr3 = TABLES;
    assert!(!tables.contradict(1 << 47));
}

/// CR3 alone tells, if the loader has set the C-bit there.
#[test]
fn a_c_bit_in_cr3_is_enough() {
    assert!(contradicts(
        TABLES | (1 << 51),
        false,
        1 << 47,
        ADDRESS,
        |_| None
    ));
    assert!(contradicts(
        TABLES | (1 << 47),
        false,
        1 << 51,
        ADDRESS,
        |_| None
    ));
    assert!(!contradicts(
        TABLES | (1 << 51),
        false,
        1 << 51,
        ADDRESS,
        |_| None
    ));
}
