// SPDX-License-Identifier: GPL-2.0
//! The scratch area of an exit: where string I/O and MMIO data lie (GHCB specification 4.1).

use crate::ghcb::layout::{SHARED_BUFFER, SHARED_BUFFER_END, SW_SCRATCH};
use crate::ghcb::{BadInput, Ghcb};
use crate::platform::Platform;
use crate::ram::Ram;

#[cfg(test)]
mod tests;

/// The most that a version 1 guest may pass outside of its GHCB, KVM's limit.
const OUTSIDE_LIMIT: u64 = 16 * 4096;

/// A checked scratch area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    gpa: u64,
}

impl Scratch {
    /// Checks that `len` bytes at the guest's SW_SCRATCH may be used.
    ///
    /// Inside the GHCB page they must lie in the shared buffer. Elsewhere they must be RAM, and the
    /// protocol version offered must be 1: version 2 wants the area in the GHCB.
    pub fn of<P: Platform>(
        ghcb: &Ghcb<'_, P>,
        ram: &Ram,
        version: u16,
        len: u64,
    ) -> Result<Self, BadInput> {
        let gpa = ghcb.field(SW_SCRATCH);
        let end = gpa.checked_add(len).ok_or(BadInput::ScratchArea)?;
        let fits = if gpa == 0 {
            false
        } else if gpa & !0xfff == ghcb.gpa() {
            gpa >= ghcb.gpa() + SHARED_BUFFER && end <= ghcb.gpa() + SHARED_BUFFER_END
        } else {
            let fits = version < 2 && len <= OUTSIDE_LIMIT && ram.contains(gpa, len);
            if fits {
                ghcb.name(gpa, len);
            }
            fits
        };
        if fits {
            Ok(Self { gpa })
        } else {
            Err(BadInput::ScratchArea)
        }
    }

    /// Copies from the area.
    pub fn read<P: Platform>(
        self,
        platform: &P,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), BadInput> {
        platform
            .read_shared(self.gpa + offset, buf)
            .map_err(|_| BadInput::ScratchArea)
    }

    /// Copies to the area.
    pub fn write<P: Platform>(self, platform: &P, offset: u64, buf: &[u8]) -> Result<(), BadInput> {
        platform
            .write_shared(self.gpa + offset, buf)
            .map_err(|_| BadInput::ScratchArea)
    }
}
