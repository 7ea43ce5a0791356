// SPDX-License-Identifier: GPL-2.0
//! SW_EXITCODE values: SVM exit codes (APM volume 2, appendix C) and the GHCB specification's own.

/// Read of DR7.
pub const DR7_READ: u64 = 0x27;
/// Write of DR7.
pub const DR7_WRITE: u64 = 0x37;
/// RDTSC.
pub const RDTSC: u64 = 0x6e;
/// RDPMC.
pub const RDPMC: u64 = 0x6f;
/// CPUID.
pub const CPUID: u64 = 0x72;
/// INVD.
pub const INVD: u64 = 0x76;
/// IN, OUT, INS, OUTS.
pub const IOIO: u64 = 0x7b;
/// RDMSR, WRMSR.
pub const MSR: u64 = 0x7c;
/// VMMCALL.
pub const VMMCALL: u64 = 0x81;
/// RDTSCP.
pub const RDTSCP: u64 = 0x87;
/// WBINVD.
pub const WBINVD: u64 = 0x89;
/// MONITOR.
pub const MONITOR: u64 = 0x8a;
/// MWAIT.
pub const MWAIT: u64 = 0x8b;
/// Read of device memory.
pub const MMIO_READ: u64 = 0x8000_0001;
/// Write of device memory.
pub const MMIO_WRITE: u64 = 0x8000_0002;
/// The guest's NMI handler is done.
pub const NMI_COMPLETE: u64 = 0x8000_0003;
/// An AP waits for its next SIPI.
pub const AP_RESET_HOLD: u64 = 0x8000_0004;
/// Keeps or gives the address of the AP jump table.
pub const AP_JUMP_TABLE: u64 = 0x8000_0005;
/// Page state change (SEV-SNP).
pub const PSC: u64 = 0x8000_0010;
/// Guest message (SEV-SNP).
pub const GUEST_REQUEST: u64 = 0x8000_0011;
/// Guest message with certificates (SEV-SNP).
pub const EXT_GUEST_REQUEST: u64 = 0x8000_0012;
/// AP creation (SEV-SNP).
pub const AP_CREATION: u64 = 0x8000_0013;
/// Which features the hypervisor supports.
pub const HV_FEATURES: u64 = 0x8000_fffd;
/// The guest wants to end.
pub const TERM_REQUEST: u64 = 0x8000_fffe;
/// The guest had a #VC that it does not know.
pub const UNSUPPORTED_EVENT: u64 = 0x8000_ffff;
