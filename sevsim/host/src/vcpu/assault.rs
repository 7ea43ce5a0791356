// SPDX-License-Identifier: GPL-2.0
//! Attacks at instructions of the guest's kernel, and attempts: what comes of an attack is noted,
//! and the guest put back to where it began, whether it ended, hangs or went on.
//!
//! A program in the guest arms for a step (`hostile`), tells addresses of the kernel, and begins an
//! attempt. From the first address on the kernel is executed instruction by instruction, until the
//! event of the step is due. The reply to a VMGEXIT can change at each instruction as well.

use hypervisor::HostileEvent;
use hypervisor::Stop;
use machine::event::Event;
use machine::exit;
use machine::paging::Want;
use machine::paging::Who;
use machine::step;
use machine::step::Step;
use machine::step::Stepped;
use machine::vmcb::bits;

use super::state;
use super::state::Vcpu;
use crate::cpu;
use crate::log;
use crate::platform;

/// Where the attack begins, and where a panic, an oops and a warning do.
const ADDRESSES: usize = 4;
const START: usize = 0;
const PANIC: usize = 1;
const OOPS: usize = 2;
const WARNING: usize = 3;

/// DR7 after reset, and its enable bits of the four breakpoints.
const DR7: u64 = 0x400;
const DR7_ENABLE: [u64; ADDRESSES] = [1, 1 << 2, 1 << 4, 1 << 6];

/// Bit of #DB in the exception intercepts.
const DEBUG_EXCEPTION: u32 = 1 << 1;

/// Physical interrupts are masked by the host's flag, which is off, instead of the guest's.
const V_INTR_MASKING: u32 = 1 << 24;

/// QEMU's watchdog ib700: ports to stop and to start it, and the value for 16 seconds. It sends an
/// NMI (`-action watchdog=inject-nmi`).
const WATCHDOG_STOP: u16 = 0x441;
const WATCHDOG_START: u16 = 0x443;
const WATCHDOG_16S: u8 = 7;

/// Instructions behind a VMGEXIT at which the reply may change.
const MAX_REWRITES: u32 = 600;

/// Linux's selectors in an exception's frame, SS also as it is after an entry from user mode, and
/// how many words up the stack from oops_begin() the frame is looked for.
const KERNEL_CS: u64 = 0x10;
const KERNEL_SS: [u64; 2] = [0x18, 0];
const FRAME_WITHIN: u64 = 128;

/// The result that the guest's program writes: this bit, and a number.
pub const RETURNED: u32 = 1 << 31;

/// The attack begins where the address is reached from user mode: its frame has an error code.
const FROM_USER: u32 = 1 << 16;

/// How an attempt ended: bits 31:28 of what the test port tells. In the lower half: the result of
/// the guest's program, or the reason of a termination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Returned = 1,
    Terminated = 2,
    Panic = 3,
    Oops = 4,
    TripleFault = 5,
    Hang = 6,
    Reset = 7,
}

/// Bits of what the test port tells: a warning was printed, an event injected.
const TOLD_WARNING: u32 = 1 << 27;
const TOLD_INJECTED: u32 = 1 << 26;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No attack.
    #[default]
    Off,
    /// On the way to the first address.
    Seek,
    /// So many instructions are left to the event.
    Step(u64),
    /// The reply changes at each instruction; so many so far.
    Rewrite(u32),
    /// The guest runs freely.
    Free,
}

/// State of the attack.
#[derive(Default)]
pub struct Assault {
    phase: Phase,
    /// An attempt is under way.
    attempt: bool,
    addresses: [u64; ADDRESSES],
    /// Halves of addresses that the test port got in this step.
    halves: usize,
    /// What the guest's program wants.
    wish: Wish,
    /// The event that follows the first one, and so many instructions behind its address.
    next: Option<(u64, HostileEvent)>,
    depth: u64,
    from_user: bool,
    boundary: u64,
    event: Option<HostileEvent>,
    /// Where the event was injected.
    place: Option<Place>,
    step: Option<Step>,
    dr6: u64,
    warned: bool,
    outcome: u32,
    begun: u64,
}

/// An attack that the guest's program chose: words of the test port, behind the addresses.
#[derive(Default)]
struct Wish {
    words: [u32; WISH_WORDS],
    told: usize,
}

/// The event; and the halves of an address, a number of instructions behind it, and another event
/// there, which follows the first one.
const WISH_WORDS: usize = 5;

impl Wish {
    fn tell(&mut self, word: u32) {
        if let Some(place) = self.words.get_mut(self.told) {
            *place = word;
            self.told += 1;
        }
    }

    /// The event; `None` if any will do.
    fn event(&self) -> Option<HostileEvent> {
        HostileEvent::of_word(self.words[0])
    }

    /// The event that follows, where its instructions are counted from, and how many they are.
    fn next(&self) -> Option<(u64, u64, HostileEvent)> {
        let [_, low, high, boundary, event] = self.words;
        let address = u64::from(low) | (u64::from(high) << 32);
        Some((address, boundary.into(), HostileEvent::of_word(event)?))
    }
}

/// Where an event was injected.
#[derive(Clone, Copy)]
struct Place {
    rip: u64,
    cpl: u8,
    bytes: [u8; 8],
}

/// Sets the breakpoint of where an attack begins.
fn begin_at(address: u64) {
    // SAFETY: the host does not use breakpoints, and the guest's DR7 is not the processor's.
    unsafe { core::arch::asm!("mov dr0, {}", in(reg) address, options(nomem, nostack)) };
}

impl Vcpu {
    /// The test port: a new step. In an attempt, so that nothing is attacked outside of it.
    pub fn assault_arm(&mut self) {
        let vm = &self.world.vm;
        let assault = &mut self.assault;
        let chosen = vm.hostile_kernel_event(self.index, assault.depth, assault.wish.event());
        assault.phase = match chosen {
            Some((boundary, event)) if assault.attempt => {
                assault.boundary = boundary;
                assault.event = Some(event);
                Phase::Seek
            }
            _ if assault.attempt || vm.hostile_follows(self.index) => Phase::Free,
            _ => Phase::Off,
        };
    }

    /// The test port: half of an address; behind all of them, what is to be injected.
    pub fn assault_address(&mut self, half: u32) {
        let halves = self.assault.halves;
        if let Some(address) = self.assault.addresses.get_mut(halves / 2) {
            *address = if halves % 2 == 0 {
                half.into()
            } else {
                *address | (u64::from(half) << 32)
            };
            self.assault.halves += 1;
        } else {
            self.assault.wish.tell(half);
        }
    }

    /// The test port: how the last attempt ended; 0 in an attempt.
    pub fn assault_outcome(&self) -> u32 {
        self.assault.outcome
    }

    /// The test port: an attempt begins, or ends with a result. The guest is behind the
    /// instruction.
    #[cold]
    #[inline(never)]
    pub fn assault_attempt(&mut self, value: u32) {
        if value & RETURNED != 0 {
            if self.assault.attempt {
                self.over(End::Returned, value & 0xffff, format_args!(""));
            }
            return;
        }
        let assault = &mut self.assault;
        assault.depth = u64::from(value & 0xffff);
        assault.from_user = value & FROM_USER != 0;
        assault.halves = 0;
        assault.outcome = 0;
        assault.attempt = true;
        assault.warned = false;
        assault.place = None;
        assault.event = None;
        assault.step = None;
        assault.phase = Phase::Free;
        let [start, panic, oops, warning] = assault.addresses;
        begin_at(start);
        // SAFETY: the host does not use breakpoints, and the guest's DR7 is not the processor's.
        unsafe {
            core::arch::asm!("mov dr1, {}", in(reg) panic, options(nomem, nostack));
            core::arch::asm!("mov dr2, {}", in(reg) oops, options(nomem, nostack));
            core::arch::asm!("mov dr3, {}", in(reg) warning, options(nomem, nostack));
        }
        self.save();
        self.assault.begun = cpu::rdtsc();
        cpu::out8(WATCHDOG_START, WATCHDOG_16S);
    }

    /// Whether an attack or an attempt is under way.
    #[inline(always)]
    pub fn assaulted(&self) -> bool {
        self.assault.phase != Phase::Off
    }

    /// Before an entry: injects the event if it is due, or changes the reply.
    #[cold]
    #[inline(never)]
    pub fn assault_prepare(&mut self) {
        if self.pending.is_some() {
            // The handler of another event: the attack does not follow it.
            if matches!(self.assault.phase, Phase::Step(_) | Phase::Rewrite(_)) {
                self.assault.phase = Phase::Free;
            }
            return;
        }
        match self.assault.phase {
            Phase::Step(_) | Phase::Rewrite(_) if self.vmcb.save.cpl == 3 => {
                self.assault.phase = Phase::Free;
            }
            Phase::Step(0) => self.assault_inject(),
            Phase::Rewrite(_) => {
                let gpa = self.ghcb_msr & !0xfff;
                self.world.vm.hostile_rewrite(self.index, gpa);
            }
            _ => (),
        }
    }

    fn assault_inject(&mut self) {
        let assault = &mut self.assault;
        assault.phase = Phase::Free;
        if let Some((boundary, event)) = assault.next.take() {
            assault.boundary = boundary;
            assault.event = Some(event);
        }
        let Some(event) = assault.event else {
            return;
        };
        if let Some((address, boundary, event)) = self.assault.wish.next() {
            let assault = &mut self.assault;
            assault.wish = Wish::default();
            assault.addresses[START] = address;
            assault.next = Some((boundary, event));
            assault.from_user = false;
            assault.phase = Phase::Seek;
            begin_at(address);
        }
        let (code, _) = self.code_bytes();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&code[..8]);
        self.assault.place = Some(Place {
            rip: self.vmcb.save.rip,
            cpl: self.vmcb.save.cpl,
            bytes,
        });
        self.world.vm.hostile_injected(self.index, event);
        match event {
            HostileEvent::Vc(code) => self.vc(code.into()),
            HostileEvent::Interrupt(vector) => self.pending = Some(Event::Interrupt(vector)),
            HostileEvent::Exception { vector, error } => {
                self.pending = Some(Event::fault(vector, error));
            }
            HostileEvent::Nmi => self.world.vm.nmi_arrived(self.index),
            HostileEvent::RawNmi => self.pending = Some(Event::Nmi),
        }
    }

    /// Right before an entry: sets breakpoints, intercepts and the trap flag.
    #[cold]
    #[inline(never)]
    pub fn assault_enter(&mut self) {
        let step = matches!(self.assault.phase, Phase::Step(_) | Phase::Rewrite(_));
        self.assault.dr6 = self.vmcb.save.dr6;
        if self.assault.attempt {
            let seek = self.assault.phase == Phase::Seek;
            let on = |index: &usize| match *index {
                START => seek,
                index => self.assault.addresses[index] != 0,
            };
            let enable = (0..ADDRESSES).filter(on);
            self.vmcb.save.dr7 = enable.fold(DR7, |dr7, index| dr7 | DR7_ENABLE[index]);
            self.vmcb.control.exceptions |= DEBUG_EXCEPTION;
        }
        if !step || self.pending.is_some() {
            return;
        }
        let (bytes, len) = self.code_bytes();
        let long = self.long_code();
        self.assault.step = Step::begin(&mut self.vmcb.save, &bytes[..len], long);
        if self.assault.step.is_some() {
            self.vmcb.control.exceptions = step::EXCEPTIONS;
            self.vmcb.control.int_ctl |= V_INTR_MASKING;
        } else {
            self.assault.phase = Phase::Free;
        }
    }

    /// Right after an exit. True if it was for the attack alone.
    #[cold]
    #[inline(never)]
    pub fn assault_exit(&mut self, code: u64) -> bool {
        if self.assault.attempt {
            self.vmcb.save.dr7 = DR7;
        }
        self.vmcb.control.int_ctl &= !V_INTR_MASKING;
        self.vmcb.control.exceptions = 0;
        let step = self.assault.step.take();
        let trapped = code == exit::DB;
        let stepped = step.map(|step| self.end_step(step, trapped));
        if trapped {
            return self.assault_trap(stepped.is_some_and(|stepped| stepped != Stepped::Not));
        }
        if code == exit::NMI && self.assault.attempt && self.overdue() {
            // SAFETY: takes the pending NMI; the handler returns.
            unsafe { super::nmi_window() };
            platform::take_kick(self.index);
            let rip = self.vmcb.save.rip;
            self.over(End::Hang, 0, format_args!("rip={rip:#x}"));
            return true;
        }
        if stepped.is_none() {
            return false;
        }
        let faulted = (exit::EXCEPTION..=exit::EXCEPTION_LAST).contains(&code);
        match &mut self.assault.phase {
            // The instruction faults: the event comes before it, or the reply stays.
            Phase::Step(left) if faulted => *left = 0,
            Phase::Step(left) => *left = left.saturating_sub(1),
            phase => *phase = Phase::Free,
        }
        faulted
    }

    fn end_step(&mut self, step: Step, trapped: bool) -> Stepped {
        let linear = self.linear();
        let saved = self.regs.saved;
        let (rax, rsp) = (self.vmcb.save.rax, self.vmcb.save.rsp);
        let register = |number| state::register(&saved, rax, rsp, number);
        let stepped = step.end(&mut self.vmcb.save, &linear, register, trapped);
        if stepped == Stepped::Returned && matches!(self.assault.phase, Phase::Rewrite(_)) {
            self.assault.phase = Phase::Free;
        }
        stepped
    }

    /// #DB: of a step, of a breakpoint, or the guest's own.
    fn assault_trap(&mut self, stepped: bool) -> bool {
        let rip = self.vmcb.save.rip;
        let at = |index: usize| self.assault.attempt && self.assault.addresses[index] == rip;
        self.pending = None;
        if at(PANIC) || at(OOPS) {
            let end = if at(PANIC) { End::Panic } else { End::Oops };
            let mut text = [0; 64];
            let text = self.text(self.register(7), &mut text);
            let cr2 = self.vmcb.save.cr2;
            let jumped = self.executed(cr2);
            self.over(
                end,
                0,
                format_args!("cr2={cr2:#x} jumped={jumped} text={text}"),
            );
            return true;
        }
        if at(WARNING) || self.assault.phase == Phase::Seek && at(START) {
            self.vmcb.save.dr6 = self.assault.dr6;
            if at(WARNING) {
                self.assault.warned = true;
                self.vmcb.save.rflags |= bits::RFLAGS_RF;
            } else if !self.assault.from_user || self.frame_of_user() {
                let next = self.assault.next.map(|(boundary, _)| boundary);
                self.assault.phase = Phase::Step(next.unwrap_or(self.assault.boundary));
            } else {
                self.vmcb.save.rflags |= bits::RFLAGS_RF;
            }
            return true;
        }
        if stepped {
            match &mut self.assault.phase {
                Phase::Step(left) => *left = left.saturating_sub(1),
                Phase::Rewrite(count) if *count < MAX_REWRITES => *count += 1,
                phase => *phase = Phase::Free,
            }
            return true;
        }
        self.pending = Some(Event::Exception {
            vector: 1,
            error: None,
        });
        true
    }

    /// Whether the exception that was just taken, with an error code, came from user mode.
    fn frame_of_user(&self) -> bool {
        let linear = self.linear();
        let selector = linear.read_implicit::<1>(self.vmcb.save.rsp.wrapping_add(0x10));
        selector.is_ok_and(|[selector]| selector & 3 == 3)
    }

    /// A string of the guest's kernel, as far as it can be printed.
    fn text<'a>(&self, address: u64, buf: &'a mut [u8; 64]) -> &'a str {
        let linear = self.linear();
        let mut len = 0;
        while len < buf.len() {
            let mut byte = [0];
            let at = address.wrapping_add(len as u64);
            let read = linear.read(at, &mut byte, Want::Read, Who::Supervisor);
            if read.is_err() || !(0x20..0x7f).contains(&byte[0]) {
                break;
            }
            buf[len] = byte[0];
            len += 1;
        }
        core::str::from_utf8(&buf[..len]).unwrap_or("")
    }

    /// Whether an exception of the kernel at `rip` is being handled: its frame is on the stack. If
    /// that is CR2 as well the kernel has gone to where no code is.
    fn executed(&self, rip: u64) -> bool {
        let linear = self.linear();
        let word = |index: u64| {
            let at = self.vmcb.save.rsp.wrapping_add(index * 8);
            linear.read_implicit(at).ok().map(u64::from_le_bytes)
        };
        (0..FRAME_WITHIN).any(|at| {
            word(at) == Some(rip)
                && word(at + 1) == Some(KERNEL_CS)
                && word(at + 4).is_some_and(|ss| KERNEL_SS.contains(&ss))
        })
    }

    /// Whether the watchdog's time is over, so that an NMI is its.
    fn overdue(&self) -> bool {
        let khz = u64::from(self.world.vm.tsc_khz());
        cpu::rdtsc().wrapping_sub(self.assault.begun) > 8000 * khz
    }

    /// A VMGEXIT was answered: the reply may change from now on.
    #[cold]
    #[inline(never)]
    pub fn assault_replied(&mut self) {
        let phase = self.assault.phase;
        let follow = matches!(phase, Phase::Free | Phase::Rewrite(_));
        if follow && self.vmcb.save.cpl == 0 && self.ghcb_msr & 0xfff == 0 {
            self.assault.phase = if self.world.vm.hostile_rewrites(self.index) {
                Phase::Rewrite(0)
            } else {
                Phase::Free
            };
        }
    }

    /// The guest ends. False if that ends the run.
    #[cold]
    #[inline(never)]
    pub fn assault_stop(&mut self, why: &Stop) -> bool {
        if !self.assault.attempt {
            return false;
        }
        match *why {
            Stop::Terminate { set, code } => {
                let reason = (u32::from(set) << 8) | u32::from(code);
                self.over(
                    End::Terminated,
                    reason,
                    format_args!("set={set} code={code}"),
                );
            }
            Stop::UnsupportedEvent { code } => {
                self.over(
                    End::Terminated,
                    0xffff,
                    format_args!("unsupported={code:#x}"),
                );
            }
            Stop::Reset | Stop::PowerOff => self.over(End::Reset, 0, format_args!("")),
        }
        true
    }

    /// A triple fault. False if that ends the run.
    #[cold]
    #[inline(never)]
    pub fn assault_shutdown(&mut self) -> bool {
        if self.assault.attempt {
            let save = &self.vmcb.save;
            let (rip, rsp) = (save.rip, save.rsp);
            self.over(
                End::TripleFault,
                0,
                format_args!("rip={rip:#x} rsp={rsp:#x}"),
            );
            return true;
        }
        false
    }

    /// Ends the attempt, and puts the guest back.
    fn over(&mut self, end: End, detail: u32, text: core::fmt::Arguments<'_>) {
        cpu::out8(WATCHDOG_STOP, 0);
        let (step, assault) = (self.world.vm.hostile_step(self.index), &self.assault);
        let (boundary, event) = (assault.boundary, assault.event);
        let warning = if assault.warned { TOLD_WARNING } else { 0 };
        match assault.place {
            Some(Place { rip, cpl, bytes }) => log!(
                "attempt {step} boundary={boundary} rip={rip:#x} cpl={cpl} bytes={bytes:02x?} \
                 event={event:x?} end={end:?} detail={detail:#x} warned={} {text}",
                assault.warned
            ),
            None => log!(
                "attempt {step} end={end:?} detail={detail:#x} warned={} {text}",
                assault.warned
            ),
        }
        let injected = if assault.place.is_some() && assault.next.is_none() {
            TOLD_INJECTED
        } else {
            0
        };
        self.rewind();
        let assault = &mut self.assault;
        assault.outcome = ((end as u32) << 28) | warning | injected | detail;
        assault.attempt = false;
        assault.wish = Wish::default();
        assault.next = None;
        assault.phase = Phase::Off;
        assault.step = None;
    }
}
