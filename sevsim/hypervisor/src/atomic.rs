// SPDX-License-Identifier: GPL-2.0
//! Plain values that one vCPU writes and others may look at.
//!
//! Relaxed and without read-modify-write: a locked instruction costs an extra exit from generated
//! code under TCG, and none of these values orders anything else.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A 64-bit value.
#[derive(Default)]
pub struct Word(AtomicU64);

impl Word {
    /// With an initial value.
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds; only for values that a single vCPU writes.
    pub fn add(&self, value: u64) {
        self.set(self.get().wrapping_add(value));
    }
}

/// A flag.
#[derive(Default)]
pub struct Bool(AtomicBool);

impl Bool {
    /// The value.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the value.
    pub fn set(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }
}
