// SPDX-License-Identifier: GPL-2.0

//! Reading instruction bytes in order.

use super::{
    super::result::Width,
    InsnBytes, //
};

/// Position in the bytes of an instruction.
///
/// Reading never fails: what is behind the bytes that there are is arbitrary, and
/// [`Cursor::position`] tells that it was read. So there is one check, at the end.
pub(super) struct Cursor {
    /// The next eight bytes, the first one lowest.
    next: u64,
    /// The bytes after them.
    later: u64,
    /// Number of bytes read.
    position: usize,
}

impl Cursor {
    #[inline(always)]
    pub(super) const fn new(bytes: InsnBytes) -> Cursor {
        Cursor {
            next: bytes.value as u64,
            later: (bytes.value >> 64) as u64,
            position: 0,
        }
    }

    /// Number of bytes read so far.
    #[inline(always)]
    pub(super) const fn position(&self) -> usize {
        self.position
    }

    /// The next byte.
    #[inline(always)]
    pub(super) fn byte(&mut self) -> u8 {
        let byte = self.next as u8;

        self.next = (self.next >> 8) | (self.later << 56);
        self.later >>= 8;
        self.position = self.position.wrapping_add(1);
        byte
    }

    /// A little-endian number of this width, sign-extended.
    #[inline(never)]
    pub(super) fn signed(&mut self, width: Width) -> u64 {
        let value = width.sign_extend(self.next);

        self.next = match width {
            Width::B8 => self.later,
            // The two shifts never reach 64.
            _ => {
                self.next.wrapping_shr(width.bits())
                    | self.later.wrapping_shl(64u32.wrapping_sub(width.bits()))
            }
        };
        self.later = match width {
            Width::B8 => 0,
            _ => self.later.wrapping_shr(width.bits()),
        };
        self.position = self.position.wrapping_add(width.bytes() as usize);
        value
    }
}
