// SPDX-License-Identifier: GPL-2.0
//! What is left of a guest that ended without a word: its last exits, registers and stack.

use core::fmt;

use machine::isolation::Reason;

use super::state::Vcpu;
use crate::isolation;
use crate::log;

/// Exits that are kept, a power of two.
const KEPT: usize = 16;
/// Words of the stack that are shown.
const WORDS: u64 = 24;

/// The last exits: code and RIP.
#[derive(Default)]
pub struct Trail {
    exits: [(u64, u64); KEPT],
    count: usize,
}

impl Trail {
    /// Notes an exit. Each exit comes here.
    pub fn note(&mut self, code: u64, rip: u64) {
        self.exits[self.count % KEPT] = (code, rip);
        self.count = self.count.wrapping_add(1);
    }
}

/// The oldest first, as `code@rip`.
impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.count.saturating_sub(KEPT);
        for index in first..self.count {
            let (code, rip) = self.exits[index % KEPT];
            write!(f, " {code:#x}@{rip:#x}")?;
        }
        Ok(())
    }
}

impl Vcpu {
    /// Logs what the guest's debugger would ask for, unless the guest's owner forbids debugging.
    #[cold]
    #[inline(never)]
    pub fn log_remains(&self) {
        isolation::leave(Reason::Report);
        log!("vCPU {}: shutdown {}", self.index, self.registers());
        if !self.world.guest.launched.policy().debug() {
            return;
        }
        log!("vCPU {}: last exits{}", self.index, self.trail);
        let save = &self.vmcb.save;
        let base = if save.long_code() { 0 } else { save.ss.base };
        let stack = self.linear();
        let mut shown = 0;
        for word in 0..WORDS {
            let at = base
                .wrapping_add(save.rsp)
                .wrapping_add(word * size_of::<u64>() as u64);
            let Ok(bytes) = stack.read_implicit(at) else {
                break;
            };
            log!(
                "vCPU {}: stack {at:#x}: {:#x}",
                self.index,
                u64::from_le_bytes(bytes)
            );
            shown += 1;
        }
        let exits = self.trail.count.min(KEPT);
        log!(
            "report remains vcpu={} exits={exits} stack-words={shown}",
            self.index
        );
    }
}
