// SPDX-License-Identifier: GPL-2.0
//! A defect of QEMU that guests with several vCPUs meet now and then, and what can be done.
//!
//! FXRSTOR, XRSTOR and FLDENV on any CPU clear a flag of the first one (`cpu_clear_ignne()`), in
//! the word that also tells whether that CPU uses nested paging, and not atomically. So what VMRUN
//! or an exit on the first CPU writes to that word at the same time can be lost:
//!
//! - The guest is entered without nested paging. Its page tables are looked for where they are
//!   not, and the processor shuts down before it has executed an instruction. The entry is
//!   repeated.
//! - After an exit nested paging stays on. The host's next access to memory is an exit as well,
//!   which puts the host's registers where the guest's were. All that can be done is to say so,
//!   and to start again.

use crate::cpu;
use crate::fatal;
use crate::log;

use super::state::Vcpu;

/// What a repeated entry needs.
#[derive(Default)]
pub struct Entered {
    /// RIP and CR2 at the entry.
    rip: u64,
    cr2: u64,
    /// Which exit was answered by another entry.
    repeated: usize,
}

impl Vcpu {
    /// Whether this CPU is the one that the defect concerns.
    fn may_lose(&self) -> bool {
        self.index == 0 && self.world.vm.options().vcpus > 1
    }

    /// Notes where the guest is entered.
    pub fn note_entry(&mut self) {
        self.entered.rip = self.vmcb.save.rip;
        self.entered.cr2 = self.vmcb.save.cr2;
    }

    /// A shutdown: whether the guest is to be entered once more, as it has executed nothing since
    /// the last entry. If it shuts down again it means it. An event that was injected is due again,
    /// as after any exit.
    pub fn enter_again(&mut self) -> bool {
        let exit = self.trail.count();
        let at_entry = self.vmcb.save.rip == self.entered.rip;
        if !self.may_lose() || !at_entry || exit == self.entered.repeated + 1 {
            return false;
        }
        log!(
            "vCPU {}: shut down at its entry, which is repeated",
            self.index
        );
        self.entered.repeated = exit;
        self.vmcb.save.cr2 = self.entered.cr2;
        true
    }

    /// A nested page fault: ends the run if it is the host's own.
    pub fn check_owner(&self) {
        if self.may_lose() && self.vmcb.save.cr3 == cpu::cr3() {
            fatal!("QEMU kept nested paging on after an exit (a race of FXRSTOR): start again");
        }
    }
}
