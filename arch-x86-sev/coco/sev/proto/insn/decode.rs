// SPDX-License-Identifier: GPL-2.0

//! The opcode maps (APM vol. 3, appendix A), as far as they are handled.

use super::super::{regs::Gpr, result::Width};
use super::{
    cursor::Cursor, modrm::ModRm, prefix::Prefixes, Alu, BitOp, CodeSize, DecodeError, Extend,
    Insn, Memory, MemoryOp, Op, Register, Segment, Source, Unary,
};

type Result<T> = core::result::Result<T, DecodeError>;

/// Decodes the instruction at the start of `bytes`.
///
/// `bytes` may end before 15 bytes; [`DecodeError::Truncated`] says that the instruction needs
/// more. LOCK is refused where hardware raises #UD for it.
pub(crate) fn decode(bytes: &[u8], code: CodeSize) -> Result<Insn> {
    let mut decoder = Decoder::new(bytes, code)?;
    let op = decoder.op()?;

    if decoder.prefixes.lock && !lockable(&op) {
        return Err(DecodeError::Unknown);
    }

    Ok(Insn {
        op,
        len: decoder.cursor.position() as u8,
        width: decoder.width,
        address_size: decoder.prefixes.address_size(),
        segment: decoder.prefixes.segment(Segment::Ds),
        rep: decoder.prefixes.rep || decoder.prefixes.repne,
    })
}

/// True for instructions that may have a LOCK prefix (APM vol. 3, 1.2.5): those that read, modify
/// and write memory.
#[inline(always)]
fn lockable(op: &Op) -> bool {
    match op {
        Op::Memory(op, _) => matches!(
            op,
            MemoryOp::Modify(..)
                | MemoryOp::Unary(_)
                | MemoryOp::Bit(BitOp::Set | BitOp::Reset | BitOp::Complement, _)
                | MemoryOp::Exchange(_)
                | MemoryOp::ExchangeAdd(_)
                | MemoryOp::CompareExchange(_)
        ),
        _ => false,
    }
}

/// What is known so far.
struct Decoder<'a> {
    cursor: Cursor<'a>,
    prefixes: Prefixes,
    opcode: u8,
    width: Width,
}

impl<'a> Decoder<'a> {
    #[inline(always)]
    fn new(bytes: &'a [u8], code: CodeSize) -> Result<Decoder<'a>> {
        let mut cursor = Cursor::new(bytes);
        let (prefixes, opcode) = Prefixes::read(&mut cursor, code)?;

        Ok(Decoder {
            cursor,
            prefixes,
            opcode,
            width: prefixes.width(opcode),
        })
    }

    /// The one-byte opcodes.
    #[inline(always)]
    fn op(&mut self) -> Result<Op> {
        match self.opcode {
            0x0f => self.op_0f(),
            // ALU operations: rm, reg and reg, rm. The forms on rAX and an immediate have no
            // memory operand.
            opcode @ 0x00..=0x3b if opcode & 7 < 4 => self.arithmetic(),
            0x63 if self.prefixes.long() => self.load(self.movsxd_width(), Extend::Sign),
            0x6c | 0x6d => self.port(Op::Ins),
            0x6e | 0x6f => self.port(Op::Outs),
            0x80 | 0x81 | 0x83 => self.group_1(),
            // There is a second encoding of 80h, in 16- and 32-bit modes only.
            0x82 if !self.prefixes.long() => self.group_1(),
            0x84 | 0x85 => self
                .register_form(|register| MemoryOp::Compare(Alu::And, Source::Register(register))),
            0x86 | 0x87 => self.register_form(MemoryOp::Exchange),
            0x88 | 0x89 => {
                self.register_form(|register| MemoryOp::Store(Source::Register(register)))
            }
            0x8a | 0x8b => self.load(self.width, Extend::Zero),
            0xa0..=0xa3 => self.direct(),
            0xa4 | 0xa5 => Ok(Op::Movs),
            0xaa | 0xab => Ok(Op::Stos),
            0xac | 0xad => Ok(Op::Lods),
            0xc6 | 0xc7 => self.immediate_form(0, MemoryOp::Store),
            0xe4 | 0xe5 => {
                let port = self.cursor.byte()?;

                self.port(Op::In(Some(port)))
            }
            0xe6 | 0xe7 => {
                let port = self.cursor.byte()?;

                self.port(Op::Out(Some(port)))
            }
            0xec | 0xed => self.port(Op::In(None)),
            0xee | 0xef => self.port(Op::Out(None)),
            0xf6 | 0xf7 => self.group_3(),
            0xfe | 0xff => self.group_4_5(),
            _ => Err(DecodeError::Unknown),
        }
    }

    /// The opcodes after 0Fh.
    #[inline(always)]
    fn op_0f(&mut self) -> Result<Op> {
        self.opcode = self.cursor.byte()?;
        self.width = self.prefixes.width(self.opcode);

        match self.opcode {
            0x01 => self.group_7(),
            0x08 => Ok(Op::Invd),
            0x09 => Ok(Op::Wbinvd),
            0x21 | 0x23 => self.debug_register(),
            0x30 => Ok(Op::Wrmsr),
            0x31 => Ok(Op::Rdtsc),
            0x32 => Ok(Op::Rdmsr),
            0x33 => Ok(Op::Rdpmc),
            0xa2 => Ok(Op::Cpuid),
            0xa3 => self.bit(BitOp::Test),
            0xab => self.bit(BitOp::Set),
            0xb3 => self.bit(BitOp::Reset),
            0xbb => self.bit(BitOp::Complement),
            0xb0 | 0xb1 => self.register_form(MemoryOp::CompareExchange),
            0xb6 | 0xb7 => self.extend(Extend::Zero),
            0xbe | 0xbf => self.extend(Extend::Sign),
            0xba => self.group_8(),
            0xc0 | 0xc1 => self.register_form(MemoryOp::ExchangeAdd),
            0xc3 => self.movnti(),
            _ => Err(DecodeError::Unknown),
        }
    }

    /// Reads a ModRM byte.
    #[inline(always)]
    fn modrm(&mut self) -> Result<ModRm> {
        Ok(ModRm(self.cursor.byte()?))
    }

    /// Reads the memory operand that a ModRM byte begins; a register operand is refused.
    #[inline(always)]
    fn memory(&mut self, modrm: ModRm) -> Result<Memory> {
        if modrm.is_register() {
            return Err(DecodeError::Unknown);
        }
        modrm.memory(&mut self.cursor, &self.prefixes)
    }

    /// `op rm, reg` or `op reg, rm` with a memory operand.
    #[inline(always)]
    fn register_form(&mut self, op: impl FnOnce(Register) -> MemoryOp) -> Result<Op> {
        let modrm = self.modrm()?;
        let register = modrm.register(&self.prefixes, self.width);

        Ok(Op::Memory(op(register), self.memory(modrm)?))
    }

    /// `op rm, imm` with a memory operand, where ModRM.reg must be `extension`.
    #[inline(always)]
    fn immediate_form(&mut self, extension: u8, op: impl FnOnce(Source) -> MemoryOp) -> Result<Op> {
        let modrm = self.modrm()?;

        if modrm.extension() != extension {
            return Err(DecodeError::Unknown);
        }

        let memory = self.memory(modrm)?;
        let immediate = self.immediate()?;

        Ok(Op::Memory(op(immediate), memory))
    }

    /// An immediate of the operand's width, but never more than 32 bits, sign-extended.
    #[inline(always)]
    fn immediate(&mut self) -> Result<Source> {
        let width = match self.width {
            Width::B8 => Width::B4,
            width => width,
        };

        Ok(Source::Immediate(self.cursor.signed(width)?))
    }

    /// A load of `from` bytes to a register of the operand's width.
    #[inline(always)]
    fn load(&mut self, from: Width, extend: Extend) -> Result<Op> {
        let modrm = self.modrm()?;
        let to_width = self.width;
        let to = modrm.register(&self.prefixes, to_width);
        let memory = self.memory(modrm)?;

        self.width = from;
        Ok(Op::Memory(
            MemoryOp::Load {
                to,
                to_width,
                extend,
            },
            memory,
        ))
    }

    /// MOVZX and MOVSX: the lowest bit of the opcode is the width of the source.
    #[inline(always)]
    fn extend(&mut self, extend: Extend) -> Result<Op> {
        let from = if self.opcode & 1 == 0 {
            Width::B1
        } else {
            Width::B2
        };

        self.width = self.prefixes.operand_size();
        self.load(from, extend)
    }

    /// Width of the source of MOVSXD: 32 bits, or fewer if the destination has fewer.
    #[inline(always)]
    const fn movsxd_width(&self) -> Width {
        match self.width {
            Width::B8 => Width::B4,
            width => width,
        }
    }

    /// MOV between rAX and the address in the instruction.
    #[inline(always)]
    fn direct(&mut self) -> Result<Op> {
        let displacement = self.cursor.number(self.prefixes.address_size())?;
        let memory = Memory {
            segment: self.prefixes.segment(Segment::Ds),
            base: super::Base::None,
            index: None,
            scale: 0,
            displacement,
        };
        let op = if self.opcode < 0xa2 {
            MemoryOp::Load {
                to: Register::RAX,
                to_width: self.width,
                extend: Extend::Zero,
            }
        } else {
            MemoryOp::Store(Source::Register(Register::RAX))
        };

        Ok(Op::Memory(op, memory))
    }

    /// Ports have at most 32 bits.
    #[inline(always)]
    fn port(&mut self, op: Op) -> Result<Op> {
        if self.width == Width::B8 {
            self.width = Width::B4;
        }
        Ok(op)
    }

    /// The operation that bits 5:3 of an opcode or ModRM.reg choose; true if the result is dropped.
    #[inline(always)]
    const fn alu(bits: u8) -> (Alu, bool) {
        match bits & 7 {
            0 => (Alu::Add, false),
            1 => (Alu::Or, false),
            2 => (Alu::Adc, false),
            3 => (Alu::Sbb, false),
            4 => (Alu::And, false),
            5 => (Alu::Sub, false),
            6 => (Alu::Xor, false),
            _ => (Alu::Sub, true),
        }
    }

    /// 00h to 3Bh: ADD, OR, ADC, SBB, AND, SUB, XOR, CMP.
    fn arithmetic(&mut self) -> Result<Op> {
        let (alu, compare) = Self::alu(self.opcode >> 3);
        let to_register = self.opcode & 2 != 0;

        self.register_form(|register| match (to_register, compare) {
            (false, false) => MemoryOp::Modify(alu, Source::Register(register)),
            (false, true) => MemoryOp::Compare(alu, Source::Register(register)),
            (true, false) => MemoryOp::Combine(alu, register),
            (true, true) => MemoryOp::CompareRegister(alu, register),
        })
    }

    /// 80h to 83h: the same with an immediate.
    fn group_1(&mut self) -> Result<Op> {
        let modrm = self.modrm()?;
        let (alu, compare) = Self::alu(modrm.extension());
        let memory = self.memory(modrm)?;
        let source = if self.opcode == 0x83 {
            Source::Immediate(self.cursor.signed(Width::B1)?)
        } else {
            self.immediate()?
        };
        let op = if compare {
            MemoryOp::Compare(alu, source)
        } else {
            MemoryOp::Modify(alu, source)
        };

        Ok(Op::Memory(op, memory))
    }

    /// F6h and F7h: TEST, NOT, NEG. Multiplication and division are not handled.
    fn group_3(&mut self) -> Result<Op> {
        let modrm = self.modrm()?;
        let memory = self.memory(modrm)?;
        let op = match modrm.extension() {
            0 | 1 => MemoryOp::Compare(Alu::And, self.immediate()?),
            2 => MemoryOp::Unary(Unary::Not),
            3 => MemoryOp::Unary(Unary::Neg),
            _ => return Err(DecodeError::Unknown),
        };

        Ok(Op::Memory(op, memory))
    }

    /// FEh and FFh: INC, DEC.
    fn group_4_5(&mut self) -> Result<Op> {
        let modrm = self.modrm()?;
        let memory = self.memory(modrm)?;
        let op = match modrm.extension() {
            0 => Unary::Inc,
            1 => Unary::Dec,
            _ => return Err(DecodeError::Unknown),
        };

        Ok(Op::Memory(MemoryOp::Unary(op), memory))
    }

    /// 0Fh 01h: the whole ModRM byte is the opcode.
    fn group_7(&mut self) -> Result<Op> {
        let modrm = self.modrm()?;

        // With REP some of these are other instructions: VMGEXIT is REP VMMCALL.
        if self.prefixes.rep || self.prefixes.repne || self.prefixes.operand {
            return Err(DecodeError::Unknown);
        }
        match modrm.0 {
            0xc8 | 0xfa => Ok(Op::Monitor),
            0xc9 | 0xfb => Ok(Op::Mwait),
            0xd9 => Ok(Op::Vmmcall),
            0xf9 => Ok(Op::Rdtscp),
            _ => Err(DecodeError::Unknown),
        }
    }

    /// 0Fh BAh: BT, BTS, BTR, BTC with an immediate.
    fn group_8(&mut self) -> Result<Op> {
        let modrm = self.modrm()?;
        let op = match modrm.extension() {
            4 => BitOp::Test,
            5 => BitOp::Set,
            6 => BitOp::Reset,
            7 => BitOp::Complement,
            _ => return Err(DecodeError::Unknown),
        };

        self.width = self.prefixes.operand_size();

        let memory = self.memory(modrm)?;
        let source = Source::Immediate(self.cursor.number(Width::B1)?);

        Ok(Op::Memory(MemoryOp::Bit(op, source), memory))
    }

    /// BT, BTS, BTR, BTC with a register.
    fn bit(&mut self, op: BitOp) -> Result<Op> {
        self.register_form(|register| MemoryOp::Bit(op, Source::Register(register)))
    }

    /// MOVNTI, which is a store of a register and has no 16-bit form.
    fn movnti(&mut self) -> Result<Op> {
        if self.prefixes.operand || self.prefixes.rep || self.prefixes.repne {
            return Err(DecodeError::Unknown);
        }
        self.width = if self.prefixes.rex_w() {
            Width::B8
        } else {
            Width::B4
        };
        self.register_form(|register| MemoryOp::Store(Source::Register(register)))
    }

    /// 0Fh 21h and 23h: MOV from and to debug registers. ModRM.mod is ignored: the operand is
    /// always a register.
    fn debug_register(&mut self) -> Result<Op> {
        let modrm = self.modrm()?;
        let debug = modrm.reg(&self.prefixes);
        let gpr = Gpr::new(modrm.rm(&self.prefixes));

        if debug >= 8 {
            return Err(DecodeError::Unknown);
        }
        Ok(if self.opcode == 0x21 {
            Op::ReadDr(debug, gpr)
        } else {
            Op::WriteDr(debug, gpr)
        })
    }
}
