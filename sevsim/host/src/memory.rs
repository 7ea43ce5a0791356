// SPDX-License-Identifier: GPL-2.0
//! Host memory: the direct map of all physical memory, and the move of the image out of guest RAM.

use core::arch::asm;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// Where the direct map starts (slot 256 of the root).
const DIRECT: u64 = 0xff00_0000_0000_0000;
/// What one page-directory-pointer table maps.
const SLOT: u64 = 1 << 39;
/// Physical memory that boot.S maps: the first slot, but for the two entries around the image.
const DIRECT_LIMIT: u64 = 510 << 30;
/// Entry of the image in boot.S's table.
const IMAGE_ENTRY: usize = 510;
/// Present, writable, accessed, dirty, large.
const LEAF: u64 = 0xe3;
/// Present, writable, accessed.
const TABLE: u64 = 0x23;
/// Address bits of a table entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Large pages: the image moves in these.
pub const LARGE: u64 = 2 << 20;
/// The largest pages.
const HUGE: u64 = 1 << 30;

extern "C" {
    static image_start: u8;
    static image_end: u8;
    static mut boot_pml5: [u64; 512];
    static mut boot_pml4: [u64; 512];
    static mut boot_pdpt: [u64; 512];
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

/// End of what the direct map reaches.
pub fn end(top: u64) -> u64 {
    top.min(DIRECT_LIMIT)
}

/// Whether the direct map reaches `pa`.
pub fn reachable(pa: u64) -> bool {
    pa < DIRECT_LIMIT
}

/// Whether [`map_device`] can map `pa`: below 256 TiB, and not where the image is mapped.
pub fn mappable(pa: u64) -> bool {
    let image = pa >> 39 == 0;
    pa >> 48 == 0 && !image && pa >> 39 != 0x1ff
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

/// Where in hidden memory from `start` on the image goes best: at the same place within 1 GiB as
/// in its link address, so that a 1 GiB page maps it, if that wastes next to nothing.
pub fn image_target(start: u64) -> u64 {
    let start = start.next_multiple_of(LARGE);
    if start % HUGE == 0 {
        start + LARGE
    } else {
        start
    }
}

/// Moves the image to `target` (2 MiB aligned) and continues there. Returns the new CR3.
#[inline(never)]
pub fn relocate(target: u64) -> u64 {
    let source = IMAGE_PA.load(Ordering::Relaxed);
    let delta = target.wrapping_sub(source);
    // Statics change from here on in the copy only, so the address comes first.
    IMAGE_PA.store(target, Ordering::Relaxed);
    copy(source, target, image_len());
    let in_copy = |table: *const u64| direct(image_pa(table)).cast::<u64>();
    // SAFETY: these are the page tables of the copy, which no CPU uses yet.
    unsafe {
        let pml5 = in_copy((&raw const boot_pml5).cast());
        let pml4 = in_copy((&raw const boot_pml4).cast());
        for table in [pml5, pml4] {
            for index in 0..512 {
                let entry = table.add(index);
                if *entry & 1 != 0 {
                    *entry = (*entry).wrapping_add(delta);
                }
            }
        }
        // The identity map was for the switch to long mode only.
        *pml5 = 0;
        let image = if target % HUGE == LARGE {
            (target - LARGE) | LEAF
        } else {
            let directory = in_copy((&raw const boot_pd_image).cast());
            for index in 0..image_len().div_ceil(LARGE) {
                *directory.add(1 + index as usize) = (target + index * LARGE) | LEAF;
            }
            image_pa(&raw const boot_pd_image) | TABLE
        };
        *in_copy((&raw const boot_pdpt).cast()).add(IMAGE_ENTRY) = image;
        let cr3 = image_pa(&raw const boot_pml5);
        asm!("mov cr3, {}", in(reg) cr3, options(nostack));
        cr3
    }
}

/// Maps the 512 GiB around a device's address that is [`mappable`].
pub fn map_device(pa: u64, new_table: impl FnOnce() -> u64) {
    // The direct map's slots of the root: 256 TiB each, and 512 GiB below.
    let slot = (pa >> 39) as usize & 0x1ff;
    assert!(
        slot != 0,
        "device at {pa:#x} is where the direct map has the image"
    );
    let base = pa & !(SLOT - 1);
    // SAFETY: an entry that was absent becomes present; no translation changes.
    unsafe {
        let entry = &raw mut boot_pml4[slot];
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
