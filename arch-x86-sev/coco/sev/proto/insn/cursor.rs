// SPDX-License-Identifier: GPL-2.0

//! Reading instruction bytes in order.

use super::{
    super::result::Width,
    DecodeError,
    InsnBytes,
    MAX_INSN_LEN, //
};

/// Position in the bytes of an instruction.
pub(super) struct Cursor {
    /// The bytes that are left, the next one lowest.
    rest: u128,
    /// Their number.
    left: usize,
    /// The number of bytes there were.
    len: usize,
}

impl Cursor {
    #[inline(always)]
    pub(super) const fn new(bytes: InsnBytes) -> Cursor {
        Cursor {
            rest: bytes.value,
            left: bytes.len,
            len: bytes.len,
        }
    }

    /// Number of bytes read so far.
    #[inline(always)]
    pub(super) const fn position(&self) -> usize {
        self.len.wrapping_sub(self.left)
    }

    /// Why there are no more bytes: an instruction that does not end within 15 bytes is none.
    #[inline(always)]
    const fn end(&self) -> DecodeError {
        if self.len >= MAX_INSN_LEN {
            DecodeError::Unknown
        } else {
            DecodeError::Truncated
        }
    }

    /// The next byte.
    #[inline(always)]
    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.left == 0 {
            return Err(self.end());
        }

        let byte = self.rest as u8;

        self.rest >>= 8;
        self.left = self.left.wrapping_sub(1);
        Ok(byte)
    }

    /// A little-endian number of this width, zero-extended.
    #[inline(always)]
    pub(super) fn number(&mut self, width: Width) -> Result<u64, DecodeError> {
        let bytes = width.bytes() as usize;

        if self.left < bytes {
            return Err(self.end());
        }

        let value = width.truncate(self.rest as u64);

        self.rest = self.rest.wrapping_shr(width.bits());
        self.left = self.left.wrapping_sub(bytes);
        Ok(value)
    }

    /// A little-endian number of this width, sign-extended.
    #[inline(always)]
    pub(super) fn signed(&mut self, width: Width) -> Result<u64, DecodeError> {
        Ok(width.sign_extend(self.number(width)?))
    }
}
