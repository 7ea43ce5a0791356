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
            Base,
            CodeSize,
            DecodeError,
            Extend,
            Insn,
            InsnBytes,
            Memory,
            MemoryOp,
            Op,
            Register,
            Segment,
            Source,
            MAX_INSN_LEN, //
        },
        regs::{
            Gpr,
            FLAGS_RF,
            FLAGS_TF, //
        },
        result::{
            Error,
            Fault,
            Outcome,
            Progress,
            Result,
            Width,
            PF_FETCH,
            PF_USER, //
        }, //
    },
    cpuid,
    dr7,
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
    let head = env.peek();
    let result = match head.and_then(|head| frequent(env, code, head)) {
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

/// Handles the instructions that are seen most, without a prefix, straight from their bytes.
/// `None` if this is none of them.
#[inline(always)]
fn frequent<E: Env + ?Sized>(env: &mut E, code: u64, head: u64) -> Option<Result<Step>> {
    const MSR: u64 = ExitCode::Msr as u64;
    const CPUID: u64 = ExitCode::Cpuid as u64;
    const RDTSC: u64 = ExitCode::Rdtsc as u64;
    const IOIO: u64 = ExitCode::Ioio as u64;
    const NPF: u64 = ExitCode::NestedPageFault as u64;

    let result = match (code, head as u16) {
        (MSR, 0x300f) => msr::access(env, true),
        (MSR, 0x320f) => msr::access(env, false),
        (CPUID, 0xa20f) => cpuid::cpuid(env),
        (RDTSC, 0x310f) => tsc::rdtsc(env, ExitCode::Rdtsc),
        (IOIO, _) => return frequent_port(env, head),
        (NPF, _) => return frequent_mmio(env, head),
        _ => return None,
    };

    Some(result.map(|()| Step::long(2)))
}

/// The port instructions with the port in DX; the string forms with or without REP.
#[inline(always)]
fn frequent_port<E: Env + ?Sized>(env: &mut E, head: u64) -> Option<Result<Step>> {
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
fn frequent_mmio<E: Env + ?Sized>(env: &mut E, head: u64) -> Option<Result<Step>> {
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
