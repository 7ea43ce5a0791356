// SPDX-License-Identifier: GPL-2.0
//! Counters of one vCPU, and their report.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use hypervisor::MAX_VCPUS;
use machine::exit;

use crate::cpu;
use crate::log;

/// Exit codes that are counted one by one: below this, and NPF.
const CODES: usize = 0xa0;

/// TSC cycles between two lines that tell the runner that guest and host are alive: a few seconds
/// on any machine.
const HEARTBEAT: u64 = 10_000_000_000;

/// A counter that one CPU writes and another may read.
struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Not an atomic addition: there is one writer.
    fn add(&self, value: u64) {
        self.set(self.get() + value);
    }
}

/// Counters of one vCPU, written by the CPU that runs it.
pub struct Stats {
    codes: [Counter; CODES],
    nested_faults: Counter,
    vc: Counter,
    fused: Counter,
    since: Counter,
    next_beat: Counter,
    since_beat: Counter,
    guest: Counter,
    host: Counter,
}

static STATS: [Stats; MAX_VCPUS] = [const { Stats::new() }; MAX_VCPUS];

impl Stats {
    const fn new() -> Self {
        Self {
            codes: [const { Counter::new() }; CODES],
            nested_faults: Counter::new(),
            vc: Counter::new(),
            fused: Counter::new(),
            since: Counter::new(),
            next_beat: Counter::new(),
            since_beat: Counter::new(),
            guest: Counter::new(),
            host: Counter::new(),
        }
    }

    /// The counters of a vCPU.
    pub fn of(index: usize) -> &'static Self {
        &STATS[index]
    }

    /// The guest is about to run.
    pub fn enter(&self) {
        let now = cpu::rdtsc();
        if self.since.get() != 0 {
            self.host.add(now - self.since.get());
        }
        self.since.set(now);
    }

    /// The guest stopped running.
    pub fn exit(&self) {
        let now = cpu::rdtsc();
        self.guest.add(now - self.since.get());
        self.since.set(now);
        if now >= self.next_beat.get() {
            self.next_beat.set(now + HEARTBEAT);
            log!("alive exits={}", self.since_beat.get());
            self.since_beat.set(0);
        }
    }

    /// Counts an exit.
    pub fn count(&self, code: u64) {
        self.since_beat.add(1);
        if code == exit::NPF {
            self.nested_faults.add(1);
        } else if let Some(counter) = self.codes.get(code as usize) {
            counter.add(1);
        }
    }

    /// Counts a #VC delivered.
    pub fn vc(&self) {
        self.vc.add(1);
    }

    /// Counts a GHCB write and VMGEXIT that took one exit.
    pub fn fused(&self) {
        self.fused.add(1);
    }

    fn report(&self, index: usize) {
        let codes = self
            .codes
            .iter()
            .enumerate()
            .map(|(code, n)| (code as u64, n.get()));
        let mut total = 0;
        for (code, count) in codes.chain([(exit::NPF, self.nested_faults.get())]) {
            total += count;
            if count != 0 {
                let name = exit::name(code).unwrap_or("other");
                log!("report exit vcpu={index} name={name} code={code:#x} count={count}");
            }
        }
        log!(
            "report machine vcpu={index} exits={total} vc={} fused={} guest-tsc={} host-tsc={}",
            self.vc.get(),
            self.fused.get(),
            self.guest.get(),
            self.host.get()
        );
    }
}

/// Logs the counters of all vCPUs.
pub fn report(vcpus: usize) {
    for (index, stats) in STATS.iter().enumerate().take(vcpus) {
        stats.report(index);
    }
}
