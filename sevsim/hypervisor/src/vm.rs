// SPDX-License-Identifier: GPL-2.0
//! The interface that the exit loop calls: one VM, its vCPUs, and what to do after each exit.

use core::fmt;

use crate::options::Options;
use crate::platform::Platform;

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

/// One VM.
pub struct Vm<P: Platform> {
    platform: P,
    options: Options,
}

impl<P: Platform> Vm<P> {
    /// Sets a VM up: filters what the firmware will read of the machine.
    pub fn new(platform: P, options: Options) -> Result<Self, SetupError> {
        Ok(Self { platform, options })
    }

    /// The machine below.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The options of this run.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What the GHCB MSR holds when a vCPU starts (GHCB specification 2.3.1: SEV_INFO response).
    pub fn ghcb_msr_at_reset(&self) -> u64 {
        0
    }

    /// Handles one VMGEXIT. `cr4` is what the guest's last CR4 write trap reported.
    ///
    /// Returns the new value of the GHCB MSR and what to do.
    pub fn vmgexit(&self, vcpu: usize, ghcb_msr: u64, cr4: u64) -> (u64, Next) {
        let _ = (vcpu, cr4);
        (ghcb_msr, Next::Resume)
    }

    /// Whether a vCPU may start running from its VMSA: the first one at once, APs once their first
    /// SIPI has come. Ask again after each kick.
    pub fn may_start(&self, vcpu: usize) -> bool {
        vcpu == 0
    }

    /// Ends an AP reset hold: the GHCB MSR value to resume with, or `None` to sleep on.
    pub fn release(&self, vcpu: usize) -> Option<u64> {
        let _ = vcpu;
        None
    }

    /// A physical NMI that is not a kick reached the CPU of this vCPU.
    pub fn nmi_arrived(&self, vcpu: usize) {
        let _ = vcpu;
    }

    /// Whether an NMI waits and the guest's NMI window is open.
    pub fn nmi_ready(&self, vcpu: usize) -> bool {
        let _ = vcpu;
        false
    }

    /// Takes an NMI to inject at the next VMRUN. `true` closes the guest's NMI window until
    /// NMI_COMPLETE, so ask only when the VMCB can carry the event.
    pub fn take_nmi(&self, vcpu: usize) -> bool {
        let _ = vcpu;
        false
    }

    /// Logs the statistics, one line each.
    pub fn report(&self) {}
}
