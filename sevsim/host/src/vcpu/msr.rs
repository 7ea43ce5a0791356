// SPDX-License-Identifier: GPL-2.0
//! The MSRs that the machine itself implements; all other intercepted ones become #VC.

use machine::control;
use machine::event::Event;
use machine::exit;
use machine::insn;
use machine::insn::Insn;

use super::state::Vcpu;

/// GHCB: a plain register of the guest, with or without intercept (APM vol. 2, 15.35.8).
const GHCB: u32 = 0xc001_0130;
/// SEV_STATUS.
const SEV_STATUS: u32 = 0xc001_0131;
/// EFER.
const EFER: u32 = 0xc000_0080;

/// SEV_STATUS of a SEV-ES guest: SEV and SEV-ES enabled.
const SEV_AND_SEV_ES: u64 = 3;

impl Vcpu {
    /// RDMSR or WRMSR of an MSR that the permission map holds back.
    pub fn msr(&mut self, write: bool) {
        let (msr, value) = self.msr_operands();
        match (msr, write) {
            (GHCB, false) => self.finish_read(self.ghcb_msr),
            (GHCB, true) => self.write_ghcb(value),
            (SEV_STATUS, false) if self.world.vm.lies().sev_status(self.stage()).is_some() => {
                self.vc(exit::MSR);
            }
            (SEV_STATUS, false) => self.finish_read(SEV_AND_SEV_ES),
            (SEV_STATUS, true) => self.inject(Event::GP),
            (EFER, false) => self.finish_read(self.vmcb.save.efer),
            (EFER, true) => self.write_efer(value),
            _ => self.vc(exit::MSR),
        }
    }

    fn finish_read(&mut self, value: u64) {
        if let Some((_, len)) = self.instruction() {
            self.set_edx_eax(value);
            self.advance(len);
        }
    }

    /// The write is nearly always followed by VMGEXIT; that saves an exit then.
    fn write_ghcb(&mut self, value: u64) {
        self.ghcb_msr = value;
        let (bytes, len) = self.code_bytes();
        let size = self.vmcb.save.code_size();
        let Some((Insn::WriteMsr, first)) = insn::decode(&bytes[..len], size) else {
            // Not mapped any more, or not what it was: the guest tries again.
            return;
        };
        self.advance(first);
        // Under test the two instructions stay apart, so that an NMI can come in between.
        if self.pending.is_some() || self.world.vm.options().nmi_test {
            return;
        }
        if let Some((Insn::Vmgexit, second)) = insn::decode(&bytes[first..len], size) {
            self.stats.fused();
            self.advance(second);
            self.vmgexit();
        }
    }

    #[cold]
    #[inline(never)]
    fn write_efer(&mut self, value: u64) {
        let Some((_, len)) = self.instruction() else {
            return;
        };
        if control::write_efer(&mut self.vmcb.save, value).is_err() {
            return self.inject(Event::GP);
        }
        self.advance(len);
    }
}
