// SPDX-License-Identifier: GPL-2.0
//! The hostile host's test port, and the injection of its events (`hypervisor::hostile`).
//!
//! The port exists with the option `hostile` only. It is a device of sevsim, not of the hypervisor
//! that is simulated: its accesses raise no #VC.

use hypervisor::HostileEvent;
use machine::event::Event;
use machine::vmcb::bits;

use super::state::Vcpu;

/// First of the test port's registers. All are four bytes wide and accessed as such.
const PORT: u64 = 0x5c0;
/// Written: arms for a step, its number in bits 27:0, what it attacks in bits 31:28. Read: what was
/// done since then.
const STEP: u64 = 0;
/// Read: leaks found so far.
const LEAKS: u64 = 4;
/// Written: an attempt begins, with an event within so many instructions, or ends (`assault`). The
/// step is armed in it.
/// Read: how the last one ended, 0 in an attempt.
const ATTEMPT: u64 = 8;
/// Written: halves of four addresses of the kernel, the lower one first.
const ADDRESS: u64 = 12;

/// A byte written here: an event of the step is due, right before the next instruction; for an
/// event in the kernel, an NMI. Within the
/// reach of OUT with an immediate port, for which no register is needed.
const TRIGGER: u64 = 0xee;

/// Port accesses in the exit's information 1 (APM vol. 2, 15.10.2).
const IOIO_IN: u64 = 1;
const IOIO_STRING: u64 = 1 << 2;
const IOIO_8: u64 = 1 << 4;
const IOIO_32: u64 = 1 << 6;

impl Vcpu {
    /// An access to the test port; false if it is none.
    #[cold]
    #[inline(never)]
    pub fn hostile_port(&mut self, info1: u64, next_rip: u64) -> bool {
        let vm = &self.world.vm;
        let port = info1 >> 16;
        let offset = port.wrapping_sub(PORT);
        let single = info1 & (IOIO_STRING | IOIO_32) == IOIO_32;
        let trigger = info1 & (IOIO_STRING | IOIO_8 | IOIO_IN) == IOIO_8 && port == TRIGGER;
        let ours = trigger || single && matches!(offset, STEP | LEAKS | ATTEMPT | ADDRESS);
        if vm.options().hostile.is_none() || !ours {
            return false;
        }
        self.vmcb.save.rip = next_rip;
        self.vmcb.save.rflags &= !bits::RFLAGS_RF;
        self.vmcb.control.int_state = 0;
        let value = self.vmcb.save.rax as u32;
        if trigger {
            vm.hostile_trigger(self.index);
        } else if info1 & IOIO_IN != 0 {
            self.vmcb.save.rax = u64::from(match offset {
                STEP => vm.hostile_done(self.index),
                ATTEMPT => self.assault_outcome(),
                ADDRESS => 0,
                _ => vm.leaks_found(),
            });
        } else if offset == STEP {
            vm.hostile_arm(self.index, value);
            self.assault_arm();
        } else if offset == ATTEMPT {
            self.assault_attempt(value);
        } else if offset == ADDRESS {
            self.assault_address(value);
        }
        true
    }

    /// Before an entry: injects the event that is due, if one is and the guest is in user mode.
    #[cold]
    #[inline(never)]
    pub fn hostile_enter(&mut self) {
        if self.pending.is_some() || self.vmcb.save.cpl != 3 {
            return;
        }
        let Some(event) = self.world.vm.hostile_event(self.index) else {
            return;
        };
        match event {
            HostileEvent::Vc(code) => self.vc(code.into()),
            HostileEvent::Interrupt(vector) => self.inject(Event::Interrupt(vector)),
            HostileEvent::Exception { vector, error } => {
                self.inject(Event::fault(vector, error));
            }
            HostileEvent::Nmi | HostileEvent::RawNmi => self.world.vm.nmi_arrived(self.index),
        }
    }
}
