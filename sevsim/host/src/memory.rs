// SPDX-License-Identifier: GPL-2.0
//! Host memory: the direct map of all physical memory, and the move of the image out of guest RAM.

use core::arch::asm;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use spin::Mutex;

/// Where the direct map starts (slot 511 of the root, and slot 511 of the table that it names).
const DIRECT: u64 = 0xffff_ff80_0000_0000;
/// What one page-directory-pointer table maps.
const SLOT: u64 = 1 << 39;
/// Entries of the direct map, 1 GiB each.
const DIRECT_ENTRIES: usize = 508;
/// Entry of what each CPU has of its own while it handles exits isolated (isolation.rs).
const LOCAL_ENTRY: usize = 508;
/// Where that is.
pub const LOCAL: u64 = DIRECT + ((LOCAL_ENTRY as u64) << 30);
/// Physical memory that the direct map reaches.
const DIRECT_LIMIT: u64 = (DIRECT_ENTRIES as u64) << 30;
/// Where devices beyond the direct map are mapped: slot 509 of the root.
const DEVICES: u64 = 0xfffd_0000_0000_0000;
/// That slot.
const DEVICES_ENTRY: usize = 509;
/// Entry of the image.
const IMAGE_ENTRY: usize = 510;
/// Entry by which the table is its own child.
const SELF_ENTRY: usize = 511;
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

/// Whether [`map_device`] can map `pa`: below 256 TiB.
pub fn mappable(pa: u64) -> bool {
    pa >> 48 == 0
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
    // Statics change from here on in the copy only, so the address comes first.
    IMAGE_PA.store(target, Ordering::Relaxed);
    copy(source, target, image_len());
    let in_copy = |table: *const u64| direct(image_pa(table)).cast::<u64>();
    // SAFETY: these are the page tables of the copy, which no CPU uses yet.
    unsafe {
        let image = if target % HUGE == LARGE {
            (target - LARGE) | LEAF
        } else {
            let directory = in_copy((&raw const boot_pd_image).cast());
            for index in 0..image_len().div_ceil(LARGE) {
                *directory.add(1 + index as usize) = (target + index * LARGE) | LEAF;
            }
            image_pa(&raw const boot_pd_image) | TABLE
        };
        let cr3 = image_pa(&raw const boot_pml5);
        fill_table(in_copy((&raw const boot_pml5).cast()), cr3, image);
        asm!("mov cr3, {}", in(reg) cr3, options(nostack));
        cr3
    }
}

/// Makes the one table that maps all of the host. It is its own child, and so serves as table of
/// level 5 and 4, by its last entry, and as the page-directory-pointer table of 1 GiB pages: each
/// table is another page that QEMU looks up after each exit. The leaves are no valid entries of
/// the upper levels; nothing uses those addresses.
///
/// # Safety
/// `table` is a page for it, at the physical address `pa`.
unsafe fn fill_table(table: *mut u64, pa: u64, image: u64) {
    for index in 0..512 {
        let entry = match index {
            IMAGE_ENTRY => image,
            SELF_ENTRY => pa | TABLE,
            _ if index < DIRECT_ENTRIES => ((index as u64) << 30) | LEAF,
            _ => 0,
        };
        // SAFETY: by the caller.
        unsafe { *table.add(index) = entry };
    }
}

/// Makes a root like the one that all CPUs use, with `local` as the page directory of [`LOCAL`].
/// Devices that [`map_device`] maps later are not in it.
pub fn full_root(page: u64, local: u64) {
    // SAFETY: `page` is a fresh page; the table that it becomes a copy of maps what it did.
    unsafe {
        let (from, to) = (&raw const boot_pml5, direct(page).cast::<u64>());
        for index in 0..512 {
            *to.add(index) = match index {
                SELF_ENTRY => page | TABLE,
                LOCAL_ENTRY => local | TABLE,
                _ => (*from)[index],
            };
        }
    }
}

/// CR3 of the tables that all CPUs start with.
pub fn common_cr3() -> u64 {
    image_pa(&raw const boot_pml5)
}

/// Pointer to a device's register that the direct map does not reach but [`mappable`] names; maps
/// the 512 GiB around it.
pub fn map_device(pa: u64, new_table: impl Fn() -> u64) -> *mut u8 {
    static MAPPING: Mutex<()> = Mutex::new(());
    let _mapping = MAPPING.lock();
    let at = (DEVICES + pa) as *mut u8;
    // SAFETY: an entry that was absent becomes present; no translation changes.
    unsafe {
        let root = &raw mut boot_pml5[DEVICES_ENTRY];
        if *root & 1 == 0 {
            *root = new_table() | TABLE;
        }
        let entry = direct(*root & ADDRESS)
            .cast::<u64>()
            .add((pa >> 39) as usize);
        if *entry & 1 != 0 {
            return at;
        }
        let base = pa & !(SLOT - 1);
        let table = new_table();
        let pages = direct(table).cast::<u64>();
        for index in 0..512 {
            // 1 GiB pages, present, writable, not cached.
            *pages.add(index) = (base + ((index as u64) << 30)) | 0xfb;
        }
        *entry = table | TABLE;
    }
    at
}
