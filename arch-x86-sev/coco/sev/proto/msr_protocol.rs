// SPDX-License-Identifier: GPL-2.0

//! The GHCB MSR protocol: requests in an MSR, for when there is no GHCB (GHCB specification, 2.3).
//!
//! A request is a value to write to the GHCB MSR; after VMGEXIT the response is read from it. This
//! module makes and takes apart the values; accessing the MSR is the environment's part.

use super::{
    env::CpuidLeaf,
    ghcb::{
        PROTOCOL_MAX,
        PROTOCOL_MIN, //
    },
    result::{
        Error,
        Result, //
    }, //
};

/// The GHCB MSR.
pub(crate) const MSR_GHCB: u32 = 0xc001_0130;

/// Bits 11:0 say what a value is.
const FUNCTION_MASK: u64 = 0xfff;

const SEV_INFO_RESPONSE: u64 = 0x001;
const SEV_INFO_REQUEST: u64 = 0x002;
const CPUID_REQUEST: u64 = 0x004;
const CPUID_RESPONSE: u64 = 0x005;
const AP_RESET_HOLD_REQUEST: u64 = 0x006;
const AP_RESET_HOLD_RESPONSE: u64 = 0x007;
const REGISTER_GPA_REQUEST: u64 = 0x012;
const REGISTER_GPA_RESPONSE: u64 = 0x013;
const HV_FEATURES_REQUEST: u64 = 0x080;
const HV_FEATURES_RESPONSE: u64 = 0x081;
const TERMINATION_REQUEST: u64 = 0x100;

/// Performs one exchange of the MSR protocol.
pub(crate) trait MsrExchange {
    /// Writes `request` to the GHCB MSR, executes VMGEXIT, and reads the MSR.
    fn exchange(&mut self, request: u64) -> u64;
}

/// The data of a response if it is one to the request that was made.
#[inline(always)]
const fn data(response: u64, expected: u64) -> Result<u64> {
    if response & FUNCTION_MASK == expected {
        Ok(response >> 12)
    } else {
        Err(Error::Vmm)
    }
}

/// What the hypervisor says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SevInfo {
    /// Lowest version of the protocol that it speaks.
    pub(crate) min_version: u16,
    /// Highest version of the protocol that it speaks.
    pub(crate) max_version: u16,
    /// Position of the C-bit. Not to be trusted.
    pub(crate) c_bit: u8,
}

impl SevInfo {
    /// Takes a response apart.
    #[inline(always)]
    pub(crate) const fn parse(response: u64) -> Result<SevInfo> {
        match data(response, SEV_INFO_RESPONSE) {
            Ok(_) => Ok(SevInfo {
                min_version: (response >> 32) as u16,
                max_version: (response >> 48) as u16,
                c_bit: (response >> 24) as u8,
            }),
            Err(error) => Err(error),
        }
    }

    /// The highest version that both sides speak, if there is one.
    #[inline(always)]
    pub(crate) const fn negotiate(self) -> Option<u16> {
        if self.max_version < PROTOCOL_MIN || self.min_version > PROTOCOL_MAX {
            return None;
        }
        // The hypervisor may contradict itself.
        if self.min_version > self.max_version {
            return None;
        }
        if self.max_version < PROTOCOL_MAX {
            Some(self.max_version)
        } else {
            Some(PROTOCOL_MAX)
        }
    }
}

/// Negotiates the version of the protocol.
#[inline(always)]
pub(crate) fn negotiate<M: MsrExchange + ?Sized>(msr: &mut M) -> Option<u16> {
    SevInfo::parse(msr.exchange(SEV_INFO_REQUEST))
        .ok()?
        .negotiate()
}

/// A register of CPUID's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CpuidRegister {
    /// EAX.
    Eax = 0,
    /// EBX.
    Ebx = 1,
    /// ECX.
    Ecx = 2,
    /// EDX.
    Edx = 3,
}

/// Asks for one register of a leaf.
#[inline(always)]
pub(crate) fn cpuid_register<M: MsrExchange + ?Sized>(
    msr: &mut M,
    function: u32,
    register: CpuidRegister,
) -> Result<u32> {
    let request = CPUID_REQUEST | ((register as u64) << 30) | (u64::from(function) << 32);

    Ok((data(msr.exchange(request), CPUID_RESPONSE)? >> 20) as u32)
}

/// True for leaves that depend on ECX (APM vol. 3, appendix E).
#[inline(always)]
const fn is_indexed(function: u32) -> bool {
    matches!(
        function,
        0x4 | 0x7
            | 0xb
            | 0xd
            | 0xf
            | 0x10
            | 0x12
            | 0x14
            | 0x17
            | 0x18
            | 0x1d
            | 0x1e
            | 0x1f
            | 0x23
            | 0x24
            | 0x8000_001d
            | 0x8000_0020
            | 0x8000_0026
    )
}

/// Asks for a leaf. The protocol has no subleaves; asking for one must fail rather than return
/// another.
#[inline(always)]
pub(crate) fn cpuid<M: MsrExchange + ?Sized>(msr: &mut M, leaf: &mut CpuidLeaf) -> Result {
    if is_indexed(leaf.function) && leaf.index != 0 {
        return Err(Error::Unsupported);
    }

    leaf.eax = cpuid_register(msr, leaf.function, CpuidRegister::Eax)?;
    leaf.ebx = cpuid_register(msr, leaf.function, CpuidRegister::Ebx)?;
    leaf.ecx = cpuid_register(msr, leaf.function, CpuidRegister::Ecx)?;
    leaf.edx = cpuid_register(msr, leaf.function, CpuidRegister::Edx)?;
    Ok(())
}

/// The leaf with the range of extended leaves.
const LEAF_EXTENDED_MAX: u32 = 0x8000_0000;
/// The leaf about memory encryption.
const LEAF_ENCRYPTION: u32 = 0x8000_001f;

/// Checks an answer against what is known: a #VC happened, so SEV-ES is active.
///
/// A hypervisor that hides the leaf about memory encryption, or the SEV bit in it, would make the
/// guest map its secrets unencrypted.
#[inline(always)]
pub(crate) const fn cpuid_admits_sev(leaf: &CpuidLeaf) -> bool {
    match leaf.function {
        LEAF_EXTENDED_MAX => leaf.eax >= LEAF_ENCRYPTION,
        LEAF_ENCRYPTION => leaf.eax & (1 << 1) != 0,
        _ => true,
    }
}

/// Asks for the hypervisor's features; 0 if it does not say. Version 2 and later.
#[inline(always)]
pub(crate) fn hv_features<M: MsrExchange + ?Sized>(msr: &mut M, version: u16) -> u64 {
    if version < 2 {
        return 0;
    }
    data(msr.exchange(HV_FEATURES_REQUEST), HV_FEATURES_RESPONSE).unwrap_or_default()
}

/// Registers the address of a GHCB, which SEV-SNP requires. The hypervisor must repeat it.
#[inline(always)]
pub(crate) fn register_ghcb<M: MsrExchange + ?Sized>(msr: &mut M, gpa: u64) -> Result {
    let frame = gpa >> 12;
    let response = msr.exchange(REGISTER_GPA_REQUEST | (frame << 12));

    if data(response, REGISTER_GPA_RESPONSE)? == frame {
        Ok(())
    } else {
        Err(Error::Vmm)
    }
}

/// Parks this CPU. True if a startup IPI ended it.
#[inline(always)]
pub(crate) fn ap_reset_hold<M: MsrExchange + ?Sized>(msr: &mut M) -> Result<bool> {
    Ok(data(msr.exchange(AP_RESET_HOLD_REQUEST), AP_RESET_HOLD_RESPONSE)? != 0)
}

/// Why a guest asks to be terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Termination {
    /// Set 0: general.
    General,
    /// Set 0: no version of the protocol is spoken by both sides.
    ProtocolUnsupported,
    /// Set 0: the hypervisor lacks features that SEV-SNP needs.
    SnpUnsupported,
    /// Set 1 (Linux): the GHCB could not be registered.
    Register,
    /// Set 1: a page could not change its state.
    PageStateChange,
    /// Set 1: a page could not be validated.
    Pvalidate,
    /// Set 1: not at VMPL 0.
    NotVmpl0,
    /// Set 1: the CPUID table is wrong.
    CpuidTable,
    /// Set 1: the hypervisor did not provide a CPUID leaf.
    CpuidHypervisor,
    /// Set 1: Secure TSC could not be set up.
    SecureTsc,
}

impl Termination {
    /// Set and code of the reason.
    #[inline(always)]
    const fn numbers(self) -> (u64, u64) {
        match self {
            Termination::General => (0, 0),
            Termination::ProtocolUnsupported => (0, 1),
            Termination::SnpUnsupported => (0, 2),
            Termination::Register => (1, 0),
            Termination::PageStateChange => (1, 1),
            Termination::Pvalidate => (1, 2),
            Termination::NotVmpl0 => (1, 3),
            Termination::CpuidTable => (1, 4),
            Termination::CpuidHypervisor => (1, 5),
            Termination::SecureTsc => (1, 10),
        }
    }

    /// The request.
    #[inline(always)]
    pub(crate) const fn request(self) -> u64 {
        let (set, code) = self.numbers();

        termination_request(set, code)
    }

    /// The reason in words.
    #[inline(always)]
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Termination::General => "general request",
            Termination::ProtocolUnsupported => "no common version of the GHCB protocol",
            Termination::SnpUnsupported => "the hypervisor lacks features that SEV-SNP needs",
            Termination::Register => "the GHCB could not be registered",
            Termination::PageStateChange => "a page could not change its state",
            Termination::Pvalidate => "a page could not be validated",
            Termination::NotVmpl0 => "not at VMPL 0",
            Termination::CpuidTable => "the CPUID table is wrong",
            Termination::CpuidHypervisor => "the hypervisor did not provide a CPUID leaf",
            Termination::SecureTsc => "Secure TSC could not be set up",
        }
    }
}

/// A request to terminate, with any set and code (those that C code passes).
#[inline(always)]
pub(crate) const fn termination_request(set: u64, code: u64) -> u64 {
    TERMINATION_REQUEST | ((set & 0xf) << 12) | ((code & 0xff) << 16)
}
