// SPDX-License-Identifier: GPL-2.0

//! Exit codes: why hardware raised #VC, and what a VMGEXIT asks for (GHCB specification, table 6).

/// Declares the exit codes once: the enum and its conversion from a number.
macro_rules! exit_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// Exit codes of SVM that can arrive as #VC or be sent, and the software-defined ones.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub(crate) enum ExitCode {
            $($(#[$doc])* $name = $value,)*
        }

        impl TryFrom<u64> for ExitCode {
            type Error = u64;

            /// Returns the number itself if it is no exit code known here.
            #[inline(always)]
            fn try_from(code: u64) -> core::result::Result<Self, u64> {
                match code {
                    $($value => Ok(ExitCode::$name),)*
                    _ => Err(code),
                }
            }
        }
    };
}

exit_codes! {
    /// MOV from DR7.
    ReadDr7 = 0x27,
    /// MOV to DR7.
    WriteDr7 = 0x37,
    /// #DB, a debug exception that the hypervisor intercepts.
    DebugException = 0x41,
    /// #AC, an alignment check that the hypervisor intercepts.
    AlignmentCheck = 0x51,
    /// RDTSC.
    Rdtsc = 0x6e,
    /// RDPMC.
    Rdpmc = 0x6f,
    /// CPUID.
    Cpuid = 0x72,
    /// INVD.
    Invd = 0x76,
    /// IN, OUT, INS, OUTS.
    Ioio = 0x7b,
    /// RDMSR, WRMSR.
    Msr = 0x7c,
    /// VMMCALL.
    Vmmcall = 0x81,
    /// RDTSCP.
    Rdtscp = 0x87,
    /// WBINVD, WBNOINVD.
    Wbinvd = 0x89,
    /// MONITOR, MONITORX.
    Monitor = 0x8a,
    /// MWAIT, MWAITX.
    Mwait = 0x8b,
    /// Nested page fault: an access to MMIO.
    NestedPageFault = 0x400,
    /// Access to a page that the guest has not validated (SEV-SNP).
    PageNotValidated = 0x404,
    /// Read of MMIO.
    MmioRead = 0x8000_0001,
    /// Write to MMIO.
    MmioWrite = 0x8000_0002,
    /// The guest's NMI handler is done; NMIs may be delivered again.
    NmiComplete = 0x8000_0003,
    /// Park this CPU until a startup IPI arrives.
    ApResetHold = 0x8000_0004,
    /// Set (SW_EXITINFO1 0) or get (1) the address of the AP jump table.
    ApJumpTable = 0x8000_0005,
    /// Page state change (SEV-SNP).
    PageStateChange = 0x8000_0010,
    /// Message to the secure processor (SEV-SNP).
    GuestRequest = 0x8000_0011,
    /// Message to the secure processor, with certificates (SEV-SNP).
    ExtendedGuestRequest = 0x8000_0012,
    /// Creation of an AP from a VMSA (SEV-SNP).
    ApCreation = 0x8000_0013,
    /// #HV doorbell page (SEV-SNP).
    HvDoorbell = 0x8000_0014,
    /// IPI with restricted injection (SEV-SNP).
    HvIpi = 0x8000_0015,
    /// List of APIC IDs (SEV-SNP).
    GetApicIds = 0x8000_0017,
    /// Run another VMPL (SEV-SNP).
    RunVmpl = 0x8000_0018,
    /// Registration of a Secure AVIC backing page (SEV-SNP).
    SecureAvic = 0x8000_001a,
    /// Features of the hypervisor.
    HvFeatures = 0x8000_fffd,
    /// End of the guest at its own request.
    TerminationRequest = 0x8000_fffe,
    /// The guest got a #VC that it does not support.
    UnsupportedEvent = 0x8000_ffff,
}
