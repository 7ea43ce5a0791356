// SPDX-License-Identifier: GPL-2.0
//! Delivery of #VC (vector 29) through the guest's IDT (APM vol. 2, 8.7, 8.9 and 15.35.5).
//!
//! Event injection cannot be used: QEMU pushes no error code for vector 29. So the machine builds
//! the frame itself, with the checks of the processor. A fault on the way becomes the exception
//! that the APM's table of double faults names, for the host to inject.

use crate::event::Event;
use crate::exit;
use crate::linear::Linear;
use crate::paging::canonical;
use crate::paging::Fault;
use crate::paging::GuestMemory;
use crate::paging::Paging;
use crate::paging::Who;
use crate::vmcb::bits;
use crate::vmcb::Save;
use crate::vmcb::Segment;

/// Vector of the VMM communication exception.
pub const VECTOR: u8 = 29;

/// Vector of the non-maskable interrupt.
const NMI: u8 = 2;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest continues in its #VC handler.
    Delivered,
    /// A page fault occurred: inject it instead; CR2 is set.
    PageFault(Event),
    /// A contributory exception occurred on top of #VC, which is one: inject #DF.
    DoubleFault {
        /// Vector of the second exception.
        vector: u8,
        /// Error code that it would have had.
        error: u32,
    },
    /// The mode is one for which delivery is not simulated (virtual 8086, task gates).
    Unsupported(&'static str),
}

/// A fault during delivery, by vector.
enum Stop {
    Fault(u8, u32),
    Page { code: u32, address: u64 },
    Unsupported(&'static str),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Page { code, address } => Self::Page { code, address },
            Fault::NonCanonical => Self::Fault(13, 0),
            // Tables or a stack in a device: hardware raises #VC for the access.
            Fault::NotMemory => Self::Fault(VECTOR, exit::NPF as u32),
        }
    }
}

/// Error code bit: the fault came while delivering an event from outside the program.
const EXT: u32 = 1;
/// Error code that points to the gate of #VC in the IDT.
const GATE: u32 = ((VECTOR as u32) << 3) | 2 | EXT;

/// Task and local descriptor registers, which VMRUN does not switch.
pub trait Tasks {
    /// TR and LDTR as VMSAVE stores them.
    fn tr_and_ldtr(&self) -> (Segment, Segment);
}

/// Delivers #VC with error code `code` to the guest whose registers are in `save`.
pub fn deliver<M: GuestMemory, T: Tasks>(
    save: &mut Save,
    memory: &M,
    tasks: &T,
    cbit: u64,
    code: u32,
) -> Outcome {
    let linear = Linear {
        memory,
        paging: Paging::of(save, cbit),
    };
    let result = if save.efer & bits::EFER_LMA != 0 {
        long_mode(save, &linear, tasks, VECTOR, Some(code))
    } else if save.cr0 & bits::CR0_PE == 0 {
        real_mode(save, &linear)
    } else if save.rflags & bits::RFLAGS_VM != 0 {
        Err(Stop::Unsupported("#VC in virtual 8086 mode"))
    } else {
        protected_mode(save, &linear, tasks, code)
    };
    match result {
        Ok(()) => Outcome::Delivered,
        Err(Stop::Unsupported(what)) => Outcome::Unsupported(what),
        Err(Stop::Page { code, address }) => {
            // #VC is contributory; a page fault after a contributory exception is taken as such.
            save.cr2 = address;
            Outcome::PageFault(Event::Exception {
                vector: 14,
                error: Some(code),
            })
        }
        // #TS, #NP, #SS and #GP are contributory as well, and so make a double fault.
        Err(Stop::Fault(vector, error)) => Outcome::DoubleFault { vector, error },
    }
}

/// Delivers an NMI in long mode, for a host that has to see the first instruction of its handler.
/// Anything but `Delivered` leaves the guest as it was: inject the NMI then.
pub fn deliver_nmi<M: GuestMemory, T: Tasks>(
    save: &mut Save,
    memory: &M,
    tasks: &T,
    cbit: u64,
) -> Outcome {
    let linear = Linear {
        memory,
        paging: Paging::of(save, cbit),
    };
    if save.efer & bits::EFER_LMA == 0 {
        return Outcome::Unsupported("NMI outside of long mode");
    }
    match long_mode(save, &linear, tasks, NMI, None) {
        Ok(()) => Outcome::Delivered,
        Err(_) => Outcome::Unsupported("NMI whose delivery faults"),
    }
}

/// A code segment that a gate leads to.
struct Target {
    selector: u16,
    segment: Segment,
    cpl: u8,
}

/// Reads and checks the code segment that a gate names.
fn code_segment<M: GuestMemory, T: Tasks>(
    save: &Save,
    linear: &Linear<'_, M>,
    tasks: &T,
    selector: u16,
) -> Result<Target, Stop> {
    let error = u32::from(selector & !3) | EXT;
    if selector & !3 == 0 {
        return Err(Stop::Fault(13, EXT));
    }
    let segment = descriptor(save, linear, tasks, selector)?;
    let attributes = segment.attributes;
    let code = attributes & 0x18 == 0x18;
    if !code || segment.dpl() > save.cpl {
        return Err(Stop::Fault(13, error));
    }
    if attributes & Segment::PRESENT == 0 {
        return Err(Stop::Fault(11, error));
    }
    let conforming = attributes & 4 != 0;
    let cpl = if conforming { save.cpl } else { segment.dpl() };
    Ok(Target {
        selector: selector & !3 | u16::from(cpl),
        segment,
        cpl,
    })
}

/// Reads an 8-byte descriptor of the GDT or LDT.
fn descriptor<M: GuestMemory, T: Tasks>(
    save: &Save,
    linear: &Linear<'_, M>,
    tasks: &T,
    selector: u16,
) -> Result<Segment, Stop> {
    let table = if selector & 4 == 0 {
        save.gdtr
    } else {
        tasks.tr_and_ldtr().1
    };
    let offset = u64::from(selector & !7);
    if offset + 7 > u64::from(table.limit) {
        return Err(Stop::Fault(13, u32::from(selector & !3) | EXT));
    }
    let raw = u64::from_le_bytes(linear.read_implicit(table.base.wrapping_add(offset))?);
    let limit = (raw & 0xffff) as u32 | ((raw >> 32) & 0xf_0000) as u32;
    let granular = (raw >> 55) & 1 != 0;
    Ok(Segment {
        selector,
        attributes: (raw >> 40) as u16 & 0xff | ((raw >> 44) as u16 & 0xf00),
        limit: if granular {
            (limit << 12) | 0xfff
        } else {
            limit
        },
        base: ((raw >> 16) & 0xff_ffff) | ((raw >> 32) & 0xff00_0000),
    })
}

/// RFLAGS in the frame: as #VC is a fault, a breakpoint on its instruction is not to be hit again
/// (APM vol. 2, 3.1.6). Frames of 16-bit slots have no room for it.
fn pushed_flags(rflags: u64) -> u64 {
    rflags | bits::RFLAGS_RF
}

/// RFLAGS after the gate: the trap flag and friends clear, IF only by an interrupt gate.
fn enter_flags(rflags: u64, interrupt_gate: bool) -> u64 {
    let mut clear = bits::RFLAGS_TF | bits::RFLAGS_NT | bits::RFLAGS_RF | bits::RFLAGS_VM;
    if interrupt_gate {
        clear |= bits::RFLAGS_IF;
    }
    rflags & !clear
}

fn long_mode<M: GuestMemory, T: Tasks>(
    save: &mut Save,
    linear: &Linear<'_, M>,
    tasks: &T,
    vector: u8,
    code: Option<u32>,
) -> Result<(), Stop> {
    let offset = u64::from(vector) * 16;
    if offset + 15 > u64::from(save.idtr.limit) {
        return Err(Stop::Fault(13, GATE));
    }
    let raw = linear.read_implicit::<16>(save.idtr.base.wrapping_add(offset))?;
    let raw = u128::from_le_bytes(raw);
    let kind = (raw >> 40) as u8 & 0x1f;
    if kind != 0xe && kind != 0xf {
        return Err(Stop::Fault(13, GATE));
    }
    if (raw >> 47) & 1 == 0 {
        return Err(Stop::Fault(11, GATE));
    }
    let rip = (raw & 0xffff) as u64 | (raw >> 32) as u64 & !0xffff;
    let ist = (raw >> 32) as u64 & 7;

    let target = code_segment(save, linear, tasks, (raw >> 16) as u16)?;
    let attributes = target.segment.attributes;
    if attributes & (Segment::LONG | Segment::BIG) != Segment::LONG {
        return Err(Stop::Fault(13, u32::from(target.selector & !3) | EXT));
    }
    let inner = target.cpl < save.cpl;
    let rsp = if ist != 0 || inner {
        let slot = if ist != 0 {
            36 + (ist - 1) * 8
        } else {
            4 + u64::from(target.cpl) * 8
        };
        let tr = tasks.tr_and_ldtr().0;
        if slot + 7 > u64::from(tr.limit) {
            return Err(Stop::Fault(10, u32::from(tr.selector & !3) | EXT));
        }
        u64::from_le_bytes(linear.read_implicit(tr.base.wrapping_add(slot))?)
    } else {
        save.rsp
    };
    if !canonical(rsp) {
        return Err(Stop::Fault(12, EXT));
    }
    // The stack is aligned to 16 bytes before the frame is pushed.
    let top = rsp & !0xf;
    let frame = [
        u64::from(code.unwrap_or(0)),
        save.rip,
        u64::from(save.cs.selector),
        pushed_flags(save.rflags),
        save.rsp,
        u64::from(save.ss.selector),
    ];
    let mut bytes = [0; 48];
    for (slot, value) in bytes.chunks_exact_mut(8).zip(frame) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    let bytes = if code.is_some() {
        &bytes[..]
    } else {
        &bytes[8..]
    };
    let new_rsp = top.wrapping_sub(bytes.len() as u64);
    if !canonical(new_rsp) {
        return Err(Stop::Fault(12, EXT));
    }
    linear.write(new_rsp, bytes, pusher(target.cpl, inner))?;
    if !canonical(rip) {
        return Err(Stop::Fault(13, EXT));
    }
    if inner {
        // A null stack selector whose RPL is the new CPL.
        let cpl = u16::from(target.cpl);
        save.ss = Segment {
            selector: cpl,
            attributes: cpl << 5,
            limit: 0,
            base: 0,
        };
    }
    finish(save, target, rip, new_rsp, kind == 0xe);
    Ok(())
}

/// On whose behalf the frame is pushed. From an outer level the access is an implicit one, for
/// which RFLAGS.AC does not lift SMAP.
fn pusher(cpl: u8, inner: bool) -> Who {
    if cpl == 3 {
        Who::User
    } else if inner {
        Who::Implicit
    } else {
        Who::Supervisor
    }
}

fn finish(save: &mut Save, target: Target, rip: u64, rsp: u64, interrupt_gate: bool) {
    save.cs = target.segment;
    save.cs.selector = target.selector;
    save.cpl = target.cpl;
    save.rip = rip;
    save.rsp = rsp;
    save.rflags = enter_flags(save.rflags, interrupt_gate);
}

#[cold]
#[inline(never)]
fn protected_mode<M: GuestMemory, T: Tasks>(
    save: &mut Save,
    linear: &Linear<'_, M>,
    tasks: &T,
    code: u32,
) -> Result<(), Stop> {
    let offset = u64::from(VECTOR) * 8;
    if offset + 7 > u64::from(save.idtr.limit) {
        return Err(Stop::Fault(13, GATE));
    }
    let raw = u64::from_le_bytes(linear.read_implicit(save.idtr.base.wrapping_add(offset))?);
    let kind = (raw >> 40) as u8 & 0x1f;
    let (wide, interrupt_gate) = match kind {
        0x6 => (false, true),
        0x7 => (false, false),
        0xe => (true, true),
        0xf => (true, false),
        0x5 => return Err(Stop::Unsupported("#VC through a task gate")),
        _ => return Err(Stop::Fault(13, GATE)),
    };
    if (raw >> 47) & 1 == 0 {
        return Err(Stop::Fault(11, GATE));
    }
    let high = if wide { (raw >> 32) & 0xffff_0000 } else { 0 };
    let eip = (raw & 0xffff) | high;
    let target = code_segment(save, linear, tasks, (raw >> 16) as u16)?;
    let inner = target.cpl < save.cpl;
    let (ss, esp) = if inner {
        inner_stack(save, linear, tasks, target.cpl)?
    } else {
        (save.ss, save.rsp)
    };

    let mut frame = Frame::new(wide);
    frame.push(code);
    frame.push(save.rip as u32);
    frame.push(u32::from(save.cs.selector));
    frame.push(pushed_flags(save.rflags) as u32);
    if inner {
        frame.push(save.rsp as u32);
        frame.push(u32::from(save.ss.selector));
    }
    let bytes = frame.bytes();
    // The stack segment's size selects ESP or SP.
    let mask = if ss.attributes & Segment::BIG != 0 {
        0xffff_ffff
    } else {
        0xffff
    };
    let low = esp.wrapping_sub(bytes.len() as u64) & mask;
    if low + bytes.len() as u64 - 1 > u64::from(ss.limit) && ss.attributes & 0xc != 4 {
        return Err(Stop::Fault(
            12,
            u32::from(if inner { ss.selector & !3 } else { 0 }) | EXT,
        ));
    }
    linear.write(
        (ss.base.wrapping_add(low)) & 0xffff_ffff,
        bytes,
        pusher(target.cpl, inner),
    )?;
    if eip > u64::from(target.segment.limit) {
        return Err(Stop::Fault(13, EXT));
    }
    save.ss = ss;
    let rsp = esp & !mask | low;
    finish(save, target, eip, rsp, interrupt_gate);
    Ok(())
}

/// SS and ESP of an inner privilege level, from a 32-bit TSS.
#[cold]
#[inline(never)]
fn inner_stack<M: GuestMemory, T: Tasks>(
    save: &Save,
    linear: &Linear<'_, M>,
    tasks: &T,
    cpl: u8,
) -> Result<(Segment, u64), Stop> {
    let tr = tasks.tr_and_ldtr().0;
    if tr.attributes & 0x8 == 0 {
        return Err(Stop::Unsupported("#VC with a 16-bit TSS"));
    }
    let slot = 4 + u64::from(cpl) * 8;
    if slot + 5 > u64::from(tr.limit) {
        return Err(Stop::Fault(10, u32::from(tr.selector & !3) | EXT));
    }
    let esp = u32::from_le_bytes(linear.read_implicit(tr.base.wrapping_add(slot))?);
    let selector = u16::from_le_bytes(linear.read_implicit(tr.base.wrapping_add(slot + 4))?);
    let error = u32::from(selector & !3) | EXT;
    if selector & !3 == 0 || selector as u8 & 3 != cpl {
        return Err(Stop::Fault(10, error));
    }
    let ss = descriptor(save, linear, tasks, selector).map_err(|stop| match stop {
        Stop::Fault(_, error) => Stop::Fault(10, error),
        other => other,
    })?;
    // Writable data of the same privilege.
    if ss.attributes & 0x1a != 0x12 || ss.dpl() != cpl {
        return Err(Stop::Fault(10, error));
    }
    if ss.attributes & Segment::PRESENT == 0 {
        return Err(Stop::Fault(12, error));
    }
    Ok((ss, u64::from(esp)))
}

/// A frame of 16- or 32-bit slots, lowest address first.
struct Frame {
    wide: bool,
    buf: [u8; 24],
    len: usize,
}

impl Frame {
    fn new(wide: bool) -> Self {
        Self {
            wide,
            buf: [0; 24],
            len: 0,
        }
    }

    fn push(&mut self, value: u32) {
        let width = if self.wide { 4 } else { 2 };
        let bytes = value.to_le_bytes();
        for (slot, byte) in self.buf[self.len..].iter_mut().zip(&bytes[..width]) {
            *slot = *byte;
        }
        self.len += width;
    }

    fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

/// Real mode: the interrupt vector table, and no error code.
#[cold]
#[inline(never)]
fn real_mode<M: GuestMemory>(save: &mut Save, linear: &Linear<'_, M>) -> Result<(), Stop> {
    let offset = u64::from(VECTOR) * 4;
    if offset + 3 > u64::from(save.idtr.limit) {
        return Err(Stop::Fault(13, 0));
    }
    let raw = u32::from_le_bytes(linear.read_implicit(save.idtr.base.wrapping_add(offset))?);
    let mut frame = Frame::new(false);
    frame.push(save.rip as u32);
    frame.push(u32::from(save.cs.selector));
    frame.push(save.rflags as u32);
    let sp = save.rsp.wrapping_sub(6) & 0xffff;
    linear.write(
        save.ss.base.wrapping_add(sp),
        frame.bytes(),
        Who::Supervisor,
    )?;
    save.rsp = save.rsp & !0xffff | sp;
    save.rip = u64::from(raw & 0xffff);
    save.cs.selector = (raw >> 16) as u16;
    save.cs.base = u64::from(save.cs.selector) << 4;
    save.rflags = enter_flags(save.rflags, true) & !bits::RFLAGS_AC;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::model::Memory;
    use crate::paging::Backing;
    use crate::reset;

    const C: u64 = 1 << 51;
    const IDT: u64 = 0x10_0000;
    const GDT: u64 = 0x10_1000;
    const TSS: u64 = 0x10_2000;
    const STACK: u64 = 0x10_4000;
    const IST: u64 = 0x10_6000;
    const CODE64: u64 = 0x00af_9b00_0000_ffff;
    const USER64: u64 = 0x00af_fb00_0000_ffff;
    const CODE32: u64 = 0x00cf_9b00_0000_ffff;
    const DATA32: u64 = 0x00cf_9300_0000_ffff;

    struct Regs(Segment);

    impl Tasks for Regs {
        fn tr_and_ldtr(&self) -> (Segment, Segment) {
            (self.0, Segment::default())
        }
    }

    fn tr(limit: u32) -> Regs {
        Regs(Segment {
            selector: 0x40,
            attributes: 0x8b,
            limit,
            base: TSS,
        })
    }

    /// A guest in 64-bit mode, CPL 0, identity-mapped by 2 MiB pages, private but for `shared`.
    fn long(memory: &Memory) -> Save {
        memory.put(0x1000, 0x2000 | 7);
        memory.put(0x2000, 0x3000 | 7);
        memory.put(0x3000, 0x87 | C);
        for (index, descriptor) in [0, CODE64, DATA32, USER64, CODE32].into_iter().enumerate() {
            memory.put(GDT + 8 * index as u64, descriptor);
        }
        gate64(memory, 0xffff_ffff_8123_4567, 8, 0x8e, 1);
        memory.put(TSS + 36, IST + 8);
        memory.put(TSS + 4, STACK);
        let mut save = reset::vmcb().save;
        save.cr0 = bits::CR0_PE | bits::CR0_PG | bits::CR0_WP;
        save.cr3 = 0x1000;
        save.cr4 = bits::CR4_PAE;
        save.efer = bits::EFER_LME | bits::EFER_LMA | bits::EFER_NXE;
        save.idtr = Segment {
            limit: 0xfff,
            base: IDT,
            ..Segment::default()
        };
        save.gdtr = Segment {
            limit: 0x27,
            base: GDT,
            ..Segment::default()
        };
        save.cs = Segment {
            selector: 8,
            attributes: 0xa9b,
            limit: !0,
            base: 0,
        };
        save.ss = Segment {
            selector: 16,
            attributes: 0xc93,
            limit: !0,
            base: 0,
        };
        save.cpl = 0;
        save.rip = 0x1234;
        save.rsp = STACK + 0x808;
        save.rflags = bits::RFLAGS_ONE | bits::RFLAGS_IF | bits::RFLAGS_TF | bits::RFLAGS_NT;
        save
    }

    fn gate64(memory: &Memory, rip: u64, selector: u16, attributes: u8, ist: u64) {
        let low = (rip & 0xffff)
            | (u64::from(selector) << 16)
            | (ist << 32)
            | (u64::from(attributes) << 40)
            | (((rip >> 16) & 0xffff) << 48);
        memory.put(IDT + 29 * 16, low);
        memory.put(IDT + 29 * 16 + 8, rip >> 32);
    }

    fn frame(memory: &Memory, at: u64) -> [u64; 6] {
        core::array::from_fn(|i| memory.get(at + 8 * i as u64))
    }

    #[test]
    fn long_mode_frame_on_an_ist_stack() {
        let memory = Memory::new(1 << 21);
        let mut save = long(&memory);
        let flags = save.rflags | bits::RFLAGS_RF;
        assert_eq!(
            deliver(&mut save, &memory, &tr(0x67), C, 0x72),
            Outcome::Delivered
        );
        // IST + 8 is rounded down to 16 bytes.
        assert_eq!(save.rsp, IST - 48);
        assert_eq!(
            frame(&memory, save.rsp),
            [0x72, 0x1234, 8, flags, STACK + 0x808, 16]
        );
        assert_eq!(save.rip, 0xffff_ffff_8123_4567);
        assert_eq!(save.rflags, bits::RFLAGS_ONE);
        // Same privilege: the stack selector stays.
        assert_eq!((save.cs.selector, save.ss.selector, save.cpl), (8, 16, 0));
    }

    #[test]
    fn trap_gate_keeps_interrupts_and_the_stack() {
        let memory = Memory::new(1 << 21);
        let mut save = long(&memory);
        gate64(&memory, 0x5000, 8, 0x8f, 0);
        assert_eq!(
            deliver(&mut save, &memory, &tr(0x67), C, 0x7b),
            Outcome::Delivered
        );
        assert_eq!(save.rsp, STACK + 0x800 - 48);
        assert_eq!(frame(&memory, save.rsp)[4], STACK + 0x808);
        assert_eq!(save.rflags, bits::RFLAGS_ONE | bits::RFLAGS_IF);
    }

    #[test]
    fn user_mode_switches_to_the_stack_of_the_tss() {
        let memory = Memory::new(1 << 21);
        let mut save = long(&memory);
        gate64(&memory, 0x5000, 8, 0x8e, 0);
        save.cpl = 3;
        save.cs = Segment {
            selector: 0x1b,
            attributes: 0xafb,
            limit: !0,
            base: 0,
        };
        save.ss = Segment {
            selector: 0x2b,
            attributes: 0xcf3,
            limit: !0,
            base: 0,
        };
        assert_eq!(
            deliver(&mut save, &memory, &tr(0x67), C, 0x72),
            Outcome::Delivered
        );
        assert_eq!(frame(&memory, STACK - 48)[2], 0x1b);
        assert_eq!(frame(&memory, STACK - 48)[5], 0x2b);
        assert_eq!(save.ss, Segment::default());
        assert_eq!((save.cpl, save.cs.selector, save.cs.dpl()), (0, 8, 0));
    }

    #[test]
    fn contributory_faults_make_a_double_fault_and_change_nothing() {
        type Break = fn(&Memory, &mut Save);
        let cases: [(u8, u32, Break); 9] = [
            (13, GATE, |_, s| s.idtr.limit = 29 * 16 + 14),
            (13, GATE, |m, _| gate64(m, 0x5000, 8, 0x8c, 0)),
            (11, GATE, |m, _| gate64(m, 0x5000, 8, 0x0e, 0)),
            (13, 1, |m, _| gate64(m, 0x5000, 0, 0x8e, 0)),
            (13, 0x11, |m, _| gate64(m, 0x5000, 16, 0x8e, 0)),
            (13, 0x29, |m, _| gate64(m, 0x5000, 0x28, 0x8e, 0)),
            (13, 0x21, |m, _| gate64(m, 0x5000, 0x20, 0x8e, 0)),
            (13, 1, |m, _| gate64(m, 1 << 47, 8, 0x8e, 0)),
            (12, 1, |m, _| m.put(TSS + 36, 1 << 62)),
        ];
        for (index, (vector, error, case)) in cases.into_iter().enumerate() {
            let memory = Memory::new(1 << 21);
            let mut save = long(&memory);
            case(&memory, &mut save);
            let (rip, rsp) = (save.rip, save.rsp);
            let outcome = deliver(&mut save, &memory, &tr(0x67), C, 0x72);
            assert_eq!(
                outcome,
                Outcome::DoubleFault { vector, error },
                "case {index}"
            );
            assert_eq!((save.rip, save.rsp), (rip, rsp), "case {index}");
        }
        let memory = Memory::new(1 << 21);
        let mut save = long(&memory);
        let outcome = deliver(&mut save, &memory, &tr(36 + 6), C, 0x72);
        assert_eq!(
            outcome,
            Outcome::DoubleFault {
                vector: 10,
                error: 0x41
            }
        );
    }

    #[test]
    fn a_stack_in_a_device_is_a_second_vc() {
        let memory = Memory::new(1 << 21);
        let mut save = long(&memory);
        memory.put(0x3008, 0xfec0_0087 | C);
        memory.put(TSS + 36, 0x20_1000);
        let outcome = deliver(&mut save, &memory, &tr(0x67), C, 0x72);
        assert_eq!(
            outcome,
            Outcome::DoubleFault {
                vector: 29,
                error: 0x400
            }
        );
    }

    #[test]
    fn a_page_fault_is_taken_as_such() {
        let memory = Memory::new(1 << 21);
        let mut save = long(&memory);
        memory.put(TSS + 36, 0x40_0010);
        let outcome = deliver(&mut save, &memory, &tr(0x67), C, 0x72);
        let page_fault = Event::Exception {
            vector: 14,
            error: Some(2),
        };
        assert_eq!(outcome, Outcome::PageFault(page_fault));
        assert_eq!((save.cr2, save.rip), (0x40_0010 - 48, 0x1234));
    }

    #[test]
    fn frame_goes_where_the_leaf_says() {
        let memory = Memory::new(1 << 22);
        let mut save = long(&memory);
        memory.put(0x3008, 0x20_0087);
        memory.put(TSS + 36, 0x20_1000);
        assert_eq!(
            deliver(&mut save, &memory, &tr(0x67), C, 0x72),
            Outcome::Delivered
        );
        let mut buf = [0; 8];
        memory
            .read(0x20_1000 - 48, Backing::Shared, &mut buf)
            .unwrap();
        assert_eq!(buf, 0x72u64.to_le_bytes());
    }

    fn protected(memory: &Memory) -> Save {
        let mut save = long(memory);
        save.cr0 = bits::CR0_PE;
        save.efer = 0;
        save.cs = Segment {
            selector: 0x20,
            attributes: 0xc9b,
            limit: !0,
            base: 0,
        };
        memory.put(IDT + 29 * 8, 0x0001_8e00_0020_2345);
        save
    }

    #[test]
    fn protected_mode_same_privilege() {
        let memory = Memory::new(1 << 21);
        let mut save = protected(&memory);
        let flags = save.rflags | bits::RFLAGS_RF;
        assert_eq!(
            deliver(&mut save, &memory, &tr(0x67), C, 0x72),
            Outcome::Delivered
        );
        assert_eq!((save.rip, save.rsp), (0x1_2345, STACK + 0x808 - 16));
        assert_eq!(memory.get(save.rsp), 0x72 | (0x1234 << 32));
        assert_eq!(memory.get(save.rsp + 8), 0x20 | (flags << 32));
        assert_eq!(save.rflags, bits::RFLAGS_ONE);
    }

    #[test]
    fn protected_mode_inner_privilege() {
        let memory = Memory::new(1 << 21);
        let mut save = protected(&memory);
        save.cpl = 3;
        save.cs.selector = 0x33;
        memory.put(TSS + 4, STACK | (16 << 32));
        assert_eq!(
            deliver(&mut save, &memory, &tr(0x67), C, 0x7b),
            Outcome::Delivered
        );
        assert_eq!((save.rsp, save.cpl, save.ss.selector), (STACK - 24, 0, 16));
        assert_eq!(memory.get(save.rsp + 16), (STACK + 0x808) | (16 << 32));
        // A stack segment of another privilege is an invalid TSS.
        let mut save = protected(&memory);
        save.cpl = 3;
        memory.put(TSS + 4, STACK | (19 << 32));
        let outcome = deliver(&mut save, &memory, &tr(0x67), C, 0x7b);
        assert_eq!(
            outcome,
            Outcome::DoubleFault {
                vector: 10,
                error: 0x11
            }
        );
    }

    #[test]
    fn real_mode_uses_the_vector_table() {
        let memory = Memory::new(1 << 21);
        let mut save = reset::vmcb().save;
        memory
            .write(29 * 4, Backing::Private, &[0x10, 0x20, 0x00, 0x30])
            .unwrap();
        save.rsp = 0x8000;
        let rip = save.rip;
        assert_eq!(
            deliver(&mut save, &memory, &tr(0), C, 0x72),
            Outcome::Delivered
        );
        assert_eq!(
            (save.rip, save.cs.base, save.rsp),
            (0x2010, 0x3_0000, 0x7ffa)
        );
        assert_eq!(memory.get(0x7ffa) & 0xffff, rip);
    }
}
