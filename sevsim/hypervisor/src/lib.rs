// SPDX-License-Identifier: GPL-2.0
//! The hypervisor half of sevsim: the untrusted host that a SEV-ES guest talks to by its GHCB.
//!
//! Pure: everything physical comes through [`Platform`]. Nothing here can reach private memory or a
//! guest register, so it sees exactly what a hypervisor of a SEV-ES guest sees.
//!
//! The model is KVM of Linux 7.3. Where this differs from it, and why:
//!
//! - **Replies** hold the answer of the event and nothing else; KVM marks RAX, RBX, RCX and RDX
//!   valid each time. A guest that uses a field that its event does not answer is found out here.
//! - **SIPI before the reset hold** is kept for it; KVM loses it (see `ap`).
//! - **INIT** does not stop a vCPU that runs; KVM stops it until SIPI. On the way out of a hold the
//!   local APIC is reset but for interrupts already requested, which QEMU's does not give back.
//! - **Impossible requests** for which KVM ends the VM (a string of more than 2 GiB, a scratch area
//!   that is not RAM) are refused by the specification's error codes. RDTSC and RDTSCP, which KVM
//!   does not intercept and so not expect, are answered.
//! - **Values that the specification does not know** are refused: an MSR event that is neither read
//!   (0) nor write (1, for KVM any other), an operand size of port I/O that is none of the three.
//!   For CPUID's leaf only EAX counts; KVM compares RAX with 0xd, and keeps XCR0 from an earlier
//!   exit.
//! - **DR7** that an event writes is given back by one that reads; KVM ignores both.
//! - **RDPMC** that faults is answered by the specification's exception; KVM injects #GP itself.
//! - **A page state change by the MSR protocol** leaves the MSR as it is, like any request that is
//!   not known; KVM ends a guest that is not SEV-SNP.
//! - **MMIO to RAM** is refused; KVM would carry it out on shared memory.
//! - **Preferred and registered GHCB GPA** are answered for protocol version 2, as specified; KVM
//!   ends a guest that is not SEV-SNP. No hypervisor features are offered: KVM offers SEV-SNP's to
//!   all.
//! - **Writes of the TSC** and of TSC_ADJUST have no effect on the TSC: host and guest share it.
//! - **Performance counters** do not count, as with KVM's `enable_pmu=0`, but RDPMC of the four
//!   legacy counters gives 0 and no #GP, so that the event can be exercised.
//! - **ICR**: SMI, remote read and ExtINT go nowhere. The local APIC's base cannot be moved,
//!   and its ID not be changed.
//! - **SMBIOS tables** are QEMU's and tell the memory of the whole machine, host included.
//! - **Reset** by the keyboard controller's output port (command 0xd1) is not noticed and resets
//!   the host as well; command 0xfe, ports 0x92 and 0xcf9 are.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod ap;
mod atomic;
mod clock;
mod dev;
mod exit;
mod ghcb;
mod hostile;
mod leak;
mod lies;
#[cfg(test)]
mod mock;
mod msr_protocol;
mod nmi;
mod options;
mod outcome;
mod platform;
mod ram;
mod registers;
mod stats;
mod storm;
mod vcpu;
mod vm;

pub use dev::acpi;
pub use hostile::event::Event as HostileEvent;
pub use hostile::Plan;
pub use lies::{Lies, Stage, What};
pub use options::{
    Apic, Entry, Intercept, Isolation, LeakCheck, OptionError, Options, Place, Touch, MAX_VCPUS,
};
pub use outcome::{Next, SetupError, Stop};
pub use platform::{Blob, MsrFault, NotRam, Platform, Use};
pub use registers::ShownRegisters;
pub use vm::Vm;
