// SPDX-License-Identifier: GPL-2.0

//! From an exit code to the handler of the instruction that caused it.
//!
//! The hypervisor chooses the exit code; the instruction is the guest's. A handler runs only for a
//! pair that belongs together, so that a #VC which the hypervisor made up cannot make the guest
//! misread its own code.

use super::{
    super::{
        env::{
            Env,
            Note, //
        },
        exit_code::ExitCode,
        insn::{
            self,
            CodeSize,
            DecodeError,
            Insn,
            InsnBytes,
            Op,
            MAX_INSN_LEN, //
        },
        result::{
            Error,
            Fault,
            Outcome,
            Progress,
            Result,
            PF_FETCH,
            PF_USER, //
        }, //
    },
    cpuid,
    dr7,
    frequent,
    ioio::{
        self,
        Direction, //
    },
    mmio,
    mmio_string,
    msr,
    step::Step,
    tsc,
    vmmcall,
    wbinvd, //
};

/// Handles a #VC with this exit code. The error code of the exception is the exit code.
pub(crate) fn handle<E: Env + ?Sized>(env: &mut E, code: u64) -> Outcome {
    let head = env.peek();
    let result = match head.and_then(|head| frequent::handle(env, code, head)) {
        Some(result) => result,
        None => run(env, code, head),
    };

    match result {
        Ok(step) => step.finish(env),
        Err(error) => error.into(),
    }
}

/// Emulates the instruction, but for RIP. `head` is what [`Env::peek`] returned.
fn run<E: Env + ?Sized>(env: &mut E, exit: u64, head: Option<u64>) -> Result<Step> {
    // An intercepted exception is not about an instruction.
    if exit == ExitCode::AlignmentCheck as u64 && env.handles(ExitCode::AlignmentCheck) {
        return Err(Fault::AC.into());
    }
    // #DB must be handled before anything else runs; it does not get here.
    if !ExitCode::try_from(exit).is_ok_and(|exit| is_about_instruction(exit) && env.handles(exit)) {
        return Err(Error::Unsupported);
    }

    let (mut bytes, code) = match head {
        Some(head) => (InsnBytes::from_head(head), CodeSize::Bits64),
        None => (InsnBytes::NONE, env.code_size()?),
    };
    let mut decoded = insn::decode(bytes, code);

    if let Err(DecodeError::Truncated) = decoded {
        let mut buffer = [0; MAX_INSN_LEN];
        let len = env.fetch(&mut buffer)?;

        bytes = InsnBytes::new(&buffer, len);
        decoded = insn::decode(bytes, code);
        if let Err(DecodeError::Truncated) = decoded {
            return Err(incomplete(env, code, len));
        }
    }
    match &decoded {
        Ok(insn) if expected_exit(&insn.op).is_some_and(|expected| expected as u64 == exit) => {
            dispatch(env, code, insn)
        }
        _ => {
            env.note(Note::WrongInstruction {
                code: exit,
                bytes: bytes.head(),
            });
            Err(Error::DecodeFailed)
        }
    }
}

/// True for the exits that [`expected_exit`] knows.
#[inline(always)]
fn is_about_instruction(code: ExitCode) -> bool {
    matches!(
        code,
        ExitCode::ReadDr7
            | ExitCode::WriteDr7
            | ExitCode::Rdtsc
            | ExitCode::Rdpmc
            | ExitCode::Cpuid
            | ExitCode::Invd
            | ExitCode::Ioio
            | ExitCode::Msr
            | ExitCode::Vmmcall
            | ExitCode::Rdtscp
            | ExitCode::Wbinvd
            | ExitCode::Monitor
            | ExitCode::Mwait
            | ExitCode::NestedPageFault
    )
}

/// The exit that an instruction causes.
#[inline(always)]
fn expected_exit(op: &Op) -> Option<ExitCode> {
    Some(match op {
        Op::ReadDr(7, _) => ExitCode::ReadDr7,
        Op::WriteDr(7, _) => ExitCode::WriteDr7,
        Op::ReadDr(..) | Op::WriteDr(..) => return None,
        Op::Rdtsc => ExitCode::Rdtsc,
        Op::Rdtscp => ExitCode::Rdtscp,
        Op::Rdpmc => ExitCode::Rdpmc,
        Op::Cpuid => ExitCode::Cpuid,
        Op::Invd => ExitCode::Invd,
        Op::Wbinvd => ExitCode::Wbinvd,
        Op::Rdmsr | Op::Wrmsr => ExitCode::Msr,
        Op::Vmmcall => ExitCode::Vmmcall,
        Op::Monitor => ExitCode::Monitor,
        Op::Mwait => ExitCode::Mwait,
        Op::In(_) | Op::Out(_) | Op::Ins | Op::Outs => ExitCode::Ioio,
        Op::Memory(..) | Op::Movs | Op::Stos | Op::Lods | Op::Cmps { .. } | Op::Scas { .. } => {
            ExitCode::NestedPageFault
        }
    })
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

/// Calls the handler for the instruction.
#[inline(always)]
fn dispatch<E: Env + ?Sized>(env: &mut E, code: CodeSize, insn: &Insn) -> Result<Step> {
    let mut progress = Progress::Complete;

    match insn.op {
        // These do not get here; the compiler is to know, too.
        ref op if !expected_exit(op).is_some_and(|exit| env.handles(exit)) => {
            return Err(Error::Unsupported);
        }
        Op::ReadDr(_, to) => dr7::read(env, to)?,
        Op::WriteDr(_, from) => dr7::write(env, from)?,
        Op::Rdtsc => tsc::rdtsc(env, ExitCode::Rdtsc)?,
        Op::Rdtscp => tsc::rdtsc(env, ExitCode::Rdtscp)?,
        Op::Rdpmc => tsc::rdpmc(env)?,
        Op::Cpuid => cpuid::cpuid(env)?,
        Op::Invd => wbinvd::invd(env)?,
        Op::Wbinvd => wbinvd::wbinvd(env)?,
        Op::Rdmsr => msr::access(env, false)?,
        Op::Wrmsr => msr::access(env, true)?,
        Op::Vmmcall => vmmcall::vmmcall(env)?,
        // NOPs: the hypervisor must not learn the physical address that is monitored, and MWAIT
        // may return at any time.
        Op::Monitor | Op::Mwait => {}
        Op::In(port) => {
            let port = port_number(env, port);

            ioio::port(env, Direction::In, port, insn.width, insn.address_size)?;
        }
        Op::Out(port) => {
            let port = port_number(env, port);

            ioio::port(env, Direction::Out, port, insn.width, insn.address_size)?;
        }
        Op::Ins => progress = ioio::string(env, code, Direction::In, insn)?,
        Op::Outs => progress = ioio::string(env, code, Direction::Out, insn)?,
        Op::Memory(ref op, ref operand) => mmio::memory(env, code, insn, op, operand)?,
        Op::Movs | Op::Stos | Op::Lods | Op::Cmps { .. } | Op::Scas { .. } => {
            progress = mmio_string::string(env, code, insn)?;
        }
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
