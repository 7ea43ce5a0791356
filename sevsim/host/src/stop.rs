// SPDX-License-Identifier: GPL-2.0
//! The end of a run: the event's line, the report, and QEMU's exit.

use core::fmt;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;

use machine::isolation::Reason;

use crate::cpu;
use crate::isolation;
use crate::log;
use crate::world;

/// QEMU's isa-debug-exit device; QEMU's exit status is twice the value plus one.
const DEBUG_EXIT: u16 = 0xf4;

/// What the exit status says.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// The guest switched itself off (status 17).
    PowerOff = 0x08,
    /// It asked for a reset (19).
    Reset = 0x09,
    /// It terminated itself by the GHCB protocol (21).
    Terminate = 0x0a,
    /// Triple fault (23).
    TripleFault = 0x0b,
    /// Error of the host or its set-up (25).
    Fatal = 0x0c,
}

static ENDED: AtomicBool = AtomicBool::new(false);

/// Logs the event, the report, and ends QEMU. Only the first CPU to come here does so.
pub fn end(verdict: Verdict, event: fmt::Arguments<'_>) -> ! {
    if ENDED.swap(true, Ordering::AcqRel) {
        cpu::halt();
    }
    isolation::leave(Reason::Report);
    log!("event {event}");
    if let Some(world) = world::get() {
        world.report();
    }
    cpu::out8(DEBUG_EXIT, verdict as u8);
    log!("no isa-debug-exit device at port 0xf4: end QEMU by hand");
    cpu::halt()
}

/// Ends with the event `fatal`.
pub fn fatal(text: fmt::Arguments<'_>) -> ! {
    if ENDED.swap(true, Ordering::AcqRel) {
        cpu::halt();
    }
    isolation::leave(Reason::Report);
    log!("event fatal text={text}");
    cpu::out8(DEBUG_EXIT, Verdict::Fatal as u8);
    cpu::halt()
}
