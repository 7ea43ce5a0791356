// SPDX-License-Identifier: GPL-2.0

//! The opcode maps (APM vol. 3, appendix A), as far as they are handled.

use super::super::{
    regs::Gpr,
    result::Width, //
};
use super::{
    cursor::Cursor,
    modrm::ModRm,
    prefix::Prefixes,
    Alu,
    Base,
    BitOp,
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
    Unary, //
};

type Result<T> = core::result::Result<T, DecodeError>;

/// Decodes the instruction at the start of `bytes`.
///
/// `bytes` may end before 15 bytes; [`DecodeError::Truncated`] says that the instruction needs
/// more. LOCK is refused where hardware raises #UD for it.
pub(crate) fn decode(bytes: InsnBytes, code: CodeSize) -> Result<Insn> {
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
struct Decoder {
    cursor: Cursor,
    prefixes: Prefixes,
    opcode: u8,
    modrm: ModRm,
    width: Width,
}

impl Decoder {
    #[inline(always)]
    fn new(bytes: InsnBytes, code: CodeSize) -> Result<Decoder> {
        let mut cursor = Cursor::new(bytes);
        let (prefixes, opcode) = Prefixes::read(&mut cursor, code)?;

        Ok(Decoder {
            cursor,
            prefixes,
            opcode,
            modrm: ModRm(0),
            width: prefixes.width(opcode),
        })
    }

    /// The one-byte opcodes.
    #[inline(always)]
    fn op(&mut self) -> Result<Op> {
        match self.opcode {
            0x0f => self.op_0f(),
            0x6c | 0x6d => self.port(Op::Ins),
            0x6e | 0x6f => self.port(Op::Outs),
            0xa0..=0xa3 => self.direct(),
            0xa4 | 0xa5 => Ok(Op::Movs),
            0xaa | 0xab => Ok(Op::Stos),
            0xac | 0xad => Ok(Op::Lods),
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
            opcode if is_memory_opcode(opcode) => {
                let memory = self.memory()?;

                Ok(Op::Memory(self.memory_op()?, memory))
            }
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
            opcode if is_memory_opcode_0f(opcode) => {
                let memory = self.memory()?;

                Ok(Op::Memory(self.memory_op_0f()?, memory))
            }
            _ => Err(DecodeError::Unknown),
        }
    }

    /// Reads a ModRM byte and the memory operand that it begins; a register operand is refused.
    #[inline]
    fn memory(&mut self) -> Result<Memory> {
        self.modrm = ModRm(self.cursor.byte()?);
        if self.modrm.is_register() {
            return Err(DecodeError::Unknown);
        }
        self.modrm.memory(&mut self.cursor, &self.prefixes)
    }

    /// The register that ModRM.reg names.
    #[inline(always)]
    fn register(&self) -> Register {
        self.modrm.register(&self.prefixes, self.width)
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

    /// The one-byte opcodes with a memory operand, which has been read.
    #[inline(always)]
    fn memory_op(&mut self) -> Result<MemoryOp> {
        let extension = self.modrm.extension();

        match self.opcode {
            0x00..=0x3b => Ok(self.arithmetic()),
            0x63 if self.prefixes.long() => Ok(self.movsxd()),
            // There is a second encoding of 80h, in 16- and 32-bit modes only.
            0x82 if self.prefixes.long() => Err(DecodeError::Unknown),
            0x80..=0x83 => self.group_1(),
            0x84 | 0x85 => Ok(MemoryOp::Compare(
                Alu::And,
                Source::Register(self.register()),
            )),
            0x86 | 0x87 => Ok(MemoryOp::Exchange(self.register())),
            0x88 | 0x89 => Ok(MemoryOp::Store(Source::Register(self.register()))),
            0x8a | 0x8b => Ok(self.load(self.width, Extend::Zero)),
            0xc6 | 0xc7 if extension == 0 => Ok(MemoryOp::Store(self.immediate()?)),
            // Group 3; multiplication and division are not handled.
            0xf6 | 0xf7 => match extension {
                0 | 1 => Ok(MemoryOp::Compare(Alu::And, self.immediate()?)),
                2 => Ok(MemoryOp::Unary(Unary::Not)),
                3 => Ok(MemoryOp::Unary(Unary::Neg)),
                _ => Err(DecodeError::Unknown),
            },
            // Groups 4 and 5; jumps and calls through memory are not handled.
            0xfe | 0xff => match extension {
                0 => Ok(MemoryOp::Unary(Unary::Inc)),
                1 => Ok(MemoryOp::Unary(Unary::Dec)),
                _ => Err(DecodeError::Unknown),
            },
            _ => Err(DecodeError::Unknown),
        }
    }

    /// The opcodes after 0Fh with a memory operand, which has been read.
    #[inline(always)]
    fn memory_op_0f(&mut self) -> Result<MemoryOp> {
        match self.opcode {
            0xa3 => Ok(self.bit(BitOp::Test)),
            0xab => Ok(self.bit(BitOp::Set)),
            0xb3 => Ok(self.bit(BitOp::Reset)),
            0xbb => Ok(self.bit(BitOp::Complement)),
            0xb0 | 0xb1 => Ok(MemoryOp::CompareExchange(self.register())),
            0xb6 | 0xb7 => Ok(self.extend(Extend::Zero)),
            0xbe | 0xbf => Ok(self.extend(Extend::Sign)),
            0xba => self.group_8(),
            0xc0 | 0xc1 => Ok(MemoryOp::ExchangeAdd(self.register())),
            0xc3 => self.movnti(),
            _ => Err(DecodeError::Unknown),
        }
    }

    /// A load of `from` bytes to a register of the operand's width.
    #[inline(always)]
    fn load(&mut self, from: Width, extend: Extend) -> MemoryOp {
        let to_width = self.width;
        let to = self.register();

        self.width = from;
        MemoryOp::Load {
            to,
            to_width,
            extend,
        }
    }

    /// MOVZX and MOVSX: the lowest bit of the opcode is the width of the source.
    #[inline(always)]
    fn extend(&mut self, extend: Extend) -> MemoryOp {
        let from = if self.opcode & 1 == 0 {
            Width::B1
        } else {
            Width::B2
        };

        self.width = self.prefixes.operand_size();
        self.load(from, extend)
    }

    /// MOVSXD: from 32 bits, or fewer if the destination has fewer.
    #[inline(always)]
    fn movsxd(&mut self) -> MemoryOp {
        let from = match self.width {
            Width::B8 => Width::B4,
            width => width,
        };

        self.load(from, Extend::Sign)
    }

    /// MOV between rAX and the address in the instruction.
    #[inline(always)]
    fn direct(&mut self) -> Result<Op> {
        let displacement = self.cursor.number(self.prefixes.address_size())?;
        let memory = Memory {
            segment: self.prefixes.segment(Segment::Ds),
            base: Base::None,
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
    #[inline(always)]
    fn arithmetic(&self) -> MemoryOp {
        let (alu, compare) = Self::alu(self.opcode >> 3);
        let to_register = self.opcode & 2 != 0;
        let register = self.register();

        match (to_register, compare) {
            (false, false) => MemoryOp::Modify(alu, Source::Register(register)),
            (false, true) => MemoryOp::Compare(alu, Source::Register(register)),
            (true, false) => MemoryOp::Combine(alu, register),
            (true, true) => MemoryOp::CompareRegister(alu, register),
        }
    }

    /// 80h to 83h: the same with an immediate.
    #[inline(always)]
    fn group_1(&mut self) -> Result<MemoryOp> {
        let (alu, compare) = Self::alu(self.modrm.extension());
        let source = if self.opcode == 0x83 {
            Source::Immediate(self.cursor.signed(Width::B1)?)
        } else {
            self.immediate()?
        };

        Ok(if compare {
            MemoryOp::Compare(alu, source)
        } else {
            MemoryOp::Modify(alu, source)
        })
    }

    /// 0Fh 01h: the whole ModRM byte is the opcode.
    fn group_7(&mut self) -> Result<Op> {
        let modrm = self.cursor.byte()?;

        let repeated = self.prefixes.rep || self.prefixes.repne;
        let prefixed = repeated || self.prefixes.operand;

        // With a prefix some of these are other instructions: VMGEXIT is REP VMMCALL.
        match modrm {
            0xc8 | 0xfa if !prefixed => Ok(Op::Monitor),
            0xc9 | 0xfb if !prefixed => Ok(Op::Mwait),
            0xd9 if !repeated => Ok(Op::Vmmcall),
            0xf9 => Ok(Op::Rdtscp),
            _ => Err(DecodeError::Unknown),
        }
    }

    /// 0Fh BAh: BT, BTS, BTR, BTC with an immediate.
    #[inline(always)]
    fn group_8(&mut self) -> Result<MemoryOp> {
        let op = match self.modrm.extension() {
            4 => BitOp::Test,
            5 => BitOp::Set,
            6 => BitOp::Reset,
            7 => BitOp::Complement,
            _ => return Err(DecodeError::Unknown),
        };

        self.width = self.prefixes.operand_size();

        let source = Source::Immediate(self.cursor.number(Width::B1)?);

        Ok(MemoryOp::Bit(op, source))
    }

    /// BT, BTS, BTR, BTC with a register.
    #[inline(always)]
    fn bit(&self, op: BitOp) -> MemoryOp {
        MemoryOp::Bit(op, Source::Register(self.register()))
    }

    /// MOVNTI, which is a store of a register and has no 16-bit form.
    #[inline(always)]
    fn movnti(&mut self) -> Result<MemoryOp> {
        if self.prefixes.operand || self.prefixes.rep || self.prefixes.repne {
            return Err(DecodeError::Unknown);
        }
        self.width = if self.prefixes.rex_w() {
            Width::B8
        } else {
            Width::B4
        };
        Ok(MemoryOp::Store(Source::Register(self.register())))
    }

    /// 0Fh 21h and 23h: MOV from and to debug registers. ModRM.mod is ignored: the operand is
    /// always a register.
    fn debug_register(&mut self) -> Result<Op> {
        let modrm = ModRm(self.cursor.byte()?);
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

/// True for one-byte opcodes with ModRM whose memory operand is handled. VEX, EVEX and XOP prefixes
/// (C4h, C5h, 62h, 8Fh) are not: their instructions do not belong on MMIO.
#[inline(always)]
const fn is_memory_opcode(opcode: u8) -> bool {
    match opcode {
        // The other forms work on rAX and an immediate.
        0x00..=0x3b => opcode & 7 < 4,
        0x63 | 0x80..=0x8b | 0xc6 | 0xc7 | 0xf6 | 0xf7 | 0xfe | 0xff => true,
        _ => false,
    }
}

/// The same for opcodes after 0Fh.
#[inline(always)]
const fn is_memory_opcode_0f(opcode: u8) -> bool {
    matches!(
        opcode,
        0xa3 | 0xab
            | 0xb0
            | 0xb1
            | 0xb3
            | 0xb6
            | 0xb7
            | 0xba
            | 0xbb
            | 0xbe
            | 0xbf
            | 0xc0
            | 0xc1
            | 0xc3
    )
}
