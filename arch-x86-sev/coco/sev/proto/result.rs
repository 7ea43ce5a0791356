// SPDX-License-Identifier: GPL-2.0

//! Results of emulating an intercepted instruction, and the faults they can carry.

/// Number of bytes that one access to memory, a port or a register moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// One byte.
    B1 = 1,
    /// Two bytes.
    B2 = 2,
    /// Four bytes.
    B4 = 4,
    /// Eight bytes.
    B8 = 8,
}

impl Width {
    /// The number of bytes.
    #[inline(always)]
    pub(crate) const fn bytes(self) -> u64 {
        self as u64
    }

    /// The number of bits.
    #[inline(always)]
    pub(crate) const fn bits(self) -> u32 {
        (self as u32).wrapping_mul(8)
    }

    /// log2 of the number of bytes, for shifts in place of divisions.
    #[inline(always)]
    pub(crate) const fn shift(self) -> u32 {
        (self as u32).trailing_zeros()
    }

    /// All bits of a value of this width set.
    #[inline(always)]
    pub(crate) const fn mask(self) -> u64 {
        u64::MAX.wrapping_shr(64u32.wrapping_sub(self.bits()))
    }

    /// The most significant bit of a value of this width.
    #[inline(always)]
    pub(crate) const fn sign(self) -> u64 {
        1u64.wrapping_shl(self.bits().wrapping_sub(1))
    }

    /// `value` cut to this width.
    #[inline(always)]
    pub(crate) const fn truncate(self, value: u64) -> u64 {
        value & self.mask()
    }

    /// `value` cut to this width and its sign extended to 64 bits.
    #[inline(always)]
    pub(crate) const fn sign_extend(self, value: u64) -> u64 {
        let unused = 64u32.wrapping_sub(self.bits());

        (value.wrapping_shl(unused) as i64).wrapping_shr(unused) as u64
    }
}

/// What an access does; decides permissions and the error code of a page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A data read.
    Read,
    /// A data write, or the write half of a read-modify-write.
    Write,
}

/// Exceptions that emulation can raise in the interrupted context (APM vol. 2, 8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// As wide as what is beside it in `Fault`, which so has no padding and moves in two words.
#[repr(u32)]
pub(crate) enum Vector {
    /// #UD, invalid opcode.
    InvalidOpcode = 6,
    /// #SS, stack segment: a non-canonical or out-of-limit access through SS.
    StackSegment = 12,
    /// #GP, general protection.
    GeneralProtection = 13,
    /// #PF, page fault.
    PageFault = 14,
    /// #AC, alignment check.
    AlignmentCheck = 17,
}

/// An exception to raise at the interrupted instruction, which has had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Faulting address, for [`Vector::PageFault`] only.
    pub(crate) cr2: u64,
    /// Error code, 0 for vectors that have none.
    pub(crate) error_code: u32,
    /// The exception.
    pub(crate) vector: Vector,
}

/// Page-fault error code: the page was present (APM vol. 2, 8.4.2).
pub(crate) const PF_PRESENT: u32 = 1 << 0;
/// Page-fault error code: the access was a write.
pub(crate) const PF_WRITE: u32 = 1 << 1;
/// Page-fault error code: the access came from user mode.
pub(crate) const PF_USER: u32 = 1 << 2;
/// Page-fault error code: the access was an instruction fetch.
pub(crate) const PF_FETCH: u32 = 1 << 4;
/// Page-fault error code: the page's protection key forbids the access.
pub(crate) const PF_KEY: u32 = 1 << 5;

impl Fault {
    /// #GP with error code 0.
    pub(crate) const GP: Fault = Fault {
        cr2: 0,
        error_code: 0,
        vector: Vector::GeneralProtection,
    };

    /// #SS with error code 0.
    pub(crate) const SS: Fault = Fault {
        cr2: 0,
        error_code: 0,
        vector: Vector::StackSegment,
    };

    /// #AC; its error code is always 0.
    pub(crate) const AC: Fault = Fault {
        cr2: 0,
        error_code: 0,
        vector: Vector::AlignmentCheck,
    };

    /// #PF at `address`.
    #[inline(always)]
    pub(crate) const fn page(address: u64, error_code: u32) -> Fault {
        Fault {
            cr2: address,
            error_code,
            vector: Vector::PageFault,
        }
    }
}

/// Why an instruction was not emulated. The names are those of C's `enum es_result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// The request is understood but not supported.
    Unsupported,
    /// The hypervisor broke the protocol, or offers what it must not.
    Vmm,
    /// The instruction bytes are not an instruction that can cause this exit.
    DecodeFailed,
    /// The instruction causes an exception.
    Exception(Fault),
}

impl From<Fault> for Error {
    #[inline(always)]
    fn from(fault: Fault) -> Self {
        Error::Exception(fault)
    }
}

/// A result of the core.
pub(crate) type Result<T = ()> = core::result::Result<T, Error>;

/// How far an exit handler came with the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The instruction is complete.
    Complete,
    /// Some iterations of a repeated string instruction are complete and more are left.
    Partial,
}

/// What the environment has to do after `exit::handle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The registers, RIP included, are those after the instruction. Return to the interrupted
    /// context.
    Done {
        /// The instruction ran with RFLAGS.TF set: a single-step #DB trap is pending and must be
        /// raised before the next instruction (DR6.BS set).
        single_step: bool,
    },
    /// Part of a repeated string instruction is complete; RIP is unchanged, so that returning
    /// continues it.
    Retry {
        /// As for `Done`: RFLAGS.TF traps after every iteration.
        single_step: bool,
    },
    /// Nothing was done; raise this exception.
    Exception(Fault),
    /// See [`Error::Unsupported`].
    Unsupported,
    /// See [`Error::Vmm`].
    VmmError,
    /// See [`Error::DecodeFailed`].
    DecodeFailed,
}

impl Outcome {
    /// The value of C's `enum es_result`.
    #[inline(always)]
    pub(crate) const fn es_result(self) -> u32 {
        match self {
            Outcome::Done { .. } => 0,
            Outcome::Unsupported => 1,
            Outcome::VmmError => 2,
            Outcome::DecodeFailed => 3,
            Outcome::Exception(_) => 4,
            Outcome::Retry { .. } => 5,
        }
    }
}

impl From<Error> for Outcome {
    #[inline(always)]
    fn from(error: Error) -> Self {
        match error {
            Error::Unsupported => Outcome::Unsupported,
            Error::Vmm => Outcome::VmmError,
            Error::DecodeFailed => Outcome::DecodeFailed,
            Error::Exception(fault) => Outcome::Exception(fault),
        }
    }
}
