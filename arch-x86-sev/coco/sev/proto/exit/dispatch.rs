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
        regs::{
            FLAGS_RF,
            FLAGS_TF, //
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
    tsc,
    vmmcall,
    wbinvd, //
};

/// What was done for an instruction.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Length of the instruction.
    pub(super) len: u8,
    /// The code segment that it is in.
    pub(super) code: CodeSize,
    /// Whether it is complete.
    pub(super) progress: Progress,
}

impl Step {
    /// A complete instruction in 64-bit mode.
    #[inline(always)]
    pub(super) const fn long(len: u8) -> Step {
        Step {
            len,
            code: CodeSize::Bits64,
            progress: Progress::Complete,
        }
    }
}

/// Handles a #VC with this exit code. The error code of the exception is the exit code.
pub(crate) fn handle<E: Env + ?Sized>(env: &mut E, code: u64) -> Outcome {
    let head = env.peek();
    let result = match head.and_then(|head| frequent::handle(env, code, head)) {
        Some(result) => result,
        None => run(env, code, head),
    };

    match result {
        Ok(step) => finish(env, step),
        Err(error) => error.into(),
    }
}

/// Brings RIP and RFLAGS to where hardware would have them after the instruction.
#[inline(always)]
fn finish<E: Env + ?Sized>(env: &mut E, step: Step) -> Outcome {
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

/// Emulates the instruction, but for RIP. `head` is what [`Env::peek`] returned.
fn run<E: Env + ?Sized>(env: &mut E, code: u64, head: Option<u64>) -> Result<Step> {
    let Ok(exit) = ExitCode::try_from(code) else {
        return Err(Error::Unsupported);
    };

    match exit {
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
        | ExitCode::NestedPageFault => {}
        // An intercepted exception is not about an instruction.
        ExitCode::AlignmentCheck => return Err(Fault::AC.into()),
        // #DB must be handled before anything else runs; it does not get here.
        _ => return Err(Error::Unsupported),
    }

    let mut code = CodeSize::Bits64;
    let (mut bytes, decoded) = match head {
        Some(head) => {
            let bytes = InsnBytes::from_head(head);

            (bytes, insn::decode(bytes, code))
        }
        None => {
            code = env.code_size()?;
            (InsnBytes::from_head(0), Err(DecodeError::Truncated))
        }
    };
    let decoded = match decoded {
        Err(DecodeError::Truncated) => {
            let mut buffer = [0; MAX_INSN_LEN];
            let len = env.fetch(&mut buffer)?;

            bytes = InsnBytes::new(&buffer, len);
            match insn::decode(bytes, code) {
                Err(DecodeError::Truncated) => return Err(incomplete(env, code, len)),
                decoded => decoded,
            }
        }
        decoded => decoded,
    };

    match decoded {
        Ok(insn) => dispatch(env, exit, code, &insn, bytes.head()),
        Err(_) => Err(mismatch(env, exit, bytes.head())),
    }
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
