// SPDX-License-Identifier: GPL-2.0
//! VMMCALL: KVM's hypercalls (Documentation/virt/kvm/x86/hypercalls.rst).

use crate::exit::Answer;
use crate::ghcb::layout::{CPL, RAX};
use crate::ghcb::{Fault, Ghcb};
use crate::platform::Platform;
use crate::vm::Vm;

/// Does nothing but exit.
const VAPIC_POLL_IRQ: u64 = 1;
/// Relates the TSC to the host's wall clock, which sevsim does not have.
const CLOCK_PAIRING: u64 = 9;

/// KVM_EPERM.
const EPERM: u64 = 1;
/// KVM_EOPNOTSUPP.
const EOPNOTSUPP: u64 = 95;
/// KVM_ENOSYS.
const ENOSYS: u64 = 1000;

impl<P: Platform> Vm<P> {
    pub(crate) fn exit_vmmcall(&self, ghcb: &mut Ghcb<'_, P>) -> Result<Answer, Fault> {
        let result = hypercall(ghcb.field(RAX), ghcb.field(CPL) as u8);
        ghcb.set(RAX, result);
        Ok(Answer::DONE)
    }
}

/// KVM_HC_KICK_CPU, _SEND_IPI, _SCHED_YIELD and _MAP_GPA_RANGE belong to features that CPUID does
/// not offer here, so KVM too would not know them.
fn hypercall(number: u64, cpl: u8) -> u64 {
    match number {
        _ if cpl != 0 => EPERM.wrapping_neg(),
        VAPIC_POLL_IRQ => 0,
        CLOCK_PAIRING => EOPNOTSUPP.wrapping_neg(),
        _ => ENOSYS.wrapping_neg(),
    }
}

#[cfg(test)]
mod tests {
    use super::hypercall;

    #[test]
    fn answers_are_kvms() {
        for (number, cpl, want) in [
            (1, 0, 0_i64),
            (1, 3, -1),
            (9, 0, -95),
            (5, 0, -1000),
            (10, 0, -1000),
            (12, 0, -1000),
            (0x1234_5678, 0, -1000),
            (0x1234_5678, 3, -1),
            (u64::MAX, 0, -1000),
        ] {
            assert_eq!(hypercall(number, cpl) as i64, want, "{number} at CPL {cpl}");
        }
    }
}
