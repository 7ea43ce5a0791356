// SPDX-License-Identifier: GPL-2.0

//! ModRM, SIB and displacement (APM vol. 3, 1.4 and 1.5).

use super::super::{
    regs::Gpr,
    result::Width, //
};
use super::{
    cursor::Cursor,
    prefix::Prefixes,
    Base,
    Memory,
    Register,
    Segment, //
};

/// A ModRM byte.
#[derive(Clone, Copy)]
pub(super) struct ModRm(pub(super) u8);

impl ModRm {
    /// ModRM.mod == 3: the operand is a register.
    #[inline(always)]
    pub(super) const fn is_register(self) -> bool {
        self.0 >= 0xc0
    }

    /// ModRM.reg, without REX.R: an extension of the opcode.
    #[inline(always)]
    pub(super) const fn extension(self) -> u8 {
        (self.0 >> 3) & 7
    }

    /// ModRM.reg as a register number.
    #[inline(always)]
    pub(super) const fn reg(self, prefixes: &Prefixes) -> u8 {
        self.extension() | prefixes.rex_r()
    }

    /// ModRM.rm as the number of a register.
    #[inline(always)]
    pub(super) const fn rm(self, prefixes: &Prefixes) -> u8 {
        (self.0 & 7) | prefixes.rex_b()
    }

    /// ModRM.reg as a register operand of this width.
    #[inline(always)]
    pub(super) fn register(self, prefixes: &Prefixes, width: Width) -> Register {
        let number = self.reg(prefixes);
        // Without REX, byte registers 4 to 7 are AH, CH, DH and BH.
        let high = width == Width::B1 && !prefixes.has_rex() && number >= 4;

        Register {
            gpr: Gpr::new(if high { number & 3 } else { number }),
            high,
        }
    }

    /// Reads the rest of the memory operand that this byte begins. Not for register operands.
    #[inline(always)]
    pub(super) fn memory(self, cursor: &mut Cursor, prefixes: &Prefixes) -> Memory {
        let (mut memory, displacement) = match prefixes.address_size() {
            Width::B2 => self.memory16(),
            _ => self.memory32(cursor, prefixes),
        };

        if let Base::Gpr(Gpr::RSP | Gpr::RBP) = memory.base {
            memory.segment = Segment::Ss;
        }
        memory.segment = prefixes.segment(memory.segment);
        if let Some(width) = displacement {
            memory.displacement = cursor.signed(width);
        }
        memory
    }

    /// A memory operand with 32- or 64-bit addresses, and the width of its displacement.
    #[inline(always)]
    fn memory32(self, cursor: &mut Cursor, prefixes: &Prefixes) -> (Memory, Option<Width>) {
        let mut rm = self.0 & 7;
        let sib = rm == 4;
        let mut index = None;
        let mut scale = 0;

        if sib {
            let byte = cursor.byte();
            let number = ((byte >> 3) & 7) | prefixes.rex_x();

            // RSP cannot be an index; R12 can.
            if number != 4 {
                index = Some(Gpr::new(number));
                scale = byte >> 6;
            }
            rm = byte & 7;
        }

        let (base, displacement) = match (self.0 >> 6, rm) {
            // RBP and R13 without displacement do not exist: no base, or RIP.
            (0, 5) if prefixes.long() && !sib => (Base::Rip, Some(Width::B4)),
            (0, 5) => (Base::None, Some(Width::B4)),
            (0, _) => (Base::Gpr(Gpr::new(rm | prefixes.rex_b())), None),
            (1, _) => (Base::Gpr(Gpr::new(rm | prefixes.rex_b())), Some(Width::B1)),
            _ => (Base::Gpr(Gpr::new(rm | prefixes.rex_b())), Some(Width::B4)),
        };

        (Memory::new(base, index, scale), displacement)
    }

    /// A memory operand with 16-bit addresses, and the width of its displacement.
    #[cold]
    #[inline(never)]
    fn memory16(self) -> (Memory, Option<Width>) {
        let rm = self.0 & 7;
        let base = match rm {
            0 | 1 | 7 => Base::Gpr(Gpr::RBX),
            2 | 3 | 6 => Base::Gpr(Gpr::RBP),
            4 => Base::Gpr(Gpr::RSI),
            _ => Base::Gpr(Gpr::RDI),
        };
        let index = match rm {
            0 | 2 => Some(Gpr::RSI),
            1 | 3 => Some(Gpr::RDI),
            _ => None,
        };
        let (base, displacement) = match (self.0 >> 6, rm) {
            (0, 6) => (Base::None, Some(Width::B2)),
            (0, _) => (base, None),
            (1, _) => (base, Some(Width::B1)),
            _ => (base, Some(Width::B2)),
        };

        (Memory::new(base, index, 0), displacement)
    }
}
