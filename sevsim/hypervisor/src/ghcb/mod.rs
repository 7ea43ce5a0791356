// SPDX-License-Identifier: GPL-2.0
//! The GHCB of one VMGEXIT: a snapshot of what the guest asks, and the reply under construction.
//!
//! The page is shared with the guest, which may change it at any time: each field is read at most
//! once per exit, and what was read is what is both checked and used.

pub mod layout;
pub mod scratch;
pub mod validate;

use crate::platform::{NotRam, Platform, Use};

use layout::{Field, Valid};

/// SW_EXITINFO1 of a reply (GHCB specification, table 4): no action for the guest.
pub const RESPONSE_NONE: u64 = 0;
/// SW_EXITINFO1: the guest is to raise the exception that SW_EXITINFO2 holds in EVENTINJ's format.
pub const RESPONSE_EXCEPTION: u64 = 1;
/// SW_EXITINFO1: the request was malformed, SW_EXITINFO2 says how ([`BadInput`]).
pub const RESPONSE_MALFORMED: u64 = 2;

/// SW_EXITINFO2 codes of a malformed request (GHCB specification, table 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum BadInput {
    /// The GHCB's usage field is not 0.
    Usage = 2,
    /// The scratch area is outside of what may be used.
    ScratchArea = 3,
    /// A field that the event needs is not marked valid.
    MissingInput = 4,
    /// A field has a value that the event does not allow.
    InvalidInput = 5,
    /// The event does not exist for this guest.
    InvalidEvent = 6,
}

/// Exceptions that a guest accepts from its hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Exception {
    /// #GP.
    GeneralProtection = 13,
}

impl Exception {
    /// EVENTINJ encoding (APM volume 2, 15.20): valid, type 3 (exception), vector. As KVM, without
    /// an error code: the guest takes 0.
    const fn event(self) -> u64 {
        (1 << 31) | (3 << 8) | self as u64
    }
}

/// Why an exit was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request was malformed.
    Bad(BadInput),
    /// The emulated instruction faults.
    Exception(Exception),
}

/// Bytes of a GHCB.
pub const GHCB_LEN: u64 = 4096;

/// One VMGEXIT's GHCB.
pub struct Ghcb<'a, P: Platform> {
    platform: &'a P,
    gpa: u64,
    valid: Valid,
    reply: Valid,
    /// SW_EXITCODE as read.
    pub code: u64,
    /// SW_EXITINFO1 as read.
    pub info1: u64,
    /// SW_EXITINFO2 as read.
    pub info2: u64,
}

impl<'a, P: Platform> Ghcb<'a, P> {
    /// Takes the request out of the GHCB at `gpa`, which must be page aligned. Fails if that is not
    /// RAM; then there is no one to reply to.
    pub fn open(platform: &'a P, gpa: u64) -> Result<Self, NotRam> {
        platform.name(Use::Ghcb, gpa, GHCB_LEN);
        let read = |field: Field| platform.read_shared_u64(gpa + field.offset());
        Ok(Self {
            platform,
            gpa,
            valid: Valid::from_words(
                platform.read_shared_u64(gpa + layout::VALID_BITMAP)?,
                platform.read_shared_u64(gpa + layout::VALID_BITMAP + 8)?,
            ),
            reply: Valid::NONE,
            code: read(layout::SW_EXITCODE)?,
            info1: read(layout::SW_EXITINFO1)?,
            info2: read(layout::SW_EXITINFO2)?,
        })
    }

    /// Tells the machine of checked shared memory that this exit uses besides the GHCB.
    pub fn name(&self, gpa: u64, len: u64) {
        self.platform.name(Use::Exit, gpa, len);
    }

    /// Where the GHCB is.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Whether the guest marked a field valid.
    pub fn has(&self, field: Field) -> bool {
        self.valid.has(field)
    }

    /// A field's value, 0 if the guest did not mark it valid. Call once per field.
    pub fn field(&self, field: Field) -> u64 {
        if !self.has(field) {
            return 0;
        }
        // The page was found to be RAM, so the read cannot fail.
        let quad = self
            .platform
            .read_shared_u64(self.gpa + (field.offset() & !7))
            .unwrap_or(0);
        quad >> (8 * (field.offset() & 7))
    }

    /// The protocol version and the usage that the page claims (GHCB specification 2.6).
    pub fn version_and_usage(&self) -> (u16, u32) {
        let quad = self
            .platform
            .read_shared_u64(self.gpa + layout::TRAILER)
            .unwrap_or(0);
        ((quad >> 16) as u16, (quad >> 32) as u32)
    }

    /// Puts a field into the reply and marks it valid there.
    pub fn set(&mut self, field: Field, value: u64) {
        debug_assert!(field.offset() % 8 == 0);
        // As in field(): cannot fail.
        let _ = self
            .platform
            .write_shared_u64(self.gpa + field.offset(), value);
        self.reply = self.reply.with(field);
    }

    /// Puts these upper halves into those of the fields that are in the reply.
    pub fn lie_above(&mut self, fields: [Field; 4], upper: u64) {
        for field in fields {
            let at = self.gpa + field.offset();
            if !self.reply.has(field) {
                continue;
            }
            // As in field(): cannot fail.
            let value = self.platform.read_shared_u64(at).unwrap_or(0) & 0xffff_ffff | upper;
            let _ = self.platform.write_shared_u64(at, value);
        }
    }

    /// Completes the reply: response code, data, and as valid only what this exit answered.
    pub fn succeed(mut self, data: u64) {
        self.close(RESPONSE_NONE, data);
    }

    /// Completes the reply with a response code that need not exist.
    pub fn lie(mut self, response: u64, data: u64) {
        self.close(response, data);
    }

    /// Completes the reply of an exit that was not carried out.
    pub fn fail(mut self, fault: Fault) {
        self.reply = Valid::NONE;
        match fault {
            Fault::Bad(code) => self.close(RESPONSE_MALFORMED, code as u64),
            Fault::Exception(exception) => self.close(RESPONSE_EXCEPTION, exception.event()),
        }
    }

    fn close(&mut self, response: u64, data: u64) {
        self.set(layout::SW_EXITINFO1, response);
        self.set(layout::SW_EXITINFO2, data);
        let (low, high) = self.reply.words();
        let _ = self
            .platform
            .write_shared_u64(self.gpa + layout::VALID_BITMAP, low);
        let _ = self
            .platform
            .write_shared_u64(self.gpa + layout::VALID_BITMAP + 8, high);
    }

    /// Changes the data of a reply that was completed earlier, by an AP that now leaves its reset
    /// hold. Response code and valid bits are there already.
    pub fn amend(platform: &P, gpa: u64, data: u64) {
        // The page was found to be RAM when the hold was entered.
        let _ = platform.write_shared_u64(gpa + layout::SW_EXITINFO2.offset(), data);
    }
}

#[cfg(test)]
mod tests {
    use super::layout::{RAX, SW_EXITINFO1, SW_EXITINFO2, VALID_BITMAP};
    use super::*;
    use crate::mock::Mock;

    #[test]
    fn a_fault_takes_back_what_was_answered() {
        let mock = Mock::new(1);
        let mut ghcb = Ghcb::open(&mock, 0x1000).unwrap();
        ghcb.set(RAX, 1);
        ghcb.fail(Fault::Bad(BadInput::InvalidInput));
        let (low, high) = Valid::NONE.with(SW_EXITINFO1).with(SW_EXITINFO2).words();
        assert_eq!(mock.peek_u64(0x1000 + VALID_BITMAP), low);
        assert_eq!(mock.peek_u64(0x1000 + VALID_BITMAP + 8), high);
    }
}
