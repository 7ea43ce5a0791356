// SPDX-License-Identifier: GPL-2.0
//! State of one vCPU and the switch into it.

use core::fmt;

use hypervisor::Entry;
use hypervisor::MAX_VCPUS;
use machine::delivery::Tasks;
use machine::event::Event;
use machine::linear::Linear;
use machine::npt::Tables;
use machine::paging::Paging;
use machine::stage::Tracker;
use machine::vmcb::Segment;
use machine::vmcb::Vmcb;

use super::assault::Assault;
use super::rewind::Saved;
use super::stats::Stats;
use super::sweep::Stepping;
use super::trail::Trail;
use crate::cpu;
use crate::fatal;
use crate::log;
use crate::memory;
use crate::pages;
use crate::pages::InUse;
use crate::world::Memory;
use crate::world::World;

/// Physical address of the page where VMRUN keeps the host's state.
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// General registers that VMRUN does not switch; run.S knows the order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Regs {
    /// RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
    pub saved: [u64; 14],
}

extern "C" {
    fn world_switch(regs: *mut Regs, vmcb_pa: u64);
}

/// One vCPU.
#[repr(C)]
pub struct Vcpu {
    /// Control block.
    pub vmcb: InUse<Vmcb>,
    /// Target of VMSAVE; at first a copy of the VMCB.
    pub scratch: InUse<Vmcb>,
    /// Where VMRUN keeps the host's state.
    pub host_save: InUse<[u8; 4096]>,
    /// Registers outside the VMCB.
    pub regs: Regs,
    /// Index, which is the APIC ID.
    pub index: usize,
    /// State shared with the others.
    pub world: &'static World,
    /// MSR 0xc0010130.
    pub ghcb_msr: u64,
    /// Event to inject at the next entry.
    pub pending: Option<Event>,
    /// Nested tables.
    pub tables: Tables,
    /// CR3 that the aliases serve.
    pub aliases_cr3: u64,
    /// Whether the C-bit works, and so which root is in use.
    pub cbit_active: bool,
    /// Stage of the guest's boot.
    pub tracker: Tracker,
    /// Execution by single steps.
    pub stepping: Stepping,
    /// Attacks on the kernel.
    pub assault: Assault,
    /// An earlier state.
    pub saved: Option<Saved>,
    /// Counters.
    pub stats: &'static Stats,
    /// The last exits.
    pub trail: Trail,
}

impl Vcpu {
    /// Makes the vCPU of this CPU in its reset state, in memory of its own that is never freed.
    #[cold]
    #[inline(never)]
    pub fn new(index: usize, world: &'static World) -> *mut Self {
        assert!(index < MAX_VCPUS);
        let options = world.vm.options();
        let private = world.private_map;
        let cbit = u32::from(options.cbit);
        let Ok(tables) = Tables::new(&mut pages::Tables, private, cbit) else {
            fatal!("not enough hidden memory for page tables: give QEMU a larger -m");
        };
        let pa = pages::take(size_of::<Self>() as u64, 4096);
        let at = memory::direct(pa).cast::<Self>();
        let vmsa = world.guest.vmsa(index);
        let mut vmcb = InUse::<Vmcb>::new();
        // What VMRUN of SEV-ES hardware does.
        let regs = Regs {
            saved: vmsa.load(&mut vmcb.save),
        };
        vmcb.control.vmsa_pa = vmsa.pa();
        super::control::set_up(&mut vmcb.control, options, world, tables.private_root);
        let scratch = InUse::<Vmcb>::new();
        let scratch_pa = scratch.pa();
        let host_save = InUse::<[u8; 4096]>::new();
        let host_save_pa = host_save.pa();
        // SAFETY: fresh memory of the right size and alignment that nobody else knows.
        let vcpu = unsafe {
            at.write(Self {
                vmcb,
                scratch,
                host_save,
                regs,
                index,
                world,
                ghcb_msr: world.vm.ghcb_msr_at_reset(),
                pending: None,
                tables,
                aliases_cr3: 0,
                cbit_active: false,
                tracker: Tracker::new(options.entry == Entry::Firmware),
                stepping: Stepping::default(),
                assault: Assault::default(),
                saved: None,
                stats: Stats::of(index),
                trail: Trail::default(),
            });
            &mut *at
        };
        vcpu.update_paging();
        // With the root of the nested tables that goes with a guest that starts with paging.
        *vcpu.scratch = vcpu.vmcb.clone();
        if !cpu::wrmsr(VM_HSAVE_PA, host_save_pa) {
            fatal!("the CPU refuses VM_HSAVE_PA: its SVM is not usable");
        }
        // SAFETY: `scratch` holds the reset state of what VMLOAD loads.
        unsafe { cpu::vmload(scratch_pa) };
        // For tests: none of them is 2 MiB-aligned (`launch` sees to it that one could have been).
        log!(
            "event in-use vcpu={index} vmcb={:#x} vmsa={:#x} host-save={host_save_pa:#x} \
             scratch={scratch_pa:#x}",
            vcpu.vmcb.pa(),
            vmsa.pa()
        );
        at
    }

    /// Physical addresses and lengths of what this vCPU alone has outside of the image.
    pub fn pages(&self) -> [(u64, u64); 5] {
        let page = |pa| (pa, 4096);
        [
            (
                memory::physical((&raw const *self).cast()),
                size_of::<Self>() as u64,
            ),
            page(self.vmcb.pa()),
            page(self.scratch.pa()),
            page(self.host_save.pa()),
            page(self.world.guest.vmsa(self.index).pa()),
        ]
    }

    /// Runs the guest until its next exit.
    pub fn switch(&mut self) {
        // SAFETY: the VMCB is valid and this CPU's own; the routine restores all host registers.
        unsafe { world_switch(&raw mut self.regs, self.vmcb.pa()) }
    }

    /// Guest memory seen through the guest's page tables as they are now.
    pub fn linear(&self) -> Linear<'static, Memory> {
        Linear {
            memory: &self.world.memory,
            paging: Paging::of(&self.vmcb.save, self.world.cbit),
        }
    }

    /// A general register by its number in instructions.
    pub fn register(&self, number: u8) -> u64 {
        let save = &self.vmcb.save;
        register(&self.regs.saved, save.rax, save.rsp, number)
    }

    /// ECX, EDX:EAX of the MSR instructions.
    pub fn msr_operands(&self) -> (u32, u64) {
        let saved = &self.regs.saved;
        let value = self.vmcb.save.rax & 0xffff_ffff | (saved[2] << 32);
        (saved[1] as u32, value)
    }

    /// Sets EDX:EAX.
    pub fn set_edx_eax(&mut self, value: u64) {
        self.vmcb.save.rax = value & 0xffff_ffff;
        self.regs.saved[2] = value >> 32;
    }

    /// Registers for the report of an error.
    pub fn registers(&self) -> Registers<'_> {
        Registers(self)
    }
}

/// A general register by its number in instructions, of those outside of the VMCB and those in it.
pub fn register(saved: &[u64; 14], rax: u64, rsp: u64, number: u8) -> u64 {
    match number {
        0 => rax,
        1 => saved[1],
        2 => saved[2],
        3 => saved[0],
        4 => rsp,
        5 => saved[5],
        6 => saved[3],
        7 => saved[4],
        _ => saved[usize::from(number) - 2],
    }
}

/// Prints the registers that matter in reports: the machine's own view, as its debugger would have
/// it. The hypervisor has none of them.
pub struct Registers<'a>(&'a Vcpu);

impl fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What DBG_DECRYPT would do for a host, which the guest's owner may forbid.
        if !self.0.world.guest.launched.policy().debug() {
            let shown = self.0.world.vm.registers(self.0.ghcb_msr);
            return write!(
                f,
                "(the policy forbids debugging; the host sees {shown:x?})"
            );
        }
        let save = &self.0.vmcb.save;
        write!(
            f,
            "rip={:#x} cs={:#x} rsp={:#x} rflags={:#x} rax={:#x} rcx={:#x} rdx={:#x} cr0={:#x} \
             cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x} cpl={}",
            save.rip,
            save.cs.selector,
            save.rsp,
            save.rflags,
            save.rax,
            self.0.register(1),
            self.0.register(2),
            save.cr0,
            save.cr2,
            save.cr3,
            save.cr4,
            save.efer,
            save.cpl
        )
    }
}

/// TR and LDTR, which stay in the CPU while the host runs.
pub struct TaskRegisters {
    /// Physical address of a page for VMSAVE.
    pub scratch: u64,
}

impl Tasks for TaskRegisters {
    fn tr_and_ldtr(&self) -> (Segment, Segment) {
        let at = memory::direct(self.scratch).cast::<Vmcb>();
        // SAFETY: the vCPU's scratch VMCB, used by nothing else.
        unsafe {
            cpu::vmsave(self.scratch);
            ((*at).save.tr, (*at).save.ldtr)
        }
    }
}
