// SPDX-License-Identifier: GPL-2.0
//! Address space isolation: what a host maps while it handles the exits of one vCPU.
//!
//! The parts that need no hardware: which pages are mapped ([`carve`]) and the page tables that say
//! so ([`map`]), the windows through which few further pages are reached ([`Cache`], [`Named`]),
//! the siblings that have to stop when a CPU leaves ([`Gate`]), and the stack of a fault inside
//! ([`trace`]). `doc/address-space.md` tells how they play together.

mod gate;
mod slots;
mod tables;
pub mod trace;

#[cfg(test)]
mod tests;

pub use gate::Gate;
pub use slots::Cache;
pub use slots::Full;
pub use slots::Named;
pub use slots::Placed;
pub use tables::leaf;
pub use tables::map;
pub use tables::MapError;

use core::ops::Range;

use crate::in_use::PAGE;

/// What may be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Executed and read.
    Code,
    /// Read.
    Constants,
    /// Read and written.
    Data,
    /// Read and written, not cached.
    Device,
}

/// Pages that are mapped alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First linear address.
    pub at: u64,
    /// First physical address.
    pub pa: u64,
    /// Bytes.
    pub len: u64,
    /// What may be done with them.
    pub access: Access,
}

/// Whose data a part of the image is, where it is not for all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The host as a whole: of no use for the handling of an exit.
    Host,
    /// One vCPU.
    Vcpu(usize),
}

/// A part of the image, in linear addresses: whole pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Whose it is.
    pub owner: Owner,
    /// Where.
    pub range: Range<u64>,
}

/// Calls `put` for what `vcpu` gets of `region`: all but the pages of which another owner has a
/// byte. Stops at the first error.
pub fn carve<E>(
    region: Region,
    parts: &[Part],
    vcpu: usize,
    mut put: impl FnMut(Region) -> Result<(), E>,
) -> Result<(), E> {
    let foreign = |page: u64| {
        parts.iter().any(|part| {
            let inside = part.range.start < page + PAGE && page < part.range.end;
            inside && part.owner != Owner::Vcpu(vcpu)
        })
    };
    let mut from = 0;
    for offset in (0..region.len).step_by(PAGE as usize).chain([region.len]) {
        if offset < region.len && !foreign(region.at + offset) {
            continue;
        }
        if offset > from {
            put(Region {
                at: region.at + from,
                pa: region.pa + from,
                len: offset - from,
                access: region.access,
            })?;
        }
        from = offset + PAGE;
    }
    Ok(())
}

/// Why the isolated space is left for the full one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A page for nested tables, out of memory that belongs to all.
    NestedTable,
    /// The request names more shared memory than the windows hold.
    Transfer,
    /// The state of the whole guest is kept, or put back.
    Rewind,
    /// The end of the run: its report tells of all vCPUs.
    Report,
    /// A fault inside: something was not named that should have been.
    Fault,
}

impl Reason {
    /// All, in the order of the report.
    pub const ALL: [Self; 5] = [
        Self::NestedTable,
        Self::Transfer,
        Self::Rewind,
        Self::Report,
        Self::Fault,
    ];

    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NestedTable => "nested-table",
            Self::Transfer => "transfer",
            Self::Rewind => "rewind",
            Self::Report => "report",
            Self::Fault => "fault",
        }
    }
}
