// SPDX-License-Identifier: GPL-2.0
//! The NMI window of a SEV-ES guest.
//!
//! The hypervisor cannot see the guest's IRET, so NMIs stay masked from injection until the guest's
//! NMI_COMPLETE (GHCB specification: NMI Complete), which opens the window at once: the next NMI
//! may be injected at the very VMRUN that returns from it.

use core::sync::atomic::{AtomicU8, Ordering};

/// Set from the injection of an NMI to its NMI_COMPLETE.
const MASKED: u8 = 0x80;

/// Pending NMIs (low bits) and the mask.
#[derive(Default)]
pub struct Nmi(AtomicU8);

impl Nmi {
    /// One more NMI. As in hardware one stays latched behind the one in service; as in KVM two may
    /// wait while none is in service, for the second would be latched by the time it comes.
    ///
    /// False if there is no room for it: it merges with one that waits.
    pub fn arrive(&self) -> bool {
        self.update(|state| {
            let limit = if state & MASKED != 0 { 1 } else { 2 };
            ((state & !MASKED) < limit).then_some(state + 1)
        })
    }

    /// Whether the window is open.
    pub fn open(&self) -> bool {
        self.0.load(Ordering::Relaxed) & MASKED == 0
    }

    /// Whether [`take`](Self::take) would give an NMI.
    pub fn ready(&self) -> bool {
        let state = self.0.load(Ordering::Relaxed);
        state != 0 && state & MASKED == 0
    }

    /// Takes an NMI for injection and closes the window.
    pub fn take(&self) -> bool {
        // Asked before each VMRUN: nearly always one load.
        self.ready()
            && self
                .update(|state| (state != 0 && state & MASKED == 0).then(|| (state - 1) | MASKED))
    }

    /// Opens the window.
    pub fn complete(&self) {
        self.0.fetch_and(!MASKED, Ordering::AcqRel);
    }

    /// Forgets pending NMIs and opens the window: INIT of a vCPU that has not run yet.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn update(&self, change: impl Fn(u8) -> Option<u8>) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_from_injection_until_complete_then_open_at_once() {
        let nmi = Nmi::default();
        assert!(!nmi.take());
        assert!(nmi.arrive());
        assert!(nmi.ready() && nmi.open());
        assert!(nmi.take());
        assert!(!nmi.open());
        assert!(nmi.arrive());
        assert!(!nmi.arrive(), "one is latched, the next one merges with it");
        assert!(!nmi.ready() && !nmi.take(), "the window is closed");
        nmi.complete();
        assert!(nmi.open());
        assert!(
            nmi.ready() && nmi.take(),
            "the latched one follows without a further exit"
        );
        nmi.complete();
        assert!(!nmi.take(), "and no more");
    }

    #[test]
    fn two_wait_when_open_one_when_closed() {
        let count = |nmi: &Nmi| {
            let mut n = 0;
            while nmi.take() {
                nmi.complete();
                n += 1;
            }
            n
        };
        let nmi = Nmi::default();
        let arrived = (0..5).filter(|_| nmi.arrive()).count();
        assert_eq!((arrived, count(&nmi)), (2, 2));
        nmi.arrive();
        assert!(nmi.take());
        assert_eq!((0..5).filter(|_| nmi.arrive()).count(), 1);
        nmi.complete();
        assert_eq!(count(&nmi), 1);
    }

    #[test]
    fn complete_without_nmi_is_harmless() {
        let nmi = Nmi::default();
        nmi.complete();
        assert!(!nmi.ready());
    }
}
