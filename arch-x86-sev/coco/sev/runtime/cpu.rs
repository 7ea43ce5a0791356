// SPDX-License-Identifier: GPL-2.0

//! Registers of the CPU that the handler reads, and the proof that interrupts are off. None of
//! these accesses raises #VC, but for [`rdmsr`] of an intercepted MSR.

use core::{
    arch::asm,
    marker::PhantomData, //
};

use kernel::{
    interrupt::LocalInterruptDisabled,
    warn_on, //
};

/// CR4.LA57: five-level paging.
const CR4_LA57: u64 = 1 << 12;
/// CR4.OSXSAVE: XGETBV may be used.
const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4.PKE: protection keys of user pages.
const CR4_PKE: u64 = 1 << 22;

/// CR4.
#[inline]
pub(crate) fn cr4() -> u64 {
    let value;

    // SAFETY: Reading CR4 has no side effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) };
    value
}

/// CR3.
#[inline]
pub(crate) fn cr3() -> u64 {
    let value;

    // SAFETY: Reading CR3 has no side effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack)) };
    value
}

/// Number of significant bits of a linear address.
#[inline]
pub(crate) fn linear_bits() -> u32 {
    if cr4() & CR4_LA57 != 0 {
        57
    } else {
        48
    }
}

/// XCR0, or its value at reset if XGETBV cannot be used yet.
#[inline]
pub(crate) fn xcr0() -> u64 {
    if cr4() & CR4_OSXSAVE == 0 {
        return 1;
    }

    let (low, high): (u32, u32);

    // SAFETY: OSXSAVE is set, so XGETBV of XCR0 is valid; it has no side effect.
    unsafe {
        asm!(
            "xgetbv",
            in("ecx") 0,
            out("eax") low,
            out("edx") high,
            options(nomem, nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// The rights that PKRU takes from user pages, by their protection keys; `None` if there are no
/// such keys. They hold for accesses of the kernel to these pages, too.
#[inline]
pub(crate) fn pkru() -> Option<u32> {
    if cr4() & CR4_PKE == 0 {
        return None;
    }

    let value;

    // SAFETY: CR4.PKE is set, so that RDPKRU is valid; it has no side effect but to clear EDX.
    unsafe {
        asm!(
            "rdpkru",
            in("ecx") 0,
            out("eax") value,
            out("edx") _,
            options(nomem, nostack, preserves_flags),
        );
    }
    Some(value)
}

/// Sets PKRU.
///
/// # Safety
///
/// CR4.PKE must be set. User space must not run before the value that it knows is restored.
#[inline]
pub(crate) unsafe fn set_pkru(value: u32) {
    // SAFETY: By the contract of the function. Accesses to memory stay on their side, since the
    // block may access memory as far as the compiler knows.
    unsafe {
        asm!(
            "wrpkru",
            in("eax") value,
            in("ecx") 0,
            in("edx") 0,
            options(nostack, preserves_flags),
        );
    }
}

/// Proof that interrupts are off on this CPU as long as `'a` lasts.
///
/// It takes no space, and like the token it borrows it stays on its CPU.
#[derive(Clone, Copy)]
pub(crate) struct IrqsOff<'a>(PhantomData<&'a LocalInterruptDisabled>);

impl IrqsOff<'_> {
    /// For exception handlers and the like, where entry code or hardware turned interrupts off.
    ///
    /// Kernels with lockdep check this. [`LocalInterruptDisabled::assume_disabled`] would, too, but
    /// by a function that is instrumented, and the first #VC exceptions come before KASAN has its
    /// shadow memory. Without lockdep it would be a call of an empty function for each #VC.
    ///
    /// # Safety
    ///
    /// Interrupts must be off, and stay so as long as the value is used.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        if cfg!(CONFIG_PROVE_LOCKING) {
            warn_on!(interrupts_enabled());
        }
        IrqsOff(PhantomData)
    }
}

impl<'a> From<&'a LocalInterruptDisabled> for IrqsOff<'a> {
    #[inline(always)]
    fn from(_: &'a LocalInterruptDisabled) -> Self {
        IrqsOff(PhantomData)
    }
}

/// True if interrupts are on.
#[inline(always)]
pub(crate) fn interrupts_enabled() -> bool {
    const RFLAGS_IF: u64 = 1 << 9;
    let flags: u64;

    // SAFETY: Reads RFLAGS through the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & RFLAGS_IF != 0
}

/// Reads an MSR. An intercepted one raises a nested #VC.
///
/// # Safety
///
/// The MSR must exist.
#[inline]
pub(crate) unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);

    // SAFETY: By the contract of the function.
    unsafe {
        asm!(
            "rdmsr",
            in("ecx") msr,
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// The TSC, not before preceding loads.
#[inline]
pub(crate) fn rdtsc_ordered() -> u64 {
    let (low, high): (u32, u32);

    // SAFETY: Reading the TSC has no side effect.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes CR2, as hardware does before it raises a page fault.
#[inline]
pub(crate) fn write_cr2(address: u64) {
    // SAFETY: CR2 only reports.
    unsafe { asm!("mov cr2, {}", in(reg) address, options(nomem, nostack)) };
}
