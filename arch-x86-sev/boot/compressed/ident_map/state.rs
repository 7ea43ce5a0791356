// SPDX-License-Identifier: GPL-2.0

//! The one identity map that there is.

use core::{
    cell::{
        Cell,
        UnsafeCell, //
    },
    sync::atomic::{
        compiler_fence,
        Ordering, //
    }, //
};

use super::{
    failure::Report,
    memory::Ram,
    paging::IdentityMap, //
};

/// The map, and whether it is there and nobody uses it.
struct State {
    map: UnsafeCell<IdentityMap>,
    free: Cell<bool>,
}

// SAFETY: There is one CPU. What can interrupt a user of the map are exceptions: an NMI, whose
// handler does not use it, and a page fault or #VC, whose handlers find it in use and stop.
unsafe impl Sync for State {}

static STATE: State = State {
    map: UnsafeCell::new(IdentityMap::EMPTY),
    free: Cell::new(false),
};

/// Sets the map.
///
/// # Safety
///
/// Once, before anybody uses the map.
#[inline(always)]
pub(crate) unsafe fn set(map: IdentityMap) {
    // SAFETY: Nobody has a reference, by the contract of the function.
    unsafe { *STATE.map.get() = map };
    compiler_fence(Ordering::SeqCst);
    STATE.free.set(true);
}

/// Uses the map. Ends the boot if there is none, or if somebody else is using it: that is an
/// exception in the midst of a change of page tables, and these are not worth anything any more.
#[inline(always)]
pub(crate) fn with<R>(work: impl FnOnce(&mut IdentityMap, &mut Ram) -> R) -> R {
    if !STATE.free.replace(false) {
        Report::new(c"Identity map needed while it is changed").stop();
    }

    // An exception in `work` has to find the map in use.
    compiler_fence(Ordering::SeqCst);

    // SAFETY: The flag was set, so that nobody else has a reference to the map, and it is not set
    // again before the end of this one. Whoever has the map has the page tables.
    let result = unsafe { work(&mut *STATE.map.get(), &mut Ram::new()) };

    compiler_fence(Ordering::SeqCst);
    STATE.free.set(true);
    result
}
