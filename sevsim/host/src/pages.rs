// SPDX-License-Identifier: GPL-2.0
//! Hidden memory: a region that only shrinks, and page-table pages out of it.

use machine::npt::Frames;
use spin::Mutex;

use crate::memory;
use crate::memory::direct;

/// What is left of hidden memory.
pub struct Hidden {
    next: u64,
    end: u64,
}

/// Hidden memory, once [`init`] has run.
pub static HIDDEN: Mutex<Hidden> = Mutex::new(Hidden { next: 0, end: 0 });

/// Gives the allocator its memory.
pub fn init(start: u64, end: u64) {
    *HIDDEN.lock() = Hidden { next: start, end };
}

impl Hidden {
    /// Takes `len` bytes with an alignment that is a power of two. QEMU's RAM starts zeroed.
    pub fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_add(align - 1)? & !(align - 1);
        let next = start.checked_add(len)?;
        if next > self.end {
            return None;
        }
        self.next = next;
        Some(start)
    }

    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.end - self.next
    }
}

/// Takes hidden memory, or ends with a message.
pub fn take(len: u64, align: u64) -> u64 {
    let taken = HIDDEN.lock().take(len, align);
    match taken {
        Some(start) => start,
        None => crate::fatal!(
            "not enough hidden memory: {} bytes wanted, {} left; give QEMU a larger -m",
            len,
            HIDDEN.lock().left()
        ),
    }
}

/// Page-table pages from hidden memory.
pub struct Tables;

impl Frames for Tables {
    fn alloc(&mut self) -> Option<u64> {
        let page = HIDDEN.lock().take(4096, 4096)?;
        memory::wipe(page, page + 4096);
        Some(page)
    }

    fn get(&self, table: u64, index: usize) -> u64 {
        // SAFETY: `table` is a page of ours, `index` below 512.
        unsafe { direct(table).cast::<u64>().add(index).read_volatile() }
    }

    fn set(&mut self, table: u64, index: usize, entry: u64) {
        // SAFETY: as above; the CPU may walk the table meanwhile, entries are written whole.
        unsafe { direct(table).cast::<u64>().add(index).write_volatile(entry) }
    }

    fn clear(&mut self, table: u64) {
        memory::wipe(table, table + 4096);
    }
}
