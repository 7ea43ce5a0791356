// SPDX-License-Identifier: GPL-2.0
//! What the hypervisor keeps of each vCPU. Lock order: any one lock at a time.

use spin::Mutex;

use crate::ap::Ap;
use crate::atomic::{Bool, Word};
use crate::exit::msr::MsrFile;
use crate::hostile::Hostile;
use crate::lies::Stage;
use crate::nmi::Nmi;
use crate::stats::Stats;

/// DR7 after reset (APM volume 2, 14.1.3).
const DR7_RESET: u64 = 0x400;

/// One vCPU: what others touch to send it an IPI, and its own part.
#[repr(C)]
pub struct Vcpu {
    /// Index and APIC ID.
    pub index: usize,
    /// NMI window and pending NMIs.
    pub nmi: Nmi,
    /// NMIs that merged with one that waited.
    pub merged_nmis: Word,
    /// The local APIC's state that IPIs need.
    pub apic: ApicShadow,
    /// INIT, SIPI and reset hold.
    pub ap: Mutex<Ap>,
    /// Address of its last GHCB, noted if there are lies.
    pub ghcb: Word,
    /// What no other vCPU touches while the VM runs.
    pub own: Own,
}

/// A vCPU's own part, in pages of its own: address space isolation maps them for this vCPU alone.
#[repr(align(4096))]
pub struct Own {
    /// What the guest last wrote to DR7 by an exit.
    pub dr7: Word,
    /// The stage of the guest's boot, as an index of `Stage::ALL`.
    pub stage: Word,
    /// How many complaints were logged for this vCPU.
    pub complaints: Word,
    /// Counts of exits.
    pub stats: Stats,
    /// By how much the TSC was put back.
    pub tsc_back: Word,
    /// Hostile acts.
    pub hostile: Hostile,
    /// MSRs that exist only here.
    pub msrs: Mutex<MsrFile>,
}

/// The parts of the local APIC that decide where an IPI goes; the rest lives in the physical one.
#[derive(Default)]
pub struct ApicShadow {
    /// ICR, both halves (xAPIC: destination in bits 63:56). Kept apart from the physical ICR, which
    /// the machine overwrites when it kicks.
    pub icr: Word,
    /// Logical destination register.
    pub ldr: Word,
    /// Destination format register.
    pub dfr: Word,
    /// Whether the APIC is in x2APIC mode.
    pub x2apic: Bool,
}

impl Vcpu {
    /// A vCPU after reset.
    pub fn new(index: usize) -> Self {
        let apic = ApicShadow::default();
        apic.dfr.set(0xffff_ffff);
        Self {
            index,
            nmi: Nmi::default(),
            merged_nmis: Word::default(),
            apic,
            ap: Mutex::new(Ap::new(index == 0)),
            ghcb: Word::default(),
            own: Own {
                dr7: Word::new(DR7_RESET),
                stage: Word::default(),
                complaints: Word::default(),
                stats: Stats::default(),
                tsc_back: Word::default(),
                hostile: Hostile::default(),
                msrs: Mutex::new(MsrFile::default()),
            },
        }
    }

    /// The stage of the guest's boot.
    pub fn stage(&self) -> Stage {
        Stage::ALL[self.own.stage.get() as usize]
    }
}
