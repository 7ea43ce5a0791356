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
        ghcb::{
            Field,
            Request,
            SHARED_BUFFER_OFFSET, //
        },
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
            Result,
            Width, //
        }, //
    },
    address,
    alu, //
};

/// Size of the smallest page.
const PAGE_SIZE: u64 = 4096;

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
fn translate<E: Env + ?Sized>(env: &mut E, address: u64, access: Access) -> Result<u64> {
    let Mapping { gpa, encrypted, .. } = env.translate(address, access)?;

    if encrypted {
        env.note(Note::EncryptedMmio { address });
        return Err(Error::Unsupported);
    }
    Ok(gpa)
}

/// Finds the guest-physical addresses of `width` bytes at a linear address.
#[inline(always)]
fn target<E: Env + ?Sized>(
    env: &mut E,
    address: u64,
    width: Width,
    access: Access,
) -> Result<Target> {
    let first = PAGE_SIZE.wrapping_sub(address & PAGE_SIZE.wrapping_sub(1));
    let gpa = translate(env, address, access)?;

    if first >= width.bytes() {
        return Ok(Target::within_page(gpa, width));
    }

    let next = translate(env, address.wrapping_add(first), access)?;

    Ok(Target::across_pages(gpa, first, next))
}

impl Target {
    /// An operand that does not cross a page.
    #[inline(always)]
    pub(crate) const fn within_page(gpa: u64, width: Width) -> Target {
        Target {
            gpa,
            len: width.bytes(),
            next: 0,
        }
    }

    /// An operand of which `len` bytes are at `gpa`, and the rest at `next` in another page.
    #[inline(always)]
    pub(crate) const fn across_pages(gpa: u64, len: u64, next: u64) -> Target {
        Target { gpa, len, next }
    }

    /// Reads the operand.
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
    pub(crate) fn write<E: Env + ?Sized>(&self, env: &mut E, value: u64, width: Width) -> Result {
        if self.len == width.bytes() {
            return write_exit(env, self.gpa, value, width);
        }

        let mut done = 0;

        while done < width.bytes() {
            let (gpa, piece) = self.piece(done, width);

            write_exit(
                env,
                gpa,
                value.wrapping_shr((done as u32).wrapping_mul(8)),
                piece,
            )?;
            done = done.wrapping_add(piece.bytes());
        }
        Ok(())
    }

    /// Address and width of the part of a split operand that starts after `done` bytes: the widest
    /// that is naturally aligned and in one page, as a bus would see it.
    #[inline]
    const fn piece(&self, done: u64, width: Width) -> (u64, Width) {
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
fn read_exit<E: Env + ?Sized>(env: &mut E, gpa: u64, width: Width) -> Result<u64> {
    let ghcb = env.ghcb();
    let scratch = env.ghcb_gpa().wrapping_add(SHARED_BUFFER_OFFSET);
    let reply = Request::new(ghcb).set(Field::SCRATCH, scratch).call(
        env,
        ExitCode::MmioRead,
        gpa,
        width.bytes(),
    )?;

    Ok(reply.buffer(0, width))
}

/// Writes to a guest-physical address.
fn write_exit<E: Env + ?Sized>(env: &mut E, gpa: u64, value: u64, width: Width) -> Result {
    let ghcb = env.ghcb();
    let scratch = env.ghcb_gpa().wrapping_add(SHARED_BUFFER_OFFSET);

    ghcb.write_buffer(0, value, width);
    Request::new(ghcb).set(Field::SCRATCH, scratch).call(
        env,
        ExitCode::MmioWrite,
        gpa,
        width.bytes(),
    )?;
    Ok(())
}

/// Emulates an instruction with a memory operand in MMIO.
///
/// The operand is translated before anything is read or written, for writing if it will be written,
/// so that a fault comes before any side effect. LOCK is accepted but cannot make two exits one:
/// accesses to devices are not atomic.
#[inline]
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
    let target = target(env, address, width, access)?;

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
    let flags = regs.flags;
    let mut write = None;
    let mut set: Option<(Register, u64)> = None;

    let flags = match *op {
        MemoryOp::Modify(alu, source) => {
            let (value, flags) = alu::binary(alu, old, source.value(regs, width), flags, width);

            write = Some(value);
            flags
        }
        MemoryOp::Combine(alu, register) => {
            let (value, flags) = alu::binary(alu, register.read(regs, width), old, flags, width);

            set = Some((register, value));
            flags
        }
        MemoryOp::Compare(alu, source) => {
            alu::binary(alu, old, source.value(regs, width), flags, width).1
        }
        MemoryOp::CompareRegister(alu, register) => {
            alu::binary(alu, register.read(regs, width), old, flags, width).1
        }
        MemoryOp::Unary(unary) => {
            let (value, flags) = alu::unary(unary, old, flags, width);

            write = Some(value);
            flags
        }
        MemoryOp::Bit(bit, source) => {
            let (value, flags) = alu::bit(bit, old, source.value(regs, width), flags, width);

            if bit != BitOp::Test {
                write = Some(value);
            }
            flags
        }
        MemoryOp::Exchange(register) => {
            write = Some(register.read(regs, width));
            set = Some((register, old));
            flags
        }
        MemoryOp::ExchangeAdd(register) => {
            let value = register.read(regs, width);
            let (value, flags) = alu::binary(Alu::Add, old, value, flags, width);

            write = Some(value);
            set = Some((register, old));
            flags
        }
        MemoryOp::CompareExchange(register) => {
            let accumulator = Register::RAX.read(regs, width);
            let (difference, flags) = alu::binary(Alu::Sub, accumulator, old, flags, width);

            // Memory is written in both cases, with the old value if there is no match.
            if difference == 0 {
                write = Some(register.read(regs, width));
            } else {
                write = Some(old);
                set = Some((Register::RAX, old));
            }
            flags
        }
        MemoryOp::Store(_) | MemoryOp::Load { .. } => return Err(Error::Unsupported),
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
