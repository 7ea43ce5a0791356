// SPDX-License-Identifier: GPL-2.0

//! Requests to the hypervisor and its replies (GHCB specification, 4).

use core::ptr::addr_of_mut;

use super::{
    super::{
        env::Env,
        exit_code::ExitCode,
        exit_info,
        result::{
            Error,
            Result,
            Width, //
        }, //
    },
    layout::{
        Field,
        USAGE_STANDARD, //
    },
    page::Ghcb, //
};

/// An exit in preparation: the fields set so far.
///
/// The bitmap of valid fields is collected here and stored once, by [`Request::commit`]; whatever
/// it held before does not matter.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    ghcb: Ghcb,
    valid: (u64, u64),
}

impl Request {
    /// Begins an exit with no field valid.
    #[inline(always)]
    pub(crate) const fn new(ghcb: Ghcb) -> Request {
        Request {
            ghcb,
            valid: (0, 0),
        }
    }

    /// Begins an exit with the fields that are marked valid in the page: those that C code set.
    #[inline(always)]
    pub(crate) fn adopt(ghcb: Ghcb) -> Request {
        Request {
            ghcb,
            valid: ghcb.read_valid(),
        }
    }

    /// Sets a field and marks it valid.
    #[inline(always)]
    pub(crate) fn set(self, field: Field, value: u64) -> Request {
        self.ghcb.write(field, value);
        self.mark(field)
    }

    /// Sets the privilege level.
    #[inline(always)]
    pub(crate) fn cpl(self, cpl: u8) -> Request {
        // SAFETY: By the contract of `Ghcb::new` the page is mapped and writable.
        unsafe { addr_of_mut!((*self.ghcb.as_ptr()).cpl).write_volatile(cpl) };
        self.mark(Field::CPL)
    }

    #[inline(always)]
    const fn mark(self, field: Field) -> Request {
        let (low, high) = field.valid_bits();

        Request {
            ghcb: self.ghcb,
            valid: (self.valid.0 | low, self.valid.1 | high),
        }
    }

    /// Lets `hook` (C code that knows `struct ghcb`) set further fields and mark them valid.
    #[inline(always)]
    pub(crate) fn extend(self, hook: impl FnOnce(Ghcb)) -> Request {
        self.ghcb.write_valid(self.valid.0, self.valid.1);
        hook(self.ghcb);
        Request::adopt(self.ghcb)
    }

    /// Completes the page; a VMGEXIT must follow.
    #[inline(always)]
    pub(crate) fn commit(self, version: u16, code: u64, info_1: u64, info_2: u64) -> Pending {
        let page = self.ghcb.as_ptr();
        let request = self
            .set(Field::EXIT_CODE, code)
            .set(Field::EXIT_INFO_1, info_1)
            .set(Field::EXIT_INFO_2, info_2);

        // SAFETY: By the contract of `Ghcb::new` the page is mapped and writable.
        unsafe {
            addr_of_mut!((*page).protocol_version).write_volatile(version);
            addr_of_mut!((*page).usage).write_volatile(USAGE_STANDARD);
        }
        self.ghcb.write_valid(request.valid.0, request.valid.1);
        Pending(self.ghcb)
    }

    /// Performs the exit and checks that the hypervisor accepted it (see [`exit_info::verify`]).
    ///
    /// There is one copy of it for all exits.
    #[inline(never)]
    pub(crate) fn call<E: Env + ?Sized>(
        self,
        env: &mut E,
        code: ExitCode,
        info_1: u64,
        info_2: u64,
    ) -> Result<Reply> {
        let pending = self.commit(env.ghcb_version(), code as u64, info_1, info_2);

        env.vmgexit();
        pending.checked_reply()
    }
}

/// A completed request. After VMGEXIT it becomes a [`Reply`].
#[must_use]
#[derive(Debug)]
pub(crate) struct Pending(Ghcb);

impl Pending {
    /// The hypervisor's reply, unchecked but for the bitmap of valid fields.
    #[inline(always)]
    pub(crate) fn reply(self) -> Reply {
        Reply {
            ghcb: self.0,
            valid: self.0.read_valid(),
        }
    }

    /// The hypervisor's reply if it accepted the request.
    #[inline(always)]
    pub(crate) fn checked_reply(self) -> Result<Reply> {
        let reply = self.reply();

        exit_info::verify(&reply)?;
        Ok(reply)
    }
}

/// The hypervisor's reply to an exit.
#[derive(Debug)]
pub(crate) struct Reply {
    ghcb: Ghcb,
    valid: (u64, u64),
}

impl Reply {
    /// The reply that is in the page now, for C code that performed the exit itself.
    #[inline(always)]
    pub(crate) fn current(ghcb: Ghcb) -> Reply {
        Pending(ghcb).reply()
    }

    /// Reads a field, once, if the hypervisor marked it valid.
    #[inline(always)]
    pub(crate) fn get(&self, field: Field) -> Option<u64> {
        let (low, high) = field.valid_bits();

        if self.valid.0 & low != low || self.valid.1 & high != high {
            return None;
        }
        Some(self.ghcb.read(field))
    }

    /// Reads a field that the hypervisor has to provide.
    #[inline(always)]
    pub(crate) fn require(&self, field: Field) -> Result<u64> {
        self.get(field).ok_or(Error::Vmm)
    }

    /// Reads a value of the shared buffer, which has no valid bits.
    #[inline(always)]
    pub(crate) fn buffer(&self, offset: usize, width: Width) -> u64 {
        self.ghcb.read_buffer(offset, width)
    }
}
