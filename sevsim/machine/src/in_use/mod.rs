// SPDX-License-Identifier: GPL-2.0
//! Host memory, and pages of it that a processor with SEV-SNP marks in-use: VMCB, VMSA, host save
//! area, AVIC backing page.
//!
//! # The problem
//!
//! Where SEV-SNP is enabled on the host, VMRUN marks these pages in-use in the reverse map table
//! (RMP), for each kind of guest and not for SEV-SNP's alone, and checks what they are (APM vol. 2,
//! 15.36.12). A write through a translation to an in-use page is an RMP violation, as it should be:
//! nobody but the processor writes there while the guest runs. But a write through a *large*
//! translation (2 MiB, 1 GiB) is checked by the RMP entry of the 2 MiB region's first page. If that
//! very page is in-use, then on the first processors with SEV-SNP a write anywhere in the 2 MiB
//! faults, though it hits another page: an erratum, which looks like a random #PF of the host.
//!
//! Only the direct map matters: it is where a large translation covers pages of different owners.
//! Reads do not matter, and translations of 4 KiB neither. An in-use page elsewhere in its region
//! does no harm, since only the first page's entry is read.
//!
//! # The way out
//!
//! An in-use page must not be 2 MiB-aligned. [`Pool::in_use`] takes two adjacent pages, of which at
//! most one is, keeps one that is not and gives the other back, so [`InUsePage`] has this property
//! by the way it is made. What reviewers of the KVM patch that did this first asked:
//!
//! - *Why a pair and not a retry?* Asking for single pages until one fits may in theory go on, and
//!   the pages that do not fit have to be kept until then. A pair always has one that fits.
//! - *Which of the two?* Not a matter of search: if the first is aligned the second cannot be, else
//!   the first is not. Buddy allocators align a pair (order 1) to 8 KiB, and then the second one is
//!   never the aligned one; here pairs start at any page, and the rule is the same.
//! - *What becomes of the other page?* It is memory like any other, the aligned one too: it goes
//!   back, and serves the next request for a plain page. A pair so costs one page in the long run.
//! - *Which node?* Both pages of a pair lie on one NUMA node, since nodes begin at larger
//!   boundaries, so the choice does not change the node; it is the caller's business to name the
//!   CPU's own (KVM does since `snp_safe_alloc_page_node()`). QEMU's machine here has one node.
//! - *Zeroed?* Both pages, before the choice. Here fresh memory is zero, and a page that was given
//!   back was never written.
//! - *Memory that the RMP does not cover, TLB entries from before VMRUN, RMPUPDATE's own use of the
//!   mark?* The thread asks and leaves it open. Nothing here depends on the answers: whenever an
//!   entry is looked up for a large translation, it is not that of a page from this allocator.
//! - *Only with SEV-SNP?* KVM falls back to a plain page without. Here there is one way: it costs
//!   nothing, and the property is tested on each host.

#[cfg(test)]
mod rmp;
#[cfg(test)]
mod tests;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// What an RMP check of a large translation covers.
pub const REGION: u64 = 2 << 20;
/// Pages given back that a pool remembers: in-use pages of eight vCPUs are fewer.
const SPARES: usize = 64;

/// A page that the processor may mark in-use: not 2 MiB-aligned. Only [`Pool::in_use`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct InUsePage(u64);

impl InUsePage {
    /// Its physical address.
    pub fn address(&self) -> u64 {
        self.0
    }
}

/// A run of host memory that only shrinks. Fresh memory is zero.
pub struct Pool {
    next: u64,
    end: u64,
    spares: [u64; SPARES],
    spare: usize,
}

impl Pool {
    /// Nothing.
    pub const EMPTY: Self = Self {
        next: 0,
        end: 0,
        spares: [0; SPARES],
        spare: 0,
    };

    /// The memory from `start` to `end`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self {
            next: start,
            end,
            ..Self::EMPTY
        }
    }

    /// Takes `len` bytes with an alignment that is a power of two.
    pub fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_add(align - 1)? & !(align - 1);
        let next = start.checked_add(len)?;
        if next > self.end {
            return None;
        }
        self.next = next;
        Some(start)
    }

    /// Takes a page that may lie anywhere.
    pub fn page(&mut self) -> Option<u64> {
        match self.spare.checked_sub(1) {
            Some(last) => {
                self.spare = last;
                Some(self.spares[last])
            }
            None => self.take(PAGE, PAGE),
        }
    }

    /// Takes a page that the processor may mark in-use.
    pub fn in_use(&mut self) -> Option<InUsePage> {
        let first = self.take(2 * PAGE, PAGE)?;
        let second = first + PAGE;
        // At most one of two adjacent pages is aligned: that one, or else the second, goes back.
        let (kept, other) = if first % REGION == 0 {
            (second, first)
        } else {
            (first, second)
        };
        // More than the array holds would be lost, not wrong.
        if let Some(slot) = self.spares.get_mut(self.spare) {
            *slot = other;
            self.spare += 1;
        }
        Some(InUsePage(kept))
    }

    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.end - self.next + self.spare as u64 * PAGE
    }
}
