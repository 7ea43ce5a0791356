// SPDX-License-Identifier: GPL-2.0
//! Instructions of the physical CPU.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::arch::x86_64::_rdtsc;

extern "C" {
    fn msr_read(msr: u32, value: *mut u64) -> u32;
    fn msr_write(msr: u32, value: u64) -> u32;
}

/// Reads an MSR; `None` if the CPU refuses.
pub fn rdmsr(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the routine writes `value` and survives #GP.
    let faulted = unsafe { msr_read(msr, &mut value) };
    (faulted == 0).then_some(value)
}

/// Writes an MSR; false if the CPU refuses.
///
/// Callers pass on what the guest asks for its own CPU, or set up SVM: neither touches the host's
/// memory safety, which rests on CR3 and EFER alone.
pub fn wrmsr(msr: u32, value: u64) -> bool {
    // SAFETY: see above; the routine survives #GP.
    unsafe { msr_write(msr, value) == 0 }
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    // SAFETY: every 64-bit CPU has CPUID.
    let r = unsafe { __cpuid_count(leaf, subleaf) };
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// CR3.
pub fn cr3() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Loads CR3.
///
/// # Safety
/// The new tables map all that is used from here on as the old ones do.
pub unsafe fn set_cr3(value: u64) {
    // SAFETY: by the caller.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Time-stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: CR4.TSD is clear in the host.
    unsafe { _rdtsc() }
}

/// Port write, 1 byte.
pub fn out8(port: u16, value: u8) {
    // SAFETY: port accesses reach devices only.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

/// Port write, 2 bytes.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) }
}

/// Port write, 4 bytes. Not `nomem`: the write may start a DMA transfer.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as above; DMA goes where the guest or fw_cfg's set-up says, which is shared memory.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) }
}

/// Port read, 1 byte.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// Port read, 2 bytes.
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack)) }
    value
}

/// Port read, 4 bytes.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) }
    value
}

/// Sets the global interrupt flag to 0: neither interrupts nor NMIs until VMRUN or STGI.
pub fn clgi() {
    // SAFETY: EFER.SVME is set; masking events is always sound.
    unsafe { asm!("clgi", options(nomem, nostack)) }
}

/// Halts for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: nothing is left to do on this CPU.
        unsafe { asm!("hlt", options(nomem, nostack)) }
    }
}

/// VMSAVE: FS, GS, TR, LDTR and the system call MSRs into the VMCB at `pa`.
///
/// # Safety
/// `pa` is a page that is a VMCB and nothing else.
pub unsafe fn vmsave(pa: u64) {
    // SAFETY: by the caller.
    unsafe { asm!("vmsave rax", in("rax") pa, options(nostack)) }
}

/// VMLOAD: the reverse.
///
/// # Safety
/// As [`vmsave`]; the host itself depends on none of this state.
pub unsafe fn vmload(pa: u64) {
    // SAFETY: by the caller.
    unsafe { asm!("vmload rax", in("rax") pa, options(nostack)) }
}
