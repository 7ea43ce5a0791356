// SPDX-License-Identifier: GPL-2.0

//! The exits: for each intercepted instruction, what is sent to the hypervisor and what is believed
//! of its reply.

pub(crate) mod address;
pub(crate) mod alu;
mod buffer;
pub(crate) mod cpuid;
pub(crate) mod dispatch;
pub(crate) mod dr7;
mod edx_eax;
mod frequent;
pub(crate) mod ioio;
pub(crate) mod mmio;
pub(crate) mod mmio_string;
pub(crate) mod msr;
mod step;
pub(crate) mod string;
pub(crate) mod tsc;
pub(crate) mod vmmcall;
pub(crate) mod wbinvd;

// Early environments handle fewer exits by calling them one by one.
#[allow(unused_imports)]
pub(crate) use self::dispatch::handle;
