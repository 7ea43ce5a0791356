// SPDX-License-Identifier: GPL-2.0
//! Intercepts, permission maps, and the control registers that decide about nested paging.

use hypervisor::Intercept;
use hypervisor::Options;
use machine::control;
use machine::event::Event;
use machine::exit;
use machine::insn::Insn;
use machine::paging::Paging;
use machine::vmcb::bits;
use machine::vmcb::Control;

use super::state::Vcpu;
use crate::fatal;
use crate::memory::direct;
use crate::pages;
use crate::world::World;

/// Bit of CR4 in the write intercepts.
const CR4: u16 = 1 << 4;
/// Bit of DR7 in the DR intercepts.
const DR7: u16 = 1 << 7;

/// MSRs that the guest reaches without exit, as KVM lets a SEV-ES guest: state that the VMSA
/// holds, and for EFER see msr.rs.
const PASSED: [u32; 20] = [
    0x0000_0048, // SPEC_CTRL
    0x0000_0049, // PRED_CMD
    0x0000_0174, // SYSENTER_CS
    0x0000_0175, // SYSENTER_ESP
    0x0000_0176, // SYSENTER_EIP
    0x0000_01d9, // DEBUGCTL, and the last-branch MSRs
    0x0000_01db,
    0x0000_01dc,
    0x0000_01dd,
    0x0000_01de,
    0x0000_0277, // PAT
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0100, // FS_BASE
    0xc000_0101, // GS_BASE
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
    0x0000_0da0, // XSS
];

/// Makes the I/O map (every port intercepted) and the MSR map; returns their addresses.
pub fn permission_maps() -> (u64, u64) {
    const IOPM: u64 = 3 * 4096;
    const MSRPM: u64 = 2 * 4096;
    let (iopm, msrpm) = (pages::take(IOPM, 4096), pages::take(MSRPM, 4096));
    // SAFETY: fresh memory.
    unsafe {
        core::ptr::write_bytes(direct(iopm), 0xff, IOPM as usize);
        core::ptr::write_bytes(direct(msrpm), 0xff, MSRPM as usize);
    }
    for msr in PASSED {
        // Two bits an MSR, 2 KiB a range of 0x2000 MSRs (APM vol. 2, 15.11).
        let range: u64 = match msr >> 16 {
            0 => 0,
            0xc000 => 1,
            _ => 2,
        };
        let bit = range * 0x4000 + u64::from(msr & 0x1fff) * 2;
        // SAFETY: within the map.
        unsafe { *direct(msrpm + bit / 8) &= !(3 << (bit % 8)) };
    }
    (iopm, msrpm)
}

/// Sets a fresh control area up.
pub fn set_up(control: &mut Control, options: &Options, world: &World, root: u64) {
    control.asid = 1;
    control.nested_ctl = 1;
    control.nested_cr3 = root;
    control.iopm_pa = world.iopm;
    control.msrpm_pa = world.msrpm;
    control.dr_reads = DR7;
    control.dr_writes = DR7;
    for code in [
        exit::NMI,
        exit::SMI,
        exit::CR0_SEL_WRITE,
        exit::RDPMC,
        exit::CPUID,
        exit::INVD,
        exit::INVLPGA,
        exit::IOIO,
        exit::MSR,
        exit::SHUTDOWN,
        exit::VMRUN,
        exit::VMMCALL,
        exit::VMLOAD,
        exit::VMSAVE,
        exit::STGI,
        exit::CLGI,
        exit::SKINIT,
        exit::WBINVD,
        exit::MONITOR,
        exit::MWAIT,
    ] {
        control.intercept(code, true);
    }
    if options.intercept == Intercept::All {
        control.intercept(exit::RDTSC, true);
        control.intercept(exit::RDTSCP, true);
    }
}

impl Vcpu {
    /// Chooses the root by whether the C-bit works, and the intercepts by the aliases in use.
    pub fn update_paging(&mut self) {
        let active = Paging::of(&self.vmcb.save, self.world.cbit).cbit_active();
        self.cbit_active = active;
        self.vmcb.control.nested_cr3 = if active {
            self.tables.root
        } else {
            self.tables.private_root
        };
        self.update_intercepts();
    }

    /// While an address without C-bit leads to private memory for the sake of a walk or a fetch,
    /// the guest may after a change of its translations come to use it for data. INVLPG is
    /// intercepted then; a new CR3 is noticed at the next exit, because firmware rewrites CR3 with
    /// the same value at the end of each exception: dropping the aliases each time made 250000
    /// nested faults of one boot's 5500, and the boot twice as long.
    pub fn update_intercepts(&mut self) {
        let save = &self.vmcb.save;
        // CR4.PAE decides about the C-bit outside long mode; and QEMU knows LA57.
        let legacy = save.efer & bits::EFER_LMA == 0;
        let watch = self.tables.private_aliases != 0;
        let control = &mut self.vmcb.control;
        control.intercept(exit::INVLPG, watch);
        control.cr_writes = if legacy { CR4 } else { 0 };
    }

    /// Forgets the aliases that served another CR3.
    pub fn notice_cr3(&mut self) {
        let cr3 = self.vmcb.save.cr3;
        if cr3 != self.aliases_cr3 {
            self.aliases_cr3 = cr3;
            self.forget_aliases();
        }
    }

    #[cold]
    #[inline(never)]
    pub fn forget_aliases(&mut self) {
        if self.tables.private_aliases != 0 {
            let mut frames = pages::NestedTables(&self.world.memory);
            self.tables.forget(&mut frames);
            self.update_intercepts();
        }
    }

    /// Carries out a write of CR0 or CR4, or INVLPG. The entry that follows flushes the TLB.
    #[cold]
    #[inline(never)]
    pub fn control_register(&mut self) {
        let Some((insn, len)) = self.instruction() else {
            return;
        };
        let old = self.vmcb.save.cr0;
        let done = match insn {
            Insn::WriteCr { cr: 0, register } => {
                let value = self.operand(register);
                control::write_cr0(&mut self.vmcb.save, value)
            }
            Insn::LoadMsw { register } => {
                // PE cannot be cleared, and only the low four bits are written.
                let low = self.register(register) & 0xf | old & bits::CR0_PE;
                control::write_cr0(&mut self.vmcb.save, old & !0xf | low)
            }
            Insn::ClearTs => control::write_cr0(&mut self.vmcb.save, old & !8),
            Insn::WriteCr { cr: 4, register } => {
                let (value, defined) = (self.operand(register), self.world.cr4_defined);
                control::write_cr4(&mut self.vmcb.save, value, defined)
            }
            Insn::Invlpg => Ok(()),
            _ => fatal!(
                "vCPU {}: {insn:?} as a control register {}",
                self.index,
                self.registers()
            ),
        };
        if done.is_err() {
            return self.inject(Event::GP);
        }
        self.forget_aliases();
        self.update_paging();
        self.advance(len);
    }

    /// Source of MOV to CR: 64 bits in 64-bit code, else 32.
    fn operand(&self, register: u8) -> u64 {
        let value = self.register(register);
        if self.long_code() {
            value
        } else {
            value & 0xffff_ffff
        }
    }
}
