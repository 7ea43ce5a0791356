// SPDX-License-Identifier: GPL-2.0
//! Page tables in the guest's private memory that map a few regions to themselves.

use core::ops::Range;

use super::put;
use super::LaunchError;
use super::Region;
use super::PAGE;
use crate::entry::ADDRESS;
use crate::entry::LARGE;
use crate::entry::LARGE_SIZE;
use crate::entry::PRESENT;
use crate::entry::WRITABLE;
use crate::paging::GuestMemory;

/// Fills four-level tables; the root is the room's first page.
pub struct Builder<'a, M> {
    memory: &'a M,
    room: Region,
    used: u64,
    cbit: u64,
}

impl<'a, M: GuestMemory> Builder<'a, M> {
    /// Starts with an empty root. The room has to be zeroed, as memory is at launch.
    pub fn new(memory: &'a M, room: Region, cbit: u64) -> Self {
        Self {
            memory,
            room,
            used: PAGE,
            cbit,
        }
    }

    /// Maps whole pages to themselves, private and writable: by 2 MiB where that maps nothing
    /// else.
    pub fn identity(&mut self, pages: Range<u64>) -> Result<(), LaunchError> {
        let mut at = pages.start;
        while at < pages.end {
            let large = at % LARGE_SIZE == 0 && pages.end - at >= LARGE_SIZE;
            let (level, size, flag) = if large {
                (2, LARGE_SIZE, LARGE)
            } else {
                (1, PAGE, 0)
            };
            let entry = self.entry_of(at, level)?;
            self.set(entry, at | flag)?;
            at += size;
        }
        Ok(())
    }

    /// Address of the entry for `gpa` in the table of `level` (1: page table, 4: root).
    fn entry_of(&mut self, gpa: u64, level: u32) -> Result<u64, LaunchError> {
        let slot = |table: u64, level: u32| table + ((gpa >> (12 + 9 * (level - 1))) & 0x1ff) * 8;
        let mut entry = slot(self.room.start, 4);
        for next in (level..4).rev() {
            let mut value = self.memory.entry(entry, 8)?;
            if value & PRESENT == 0 {
                if self.used >= self.room.len {
                    return Err(LaunchError::Tables);
                }
                value = self.room.start + self.used;
                self.used += PAGE;
                self.set(entry, value)?;
            }
            entry = slot(value & ADDRESS & !self.cbit, next);
        }
        Ok(entry)
    }

    fn set(&self, entry: u64, value: u64) -> Result<(), LaunchError> {
        let value = value | PRESENT | WRITABLE | self.cbit;
        Ok(put(self.memory, entry, &value.to_le_bytes())?)
    }
}
