// SPDX-License-Identifier: GPL-2.0
//! The log: whole lines to the debug console (port 0xe9).

use core::fmt;
use core::fmt::Write;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;

use crate::cpu;

/// Bochs' and QEMU's debug console.
pub const PORT: u16 = 0xe9;

static BUSY: AtomicBool = AtomicBool::new(false);

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            cpu::out8(PORT, byte);
        }
        Ok(())
    }
}

/// Writes one line, not mixed with those of other CPUs.
pub fn line(text: fmt::Arguments<'_>) {
    // A CPU that dies while it holds the lock must not silence the report: give up after a while.
    for _ in 0..10_000_000u32 {
        if !BUSY.swap(true, Ordering::Acquire) {
            break;
        }
        core::hint::spin_loop();
    }
    // The console cannot fail.
    let _ = Console.write_fmt(format_args!("sevsim: {text}\n"));
    BUSY.store(false, Ordering::Release);
}

/// Writes one line to the log.
#[macro_export]
macro_rules! log {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}

/// Reports an error of the host or its set-up and ends the machine.
#[macro_export]
macro_rules! fatal {
    ($($arg:tt)*) => { $crate::stop::fatal(format_args!($($arg)*)) };
}
