// SPDX-License-Identifier: GPL-2.0
//! What comes of a request, of a run, and of a set-up that fails.

use core::fmt;

/// What a vCPU does after the hypervisor handled its VMGEXIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Continue behind the VMGEXIT. An NMI may be injected at this VMRUN: ask `Vm::take_nmi`.
    Resume,
    /// AP reset hold: sleep, and after each kick ask `Vm::release` until it gives a GHCB MSR value.
    Hold,
    /// The VM ends.
    Stop(Stop),
}

/// Why a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// ACPI S5 or an equivalent port write.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest terminated itself: GHCB reason set and code.
    Terminate {
        /// Reason set: 0 is the GHCB specification's, others are the guest's own.
        set: u8,
        /// Reason within the set.
        code: u8,
    },
    /// The guest reported a #VC that it does not support (SW_EXITCODE 0x8000ffff).
    UnsupportedEvent {
        /// The error code of the #VC.
        code: u64,
    },
}

/// Why a VM could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// fw_cfg's device did not answer with its signature.
    NoFwCfg,
    /// fw_cfg's file directory or memory map is larger than expected.
    FwCfgTooLarge,
    /// The kernel image is not a bzImage.
    BadKernel,
    /// The number of vCPUs is not 1 to 8.
    BadVcpus,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFwCfg => "QEMU's fw_cfg device does not answer at port 0x510",
            Self::FwCfgTooLarge => "fw_cfg has more files or memory ranges than sevsim can filter",
            Self::BadKernel => "the kernel is not a bzImage (no HdrS signature, or cut off)",
            Self::BadVcpus => "the number of vCPUs must be 1 to 8",
        })
    }
}
