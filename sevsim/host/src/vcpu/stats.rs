// SPDX-License-Identifier: GPL-2.0
//! Counters of one vCPU, and their report.

use hypervisor::MAX_VCPUS;
use machine::exit;

use crate::cpu;
use crate::log;

/// Exit codes that are counted one by one: below this, and NPF.
const CODES: usize = 0xa0;

/// TSC cycles between two lines that tell the runner that guest and host are alive: a few seconds
/// on any machine.
const HEARTBEAT: u64 = 10_000_000_000;

/// Counters of one vCPU.
pub struct Stats {
    codes: [u64; CODES],
    nested_faults: u64,
    vc: u64,
    fused: u64,
    since: u64,
    next_beat: u64,
    since_beat: u64,
    guest: u64,
    host: u64,
}

static mut STATS: [Stats; MAX_VCPUS] = [const { Stats::new() }; MAX_VCPUS];

impl Stats {
    const fn new() -> Self {
        let codes = [0; CODES];
        Self {
            codes,
            nested_faults: 0,
            vc: 0,
            fused: 0,
            since: 0,
            next_beat: 0,
            since_beat: 0,
            guest: 0,
            host: 0,
        }
    }

    /// The counters of a vCPU, for the CPU that runs it.
    pub fn of(index: usize) -> &'static mut Self {
        // SAFETY: called once for each index, by the CPU that alone writes these counters. Reports
        // read them racily, each a single word.
        unsafe { &mut *(&raw mut STATS[index]) }
    }

    /// The guest is about to run.
    pub fn enter(&mut self) {
        let now = cpu::rdtsc();
        if self.since != 0 {
            self.host += now - self.since;
        }
        self.since = now;
    }

    /// The guest stopped running.
    pub fn exit(&mut self) {
        let now = cpu::rdtsc();
        self.guest += now - self.since;
        self.since = now;
        if now >= self.next_beat {
            self.next_beat = now + HEARTBEAT;
            log!("alive exits={}", self.since_beat);
            self.since_beat = 0;
        }
    }

    /// Counts an exit.
    pub fn count(&mut self, code: u64) {
        self.since_beat += 1;
        if code == exit::NPF {
            self.nested_faults += 1;
        } else if let Some(counter) = self.codes.get_mut(code as usize) {
            *counter += 1;
        }
    }

    /// Counts a #VC delivered.
    pub fn vc(&mut self) {
        self.vc += 1;
    }

    /// Counts a GHCB write and VMGEXIT that took one exit.
    pub fn fused(&mut self) {
        self.fused += 1;
    }
}

/// Logs the counters of all vCPUs.
pub fn report(vcpus: usize) {
    for index in 0..vcpus {
        // SAFETY: reads single words that another CPU may be counting up.
        let stats = unsafe { &*(&raw const STATS[index]) };
        let mut total = stats.nested_faults;
        for (code, count) in stats.codes.iter().enumerate() {
            total += count;
            if *count != 0 {
                match exit::name(code as u64) {
                    Some(name) => log!("report exits vcpu={index} {name}={count}"),
                    None => log!("report exits vcpu={index} code={code:#x} count={count}"),
                }
            }
        }
        log!("report exits vcpu={index} npf={}", stats.nested_faults);
        log!(
            "report machine vcpu={index} exits={total} vc={} fused={} guest-tsc={} host-tsc={}",
            stats.vc,
            stats.fused,
            stats.guest,
            stats.host
        );
    }
}
