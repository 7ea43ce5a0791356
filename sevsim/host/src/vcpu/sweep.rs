// SPDX-License-Identifier: GPL-2.0
//! The test port, by which a program in the guest asks for NMIs, and execution of the guest
//! instruction by instruction on its behalf (`machine::sweep`).
//!
//! The port exists with the option `nmi-test=on` only. It is a device of sevsim, not of the
//! hypervisor that is simulated: its accesses raise no #VC.

use core::arch::asm;

use machine::delivery;
use machine::delivery::Outcome;
use machine::event::Event;
use machine::exit;
use machine::paging::Want;
use machine::paging::Who;
use machine::step;
use machine::step::Step;
use machine::step::Stepped;
use machine::sweep;
use machine::sweep::Mode;
use machine::sweep::Place;
use machine::sweep::Seek;
use machine::sweep::Skipped;
use machine::sweep::Status;
use machine::sweep::Sweep;
use machine::sweep::Target;
use machine::vmcb::bits;
use machine::vmcb::Save;
use spin::Mutex;

use super::state;
use super::state::Vcpu;
use crate::log;

/// First of the test port's registers. All are four bytes wide and accessed as such.
const PORT: u64 = 0x5e0;
/// Written: begins a plan for this vCPU (see `Target::from_word`), 0 ends it. Read: its status in
/// bits 7:0, and how many boundaries were skipped.
const PLAN: u64 = 0;
/// Written: NMIs for this vCPU. Read: boundaries of the longest execution.
const BOUNDARIES: u64 = 4;
/// Read: NMIs injected into this vCPU so far.
const NMIS: u64 = 8;
/// Read: different instructions stepped.
const INSTRUCTIONS: u64 = 12;
/// Read: those with an NMI before them, or for which NMIs are masked.
const COVERED: u64 = 16;
/// Read: executions of the handler.
const OCCURRENCES: u64 = 20;
/// Written: begins a storm of NMIs (see `Vm::set_storm`), 0 ends it.
const STORM: u64 = 24;
/// Read: NMIs that were asked for while one was pending or under way, and so are merged.
const MERGED: u64 = 28;

/// Port accesses in the exit's information 1 (APM vol. 2, 15.10.2).
const IOIO_IN: u64 = 1;
const IOIO_STRING: u64 = 1 << 2;
const IOIO_32: u64 = 1 << 6;

/// The one plan, of whichever vCPU began it.
static SWEEP: Mutex<Sweep> = Mutex::new(Sweep::new());

/// DR7: the first two breakpoints, for instructions, are on. A reset value without them.
const DR7_SEEK: u64 = 0x405;
const DR7_ONE: u64 = 0x401;

/// Bit of #DB in the exception intercepts.
const DEBUG_EXCEPTION: u32 = 1 << 1;

/// Physical interrupts are masked by the host's flag, which is off, instead of the guest's.
const V_INTR_MASKING: u32 = 1 << 24;

/// Breakpoints that are set for one entry, and what they replace. Neither DR0 and DR1 nor DR7 are
/// the guest's: it writes the former when its CPUs start, and an exit keeps it from the latter.
#[derive(Clone, Copy)]
struct Sought {
    seek: Seek,
    dr6: u64,
    dr7: u64,
}

impl Sought {
    fn begin(seek: Seek, save: &mut Save) -> Self {
        let [first, second] = seek.at;
        // SAFETY: the host does not use breakpoints: DR7 has none of them on.
        unsafe {
            asm!("mov dr0, {}", in(reg) first.unwrap_or(0), options(nomem, nostack));
            asm!("mov dr1, {}", in(reg) second.unwrap_or(0), options(nomem, nostack));
        }
        let (dr6, dr7) = (save.dr6, save.dr7);
        save.dr7 = if second.is_some() { DR7_SEEK } else { DR7_ONE };
        Self { seek, dr6, dr7 }
    }

    /// Whether the guest is at a breakpoint; `trapped`: it had a #DB.
    fn end(self, save: &mut Save, trapped: bool) -> bool {
        save.dr7 = self.dr7;
        let found = trapped && self.seek.at.contains(&Some(save.rip));
        if found {
            save.dr6 = self.dr6;
        }
        found
    }
}

/// What the vCPU has to do with the plan.
#[derive(Default)]
pub struct Stepping {
    /// It is this vCPU's.
    pub mine: bool,
    /// A step under way.
    step: Option<Step>,
    /// Breakpoints in place.
    sought: Option<Sought>,
    /// The next instruction is an IRET to step over; true if it leads back.
    iret: Option<bool>,
    /// RIP and RSP at the last entry.
    entered: (u64, u64),
}

impl Vcpu {
    /// Where the guest is.
    pub fn place(&self) -> Place {
        let save = &self.vmcb.save;
        Place {
            rip: save.rip,
            rsp: save.rsp,
            cpl: save.cpl,
        }
    }

    /// An access to the test port; false if it is none.
    #[cold]
    #[inline(never)]
    pub fn test_port(&mut self, info1: u64, next_rip: u64) -> bool {
        let offset = (info1 >> 16).wrapping_sub(PORT);
        if !self.world.vm.options().nmi_test || info1 & IOIO_STRING != 0 || info1 & IOIO_32 == 0 {
            return false;
        }
        if offset > MERGED || offset % 4 != 0 {
            return false;
        }
        if info1 & IOIO_IN != 0 {
            self.vmcb.save.rax = u64::from(self.test_port_read(offset));
        } else {
            self.test_port_write(offset, self.vmcb.save.rax as u32);
        }
        self.vmcb.save.rip = next_rip;
        self.vmcb.save.rflags &= !bits::RFLAGS_RF;
        self.vmcb.control.int_state = 0;
        true
    }

    fn test_port_read(&self, offset: u64) -> u32 {
        let vm = &self.world.vm;
        let sweep = SWEEP.lock();
        let counts = sweep.counts();
        match offset {
            PLAN => sweep.status() as u32 | (counts.skipped.min(0xff_ffff) << 8),
            BOUNDARIES => counts.boundaries,
            NMIS => vm.nmi_counts(self.index).0 as u32,
            MERGED => vm.nmi_counts(self.index).1 as u32,
            INSTRUCTIONS => counts.instructions,
            COVERED => counts.covered,
            OCCURRENCES => counts.occurrences,
            _ => u32::MAX,
        }
    }

    fn test_port_write(&mut self, offset: u64, value: u32) {
        match offset {
            PLAN if value == 0 => {
                let mut sweep = SWEEP.lock();
                sweep.disarm();
                self.stepping.mine = false;
                let control = &mut self.vmcb.control;
                control.intercept(exit::IRET, false);
                control.int_ctl &= !V_INTR_MASKING;
                let counts = sweep.counts();
                log!("report nmi-sweep vcpu={} {counts:?}", self.index);
                self.report_skipped(&sweep);
            }
            PLAN => {
                let range = self.world.vm.options().nmi_between;
                let mut sweep = SWEEP.lock();
                // A plan that is repeated.
                if sweep.status() != Status::Idle {
                    self.report_skipped(&sweep);
                }
                sweep.arm(Target::from_word(value), range);
                self.stepping = Stepping {
                    mine: true,
                    ..Stepping::default()
                };
            }
            BOUNDARIES => (0..value).for_each(|_| self.world.vm.nmi_arrived(self.index)),
            STORM => self.world.vm.set_storm(value),
            _ => (),
        }
    }

    /// Tells which boundaries only a plan's first execution came to.
    fn report_skipped(&self, sweep: &Sweep) {
        for Skipped { rip, visit, at } in sweep.skipped() {
            log!(
                "report nmi-sweep-skipped vcpu={} rip={rip:#x} visit={visit} boundary={at}",
                self.index
            );
        }
    }

    /// #VC `code` has been delivered; the guest was at `place`.
    #[cold]
    #[inline(never)]
    pub fn sweep_delivered(&mut self, code: u64, place: Place) {
        SWEEP.lock().delivered(code as u32, place);
    }

    /// Before an entry: whether it is time for an NMI.
    #[cold]
    #[inline(never)]
    pub fn sweep_nmi(&mut self) {
        let vm = &self.world.vm;
        if self.pending.is_some() || self.stepping.iret.is_some() {
            return;
        }
        let open = vm.nmi_open(self.index);
        if SWEEP.lock().nmi_due(self.vmcb.save.rip, open) {
            vm.nmi_arrived(self.index);
        }
    }

    /// Delivers an NMI whose handler is to be stepped; false if it has to be injected.
    #[cold]
    #[inline(never)]
    pub fn sweep_deliver_nmi(&mut self) -> bool {
        let place = self.place();
        if !SWEEP.lock().wants(sweep::NMI, &place) {
            return false;
        }
        let world = self.world;
        let tasks = state::TaskRegisters {
            scratch: self.scratch.pa(),
        };
        let save = &mut self.vmcb.save;
        match delivery::deliver_nmi(save, &world.memory, &tasks, world.cbit) {
            Outcome::Delivered => {
                self.vmcb.control.int_state = 0;
                self.sweep_delivered(u64::from(sweep::NMI), place);
                true
            }
            _ => false,
        }
    }

    /// Right before an entry: sets the intercepts and the trap flag.
    #[cold]
    #[inline(never)]
    pub fn sweep_enter(&mut self) {
        let place = self.place();
        let mut sweep = SWEEP.lock();
        self.stepping.entered = (place.rip, place.rsp);
        self.stepping.step = None;
        let mut seek = None;
        let held = sweep.holds_interrupts();
        let stepping = if let Some(event) = self.pending {
            sweep.leaves(place, event == Event::Nmi);
            self.stepping.iret = None;
            false
        } else {
            match sweep.mode() {
                Mode::Free => false,
                // Where the handler lets interrupts in, it is ordinary code, and no longer the same
                // each time; and an interrupt would push the trap flag.
                Mode::Step if !held && self.vmcb.save.rflags & bits::RFLAGS_IF != 0 => {
                    sweep.abandon();
                    false
                }
                Mode::Step => true,
                Mode::Away => self.stepping.iret.is_some(),
                Mode::Seek(_) if self.stepping.iret.is_some() => true,
                Mode::Seek(what) => {
                    seek = Some(what);
                    false
                }
            }
        };
        if stepping {
            let (bytes, len) = self.code_bytes();
            let long = self.long_code();
            self.stepping.step = Step::begin(&mut self.vmcb.save, &bytes[..len], long);
            if self.stepping.step.is_none() {
                log!(
                    "vCPU {}: cannot step over {:02x?} at {:#x}",
                    self.index,
                    &bytes[..len],
                    place.rip
                );
                self.stepping.iret = None;
                sweep.abandon();
            }
        }
        let trap = self.stepping.step.is_some();
        self.stepping.sought = seek.map(|seek| Sought::begin(seek, &mut self.vmcb.save));
        let control = &mut self.vmcb.control;
        if trap {
            control.exceptions = step::EXCEPTIONS;
        } else if seek.is_some() {
            control.exceptions |= DEBUG_EXCEPTION;
        }
        let returns = match sweep.mode() {
            Mode::Away => true,
            Mode::Seek(seek) => seek.iret,
            _ => false,
        };
        control.intercept(exit::IRET, !trap && returns);
        if held && sweep.holds_interrupts() {
            control.int_ctl |= V_INTR_MASKING;
        } else {
            control.int_ctl &= !V_INTR_MASKING;
        }
    }

    /// Right after an exit: takes the trap flag away. True if the exit was for the step alone.
    #[cold]
    #[inline(never)]
    pub fn sweep_exit(&mut self, code: u64) -> bool {
        if let Some(sought) = self.stepping.sought.take() {
            self.vmcb.control.exceptions &= !DEBUG_EXCEPTION;
            let found = sought.end(&mut self.vmcb.save, code == exit::DB);
            if found {
                self.pending = None;
                let place = self.place();
                SWEEP.lock().reached(place);
            } else if code == exit::DB {
                // The guest's own.
                self.pending = Some(Event::Exception {
                    vector: 1,
                    error: None,
                });
                return true;
            }
            return found;
        }
        let Some(step) = self.stepping.step.take() else {
            return false;
        };
        self.vmcb.control.exceptions = 0;
        let trapped = code == exit::DB;
        let linear = self.linear();
        // As `Vcpu::register`, which borrows all of the vCPU.
        let saved = self.regs.saved;
        let (rax, rsp) = (self.vmcb.save.rax, self.vmcb.save.rsp);
        let register = |number| state::register(&saved, rax, rsp, number);
        let stepped = step.end(&mut self.vmcb.save, &linear, register, trapped);
        if stepped == Stepped::Not {
            return false;
        }
        self.pending = None;
        let place = self.place();
        let mut sweep = SWEEP.lock();
        match self.stepping.iret.take() {
            Some(true) => sweep.is_back(),
            Some(false) => sweep.landed(place, self.vmcb.save.rflags & bits::RFLAGS_RF != 0),
            None => sweep.stepped(&place, stepped == Stepped::Returned),
        }
        true
    }

    /// After an exit has been handled: an instruction that sevsim carried out, and a #VC that it
    /// delivered, are steps as well.
    #[cold]
    #[inline(never)]
    pub fn sweep_handled(&mut self) {
        let place = self.place();
        let mut sweep = SWEEP.lock();
        if sweep.mode() == Mode::Step && self.stepping.entered != (place.rip, place.rsp) {
            sweep.stepped(&place, false);
        }
    }

    /// An exception of the stepped instruction: its handler runs freely. The fault occurs again,
    /// and this time is not intercepted.
    pub fn sweep_leave(&mut self) {
        let place = self.place();
        let mut sweep = SWEEP.lock();
        if self.stepping.iret.take().is_some() {
            // An IRET that faults.
            sweep.abandon();
        } else {
            sweep.leaves(place, false);
        }
    }

    /// IRET while away: it is executed by a step, and may lead back to where the steps go on.
    #[cold]
    #[inline(never)]
    pub fn iret(&mut self) {
        let linear = self.linear();
        let mut frame = [0; 40];
        let rsp = self.vmcb.save.rsp;
        let back = linear
            .read(rsp, &mut frame, Want::Read, Who::Supervisor)
            .is_ok()
            && {
                let word = |index: usize| {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(&frame[8 * index..8 * index + 8]);
                    u64::from_le_bytes(bytes)
                };
                SWEEP.lock().leads_back(&Place {
                    rip: word(0),
                    rsp: word(3),
                    cpl: word(1) as u8 & 3,
                })
            };
        self.stepping.iret = Some(back);
    }
}
