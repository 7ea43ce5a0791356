// SPDX-License-Identifier: GPL-2.0
//! The physical local APIC: start of the other CPUs, and the NMIs that wake them.

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;

use crate::cpu;
use crate::isolation;
use crate::memory;
use crate::memory::direct;

const APIC_BASE_MSR: u32 = 0x1b;
const X2APIC_ENABLED: u64 = 1 << 10;
const X2APIC_ICR: u32 = 0x830;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const X2APIC: u32 = 0x800;
const END_OF_INTERRUPT: u64 = 0xb0;
const IN_SERVICE: core::ops::Range<u64> = 0x100..0x180;
const TIMER: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;
const NMI: u32 = 0x4400;

/// Where boot.S expects its real-mode code, and in that page the CR3 to load.
const TRAMPOLINE: u64 = 0x8000;
const TRAMPOLINE_CR3: u64 = TRAMPOLINE + 0xff8;

static ARRIVED: AtomicUsize = AtomicUsize::new(0);

extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
}

/// Register of the memory-mapped APIC.
fn register(base: u64, offset: u64) -> *mut u32 {
    let pa = (base & 0x000f_ffff_ffff_f000) + offset;
    if isolation::started() {
        isolation::device(pa).cast()
    } else {
        direct(pa).cast()
    }
}

/// Sends an interprocessor interrupt to one CPU. The guest's view of the ICR is kept.
fn send(apic_id: usize, command: u32) {
    let Some(base) = cpu::rdmsr(APIC_BASE_MSR) else {
        return;
    };
    if base & X2APIC_ENABLED != 0 {
        cpu::wrmsr(X2APIC_ICR, ((apic_id as u64) << 32) | u64::from(command));
        return;
    }
    let (low, high) = (register(base, ICR_LOW), register(base, ICR_HIGH));
    // SAFETY: the APIC's registers; the destination half is put back for the guest, which writes
    // the two halves one after the other.
    unsafe {
        let saved = high.read_volatile();
        high.write_volatile((apic_id as u32) << 24);
        low.write_volatile(command);
        high.write_volatile(saved);
    }
}

/// Reads a register of this CPU's APIC, by its offset in the page.
fn read(offset: u64) -> u32 {
    let base = cpu::rdmsr(APIC_BASE_MSR).unwrap_or(0);
    if base & X2APIC_ENABLED != 0 {
        return cpu::rdmsr(X2APIC + (offset >> 4) as u32).unwrap_or(0) as u32;
    }
    // SAFETY: a register of the APIC.
    unsafe { register(base, offset).read_volatile() }
}

/// Writes a register of this CPU's APIC.
fn write(offset: u64, value: u32) {
    let base = cpu::rdmsr(APIC_BASE_MSR).unwrap_or(0);
    if base & X2APIC_ENABLED != 0 {
        cpu::wrmsr(X2APIC + (offset >> 4) as u32, value.into());
        return;
    }
    // SAFETY: as above.
    unsafe { register(base, offset).write_volatile(value) }
}

/// The timer of this CPU's APIC, for a guest that is put back to an earlier state.
#[derive(Clone, Copy, Default)]
pub struct Timer {
    control: u32,
    count: u32,
}

impl Timer {
    /// As it is set.
    pub fn now() -> Self {
        Self {
            control: read(TIMER),
            count: read(INITIAL_COUNT),
        }
    }

    /// Sets it again, and ends the interrupts in service: in the earlier state there were none.
    pub fn restore(self) {
        for _ in 0..256 {
            if IN_SERVICE.step_by(0x10).all(|offset| read(offset) == 0) {
                break;
            }
            write(END_OF_INTERRUPT, 0);
        }
        write(TIMER, self.control);
        write(INITIAL_COUNT, self.count);
    }
}

/// Wakes a CPU by NMI.
pub fn kick(apic_id: usize) {
    send(apic_id, NMI);
}

/// Notes that an AP runs on the moved image.
pub fn ap_arrived() {
    ARRIVED.fetch_add(1, Ordering::AcqRel);
}

/// Waits about `us` microseconds by the ISA bus's fixed access time, close enough for IPIs.
fn pause(us: u32) {
    for _ in 0..us {
        cpu::out8(0x80, 0);
    }
}

/// Starts CPUs 1 to `count` - 1. They end up in `host_ap` with `cr3` loaded.
pub fn start_others(count: usize, cr3: u64) {
    if count <= 1 {
        return;
    }
    // SAFETY: the trampoline's code, position independent within its page; the page is low RAM
    // that the guest does not own yet.
    unsafe {
        let (start, end) = (&raw const ap_trampoline, &raw const ap_trampoline_end);
        let len = end as usize - start as usize;
        core::ptr::copy_nonoverlapping(start, direct(TRAMPOLINE), len);
        direct(TRAMPOLINE_CR3).cast::<u64>().write(cr3);
    }
    for apic_id in 1..count {
        send(apic_id, INIT);
    }
    pause(10_000);
    for apic_id in 1..count {
        send(apic_id, STARTUP | (TRAMPOLINE >> 12) as u32);
    }
    let deadline = cpu::rdtsc() + 20_000_000_000;
    while ARRIVED.load(Ordering::Acquire) < count - 1 {
        if cpu::rdtsc() > deadline {
            crate::fatal!(
                "only {} of {} CPUs started: give QEMU -smp {} or more",
                ARRIVED.load(Ordering::Acquire) + 1,
                count,
                count
            );
        }
        core::hint::spin_loop();
    }
    memory::wipe(TRAMPOLINE, TRAMPOLINE + 4096);
}
