// SPDX-License-Identifier: GPL-2.0
//! The way that one execution took, so that a later one can be stopped at a given boundary of it.

/// Boundaries that can be noted.
const LENGTH: usize = 1 << 15;

/// The boundaries of one execution, in order.
pub struct Trace {
    /// Twice the address of the instruction behind the boundary; bit 0: NMIs are masked there.
    words: [u64; LENGTH],
    len: usize,
}

impl Trace {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            words: [0; LENGTH],
            len: 0,
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// One more; false if there is no room.
    pub fn push(&mut self, rip: u64, open: bool) -> bool {
        match self.words.get_mut(self.len) {
            Some(word) => *word = (rip << 1) | u64::from(!open),
            None => return false,
        }
        self.len += 1;
        true
    }

    /// The first boundary from `at` on at which NMIs are not masked.
    pub fn open_from(&self, at: usize) -> Option<usize> {
        (at..self.len).find(|at| self.words[*at] & 1 == 0)
    }

    /// Address of a boundary, and the how manieth time it is met there, from 1.
    pub fn place(&self, at: usize) -> (u64, u32) {
        let word = self.words[at] >> 1;
        let before = self.words[..at].iter().filter(|other| **other >> 1 == word);
        // The sign of a canonical address was shifted out.
        (
            (self.words[at] as i64 >> 1) as u64,
            before.count() as u32 + 1,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_visits() {
        let mut trace = Box::new(Trace::new());
        for rip in [0xffff_ffff_8100_0000, 0x40_0000, 0xffff_ffff_8100_0000] {
            assert!(trace.push(rip, true));
        }
        assert!(trace.push(0x40_0000, false));
        assert_eq!(trace.place(0), (0xffff_ffff_8100_0000, 1));
        assert_eq!(trace.place(1), (0x40_0000, 1));
        assert_eq!(trace.place(2), (0xffff_ffff_8100_0000, 2));
        assert_eq!(trace.place(3), (0x40_0000, 2), "masked visits count");
        assert_eq!(trace.open_from(3), None);
        assert_eq!(trace.open_from(1), Some(1));
    }

    #[test]
    fn there_is_an_end() {
        let mut trace = Box::new(Trace::new());
        assert!((0..LENGTH as u64).all(|rip| trace.push(rip, true)));
        assert!(!trace.push(0, true));
        trace.clear();
        assert_eq!(trace.open_from(0), None);
        assert!(trace.push(7, true));
    }
}
