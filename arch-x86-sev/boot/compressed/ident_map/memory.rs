// SPDX-License-Identifier: GPL-2.0

//! The memory of page tables: mapped to itself.

use core::arch::asm;

use super::paging::{
    entry::Entry,
    pool::TABLE_SIZE,
    Memory, //
};

/// Page tables as they are in memory, in use or to be used.
///
/// The identity map hands out addresses in tables that it has itself made or found, nothing else;
/// they are mapped: in the page tables of the boot loader, because it has to map the decompressor
/// and all that is in it, and in the identity map, because that is the first thing it maps.
pub(crate) struct Ram(());

impl Ram {
    /// # Safety
    ///
    /// Nothing else may access the page tables in this one's lifetime but the processor.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Ram {
        Ram(())
    }
}

impl Memory for Ram {
    #[inline(always)]
    fn read(&self, slot: u64) -> Entry {
        // SAFETY: An entry of a table, see above. The processor may write it as well: volatile.
        Entry::new(unsafe { (slot as *const u64).read_volatile() })
    }

    #[inline(always)]
    fn write(&mut self, slot: u64, entry: Entry) {
        // SAFETY: An entry of a table, see above. The processor may read it as well: volatile.
        unsafe { (slot as *mut u64).write_volatile(entry.bits()) };
    }

    #[inline(always)]
    fn clear(&mut self, table: u64) {
        // SAFETY: A table, see above. `write_bytes()` would call the decompressor's memset(), which
        // writes bytes.
        unsafe {
            asm!(
                "rep stosq",
                inout("rdi") table => _,
                inout("rcx") TABLE_SIZE / 8 => _,
                in("rax") 0,
                options(nostack, preserves_flags),
            );
        }
    }
}
