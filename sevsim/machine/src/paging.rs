// SPDX-License-Identifier: GPL-2.0
//! Walks of the guest's page tables (APM vol. 2, chapter 5), and what encryption makes of them.
//!
//! Tables are always read through the private backing, as hardware does (15.34.5): the C-bit in a
//! table entry selects the key for the data of a page, never for the walk.

use crate::entry::ACCESSED;
use crate::entry::ADDRESS;
use crate::entry::DIRTY;
use crate::entry::LARGE;
use crate::entry::NX;
use crate::entry::PRESENT;
use crate::entry::USER;
use crate::entry::WRITABLE;
use crate::vmcb::bits;
use crate::vmcb::Save;

/// Physical access to guest memory that names no memory, such as a device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMemory;

/// Which of the two backings of a page an access reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Encrypted with the guest's key (C=1).
    Private,
    /// Not encrypted; the host and devices see it too (C=0).
    Shared,
}

/// Guest memory by guest-physical address without C-bit.
pub trait GuestMemory {
    /// Copies bytes of one page out of guest memory.
    fn read(&self, gpa: u64, backing: Backing, buf: &mut [u8]) -> Result<(), NotMemory>;

    /// Copies bytes of one page into guest memory.
    fn write(&self, gpa: u64, backing: Backing, buf: &[u8]) -> Result<(), NotMemory>;

    /// Reads a table entry (4 or 8 bytes, aligned) from the private backing.
    fn entry(&self, gpa: u64, bytes: usize) -> Result<u64, NotMemory>;

    /// Sets bits in the low half of a table entry if that half still reads `old`.
    fn set_entry(&self, gpa: u64, old: u32, new: u32) -> bool;
}

/// The registers that govern translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3, which may carry the C-bit.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// RFLAGS.AC, which lifts SMAP for explicit accesses.
    pub ac: bool,
    /// Mask of the C-bit.
    pub cbit: u64,
}

impl Paging {
    /// The paging registers of a VMCB's save area.
    pub fn of(save: &Save, cbit: u64) -> Self {
        Self {
            cr0: save.cr0,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: save.efer,
            ac: save.rflags & bits::RFLAGS_AC != 0,
            cbit,
        }
    }

    /// Whether table entries can carry the C-bit. Without paging and in 32-bit non-PAE paging
    /// every access is private (APM vol. 2, 15.34.5).
    pub fn cbit_active(&self) -> bool {
        self.cr0 & bits::CR0_PG != 0 && self.cr4 & bits::CR4_PAE != 0
    }
}

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// On whose behalf an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// CPL 3.
    User,
    /// CPL 0 to 2, by an instruction.
    Supervisor,
    /// The processor itself (descriptor tables, TSS); SMAP applies whatever RFLAGS.AC says.
    Implicit,
}

/// Where a linear address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address without C-bit.
    pub gpa: u64,
    /// Backing that the leaf's C-bit selects.
    pub backing: Backing,
}

/// Why a linear address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Page fault with its error code.
    Page {
        /// Error code.
        code: u32,
        /// Address for CR2.
        address: u64,
    },
    /// Address not canonical.
    NonCanonical,
    /// A table lies outside memory: hardware would fault in the nested walk.
    NotMemory,
}

impl From<NotMemory> for Fault {
    fn from(_: NotMemory) -> Self {
        Self::NotMemory
    }
}

/// Rights that accumulate over the levels, and the leaf.
struct Leaf {
    entry_gpa: u64,
    entry: u64,
    base: u64,
    size: u64,
    writable: bool,
    user: bool,
    no_execute: bool,
}

/// Whether a linear address is canonical for 4-level paging.
pub fn canonical(address: u64) -> bool {
    let sign = (address as i64) >> 47;
    sign == 0 || sign == -1
}

/// Translates a linear address and sets accessed and dirty bits as the processor does.
#[inline(never)]
pub fn walk<M: GuestMemory>(
    memory: &M,
    paging: &Paging,
    address: u64,
    want: Want,
    who: Who,
) -> Result<Translation, Fault> {
    let long = paging.efer & bits::EFER_LMA != 0;
    let address = if long { address } else { address & 0xffff_ffff };
    if paging.cr0 & bits::CR0_PG == 0 {
        return Ok(Translation {
            gpa: address,
            backing: Backing::Private,
        });
    }
    if long && !canonical(address) {
        return Err(Fault::NonCanonical);
    }
    // Another vCPU may change an entry between the read and the update of its A and D bits; the
    // processor then starts over.
    loop {
        let leaf = if long {
            descend(memory, paging, paging.cr3, 4, address, want, who)?
        } else if paging.cr4 & bits::CR4_PAE != 0 {
            pae(memory, paging, address, want, who)?
        } else {
            legacy(memory, paging, address, want, who)?
        };
        check(paging, &leaf, address, want, who)?;
        let set = ACCESSED | if want == Want::Write { DIRTY } else { 0 };
        let old = leaf.entry as u32;
        let new = old | set as u32;
        if old != new && !set_entry(memory, leaf.entry_gpa, old, new) {
            continue;
        }
        let backing = if !paging.cbit_active() || leaf.entry & paging.cbit != 0 {
            Backing::Private
        } else {
            Backing::Shared
        };
        return Ok(Translation {
            gpa: leaf.base | (address & (leaf.size - 1)),
            backing,
        });
    }
}

#[cold]
fn fault(paging: &Paging, address: u64, want: Want, who: Who, code: u32) -> Fault {
    let mut code = code;
    if want == Want::Write {
        code |= 2;
    }
    if who == Who::User {
        code |= 4;
    }
    let fetch_bit = paging.efer & bits::EFER_NXE != 0 || paging.cr4 & bits::CR4_SMEP != 0;
    if want == Want::Fetch && fetch_bit {
        code |= 16;
    }
    Fault::Page { code, address }
}

/// Sets A and D bits: once for each entry, so out of the way.
#[cold]
#[inline(never)]
fn set_entry<M: GuestMemory>(memory: &M, gpa: u64, old: u32, new: u32) -> bool {
    memory.set_entry(gpa, old, new)
}

/// Walks tables of 8-byte entries from `level` (4: PML4, 2: page directory) to the leaf.
///
/// Inline: the walk is the hottest code of an exit, and under TCG each return is a search for the
/// code to continue with.
#[inline(always)]
fn descend<M: GuestMemory>(
    memory: &M,
    paging: &Paging,
    root: u64,
    level: u32,
    address: u64,
    want: Want,
    who: Who,
) -> Result<Leaf, Fault> {
    let address_bits = ADDRESS & !paging.cbit;
    let mut table = root & address_bits;
    let mut level = level;
    let (mut writable, mut user, mut no_execute) = (true, true, false);
    loop {
        let shift = 12 + 9 * (level - 1);
        let entry_gpa = table + ((address >> shift) & 0x1ff) * 8;
        let entry = memory.entry(entry_gpa, 8)?;
        if entry & PRESENT == 0 {
            return Err(fault(paging, address, want, who, 0));
        }
        let nx_reserved = entry & NX != 0 && paging.efer & bits::EFER_NXE == 0;
        if nx_reserved || (level == 4 && entry & LARGE != 0) {
            return Err(fault(paging, address, want, who, 1 | 8));
        }
        writable &= entry & WRITABLE != 0;
        user &= entry & USER != 0;
        no_execute |= entry & NX != 0;
        if level == 1 || entry & LARGE != 0 {
            let size = 1u64 << shift;
            // Bit 12 of a large leaf is PAT, not address.
            let base = entry & address_bits & !(size - 1);
            return Ok(Leaf {
                entry_gpa,
                entry,
                base,
                size,
                writable,
                user,
                no_execute,
            });
        }
        let old = entry as u32;
        if entry & ACCESSED == 0 && !set_entry(memory, entry_gpa, old, old | ACCESSED as u32) {
            continue;
        }
        table = entry & address_bits;
        level -= 1;
    }
}

/// Walks the three levels of 32-bit PAE paging.
#[cold]
#[inline(never)]
fn pae<M: GuestMemory>(
    memory: &M,
    paging: &Paging,
    address: u64,
    want: Want,
    who: Who,
) -> Result<Leaf, Fault> {
    let table = paging.cr3 & 0xffff_ffe0;
    let pdpte = memory.entry(table + ((address >> 27) & 0x18), 8)?;
    if pdpte & PRESENT == 0 {
        return Err(fault(paging, address, want, who, 0));
    }
    descend(memory, paging, pdpte, 2, address, want, who)
}

/// Walks the two levels of 32-bit paging without PAE.
#[cold]
#[inline(never)]
fn legacy<M: GuestMemory>(
    memory: &M,
    paging: &Paging,
    address: u64,
    want: Want,
    who: Who,
) -> Result<Leaf, Fault> {
    let pde_gpa = (paging.cr3 & 0xffff_f000) + ((address >> 20) & 0xffc);
    let pde = loop {
        let pde = memory.entry(pde_gpa, 4)?;
        if pde & PRESENT == 0 {
            return Err(fault(paging, address, want, who, 0));
        }
        if pde & LARGE != 0 && paging.cr4 & bits::CR4_PSE != 0 {
            return Ok(Leaf {
                entry_gpa: pde_gpa,
                entry: pde,
                base: (pde & 0xffc0_0000) | ((pde & 0x1f_e000) << 19),
                size: 4 << 20,
                writable: pde & WRITABLE != 0,
                user: pde & USER != 0,
                no_execute: false,
            });
        }
        let old = pde as u32;
        if pde & ACCESSED != 0 || memory.set_entry(pde_gpa, old, old | ACCESSED as u32) {
            break pde;
        }
    };
    let pte_gpa = (pde & 0xffff_f000) + ((address >> 10) & 0xffc);
    let pte = memory.entry(pte_gpa, 4)?;
    if pte & PRESENT == 0 {
        return Err(fault(paging, address, want, who, 0));
    }
    Ok(Leaf {
        entry_gpa: pte_gpa,
        entry: pte,
        base: pte & 0xffff_f000,
        size: 4096,
        writable: pde & pte & WRITABLE != 0,
        user: pde & pte & USER != 0,
        no_execute: false,
    })
}

/// Without a match over the kinds of access, which becomes an indirect jump.
#[inline(always)]
fn check(p: &Paging, leaf: &Leaf, address: u64, want: Want, who: Who) -> Result<(), Fault> {
    let (write, fetch) = (want == Want::Write, want == Want::Fetch);
    let user = who == Who::User;
    let lifted = p.ac && who == Who::Supervisor;
    let guard = if fetch {
        bits::CR4_SMEP
    } else {
        bits::CR4_SMAP
    };
    let denied = if user {
        !leaf.user
    } else {
        leaf.user && p.cr4 & guard != 0 && (fetch || !lifted)
    };
    let protected = write && !leaf.writable && (user || p.cr0 & bits::CR0_WP != 0);
    if denied || protected || fetch && leaf.no_execute {
        return Err(fault(p, address, want, who, 1));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod model {
    //! Guest memory as two maps of bytes, for tests.

    use super::*;
    use std::cell::RefCell;
    use std::collections::HashMap;

    /// Memory up to `size`, one map for each backing.
    #[derive(Default)]
    pub struct Memory {
        pub private: RefCell<HashMap<u64, u8>>,
        pub shared: RefCell<HashMap<u64, u8>>,
        pub size: u64,
    }

    impl Memory {
        pub fn new(size: u64) -> Self {
            Self {
                size,
                ..Self::default()
            }
        }

        pub fn put(&self, gpa: u64, value: u64) {
            self.write(gpa, Backing::Private, &value.to_le_bytes())
                .unwrap();
        }

        pub fn get(&self, gpa: u64) -> u64 {
            self.entry(gpa, 8).unwrap()
        }

        fn map(&self, backing: Backing) -> &RefCell<HashMap<u64, u8>> {
            match backing {
                Backing::Private => &self.private,
                Backing::Shared => &self.shared,
            }
        }
    }

    impl GuestMemory for Memory {
        fn read(&self, gpa: u64, backing: Backing, buf: &mut [u8]) -> Result<(), NotMemory> {
            let map = self.map(backing).borrow();
            for (at, byte) in (gpa..).zip(buf.iter_mut()) {
                if at >= self.size {
                    return Err(NotMemory);
                }
                *byte = *map.get(&at).unwrap_or(&0);
            }
            Ok(())
        }

        fn write(&self, gpa: u64, backing: Backing, buf: &[u8]) -> Result<(), NotMemory> {
            let mut map = self.map(backing).borrow_mut();
            for (at, byte) in (gpa..).zip(buf) {
                if at >= self.size {
                    return Err(NotMemory);
                }
                map.insert(at, *byte);
            }
            Ok(())
        }

        fn entry(&self, gpa: u64, bytes: usize) -> Result<u64, NotMemory> {
            let mut buf = [0; 8];
            self.read(gpa, Backing::Private, &mut buf[..bytes])?;
            Ok(u64::from_le_bytes(buf))
        }

        fn set_entry(&self, gpa: u64, old: u32, new: u32) -> bool {
            let now = self.entry(gpa, 4) == Ok(u64::from(old));
            now && self
                .write(gpa, Backing::Private, &new.to_le_bytes())
                .is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::model::Memory;
    use super::*;

    const C: u64 = 1 << 51;

    fn long() -> Paging {
        Paging {
            cr0: bits::CR0_PG | bits::CR0_PE | bits::CR0_WP,
            cr3: 0x1000 | C,
            cr4: bits::CR4_PAE,
            efer: bits::EFER_LME | bits::EFER_LMA | bits::EFER_NXE,
            ac: false,
            cbit: C,
        }
    }

    /// Linear 0x40201000 by 4 KiB, 0x40400000 by 2 MiB and 0x8000_0000 by 1 GiB.
    fn tables() -> Memory {
        let m = Memory::new(1 << 20);
        m.put(0x1000, 0x2000 | 7 | C);
        m.put(0x2000 + 8, 0x3000 | 7);
        m.put(0x2000 + 16, 0xc000_0000 | LARGE | 3 | C);
        m.put(0x3000 + 8, 0x4000 | 7);
        m.put(0x3000 + 16, 0x60_0000 | LARGE | 7 | NX);
        m.put(0x4000 + 8, 0x9000 | 5 | C);
        m
    }

    #[test]
    fn leaf_cbit_selects_the_backing() {
        let m = tables();
        let t = walk(&m, &long(), 0x4020_1234, Want::Read, Who::User).unwrap();
        assert_eq!(
            t,
            Translation {
                gpa: 0x9234,
                backing: Backing::Private
            }
        );
        let t = walk(&m, &long(), 0x4041_2345, Want::Read, Who::User).unwrap();
        assert_eq!(
            t,
            Translation {
                gpa: 0x61_2345,
                backing: Backing::Shared
            }
        );
        let t = walk(&m, &long(), 0x8765_4321, Want::Write, Who::Supervisor).unwrap();
        assert_eq!(
            t,
            Translation {
                gpa: 0xc765_4321,
                backing: Backing::Private
            }
        );
    }

    #[test]
    fn accessed_and_dirty_bits_are_set_where_the_processor_sets_them() {
        let m = tables();
        walk(&m, &long(), 0x4020_1000, Want::Read, Who::User).unwrap();
        for entry in [0x1000, 0x2008, 0x3008, 0x4008] {
            assert_eq!(m.get(entry) & (ACCESSED | DIRTY), ACCESSED);
        }
        walk(&m, &long(), 0x8000_0000, Want::Write, Who::Supervisor).unwrap();
        assert_eq!(m.get(0x2010) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
    }

    #[test]
    fn rights_are_checked() {
        let m = tables();
        let page = |code, address| Err(Fault::Page { code, address });
        let go = |p: &Paging, a, want, who| walk(&m, p, a, want, who);
        let mut p = long();
        // Read-only page: a user never writes, a supervisor only without WP.
        assert_eq!(
            go(&p, 0x4020_1000, Want::Write, Who::User),
            page(7, 0x4020_1000)
        );
        assert_eq!(
            go(&p, 0x4020_1000, Want::Write, Who::Supervisor),
            page(3, 0x4020_1000)
        );
        p.cr0 &= !bits::CR0_WP;
        assert!(go(&p, 0x4020_1000, Want::Write, Who::Supervisor).is_ok());
        // No-execute and supervisor pages.
        assert_eq!(
            go(&p, 0x4040_0000, Want::Fetch, Who::User),
            page(0x15, 0x4040_0000)
        );
        assert_eq!(
            go(&p, 0x8000_0000, Want::Read, Who::User),
            page(5, 0x8000_0000)
        );
        // SMEP and SMAP: AC lifts the latter, but not for implicit accesses.
        p.cr4 |= bits::CR4_SMEP | bits::CR4_SMAP;
        assert_eq!(
            go(&p, 0x4020_1000, Want::Fetch, Who::Supervisor),
            page(0x11, 0x4020_1000)
        );
        assert_eq!(
            go(&p, 0x4020_1000, Want::Read, Who::Supervisor),
            page(1, 0x4020_1000)
        );
        p.ac = true;
        assert!(go(&p, 0x4020_1000, Want::Read, Who::Supervisor).is_ok());
        assert_eq!(
            go(&p, 0x4020_1000, Want::Read, Who::Implicit),
            page(1, 0x4020_1000)
        );
        // Not present, not canonical, reserved.
        assert_eq!(
            go(&p, 0x4020_2000, Want::Read, Who::Supervisor),
            page(0, 0x4020_2000)
        );
        let bad = go(&p, 0x8000_0000_0000, Want::Read, Who::Supervisor);
        assert_eq!(bad, Err(Fault::NonCanonical));
        p.efer &= !bits::EFER_NXE;
        assert_eq!(
            go(&p, 0x4040_0000, Want::Read, Who::Supervisor),
            page(9, 0x4040_0000)
        );
    }

    #[test]
    fn tables_are_read_from_the_private_backing() {
        let m = tables();
        m.write(0x4008, Backing::Shared, &[0xff; 8]).unwrap();
        let t = walk(&m, &long(), 0x4020_1000, Want::Read, Who::User).unwrap();
        assert_eq!(t.gpa, 0x9000);
    }

    #[test]
    fn pae_and_legacy_paging() {
        let m = Memory::new(1 << 20);
        let mut p = long();
        p.efer = 0;
        p.cr3 = 0x1020;
        m.put(0x1020 + 8, 0x3000 | 1 | C);
        m.put(0x3000, 0x4000 | 3);
        m.put(0x4000 + 8 * 5, 0x7000 | 3 | C);
        let t = walk(&m, &p, 0x4000_5678, Want::Write, Who::Supervisor).unwrap();
        assert_eq!(
            t,
            Translation {
                gpa: 0x7678,
                backing: Backing::Private
            }
        );
        assert_eq!(m.get(0x1028) & ACCESSED, 0);

        p.cr4 = bits::CR4_PSE;
        p.cr3 = 0x8000;
        m.write(0x8000 + 4, Backing::Private, &(0x9000u32 | 7).to_le_bytes())
            .unwrap();
        m.write(0x9000 + 8, Backing::Private, &(0xa000u32 | 7).to_le_bytes())
            .unwrap();
        m.write(0x8000 + 8, Backing::Private, &0x0080_0083u32.to_le_bytes())
            .unwrap();
        let t = walk(&m, &p, 0x0040_2010, Want::Write, Who::User).unwrap();
        assert_eq!(
            t,
            Translation {
                gpa: 0xa010,
                backing: Backing::Private
            }
        );
        let t = walk(&m, &p, 0x0081_2345, Want::Read, Who::Supervisor).unwrap();
        assert_eq!(
            t,
            Translation {
                gpa: 0x0081_2345,
                backing: Backing::Private
            }
        );
    }

    #[test]
    fn without_paging_everything_is_private() {
        let m = Memory::new(4096);
        let mut p = long();
        p.cr0 = bits::CR0_PE;
        p.efer = 0;
        let t = walk(&m, &p, 0xffff_fff0, Want::Fetch, Who::Supervisor).unwrap();
        assert_eq!(
            t,
            Translation {
                gpa: 0xffff_fff0,
                backing: Backing::Private
            }
        );
    }
}
