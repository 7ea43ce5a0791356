// SPDX-License-Identifier: GPL-2.0
//! Page tables of an isolated space: five levels, 4 KiB pages, nothing but what is named.

use super::Access;
use super::Region;
use crate::entry::ACCESSED;
use crate::entry::ADDRESS;
use crate::entry::DIRTY;
use crate::entry::NX;
use crate::entry::PRESENT;
use crate::entry::WRITABLE;
use crate::in_use::PAGE;
use crate::npt::Frames;

/// Write-through and cache-disable (APM vol. 2, 5.4.1): not cached with the PAT as after reset.
const UNCACHED: u64 = 3 << 3;
/// An entry that names a table. The pages' own entries say what may be done.
const TABLE: u64 = PRESENT | WRITABLE | ACCESSED;

/// Why a region was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There are no more page-table pages.
    Exhausted,
    /// It is not made of whole pages, or wraps around.
    Unaligned(u64),
    /// Something is mapped at this address already.
    Taken(u64),
}

/// The entry of a page. Accessed and dirty are preset: the processor has nothing to write.
pub fn leaf(pa: u64, access: Access) -> u64 {
    let bits = match access {
        Access::Code => 0,
        Access::Constants => NX,
        Access::Data => NX | WRITABLE,
        Access::Device => NX | WRITABLE | UNCACHED,
    };
    pa & ADDRESS | PRESENT | ACCESSED | DIRTY | bits
}

/// Index into the table of `level` (1: page table, 5: root).
fn index(at: u64, level: u32) -> usize {
    (at >> (12 + 9 * (level - 1))) as usize & 0x1ff
}

/// Maps a region below `root`, and returns the page table of its last page. No large pages: they
/// would map what lies around as well.
pub fn map<F: Frames>(frames: &mut F, root: u64, region: &Region) -> Result<u64, MapError> {
    let whole = (region.at | region.pa | region.len) % PAGE == 0;
    let end = region.at.checked_add(region.len.wrapping_sub(1));
    if !whole || region.len == 0 || end.is_none() {
        return Err(MapError::Unaligned(region.at));
    }
    let mut last = 0;
    for offset in (0..region.len).step_by(PAGE as usize) {
        let at = region.at + offset;
        let mut table = root;
        for level in (2..=5).rev() {
            let entry = frames.get(table, index(at, level));
            table = if entry & PRESENT != 0 {
                entry & ADDRESS
            } else {
                let new = frames.alloc().ok_or(MapError::Exhausted)?;
                frames.set(table, index(at, level), new | TABLE);
                new
            };
        }
        if frames.get(table, index(at, 1)) & PRESENT != 0 {
            return Err(MapError::Taken(at));
        }
        frames.set(table, index(at, 1), leaf(region.pa + offset, region.access));
        last = table;
    }
    Ok(last)
}
