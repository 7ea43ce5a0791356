// SPDX-License-Identifier: GPL-2.0

//! Memory of the interrupted context, and its page tables.
//!
//! Page tables are walked with interrupts off, which keeps them from being freed, as lockless
//! walkers elsewhere in the kernel rely on.

use kernel::bindings;

use crate::cpu;
use crate::proto::{
    result::{
        PF_KEY,
        PF_PRESENT,
        PF_USER,
        PF_WRITE, //
    },
    Access,
    Error,
    Fault,
    Mapping,
    Regs,
    Result,
    Width, //
};

const PAGE_SIZE: u64 = 1 << bindings::PAGE_SHIFT;
const PTE_PRESENT: u64 = 1 << bindings::_PAGE_BIT_PRESENT;
const PTE_WRITABLE: u64 = 1 << bindings::_PAGE_BIT_RW;
const PTE_USER: u64 = 1 << bindings::_PAGE_BIT_USER;
/// A large page, in an entry of the second and the third level.
const PTE_LARGE: u64 = 1 << bindings::_PAGE_BIT_PSE;
/// Physical address in a page-table entry: bits 51:12, the C-bit among them.
const PTE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// True for the upper half of the address space. The end of the lower half, which user space cannot
/// use either, is never mapped.
#[inline(always)]
pub(crate) const fn is_kernel_address(address: u64) -> bool {
    address >> 63 != 0
}

/// The number of bytes from `address` to the end of its page.
#[inline]
pub(crate) fn bytes_in_page(address: u64) -> u64 {
    PAGE_SIZE - (address & (PAGE_SIZE - 1))
}

/// Reads from any mapped address; `Err` if it is not mapped. The caller decides what is allowed.
#[inline]
pub(crate) fn get(address: u64, width: Width) -> core::result::Result<u64, ()> {
    let mut value = 0;
    // SAFETY: Faults are caught, and `value` is valid. Addresses that must not be read are the
    // caller's business; reading one has no effect on the kernel's memory.
    let result = unsafe {
        bindings::sev_es_shim_get_mem(address as usize, width.bytes() as u32, &mut value)
    };

    if result == 0 {
        Ok(value)
    } else {
        Err(())
    }
}

/// Writes to any mapped address; `Err` if it is not mapped, or not writable.
///
/// # Safety
///
/// The interrupted context must be allowed to write there.
#[inline]
pub(crate) unsafe fn put(address: u64, value: u64, width: Width) -> core::result::Result<(), ()> {
    // SAFETY: Faults are caught; the write is what the interrupted context would have done.
    let result =
        unsafe { bindings::sev_es_shim_put_mem(address as usize, width.bytes() as u32, value) };

    if result == 0 {
        Ok(())
    } else {
        Err(())
    }
}

/// A leaf entry of the current page tables, with the permissions of all levels.
struct Leaf {
    entry: u64,
    permissions: u64,
    page_size: u64,
}

impl Leaf {
    /// The guest-physical address that `address` is mapped to, and whether it is encrypted.
    fn translate(&self, address: u64) -> (u64, bool) {
        // SAFETY: Set once, before the kernel is relocated.
        let c_bit = unsafe { bindings::sme_me_mask };
        let offset_mask = self.page_size - 1;
        let gpa = (self.entry & PTE_ADDRESS & !c_bit & !offset_mask) | (address & offset_mask);

        (gpa, self.entry & c_bit != 0)
    }

    /// True if the interrupted context may access the page.
    #[inline(always)]
    fn allows(&self, regs: &Regs, access: Access) -> bool {
        let mut needed = 0;

        if access == Access::Write {
            needed |= PTE_WRITABLE;
        }
        if regs.user_mode() {
            needed |= PTE_USER;
        }
        self.permissions & needed == needed
            && (self.permissions & PTE_USER == 0 || self.key_allows(access))
    }

    /// What keeps the interrupted context from accessing the page, as in the error code of a page
    /// fault; 0 if nothing does.
    fn denial(&self, regs: &Regs, access: Access) -> u32 {
        if self.allows(regs, access) {
            return 0;
        }
        if self.permissions & PTE_USER != 0 && !self.key_allows(access) {
            return PF_PRESENT | PF_KEY;
        }
        PF_PRESENT
    }

    /// The page fault for an access of the interrupted context that something denies.
    #[inline(always)]
    fn check(&self, regs: &Regs, address: u64, access: Access) -> Result {
        if self.allows(regs, access) {
            return Ok(());
        }
        Err(page_fault(regs, address, access, self.denial(regs, access)))
    }

    /// True if the protection key of a user page allows the access: to user space, and to the
    /// kernel, whose writes heed it, too, as CR0.WP is set.
    #[inline(never)]
    fn key_allows(&self, access: Access) -> bool {
        /// In PKRU, two bits for each key.
        const NO_ACCESS: u32 = 1;
        const NO_WRITE: u32 = 2;
        let key = self.entry >> bindings::_PAGE_BIT_PKEY_BIT0 & 15;
        let denied = match access {
            Access::Read => NO_ACCESS,
            Access::Write => NO_ACCESS | NO_WRITE,
        };

        cpu::pkru().is_none_or(|pkru| pkru >> (2 * key) & denied == 0)
    }

    /// True if `address` is mapped to memory, private or shared, and not to a device.
    fn is_memory(&self, address: u64) -> bool {
        let (gpa, encrypted) = self.translate(address);

        encrypted || is_ram(gpa)
    }
}

/// Looks up an address in the page tables that CR3 points to, as hardware does. `None` if it is not
/// mapped.
#[inline(never)]
fn lookup(address: u64) -> Option<Leaf> {
    walk(address)
}

/// As [`lookup`], for who needs it in each exit of a frequent kind.
#[inline(always)]
fn walk(address: u64) -> Option<Leaf> {
    // SAFETY: Set once, before the kernel is relocated.
    let frame = PTE_ADDRESS & !unsafe { bindings::sme_me_mask };
    let mut table = cpu::cr3() & frame;
    // SAFETY: Computes the address of the table that CR3 points to.
    let root = unsafe { bindings::sev_es_shim_current_pgd(0) } as u64;
    let direct_map = root.wrapping_sub(table);
    let mut permissions = PTE_WRITABLE | PTE_USER;
    // Of the bits of the address that choose an entry.
    let mut shift = cpu::linear_bits() - 9;

    loop {
        let index = (address >> shift) & 511;
        // SAFETY: Interrupts are off, so that the tables stay; they are in the direct mapping.
        let entry = unsafe {
            (direct_map.wrapping_add(table) as *const u64)
                .add(index as usize)
                .read_volatile()
        };

        if entry & PTE_PRESENT == 0 {
            return None;
        }
        permissions &= entry;
        let large = entry & PTE_LARGE != 0 && shift <= bindings::PUD_SHIFT;

        if large || shift == bindings::PAGE_SHIFT {
            return Some(Leaf {
                entry,
                permissions,
                page_size: 1 << shift,
            });
        }
        table = entry & frame;
        shift -= 9;
    }
}

/// The page fault for a failed access of `len` bytes at `address`: at its first byte, unless that
/// one is accessible and the rest is on another page.
///
/// If the page is accessible after all, it is as good as absent: the page fault handler finds
/// nothing to do, and the instruction runs again.
pub(crate) fn access_fault(regs: &Regs, address: u64, len: u64, access: Access) -> Error {
    let denial = |address| lookup(address).map(|leaf| leaf.denial(regs, access));
    let mut address = address;
    let mut denied = denial(address);

    if denied == Some(0) && bytes_in_page(address) < len {
        address = address.wrapping_add(bytes_in_page(address));
        denied = denial(address);
    }
    page_fault(regs, address, access, denied.unwrap_or(0))
}

/// A page fault for the interrupted context. `denial` is what [`Leaf::denial`] says, 0 if nothing
/// is mapped.
pub(crate) fn page_fault(regs: &Regs, address: u64, access: Access, denial: u32) -> Error {
    let mut code = denial;

    if access == Access::Write {
        code |= PF_WRITE;
    }
    if regs.user_mode() {
        code |= PF_USER;
    }
    Fault::page(address, code).into()
}

/// Refuses a page that is there and is not memory; for a write also one that the interrupted
/// context cannot write to.
pub(crate) fn probe(regs: &Regs, address: u64, access: Access) -> Result {
    let leaf = lookup(address);

    if access == Access::Write {
        let reachable = !regs.user_mode() || !is_kernel_address(address);

        match &leaf {
            Some(leaf) if reachable => leaf.check(regs, address, access)?,
            _ => return Err(page_fault(regs, address, access, 0)),
        }
    }
    match leaf {
        Some(leaf) if !leaf.is_memory(address) => Err(Error::Unsupported),
        _ => Ok(()),
    }
}

/// Finds out where an address of the kernel leads.
pub(crate) fn translate(regs: &Regs, address: u64, access: Access) -> Result<Mapping> {
    let leaf = walk(address).ok_or_else(|| page_fault(regs, address, access, 0))?;

    leaf.check(regs, address, access)?;

    let (gpa, encrypted) = leaf.translate(address);

    Ok(Mapping { gpa, encrypted })
}

/// True if there is memory: the firmware's map says so, or it was added since.
pub(crate) fn is_ram(gpa: u64) -> bool {
    // SAFETY: Reads a table that does not change once the kernel is past its setup, and the
    // descriptions of memory, which can be done anywhere.
    unsafe {
        bindings::e820__mapped_any(gpa, gpa + 1, bindings::e820_type_E820_TYPE_RAM)
            || bindings::sev_es_shim_is_added_memory(gpa)
    }
}

/// Moves `len` bytes of elements in units of eight bytes as far as that works, and in elements
/// where it does not. Returns what was moved, and what the first element that was not moved failed
/// with.
pub(crate) fn in_words(
    len: usize,
    element: Width,
    mut step: impl FnMut(usize, Width) -> Result,
) -> (usize, Result) {
    let mut done = 0;
    let mut unit = Width::B8;

    while done < len {
        if len - done < 8 {
            unit = element;
        }
        match step(done, unit) {
            Ok(()) => done += unit.bytes() as usize,
            Err(_) if unit != element => unit = element,
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}
