// SPDX-License-Identifier: GPL-2.0
//! Follows the guest through the stages of its boot: for the report, and for lies (see
//! `hypervisor::Lies`) that need the machine.

use hypervisor::Stage;
use hypervisor::What;
use machine::event::Event;
use machine::event::PAGE_FAULT;
use machine::exit;
use machine::stage::Table;

use super::state::Vcpu;
use crate::log;

/// Bytes of a gate in 64-bit mode, and the byte that holds the present bit.
const GATE: u64 = 16;
const GATE_FLAGS: u64 = 5;
const GATE_PRESENT: u8 = 1 << 7;

impl Vcpu {
    /// Counts a #VC for its stage; gives the error code to deliver it with.
    pub fn staged(&mut self, code: u64) -> u64 {
        if self.tracker.changed(self.vmcb.save.idtr.base) {
            self.next_stage();
        }
        let nth = self.stats.vc(self.stage(), code);
        let vm = &self.world.vm;
        if !vm.lies().any() {
            return code;
        }
        if vm.lies().nmi(self.stage(), nth) {
            vm.nmi_arrived(self.index);
        }
        if let Some(cycles) = vm.lies().tsc_back(self.stage(), nth) {
            let control = &mut self.vmcb.control;
            control.tsc_offset = control.tsc_offset.wrapping_sub(cycles);
            vm.tsc_went_back(self.index, cycles);
        }
        let lie = vm.lies().vc(self.stage(), nth);
        let leaf = self.vmcb.save.rax as u32;
        let lie = match code {
            exit::CPUID => lie.or_else(|| vm.lies().cpuid_vc(self.stage(), leaf)),
            _ => lie,
        };
        lie.map_or(code, u64::from)
    }

    /// The stage, as the hypervisor calls it.
    pub fn stage(&self) -> Stage {
        use machine::stage::Stage as Seen;
        match self.tracker.stage {
            Seen::Firmware => Stage::Firmware,
            Seen::Stage1 => Stage::Stage1,
            Seen::Stage2 => Stage::Stage2,
            Seen::Startup => Stage::Startup,
            Seen::Early => Stage::Early,
            Seen::Runtime => Stage::Runtime,
        }
    }

    #[cold]
    #[inline(never)]
    fn next_stage(&mut self) {
        let save = &self.vmcb.save;
        let linear = self.linear();
        let flags = save.idtr.base + u64::from(PAGE_FAULT) * GATE + GATE_FLAGS;
        let page_faults = linear.read_implicit::<1>(flags);
        self.tracker.load(Table {
            base: save.idtr.base,
            limit: save.idtr.limit,
            page_faults: page_faults.is_ok_and(|[flags]| flags & GATE_PRESENT != 0),
        });
        let vm = &self.world.vm;
        vm.enter_stage(self.index, self.stage());
        // The decompressor's second stage ends by LIDT of an empty table. Nothing else of it loads
        // one, and all other code is left alone.
        let watch = vm.lies().watches_idt() && self.stage() == Stage::Stage2;
        self.vmcb.control.intercept(exit::IDTR_WRITE, watch);
    }

    /// LIDT while [`Vcpu::next_stage`] watches for it: what is to come before it comes now, and the
    /// instruction is executed when the guest gets to it again.
    pub fn idt_given_up(&mut self) {
        match self.world.vm.lies().late(self.stage()) {
            Some(What::LateVc(code)) => self.vc(u64::from(code)),
            Some(What::LateFault) => {
                if self.ghcb_msr & 0xfff != 0 {
                    log!(
                        "vCPU {}: the stage had no GHCB, so no fault on it",
                        self.index
                    );
                }
                // The decompressor maps memory to itself.
                self.vmcb.save.cr2 = self.ghcb_msr & !0xfff;
                self.inject(Event::Exception {
                    vector: PAGE_FAULT,
                    error: Some(0),
                });
            }
            _ => self.vmcb.control.intercept(exit::IDTR_WRITE, false),
        }
    }
}
