// SPDX-License-Identifier: GPL-2.0

//! Legacy prefixes and REX (APM vol. 3, 1.2).

use super::super::result::Width;
use super::{
    cursor::Cursor,
    CodeSize,
    Segment, //
};

/// 66h.
const OPERAND: u8 = 1 << 0;
/// 67h.
const ADDRESS: u8 = 1 << 1;
/// F0h.
const LOCK: u8 = 1 << 2;
/// F2h or F3h.
const REPEAT: u8 = 1 << 3;
/// The last one of them is F3h.
const EQUAL: u8 = 1 << 4;

/// The prefixes of an instruction, and the code segment's size that they modify.
#[derive(Clone, Copy)]
pub(super) struct Prefixes {
    code: CodeSize,
    /// Those that are there.
    flags: u8,
    /// Segment override.
    segment: Option<Segment>,
    /// REX, 0 if there is none.
    rex: u8,
}

impl Prefixes {
    /// Reads the prefixes and returns them with the first byte of the opcode.
    #[inline(always)]
    pub(super) fn read(cursor: &mut Cursor, code: CodeSize) -> (Prefixes, u8) {
        let long = matches!(code, CodeSize::Bits64);
        let mut prefixes = Prefixes {
            code,
            flags: 0,
            segment: None,
            rex: 0,
        };

        loop {
            let byte = cursor.byte();
            let flag = match byte {
                // ES, CS, SS and DS overrides do nothing in 64-bit mode, not even undo FS or GS.
                0x26 | 0x2e | 0x36 | 0x3e => {
                    if !long {
                        prefixes.segment = Some(match byte {
                            0x26 => Segment::Es,
                            0x2e => Segment::Cs,
                            0x36 => Segment::Ss,
                            _ => Segment::Ds,
                        });
                    }
                    0
                }
                0x64 => {
                    prefixes.segment = Some(Segment::Fs);
                    0
                }
                0x65 => {
                    prefixes.segment = Some(Segment::Gs);
                    0
                }
                0x66 => OPERAND,
                0x67 => ADDRESS,
                0xf0 => LOCK,
                0xf2 => {
                    prefixes.flags &= !EQUAL;
                    REPEAT
                }
                0xf3 => REPEAT | EQUAL,
                0x40..=0x4f if long => {
                    prefixes.rex = byte;
                    continue;
                }
                _ => return (prefixes, byte),
            };

            prefixes.flags |= flag;
            // A REX prefix that is not the last prefix has no effect.
            prefixes.rex = 0;
        }
    }

    /// 66h is there.
    #[inline(always)]
    pub(super) const fn operand(&self) -> bool {
        self.flags & OPERAND != 0
    }

    /// F0h is there.
    #[inline(always)]
    pub(super) const fn lock(&self) -> bool {
        self.flags & LOCK != 0
    }

    /// F2h or F3h is there.
    #[inline(always)]
    pub(super) const fn repeated(&self) -> bool {
        self.flags & REPEAT != 0
    }

    /// F3h is there, and F2h is not behind it. It tells what ends a repeated comparison.
    #[inline(always)]
    pub(super) const fn while_equal(&self) -> bool {
        self.flags & EQUAL != 0
    }

    /// True in 64-bit mode.
    #[inline(always)]
    pub(super) const fn long(&self) -> bool {
        matches!(self.code, CodeSize::Bits64)
    }

    /// True if there is a REX prefix of any kind.
    #[inline(always)]
    pub(super) const fn has_rex(&self) -> bool {
        self.rex != 0
    }

    /// REX.W.
    #[inline(always)]
    pub(super) const fn rex_w(&self) -> bool {
        self.rex & 8 != 0
    }

    /// REX.R, as bit 3 of a register's number.
    #[inline(always)]
    pub(super) const fn rex_r(&self) -> u8 {
        (self.rex & 4) << 1
    }

    /// REX.X, as bit 3 of a register's number.
    #[inline(always)]
    pub(super) const fn rex_x(&self) -> u8 {
        (self.rex & 2) << 2
    }

    /// REX.B, as bit 3 of a register's number.
    #[inline(always)]
    pub(super) const fn rex_b(&self) -> u8 {
        (self.rex & 1) << 3
    }

    /// Width of operands that are not bytes.
    #[inline(always)]
    pub(super) const fn operand_size(&self) -> Width {
        let small = matches!(self.code, CodeSize::Bits16);

        if self.rex_w() {
            Width::B8
        } else if self.operand() != small {
            Width::B2
        } else {
            Width::B4
        }
    }

    /// Width of addresses.
    #[inline(always)]
    pub(super) const fn address_size(&self) -> Width {
        match (self.code, self.flags & ADDRESS != 0) {
            (CodeSize::Bits64, false) => Width::B8,
            (CodeSize::Bits64, true) | (CodeSize::Bits32, false) | (CodeSize::Bits16, true) => {
                Width::B4
            }
            (CodeSize::Bits32, true) | (CodeSize::Bits16, false) => Width::B2,
        }
    }

    /// The segment of a memory operand whose default is `default`.
    #[inline(always)]
    pub(super) fn segment(&self, default: Segment) -> Segment {
        match self.segment {
            Some(segment) => segment,
            None => default,
        }
    }
}
