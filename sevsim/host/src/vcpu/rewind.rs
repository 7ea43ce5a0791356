// SPDX-License-Identifier: GPL-2.0
//! A guest put back to an earlier state: memory, registers, and what the physical CPU holds of it.
//!
//! For tests that usually end the guest (`assault`): thousands of them fit into one boot. Devices
//! are not put back, so nothing may go on between guest and devices but what either can repeat.
//! One vCPU only. Which memory changed is told by the dirty bits of the nested tables; what sevsim
//! itself writes - replies in the GHCB, frames of #VC - lies on pages that the guest writes as
//! well.

use core::arch::asm;

use machine::isolation::Reason;
use machine::npt;
use machine::vmcb::Vmcb;

use super::state::Regs;
use super::state::Vcpu;
use crate::apic;
use crate::cpu;
use crate::isolation;
use crate::memory;
use crate::pages;
use crate::pages::InUse;

/// CR4.OSFXSR and CR4.OSXSAVE, which the host has no use for otherwise.
const CR4_XSAVE: u64 = (1 << 9) | (1 << 18);

/// Room for the guest's extended state: of all that QEMU has.
const XSAVE_LEN: u64 = 16 << 10;

/// An earlier state.
pub struct Saved {
    vmcb: InUse<Vmcb>,
    /// What VMSAVE gives.
    hidden: InUse<Vmcb>,
    regs: Regs,
    ghcb_msr: u64,
    timer: apic::Timer,
    /// The FPU and more.
    extended: u64,
    /// Copies of the private backing and of shared memory, each of all memory below 4 GiB.
    private: u64,
    shared: u64,
}

/// Saves or restores the extended state that XCR0 enables, which is the guest's.
///
/// # Safety
/// `area` is memory for it, aligned, and of zeros or saved before.
unsafe fn extended(area: u64, restore: bool) {
    let at = memory::direct(area);
    // SAFETY: by the caller; the host does not use any of this state, and CR4 is put back.
    unsafe {
        let cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack));
        asm!("mov cr4, {}", in(reg) cr4 | CR4_XSAVE, options(nostack));
        let all = u32::MAX;
        if restore {
            asm!("xrstor64 [{}]", in(reg) at, in("eax") all, in("edx") all, options(nostack));
        } else {
            asm!("xsave64 [{}]", in(reg) at, in("eax") all, in("edx") all, options(nostack));
        }
        asm!("mov cr4, {}", in(reg) cr4, options(nostack));
    }
}

impl Vcpu {
    fn new_saved(&self) -> Saved {
        let layout = &self.world.memory.layout;
        if layout.high != 0 || self.world.vm.options().vcpus != 1 {
            crate::fatal!("attempts take one vCPU, and a guest with at most 2 GiB");
        }
        let saved = Saved {
            vmcb: InUse::new(),
            hidden: InUse::new(),
            regs: self.regs,
            ghcb_msr: 0,
            timer: apic::Timer::default(),
            extended: pages::take(XSAVE_LEN, 4096),
            private: pages::take(layout.low, memory::LARGE),
            shared: pages::take(layout.low, memory::LARGE),
        };
        memory::wipe(saved.extended, saved.extended + XSAVE_LEN);
        memory::copy(layout.private_low, saved.private, layout.low);
        memory::copy(0, saved.shared, layout.low);
        saved
    }

    /// Calls `each` with place and size of memory that changed since the last call, and with the
    /// place of its copy.
    fn changed(&self, saved: &Saved, each: impl Fn(u64, u64, u64)) {
        let layout = &self.world.memory.layout;
        let private = layout.private_low..layout.private_low + layout.low;
        npt::take_dirty(&mut pages::Tables, self.world.private_map, |at, len| {
            if private.contains(&at) {
                each(at, saved.private + (at - private.start), len);
            }
        });
        npt::take_dirty(&mut pages::Tables, self.tables.alias_table(), |at, len| {
            if at < layout.low {
                each(at, saved.shared + at, len);
            }
        });
    }

    /// Keeps the state of now.
    pub fn save(&mut self) {
        isolation::leave(Reason::Rewind);
        let mut saved = self.saved.take().unwrap_or_else(|| self.new_saved());
        self.changed(&saved, memory::copy);
        *saved.vmcb = self.vmcb.clone();
        saved.regs = self.regs;
        saved.ghcb_msr = self.ghcb_msr;
        saved.timer = apic::Timer::now();
        // SAFETY: a page for VMSAVE, and memory for the extended state.
        unsafe {
            cpu::vmsave(saved.hidden.pa());
            extended(saved.extended, false);
        }
        self.saved = Some(saved);
    }

    /// Puts the guest back to the state that [`Vcpu::save`] kept.
    pub fn rewind(&mut self) {
        let Some(saved) = self.saved.take() else {
            return;
        };
        isolation::leave(Reason::Rewind);
        self.changed(&saved, |at, copy, len| memory::copy(copy, at, len));
        *self.vmcb = saved.vmcb.clone();
        self.regs = saved.regs;
        self.ghcb_msr = saved.ghcb_msr;
        self.pending = None;
        saved.timer.restore();
        // SAFETY: filled by VMSAVE and XSAVE.
        unsafe {
            cpu::vmload(saved.hidden.pa());
            extended(saved.extended, true);
        }
        self.saved = Some(saved);
        self.notice_cr3();
        self.forget_aliases();
        self.update_paging();
        self.world.vm.hostile_rewound(self.index, self.ghcb_msr);
    }
}
