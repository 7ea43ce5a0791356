// SPDX-License-Identifier: GPL-2.0
//! The memory map of the boot parameters (e820).

use super::Plan;
use super::Region;
use super::BIOS_AREA;
use super::PAGE;
use crate::layout::Layout;
use crate::layout::FOUR_GIB;

/// What a range of the map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Free memory.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables.
    Acpi = 3,
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First address.
    pub start: u64,
    /// Address behind.
    pub end: u64,
    /// What it is.
    pub kind: Kind,
}

/// Most ranges that a map has here.
const MAX: usize = 8;

/// The map.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    entries: [Entry; MAX],
    len: usize,
}

impl Map {
    /// The map of a planned guest: its RAM, less the ACPI tables and the BIOS area.
    pub fn new(layout: &Layout, plan: &Plan) -> Self {
        let none = Entry {
            start: 0,
            end: 0,
            kind: Kind::Reserved,
        };
        let mut map = Self {
            entries: [none; MAX],
            len: 0,
        };
        let pages = |region: Region, kind| Entry {
            start: region.start & !(PAGE - 1),
            end: region.end().next_multiple_of(PAGE),
            kind,
        };
        let bios = Entry {
            start: BIOS_AREA.start,
            end: BIOS_AREA.end,
            kind: Kind::Reserved,
        };
        let acpi = pages(plan.acpi, Kind::Acpi);
        let rsdp = pages(plan.rsdp, Kind::Acpi);
        // In ascending order; the root pointer may lie in each of the three, or in the BIOS area.
        for (run, others) in [
            (0..0xa_0000, [none, none]),
            (BIOS_AREA.start..layout.low, [bios, acpi]),
            (FOUR_GIB..FOUR_GIB + layout.high, [none, none]),
        ] {
            map.run(run, [others[0], others[1], rsdp]);
        }
        map
    }

    /// Adds a run of RAM, less what other entries take of it.
    fn run(&mut self, run: core::ops::Range<u64>, mut others: [Entry; 3]) {
        others.sort_unstable_by_key(|entry| entry.start);
        let mut at = run.start;
        for other in others {
            let inside = other.start >= at && other.end <= run.end && other.start < other.end;
            if inside {
                self.push(at, other.start, Kind::Ram);
                self.push(other.start, other.end, other.kind);
                at = other.end;
            }
        }
        self.push(at, run.end, Kind::Ram);
    }

    fn push(&mut self, start: u64, end: u64, kind: Kind) {
        if start < end {
            self.entries[self.len] = Entry { start, end, kind };
            self.len += 1;
        }
    }

    /// The ranges in ascending order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries[..self.len]
    }
}
