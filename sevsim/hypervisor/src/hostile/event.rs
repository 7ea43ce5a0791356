// SPDX-License-Identifier: GPL-2.0
//! Hostile events: what a host can inject, before any instruction it likes, of user space or of the
//! kernel.

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
    /// NMI, when the guest is open for one.
    Nmi,
    /// NMI at once, whatever the guest is doing.
    RawNmi,
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
            Self::RawNmi => (5 << 28) | (2 << 16),
        }
    }

    /// What such a word says.
    pub fn of_word(word: u32) -> Option<Self> {
        let vector = (word >> 16) as u8;
        let error = word & 0xffff;
        match word >> 28 {
            1 => Some(Self::Vc(error)),
            2 => Some(Self::Interrupt(vector)),
            3 => Some(Self::Exception { vector, error }),
            4 => Some(Self::Nmi),
            5 => Some(Self::RawNmi),
            _ => None,
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

/// One of the error codes of #VC that tell.
pub fn code(random: &mut Random) -> u32 {
    random.pick(&CODES)
}

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

/// Chooses an event for the kernel, and how many instructions of a handler pass before it: up to
/// `depth`, half of the time few. Most are #VCs, of which the guest's handler has to find out that
/// they do not belong to the instruction.
pub fn choose_kernel(random: &mut Random, depth: u64) -> (u64, Event) {
    let depth = if random.one_in(2) {
        depth.min(48)
    } else {
        depth
    };
    let boundary = random.below(depth.max(1));
    let event = match random.below(20) {
        0 => Event::RawNmi,
        1 => Event::Interrupt(0x80),
        2 => match 0x20 + random.below(0xe0) as u8 {
            REBOOT => Event::Interrupt(0x80),
            vector => Event::Interrupt(vector),
        },
        3 => Event::Exception {
            vector: 14,
            error: random.pick(&[0, 1, 2, 3, 4, 6, 7, 0x10, 0x11]),
        },
        4 | 5 => Event::Exception {
            vector: random.pick(&[0, 1, 3, 4, 5, 6, 8, 10, 11, 12, 13, 16, 17, 18, 19]),
            error: random.value() as u32,
        },
        6 => Event::Vc(random.value() as u32),
        _ => Event::Vc(random.pick(&CODES)),
    };
    (boundary, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_vcs_above_all_and_at_each_depth() {
        let mut random = Random::new(1, 2, 3);
        let all: Vec<_> = (0..5000).map(|_| choose_kernel(&mut random, 400)).collect();
        let of = |wanted: fn(&Event) -> bool| all.iter().filter(|(_, e)| wanted(e)).count();
        assert!(of(|event| matches!(event, Event::Vc(_))) > 3000);
        assert!(of(|event| *event == Event::RawNmi) > 100);
        assert!(of(|event| *event == Event::Interrupt(REBOOT)) == 0);
        assert!(all.iter().all(|(boundary, _)| *boundary < 400));
        assert!(all.iter().filter(|(boundary, _)| *boundary < 48).count() > 2500);
        assert!(all.iter().any(|(boundary, _)| *boundary > 390));
        assert_eq!(choose_kernel(&mut random, 0).0, 0);
    }

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
        assert_eq!(Event::RawNmi.word(), 0x5002_0000);
        let all = [
            Event::Vc(0x400),
            Event::Interrupt(0x80),
            fault,
            Event::Nmi,
            Event::RawNmi,
        ];
        for event in all {
            assert_eq!(Event::of_word(event.word() as u32), Some(event));
        }
        assert_eq!(Event::of_word(0), None);
        assert_eq!(Event::of_word(u32::MAX), None);
    }
}
