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

    // SAFETY: An NMI does not interrupt this function, for they are masked until it returns, and it
    // is the only writer. The reader sees an old or a new value.
    unsafe { count.write_volatile(count.read_volatile().wrapping_add(1)) };
}
