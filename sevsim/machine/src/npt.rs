// SPDX-License-Identifier: GPL-2.0
//! Nested page tables that make two backings out of the C-bit (APM vol. 2, 15.25 and 15.34).
//!
//! A five-level table covers every position of the C-bit. Its half with the C-bit set leads to the
//! private backing: built once, for all vCPUs. Its half with the C-bit clear starts empty; each
//! vCPU fills its own on demand, because what an access without C-bit reaches depends on its kind:
//! data reaches shared memory, but page walks and instruction fetches are always private. A second
//! root serves while the guest's tables carry no C-bit: there address X is private.

use crate::entry::ACCESSED;
use crate::entry::ADDRESS;
use crate::entry::DIRTY;
use crate::entry::LARGE;
use crate::entry::LARGE_SIZE;
use crate::entry::NX;
use crate::entry::PRESENT;
use crate::entry::USER;
use crate::entry::WRITABLE;
use crate::layout::Layout;
use crate::layout::Place;

/// Page-table pages in host memory, by host-physical address.
pub trait Frames {
    /// A zeroed page; `None` when there is no more.
    fn alloc(&mut self) -> Option<u64>;

    /// Reads an entry.
    fn get(&self, table: u64, index: usize) -> u64;

    /// Writes an entry.
    fn set(&mut self, table: u64, index: usize, entry: u64);

    /// Clears a whole table.
    fn clear(&mut self, table: u64) {
        for index in 0..512 {
            self.set(table, index, 0);
        }
    }
}

/// There are no more page-table pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

// Nested entries are walked as user accesses; A and D are preset so that the walk writes nothing.
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
const READ_ONLY: u64 = PRESENT | USER | ACCESSED | DIRTY;
const READ_WRITE: u64 = READ_ONLY | WRITABLE;

/// Lowest position of the C-bit: it selects among 512 GiB slots.
pub const CBIT_MIN: u32 = 39;
/// Highest position: the last physical address bit.
pub const CBIT_MAX: u32 = 51;

/// Index into the table of `level` (1: page table, 5: root).
fn index(gpa: u64, level: u32) -> usize {
    (gpa >> (12 + 9 * (level - 1))) as usize & 0x1ff
}

/// The entry's table, made if it is absent.
fn child<F: Frames>(frames: &mut F, table: u64, index: usize) -> Result<u64, Exhausted> {
    let entry = frames.get(table, index);
    if entry & PRESENT != 0 {
        return Ok(entry & ADDRESS);
    }
    let new = frames.alloc().ok_or(Exhausted)?;
    frames.set(table, index, new | TABLE);
    Ok(new)
}

/// Maps one 4 KiB page below a page-directory-pointer table.
fn map<F: Frames>(frames: &mut F, pdpt: u64, gpa: u64, entry: u64) -> Result<(), Exhausted> {
    let directory = child(frames, pdpt, index(gpa, 3))?;
    let table = child(frames, directory, index(gpa, 2))?;
    frames.set(table, index(gpa, 1), entry);
    Ok(())
}

/// Builds the private map of the first 512 GiB and returns its page-directory-pointer table.
///
/// Runs of RAM get 2 MiB leaves: after each exit the processor walks the nested tables anew, and
/// with fewer tables QEMU has fewer pages of them to look up.
pub fn private_map<F: Frames>(frames: &mut F, layout: &Layout) -> Result<u64, Exhausted> {
    let pdpt = frames.alloc().ok_or(Exhausted)?;
    for range in layout.ranges() {
        let mut gpa = range.start;
        while gpa < range.end {
            let entry = match layout.place(gpa) {
                Place::Ram { private } => private | READ_WRITE,
                Place::Flash { copy } => copy | READ_ONLY,
                // `ranges` names memory only.
                Place::Device => break,
            };
            let aligned = (gpa | (entry & ADDRESS)) % LARGE_SIZE == 0;
            if aligned && range.end - gpa >= LARGE_SIZE {
                let directory = child(frames, pdpt, index(gpa, 3))?;
                frames.set(directory, index(gpa, 2), entry | LARGE);
                gpa += LARGE_SIZE;
            } else {
                map(frames, pdpt, gpa, entry)?;
                gpa += 4096;
            }
        }
    }
    Ok(pdpt)
}

/// Calls `each` with address and size of the pages that were written since the last call, of the
/// memory below a page-directory-pointer table. Before the first call all count as written. The
/// caller flushes the TLB.
pub fn take_dirty<F: Frames>(frames: &mut F, pdpt: u64, mut each: impl FnMut(u64, u64)) {
    let mut take = |frames: &mut F, table, index| {
        let entry = frames.get(table, index);
        if entry & (PRESENT | WRITABLE | DIRTY) == PRESENT | WRITABLE | DIRTY {
            frames.set(table, index, entry & !DIRTY);
            each(
                entry & ADDRESS,
                if entry & LARGE != 0 { LARGE_SIZE } else { 4096 },
            );
        }
    };
    for third in 0..512 {
        let directory = frames.get(pdpt, third);
        if directory & PRESENT == 0 {
            continue;
        }
        let directory = directory & ADDRESS;
        for second in 0..512 {
            let table = frames.get(directory, second);
            if table & PRESENT == 0 {
                continue;
            }
            if table & LARGE != 0 {
                take(frames, directory, second);
                continue;
            }
            (0..512).for_each(|first| take(frames, table & ADDRESS, first));
        }
    }
}

/// How a page's address without C-bit is used at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// Data: shared, not executable.
    Data,
    /// Page walk or instruction fetch: private.
    Private,
}

/// The nested tables of one vCPU.
#[derive(Debug)]
pub struct Tables {
    /// Root while the C-bit works.
    pub root: u64,
    /// Root while every access is private.
    pub private_root: u64,
    /// Aliases of kind [`Alias::Private`] since the last [`Tables::forget`].
    pub private_aliases: u32,
    /// Table of the half without C-bit.
    aliases: u64,
}

impl Tables {
    /// Makes the roots around a map that [`private_map`] built.
    pub fn new<F: Frames>(frames: &mut F, private: u64, cbit: u32) -> Result<Self, Exhausted> {
        let mut page = || frames.alloc().ok_or(Exhausted);
        let (root, private_root, aliases) = (page()?, page()?, page()?);
        let mut attach = |root, gpa, table| -> Result<(), Exhausted> {
            let fourth = child(frames, root, index(gpa, 5))?;
            frames.set(fourth, index(gpa, 4), table | TABLE);
            Ok(())
        };
        attach(root, 0, aliases)?;
        attach(root, 1 << cbit, private)?;
        attach(private_root, 0, private)?;
        Ok(Self {
            root,
            private_root,
            private_aliases: 0,
            aliases,
        })
    }

    /// Maps the address without C-bit of the page at `gpa`. Returns false if it is no memory.
    pub fn alias<F: Frames>(
        &mut self,
        frames: &mut F,
        layout: &Layout,
        gpa: u64,
        kind: Alias,
    ) -> Result<bool, Exhausted> {
        let page = gpa & !0xfff;
        let entry = match (layout.place(page), kind) {
            (Place::Device, _) => return Ok(false),
            (Place::Ram { .. }, Alias::Data) => page | READ_WRITE | NX,
            (Place::Ram { private }, Alias::Private) => private | READ_WRITE,
            (Place::Flash { .. }, Alias::Data) => layout.flash_shared | READ_ONLY | NX,
            (Place::Flash { copy }, Alias::Private) => copy | READ_ONLY,
        };
        map(frames, self.aliases, page, entry)?;
        if kind == Alias::Private {
            self.private_aliases += 1;
        }
        Ok(true)
    }

    /// The table of addresses without C-bit, for [`take_dirty`].
    pub fn alias_table(&self) -> u64 {
        self.aliases
    }

    /// Forgets all aliases; the caller flushes the TLB. Page-table pages stay for later use.
    pub fn forget<F: Frames>(&mut self, frames: &mut F) {
        for third in 0..512 {
            let directory = frames.get(self.aliases, third);
            if directory & PRESENT == 0 {
                continue;
            }
            for second in 0..512 {
                let table = frames.get(directory & ADDRESS, second);
                if table & PRESENT != 0 {
                    frames.clear(table & ADDRESS);
                }
            }
        }
        self.private_aliases = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        low: 0x80_0000,
        high: 0x20_0000,
        flash: 0x10_0000,
        private_low: 0x2_0000_0000,
        private_high: 0x2_1000_0000,
        flash_copy: 0x2_2000_0000,
        flash_shared: 0x2_3000_0000,
    };

    struct Pool {
        pages: Vec<[u64; 512]>,
        limit: usize,
    }

    impl Pool {
        fn new(limit: usize) -> Self {
            Self {
                pages: Vec::new(),
                limit,
            }
        }
    }

    impl Frames for Pool {
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

    /// A model of the processor's nested walk: address and (writable, executable).
    fn walk(pool: &Pool, root: u64, gpa: u64) -> Option<(u64, bool, bool)> {
        let mut table = root;
        let (mut writable, mut executable) = (true, true);
        for level in (1..=5).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = pool.get(table, (gpa >> shift) as usize & 511);
            if entry & 1 == 0 || entry & 4 == 0 {
                return None;
            }
            writable &= entry & 2 != 0;
            executable &= entry >> 63 == 0;
            table = entry & ADDRESS;
            if level == 2 && entry & 0x80 != 0 {
                assert_eq!(table % (2 << 20), 0);
                return Some((table | (gpa & 0x1f_ffff), writable, executable));
            }
        }
        Some((table | (gpa & 0xfff), writable, executable))
    }

    #[test]
    fn every_cbit_position_separates_the_backings() {
        for cbit in CBIT_MIN..=CBIT_MAX {
            let mut pool = Pool::new(usize::MAX);
            let private = private_map(&mut pool, &LAYOUT).unwrap();
            let mut tables = Tables::new(&mut pool, private, cbit).unwrap();
            let c = 1 << cbit;
            let gpa = 0x12_3456;
            let here = Some((0x2_0012_3456, true, true));
            assert_eq!(walk(&pool, tables.root, gpa | c), here, "C-bit {cbit}");
            assert_eq!(walk(&pool, tables.root, gpa), None);
            assert_eq!(walk(&pool, tables.private_root, gpa), here);
            assert_eq!(tables.alias(&mut pool, &LAYOUT, gpa, Alias::Data), Ok(true));
            assert_eq!(walk(&pool, tables.root, gpa), Some((gpa, true, false)));
            assert_eq!(walk(&pool, tables.root, gpa | c), here);
        }
    }

    #[test]
    fn high_ram_flash_and_holes() {
        let mut pool = Pool::new(usize::MAX);
        let private = private_map(&mut pool, &LAYOUT).unwrap();
        let tables = Tables::new(&mut pool, private, 51).unwrap();
        let c = 1 << 51;
        let high = walk(&pool, tables.root, 0x1_0000_0010 | c);
        assert_eq!(high, Some((0x2_1000_0010, true, true)));
        let reset = walk(&pool, tables.private_root, 0xffff_fff0);
        assert_eq!(reset, Some((0x2_200f_fff0, false, true)));
        let mut tables = tables;
        tables
            .alias(&mut pool, &LAYOUT, 0xffff_f000, Alias::Data)
            .unwrap();
        let shared = walk(&pool, tables.root, 0xffff_fff0);
        assert_eq!(shared, Some((0x2_3000_0ff0, false, false)));
        for hole in [0xa_0000, 0x80_0000, 0xfee0_0000, 0x1_0020_0000] {
            assert_eq!(walk(&pool, tables.root, hole | c), None);
        }
    }

    #[test]
    fn pages_change_roles() {
        let mut pool = Pool::new(usize::MAX);
        let private = private_map(&mut pool, &LAYOUT).unwrap();
        let mut tables = Tables::new(&mut pool, private, 47).unwrap();
        let gpa = 0x70_0000;
        tables
            .alias(&mut pool, &LAYOUT, gpa, Alias::Private)
            .unwrap();
        assert_eq!(
            walk(&pool, tables.root, gpa),
            Some((0x2_0070_0000, true, true))
        );
        assert_eq!(tables.private_aliases, 1);
        tables.forget(&mut pool);
        assert_eq!(
            (walk(&pool, tables.root, gpa), tables.private_aliases),
            (None, 0)
        );
        let pages = pool.pages.len();
        tables.alias(&mut pool, &LAYOUT, gpa, Alias::Data).unwrap();
        assert_eq!(walk(&pool, tables.root, gpa), Some((gpa, true, false)));
        assert_eq!(pool.pages.len(), pages);
        assert_eq!(
            tables.alias(&mut pool, &LAYOUT, 0xfee0_0000, Alias::Data),
            Ok(false)
        );
    }

    #[test]
    fn dirty_pages_are_taken_once() {
        let mut pool = Pool::new(usize::MAX);
        let private = private_map(&mut pool, &LAYOUT).unwrap();
        let mut tables = Tables::new(&mut pool, private, 51).unwrap();
        let taken = |pool: &mut Pool, table| {
            let mut all = Vec::new();
            take_dirty(pool, table, |address, size| all.push((address, size)));
            all
        };
        let all = taken(&mut pool, private);
        assert!(all.contains(&(LAYOUT.private_low + 0x20_0000, 0x20_0000)));
        // The firmware cannot be written.
        let flash = LAYOUT.flash_copy..LAYOUT.flash_copy + LAYOUT.flash;
        assert!(!all.iter().any(|(address, _)| flash.contains(address)));
        assert_eq!(taken(&mut pool, private), []);
        tables
            .alias(&mut pool, &LAYOUT, 0x5000, Alias::Data)
            .unwrap();
        let aliases = tables.alias_table();
        assert_eq!(taken(&mut pool, aliases), [(0x5000, 4096)]);
        assert_eq!(taken(&mut pool, aliases), []);
    }

    #[test]
    fn exhaustion_is_reported() {
        assert_eq!(private_map(&mut Pool::new(3), &LAYOUT), Err(Exhausted));
    }
}
