// SPDX-License-Identifier: GPL-2.0
//! Hostile events: what a host can inject, before any instruction it likes.

use super::random::Random;

/// An event to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// #VC with this error code.
    Vc(u32),
    /// External interrupt.
    Interrupt(u8),
    /// Exception, with this error code if it has one.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code.
        error: u32,
    },
    /// NMI.
    Nmi,
}

impl Event {
    /// As the test port tells it: kind in bits 31:28, vector in bits 23:16, and of #VC and
    /// exceptions the lower half of the error code.
    pub fn word(self) -> u64 {
        match self {
            Self::Vc(code) => (1 << 28) | (29 << 16) | u64::from(code & 0xffff),
            Self::Interrupt(vector) => (2 << 28) | (u64::from(vector) << 16),
            Self::Exception { vector, error } => {
                (3 << 28) | (u64::from(vector) << 16) | u64::from(error & 0xffff)
            }
            Self::Nmi => (4 << 28) | (2 << 16),
        }
    }
}

/// Error codes of #VC: the exits that guests know, neighbours of theirs, and nonsense.
const CODES: [u32; 27] = [
    0x27,
    0x37,
    0x41,
    0x51,
    0x6e,
    0x6f,
    0x72,
    0x76,
    0x7b,
    0x7b,
    0x7b,
    0x7c,
    0x7c,
    0x81,
    0x87,
    0x89,
    0x8a,
    0x8b,
    0x400,
    0x400,
    0x400,
    0x400,
    0x404,
    0x26,
    0x400_0000,
    0x8000_0001,
    0x8000_0003,
];

/// Interrupts that end or stop a Linux guest by their nature, which a host can do anyway: the one
/// for reboots.
const REBOOT: u8 = 0xf8;

/// Chooses an event.
///
/// No #DF and #MC, which are fatal by their nature, and no #NM, which cannot be raised by a guest
/// that does not use CR0.TS. Page faults claim user mode, as do those that the hardware raises.
pub fn choose(random: &mut Random) -> Event {
    match random.below(20) {
        0 => Event::Nmi,
        1 | 2 => Event::Interrupt(0x80),
        3 | 4 => match 0x20 + random.below(0xe0) as u8 {
            REBOOT => Event::Interrupt(0x80),
            vector => Event::Interrupt(vector),
        },
        5 => Event::Exception {
            vector: 14,
            error: 4 | random.pick(&[0, 1, 2, 3, 0x10, 0x11]),
        },
        6..=8 => Event::Exception {
            vector: random.pick(&[0, 1, 3, 4, 5, 6, 9, 10, 11, 12, 13, 16, 17, 19]),
            error: random.value() as u32,
        },
        9 => Event::Vc(random.value() as u32),
        _ => Event::Vc(random.pick(&CODES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_come_and_none_that_only_ends_the_guest() {
        let mut random = Random::new(1, 2, 3);
        let events: Vec<_> = (0..5000).map(|_| choose(&mut random)).collect();
        let any = |wanted: fn(&Event) -> bool| events.iter().any(wanted);
        assert!(any(|event| matches!(event, Event::Vc(0x400))));
        assert!(any(|event| matches!(event, Event::Interrupt(0x80))));
        assert!(any(|event| matches!(event, Event::Interrupt(0xff))));
        assert!(any(|event| matches!(
            event,
            Event::Exception { vector: 14, .. }
        )));
        assert!(any(|event| *event == Event::Nmi));
        assert!(!any(|event| matches!(event, Event::Interrupt(REBOOT))));
        let fatal = [7, 8, 18];
        assert!(!events.iter().any(|event| match event {
            Event::Exception { vector, .. } => fatal.contains(vector),
            Event::Interrupt(vector) => *vector < 32,
            _ => false,
        }));
    }

    #[test]
    fn words_of_the_test_port() {
        assert_eq!(Event::Vc(0x400).word(), 0x101d_0400);
        assert_eq!(Event::Interrupt(0x80).word(), 0x2080_0000);
        let fault = Event::Exception {
            vector: 14,
            error: 6,
        };
        assert_eq!(fault.word(), 0x300e_0006);
        assert_eq!(Event::Nmi.word(), 0x4002_0000);
    }
}
