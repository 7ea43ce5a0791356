// SPDX-License-Identifier: GPL-2.0
//! What is mapped, and that nothing else is.

use std::collections::BTreeMap;

use super::*;
use crate::entry::ADDRESS;
use crate::npt::Frames;

struct Pages {
    pages: Vec<[u64; 512]>,
    limit: usize,
}

impl Pages {
    /// With a root at 0x1000.
    fn new(limit: usize) -> Self {
        let mut pages = Self {
            pages: Vec::new(),
            limit,
        };
        assert_eq!(pages.alloc(), Some(ROOT));
        pages
    }

    /// All that a processor can reach by the tables: page -> entry, rights of all levels taken
    /// together.
    fn mapped(&self) -> BTreeMap<u64, u64> {
        let mut found = BTreeMap::new();
        self.collect(ROOT, 5, 0, &mut found);
        found
    }

    fn collect(&self, table: u64, level: u32, base: u64, found: &mut BTreeMap<u64, u64>) {
        for index in 0..512 {
            let entry = self.get(table, index);
            if entry & 1 == 0 {
                continue;
            }
            let at = base | ((index as u64) << (12 + 9 * (level - 1)));
            if level == 1 {
                let sign = if (at >> 56) & 1 != 0 { 0xff << 56 } else { 0 };
                found.insert(at | sign, entry);
                continue;
            }
            assert_eq!(entry & 0x80, 0, "a large page");
            assert_eq!(entry >> 63, 0, "the level does not decide");
            self.collect(entry & ADDRESS, level - 1, at, found);
        }
    }
}

impl Frames for Pages {
    fn alloc(&mut self) -> Option<u64> {
        if self.pages.len() == self.limit {
            return None;
        }
        self.pages.push([0; 512]);
        Some((self.pages.len() as u64) << 12)
    }

    fn get(&self, table: u64, index: usize) -> u64 {
        self.pages[(table >> 12) as usize - 1][index]
    }

    fn set(&mut self, table: u64, index: usize, entry: u64) {
        self.pages[(table >> 12) as usize - 1][index] = entry;
    }
}

const ROOT: u64 = 0x1000;
const IMAGE: u64 = 0xffff_ffff_8020_0000;
const IMAGE_PA: u64 = 0x1_0020_0000;
/// 16 pages of an image's data.
const DATA: Region = Region {
    at: IMAGE,
    pa: IMAGE_PA,
    len: 16 * PAGE,
    access: Access::Data,
};

fn part(owner: Owner, pages: Range<u64>) -> Part {
    Part {
        owner,
        range: IMAGE + pages.start * PAGE..IMAGE + pages.end * PAGE,
    }
}

/// Numbers of the image's pages that `vcpu` gets.
fn carved(parts: &[Part], vcpu: usize) -> Vec<u64> {
    let mut pages = Vec::new();
    let done: Result<(), ()> = carve(DATA, parts, vcpu, |region| {
        assert_eq!(region.pa - IMAGE_PA, region.at - IMAGE);
        assert_eq!(region.access, Access::Data);
        assert_ne!(region.len, 0);
        let first = (region.at - IMAGE) / PAGE;
        pages.extend(first..first + region.len / PAGE);
        Ok(())
    });
    assert_eq!(done, Ok(()));
    pages
}

#[test]
fn each_vcpu_gets_what_is_for_all_and_its_own() {
    let parts = [
        part(Owner::Host, 0..2),
        part(Owner::Vcpu(0), 4..6),
        part(Owner::Vcpu(1), 6..7),
        part(Owner::Vcpu(2), 15..16),
    ];
    let all: Vec<u64> = (2..4).chain(7..15).collect();
    let with = |own: Range<u64>| {
        let mut pages = all.clone();
        pages.extend(own);
        pages.sort_unstable();
        pages
    };
    assert_eq!(carved(&parts, 0), with(4..6));
    assert_eq!(carved(&parts, 1), with(6..7));
    assert_eq!(carved(&parts, 2), with(15..16));
    assert_eq!(carved(&parts, 3), all);
    assert_eq!(carved(&[], 0), (0..16).collect::<Vec<_>>());
    assert_eq!(carved(&[part(Owner::Host, 0..16)], 0), []);
}

#[test]
fn a_page_with_one_byte_of_another_owner_is_left_out() {
    let byte = Part {
        owner: Owner::Vcpu(1),
        range: IMAGE + 3 * PAGE + 5..IMAGE + 3 * PAGE + 6,
    };
    assert!(!carved(&[byte.clone()], 0).contains(&3));
    assert_eq!(carved(&[byte], 0).len(), 15);
}

#[test]
fn carving_stops_at_an_error() {
    let parts = [part(Owner::Host, 4..5)];
    let mut calls = 0;
    let done = carve(DATA, &parts, 0, |_| {
        calls += 1;
        Err(7)
    });
    assert_eq!((done, calls), (Err(7), 1));
}

/// Regions at random, and the pages they come to.
#[test]
fn nothing_but_what_was_named_is_mapped() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % limit
    };
    for _ in 0..200 {
        let mut pages = Pages::new(usize::MAX);
        let mut want = BTreeMap::new();
        for _ in 0..20 {
            let access = [
                Access::Code,
                Access::Constants,
                Access::Data,
                Access::Device,
            ][random(4) as usize];
            // The image, the direct map, low addresses: near each other and far apart.
            let base = [IMAGE, 0xffff_ff80_0000_0000, 0x7f_ffff_f000, 0][random(4) as usize];
            let region = Region {
                at: base + random(2000) * PAGE,
                pa: random(1 << 24) * PAGE,
                len: (1 + random(600)) * PAGE,
                access,
            };
            let span = (0..region.len).step_by(PAGE as usize);
            let taken = span.clone().find(|at| want.contains_key(&(region.at + at)));
            let done = map(&mut pages, ROOT, &region);
            match taken {
                None => assert!(done.is_ok()),
                Some(at) => assert_eq!(done, Err(MapError::Taken(region.at + at))),
            }
            for at in span.take_while(|at| taken.is_none_or(|taken| *at < taken)) {
                want.insert(region.at + at, leaf(region.pa + at, access));
            }
        }
        assert!(pages.mapped() == want);
    }
}

#[test]
fn rights_are_those_of_the_access() {
    const WRITE: u64 = 2;
    const UNCACHED: u64 = 0x18;
    const NX: u64 = 1 << 63;
    for (access, want) in [
        (Access::Code, 0),
        (Access::Constants, NX),
        (Access::Data, NX | WRITE),
        (Access::Device, NX | WRITE | UNCACHED),
    ] {
        let entry = leaf(0x12_3000, access);
        assert_eq!(entry & (WRITE | UNCACHED | NX), want, "{access:?}");
        assert_eq!(entry & ADDRESS, 0x12_3000);
        assert_eq!(entry & 1, 1);
        assert_eq!(entry & 4, 0, "not for user mode");
    }
}

#[test]
fn the_page_table_of_a_region_is_told() {
    let mut pages = Pages::new(usize::MAX);
    let at = 0xffff_ffff_0000_0000;
    let region = |offset, pa| Region {
        at: at + offset,
        pa,
        len: PAGE,
        access: Access::Data,
    };
    let table = map(&mut pages, ROOT, &region(0, 0x7000)).unwrap();
    assert_eq!(pages.get(table, 0), leaf(0x7000, Access::Data));
    assert_eq!(map(&mut pages, ROOT, &region(PAGE, 0x9000)), Ok(table));
    assert_eq!(pages.get(table, 1), leaf(0x9000, Access::Data));
}

#[test]
fn broken_regions_are_refused() {
    let mut pages = Pages::new(usize::MAX);
    for (at, pa, len) in [
        (IMAGE + 1, 0, PAGE),
        (IMAGE, 8, PAGE),
        (IMAGE, 0, PAGE - 1),
        (IMAGE, 0, 0),
        (u64::MAX - PAGE + 1, 0, 2 * PAGE),
    ] {
        let region = Region {
            at,
            pa,
            len,
            access: Access::Data,
        };
        let done = map(&mut pages, ROOT, &region);
        assert_eq!(done, Err(MapError::Unaligned(at)));
    }
    assert!(pages.mapped().is_empty());
    let mut few = Pages::new(4);
    assert_eq!(map(&mut few, ROOT, &DATA), Err(MapError::Exhausted));
    assert!(few.mapped().is_empty());
}

#[test]
fn reasons_have_names_of_their_own() {
    let mut names: Vec<_> = Reason::ALL.map(Reason::name).into();
    names.dedup();
    assert_eq!(names.len(), Reason::ALL.len());
    for (index, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
    }
}
