// SPDX-License-Identifier: GPL-2.0

//! Nested page faults of MOVS, STOS, LODS, CMPS and SCAS.
//!
//! The exit does not tell which operand of MOVS or CMPS is MMIO, and both can be. Each operand is
//! looked up in the page tables: private memory is read or written directly, the rest through the
//! hypervisor. So one #VC does it all, without a nested #VC for each half.

use super::{
    super::{
        env::{
            Env,
            Mapping, //
        },
        insn::{
            Alu,
            CodeSize,
            Insn,
            Op,
            Register,
            Segment, //
        },
        regs::{
            Gpr,
            FLAGS_ZF, //
        },
        result::{
            Access,
            Error,
            Progress,
            Result,
            Width, //
        }, //
    },
    address,
    alu,
    mmio::{
        self,
        Target, //
    },
    string::Strings, //
};

/// Most iterations in one #VC, so that interrupts are taken between the parts of a long transfer.
const BATCH: u64 = 64;

/// An operand of a string instruction.
enum Operand {
    /// Plain memory at this linear address.
    Memory(u64),
    /// A device.
    Device(Target),
}

impl Operand {
    #[inline(always)]
    fn read<E: Env + ?Sized>(&self, env: &mut E, width: Width) -> Result<u64> {
        match self {
            Operand::Memory(address) => env.read(*address, width),
            Operand::Device(target) => target.read(env, width),
        }
    }

    #[inline(always)]
    fn write<E: Env + ?Sized>(&self, env: &mut E, value: u64, width: Width) -> Result {
        match self {
            Operand::Memory(address) => env.write(*address, value, width),
            Operand::Device(target) => target.write(env, value, width),
        }
    }
}

/// What became of one iteration.
enum Iteration {
    /// It is done.
    Done,
    /// It is done, and a comparison ended the repetition.
    Last,
    /// It was left alone: no operand is MMIO.
    Left,
}

/// Emulates MOVS, STOS, LODS, CMPS and SCAS with at least one operand in MMIO.
#[inline(never)]
pub(crate) fn string<E: Env + ?Sized>(
    env: &mut E,
    code: CodeSize,
    insn: &Insn,
) -> Result<Progress> {
    if env.regs().user_mode() {
        return Err(Error::Unsupported);
    }

    let strings = Strings::new(env.regs(), insn);
    let count = strings.batch(BATCH);
    let mut done = 0u64;

    while done < count {
        match iteration(env, code, insn, &strings, done == 0) {
            Ok(Iteration::Done) => {}
            Ok(Iteration::Last) => {
                strings.complete(env, done.wrapping_add(1));
                return Ok(Progress::Complete);
            }
            // The next element is no MMIO: the interrupted code can go on by itself.
            Ok(Iteration::Left) => break,
            Err(error) if done == 0 => return Err(error),
            // The error belongs to the next iteration, and comes back with it.
            Err(_) => break,
        }
        done = done.wrapping_add(1);
    }
    Ok(strings.complete(env, done))
}

/// Emulates one iteration.
#[inline(always)]
fn iteration<E: Env + ?Sized>(
    env: &mut E,
    code: CodeSize,
    insn: &Insn,
    strings: &Strings,
    first: bool,
) -> Result<Iteration> {
    let source = match insn.op {
        Op::Movs | Op::Lods | Op::Cmps { .. } => {
            let offset = strings.offset(env.regs(), Gpr::RSI);

            Some(operand(
                env,
                code,
                insn,
                insn.segment,
                offset,
                Access::Read,
            )?)
        }
        _ => None,
    };
    // The second operand of CMPS and SCAS is only read.
    let (comparison, access) = match insn.op {
        Op::Cmps { while_equal } | Op::Scas { while_equal } => (Some(while_equal), Access::Read),
        _ => (None, Access::Write),
    };
    let destination = match insn.op {
        Op::Lods => None,
        _ => {
            let offset = strings.offset(env.regs(), Gpr::RDI);

            Some(operand(env, code, insn, Segment::Es, offset, access)?)
        }
    };

    match (&source, &destination) {
        (Some(Operand::Device(_)), _) | (_, Some(Operand::Device(_))) => {}
        // MOVS between memories, or CMPS of them: what was MMIO when the exit happened no longer
        // is, or the environment knows it for memory. Do it; that is harmless.
        (Some(Operand::Memory(_)), Some(Operand::Memory(_))) if first => {}
        (Some(Operand::Memory(address)), None) if first => {
            return Err(mmio::refuse(env, *address, Access::Read));
        }
        (None, Some(Operand::Memory(address))) if first => {
            return Err(mmio::refuse(env, *address, access));
        }
        _ => return Ok(Iteration::Left),
    }

    let value = match &source {
        Some(operand) => operand.read(env, insn.width)?,
        None => Register::RAX.read(env.regs(), insn.width),
    };

    let mut ended = false;

    match &destination {
        Some(operand) if comparison.is_some() => {
            let other = operand.read(env, insn.width)?;
            let regs = env.regs_mut();

            regs.flags = alu::binary(Alu::Sub, value, other, regs.flags, insn.width).1;
            ended = comparison != Some(regs.flags & FLAGS_ZF != 0);
        }
        Some(operand) => operand.write(env, value, insn.width)?,
        None => Register::RAX.write(env.regs_mut(), value, insn.width),
    }
    if source.is_some() {
        strings.advance(env.regs_mut(), Gpr::RSI, 1);
    }
    if destination.is_some() {
        strings.advance(env.regs_mut(), Gpr::RDI, 1);
    }
    Ok(if ended {
        Iteration::Last
    } else {
        Iteration::Done
    })
}

/// Looks an operand up. One that crosses a page must be on the same kind of memory in both.
#[inline(never)]
fn operand<E: Env + ?Sized>(
    env: &mut E,
    code: CodeSize,
    insn: &Insn,
    segment: Segment,
    offset: u64,
    access: Access,
) -> Result<Operand> {
    let width = insn.width;
    let address = address::linear(env, code, segment, offset, width.bytes(), access)?;
    let mut memory = None;
    let target = Target::find(env, address, width, |env, page| {
        let Mapping { gpa, encrypted } = env.translate(page, access)?;
        let is_memory = encrypted || env.is_shared_memory(gpa);

        if memory.is_some_and(|memory| memory != is_memory) {
            return Err(Error::Unsupported);
        }
        memory = Some(is_memory);
        Ok(gpa)
    })?;

    Ok(match memory {
        Some(true) => Operand::Memory(address),
        _ => Operand::Device(target),
    })
}
