// SPDX-License-Identifier: GPL-2.0
//! Hidden memory: page-table pages out of it, and pages that the processor may mark in-use.

use core::marker::PhantomData;
use core::ops::Deref;
use core::ops::DerefMut;

use machine::in_use::InUsePage;
use machine::in_use::Pool;
use machine::isolation::Reason;
use machine::npt::Frames;
use machine::vmcb::Vmcb;
use spin::Mutex;

use crate::isolation;
use crate::memory;
use crate::memory::direct;
use crate::world::Memory;

/// Hidden memory, once [`init`] has run. QEMU's RAM starts zeroed.
#[link_section = ".bss.host_only"]
static HIDDEN: Mutex<Pool> = Mutex::new(Pool::EMPTY);

/// Gives the allocator its memory.
pub fn init(start: u64, end: u64) {
    *HIDDEN.lock() = Pool::new(start, end);
}

fn exhausted(len: u64) -> ! {
    crate::fatal!(
        "not enough hidden memory: {} bytes wanted, {} left; give QEMU a larger -m",
        len,
        HIDDEN.lock().left()
    )
}

/// Takes hidden memory, or ends with a message.
pub fn take(len: u64, align: u64) -> u64 {
    let taken = HIDDEN.lock().take(len, align);
    taken.unwrap_or_else(|| exhausted(len))
}

/// What fills a page, is valid if all its bytes are 0, and has no padding.
///
/// # Safety
/// The implementation has to be as said.
pub unsafe trait PageSized {}

// SAFETY: integers and arrays of them, of 4096 bytes by an assertion next to the type.
unsafe impl PageSized for Vmcb {}
// SAFETY: bytes.
unsafe impl PageSized for [u8; 4096] {}

/// A page that the processor may mark in-use, such as a VMCB, with its one owner. It is found by
/// the direct map at each access: the processor writes to it as well, between two borrows.
pub struct InUse<T: PageSized>(InUsePage, PhantomData<T>);

impl<T: PageSized> InUse<T> {
    /// A page of zeros, or the end with a message.
    pub fn new() -> Self {
        const { assert!(size_of::<T>() == 4096 && align_of::<T>() <= 4096) };
        let page = HIDDEN.lock().in_use();
        let page = page.unwrap_or_else(|| exhausted(2 * 4096));
        Self(page, PhantomData)
    }

    /// Its physical address.
    #[inline(always)]
    pub fn pa(&self) -> u64 {
        self.0.address()
    }
}

impl<T: PageSized> Deref for InUse<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: a page that this value alone owns, with a valid T (zeros at first); the processor
        // writes to it by VMRUN and VMSAVE only, which no borrow spans.
        unsafe { &*direct(self.pa()).cast::<T>() }
    }
}

impl<T: PageSized> DerefMut for InUse<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *direct(self.pa()).cast::<T>() }
    }
}

/// Page-table pages from hidden memory, by the direct map.
pub struct Tables;

impl Frames for Tables {
    fn alloc(&mut self) -> Option<u64> {
        let page = HIDDEN.lock().page()?;
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

/// The same for the exit loop, which may be isolated: pages are reached by its window, and a new
/// one is a reason to leave.
pub struct NestedTables<'a>(pub &'a Memory);

impl NestedTables<'_> {
    fn entry(&self, table: u64, index: usize) -> *mut u64 {
        self.0.at(table + index as u64 * 8).cast()
    }
}

impl Frames for NestedTables<'_> {
    fn alloc(&mut self) -> Option<u64> {
        isolation::leave(Reason::NestedTable);
        Tables.alloc()
    }

    fn get(&self, table: u64, index: usize) -> u64 {
        // SAFETY: `table` is a page of ours, `index` below 512.
        unsafe { self.entry(table, index).read_volatile() }
    }

    fn set(&mut self, table: u64, index: usize, entry: u64) {
        // SAFETY: as above; the CPU may walk the table meanwhile, entries are written whole.
        unsafe { self.entry(table, index).write_volatile(entry) }
    }

    fn clear(&mut self, table: u64) {
        // SAFETY: as above, all of the page.
        unsafe { core::ptr::write_bytes(self.entry(table, 0), 0, 512) }
    }
}
