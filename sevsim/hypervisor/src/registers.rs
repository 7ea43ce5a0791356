// SPDX-License-Identifier: GPL-2.0
//! What this host can say about a guest's registers: what the guest put into its GHCB, else zeros.
//!
//! After LAUNCH_UPDATE_VMSA nobody outside the guest reads its registers (APM vol. 2, 15.35). A VMM
//! asks for them all the same, for a monitor's command or a dump. KVM answers from what it last
//! took out of a GHCB; other registers read 0. Nothing here can give more, and whoever reads a 0
//! cannot tell whether it is one.

use crate::ghcb::layout::{Field, CPL, RAX, RBX, RCX, RDX, XCR0};
use crate::ghcb::Ghcb;
use crate::msr_protocol;
use crate::platform::Platform;

/// Registers as the host sees them. There is no field for those that a GHCB does not carry for an
/// event: they would always be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShownRegisters {
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// Current privilege level.
    pub cpl: u8,
    /// XCR0.
    pub xcr0: u64,
}

/// Reads what the GHCB that the MSR names marks valid. 0 without GHCB: before the guest has one,
/// and while it uses the MSR protocol.
pub fn shown<P: Platform>(platform: &P, ghcb_msr: u64) -> ShownRegisters {
    if ghcb_msr & msr_protocol::INFO_MASK != 0 {
        return ShownRegisters::default();
    }
    let Ok(ghcb) = Ghcb::open(platform, ghcb_msr) else {
        return ShownRegisters::default();
    };
    let field = |field: Field| ghcb.field(field);
    ShownRegisters {
        rax: field(RAX),
        rbx: field(RBX),
        rcx: field(RCX),
        rdx: field(RDX),
        cpl: field(CPL) as u8,
        xcr0: field(XCR0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ghcb::layout::{Valid, VALID_BITMAP};
    use crate::mock::Mock;

    const GHCB: u64 = 0x3000;

    fn put(mock: &Mock, field: Field, value: u64) {
        mock.poke(GHCB + field.offset(), &value.to_le_bytes());
    }

    fn valid(mock: &Mock, valid: Valid) {
        let (low, high) = valid.words();
        mock.poke(GHCB + VALID_BITMAP, &low.to_le_bytes());
        mock.poke(GHCB + VALID_BITMAP + 8, &high.to_le_bytes());
    }

    #[test]
    fn only_what_the_guest_marks_valid_is_seen() {
        let mock = Mock::new(1);
        for (index, field) in [RAX, RBX, RCX, RDX, XCR0].into_iter().enumerate() {
            put(&mock, field, 0x1111 * (index as u64 + 1));
        }
        valid(&mock, Valid::NONE);
        assert_eq!(shown(&mock, GHCB), ShownRegisters::default());
        valid(&mock, Valid::NONE.with(RAX).with(RDX));
        let want = ShownRegisters {
            rax: 0x1111,
            rdx: 0x4444,
            ..ShownRegisters::default()
        };
        assert_eq!(shown(&mock, GHCB), want);
    }

    #[test]
    fn without_a_ghcb_there_are_zeros() {
        let mock = Mock::new(1);
        put(&mock, RAX, 5);
        valid(&mock, Valid::NONE.with(RAX));
        for msr in [1, GHCB | 4, GHCB | 0x100, u64::MAX & !0xfff] {
            assert_eq!(shown(&mock, msr), ShownRegisters::default(), "{msr:#x}");
        }
        assert_eq!(shown(&mock, GHCB).rax, 5);
    }

    /// The types of the machine, and so the guest's registers and private memory, cannot be named:
    /// the crate that has them is no dependency.
    #[test]
    fn the_machine_is_out_of_reach() {
        let manifest = include_str!("../Cargo.toml");
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap();
        let dependencies = dependencies.split("\n[").next().unwrap();
        let names: Vec<_> = dependencies
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["spin"]);
    }
}
