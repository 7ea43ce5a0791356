// SPDX-License-Identifier: GPL-2.0

//! Instructions that #VC handlers emulate, and their decoder (APM vol. 3, 1 and 2).
//!
//! Only instructions that can cause a #VC with a meaning are known: the decoder gives their
//! operands and their length, and refuses everything else. It is pure and needs only the bytes it
//! looks at.

mod cursor;
mod decode;
mod modrm;
mod prefix;

use super::{
    regs::{
        Gpr,
        Regs, //
    },
    result::Width, //
};

pub(crate) use self::decode::decode;

/// Longest instruction (APM vol. 3, 1.2).
pub(crate) const MAX_INSN_LEN: usize = 15;

/// The bytes of an instruction, as many as could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InsnBytes {
    /// The first byte is the lowest.
    value: u128,
    /// Number of bytes, at most 15. They need not all belong to the instruction.
    len: usize,
}

impl InsnBytes {
    /// No bytes.
    pub(crate) const NONE: InsnBytes = InsnBytes { value: 0, len: 0 };

    /// The first `len` bytes of a buffer.
    #[inline(always)]
    pub(crate) const fn new(bytes: &[u8; MAX_INSN_LEN], len: usize) -> InsnBytes {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = *bytes;

        InsnBytes {
            value: u128::from_le_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, 0]),
            len: if len < MAX_INSN_LEN {
                len
            } else {
                MAX_INSN_LEN
            },
        }
    }

    /// Eight bytes, the first one lowest.
    #[inline(always)]
    pub(crate) const fn from_head(head: u64) -> InsnBytes {
        InsnBytes {
            value: head as u128,
            len: 8,
        }
    }

    /// The first eight bytes; those that could not be read are 0.
    #[inline(always)]
    pub(crate) const fn head(self) -> u64 {
        self.value as u64
    }
}

/// Default operand and address size of a code segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeSize {
    /// 16-bit compatibility mode.
    Bits16,
    /// 32-bit compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// A segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// A general-purpose register operand. With one byte and no REX prefix, numbers 4 to 7 are the
/// second bytes of RAX to RBX: AH, CH, DH, BH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    /// The register that holds the operand.
    pub(crate) gpr: Gpr,
    /// The operand is bits 15:8.
    pub(crate) high: bool,
}

impl Register {
    /// RAX, or the part of it that the width says.
    pub(crate) const RAX: Register = Register {
        gpr: Gpr::RAX,
        high: false,
    };

    /// The operand's value, zero-extended.
    #[inline(always)]
    pub(crate) const fn read(self, regs: &Regs, width: Width) -> u64 {
        let value = regs.gpr(self.gpr);

        if self.high {
            (value >> 8) & 0xff
        } else {
            width.truncate(value)
        }
    }

    /// Writes the operand: parts of a register leave the rest alone, 32 bits zero-extend.
    #[inline(always)]
    pub(crate) fn write(self, regs: &mut Regs, value: u64, width: Width) {
        let old = regs.gpr(self.gpr);
        let new = if self.high {
            (old & !0xff00) | ((value & 0xff) << 8)
        } else {
            Regs::merge(old, value, width)
        };

        regs.set_gpr(self.gpr, new);
    }
}

/// What the address of a memory operand starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing.
    None,
    /// The address of the next instruction.
    Rip,
    /// A register.
    Gpr(Gpr),
}

/// A memory operand: `segment:[base + index << scale + displacement]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The segment, with an override applied.
    pub(crate) segment: Segment,
    /// The base.
    pub(crate) base: Base,
    /// The index.
    pub(crate) index: Option<Gpr>,
    /// log2 of the factor that the index is multiplied by, 0 to 3.
    pub(crate) scale: u8,
    /// The displacement, sign-extended.
    pub(crate) displacement: u64,
}

impl Memory {
    /// An operand in DS without displacement.
    #[inline(always)]
    const fn new(base: Base, index: Option<Gpr>, scale: u8) -> Memory {
        Memory {
            segment: Segment::Ds,
            base,
            index,
            scale,
            displacement: 0,
        }
    }
}

/// The operand of an instruction that is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A register.
    Register(Register),
    /// An immediate, sign-extended to 64 bits.
    Immediate(u64),
}

/// How a value is widened on its way to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extend {
    /// With zeroes (or not at all).
    Zero,
    /// With its sign.
    Sign,
}

/// An operation that combines two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alu {
    /// ADD.
    Add,
    /// OR.
    Or,
    /// ADC.
    Adc,
    /// SBB.
    Sbb,
    /// AND; TEST if the result is dropped.
    And,
    /// SUB; CMP if the result is dropped.
    Sub,
    /// XOR.
    Xor,
}

/// An operation on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    /// INC.
    Inc,
    /// DEC.
    Dec,
    /// NOT.
    Not,
    /// NEG.
    Neg,
}

/// What BT and its kin do to the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitOp {
    /// BT: nothing.
    Test,
    /// BTS.
    Set,
    /// BTR.
    Reset,
    /// BTC.
    Complement,
}

/// Instructions with one explicit operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryOp {
    /// MOV, MOVNTI to memory.
    Store(Source),
    /// MOV, MOVZX, MOVSX, MOVSXD from memory.
    Load {
        /// The destination.
        to: Register,
        /// Width of the destination.
        to_width: Width,
        /// How the value is widened.
        extend: Extend,
    },
    /// `memory = memory op source`.
    Modify(Alu, Source),
    /// `register = register op memory`.
    Combine(Alu, Register),
    /// Flags of `memory op source`.
    Compare(Alu, Source),
    /// Flags of `register op memory`.
    CompareRegister(Alu, Register),
    /// `memory = op memory`.
    Unary(Unary),
    /// BT, BTS, BTR, BTC.
    Bit(BitOp, Source),
    /// XCHG.
    Exchange(Register),
    /// XADD.
    ExchangeAdd(Register),
    /// CMPXCHG.
    CompareExchange(Register),
}

/// What the decoder recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// CPUID.
    Cpuid,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// VMMCALL.
    Vmmcall,
    /// MONITOR or MONITORX.
    Monitor,
    /// MWAIT or MWAITX.
    Mwait,
    /// MOV from a debug register.
    ReadDr(u8, Gpr),
    /// MOV to a debug register.
    WriteDr(u8, Gpr),
    /// IN, from the port given or in DX.
    In(Option<u8>),
    /// OUT, to the port given or in DX.
    Out(Option<u8>),
    /// INS.
    Ins,
    /// OUTS.
    Outs,
    /// MOVS.
    Movs,
    /// STOS.
    Stos,
    /// LODS.
    Lods,
    /// CMPS. With a repeat prefix it ends when the elements are not equal if `while_equal`, else
    /// when they are.
    Cmps {
        /// The prefix is REPE (F3h).
        while_equal: bool,
    },
    /// SCAS, with the same ends as CMPS.
    Scas {
        /// The prefix is REPE (F3h).
        while_equal: bool,
    },
    /// An instruction with an explicit memory operand.
    Memory(MemoryOp, Memory),
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insn {
    /// What it does.
    pub(crate) op: Op,
    /// Its length in bytes.
    pub(crate) len: u8,
    /// Width of the data: of the memory operand, the string element, or what the port moves.
    pub(crate) width: Width,
    /// Width of addresses, 2, 4 or 8.
    pub(crate) address_size: Width,
    /// Segment that a string instruction reads from (DS or an override).
    pub(crate) segment: Segment,
    /// A REP, REPE or REPNE prefix is there.
    pub(crate) rep: bool,
}

/// Why the decoder gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The bytes end before the instruction does.
    Truncated,
    /// Not an instruction that is handled here.
    Unknown,
}
