// SPDX-License-Identifier: GPL-2.0
//! SVM exit codes (APM vol. 2, appendix C) that the machine meets.

/// Write of CR3.
pub const WRITE_CR3: u64 = 0x13;
/// Write of CR4.
pub const WRITE_CR4: u64 = 0x14;
/// Read of DR7.
pub const READ_DR7: u64 = 0x27;
/// Write of DR7.
pub const WRITE_DR7: u64 = 0x37;
/// Exception with vector 0; the others follow up to [`EXCEPTION_LAST`].
pub const EXCEPTION: u64 = 0x40;
/// Exception with vector 31.
pub const EXCEPTION_LAST: u64 = 0x5f;
/// #DB.
pub const DB: u64 = 0x41;
/// Physical non-maskable interrupt.
pub const NMI: u64 = 0x61;
/// System management interrupt.
pub const SMI: u64 = 0x62;
/// Write of CR0 that changes more than TS and MP.
pub const CR0_SEL_WRITE: u64 = 0x65;
/// LIDT.
pub const IDTR_WRITE: u64 = 0x6a;
/// RDTSC.
pub const RDTSC: u64 = 0x6e;
/// RDPMC.
pub const RDPMC: u64 = 0x6f;
/// CPUID.
pub const CPUID: u64 = 0x72;
/// IRET.
pub const IRET: u64 = 0x74;
/// INVD.
pub const INVD: u64 = 0x76;
/// INVLPG.
pub const INVLPG: u64 = 0x79;
/// INVLPGA.
pub const INVLPGA: u64 = 0x7a;
/// Port access.
pub const IOIO: u64 = 0x7b;
/// RDMSR (info1 = 0) or WRMSR (info1 = 1).
pub const MSR: u64 = 0x7c;
/// Triple fault.
pub const SHUTDOWN: u64 = 0x7f;
/// VMRUN; the SVM instructions follow up to [`SKINIT`].
pub const VMRUN: u64 = 0x80;
/// VMMCALL, and VMGEXIT on a machine without SEV-ES.
pub const VMMCALL: u64 = 0x81;
/// VMLOAD.
pub const VMLOAD: u64 = 0x82;
/// VMSAVE.
pub const VMSAVE: u64 = 0x83;
/// STGI.
pub const STGI: u64 = 0x84;
/// CLGI.
pub const CLGI: u64 = 0x85;
/// SKINIT.
pub const SKINIT: u64 = 0x86;
/// RDTSCP.
pub const RDTSCP: u64 = 0x87;
/// WBINVD.
pub const WBINVD: u64 = 0x89;
/// MONITOR.
pub const MONITOR: u64 = 0x8a;
/// MWAIT.
pub const MWAIT: u64 = 0x8b;
/// Nested page fault.
pub const NPF: u64 = 0x400;
/// Invalid guest state.
pub const INVALID: u64 = u64::MAX;

/// Name for reports; `None` for codes that this host never enables.
pub fn name(code: u64) -> Option<&'static str> {
    Some(match code {
        WRITE_CR3 => "cr3-write",
        WRITE_CR4 => "cr4-write",
        READ_DR7 => "dr7-read",
        WRITE_DR7 => "dr7-write",
        DB => "debug",
        EXCEPTION..=EXCEPTION_LAST => "exception",
        NMI => "nmi",
        SMI => "smi",
        CR0_SEL_WRITE => "cr0-write",
        IDTR_WRITE => "idtr-write",
        RDTSC => "rdtsc",
        RDPMC => "rdpmc",
        CPUID => "cpuid",
        IRET => "iret",
        INVD => "invd",
        INVLPG => "invlpg",
        INVLPGA => "invlpga",
        IOIO => "ioio",
        MSR => "msr",
        SHUTDOWN => "shutdown",
        VMRUN => "vmrun",
        VMMCALL => "vmmcall",
        VMLOAD => "vmload",
        VMSAVE => "vmsave",
        STGI => "stgi",
        CLGI => "clgi",
        SKINIT => "skinit",
        RDTSCP => "rdtscp",
        WBINVD => "wbinvd",
        MONITOR => "monitor",
        MWAIT => "mwait",
        NPF => "npf",
        INVALID => "invalid",
        _ => return None,
    })
}
