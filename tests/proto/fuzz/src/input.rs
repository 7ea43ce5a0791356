// SPDX-License-Identifier: GPL-2.0

//! The fuzzer's input as a stream of numbers.

/// Bytes that are left; zeroes follow their end.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// A number, of as many bytes as the first one says: most are short.
    pub(crate) fn number(&mut self) -> u64 {
        let len = [0, 1, 2, 4, 8, 1, 2, 1][usize::from(self.byte() & 7)];

        (0..len).fold(0, |value, n| value | (u64::from(self.byte()) << (8 * n)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
