// SPDX-License-Identifier: GPL-2.0
//! Start and reset hold of application processors (GHCB specification 4.3).
//!
//! A SEV-ES vCPU cannot be reset from outside: its state is encrypted. The first INIT and SIPI run
//! it from its VMSA as the launch left it; a later INIT and SIPI only release it from the AP reset
//! hold that it entered by itself. As in KVM a SIPI counts only after an INIT, so the second of the
//! usual two does nothing.
//!
//! One thing differs from KVM. There, INIT and SIPI that reach a vCPU which is still on its way
//! into the hold stop it and set it going again, and the hold that follows waits for ever. A guest
//! that reports an AP as parked just before its VMGEXIT - as Linux and OVMF do - loses that race
//! more often the slower the exits are, and here they are slow. So a SIPI that comes too early is
//! kept, and the next hold returns at once.

/// How an AP reset hold was entered, and so how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// By NAE event; the GHCB is at this GPA.
    Nae(u64),
    /// By the MSR protocol.
    Msr,
}

/// Why a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A SIPI came.
    Sipi,
    /// An NMI has to be delivered; the guest sees that no SIPI came and holds again.
    Nmi,
}

/// INIT, SIPI and hold of one vCPU.
#[derive(Debug)]
pub struct Ap {
    /// INIT came, SIPI not yet.
    init: bool,
    /// The first SIPI came.
    started: bool,
    /// The vCPU has been seen to start.
    running: bool,
    /// A SIPI came that no hold has taken yet.
    wake: bool,
    hold: Option<Hold>,
}

impl Ap {
    /// A vCPU after reset. The first one needs no SIPI.
    pub fn new(bsp: bool) -> Self {
        Self {
            init: false,
            started: bsp,
            running: bsp,
            wake: false,
            hold: None,
        }
    }

    /// INIT. `true` if the vCPU has never run, so that all of its state is reset.
    pub fn init(&mut self) -> bool {
        self.init = true;
        !self.started
    }

    /// SIPI. `true` if the vCPU sleeps and must be kicked.
    pub fn sipi(&mut self) -> bool {
        if !core::mem::take(&mut self.init) {
            return false;
        }
        if !self.started {
            self.started = true;
            return true;
        }
        self.wake = true;
        self.hold.is_some()
    }

    /// Whether the vCPU may run, and whether this is the first time that the answer is yes.
    pub fn may_start(&mut self) -> (bool, bool) {
        let first = self.started && !core::mem::replace(&mut self.running, self.started);
        (self.started, first)
    }

    /// Whether the vCPU has been started, whether or not it runs by now.
    pub fn started(&self) -> bool {
        self.started
    }

    /// The vCPU enters a hold.
    pub fn hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    /// Ends the hold, if there is a reason.
    pub fn release(&mut self, nmi: bool) -> Option<(Hold, Wake)> {
        let hold = self.hold?;
        let wake = if core::mem::take(&mut self.wake) {
            Wake::Sipi
        } else if nmi {
            Wake::Nmi
        } else {
            return None;
        };
        self.hold = None;
        Some((hold, wake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sipi_starts_once() {
        let mut ap = Ap::new(false);
        assert_eq!(ap.may_start(), (false, false));
        assert!(!ap.sipi(), "no INIT yet");
        assert_eq!(ap.may_start(), (false, false));
        assert!(ap.init());
        assert!(ap.sipi());
        assert_eq!(ap.may_start(), (true, true));
        assert_eq!(ap.may_start(), (true, false));
        assert!(!ap.sipi(), "the second SIPI of the pair");
        ap.hold(Hold::Msr);
        assert_eq!(ap.release(false), None, "must not end the first hold");
    }

    #[test]
    fn bsp_runs_at_once() {
        assert_eq!(Ap::new(true).may_start(), (true, false));
    }

    #[test]
    fn later_sipi_releases_the_hold() {
        let mut ap = Ap::new(true);
        ap.hold(Hold::Nae(0x5000));
        assert!(!ap.sipi());
        assert_eq!(ap.release(false), None);
        assert!(!ap.init());
        assert_eq!(ap.release(false), None, "INIT alone does not");
        assert!(ap.sipi());
        assert_eq!(ap.release(false), Some((Hold::Nae(0x5000), Wake::Sipi)));
        assert!(!ap.sipi());
        ap.hold(Hold::Msr);
        assert_eq!(ap.release(false), None, "one SIPI releases one hold");
    }

    #[test]
    fn early_sipi_is_kept_for_the_hold() {
        let mut ap = Ap::new(true);
        ap.init();
        assert!(!ap.sipi(), "it runs: nothing to kick");
        assert_eq!(ap.release(false), None);
        ap.hold(Hold::Msr);
        assert_eq!(ap.release(false), Some((Hold::Msr, Wake::Sipi)));
    }

    #[test]
    fn nmi_ends_the_hold_without_sipi() {
        let mut ap = Ap::new(true);
        ap.hold(Hold::Msr);
        assert_eq!(ap.release(true), Some((Hold::Msr, Wake::Nmi)));
        assert_eq!(ap.release(true), None, "not held");
        ap.hold(Hold::Msr);
        ap.init();
        ap.sipi();
        assert_eq!(
            ap.release(true),
            Some((Hold::Msr, Wake::Sipi)),
            "SIPI goes first"
        );
    }
}
