// SPDX-License-Identifier: GPL-2.0

//! Legacy prefixes and REX (APM vol. 3, 1.2).

use super::super::result::Width;
use super::{
    cursor::Cursor,
    CodeSize,
    DecodeError,
    Segment, //
};

/// The prefixes of an instruction, and the code segment's size that they modify.
#[derive(Clone, Copy)]
pub(super) struct Prefixes {
    code: CodeSize,
    /// 66h.
    pub(super) operand: bool,
    /// 67h.
    address: bool,
    /// F0h.
    pub(super) lock: bool,
    /// F3h, unless F2h came later.
    pub(super) rep: bool,
    /// F2h, unless F3h came later.
    pub(super) repne: bool,
    /// Segment override.
    segment: Option<Segment>,
    /// REX, 0 if there is none.
    rex: u8,
}

impl Prefixes {
    /// Reads the prefixes and returns them with the first byte of the opcode.
    #[inline(always)]
    pub(super) fn read(cursor: &mut Cursor, code: CodeSize) -> Result<(Prefixes, u8), DecodeError> {
        let long = matches!(code, CodeSize::Bits64);
        let mut prefixes = Prefixes {
            code,
            operand: false,
            address: false,
            lock: false,
            rep: false,
            repne: false,
            segment: None,
            rex: 0,
        };

        loop {
            let byte = cursor.byte()?;

            match byte {
                0x26 => prefixes.legacy_segment(Segment::Es),
                0x2e => prefixes.legacy_segment(Segment::Cs),
                0x36 => prefixes.legacy_segment(Segment::Ss),
                0x3e => prefixes.legacy_segment(Segment::Ds),
                0x64 => prefixes.segment = Some(Segment::Fs),
                0x65 => prefixes.segment = Some(Segment::Gs),
                0x66 => prefixes.operand = true,
                0x67 => prefixes.address = true,
                0xf0 => prefixes.lock = true,
                0xf2 => {
                    prefixes.repne = true;
                    prefixes.rep = false;
                }
                0xf3 => {
                    prefixes.rep = true;
                    prefixes.repne = false;
                }
                0x40..=0x4f if long => {
                    prefixes.rex = byte;
                    continue;
                }
                _ => return Ok((prefixes, byte)),
            }
            // A REX prefix that is not the last prefix has no effect.
            prefixes.rex = 0;
        }
    }

    /// ES, CS, SS and DS overrides do nothing in 64-bit mode, not even undo FS or GS.
    #[inline(always)]
    fn legacy_segment(&mut self, segment: Segment) {
        if !matches!(self.code, CodeSize::Bits64) {
            self.segment = Some(segment);
        }
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
        } else if self.operand != small {
            Width::B2
        } else {
            Width::B4
        }
    }

    /// Width of the operand of an opcode whose lowest bit tells bytes from larger ones.
    #[inline(always)]
    pub(super) const fn width(&self, opcode: u8) -> Width {
        if opcode & 1 == 0 {
            Width::B1
        } else {
            self.operand_size()
        }
    }

    /// Width of addresses.
    #[inline(always)]
    pub(super) const fn address_size(&self) -> Width {
        match (self.code, self.address) {
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
