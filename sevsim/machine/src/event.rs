// SPDX-License-Identifier: GPL-2.0
//! Events: injection, deliveries that an exit cut short, and exceptions that meet (APM vol. 2,
//! 15.20, 15.7.2 and 8.2.9).

/// An event that the processor delivers through the guest's IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// External interrupt.
    Interrupt(u8),
    /// Non-maskable interrupt.
    Nmi,
    /// Exception with its error code, where it has one.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code.
        error: Option<u32>,
    },
}

/// The field is valid.
const VALID: u32 = 1 << 31;
/// The event has an error code.
const HAS_ERROR: u32 = 1 << 11;
/// Type of an external interrupt.
const INTERRUPT: u32 = 0 << 8;
/// Type of an NMI.
const NMI: u32 = 2 << 8;
/// Type of an exception.
const EXCEPTION: u32 = 3 << 8;
/// Bits of the type.
const TYPE: u32 = 7 << 8;

/// Vector of page faults.
pub const PAGE_FAULT: u8 = 14;

/// All exceptions that [`Event::critical`] can name.
pub const CRITICAL: u32 = {
    let mut mask = 1 << PAGE_FAULT;
    let mut vector = 0;
    while vector < EXCEPTIONS {
        if matches!(Class::of(vector), Class::Contributory) {
            mask |= 1 << vector;
        }
        vector += 1;
    }
    mask
};

/// Vector of NMIs.
const NMI_VECTOR: u8 = 2;
/// Vectors from here on are no exceptions.
const EXCEPTIONS: u8 = 32;

impl Event {
    /// Invalid opcode.
    pub const UD: Self = Self::Exception {
        vector: 6,
        error: None,
    };
    /// General protection with error code 0.
    pub const GP: Self = Self::Exception {
        vector: 13,
        error: Some(0),
    };
    /// Double fault.
    pub const DF: Self = Self::Exception {
        vector: 8,
        error: Some(0),
    };

    /// An exception of the processor's, with `error` as its error code if it has one (APM vol. 2,
    /// table 8-1).
    pub fn fault(vector: u8, error: u32) -> Self {
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
        Self::Exception {
            vector,
            error: has_error.then_some(error),
        }
    }

    /// The EVENTINJ field and its error code.
    pub fn encode(self) -> (u32, u32) {
        match self {
            Self::Interrupt(vector) => (VALID | INTERRUPT | u32::from(vector), 0),
            Self::Nmi => (VALID | NMI | u32::from(NMI_VECTOR), 0),
            Self::Exception {
                vector,
                error: None,
            } => (VALID | EXCEPTION | u32::from(vector), 0),
            Self::Exception {
                vector,
                error: Some(error),
            } => (VALID | HAS_ERROR | EXCEPTION | u32::from(vector), error),
        }
    }

    /// The event whose delivery an exit cut short, from EXITINTINFO and its error code: it is to
    /// be injected when the guest continues.
    ///
    /// A software interrupt is none: RIP is still at the instruction, which is executed again.
    /// QEMU gives external interrupts the type of exceptions; their vectors tell them apart, but
    /// for vectors below 32, which no guest of today gives to a device.
    pub fn interrupted(info: u32, error: u32) -> Option<Self> {
        if info & VALID == 0 {
            return None;
        }
        let vector = info as u8;
        match info & TYPE {
            INTERRUPT => Some(Self::Interrupt(vector)),
            NMI => Some(Self::Nmi),
            EXCEPTION if vector == NMI_VECTOR => Some(Self::Nmi),
            EXCEPTION if vector >= EXCEPTIONS => Some(Self::Interrupt(vector)),
            EXCEPTION => Some(Self::Exception {
                vector,
                error: (info & HAS_ERROR != 0).then_some(error),
            }),
            _ => None,
        }
    }

    /// What comes of an exception `vector` that occurs while this event is delivered.
    pub fn meets(self, vector: u8) -> Meeting {
        let Self::Exception { vector: first, .. } = self else {
            return Meeting::Second;
        };
        match (Class::of(first), Class::of(vector)) {
            (Class::Abort, Class::Contributory | Class::PageFault) => Meeting::Shutdown,
            (Class::Contributory | Class::PageFault, Class::Contributory)
            | (Class::PageFault, Class::PageFault) => Meeting::DoubleFault,
            _ => Meeting::Second,
        }
    }

    /// Exceptions that, if they occur while this event is delivered, are not simply taken
    /// instead: one bit a vector, for the exception intercepts.
    pub fn critical(self) -> u32 {
        let combines = |vector: &u8| self.meets(*vector) != Meeting::Second;
        (0..EXCEPTIONS)
            .filter(combines)
            .fold(0, |mask, vector| mask | (1 << vector))
    }
}

/// What two exceptions make of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// The second is delivered; the first is found again if its instruction is restarted.
    Second,
    /// A double fault.
    DoubleFault,
    /// The processor shuts down.
    Shutdown,
}

/// Classes of exceptions (APM vol. 2, table 8-2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    Abort,
}

impl Class {
    const fn of(vector: u8) -> Self {
        match vector {
            // #DE, #TS, #NP, #SS, #GP, #CP, #VC, #SX.
            0 | 10..=13 | 21 | 29 | 30 => Self::Contributory,
            PAGE_FAULT => Self::PageFault,
            8 => Self::Abort,
            _ => Self::Benign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PF: Event = Event::Exception {
        vector: 14,
        error: Some(6),
    };

    #[test]
    fn events_encode_as_the_manual_says() {
        assert_eq!(Event::fault(13, 0), Event::GP);
        assert_eq!(Event::fault(6, 1), Event::UD);
        for (event, field) in [
            (Event::Nmi, (0x8000_0202, 0)),
            (Event::Interrupt(0xec), (0x8000_00ec, 0)),
            (Event::UD, (0x8000_0306, 0)),
            (Event::GP, (0x8000_0b0d, 0)),
            (PF, (0x8000_0b0e, 6)),
        ] {
            assert_eq!(event.encode(), field);
            assert_eq!(Event::interrupted(field.0, field.1), Some(event));
        }
    }

    #[test]
    fn interrupted_deliveries() {
        for (info, event) in [
            (0, None),
            // Delivered: QEMU leaves the rest of the field.
            (0x0000_0b0e, None),
            (0x0000_0202, None),
            // INT n, INT3 and INTO execute again.
            (0x8000_0480, None),
            (0x8000_0403, None),
            // An external interrupt by QEMU's naming.
            (0x8000_03ec, Some(Event::Interrupt(0xec))),
            (0x8000_0320, Some(Event::Interrupt(0x20))),
            (0x8000_0302, Some(Event::Nmi)),
            // A trap, which would not come again by itself.
            (
                0x8000_0301,
                Some(Event::Exception {
                    vector: 1,
                    error: None,
                }),
            ),
            (0x8000_0b0e, Some(PF)),
        ] {
            assert_eq!(Event::interrupted(info, 6), event, "{info:#x}");
        }
    }

    #[test]
    fn exceptions_meet_as_in_the_table() {
        let first = |vector| Event::Exception {
            vector,
            error: None,
        };
        for (event, second, want) in [
            (first(0), 13, Meeting::DoubleFault),
            (first(13), 29, Meeting::DoubleFault),
            (first(29), 13, Meeting::DoubleFault),
            (first(13), 14, Meeting::Second),
            (first(14), 14, Meeting::DoubleFault),
            (first(14), 10, Meeting::DoubleFault),
            (first(14), 6, Meeting::Second),
            (first(6), 14, Meeting::Second),
            (first(3), 29, Meeting::Second),
            (first(8), 14, Meeting::Shutdown),
            (first(8), 29, Meeting::Shutdown),
            (first(8), 6, Meeting::Second),
            (Event::Nmi, 14, Meeting::Second),
            (Event::Interrupt(13), 13, Meeting::Second),
        ] {
            assert_eq!(event.meets(second), want, "{event:?} {second}");
        }
    }

    #[test]
    fn critical_exceptions_are_those_that_would_combine() {
        let contributory = (1 << 0) | (0xf << 10) | (1 << 21) | (1 << 29) | (1 << 30);
        assert_eq!(Event::UD.critical(), 0);
        assert_eq!(Event::Interrupt(0x30).critical(), 0);
        assert_eq!(Event::GP.critical(), contributory);
        assert_eq!(PF.critical(), contributory | (1 << 14));
        assert_eq!(Event::DF.critical(), CRITICAL);
        assert_eq!(CRITICAL, contributory | (1 << 14));
    }
}
