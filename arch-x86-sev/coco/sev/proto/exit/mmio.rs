// SPDX-License-Identifier: GPL-2.0

//! Nested page faults: accesses to MMIO by an instruction with one explicit memory operand.
//!
//! Only kernel mode may do MMIO this way. A user process that maps a device is refused: what the
//! handler reads as the instruction could be changed under it by another thread.

use super::{
    super::{
        env::{
            Env,
            Mapping,
            Note, //
        },
        exit_code::ExitCode,
        insn::{
            Alu,
            BitOp,
            CodeSize,
            Extend,
            Insn,
            Memory,
            MemoryOp,
            Register,
            Source, //
        },
        regs::Regs,
        result::{
            Access,
            Error,
            Fault,
            Result,
            Width,
            PF_WRITE, //
        }, //
    },
    address::{
        self,
        PAGE_SIZE, //
    },
    alu,
    buffer, //
};

/// Where an MMIO operand is: one guest-physical range, or two if it crosses a page.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    gpa: u64,
    /// Bytes at `gpa`; the rest is at `next`.
    len: u64,
    next: u64,
}

/// Translates an address for MMIO. Private memory is refused: the access would tell the
/// hypervisor a secret, or believe the hypervisor what memory holds.
#[inline(always)]
fn translate<E: Env + ?Sized>(env: &mut E, address: u64, access: Access) -> Result<u64> {
    let Mapping { gpa, encrypted } = env.translate(address, access)?;

    if encrypted {
        return Err(refuse(env, address, access));
    }
    Ok(gpa)
}

/// The error for MMIO at private memory.
///
/// At an address of user space the mapping can have changed since the exit: another thread unmapped
/// the device, and the TLB was flushed by the hypervisor's help or by INVLPGB, which do not wait
/// for this CPU. Then the access fails, as it would without a mapping. It is one that the kernel
/// makes for user space, and expects to fail. Anything else is the hypervisor's doing.
#[cold]
#[inline(never)]
pub(crate) fn refuse<E: Env + ?Sized>(env: &mut E, address: u64, access: Access) -> Error {
    if address >> 63 == 0 {
        let code = match access {
            Access::Read => 0,
            Access::Write => PF_WRITE,
        };

        return Fault::page(address, code).into();
    }
    env.note(Note::EncryptedMmio { address });
    Error::Unsupported
}

impl Target {
    /// Finds the guest-physical addresses of `width` bytes at a linear address. `translate` does
    /// it for one page.
    #[inline(always)]
    pub(crate) fn find<E: Env + ?Sized>(
        env: &mut E,
        address: u64,
        width: Width,
        mut translate: impl FnMut(&mut E, u64) -> Result<u64>,
    ) -> Result<Target> {
        let in_page = PAGE_SIZE.wrapping_sub(address & PAGE_SIZE.wrapping_sub(1));
        let mut target = Target {
            gpa: 0,
            len: width.bytes(),
            next: 0,
        };
        let mut page = address;

        if in_page < width.bytes() {
            target.len = in_page;
        }
        loop {
            let gpa = translate(env, page)?;

            if page != address {
                target.next = gpa;
                return Ok(target);
            }
            target.gpa = gpa;
            if target.len == width.bytes() {
                return Ok(target);
            }
            page = address.wrapping_add(in_page);
        }
    }

    /// Reads the operand.
    #[inline(never)]
    pub(crate) fn read<E: Env + ?Sized>(&self, env: &mut E, width: Width) -> Result<u64> {
        if self.len == width.bytes() {
            return read_exit(env, self.gpa, width);
        }

        let mut value = 0;
        let mut done = 0;

        while done < width.bytes() {
            let (gpa, piece) = self.piece(done, width);
            let part = read_exit(env, gpa, piece)?;

            value |= part.wrapping_shl((done as u32).wrapping_mul(8));
            done = done.wrapping_add(piece.bytes());
        }
        Ok(value)
    }

    /// Writes the operand.
    #[inline(never)]
    pub(crate) fn write<E: Env + ?Sized>(&self, env: &mut E, value: u64, width: Width) -> Result {
        if self.len == width.bytes() {
            return write_exit(env, self.gpa, value, width);
        }

        let mut done = 0;

        while done < width.bytes() {
            let (gpa, piece) = self.piece(done, width);
            let part = value.wrapping_shr((done as u32).wrapping_mul(8));

            write_exit(env, gpa, part, piece)?;
            done = done.wrapping_add(piece.bytes());
        }
        Ok(())
    }

    /// Address and width of the part of a split operand that starts after `done` bytes: the widest
    /// that is naturally aligned and in one page, as a bus would see it.
    #[inline(always)]
    fn piece(&self, done: u64, width: Width) -> (u64, Width) {
        let (gpa, left) = if done < self.len {
            (self.gpa.wrapping_add(done), self.len.wrapping_sub(done))
        } else {
            (
                self.next.wrapping_add(done.wrapping_sub(self.len)),
                width.bytes().wrapping_sub(done),
            )
        };
        let piece = if gpa & 3 == 0 && left >= 4 {
            Width::B4
        } else if gpa & 1 == 0 && left >= 2 {
            Width::B2
        } else {
            Width::B1
        };

        (gpa, piece)
    }
}

/// Reads from a guest-physical address.
#[inline(never)]
fn read_exit<E: Env + ?Sized>(env: &mut E, gpa: u64, width: Width) -> Result<u64> {
    let reply = buffer::exit(env, ExitCode::MmioRead, gpa, width.bytes())?;

    Ok(reply.buffer(0, width))
}

/// Writes to a guest-physical address.
#[inline(never)]
fn write_exit<E: Env + ?Sized>(env: &mut E, gpa: u64, value: u64, width: Width) -> Result {
    env.ghcb().write_buffer(0, value, width);
    buffer::exit(env, ExitCode::MmioWrite, gpa, width.bytes())?;
    Ok(())
}

/// Emulates an instruction with a memory operand in MMIO.
///
/// The operand is translated before anything is read or written, for writing if it will be written,
/// so that a fault comes before any side effect. LOCK is accepted but cannot make two exits one:
/// accesses to devices are not atomic.
#[inline(never)]
pub(crate) fn memory<E: Env + ?Sized>(
    env: &mut E,
    code: CodeSize,
    insn: &Insn,
    op: &MemoryOp,
    operand: &Memory,
) -> Result {
    if env.regs().user_mode() {
        return Err(Error::Unsupported);
    }

    let width = insn.width;
    let access = match op {
        MemoryOp::Load { .. }
        | MemoryOp::Combine(..)
        | MemoryOp::Compare(..)
        | MemoryOp::CompareRegister(..)
        | MemoryOp::Bit(BitOp::Test, _) => Access::Read,
        _ => Access::Write,
    };
    let mut offset = address::offset(env.regs(), insn, operand);

    if let MemoryOp::Bit(_, Source::Register(register)) = op {
        let bit = width.sign_extend(register.read(env.regs(), width));

        offset = insn
            .address_size
            .truncate(offset.wrapping_add(bit_displacement(bit, width)));
    }

    let address = address::linear(env, code, operand.segment, offset, width.bytes(), access)?;
    let target = Target::find(env, address, width, |env, page| {
        translate(env, page, access)
    })?;

    match *op {
        MemoryOp::Store(source) => {
            let value = source.value(env.regs(), width);

            target.write(env, value, width)
        }
        MemoryOp::Load {
            to,
            to_width,
            extend,
        } => {
            let value = target.read(env, width)?;
            let value = match extend {
                Extend::Zero => value,
                Extend::Sign => width.sign_extend(value),
            };

            to.write(env.regs_mut(), value, to_width);
            Ok(())
        }
        _ => modify(env, op, &target, width),
    }
}

/// Distance in bytes to the element that holds a bit, for BT with a register: the bit number is
/// signed and not limited to the operand.
#[inline(always)]
const fn bit_displacement(bit: u64, width: Width) -> u64 {
    let element = (bit as i64).wrapping_shr(width.shift().wrapping_add(3)) as u64;

    element.wrapping_shl(width.shift())
}

impl Source {
    /// The operand's value.
    #[inline(always)]
    fn value(self, regs: &Regs, width: Width) -> u64 {
        match self {
            Source::Register(register) => register.read(regs, width),
            Source::Immediate(value) => width.truncate(value),
        }
    }
}

/// Emulates the instructions that read memory and do more than load it. Registers and flags are
/// set last, after the write was accepted.
#[inline(never)]
fn modify<E: Env + ?Sized>(env: &mut E, op: &MemoryOp, target: &Target, width: Width) -> Result {
    let old = target.read(env, width)?;
    let regs = env.regs();
    let operand = match *op {
        MemoryOp::Modify(_, source) | MemoryOp::Compare(_, source) | MemoryOp::Bit(_, source) => {
            source
        }
        MemoryOp::Combine(_, register)
        | MemoryOp::CompareRegister(_, register)
        | MemoryOp::Exchange(register)
        | MemoryOp::ExchangeAdd(register)
        | MemoryOp::CompareExchange(register) => Source::Register(register),
        _ => Source::Immediate(0),
    };
    let operand = operand.value(regs, width);

    // What arithmetic there is; the exchange of values has none.
    let (result, flags) = match *op {
        MemoryOp::Unary(unary) => alu::unary(unary, old, regs.flags, width),
        MemoryOp::Bit(bit, _) => alu::bit(bit, old, operand, regs.flags, width),
        MemoryOp::Exchange(_) => (operand, regs.flags),
        _ => {
            let (alu, left, right) = match *op {
                MemoryOp::Modify(alu, _) | MemoryOp::Compare(alu, _) => (alu, old, operand),
                MemoryOp::Combine(alu, _) | MemoryOp::CompareRegister(alu, _) => {
                    (alu, operand, old)
                }
                MemoryOp::ExchangeAdd(_) => (Alu::Add, old, operand),
                _ => (Alu::Sub, Register::RAX.read(regs, width), old),
            };

            alu::binary(alu, left, right, regs.flags, width)
        }
    };

    let (write, set) = match *op {
        MemoryOp::Modify(..)
        | MemoryOp::Unary(_)
        | MemoryOp::Bit(BitOp::Set | BitOp::Reset | BitOp::Complement, _) => (Some(result), None),
        MemoryOp::Combine(_, register) => (None, Some((register, result))),
        MemoryOp::Exchange(register) | MemoryOp::ExchangeAdd(register) => {
            (Some(result), Some((register, old)))
        }
        // Memory is written in both cases, with the old value if there is no match.
        MemoryOp::CompareExchange(_) if result == 0 => (Some(operand), None),
        MemoryOp::CompareExchange(_) => (Some(old), Some((Register::RAX, old))),
        _ => (None, None),
    };

    if let Some(value) = write {
        target.write(env, value, width)?;
    }

    let regs = env.regs_mut();

    regs.flags = flags;
    if let Some((register, value)) = set {
        register.write(regs, value, width);
    }
    Ok(())
}
