// SPDX-License-Identifier: GPL-2.0
//! The TSC's frequency, measured against channel 2 of the PIT.

use crate::cpu;

/// Frequency of the PIT.
const PIT_HZ: u64 = 1_193_182;
/// Ticks to measure over, well below the counter's 65536.
const TICKS: u64 = PIT_HZ / 33;
/// Readings of which the quickest counts.
const TRIES: usize = 12;

/// A moment by both clocks.
struct Moment {
    tsc: u64,
    ticks: u64,
}

/// Starts the counter at its maximum, counting down.
fn start() {
    cpu::out8(0x61, cpu::in8(0x61) & !3 | 1);
    // Channel 2, both bytes, mode 0.
    cpu::out8(0x43, 0xb0);
    cpu::out8(0x42, 0xff);
    cpu::out8(0x42, 0xff);
}

/// Ticks since [`start`].
fn ticks() -> u64 {
    cpu::out8(0x43, 0x80);
    let low = u64::from(cpu::in8(0x42));
    let high = u64::from(cpu::in8(0x42));
    0xffff - ((high << 8) | low)
}

/// A reading whose two clocks are as close together as this machine can read them. The thread
/// that runs this CPU may lose its processor in the middle of any one reading.
fn moment() -> Moment {
    let mut best = Moment { tsc: 0, ticks: 0 };
    let mut shortest = u64::MAX;
    for _ in 0..TRIES {
        let before = cpu::rdtsc();
        let ticks = ticks();
        let after = cpu::rdtsc();
        if after - before < shortest {
            shortest = after - before;
            best = Moment {
                tsc: before + shortest / 2,
                ticks,
            };
        }
    }
    best
}

/// Measures the TSC's frequency in kHz.
pub fn measure_tsc_khz() -> u32 {
    loop {
        start();
        let first = moment();
        while ticks() < first.ticks + TICKS {
            core::hint::spin_loop();
        }
        let last = moment();
        // The counter's output rises when it ran out: then it has wrapped, so start over.
        let wrapped = cpu::in8(0x61) & 0x20 != 0;
        if !wrapped && last.ticks > first.ticks {
            let cycles = last.tsc - first.tsc;
            return (cycles * PIT_HZ / (last.ticks - first.ticks) / 1000) as u32;
        }
    }
}
