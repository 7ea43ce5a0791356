// SPDX-License-Identifier: GPL-2.0
//! Host memory: the direct map of all physical memory, and the move of the image out of guest RAM.

use core::arch::asm;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// Where the direct map starts (slot 256 of the root).
const DIRECT: u64 = 0xff00_0000_0000_0000;
/// Link base of the image.
const IMAGE_VMA: u64 = 0xffff_ffff_8000_0000;
/// Physical memory that boot.S maps by 1 GiB pages.
const DIRECT_LIMIT: u64 = 1 << 39;
/// Address bits of a table entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Large pages: the image moves in these.
pub const LARGE: u64 = 2 << 20;

extern "C" {
    static image_start: u8;
    static image_end: u8;
    static mut boot_pml5: [u64; 512];
    static mut boot_pml4_direct: [u64; 512];
    static mut boot_pml4_image: [u64; 512];
    static mut boot_pdpt_image: [u64; 512];
    static mut boot_pd_image: [u64; 512];
}

/// Physical address of `image_start` at the moment.
static IMAGE_PA: AtomicU64 = AtomicU64::new(LARGE);

/// Pointer to physical memory. Sound to use for RAM that is the host's or the guest's.
pub fn direct(pa: u64) -> *mut u8 {
    (DIRECT + pa) as *mut u8
}

/// Physical address of a pointer that [`direct`] gave.
pub fn physical(at: *const u8) -> u64 {
    at as u64 - DIRECT
}

/// Whether the direct map reaches `pa`.
pub fn reachable(pa: u64) -> bool {
    pa < DIRECT_LIMIT
}

/// Bytes of the image.
pub fn image_len() -> u64 {
    &raw const image_end as u64 - &raw const image_start as u64
}

/// Physical address of something static.
pub fn image_pa<T>(at: *const T) -> u64 {
    let start = &raw const image_start as u64;
    at as u64 - start + IMAGE_PA.load(Ordering::Relaxed)
}

/// Copies physical memory.
pub fn copy(from: u64, to: u64, len: u64) {
    // SAFETY: callers name RAM that the host owns, and ranges that do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(direct(from), direct(to), len as usize) }
}

/// Fills physical memory with zeros.
pub fn wipe(start: u64, end: u64) {
    // SAFETY: callers name RAM that the host owns.
    unsafe { core::ptr::write_bytes(direct(start), 0, (end - start) as usize) }
}

/// Moves the image to `target` (2 MiB aligned) and continues there. Returns the new CR3.
#[inline(never)]
pub fn relocate(target: u64) -> u64 {
    let source = IMAGE_PA.load(Ordering::Relaxed);
    let delta = target.wrapping_sub(source);
    // Statics change from here on in the copy only, so the address comes first.
    IMAGE_PA.store(target, Ordering::Relaxed);
    copy(source, target, image_len());
    let in_copy = |table: u64| direct(table - IMAGE_VMA - source + target).cast::<u64>();
    // SAFETY: these are the page tables of the copy, which no CPU uses yet.
    unsafe {
        for table in [
            &raw const boot_pml5 as u64,
            &raw const boot_pml4_direct as u64,
            &raw const boot_pml4_image as u64,
            &raw const boot_pdpt_image as u64,
            &raw const boot_pd_image as u64,
        ] {
            for index in 0..512 {
                let entry = in_copy(table).add(index);
                if *entry & 1 != 0 {
                    *entry = (*entry).wrapping_add(delta);
                }
            }
        }
        // The identity map was for the switch to long mode only.
        *in_copy(&raw const boot_pml5 as u64) = 0;
        let cr3 = image_pa(&raw const boot_pml5);
        asm!("mov cr3, {}", in(reg) cr3, options(nostack));
        cr3
    }
}

/// Maps the 512 GiB around a device's address beyond the direct map.
pub fn map_device(pa: u64, new_table: impl FnOnce() -> u64) {
    // The direct map's slots of the root: 256 TiB each, and 512 GiB below.
    let slot = (pa >> 39) as usize & 0x1ff;
    assert!(
        pa >> 48 == 0,
        "device at {pa:#x} is out of the direct map's reach"
    );
    let base = pa & !(DIRECT_LIMIT - 1);
    // SAFETY: an entry that was absent becomes present; no translation changes.
    unsafe {
        let entry = &raw mut boot_pml4_direct[slot];
        if *entry & 1 != 0 {
            return;
        }
        let table = new_table();
        let pages = direct(table).cast::<u64>();
        for index in 0..512 {
            // 1 GiB pages, present, writable, not cached.
            *pages.add(index) = (base + ((index as u64) << 30)) | 0xfb;
        }
        *entry = table & ADDRESS | 0x23;
    }
}
