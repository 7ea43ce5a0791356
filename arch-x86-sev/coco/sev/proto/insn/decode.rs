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
    Unary,
    MAX_INSN_LEN, //
};

/// Decodes the instruction at the start of `bytes`.
///
/// `bytes` may end before 15 bytes; [`DecodeError::Truncated`] says that the instruction needs
/// more. LOCK is refused where hardware raises #UD for it.
#[inline(never)]
pub(crate) fn decode(bytes: InsnBytes, code: CodeSize) -> Result<Insn, DecodeError> {
    let mut decoder = Decoder::new(bytes, code);
    let op = decoder.op();
    let len = decoder.cursor.position();

    // Bytes that are not there were taken for something.
    if len > bytes.len {
        return Err(if bytes.len < MAX_INSN_LEN {
            DecodeError::Truncated
        } else {
            DecodeError::Unknown
        });
    }
    match op {
        Some(op) if !decoder.prefixes.lock() || lockable(&op) => Ok(Insn {
            op,
            len: len as u8,
            width: decoder.width,
            address_size: decoder.prefixes.address_size(),
            segment: decoder.prefixes.segment(Segment::Ds),
            rep: decoder.prefixes.repeated(),
        }),
        _ => Err(DecodeError::Unknown),
    }
}

/// True for instructions that may have a LOCK prefix (APM vol. 3, 1.2.5): those that read, modify
/// and write memory.
#[inline(always)]
fn lockable(op: &Op) -> bool {
    matches!(
        op,
        Op::Memory(
            MemoryOp::Modify(..)
                | MemoryOp::Unary(_)
                | MemoryOp::Bit(BitOp::Set | BitOp::Reset | BitOp::Complement, _)
                | MemoryOp::Exchange(_)
                | MemoryOp::ExchangeAdd(_)
                | MemoryOp::CompareExchange(_),
            _
        )
    )
}

/// What is known so far.
struct Decoder {
    cursor: Cursor,
    prefixes: Prefixes,
    /// The opcode; of the opcodes after 0Fh, 100h and the second byte.
    opcode: u16,
    width: Width,
}

impl Decoder {
    #[inline(always)]
    fn new(bytes: InsnBytes, code: CodeSize) -> Decoder {
        let mut cursor = Cursor::new(bytes);
        let (prefixes, byte) = Prefixes::read(&mut cursor, code);
        let mut opcode = u16::from(byte);

        if opcode == 0x0f {
            opcode = 0x100 | u16::from(cursor.byte());
        }

        // In most opcodes the lowest bit tells bytes from larger operands.
        let width = match opcode {
            0x1b6 | 0x1ba | 0x1be => prefixes.operand_size(),
            // MOVNTI has no 16-bit form.
            0x1c3 if !prefixes.rex_w() => Width::B4,
            _ if opcode & 1 == 0 => Width::B1,
            _ => prefixes.operand_size(),
        };

        Decoder {
            cursor,
            prefixes,
            opcode,
            width,
        }
    }

    /// The instruction; `None` if it is not handled.
    #[inline(always)]
    fn op(&mut self) -> Option<Op> {
        let op = match self.opcode {
            0x101 => return self.group_7(),
            0x108 => Op::Invd,
            0x109 => Op::Wbinvd,
            0x121 | 0x123 => return self.debug_register(),
            0x130 => Op::Wrmsr,
            0x131 => Op::Rdtsc,
            0x132 => Op::Rdmsr,
            0x133 => Op::Rdpmc,
            0x1a2 => Op::Cpuid,
            0xa4 | 0xa5 => Op::Movs,
            0xa6 | 0xa7 => Op::Cmps {
                while_equal: self.prefixes.while_equal(),
            },
            0xaa | 0xab => Op::Stos,
            0xac | 0xad => Op::Lods,
            0xae | 0xaf => Op::Scas {
                while_equal: self.prefixes.while_equal(),
            },
            0x6c | 0x6d => self.port(Op::Ins),
            0x6e | 0x6f => self.port(Op::Outs),
            0xec | 0xed => self.port(Op::In(None)),
            0xee | 0xef => self.port(Op::Out(None)),
            0xe4 | 0xe5 => {
                let port = self.cursor.byte();

                self.port(Op::In(Some(port)))
            }
            0xe6 | 0xe7 => {
                let port = self.cursor.byte();

                self.port(Op::Out(Some(port)))
            }
            0xa0..=0xa3 => self.direct(),
            _ => return self.memory(),
        };

        Some(op)
    }

    /// Ports have at most 32 bits.
    #[inline(always)]
    fn port(&mut self, op: Op) -> Op {
        if self.width == Width::B8 {
            self.width = Width::B4;
        }
        op
    }

    /// MOV between rAX and the address in the instruction.
    #[inline(always)]
    fn direct(&mut self) -> Op {
        let address_size = self.prefixes.address_size();
        let memory = Memory {
            segment: self.prefixes.segment(Segment::Ds),
            displacement: address_size.truncate(self.cursor.signed(address_size)),
            ..Memory::new(Base::None, None, 0)
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

        Op::Memory(op, memory)
    }

    /// 0Fh 01h: the whole ModRM byte is the opcode.
    #[inline(always)]
    fn group_7(&mut self) -> Option<Op> {
        let repeated = self.prefixes.repeated();
        let prefixed = repeated || self.prefixes.operand();

        // With a prefix some of these are other instructions: VMGEXIT is REP VMMCALL.
        match self.cursor.byte() {
            0xc8 | 0xfa if !prefixed => Some(Op::Monitor),
            0xc9 | 0xfb if !prefixed => Some(Op::Mwait),
            0xd9 if !repeated => Some(Op::Vmmcall),
            0xf9 => Some(Op::Rdtscp),
            _ => None,
        }
    }

    /// 0Fh 21h and 23h: MOV from and to debug registers. ModRM.mod is ignored: the operand is
    /// always a register.
    #[inline(always)]
    fn debug_register(&mut self) -> Option<Op> {
        let modrm = ModRm(self.cursor.byte());
        let debug = modrm.reg(&self.prefixes);
        let gpr = Gpr::new(modrm.rm(&self.prefixes));

        match self.opcode {
            _ if debug >= 8 => None,
            0x121 => Some(Op::ReadDr(debug, gpr)),
            _ => Some(Op::WriteDr(debug, gpr)),
        }
    }

    /// Instructions with ModRM and an operand in memory; a register operand is refused.
    ///
    /// VEX, EVEX and XOP prefixes (C4h, C5h, 62h, 8Fh) are not known: their instructions do not
    /// belong on MMIO.
    #[inline(never)]
    fn memory(&mut self) -> Option<Op> {
        if !is_memory_opcode(self.opcode) {
            return None;
        }

        let modrm = ModRm(self.cursor.byte());

        if modrm.is_register() {
            return None;
        }

        let memory = modrm.memory(&mut self.cursor, &self.prefixes);

        Some(Op::Memory(self.memory_op(modrm)?, memory))
    }

    /// What is done with the memory operand, which has been read.
    #[inline(always)]
    fn memory_op(&mut self, modrm: ModRm) -> Option<MemoryOp> {
        let extension = modrm.extension();
        let register = modrm.register(&self.prefixes, self.width);
        let source = match self.immediate_width(extension) {
            None => Source::Register(register),
            Some(width) => Source::Immediate(self.cursor.signed(width)),
        };

        Some(match self.opcode {
            0x00..=0x3b => {
                let (alu, compare) = alu((self.opcode >> 3) as u8);

                match (self.opcode & 2 != 0, compare) {
                    (false, false) => MemoryOp::Modify(alu, source),
                    (false, true) => MemoryOp::Compare(alu, source),
                    (true, false) => MemoryOp::Combine(alu, register),
                    (true, true) => MemoryOp::CompareRegister(alu, register),
                }
            }
            // There is a second encoding of 80h, in 16- and 32-bit modes only.
            0x82 if self.prefixes.long() => return None,
            0x80..=0x83 => match alu(extension) {
                (alu, false) => MemoryOp::Modify(alu, source),
                (alu, true) => MemoryOp::Compare(alu, source),
            },
            0x84 | 0x85 => MemoryOp::Compare(Alu::And, source),
            0x86 | 0x87 => MemoryOp::Exchange(register),
            0x88 | 0x89 => MemoryOp::Store(source),
            0xc6 | 0xc7 if extension == 0 => MemoryOp::Store(source),
            0x1c3 if !self.prefixes.operand() && !self.prefixes.repeated() => {
                MemoryOp::Store(source)
            }
            0x8a | 0x8b => self.load(register, self.width, Extend::Zero),
            // MOVZX and MOVSX: the lowest bit of the opcode is the width of the source.
            0x1b6 => self.load(register, Width::B1, Extend::Zero),
            0x1b7 => self.load(register, Width::B2, Extend::Zero),
            0x1be => self.load(register, Width::B1, Extend::Sign),
            0x1bf => self.load(register, Width::B2, Extend::Sign),
            // MOVSXD: from 32 bits, or fewer if the destination has fewer.
            0x63 if self.prefixes.long() => match self.width {
                Width::B8 => self.load(register, Width::B4, Extend::Sign),
                width => self.load(register, width, Extend::Sign),
            },
            // Group 3; multiplication and division are not handled.
            0xf6 | 0xf7 => match extension {
                0 | 1 => MemoryOp::Compare(Alu::And, source),
                2 => MemoryOp::Unary(Unary::Not),
                3 => MemoryOp::Unary(Unary::Neg),
                _ => return None,
            },
            // Groups 4 and 5; jumps and calls through memory are not handled.
            0xfe | 0xff => match extension {
                0 => MemoryOp::Unary(Unary::Inc),
                1 => MemoryOp::Unary(Unary::Dec),
                _ => return None,
            },
            0x1a3 | 0x1ab | 0x1b3 | 0x1bb => MemoryOp::Bit(bit((self.opcode >> 3) as u8), source),
            // The bit's number is no signed one.
            0x1ba if extension >= 4 => match source {
                Source::Immediate(value) => {
                    MemoryOp::Bit(bit(extension), Source::Immediate(value & 0xff))
                }
                Source::Register(_) => return None,
            },
            0x1b0 | 0x1b1 => MemoryOp::CompareExchange(register),
            0x1c0 | 0x1c1 => MemoryOp::ExchangeAdd(register),
            _ => return None,
        })
    }

    /// Width of the immediate, if there is one: that of the operand, but never more than 32 bits.
    #[inline(always)]
    fn immediate_width(&self, extension: u8) -> Option<Width> {
        match self.opcode {
            0x83 | 0x1ba => Some(Width::B1),
            0xf6 | 0xf7 if extension >= 2 => None,
            0x80..=0x82 | 0xc6 | 0xc7 | 0xf6 | 0xf7 => Some(match self.width {
                Width::B8 => Width::B4,
                width => width,
            }),
            _ => None,
        }
    }

    /// A load of `from` bytes to a register of the operand's width.
    #[inline(always)]
    fn load(&mut self, to: Register, from: Width, extend: Extend) -> MemoryOp {
        let to_width = self.width;

        self.width = from;
        MemoryOp::Load {
            to,
            to_width,
            extend,
        }
    }
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

/// BT, BTS, BTR or BTC, by the same bits, of which the highest is 1.
#[inline(always)]
const fn bit(bits: u8) -> BitOp {
    match bits & 3 {
        0 => BitOp::Test,
        1 => BitOp::Set,
        2 => BitOp::Reset,
        _ => BitOp::Complement,
    }
}

/// True for opcodes with ModRM whose memory operand is handled.
#[inline(always)]
const fn is_memory_opcode(opcode: u16) -> bool {
    match opcode {
        // The other forms work on rAX and an immediate.
        0x00..=0x3b => opcode & 7 < 4,
        0x63 | 0x80..=0x8b | 0xc6 | 0xc7 | 0xf6 | 0xf7 | 0xfe | 0xff => true,
        0x1a3 | 0x1ab | 0x1b0 | 0x1b1 | 0x1b3 | 0x1b6 | 0x1b7 | 0x1ba | 0x1bb | 0x1be | 0x1bf
        | 0x1c0 | 0x1c1 | 0x1c3 => true,
        _ => false,
    }
}
