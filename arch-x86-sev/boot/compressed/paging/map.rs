// SPDX-License-Identifier: GPL-2.0

//! Mapping, splitting, and changing pages of the identity map.

use super::{
    entry::{
        Entry,
        Level, //
    },
    pool::Pool, //
};

/// The memory that page tables are in, by physical address.
pub(crate) trait Memory {
    /// Reads the entry at `slot`.
    fn read(&self, slot: u64) -> Entry;

    /// Writes the entry at `slot`, as one access.
    fn write(&mut self, slot: u64, entry: Entry);

    /// Fills a table with zeros.
    fn clear(&mut self, table: u64);
}

/// How the processor walks page tables.
#[derive(Clone, Copy)]
pub(crate) struct Paging {
    /// Whether there are five levels (CR4.LA57).
    pub(crate) five_levels: bool,
    /// The mask of the C-bit, or zero where memory is not encrypted.
    pub(crate) encryption: u64,
}

impl Paging {
    #[inline(always)]
    const fn top(self) -> Level {
        if self.five_levels {
            Level::FIFTH
        } else {
            Level::FOURTH
        }
    }

    /// The first address that cannot be mapped to itself: the end of the lower half of virtual
    /// memory or of physical memory, whatever is lower. An address with the C-bit is another
    /// view of memory and not a place of its own.
    #[inline(always)]
    pub(crate) const fn limit(self) -> u64 {
        let addressable = if self.five_levels { 1 << 52 } else { 1 << 47 };

        if self.encryption != 0 && self.encryption < addressable {
            self.encryption
        } else {
            addressable
        }
    }
}

/// Why the identity map is not as it was asked for. Nothing has been changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// No memory is left for page tables.
    OutOfTables,
    /// The range is not below [`Paging::limit`], or it ends before it starts.
    OutOfRange,
    /// There is nothing to add, and an access faults all the same.
    NothingToMap,
    /// The page is part of a mapping of 1 GiB.
    Huge,
}

/// What can be changed about a 4 KiB page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// Private to the guest: the C-bit is set.
    Encrypted,
    /// Shared with the hypervisor: the C-bit is clear.
    Decrypted,
    /// Any access faults.
    NonPresent,
}

/// A 4 KiB page that has an entry of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    slot: u64,
}

/// Where following the tables for an address has ended.
struct Found {
    slot: u64,
    entry: Entry,
    level: Level,
}

/// Page tables that map addresses to themselves.
#[derive(Clone, Copy)]
pub(crate) struct IdentityMap {
    root: u64,
    top: Level,
    limit: u64,
    encryption: u64,
    pool: Pool,
}

impl IdentityMap {
    /// A map that maps nothing and cannot be extended.
    pub(crate) const EMPTY: IdentityMap = IdentityMap {
        root: 0,
        top: Level::PTE,
        limit: 0,
        encryption: 0,
        pool: Pool::new(0, 0),
    };

    /// Extends the tables at `current` if they are in the area from `start` to `end`, and in the
    /// first `used` bytes of it; with five levels, the top one is the page behind the area.
    /// Otherwise starts with an empty map, all in the area. Tables of others are not read: they
    /// need not be mapped.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfTables`] if the area has no room for a table.
    #[inline]
    pub(crate) fn new<M: Memory>(
        memory: &mut M,
        paging: Paging,
        current: u64,
        (start, used, end): (u64, u64, u64),
    ) -> Result<IdentityMap, Error> {
        let mut map = IdentityMap {
            root: current,
            top: paging.top(),
            limit: paging.limit(),
            encryption: paging.encryption,
            pool: Pool::new(start.wrapping_add(used), end),
        };
        let is_ours = if paging.five_levels {
            current == end && {
                let fourth = memory.read(current);

                fourth.is_present() && fourth.address(paging.encryption) == start
            }
        } else {
            current == start
        };

        if !is_ours {
            map.pool = Pool::new(start, end);
            map.root = map.pool.take().ok_or(Error::OutOfTables)?;
            memory.clear(map.root);
        }
        Ok(map)
    }

    /// The top table's address, for CR3.
    #[inline(always)]
    pub(crate) const fn root(&self) -> u64 {
        self.root
    }

    /// How many more tables there is memory for.
    #[inline(always)]
    pub(crate) const fn tables_left(&self) -> u64 {
        self.pool.left()
    }

    /// Maps from `start` to `end`, both rounded outwards to 2 MiB. What is mapped stays as it is.
    /// Returns whether anything was added.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] or [`Error::OutOfTables`].
    pub(crate) fn map<M: Memory>(
        &mut self,
        memory: &mut M,
        start: u64,
        end: u64,
    ) -> Result<bool, Error> {
        if start > end || end > self.limit {
            return Err(Error::OutOfRange);
        }

        let start = Level::PMD.align_down(start);
        // This cannot be beyond the limit, which is at a boundary of 2 MiB for each position that
        // the C-bit has in practice (32 and up). A lower one, which a hypervisor may have made up,
        // leads to tables that map nothing anyhow; the sum does not wrap around either.
        let end = Level::PMD.align_down(end.wrapping_add(Level::PMD.size() - 1));

        if self.tables_missing(memory, start, end) > self.pool.left() {
            return Err(Error::OutOfTables);
        }

        let mut added = false;
        let mut address = start;

        while address < end {
            let next = Level::PUD.next(address);

            if let Some(table) = self.pmd_table(memory, address)? {
                added |= self.fill(memory, table, address, next.min(end));
            }
            address = next;
        }
        Ok(added)
    }

    /// Maps the 2 MiB around an address at which the processor found nothing. Returns whether
    /// anything was added; if not, the tables have a page there, and the fault was spurious.
    ///
    /// # Errors
    ///
    /// As [`IdentityMap::map`]; [`Error::NothingToMap`] if the access would fault again, as it does
    /// for a page that was made non-present.
    pub(crate) fn map_missing<M: Memory>(
        &mut self,
        memory: &mut M,
        address: u64,
    ) -> Result<bool, Error> {
        if address >= self.limit {
            return Err(Error::OutOfRange);
        }
        if self.map(memory, address, address.wrapping_add(1))? {
            Ok(true)
        } else if self.walk(memory, address).entry.is_present() {
            Ok(false)
        } else {
            Err(Error::NothingToMap)
        }
    }

    /// The 4 KiB page at `address`, which is mapped if it was not, and split off a larger one.
    /// The TLB may hold the larger page until it is flushed, which translates all the same.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::OutOfTables`] or [`Error::Huge`].
    #[inline(always)]
    pub(crate) fn page<M: Memory>(&mut self, memory: &mut M, address: u64) -> Result<Page, Error> {
        if address >= self.limit {
            return Err(Error::OutOfRange);
        }

        let found = self.walk(memory, address);

        if found.level == Level::PTE {
            return Ok(Page { slot: found.slot });
        }
        if found.level > Level::PMD && found.entry.is_present() {
            return Err(Error::Huge);
        }
        if found.level.above(Level::PTE) > self.pool.left() {
            return Err(Error::OutOfTables);
        }

        let start = Level::PMD.align_down(address);
        let slot = match self.pmd_table(memory, address)? {
            Some(table) => Level::PMD.slot(table, address),
            None => return Err(Error::Huge),
        };
        let whole = if found.entry.is_present() {
            found.entry
        } else {
            Entry::large_page(start, self.encryption)
        };
        let table = self.split(memory, slot, whole, start)?;

        Ok(Page {
            slot: Level::PTE.slot(table, address),
        })
    }

    /// Changes an attribute of a page. The TLB has to be flushed afterwards; before, a change of
    /// the C-bit needs the page's cache lines written back.
    pub(crate) fn change<M: Memory>(&self, memory: &mut M, page: Page, attribute: Attribute) {
        let bits = memory.read(page.slot).bits();
        let bits = match attribute {
            Attribute::Encrypted => bits | self.encryption,
            Attribute::Decrypted => bits & !self.encryption,
            Attribute::NonPresent => bits & !Entry::PRESENT,
        };

        memory.write(page.slot, Entry::new(bits));
    }

    /// Follows the tables as the processor does, to what maps `address` or where that is missing.
    #[inline(never)]
    fn walk<M: Memory>(&self, memory: &M, address: u64) -> Found {
        let (mut table, mut level) = (self.root, self.top);

        loop {
            let slot = level.slot(table, address);
            let entry = memory.read(slot);

            if !entry.is_present()
                || level == Level::PTE
                || (level <= Level::PUD && entry.is_large())
            {
                return Found { slot, entry, level };
            }
            table = entry.address(self.encryption);
            level = level.below();
        }
    }

    /// How many tables there have to be made to map the range with 2 MiB pages. Stops counting
    /// when there are more than the pool has.
    fn tables_missing<M: Memory>(&self, memory: &M, start: u64, end: u64) -> u64 {
        let mut missing = 0u64;
        let mut address = start;

        while address < end && missing <= self.pool.left() {
            let Found {
                entry, mut level, ..
            } = self.walk(memory, address);

            // What is below the missing entry; a table that an earlier part of the range needs as
            // well has been counted there.
            while level > Level::PMD && !entry.is_present() {
                if address == start || address == level.align_down(address) {
                    missing = missing.wrapping_add(1);
                }
                level = level.below();
            }
            address = Level::PUD.next(address);
        }
        missing
    }

    /// The table whose entries map 2 MiB around `address`, which is made if there is none, like
    /// those above it. `None` if 1 GiB is mapped at once.
    #[inline(never)]
    fn pmd_table<M: Memory>(&mut self, memory: &mut M, address: u64) -> Result<Option<u64>, Error> {
        let (mut table, mut level) = (self.root, self.top);

        while level > Level::PMD {
            let slot = level.slot(table, address);
            let entry = memory.read(slot);

            if !entry.is_present() {
                table = self.pool.take().ok_or(Error::OutOfTables)?;
                memory.clear(table);
                memory.write(slot, Entry::table(table, self.encryption));
            } else if level == Level::PUD && entry.is_large() {
                return Ok(None);
            } else {
                table = entry.address(self.encryption);
            }
            level = level.below();
        }
        Ok(Some(table))
    }

    /// Fills the empty ones of a table's entries for a range inside of what it covers.
    fn fill<M: Memory>(&self, memory: &mut M, table: u64, start: u64, end: u64) -> bool {
        let mut added = false;
        let mut address = start;

        while address < end {
            let slot = Level::PMD.slot(table, address);

            if !memory.read(slot).is_present() {
                memory.write(slot, Entry::large_page(address, self.encryption));
                added = true;
            }
            address = address.wrapping_add(Level::PMD.size());
        }
        added
    }

    /// Replaces the entry at `slot`, a page of 2 MiB at `start` with the attributes of `whole`, by
    /// a table of 4 KiB pages, which is returned.
    ///
    /// The processor never finds the entry empty: the page may be the one that is executing, or
    /// hold the stack. Both translations are the same until an attribute is changed, so that it
    /// does not matter which one the TLB has.
    fn split<M: Memory>(
        &mut self,
        memory: &mut M,
        slot: u64,
        whole: Entry,
        start: u64,
    ) -> Result<u64, Error> {
        let table = self.pool.take().ok_or(Error::OutOfTables)?;
        let attributes = whole.small_attributes(self.encryption);
        let end = start.wrapping_add(Level::PTE.table_size());
        let mut address = start;

        while address < end {
            memory.write(
                Level::PTE.slot(table, address),
                Entry::new(address | attributes),
            );
            address = address.wrapping_add(Level::PTE.size());
        }
        memory.write(slot, Entry::table(table, self.encryption));
        Ok(table)
    }
}
