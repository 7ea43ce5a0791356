// SPDX-License-Identifier: GPL-2.0

//! The tests, and what they share.

mod cost;
mod decoder;
mod defaults;
mod hypervisor;
mod machine;
mod mmio;
mod msr_protocol;
mod native;
mod pairs;
mod ports;
mod registers;
mod replies;
mod step;
mod unicorn;

/// A small generator of pseudo-random numbers (xorshift64*), the same in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
