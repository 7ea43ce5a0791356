// SPDX-License-Identifier: GPL-2.0

//! From an exit code to the handler of the instruction that caused it.
//!
//! The hypervisor chooses the exit code; the instruction is the guest's. A handler runs only for a
//! pair that belongs together, so that a #VC which the hypervisor made up cannot make the guest
//! misread its own code.

use super::{
    super::{
        env::{Env, Note},
        exit_code::{self, ExitCode},
        insn::{self, CodeSize, DecodeError, Insn, Op, Segment, MAX_INSN_LEN},
        regs::{FLAGS_RF, FLAGS_TF},
        result::{Error, Fault, Outcome, Progress, Result, Width, PF_FETCH, PF_USER},
    },
    cpuid, dr7,
    ioio::{self, Direction},
    mmio, mmio_string, msr, tsc, vmmcall, wbinvd,
};

/// What was done for an instruction.
struct Step {
    /// Length of the instruction.
    len: u8,
    /// The code segment that it is in.
    code: CodeSize,
    /// Whether it is complete.
    progress: Progress,
}

impl Step {
    /// A complete instruction in 64-bit mode.
    #[inline(always)]
    const fn long(len: u8) -> Step {
        Step {
            len,
            code: CodeSize::Bits64,
            progress: Progress::Complete,
        }
    }
}

/// Handles a #VC with this exit code. The error code of the exception is the exit code.
pub(crate) fn handle<E: Env + ?Sized>(env: &mut E, code: u64) -> Outcome {
    match run(env, code) {
        Ok(step) => finish(env, &step),
        Err(error) => error.into(),
    }
}

/// Brings RIP and RFLAGS to where hardware would have them after the instruction.
#[inline(always)]
fn finish<E: Env + ?Sized>(env: &mut E, step: &Step) -> Outcome {
    let regs = env.regs_mut();
    let single_step = regs.flags & FLAGS_TF != 0;

    if let Progress::Partial = step.progress {
        return Outcome::Retry { single_step };
    }

    let next = regs.ip.wrapping_add(step.len.into());

    regs.ip = match step.code {
        CodeSize::Bits64 => next,
        CodeSize::Bits32 => next & 0xffff_ffff,
        CodeSize::Bits16 => next & 0xffff,
    };
    // Completing an instruction clears RF (APM vol. 2, 3.1.6). An interrupt shadow of STI or
    // MOV SS ended with the instruction, too; it is not in the saved registers.
    regs.flags &= !FLAGS_RF;
    Outcome::Done { single_step }
}

/// Emulates the instruction, but for RIP.
#[inline(always)]
fn run<E: Env + ?Sized>(env: &mut E, code: u64) -> Result<Step> {
    let Ok(exit) = ExitCode::try_from(code) else {
        return Err(Error::Unsupported);
    };

    // Intercepted exceptions are not about an instruction.
    if exit_code::is_exception(code) {
        return Err(match exit {
            ExitCode::AlignmentCheck => Fault::AC.into(),
            // #DB must be handled before anything else runs; it does not get here.
            _ => Error::Unsupported,
        });
    }

    let Some(head) = env.peek() else {
        return fetch_and_dispatch(env, exit, None);
    };

    if let Some(result) = fixed(env, exit, head) {
        return result;
    }
    match insn::decode(&head.to_le_bytes(), CodeSize::Bits64) {
        Ok(insn) => dispatch(env, exit, CodeSize::Bits64, &insn, head),
        Err(DecodeError::Truncated) => fetch_and_dispatch(env, exit, Some(CodeSize::Bits64)),
        Err(DecodeError::Unknown) => Err(mismatch(env, exit, head)),
    }
}

/// Handles the instructions that are seen most, without a prefix, straight from their bytes.
/// `None` if this is none of them.
#[inline(always)]
fn fixed<E: Env + ?Sized>(env: &mut E, exit: ExitCode, head: u64) -> Option<Result<Step>> {
    let result = match exit {
        ExitCode::Msr if head as u16 == 0x300f => msr::access(env, true).map(|()| 2),
        ExitCode::Msr if head as u16 == 0x320f => msr::access(env, false).map(|()| 2),
        ExitCode::Cpuid if head as u16 == 0xa20f => cpuid::cpuid(env).map(|()| 2),
        ExitCode::Ioio => return fixed_port(env, head),
        _ => return None,
    };

    Some(result.map(Step::long))
}

/// The port instructions with the port in DX, one of the string forms with or without REP.
#[inline(always)]
fn fixed_port<E: Env + ?Sized>(env: &mut E, head: u64) -> Option<Result<Step>> {
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

/// Reads the whole instruction, decodes and emulates it.
#[inline]
fn fetch_and_dispatch<E: Env + ?Sized>(
    env: &mut E,
    exit: ExitCode,
    code: Option<CodeSize>,
) -> Result<Step> {
    let code = match code {
        Some(code) => code,
        None => env.code_size()?,
    };
    let mut bytes = [0; MAX_INSN_LEN];
    let len = env.fetch(&mut bytes)?;
    let head = head(&bytes);
    let Some(fetched) = bytes.get(..len) else {
        return Err(Error::DecodeFailed);
    };

    match insn::decode(fetched, code) {
        Ok(insn) => dispatch(env, exit, code, &insn, head),
        Err(DecodeError::Truncated) => Err(incomplete(env, code, len)),
        Err(DecodeError::Unknown) => Err(mismatch(env, exit, head)),
    }
}

/// The first eight bytes as a number.
#[inline(always)]
const fn head(bytes: &[u8; MAX_INSN_LEN]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *bytes;

    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The instruction reaches into memory that cannot be read now, though hardware did read it: it is
/// gone since. A page fault brings it back and starts the instruction anew.
fn incomplete<E: Env + ?Sized>(env: &mut E, code: CodeSize, len: usize) -> Error {
    let regs = env.regs();

    // Other code segments may have a base that is not known here.
    if !matches!(code, CodeSize::Bits64) {
        return Error::DecodeFailed;
    }

    let user = if regs.user_mode() { PF_USER } else { 0 };

    Fault::page(regs.ip.wrapping_add(len as u64), PF_FETCH | user).into()
}

/// The instruction cannot have caused this exit.
fn mismatch<E: Env + ?Sized>(env: &mut E, exit: ExitCode, bytes: u64) -> Error {
    env.note(Note::WrongInstruction {
        code: exit as u64,
        bytes,
    });
    Error::DecodeFailed
}

/// Calls the handler for the pair of exit code and instruction.
#[inline(always)]
fn dispatch<E: Env + ?Sized>(
    env: &mut E,
    exit: ExitCode,
    code: CodeSize,
    insn: &Insn,
    head: u64,
) -> Result<Step> {
    let mut progress = Progress::Complete;

    match (exit, &insn.op) {
        (ExitCode::ReadDr7, &Op::ReadDr(7, to)) => dr7::read(env, to)?,
        (ExitCode::WriteDr7, &Op::WriteDr(7, from)) => dr7::write(env, from)?,
        (ExitCode::Rdtsc, Op::Rdtsc) | (ExitCode::Rdtscp, Op::Rdtscp) => tsc::rdtsc(env, exit)?,
        (ExitCode::Rdpmc, Op::Rdpmc) => tsc::rdpmc(env)?,
        (ExitCode::Cpuid, Op::Cpuid) => cpuid::cpuid(env)?,
        (ExitCode::Invd, Op::Invd) => wbinvd::invd(env)?,
        (ExitCode::Wbinvd, Op::Wbinvd) => wbinvd::wbinvd(env)?,
        (ExitCode::Msr, Op::Rdmsr) => msr::access(env, false)?,
        (ExitCode::Msr, Op::Wrmsr) => msr::access(env, true)?,
        (ExitCode::Vmmcall, Op::Vmmcall) => vmmcall::vmmcall(env)?,
        // NOPs: the hypervisor must not learn the physical address that is monitored, and MWAIT
        // may return at any time.
        (ExitCode::Monitor, Op::Monitor) | (ExitCode::Mwait, Op::Mwait) => {}
        (ExitCode::Ioio, &Op::In(port)) => {
            let port = port_number(env, port);

            ioio::port(env, Direction::In, port, insn.width, insn.address_size)?;
        }
        (ExitCode::Ioio, &Op::Out(port)) => {
            let port = port_number(env, port);

            ioio::port(env, Direction::Out, port, insn.width, insn.address_size)?;
        }
        (ExitCode::Ioio, Op::Ins) => progress = ioio::string(env, code, Direction::In, insn)?,
        (ExitCode::Ioio, Op::Outs) => progress = ioio::string(env, code, Direction::Out, insn)?,
        (ExitCode::NestedPageFault, Op::Memory(op, operand)) => {
            mmio::memory(env, code, insn, op, operand)?;
        }
        (ExitCode::NestedPageFault, Op::Movs | Op::Stos | Op::Lods) => {
            progress = mmio_string::string(env, code, insn)?;
        }
        _ => return Err(mismatch(env, exit, head)),
    }

    Ok(Step {
        len: insn.len,
        code,
        progress,
    })
}

/// The port of IN or OUT: the one in the instruction, or DX.
#[inline(always)]
fn port_number<E: Env + ?Sized>(env: &E, port: Option<u8>) -> u16 {
    match port {
        Some(port) => port.into(),
        None => env.regs().dx as u16,
    }
}
