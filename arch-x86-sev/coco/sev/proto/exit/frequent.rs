// SPDX-License-Identifier: GPL-2.0

//! Short cuts for the instructions that cause most exits.
//!
//! They are recognised by their first bytes, without prefixes. Everything that is not exactly as
//! expected here is left to the decoder, which gives the same results.

use super::{
    super::{
        env::Env,
        exit_code::ExitCode,
        insn::{
            Base,
            CodeSize,
            Extend,
            Insn,
            Memory,
            MemoryOp,
            Op,
            Register,
            Segment,
            Source, //
        },
        regs::Gpr,
        result::{
            Result,
            Width, //
        }, //
    },
    cpuid,
    ioio::{
        self,
        Direction, //
    },
    mmio,
    msr,
    step::Step,
    tsc, //
};

/// Handles the instructions that are seen most, without a prefix, straight from their bytes.
/// `None` if this is none of them.
#[inline(always)]
pub(super) fn handle<E: Env + ?Sized>(env: &mut E, code: u64, head: u64) -> Option<Result<Step>> {
    const MSR: u64 = ExitCode::Msr as u64;
    const CPUID: u64 = ExitCode::Cpuid as u64;
    const RDTSC: u64 = ExitCode::Rdtsc as u64;
    const IOIO: u64 = ExitCode::Ioio as u64;
    const NPF: u64 = ExitCode::NestedPageFault as u64;

    let result = match (code, head as u16) {
        (MSR, 0x300f) if env.handles(ExitCode::Msr) => msr::access(env, true),
        (MSR, 0x320f) if env.handles(ExitCode::Msr) => msr::access(env, false),
        (CPUID, 0xa20f) => cpuid::cpuid(env),
        (RDTSC, 0x310f) => tsc::rdtsc(env, ExitCode::Rdtsc),
        (IOIO, _) => return port(env, head),
        (NPF, _) if env.handles(ExitCode::NestedPageFault) => return mov(env, head),
        _ => return None,
    };

    Some(result.map(|()| Step::long(2)))
}

/// The port instructions with the port in DX; the string forms with or without REP.
#[inline(always)]
fn port<E: Env + ?Sized>(env: &mut E, head: u64) -> Option<Result<Step>> {
    let rep = head as u8 == 0xf3;
    let opcode = if rep { (head >> 8) as u8 } else { head as u8 };
    let width = if opcode & 1 == 0 {
        Width::B1
    } else {
        Width::B4
    };
    let direction = if opcode & 2 == 0 {
        Direction::In
    } else {
        Direction::Out
    };

    match opcode {
        0xec..=0xef if !rep => {
            let port = env.regs().dx as u16;
            let result = ioio::port(env, direction, port, width, Width::B8);

            Some(result.map(|()| Step::long(1)))
        }
        0x6c..=0x6f => {
            let insn = Insn {
                op: Op::Outs,
                len: if rep { 2 } else { 1 },
                width,
                address_size: Width::B8,
                segment: Segment::Ds,
                rep,
            };
            let result = ioio::string(env, CodeSize::Bits64, direction, &insn);

            Some(result.map(|progress| Step {
                progress,
                ..Step::long(insn.len)
            }))
        }
        _ => None,
    }
}

/// MOV between a 32-bit register and memory, with no prefix but REX, and no SIB byte: what
/// compilers make of accesses to device registers.
#[inline(always)]
fn mov<E: Env + ?Sized>(env: &mut E, head: u64) -> Option<Result<Step>> {
    // REX without W.
    let (rex, head, prefix_len) = if head as u8 & 0xf8 == 0x40 {
        (head as u8, head >> 8, 1)
    } else {
        (0, head, 0)
    };
    let modrm = (head >> 8) as u8;
    let displacement = head >> 16;
    let base = Base::Gpr(Gpr::new((modrm & 7) | ((rex & 1) << 3)));
    let register = Register {
        gpr: Gpr::new(((modrm >> 3) & 7) | ((rex & 4) << 1)),
        high: false,
    };
    let op = match head as u8 {
        0x89 => MemoryOp::Store(Source::Register(register)),
        0x8b => MemoryOp::Load {
            to: register,
            to_width: Width::B4,
            extend: Extend::Zero,
        },
        _ => return None,
    };
    let (displacement, len) = match (modrm >> 6, modrm & 7) {
        // A SIB byte, or no base.
        (_, 4) | (0, 5) | (3, _) => return None,
        (0, _) => (0, 2),
        (1, _) => (Width::B1.sign_extend(displacement), 3),
        _ => (Width::B4.sign_extend(displacement), 6),
    };
    let insn = Insn {
        op: Op::Movs,
        len: prefix_len + len,
        width: Width::B4,
        address_size: Width::B8,
        segment: Segment::Ds,
        rep: false,
    };
    let operand = Memory {
        // RBP's segment is SS, which matters for the kind of a fault only.
        segment: match base {
            Base::Gpr(Gpr::RBP) => Segment::Ss,
            _ => Segment::Ds,
        },
        base,
        index: None,
        scale: 0,
        displacement,
    };
    let result = mmio::memory(env, CodeSize::Bits64, &insn, &op, &operand);

    Some(result.map(|()| Step::long(insn.len)))
}
