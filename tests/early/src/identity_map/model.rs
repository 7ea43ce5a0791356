// SPDX-License-Identifier: GPL-2.0

//! What an identity map should be, without page tables.

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

use super::processor::Page;
use crate::paging::{
    Attribute,
    Error, //
};

pub(super) const MIB2: u64 = 2 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// 2 MiB: mapped at once, or page by page with `None` where nothing is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Region {
    Whole(Page),
    Split(Vec<Option<Page>>),
}

/// The regions that are mapped, and how much memory there is for tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) five_levels: bool,
    pub(super) encrypted: bool,
    /// First address that must not be mapped.
    pub(super) limit: u64,
    /// Tables that there are, used or not.
    pub(super) capacity: usize,
    regions: BTreeMap<u64, Region>,
}

impl Model {
    pub(super) fn new(five_levels: bool, encrypted: bool, limit: u64, capacity: usize) -> Model {
        Model {
            five_levels,
            encrypted,
            limit,
            capacity,
            regions: BTreeMap::new(),
        }
    }

    fn fresh(&self, physical: u64) -> Page {
        Page {
            size: MIB2,
            physical,
            private: self.encrypted,
            memory_type: 0,
            writable: true,
            executable: true,
            user: false,
        }
    }

    /// Assumes a region as mapped by somebody else.
    pub(super) fn adopt(&mut self, page: Page) {
        self.regions.insert(page.physical, Region::Whole(page));
    }

    /// How many tables it takes: one for each distinct part of an address above the level.
    pub(super) fn tables(&self) -> usize {
        let distinct = |shift: u32| -> usize {
            self.regions
                .keys()
                .map(|start| start >> shift)
                .collect::<BTreeSet<_>>()
                .len()
        };
        let split = self
            .regions
            .values()
            .filter(|region| matches!(region, Region::Split(_)))
            .count();

        1 + distinct(30) + distinct(39) + if self.five_levels { distinct(48) } else { 0 } + split
    }

    /// All pages by address.
    pub(super) fn pages(&self) -> BTreeMap<u64, Page> {
        let mut pages = BTreeMap::new();

        for (start, region) in &self.regions {
            match region {
                Region::Whole(page) => {
                    pages.insert(*start, *page);
                }
                Region::Split(small) => {
                    for (index, page) in small.iter().enumerate() {
                        if let Some(page) = page {
                            pages.insert(start + index as u64 * 4096, *page);
                        }
                    }
                }
            }
        }
        pages
    }

    /// Applies a change if there is memory for it.
    fn commit(&mut self, changed: Model) -> Result<(), Error> {
        if changed.tables() > self.capacity {
            return Err(Error::OutOfTables);
        }
        *self = changed;
        Ok(())
    }

    pub(super) fn map(&mut self, start: u64, end: u64) -> Result<bool, Error> {
        if start > end || end > self.limit {
            return Err(Error::OutOfRange);
        }

        let mut changed = self.clone();
        let mut added = false;

        for number in start / MIB2..end.div_ceil(MIB2) {
            let page = self.fresh(number * MIB2);

            changed.regions.entry(number * MIB2).or_insert_with(|| {
                added = true;
                Region::Whole(page)
            });
        }
        self.commit(changed).map(|()| added)
    }

    pub(super) fn map_missing(&mut self, address: u64) -> Result<bool, Error> {
        if address >= self.limit {
            return Err(Error::OutOfRange);
        }
        if self.map(address, address + 1)? {
            return Ok(true);
        }
        match &self.regions[&(address / MIB2 * MIB2)] {
            Region::Split(small) if small[(address % MIB2 / 4096) as usize].is_none() => {
                Err(Error::NothingToMap)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn change(&mut self, address: u64, attribute: Attribute) -> Result<(), Error> {
        if address >= self.limit {
            return Err(Error::OutOfRange);
        }

        let start = address / MIB2 * MIB2;
        let mut changed = self.clone();
        let region = match self.regions.get(&start) {
            Some(region) => region.clone(),
            None => Region::Whole(self.fresh(start)),
        };
        let mut small = match region {
            Region::Split(small) => small,
            Region::Whole(whole) => (0..512)
                .map(|index| {
                    Some(Page {
                        size: 4096,
                        physical: start + index * 4096,
                        ..whole
                    })
                })
                .collect(),
        };
        let page = &mut small[(address % MIB2 / 4096) as usize];

        match attribute {
            Attribute::NonPresent => *page = None,
            Attribute::Encrypted if self.encrypted => {
                if let Some(page) = page {
                    page.private = true;
                }
            }
            Attribute::Decrypted => {
                if let Some(page) = page {
                    page.private = false;
                }
            }
            Attribute::Encrypted => {}
        }
        changed.regions.insert(start, Region::Split(small));
        self.commit(changed)
    }
}
