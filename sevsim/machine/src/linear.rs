// SPDX-License-Identifier: GPL-2.0
//! Access to guest memory by linear address, with the processor's checks.

use crate::paging::walk;
use crate::paging::Fault;
use crate::paging::GuestMemory;
use crate::paging::Paging;
use crate::paging::Translation;
use crate::paging::Want;
use crate::paging::Who;

/// Guest memory seen through the guest's page tables.
#[derive(Clone, Copy)]
pub struct Linear<'a, M> {
    /// Guest-physical memory.
    pub memory: &'a M,
    /// Translation registers.
    pub paging: Paging,
}

impl<M: GuestMemory> Linear<'_, M> {
    /// Reads bytes; a fault leaves `buf` partly filled.
    #[inline(always)]
    pub fn read(&self, address: u64, buf: &mut [u8], want: Want, who: Who) -> Result<(), Fault> {
        if (address & 0xfff) as usize + buf.len() <= 4096 {
            let at = walk(self.memory, &self.paging, address, want, who)?;
            self.memory.read(at.gpa, at.backing, buf)?;
            return Ok(());
        }
        self.read_pages(address, buf, want, who)
    }

    #[cold]
    #[inline(never)]
    fn read_pages(&self, address: u64, buf: &mut [u8], want: Want, who: Who) -> Result<(), Fault> {
        let mut address = address;
        let mut rest = buf;
        while !rest.is_empty() {
            let at = walk(self.memory, &self.paging, address, want, who)?;
            let here = rest.len().min(4096 - (address & 0xfff) as usize);
            let (chunk, more) = rest.split_at_mut(here);
            self.memory.read(at.gpa, at.backing, chunk)?;
            address = address.wrapping_add(here as u64);
            rest = more;
        }
        Ok(())
    }

    /// Reads a little-endian number of the processor's own structures.
    #[inline(always)]
    pub fn read_implicit<const N: usize>(&self, address: u64) -> Result<[u8; N], Fault> {
        let mut buf = [0; N];
        self.read(address, &mut buf, Want::Read, Who::Implicit)?;
        Ok(buf)
    }

    /// Writes up to a page of bytes: either all of them or, on a fault, none.
    pub fn write(&self, address: u64, buf: &[u8], who: Who) -> Result<(), Fault> {
        let here = buf.len().min(4096 - (address & 0xfff) as usize);
        let (first, second) = buf.split_at(here);
        let place = |address| -> Result<Translation, Fault> {
            walk(self.memory, &self.paging, address, Want::Write, who)
        };
        let at = place(address)?;
        if !second.is_empty() {
            let next = place(address.wrapping_add(here as u64))?;
            self.memory.write(next.gpa, next.backing, second)?;
        }
        self.memory.write(at.gpa, at.backing, first)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::model::Memory;
    use crate::paging::Backing;
    use crate::vmcb::bits;

    /// Linear 0x1000 -> 0x9000 (private), 0x2000 -> 0xb000 (shared), 0x3000 absent.
    fn fixture(memory: &Memory) -> Linear<'_, Memory> {
        const C: u64 = 1 << 47;
        memory.put(0x4000, 0x5000 | 3);
        memory.put(0x5000, 0x6000 | 3);
        memory.put(0x6000, 0x7000 | 3);
        memory.put(0x7008, 0x9000 | 3 | C);
        memory.put(0x7010, 0xb000 | 3);
        let paging = Paging {
            cr0: bits::CR0_PG | bits::CR0_PE,
            cr3: 0x4000,
            cr4: bits::CR4_PAE,
            efer: bits::EFER_LMA,
            ac: false,
            cbit: C,
        };
        Linear { memory, paging }
    }

    #[test]
    fn accesses_split_at_pages() {
        let memory = Memory::new(1 << 20);
        let linear = fixture(&memory);
        linear
            .write(0x1ffe, &[1, 2, 3, 4], Who::Supervisor)
            .unwrap();
        let mut buf = [0; 2];
        memory.read(0x9ffe, Backing::Private, &mut buf).unwrap();
        assert_eq!(buf, [1, 2]);
        memory.read(0xb000, Backing::Shared, &mut buf).unwrap();
        assert_eq!(buf, [3, 4]);
        assert_eq!(linear.read_implicit(0x1ffe), Ok([1, 2, 3, 4]));
    }

    #[test]
    fn a_write_that_faults_leaves_no_trace() {
        let memory = Memory::new(1 << 20);
        let linear = fixture(&memory);
        let fault = linear.write(0x2ffe, &[9; 4], Who::Supervisor);
        assert_eq!(
            fault,
            Err(Fault::Page {
                code: 2,
                address: 0x3000
            })
        );
        let mut buf = [7; 2];
        memory.read(0xbffe, Backing::Shared, &mut buf).unwrap();
        assert_eq!(buf, [0, 0]);
    }
}
