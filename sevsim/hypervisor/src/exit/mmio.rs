// SPDX-License-Identifier: GPL-2.0
//! MMIO: SW_EXITINFO1 is the address, SW_EXITINFO2 the length, data in the scratch area.

use crate::dev::{apic, ioapic};
use crate::exit::Answer;
use crate::ghcb::scratch::Scratch;
use crate::ghcb::{BadInput, Fault, Ghcb};
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// The longest access: what the shared buffer can hold. Only version 1 allows more than 8.
const MAX_LEN: u64 = 0x7f0;

impl<P: Platform> Vm<P> {
    #[inline(never)]
    pub(crate) fn exit_mmio_read(&self, vcpu: &Vcpu, ghcb: &Ghcb<'_, P>) -> Result<Answer, Fault> {
        let Some(scratch) = self.mmio_scratch(ghcb).map_err(Fault::Bad)? else {
            return Ok(Answer::DONE);
        };
        for (offset, bytes) in pieces(ghcb.info1, ghcb.info2) {
            let gpa = ghcb.info1 + offset;
            let value = if apic::in_page(gpa) {
                self.apic_read(vcpu, gpa, bytes)
            } else {
                self.platform().mmio_read(gpa, bytes)
            };
            scratch
                .write(
                    self.platform(),
                    offset,
                    &value.to_le_bytes()[..bytes.into()],
                )
                .map_err(Fault::Bad)?;
        }
        vcpu.own.stats.mmio_bytes.add(ghcb.info2);
        Ok(Answer::DONE)
    }

    #[inline(never)]
    pub(crate) fn exit_mmio_write(&self, vcpu: &Vcpu, ghcb: &Ghcb<'_, P>) -> Result<Answer, Fault> {
        let Some(scratch) = self.mmio_scratch(ghcb).map_err(Fault::Bad)? else {
            return Ok(Answer::DONE);
        };
        for (offset, bytes) in pieces(ghcb.info1, ghcb.info2) {
            let mut value = [0; 8];
            scratch
                .read(self.platform(), offset, &mut value[..bytes.into()])
                .map_err(Fault::Bad)?;
            let (gpa, value) = (ghcb.info1 + offset, u64::from_le_bytes(value));
            if apic::in_window(gpa) {
                self.apic_write(vcpu, gpa, bytes, value);
            } else if ioapic::in_page(gpa) {
                self.ioapic().write(self.platform(), gpa, bytes, value);
            } else {
                self.platform().mmio_write(gpa, bytes, value);
            }
        }
        vcpu.own.stats.mmio_bytes.add(ghcb.info2);
        Ok(Answer::DONE)
    }

    /// Checks an access; `None` if there is nothing to do.
    fn mmio_scratch(&self, ghcb: &Ghcb<'_, P>) -> Result<Option<Scratch>, BadInput> {
        let (gpa, len) = (ghcb.info1, ghcb.info2);
        let version = self.options().ghcb;
        if len == 0 {
            return Ok(None);
        }
        if len > if version >= 2 { 8 } else { MAX_LEN } {
            return Err(BadInput::InvalidInput);
        }
        let scratch = Scratch::of(ghcb, self.ram(), version, len)?;
        // A hypervisor has no business in a guest's RAM, and a guest none beyond it.
        if !self.ram().device(gpa, len) {
            return Err(BadInput::InvalidInput);
        }
        Ok(Some(scratch))
    }
}

/// Splits an access into naturally aligned ones of 1, 2, 4 or 8 bytes: (offset, bytes).
fn pieces(gpa: u64, len: u64) -> impl Iterator<Item = (u64, u8)> {
    let mut offset = 0;
    core::iter::from_fn(move || {
        let rest = len - offset;
        if rest == 0 {
            return None;
        }
        let aligned = 1 << (gpa + offset).trailing_zeros().min(3);
        let fits = 1 << rest.ilog2().min(3);
        let bytes: u64 = u64::min(aligned, fits);
        let piece = (offset, bytes as u8);
        offset += bytes;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::pieces;
    use proptest::prelude::*;

    #[test]
    fn whole_accesses_stay_whole() {
        for bytes in [1, 2, 4, 8] {
            assert_eq!(
                pieces(0xfee0_0300 & !7, bytes).collect::<Vec<_>>(),
                [(0, bytes as u8)]
            );
        }
        let all: Vec<_> = pieces(0x1003, 8).collect();
        assert_eq!(all, [(0, 1), (1, 4), (5, 2), (7, 1)]);
    }

    proptest! {
        #[test]
        fn pieces_cover_without_gap(gpa in 0_u64..1 << 40, len in 0_u64..64) {
            let mut at = 0;
            for (offset, bytes) in pieces(gpa, len) {
                prop_assert_eq!(offset, at);
                prop_assert!([1, 2, 4, 8].contains(&bytes));
                prop_assert_eq!((gpa + offset) % u64::from(bytes), 0);
                at += u64::from(bytes);
            }
            prop_assert_eq!(at, len);
        }
    }
}
