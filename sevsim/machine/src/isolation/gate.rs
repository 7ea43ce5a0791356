// SPDX-License-Identifier: GPL-2.0
//! Siblings: while one CPU runs in the full space, none that shares its caches may run a guest.
//!
//! In KVM's proposal these are the hyperthreads of a core. Here all vCPUs of the VM count as such:
//! the machine does not say which CPUs share a core, and this is the worst case. A CPU that leaves
//! tells ("kicks") those that are in the guest, and waits until they are out before it maps
//! anything more. Each of them waits before its next entry until no one is outside. So no
//! instruction of the guest is executed while a sibling has the full space.
//!
//! Neither waits for the other: who is to come out of the guest waits for nobody on that way, and
//! who waits to enter counts as out.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;

/// One bit a vCPU in each word.
#[derive(Debug, Default)]
pub struct Gate {
    /// In the full space.
    outside: AtomicU32,
    /// In the guest, or about to be.
    guest: AtomicU32,
}

impl Gate {
    /// All inside, none in the guest.
    pub const fn new() -> Self {
        Self {
            outside: AtomicU32::new(0),
            guest: AtomicU32::new(0),
        }
    }

    /// A vCPU's CPU is about to leave. The siblings to kick, one bit each.
    ///
    /// Either a sibling that is about to enter the guest sees this CPU outside, or it is among
    /// those that are kicked: both sides write their own word before they read the other's.
    #[must_use]
    pub fn leave(&self, vcpu: usize) -> u32 {
        self.outside.fetch_or(1 << vcpu, Ordering::SeqCst);
        self.guest.load(Ordering::SeqCst) & !(1 << vcpu)
    }

    /// Which of the siblings that [`Gate::leave`] named are still in the guest. None has to be
    /// before the full space is loaded; those who are out do not come back.
    #[must_use]
    pub fn still_in_guest(&self, siblings: u32) -> u32 {
        self.guest.load(Ordering::SeqCst) & siblings
    }

    /// It is inside again.
    pub fn enter(&self, vcpu: usize) {
        self.outside.fetch_and(!(1 << vcpu), Ordering::SeqCst);
    }

    /// Whether a vCPU may enter the guest now; if so it counts as there. Ask again if not.
    #[must_use]
    pub fn may_run(&self, vcpu: usize) -> bool {
        // Who asks again and again must not look as if it were in the guest.
        if self.outside.load(Ordering::SeqCst) != 0 {
            return false;
        }
        self.guest.fetch_or(1 << vcpu, Ordering::SeqCst);
        let free = self.outside.load(Ordering::SeqCst) == 0;
        if !free {
            self.stopped(vcpu);
        }
        free
    }

    /// The guest's exit.
    pub fn stopped(&self, vcpu: usize) {
        self.guest.fetch_and(!(1 << vcpu), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_in_the_guest_are_kicked_and_wait() {
        let gate = Gate::new();
        assert!(gate.may_run(0) && gate.may_run(2) && gate.may_run(3));
        gate.stopped(0);
        assert_eq!(gate.leave(0), 0b1100);
        // The kick brings one out.
        gate.stopped(2);
        assert_eq!(gate.still_in_guest(0b1100), 0b1000);
        assert!(!gate.may_run(2), "vCPU 0 is outside");
        assert_eq!(gate.leave(1), 0b1000, "vCPU 2 is in the guest no more");
        gate.enter(0);
        assert!(!gate.may_run(2), "vCPU 1 is outside");
        gate.enter(1);
        assert!(gate.may_run(2));
    }

    #[test]
    fn a_cpu_does_not_enter_the_guest_from_outside() {
        let gate = Gate::new();
        assert_eq!(gate.leave(0), 0);
        assert!(!gate.may_run(0));
    }

    #[test]
    fn no_guest_runs_while_someone_is_outside() {
        const ROUNDS: usize = 20_000;
        let gate = Gate::new();
        // What the CPU outside has mapped, and what the guest would see of it.
        let mapped = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let kicks = gate.leave(0);
                    while gate.still_in_guest(kicks) != 0 {
                        std::hint::spin_loop();
                    }
                    mapped.store(1, Ordering::SeqCst);
                    mapped.store(0, Ordering::SeqCst);
                    gate.enter(0);
                }
            });
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    while !gate.may_run(1) {
                        std::hint::spin_loop();
                    }
                    assert_eq!(mapped.load(Ordering::SeqCst), 0, "the guest runs");
                    gate.stopped(1);
                }
            });
        });
    }
}
