// SPDX-License-Identifier: GPL-2.0
//! The exit loop of one vCPU: what the machine does itself, what becomes #VC, what is a VMGEXIT.

mod assault;
mod control;
mod hostile;
mod msr;
mod rewind;
mod stage;
mod state;
pub mod stats;
mod sweep;
mod trail;

use hypervisor::Next;
use hypervisor::Platform;
use hypervisor::Stop;
use machine::delivery;
use machine::delivery::Outcome;
use machine::event;
use machine::event::Event;
use machine::event::Meeting;
use machine::event::PAGE_FAULT;
use machine::exit;
use machine::insn;
use machine::insn::Insn;
use machine::npt::Alias;
use machine::npt::Exhausted;
use machine::vmcb::bits;
use machine::vmcb::Vmcb;

use crate::cpu;
use crate::fatal;
use crate::isolation;
use crate::log;
use crate::pages;
use crate::platform;
use crate::stop;
use crate::stop::Verdict;
use crate::world;

pub use control::permission_maps;
pub use stats::report;

use state::Vcpu;

extern "C" {
    fn nmi_window();
    fn nmi_wait();
}

/// Nested page fault, information 1: write.
const NPF_WRITE: u64 = 1 << 1;
/// Instruction fetch.
const NPF_FETCH: u64 = 1 << 4;
/// The fault came in the walk of the guest's own tables.
const NPF_WALK: u64 = 1 << 33;

/// Runs a vCPU on this CPU for good.
pub fn run(index: usize) -> ! {
    cpu::clgi();
    // Asleep, so that waiting CPUs take no time from the one that sets up.
    let world = loop {
        match world::get() {
            Some(world) => break world,
            None => {
                // SAFETY: as in `sleep`.
                unsafe { nmi_wait() };
                platform::take_kick(index);
            }
        }
    };
    // SAFETY: made here, for this CPU alone.
    let vcpu = unsafe { &mut *Vcpu::new(index, world) };
    if world.memory.isolated {
        isolation::start(index, world, &vcpu.pages());
    }
    while !world.vm.may_start(index) {
        sleep(vcpu);
    }
    if world.vm.options().guest_tsc {
        // The first entry fails, and so shows what an entry and an exit cost.
        vcpu.vmcb.control.asid = 0;
    }
    vcpu.stats.start();
    cycle(vcpu)
}

/// Guest and host by turns. A function of its own, so that its stack is small: under TCG each page
/// that an exit touches is looked up anew.
#[inline(never)]
fn cycle(vcpu: &mut Vcpu) -> ! {
    loop {
        vcpu.enter();
        vcpu.handle();
    }
}

/// TSC cycles that a vCPU ran.
pub fn guest_cycles(index: usize) -> u64 {
    stats::Stats::of(index).guest()
}

/// Sleeps until a kick (or another NMI) comes.
fn sleep(vcpu: &Vcpu) {
    // SAFETY: GIF is 0 and interrupts are off: only an NMI is taken, and its handler returns.
    unsafe { nmi_wait() };
    note_nmi(vcpu);
}

/// Passes an NMI that is not a kick on to the hypervisor.
fn note_nmi(vcpu: &Vcpu) {
    if !platform::take_kick(vcpu.index) {
        vcpu.world.vm.nmi_arrived(vcpu.index);
    }
}

impl Vcpu {
    /// Enters the guest until its next exit.
    fn enter(&mut self) {
        let vm = &self.world.vm;
        vm.storm(self.index);
        if vm.options().hostile.is_some() {
            self.hostile_enter();
            if self.assaulted() {
                self.assault_prepare();
            }
        }
        if self.stepping.mine {
            self.sweep_nmi();
        }
        let nmi = self.pending.is_none() && vm.nmi_ready(self.index) && vm.take_nmi(self.index);
        if nmi && !(self.stepping.mine && self.sweep_deliver_nmi()) {
            self.pending = Some(Event::Nmi);
        }
        if let Some(event) = self.pending {
            // EVENTINJ takes one event: an NMI that waits as well is due right behind it.
            if event != Event::Nmi && vm.nmi_ready(self.index) {
                vm.platform().kick(self.index);
            }
            let (field, error) = event.encode();
            let control = &mut self.vmcb.control;
            control.event_inj = field;
            control.event_inj_error = error;
            // QEMU would take an exception that occurs on the way as a first one.
            control.exceptions |= event.critical();
        }
        if self.stepping.mine {
            self.sweep_enter();
        }
        if self.assaulted() {
            self.assault_enter();
        }
        if self.world.memory.isolated {
            isolation::before_run();
        }
        self.stats.enter();
        if vm.options().guest_tsc {
            self.vmcb.control.tsc_offset = self.stats.guest_tsc_offset();
        }
        self.switch();
        self.stats.exit();
        if self.world.memory.isolated {
            isolation::after_run(self.index);
        }
    }

    /// Handles the exit that ended [`Vcpu::enter`].
    fn handle(&mut self) {
        let control = &mut self.vmcb.control;
        let (code, info1, info2) = (control.exit_code, control.exit_info1, control.exit_info2);
        // An event whose delivery the exit cut short is still due.
        self.pending = Event::interrupted(control.exit_int_info, control.exit_int_error);
        control.exceptions &= !event::CRITICAL;
        self.trail.note(code, self.vmcb.save.rip);
        self.stats.count(code);
        let mine = self.stepping.mine;
        if mine && self.sweep_exit(code) {
            self.notice_cr3();
            return;
        }
        self.notice_cr3();
        if self.assaulted() && self.assault_exit(code) {
            return;
        }
        self.dispatch(code, info1, info2);
        if mine {
            self.sweep_handled();
        }
    }

    /// The frequent exits by comparisons: the indirect jump, which a match over all exits becomes,
    /// costs more than all of them under TCG.
    fn dispatch(&mut self, code: u64, info1: u64, info2: u64) {
        if code == exit::MSR {
            self.msr(info1 != 0);
        } else if code == exit::VMMCALL {
            self.vmmcall();
        } else if code == exit::CPUID || code == exit::IOIO && !self.world.vm.options().test_port()
        {
            self.vc(code);
        } else if code == exit::NPF {
            self.nested_fault(info1, info2);
        } else {
            self.dispatch_rare(code, info1, info2);
        }
    }

    #[cold]
    #[inline(never)]
    fn dispatch_rare(&mut self, code: u64, info1: u64, info2: u64) {
        match code {
            exit::NMI => {
                // SAFETY: takes the pending NMI; the handler returns.
                unsafe { nmi_window() };
                note_nmi(self);
            }
            exit::IOIO if self.test_port(info1, info2) || self.hostile_port(info1, info2) => (),
            exit::IRET => self.iret(),
            exit::IOIO
            | exit::CPUID
            | exit::RDTSC
            | exit::RDTSCP
            | exit::RDPMC
            | exit::MONITOR
            | exit::MWAIT
            | exit::READ_DR7
            | exit::WRITE_DR7 => self.vc(self.vc_code(code)),
            exit::CR0_SEL_WRITE | exit::WRITE_CR4 | exit::INVLPG => self.control_register(),
            exit::IDTR_WRITE => self.idt_given_up(),
            exit::INVD | exit::WBINVD | exit::VMRUN..=exit::SKINIT | exit::INVLPGA => {
                self.privileged(code);
            }
            // No guest has address space 0: the entry that measures the switch. The guest's state
            // is as after reset.
            exit::INVALID if self.vmcb.control.asid == 0 => {
                *self.vmcb = self.scratch.clone();
                self.stats.calibrate();
            }
            exit::INVALID => self.invalid(),
            exit::EXCEPTION..=exit::EXCEPTION_LAST => {
                self.exception((code - exit::EXCEPTION) as u8, info1 as u32, info2);
            }
            exit::SMI => fatal!(
                "vCPU {}: a device sent an SMI, which a SEV-ES guest cannot take {}",
                self.index,
                self.registers()
            ),
            exit::SHUTDOWN => self.shutdown(),
            _ => fatal!(
                "vCPU {}: exit {code:#x} info1={info1:#x} info2={info2:#x} {}",
                self.index,
                self.registers()
            ),
        }
    }

    /// RDTSCP has no intercept of its own in QEMU and comes as RDTSC.
    fn vc_code(&self, code: u64) -> u64 {
        match code {
            exit::RDTSC if matches!(self.decode(), Some((Insn::Rdtscp, _))) => exit::RDTSCP,
            _ => code,
        }
    }

    /// An instruction that the guest's kernel alone may execute. The processor checks that before
    /// the intercept (APM vol. 2, table 15-7); QEMU does not for INVD, WBINVD and SKINIT.
    fn privileged(&mut self, code: u64) {
        if self.vmcb.save.cpl == 0 {
            self.vc(code);
        } else {
            self.inject(Event::GP);
        }
    }

    /// VMEXIT_INVALID is also what QEMU makes of reserved bits in CR3 and CR4.
    fn invalid(&mut self) {
        match self.decode() {
            Some((Insn::WriteCr { cr: 3 | 4, .. }, _)) => self.inject(Event::GP),
            _ => fatal!(
                "vCPU {}: invalid guest state {}",
                self.index,
                self.registers()
            ),
        }
    }

    /// Makes the exit a #VC of the guest.
    fn vc(&mut self, code: u64) {
        let code = self.staged(code);
        if self.world.vm.options().hostile.is_some() {
            let user = self.vmcb.save.cpl == 3;
            self.world.vm.hostile_exception(self.index, user);
        }
        self.vmcb.control.int_state = 0;
        // An access to a device while an event is delivered.
        if let Some(first) = self.pending.take() {
            match first.meets(delivery::VECTOR) {
                Meeting::Second => (),
                Meeting::DoubleFault => return self.inject(Event::DF),
                Meeting::Shutdown => return self.shutdown(),
            }
        }
        let world = self.world;
        let tasks = state::TaskRegisters {
            scratch: self.scratch.pa(),
        };
        let place = self.place();
        let save = &mut self.vmcb.save;
        match delivery::deliver(save, &world.memory, &tasks, world.cbit, code as u32) {
            Outcome::Delivered if self.stepping.mine => self.sweep_delivered(code, place),
            Outcome::Delivered => (),
            other => self.not_delivered(code, other),
        }
    }

    #[cold]
    #[inline(never)]
    fn not_delivered(&mut self, code: u64, outcome: Outcome) {
        match outcome {
            Outcome::Delivered => (),
            Outcome::PageFault(event) => self.inject(event),
            Outcome::DoubleFault { vector, error } => {
                log!(
                    "vCPU {}: #VC {code:#x} met exception {vector} error={error:#x} {}",
                    self.index,
                    self.registers()
                );
                self.inject(Event::DF);
            }
            Outcome::Unsupported(what) => {
                fatal!(
                    "vCPU {}: {what}, error code {code:#x} {}",
                    self.index,
                    self.registers()
                )
            }
        }
    }

    /// An exception that is intercepted since another one was injected.
    fn exception(&mut self, vector: u8, error: u32, address: u64) {
        let Some(first) = self.pending.take() else {
            // The first one was delivered, or there was none and the guest is stepped. This one is
            // a fault like all that are intercepted: it occurs again, and then without intercept.
            if self.stepping.mine {
                self.sweep_leave();
            }
            return;
        };
        if vector == PAGE_FAULT {
            self.vmcb.save.cr2 = address;
        }
        match first.meets(vector) {
            Meeting::Second => self.inject(Event::fault(vector, error)),
            Meeting::DoubleFault => self.inject(Event::DF),
            Meeting::Shutdown => self.shutdown(),
        }
    }

    #[cold]
    #[inline(never)]
    fn shutdown(&mut self) {
        if self.assault_shutdown() {
            return;
        }
        self.log_remains();
        stop::end(
            Verdict::TripleFault,
            format_args!(
                "triple-fault vcpu={} rip={:#x}",
                self.index, self.vmcb.save.rip
            ),
        )
    }

    /// Injects an exception at the next entry.
    fn inject(&mut self, event: Event) {
        self.pending = Some(event);
    }

    /// Bytes at RIP, as many as can be fetched.
    fn code_bytes(&self) -> ([u8; insn::LONGEST], usize) {
        insn::fetch(&self.vmcb.save, &self.world.memory, self.world.cbit)
    }

    /// Whether the code segment is a 64-bit one.
    fn long_code(&self) -> bool {
        self.vmcb.save.long_code()
    }

    /// The instruction at RIP, if it is one that this crate knows.
    fn decode(&self) -> Option<(Insn, usize)> {
        let (bytes, len) = self.code_bytes();
        insn::decode(&bytes[..len], self.vmcb.save.code_size())
    }

    /// The instruction at RIP, which by its exit is one that the machine carries out. `None` if
    /// another vCPU unmapped it meanwhile: the guest then tries again, and faults by itself.
    fn instruction(&self) -> Option<(Insn, usize)> {
        let (bytes, len) = self.code_bytes();
        let found = insn::decode(&bytes[..len], self.vmcb.save.code_size());
        if found.is_none() && len == bytes.len() {
            self.unknown_instruction(&bytes);
        }
        found
    }

    #[cold]
    #[inline(never)]
    fn unknown_instruction(&self, bytes: &[u8]) -> ! {
        fatal!(
            "vCPU {}: exit {:#x} at an unknown instruction {:02x?} {}",
            self.index,
            self.vmcb.control.exit_code,
            bytes,
            self.registers()
        )
    }

    /// Continues behind an instruction that the machine carried out.
    fn advance(&mut self, len: usize) {
        let Vmcb { control, save } = &mut *self.vmcb;
        let rip = save.rip.wrapping_add(len as u64);
        save.rip = if save.long_code() {
            rip
        } else {
            rip & 0xffff_ffff
        };
        save.rflags &= !bits::RFLAGS_RF;
        control.int_state = 0;
        if save.rflags & bits::RFLAGS_TF != 0 {
            // The single-step trap that the instruction would have ended with.
            save.dr6 |= 1 << 14;
            self.inject(Event::Exception {
                vector: 1,
                error: None,
            });
        }
    }

    /// VMMCALL is #VC; with a REP prefix it is VMGEXIT. Neither depends on the privilege level.
    fn vmmcall(&mut self) {
        if let Some((Insn::Vmgexit, len)) = self.decode() {
            self.advance(len);
            self.vmgexit();
        } else {
            self.vc(exit::VMMCALL);
        }
    }

    /// Hands the GHCB to the hypervisor.
    fn vmgexit(&mut self) {
        let vm = &self.world.vm;
        self.stats.request(self.stage(), self.ghcb_msr);
        let isolated = self.world.memory.isolated;
        if isolated {
            isolation::close_processor();
        }
        let (msr, next) = vm.vmgexit(self.index, self.ghcb_msr, self.vmcb.save.cr4);
        if isolated {
            self.handled_isolated(msr);
        }
        self.ghcb_msr = msr;
        if self.assaulted() {
            self.assault_replied();
        }
        match next {
            Next::Resume => (),
            Next::Hold => {
                self.ghcb_msr = loop {
                    if self.world.memory.isolated {
                        isolation::enter();
                    }
                    if let Some(msr) = vm.release(self.index) {
                        break msr;
                    }
                    sleep(self);
                };
            }
            Next::Stop(why) => self.stop(why),
        }
    }

    /// Counts a request that was handled in the isolated address space or not, and touches
    /// something else if the user wants to see the fault.
    fn handled_isolated(&self, msr: u64) {
        if let (Some(what), true) = (self.world.vm.options().touch, msr & 0xfff == 0) {
            isolation::touch(what, self.world);
        }
        self.stats.isolation.request(isolation::has_left());
    }

    #[cold]
    #[inline(never)]
    fn stop(&mut self, why: Stop) {
        if self.assault_stop(&why) {
            return;
        }
        let vcpu = self.index;
        match why {
            Stop::PowerOff => stop::end(Verdict::PowerOff, format_args!("poweroff vcpu={vcpu}")),
            Stop::Reset => stop::end(Verdict::Reset, format_args!("reset vcpu={vcpu}")),
            Stop::Terminate { set, code } => stop::end(
                Verdict::Terminate,
                format_args!("terminate set={set} code={code} vcpu={vcpu}"),
            ),
            Stop::UnsupportedEvent { code } => stop::end(
                Verdict::Terminate,
                format_args!("unsupported-event code={code:#x} vcpu={vcpu}"),
            ),
        }
    }

    /// A nested page fault: an alias of memory to map, or a device's register.
    fn nested_fault(&mut self, info1: u64, info2: u64) {
        let world = self.world;
        let private = info2 & world.cbit != 0 || !self.cbit_active;
        let gpa = info2 & !world.cbit;
        let inner = info1 & (NPF_WALK | NPF_FETCH) != 0;
        if !private {
            let kind = if inner { Alias::Private } else { Alias::Data };
            let flash_write = info1 & NPF_WRITE != 0 && !world.memory.layout.is_ram(gpa, 1);
            if inner || !flash_write {
                let mut frames = pages::NestedTables(&world.memory);
                match self
                    .tables
                    .alias(&mut frames, &world.memory.layout, gpa, kind)
                {
                    Ok(true) => return self.update_intercepts(),
                    Ok(false) => (),
                    Err(Exhausted) => fatal!("no page for nested tables: give QEMU a larger -m"),
                }
            }
        }
        if inner {
            return self.walked_nowhere(info1, info2);
        }
        self.vc(exit::NPF);
    }

    /// Nothing that a #VC could mend: hardware exits to a host that has no way out.
    #[cold]
    #[inline(never)]
    fn walked_nowhere(&mut self, info1: u64, info2: u64) {
        if self.assault_shutdown() {
            return;
        }
        log!(
            "vCPU {}: fetch or page walk at {info2:#x}, which is no memory, info1={info1:#x}",
            self.index
        );
        self.log_remains();
        stop::end(
            Verdict::TripleFault,
            format_args!(
                "shutdown vcpu={} rip={:#x} walked={info2:#x}",
                self.index, self.vmcb.save.rip
            ),
        )
    }
}
