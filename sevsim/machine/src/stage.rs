// SPDX-License-Identifier: GPL-2.0
//! In which stage of a Linux guest's boot a #VC comes, told by the IDT that takes it.
//!
//! Nothing of the machine depends on it: it serves reports, and lies that are told in one stage
//! only. Linux loads a new table for each stage: the decompressor's two (the second with a handler
//! for page faults), the one of the code that runs before relocation, the early kernel's, and for
//! good the one in the CPU entry area.

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Firmware, and the EFI stub, which runs on the firmware's table.
    Firmware,
    /// Decompressor, before it moves itself.
    Stage1,
    /// Decompressor, with page fault handler.
    Stage2,
    /// Kernel at its physical address.
    Startup,
    /// Kernel until its final table.
    Early,
    /// Kernel afterwards.
    Runtime,
}

/// What is looked at of an IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Linear address.
    pub base: u64,
    /// Limit.
    pub limit: u32,
    /// Whether the gate for page faults is present.
    pub page_faults: bool,
}

/// Linux's early tables hold the 32 exceptions.
const EXCEPTIONS: u32 = 32 * 16 - 1;
/// The CPU entry area's slot of the root table (`CPU_ENTRY_AREA_PGD`).
const CPU_ENTRY_AREA: u64 = 0xffff_fe00_0000_0000;
/// Linear address bits that select the slot.
const SLOT: u64 = !((1 << 39) - 1);

/// The stage of one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Tracker {
    base: u64,
    /// The stage at the moment.
    pub stage: Stage,
}

impl Tracker {
    /// At the start of a guest with or without firmware.
    pub fn new(firmware: bool) -> Self {
        Self {
            // No table is there, so the first one is looked at.
            base: u64::MAX,
            stage: if firmware {
                Stage::Firmware
            } else {
                Stage::Stage1
            },
        }
    }

    /// Whether [`Tracker::load`] has to be told about the table at `base`.
    pub fn changed(&self, base: u64) -> bool {
        self.base != base
    }

    /// A #VC comes by this table.
    pub fn load(&mut self, table: Table) {
        let first = self.base == u64::MAX;
        self.base = table.base;
        // The decompressor ends with an empty table: no stage, but the end of one.
        if table.limit == 0 {
            return;
        }
        self.stage = if table.base & SLOT == CPU_ENTRY_AREA {
            Stage::Runtime
        } else if table.base >> 63 != 0 {
            Stage::Early
        } else if table.limit != EXCEPTIONS {
            Stage::Firmware
        } else if table.page_faults {
            Stage::Stage2
        } else {
            match self.stage {
                // Another kernel was started by kexec.
                Stage::Early | Stage::Runtime => Stage::Stage1,
                Stage::Stage1 if first => Stage::Stage1,
                // A decompressor that needs no #VC in its second stage goes unnoticed.
                _ => Stage::Startup,
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn low(base: u64, page_faults: bool) -> Table {
        Table {
            base,
            limit: EXCEPTIONS,
            page_faults,
        }
    }

    fn high(base: u64) -> Table {
        Table {
            base,
            limit: 0xfff,
            page_faults: true,
        }
    }

    fn stages(firmware: bool, tables: &[Table]) -> Vec<Stage> {
        let mut tracker = Tracker::new(firmware);
        let load = |table: &Table| {
            assert!(tracker.changed(table.base));
            tracker.load(*table);
            assert!(!tracker.changed(table.base));
            tracker.stage
        };
        tables.iter().map(load).collect()
    }

    const KERNEL: u64 = 0xffff_ffff_8260_0000;
    const FINAL: u64 = 0xffff_fe00_0000_0000;

    #[test]
    fn the_stages_of_a_boot_by_the_64_bit_entry() {
        let tables = [
            low(0x140_1000, false),
            low(0x360_1000, true),
            low(0x260_0000, false),
            high(KERNEL),
            high(KERNEL + 0x1000),
            high(FINAL),
        ];
        use Stage::*;
        let want = [Stage1, Stage2, Startup, Early, Early, Runtime];
        assert_eq!(stages(false, &tables), want);
        // kexec starts again.
        let again = [&tables[..], &tables[..]].concat();
        assert_eq!(stages(false, &again), [want, want].concat());
        // Stage 2 may pass without #VC.
        let without = [tables[0], tables[2], tables[3]];
        assert_eq!(stages(false, &without), [Stage1, Startup, Early]);
    }

    #[test]
    fn an_empty_table_belongs_to_the_stage_before() {
        let empty = Table {
            base: 0,
            limit: 0,
            page_faults: false,
        };
        let tables = [low(0x140_1000, false), low(0x360_1000, true), empty];
        use Stage::*;
        assert_eq!(stages(false, &tables), [Stage1, Stage2, Stage2]);
    }

    #[test]
    fn the_stages_of_a_boot_by_firmware() {
        let firmware = Table {
            base: 0x3f00_0000,
            limit: 0xfff,
            page_faults: true,
        };
        let tables = [firmware, low(0x260_0000, false), high(KERNEL), high(FINAL)];
        use Stage::*;
        assert_eq!(stages(true, &tables), [Firmware, Startup, Early, Runtime]);
    }
}
