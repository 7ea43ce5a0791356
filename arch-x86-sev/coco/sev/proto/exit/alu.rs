// SPDX-License-Identifier: GPL-2.0

//! Arithmetic with flags, for instructions that modify MMIO (APM vol. 3, the instructions' pages).

use super::super::{
    insn::{
        Alu,
        BitOp,
        Unary, //
    },
    regs::{
        FLAGS_AF,
        FLAGS_CF,
        FLAGS_OF,
        FLAGS_PF,
        FLAGS_SF,
        FLAGS_ZF, //
    },
    result::Width, //
};

/// The flags that arithmetic sets.
const ARITHMETIC: u64 = FLAGS_CF | FLAGS_PF | FLAGS_AF | FLAGS_ZF | FLAGS_SF | FLAGS_OF;

/// `flag` if `condition`.
#[inline(always)]
const fn when(condition: bool, flag: u64) -> u64 {
    if condition {
        flag
    } else {
        0
    }
}

/// SF, ZF and PF of a result.
#[inline(always)]
const fn result_flags(result: u64, width: Width) -> u64 {
    when(result & width.sign() != 0, FLAGS_SF)
        | when(result == 0, FLAGS_ZF)
        | when((result as u8).count_ones() & 1 == 0, FLAGS_PF)
}

/// Sum of two values and a carry, with the arithmetic flags.
#[inline(always)]
const fn add(a: u64, b: u64, carry: u64, width: Width) -> (u64, u64) {
    let result = width.truncate(a.wrapping_add(b).wrapping_add(carry));
    let carries = (a & b) | ((a | b) & !result);
    let flags = result_flags(result, width)
        | when(carries & width.sign() != 0, FLAGS_CF)
        | when((a ^ b ^ result) & 0x10 != 0, FLAGS_AF)
        | when((a ^ result) & (b ^ result) & width.sign() != 0, FLAGS_OF);

    (result, flags)
}

/// Difference of two values and a borrow, with the arithmetic flags.
#[inline(always)]
const fn sub(a: u64, b: u64, borrow: u64, width: Width) -> (u64, u64) {
    let result = width.truncate(a.wrapping_sub(b).wrapping_sub(borrow));
    let borrows = (!a & b) | ((!a | b) & result);
    let flags = result_flags(result, width)
        | when(borrows & width.sign() != 0, FLAGS_CF)
        | when((a ^ b ^ result) & 0x10 != 0, FLAGS_AF)
        | when((a ^ b) & (a ^ result) & width.sign() != 0, FLAGS_OF);

    (result, flags)
}

/// `a op b`, and RFLAGS after it. Both operands are truncated first.
#[inline(never)]
pub(crate) const fn binary(op: Alu, a: u64, b: u64, flags: u64, width: Width) -> (u64, u64) {
    let a = width.truncate(a);
    let b = width.truncate(b);
    let carry = flags & FLAGS_CF;
    let (result, set) = match op {
        Alu::Add => add(a, b, 0, width),
        Alu::Adc => add(a, b, carry, width),
        Alu::Sub => sub(a, b, 0, width),
        Alu::Sbb => sub(a, b, carry, width),
        Alu::And => (a & b, result_flags(a & b, width)),
        Alu::Or => (a | b, result_flags(a | b, width)),
        Alu::Xor => (a ^ b, result_flags(a ^ b, width)),
    };

    (result, (flags & !ARITHMETIC) | set)
}

/// `op a`, and RFLAGS after it.
pub(crate) const fn unary(op: Unary, a: u64, flags: u64, width: Width) -> (u64, u64) {
    let a = width.truncate(a);

    match op {
        Unary::Not => (width.truncate(!a), flags),
        Unary::Neg => binary(Alu::Sub, 0, a, flags, width),
        // INC and DEC leave CF alone.
        Unary::Inc => {
            let (result, set) = binary(Alu::Add, a, 1, flags, width);

            (result, (set & !FLAGS_CF) | (flags & FLAGS_CF))
        }
        Unary::Dec => {
            let (result, set) = binary(Alu::Sub, a, 1, flags, width);

            (result, (set & !FLAGS_CF) | (flags & FLAGS_CF))
        }
    }
}

/// `a` after an operation on its bit `bit` (modulo the width), and RFLAGS with that bit in CF.
pub(crate) const fn bit(op: BitOp, a: u64, bit: u64, flags: u64, width: Width) -> (u64, u64) {
    let mask = 1u64.wrapping_shl(bit as u32 & width.bits().wrapping_sub(1));
    let result = match op {
        BitOp::Test => a,
        BitOp::Set => a | mask,
        BitOp::Reset => a & !mask,
        BitOp::Complement => a ^ mask,
    };

    (result, (flags & !FLAGS_CF) | when(a & mask != 0, FLAGS_CF))
}
