// SPDX-License-Identifier: GPL-2.0
//! Which instructions a plan has met, and before which of them an NMI came.

/// How many different instructions can be told apart.
const INSTRUCTIONS: usize = 8192;

/// A set of instruction addresses.
pub struct Instructions {
    /// Twice the address; bit 0: covered. 0: free. 1: no longer in use.
    slots: [u64; INSTRUCTIONS],
    /// How many there are.
    pub count: u32,
    /// Those before which an NMI came, or could not.
    pub covered: u32,
    /// Slots that were taken in this occurrence.
    added: [u16; INSTRUCTIONS],
    additions: usize,
}

impl Instructions {
    /// An empty set.
    pub const fn new() -> Self {
        Self {
            slots: [0; INSTRUCTIONS],
            count: 0,
            covered: 0,
            added: [0; INSTRUCTIONS],
            additions: 0,
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.slots.fill(0);
        self.count = 0;
        self.covered = 0;
        self.additions = 0;
    }

    /// An occurrence begins.
    pub fn begin(&mut self) {
        self.additions = 0;
    }

    /// Forgets what only this occurrence met: it went another way than the others.
    pub fn forget(&mut self) {
        for slot in &self.added[..core::mem::take(&mut self.additions)] {
            let slot = &mut self.slots[usize::from(*slot)];
            self.count -= 1;
            self.covered -= (*slot & 1) as u32;
            *slot = 1;
        }
    }

    /// Where an address is, or now is; `None` if there is no room.
    pub fn slot(&mut self, rip: u64) -> Option<usize> {
        let key = rip << 1;
        let start = (rip.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 51) as usize;
        for step in 0..INSTRUCTIONS {
            let slot = (start + step) % INSTRUCTIONS;
            if self.slots[slot] == 0 {
                self.slots[slot] = key;
                self.count += 1;
                self.added[self.additions] = slot as u16;
                self.additions += 1;
                return Some(slot);
            }
            if self.slots[slot] & !1 == key {
                return Some(slot);
            }
        }
        None
    }

    /// Whether an address is in the set and not covered.
    pub fn uncovered(&self, rip: u64) -> bool {
        self.slots.contains(&(rip << 1))
    }

    /// An NMI came before the instruction in a slot, or could not come.
    pub fn cover(&mut self, slot: usize) {
        if self.slots[slot] & 1 == 0 {
            self.slots[slot] |= 1;
            self.covered += 1;
        }
    }
}
