// SPDX-License-Identifier: GPL-2.0

//! Reading instruction bytes in order.

use super::super::result::Width;
use super::{DecodeError, MAX_INSN_LEN};

/// Position in the bytes of an instruction.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    pub(super) const fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, position: 0 }
    }

    /// Number of bytes read so far.
    #[inline(always)]
    pub(super) const fn position(&self) -> usize {
        self.position
    }

    /// The next byte. An instruction that does not end within 15 bytes is none.
    #[inline(always)]
    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.position >= MAX_INSN_LEN {
            return Err(DecodeError::Unknown);
        }
        match self.bytes.get(self.position) {
            Some(&byte) => {
                self.position = self.position.wrapping_add(1);
                Ok(byte)
            }
            None => Err(DecodeError::Truncated),
        }
    }

    /// A little-endian number of this width, zero-extended.
    #[inline]
    pub(super) fn number(&mut self, width: Width) -> Result<u64, DecodeError> {
        let mut value = 0;
        let mut shift = 0;

        while shift < width.bits() {
            value |= u64::from(self.byte()?).wrapping_shl(shift);
            shift = shift.wrapping_add(8);
        }
        Ok(value)
    }

    /// A little-endian number of this width, sign-extended.
    #[inline]
    pub(super) fn signed(&mut self, width: Width) -> Result<u64, DecodeError> {
        Ok(width.sign_extend(self.number(width)?))
    }
}
