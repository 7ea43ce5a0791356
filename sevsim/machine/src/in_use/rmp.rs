// SPDX-License-Identifier: GPL-2.0
//! A model of the in-use check of the RMP, as early processors with SEV-SNP do it.

use std::collections::BTreeSet;

use super::PAGE;
use super::REGION;

/// Size of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Small,
    Large,
    Huge,
}

/// #PF with the RMP bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmpViolation;

/// In-use bits by page.
#[derive(Default)]
pub struct Rmp(BTreeSet<u64>);

impl Rmp {
    /// VMRUN with this VMCB, VMSA or so.
    pub fn vmrun(&mut self, page: u64) {
        assert_eq!(page % PAGE, 0);
        self.0.insert(page);
    }

    /// VMEXIT.
    pub fn vmexit(&mut self, page: u64) {
        self.0.remove(&page);
    }

    /// The host writes to `pa` by a translation of some size. The processor puts a 2 MiB entry into
    /// its TLB for both larger ones, and looks the region's first page up.
    pub fn write(&self, pa: u64, size: Size) -> Result<(), RmpViolation> {
        let looked_up = match size {
            Size::Small => pa & !(PAGE - 1),
            Size::Large | Size::Huge => pa & !(REGION - 1),
        };
        match self.0.contains(&looked_up) {
            true => Err(RmpViolation),
            false => Ok(()),
        }
    }
}
