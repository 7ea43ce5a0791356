// SPDX-License-Identifier: GPL-2.0
//! The hypervisor half of sevsim: the untrusted host that a SEV-ES guest talks to by its GHCB.
//!
//! Pure: everything physical comes through [`Platform`]. Nothing here can reach private memory or a
//! guest register, so it sees exactly what a hypervisor of a SEV-ES guest sees.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod ap;
mod atomic;
mod clock;
mod dev;
mod exit;
mod ghcb;
#[cfg(test)]
mod mock;
mod msr_protocol;
mod nmi;
mod options;
mod platform;
mod ram;
mod stats;
mod vcpu;
mod vm;

pub use options::{Apic, Intercept, OptionError, Options, MAX_VCPUS};
pub use platform::{Blob, MsrFault, NotRam, Platform};
pub use vm::{Next, SetupError, Stop, Vm};
