// SPDX-License-Identifier: GPL-2.0
//! The interface that the exit loop calls: one VM, its vCPUs, and what to do after each exit.

/// What a vCPU does after the hypervisor handled its VMGEXIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Continue behind the VMGEXIT.
    Resume,
    /// AP reset hold: sleep until `Vm::held` says that the vCPU may go on, then ask `Vm::release`.
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
    Terminate { set: u8, code: u8 },
}
