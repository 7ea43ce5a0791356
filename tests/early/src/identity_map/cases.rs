// SPDX-License-Identifier: GPL-2.0

//! Single cases: borders, what others have mapped, and the order of writes.

use super::{
    memory::{
        Ram,
        PAGE, //
    },
    model::{
        GIB,
        MIB2, //
    },
    processor::{
        Fault,
        Processor, //
    },
};
use crate::paging::{
    entry::Entry,
    Attribute,
    Error,
    IdentityMap,
    Memory,
    Paging,
    Pool, //
};

const AREA: u64 = 0x10_0000;
const PAGES: u64 = 32;
const C_BIT: u64 = 1 << 51;

fn empty(five_levels: bool, encryption: u64) -> (Ram, IdentityMap, Processor) {
    let mut ram = Ram::new(AREA, PAGES + 1);
    let paging = Paging {
        five_levels,
        encryption,
    };
    let loader = AREA + PAGES * PAGE;

    ram.store(loader, 0);

    let map = IdentityMap::new(&mut ram, paging, loader, (AREA, 6 * PAGE, loader)).unwrap();
    let processor = Processor {
        root: map.root(),
        five_levels,
        c_bit: encryption,
        reserved_from: 52,
    };

    (ram, map, processor)
}

#[test]
fn an_empty_map_maps_nothing_and_takes_one_table() {
    for five_levels in [false, true] {
        let (ram, map, processor) = empty(five_levels, 0);

        assert!(processor.everything(&ram).0.is_empty());
        assert_eq!(map.tables_left(), PAGES - 1);
        assert!(ram.is_untouched(AREA + PAGE));
    }
}

#[test]
fn a_pool_without_room_is_refused() {
    let paging = Paging {
        five_levels: false,
        encryption: 0,
    };
    let result = IdentityMap::new(&mut Ram::new(AREA, 1), paging, 0, (AREA, 0, AREA));

    assert!(matches!(result, Err(Error::OutOfTables)));

    // A pool whose end is before its start is empty, not endless.
    let mut pool = Pool::new(AREA + PAGE, AREA);

    assert_eq!((pool.left(), pool.take()), (0, None));
}

/// Only tables that the processor can reach are extended, and those of others are not even read.
#[test]
fn tables_of_others_are_left_alone() {
    let end = AREA + PAGES * PAGE;
    let area = (AREA, 6 * PAGE, end);

    // What five levels start with, and which root there is then.
    for (current, entry, root) in [
        (end, AREA | 0x63, end),
        (end, AREA | 0x62, AREA),
        (end, (AREA + PAGE) | 0x63, AREA),
        (AREA, AREA | 0x63, AREA),
        (7 << 40, 0, AREA),
    ] {
        let (mut ram, _, _) = empty(true, 0);
        let paging = Paging {
            five_levels: true,
            encryption: 0,
        };

        ram.store(end, entry);

        let map = IdentityMap::new(&mut ram, paging, current, area).unwrap();
        let used = if root == end { 6 } else { 1 };

        assert_eq!((map.root(), map.tables_left()), (root, PAGES - used));
    }
}

#[test]
fn the_last_region_below_the_limit_is_mapped_and_the_next_is_not() {
    for (five_levels, encryption, limit) in [
        (false, 0, 1 << 47),
        (true, 0, 1 << 52),
        (false, 1 << 51, 1 << 47),
        (true, 1 << 51, 1 << 51),
        (false, 1 << 47, 1 << 47),
        (true, 1 << 47, 1u64 << 47),
        (false, 1 << 43, 1 << 43),
    ] {
        let (mut ram, mut map, processor) = empty(five_levels, encryption);

        assert_eq!(map.map_missing(&mut ram, limit), Err(Error::OutOfRange));
        assert_eq!(
            map.map(&mut ram, limit - 1, limit + 1),
            Err(Error::OutOfRange)
        );
        assert_eq!(map.page(&mut ram, limit), Err(Error::OutOfRange));
        assert_eq!(map.tables_left(), PAGES - 1);

        assert_eq!(map.map_missing(&mut ram, limit - 1), Ok(true));
        assert_eq!(
            processor.translate(&ram, limit - 1).unwrap().physical,
            limit - 1
        );
        assert_eq!(processor.everything(&ram).0.len(), 1);
    }
}

/// C rounds the end up to zero and returns as if all were well; the access then faults for ever.
#[test]
fn a_range_that_wraps_around_is_refused() {
    let (mut ram, mut map, _) = empty(false, 0);

    for (start, end) in [
        (u64::MAX, u64::MAX),
        (u64::MAX - MIB2, 0x700),
        (0xffff_ffff_ffe0_0000, 0),
        (MIB2, MIB2 - 1),
    ] {
        assert_eq!(map.map(&mut ram, start, end), Err(Error::OutOfRange));
    }
    assert_eq!(map.map_missing(&mut ram, u64::MAX), Err(Error::OutOfRange));
    assert_eq!(map.page(&mut ram, u64::MAX), Err(Error::OutOfRange));
}

#[test]
fn an_empty_range_at_a_border_maps_nothing() {
    let (mut ram, mut map, processor) = empty(false, 0);

    assert_eq!(map.map(&mut ram, GIB, GIB), Ok(false));
    assert!(processor.everything(&ram).0.is_empty());
    assert_eq!(map.tables_left(), PAGES - 1);

    // As in C, rounding is outwards.
    assert_eq!(map.map(&mut ram, GIB + 1, GIB + 1), Ok(true));
    assert_eq!(processor.everything(&ram).0.len(), 1);
}

/// A fault where there is a page, such as the second one of two: the access is to be tried again.
#[test]
fn a_spurious_fault_changes_nothing() {
    let (mut ram, mut map, processor) = empty(true, C_BIT);
    let address = 5 * GIB + 0x1234;

    assert_eq!(map.map_missing(&mut ram, address), Ok(true));

    let before = ram.clone();

    assert_eq!(map.map_missing(&mut ram, address), Ok(false));
    assert!(ram == before);

    // The same among pages of 4 KiB.
    let page = map.page(&mut ram, address).unwrap();

    map.change(&mut ram, page, Attribute::Decrypted);
    assert_eq!(map.map_missing(&mut ram, address), Ok(false));
    assert_eq!(map.map_missing(&mut ram, address + PAGE), Ok(false));
    assert!(!processor.translate(&ram, address).unwrap().private);
}

/// The page that a fault cannot bring back: C would fault for ever.
#[test]
fn a_page_made_non_present_stays_so() {
    let (mut ram, mut map, processor) = empty(false, C_BIT);
    let address = 5 * GIB + 0x1234;
    let page = map.page(&mut ram, address).unwrap();

    map.change(&mut ram, page, Attribute::NonPresent);
    assert_eq!(map.map_missing(&mut ram, address), Err(Error::NothingToMap));
    assert_eq!(map.map(&mut ram, 5 * GIB, 5 * GIB + MIB2), Ok(false));
    assert_eq!(processor.translate(&ram, address), Err(Fault::NotPresent));
    assert_eq!(processor.everything(&ram).0.len(), 511);

    // Its entry is still there to be changed.
    assert_eq!(map.page(&mut ram, address), Ok(page));
}

#[test]
fn a_gigabyte_that_another_mapped_stays() {
    let (mut ram, mut map, processor) = empty(false, 0);

    map.map(&mut ram, 0, 1).unwrap();

    // The second entry of the table that maps 512 GiB.
    let table = Entry::new(ram.load(map.root())).address(0);

    ram.store(table + 8, GIB | 0x1e3);

    let before = ram.clone();

    assert_eq!(map.map(&mut ram, GIB, 2 * GIB), Ok(false));
    assert_eq!(map.map_missing(&mut ram, GIB + 5), Ok(false));
    assert_eq!(map.page(&mut ram, GIB + 5), Err(Error::Huge));
    assert!(ram == before);
    assert_eq!(processor.translate(&ram, GIB + 5).unwrap().size, GIB);
}

#[test]
fn a_split_keeps_the_attributes_of_the_whole() {
    // Memory types by PAT, PCD and PWT, and no-execute.
    for bits in 0..16u64 {
        let (mut ram, mut map, processor) = empty(false, C_BIT);
        let address = 7 * MIB2;
        let attributes = ((bits & 3) << 3) | (((bits >> 2) & 1) << 12) | ((bits >> 3) << 63);

        map.map(&mut ram, 0, 1).unwrap();

        let pud = Entry::new(ram.load(map.root())).address(C_BIT);
        let pmd = Entry::new(ram.load(pud)).address(C_BIT);

        ram.store(pmd + 7 * 8, address | 0x1e3 | C_BIT | attributes);

        let whole = processor.translate(&ram, address).unwrap();
        let page = map.page(&mut ram, address + 5 * PAGE).unwrap();

        map.change(&mut ram, page, Attribute::Decrypted);
        for index in 0..512 {
            let small = processor.translate(&ram, address + index * PAGE).unwrap();

            assert_eq!(small.physical, address + index * PAGE);
            assert_eq!(small.size, PAGE);
            assert_eq!(small.private, index != 5);
            assert_eq!(small.memory_type, whole.memory_type);
            assert_eq!(small.executable, whole.executable);
            assert_eq!(small.writable, whole.writable);
        }
    }
}

#[test]
fn a_split_that_there_is_no_table_for_changes_nothing() {
    let (mut ram, mut map, _) = empty(false, C_BIT);

    // 31 tables are left: 3 for the first page of 2 MiB, 27 for further gigabytes.
    map.map(&mut ram, 0, 28 * GIB).unwrap();
    assert_eq!(map.tables_left(), 2);
    map.page(&mut ram, 0).unwrap();
    map.page(&mut ram, MIB2).unwrap();
    assert_eq!(map.tables_left(), 0);

    let before = ram.clone();

    assert_eq!(map.page(&mut ram, 2 * MIB2), Err(Error::OutOfTables));
    assert_eq!(map.page(&mut ram, 30 * GIB), Err(Error::OutOfTables));
    assert!(map.page(&mut ram, MIB2 + PAGE).is_ok());
    assert!(ram == before);
}

/// The new table for a gigabyte and all above it have to be there, or none.
#[test]
fn a_range_that_there_are_not_all_tables_for_changes_nothing() {
    let (mut ram, mut map, _) = empty(true, 0);

    map.map(&mut ram, 0, 26 * GIB).unwrap();
    assert_eq!(map.tables_left(), PAGES - 1 - 2 - 26);

    let before = ram.clone();

    // Three tables are left, four are needed.
    assert_eq!(
        map.map(&mut ram, (1 << 39) - 1, (1 << 39) + GIB + 1),
        Err(Error::OutOfTables)
    );
    assert!(ram == before);
    assert_eq!(map.tables_left(), 3);
    assert_eq!(map.map(&mut ram, (1 << 39) - 1, (1 << 39) + 1), Ok(true));
    assert_eq!(map.tables_left(), 0);
}

/// Memory that watches some addresses: they have to stay mapped as they are after every write.
struct Watched {
    ram: Ram,
    processor: Processor,
    addresses: Vec<u64>,
    writes: usize,
}

impl Memory for Watched {
    fn read(&self, slot: u64) -> Entry {
        self.ram.read(slot)
    }

    fn write(&mut self, slot: u64, entry: Entry) {
        self.ram.write(slot, entry);
        self.writes += 1;
        for address in &self.addresses {
            let page = self.processor.translate(&self.ram, *address).unwrap();

            assert_eq!((page.physical, page.private), (*address, true));
        }
    }

    fn clear(&mut self, table: u64) {
        self.ram.clear(table);
    }
}

#[test]
fn what_executes_is_mapped_at_every_moment() {
    let (mut ram, mut map, processor) = empty(true, C_BIT);
    let code = 6 * GIB + 0x30_0123;

    map.map(&mut ram, code, code + MIB2).unwrap();

    let mut watched = Watched {
        ram,
        processor,
        addresses: vec![code, code + PAGE, code - PAGE],
        writes: 0,
    };
    let page = map.page(&mut watched, code - 2 * PAGE).unwrap();

    map.change(&mut watched, page, Attribute::Decrypted);
    map.map(&mut watched, 5 * GIB, 7 * GIB).unwrap();
    map.map_missing(&mut watched, 0).unwrap();
    map.map_missing(&mut watched, 1 << 48).unwrap();
    assert!(watched.writes > 512 + 3);
    assert!(
        !processor
            .translate(&watched.ram, code - 2 * PAGE)
            .unwrap()
            .private
    );
}

#[test]
fn a_c_bit_at_a_senseless_place_maps_no_kernel() {
    for bit in [0, 5, 12, 20, 24] {
        let (mut ram, mut map, _) = empty(false, 1 << bit);

        assert_eq!(
            map.map(&mut ram, 16 << 20, 64 << 20),
            Err(Error::OutOfRange)
        );
    }
}
