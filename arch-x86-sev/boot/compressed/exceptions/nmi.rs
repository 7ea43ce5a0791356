// SPDX-License-Identifier: GPL-2.0

//! NMIs: nothing in the decompressor causes one, and nothing can be done about it.

use core::ptr::addr_of_mut;

use super::c;

/// Counts an NMI; `extract_kernel()` prints how many there were.
///
/// # Safety
///
/// Called by the entry code only.
#[no_mangle]
unsafe extern "C" fn do_boot_nmi_trap() {
    let count = addr_of_mut!(c::spurious_nmi_count);

    // SAFETY: There is one CPU. NMIs are masked until this returns; a hypervisor that injects one
    // all the same makes the count wrong, which is all that can happen.
    unsafe { count.write_volatile(count.read_volatile().wrapping_add(1)) };
}
