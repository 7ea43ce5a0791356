// SPDX-License-Identifier: GPL-2.0
//! Words for the reason codes of a termination request.
//!
//! A guest that cannot go on asks the hypervisor to end it (GHCB specification 2.3.1, MSR protocol
//! 0x100) and names a reason set and a reason code. Set 0 is the specification's, set 1 Linux's own
//! (`SEV_TERM_SET_LINUX` in `arch/x86/include/asm/sev-common.h`), sets 2 and 3 are those of
//! sevsim's probe.

/// What a termination request of reason `set` and reason `code` means.
pub fn termination_reason(set: u64, code: u64) -> &'static str {
    match (set, code) {
        (0, 0) => "general termination request: the guest met an exit that it could not handle",
        (0, 1) => "the guest does not support the offered range of GHCB protocol versions",
        (0, 2) => "the guest needs SNP features that the host does not offer",
        (1, 0) => "registration of the GHCB's address failed",
        (1, 1) => "a page state change failed",
        (1, 2) => "PVALIDATE failed",
        (1, 3) => "the guest does not run at VMPL 0",
        (1, 4) => "validation of a CPUID table entry failed",
        (1, 5) => "CPUID by the MSR protocol failed",
        (1, 6) => "the secrets page is missing or invalid",
        (1, 7) => "the SVSM does not announce itself in the secrets page",
        (1, 8) => "the SVSM gave the guest VMPL 0",
        (1, 9) => "the SVSM calling area is not page-aligned",
        (1, 10) => "initialization of Secure TSC failed",
        (1, 11) => "the SVSM calling area could not be mapped again",
        (1, 12) => "Secure AVIC failed",
        (0, _) => "a code of the GHCB specification that is not known here",
        (1, _) => "a code of Linux that is not known here",
        (2, 0) => "the probe found the machine as it should be",
        (2, _) => "the probe's check of this number failed",
        (3, 0) => "the probe found the machine and its NMI window as they should be",
        _ => "a reason set that is not known here",
    }
}

#[cfg(test)]
mod tests {
    use super::termination_reason;

    #[test]
    fn known_and_unknown_codes_differ() {
        assert!(termination_reason(0, 0).contains("general termination"));
        assert!(termination_reason(1, 5).contains("CPUID"));
        assert_ne!(termination_reason(0, 99), termination_reason(1, 99));
        assert_ne!(termination_reason(2, 0), termination_reason(2, 1));
        assert!(termination_reason(7, 0).contains("reason set"));
    }
}
