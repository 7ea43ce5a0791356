// SPDX-License-Identifier: GPL-2.0
//! The windows of the isolated space: slots of one page table, by which an exit reaches the few
//! pages that it needs besides the image and its vCPU's own.

use core::arch::asm;

use hypervisor::Use;
use machine::in_use::PAGE;
use machine::isolation::leaf;
use machine::isolation::Access;
use machine::isolation::Cache;
use machine::isolation::Named;
use machine::isolation::Placed;
use machine::isolation::Reason;

use super::leave;
use super::local;
use crate::memory::direct;
use crate::memory::LOCAL;

/// The page table of [`LOCAL`] is mapped in its own second page.
pub const TABLE: u64 = LOCAL + PAGE;
/// First slot for what the processor itself reaches: guest memory of both kinds, nested tables. All
/// empty while the hypervisor handles a request.
const PROCESSOR: usize = 16;
/// Slots of this window.
const PROCESSOR_SLOTS: usize = 32;
/// First slot for shared pages that the request names, the GHCB first.
const NAMED: usize = PROCESSOR + PROCESSOR_SLOTS;
/// Slots of this window: the GHCB, the largest scratch area outside of it (17), and more.
const NAMED_SLOTS: usize = 24;
/// First slot for devices' registers.
const DEVICES: usize = NAMED + NAMED_SLOTS;
/// Slots of this window.
const DEVICE_SLOTS: usize = 8;

const _: () = assert!(DEVICES + DEVICE_SLOTS <= 512);

/// What the slots hold. Zeros are empty windows.
pub struct Windows {
    processor: Cache<PROCESSOR_SLOTS>,
    named: Named<NAMED_SLOTS>,
    devices: Cache<DEVICE_SLOTS>,
    /// The last slot of the processor's window that was closed.
    closed: usize,
}

/// Writes an entry of the table that maps [`LOCAL`].
///
/// # Safety
/// As [`local`]. The slot belongs to a window, and nobody uses what it held.
#[inline(always)]
unsafe fn set(slot: usize, entry: u64) {
    // SAFETY: by the caller; the table is mapped there.
    unsafe { (TABLE as *mut u64).add(slot).write_volatile(entry) }
}

/// Forgets the translation of a slot.
#[inline(always)]
fn invalidate(slot: usize) {
    // SAFETY: invalidating a translation is always sound. Not `nomem`: accesses stay on their side.
    unsafe { asm!("invlpg [{}]", in(reg) at(slot, 0), options(nostack, preserves_flags)) }
}

/// Address of a byte in a slot.
#[inline(always)]
fn at(slot: usize, pa: u64) -> *mut u8 {
    (LOCAL + slot as u64 * PAGE + pa % PAGE) as *mut u8
}

/// Maps the page of `pa` where a window placed it. Address of the byte.
///
/// # Safety
/// As [`set`].
#[inline(always)]
unsafe fn fill(first: usize, placed: Placed, pa: u64, access: Access) -> *mut u8 {
    let (Placed::Held(index) | Placed::Empty(index) | Placed::Other(index)) = placed;
    let slot = first + index;
    if !matches!(placed, Placed::Held(_)) {
        // SAFETY: by the caller.
        unsafe { set(slot, leaf(pa, access)) };
        if matches!(placed, Placed::Other(_)) {
            invalidate(slot);
        }
    }
    at(slot, pa)
}

/// Memory as the processor reaches it, by its physical address; good up to the end of the page and
/// until the next call.
#[inline(never)]
pub fn processor(pa: u64) -> *mut u8 {
    // SAFETY: the exit loop runs on CPUs that started; pointers are used at once.
    unsafe {
        let placed = local().windows.processor.place(pa & !(PAGE - 1));
        fill(PROCESSOR, placed, pa, Access::Data)
    }
}

/// The processor's part of an exit is over: nothing that it reached stays mapped.
pub fn close_processor() {
    // SAFETY: as above.
    unsafe {
        let windows = &mut local().windows;
        windows.processor.drain(|index| {
            set(PROCESSOR + index, 0);
            invalidate(PROCESSOR + index);
            windows.closed = index;
        });
    }
}

/// A device's register.
pub fn device(pa: u64) -> *mut u8 {
    // SAFETY: as for `processor`.
    unsafe {
        let placed = local().windows.devices.place(pa & !(PAGE - 1));
        fill(DEVICES, placed, pa, Access::Device)
    }
}

/// Maps shared memory that the exit names: RAM of the guest.
pub fn name(what: Use, gpa: u64, len: u64) {
    // SAFETY: as for `processor`.
    let local = unsafe { local() };
    if local.outside {
        return;
    }
    let first = gpa & !(PAGE - 1);
    if what == Use::Ghcb {
        let placed = local.windows.named.ghcb(first);
        // SAFETY: pointers into the window live as long as one access.
        unsafe { fill(NAMED, placed, first, Access::Data) };
        return;
    }
    for page in (first..gpa + len).step_by(PAGE as usize) {
        let Ok(placed) = local.windows.named.page(page) else {
            return leave(Reason::Transfer);
        };
        // SAFETY: as above.
        unsafe { fill(NAMED, placed, page, Access::Data) };
    }
}

/// Shared memory, good up to the end of the page. What the exit did not name is looked for in the
/// direct map: that faults.
#[inline(always)]
pub fn shared(gpa: u64) -> *mut u8 {
    // SAFETY: as for `processor`.
    let local = unsafe { local() };
    match local.windows.named.find(gpa & !(PAGE - 1)) {
        Some(index) if !local.outside => at(NAMED + index, gpa),
        _ => direct(gpa),
    }
}

/// The exit is over: forgets what it named, but the GHCB.
pub fn end_named() {
    // SAFETY: as for `processor`; nobody uses the slots any more.
    unsafe {
        local().windows.named.end(|index| {
            set(NAMED + index, 0);
            invalidate(NAMED + index);
        });
    }
}

/// Where the processor reached memory right before its window was closed.
pub fn last_closed() -> *mut u8 {
    // SAFETY: as for `processor`.
    at(PROCESSOR + unsafe { local() }.windows.closed, 0)
}

/// Shared memory that the exit in hand did not name.
pub fn unnamed() -> u64 {
    // SAFETY: as for `processor`.
    let named = unsafe { &local().windows.named };
    let mut pages = (1..).map(|n| n * PAGE);
    pages.find(|page| named.find(*page).is_none()).unwrap_or(0)
}
