// SPDX-License-Identifier: GPL-2.0

//! The data that belongs to SEV-ES: the GHCBs, and the per-CPU pointer to what a CPU's handler
//! needs. C code knows them by name.

use core::{
    mem::MaybeUninit,
    ptr::null_mut, //
};

use kernel::bindings;

/// The boot GHCB: a page in the section that is mapped shared with the hypervisor.
#[repr(C, align(4096))]
pub(crate) struct BootGhcbPage(MaybeUninit<bindings::ghcb>);

/// For communication before the per-CPU GHCBs are set up.
#[link_section = ".bss..decrypted"]
pub(crate) static mut BOOT_GHCB_PAGE: BootGhcbPage = BootGhcbPage(MaybeUninit::zeroed());

/// The boot GHCB once it is set up. Not in .bss: it must be NULL before that is cleared.
#[no_mangle]
#[link_section = ".data"]
#[allow(non_upper_case_globals)]
pub(crate) static mut boot_ghcb: *mut bindings::ghcb = null_mut();

/// A CPU's GHCB, its backup, who uses them, and the shadow of DR7.
#[no_mangle]
#[cfg_attr(CONFIG_SMP, link_section = ".data..percpu")]
#[cfg_attr(not(CONFIG_SMP), link_section = ".data")]
#[allow(non_upper_case_globals)]
pub(crate) static mut runtime_data: *mut bindings::sev_es_runtime_data = null_mut();

/// Users that a CPU's GHCB has: the running one, and those that it interrupted.
#[no_mangle]
#[cfg_attr(CONFIG_SMP, link_section = ".data..percpu")]
#[cfg_attr(not(CONFIG_SMP), link_section = ".data")]
#[allow(non_upper_case_globals)]
pub(crate) static mut sev_es_ghcb_users: u64 = 0;

/// A CPU's instance of a per-CPU variable.
///
/// # Safety
///
/// `variable` must point to a per-CPU variable, and `cpu` must be possible.
pub(crate) unsafe fn per_cpu<T>(variable: *mut T, cpu: u32) -> *mut T {
    // SAFETY: The table has an entry for each possible CPU.
    #[cfg(CONFIG_SMP)]
    let offset = unsafe {
        (&raw const bindings::__per_cpu_offset)
            .cast::<usize>()
            .add(cpu as usize)
            .read()
    };
    #[cfg(not(CONFIG_SMP))]
    let offset = {
        let _ = cpu;
        0
    };

    variable.wrapping_byte_add(offset)
}

/// This CPU's runtime data; `None` before it is allocated.
#[inline]
pub(crate) fn this_cpu() -> Option<*mut bindings::sev_es_runtime_data> {
    let data = this_cpu_read!(runtime_data) as *mut bindings::sev_es_runtime_data;

    if data.is_null() {
        None
    } else {
        Some(data)
    }
}

/// Iterates over the CPUs that may ever run.
pub(crate) fn possible_cpus() -> impl Iterator<Item = u32> {
    (0..kernel::cpu::nr_cpu_ids()).filter(|&cpu| {
        // SAFETY: The mask does not change after it was set up, long before.
        let mask = unsafe { bindings::__cpu_possible_mask };

        mask.bits
            .get(cpu as usize / 64)
            .is_some_and(|word| word & (1 << (cpu % 64)) != 0)
    })
}
