// SPDX-License-Identifier: GPL-2.0
//! Counters of one vCPU, and their report.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use hypervisor::Stage;
use hypervisor::MAX_VCPUS;
use machine::exit;
use machine::isolation::Reason;

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

/// Counters of one stage of the guest's boot.
struct StageStats {
    codes: [Counter; CODES],
    nested_faults: Counter,
    vc: Counter,
    msr_protocol: Counter,
    ghcb: Counter,
}

impl StageStats {
    const fn new() -> Self {
        Self {
            codes: [const { Counter::new() }; CODES],
            nested_faults: Counter::new(),
            vc: Counter::new(),
            msr_protocol: Counter::new(),
            ghcb: Counter::new(),
        }
    }

    fn report(&self, index: usize, stage: &str) {
        for (code, count) in nonzero(&self.codes, &self.nested_faults) {
            let name = exit::name(code).unwrap_or("other");
            log!("report vc vcpu={index} stage={stage} name={name} count={count}");
        }
    }
}

/// Code and count of what occurred.
fn nonzero<'a>(
    codes: &'a [Counter; CODES],
    nested_faults: &Counter,
) -> impl Iterator<Item = (u64, u64)> + 'a {
    let codes = codes.iter().enumerate();
    codes
        .map(|(code, n)| (code as u64, n.get()))
        .chain([(exit::NPF, nested_faults.get())])
        .filter(|(_, count)| *count != 0)
}

/// Counters of one vCPU, written by the CPU that runs it. What each exit counts is on one page.
#[repr(C, align(4096))]
pub struct Stats {
    fused: Counter,
    since: Counter,
    next_beat: Counter,
    since_beat: Counter,
    guest: Counter,
    host: Counter,
    switch_cost: Counter,
    nested_faults: Counter,
    /// Of address space isolation.
    pub isolation: IsolationStats,
    codes: [Counter; CODES],
    stages: [StageStats; Stage::ALL.len()],
}

/// What a vCPU counts of address space isolation.
pub struct IsolationStats {
    left: [Counter; Reason::ALL.len()],
    exits_left: Counter,
    requests: Counter,
    requests_left: Counter,
    kicks: Counter,
    waits: Counter,
}

impl IsolationStats {
    const fn new() -> Self {
        Self {
            left: [const { Counter::new() }; Reason::ALL.len()],
            exits_left: Counter::new(),
            requests: Counter::new(),
            requests_left: Counter::new(),
            kicks: Counter::new(),
            waits: Counter::new(),
        }
    }

    /// The isolated space was left.
    pub fn left(&self, reason: Reason) {
        self.left[reason as usize].add(1);
    }

    /// An exit is over that was not handled in it alone.
    pub fn exit_left(&self) {
        self.exits_left.add(1);
    }

    /// A VMGEXIT was handled, in it alone or not.
    pub fn request(&self, left: bool) {
        self.requests.add(1);
        self.requests_left.add(left.into());
    }

    /// Another vCPU was told that this one left.
    pub fn kick(&self) {
        self.kicks.add(1);
    }

    /// This vCPU waited for another one that had left.
    pub fn wait(&self) {
        self.waits.add(1);
    }

    fn report(&self, index: usize, exits: u64) {
        for (reason, count) in Reason::ALL.iter().zip(&self.left) {
            let (name, count) = (reason.name(), count.get());
            if count != 0 {
                log!("report asi-left vcpu={index} reason={name} count={count}");
            }
        }
        log!(
            "report asi vcpu={index} exits={exits} exits-left={} requests={} requests-left={} \
             kicks={} waits={}",
            self.exits_left.get(),
            self.requests.get(),
            self.requests_left.get(),
            self.kicks.get(),
            self.waits.get(),
        );
    }
}

static STATS: [Stats; MAX_VCPUS] = [const { Stats::new() }; MAX_VCPUS];

impl Stats {
    const fn new() -> Self {
        Self {
            codes: [const { Counter::new() }; CODES],
            nested_faults: Counter::new(),
            isolation: IsolationStats::new(),
            stages: [const { StageStats::new() }; Stage::ALL.len()],
            fused: Counter::new(),
            since: Counter::new(),
            next_beat: Counter::new(),
            since_beat: Counter::new(),
            guest: Counter::new(),
            host: Counter::new(),
            switch_cost: Counter::new(),
        }
    }

    /// The counters of a vCPU.
    pub fn of(index: usize) -> &'static Self {
        &STATS[index]
    }

    /// From now on the host's work counts.
    pub fn start(&self) {
        self.since.set(cpu::rdtsc());
    }

    /// The guest is about to run.
    pub fn enter(&self) {
        let now = cpu::rdtsc();
        self.host.add(now - self.since.get());
        self.since.set(now);
    }

    /// The guest stopped running.
    pub fn exit(&self) {
        let now = cpu::rdtsc();
        self.guest
            .add(now - self.since.get() - self.switch_cost.get());
        self.since.set(now);
        if now >= self.next_beat.get() {
            self.beat(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn beat(&self, now: u64) {
        self.next_beat.set(now + HEARTBEAT);
        log!("alive exits={}", self.since_beat.get());
        self.since_beat.set(0);
    }

    /// TSC cycles that the guest ran.
    pub fn guest(&self) -> u64 {
        self.guest.get()
    }

    /// After [`Stats::enter`]: what to add to the TSC for it to stand still while the host runs.
    /// The end of the switch is counted too early, but so by each reading.
    pub fn guest_tsc_offset(&self) -> u64 {
        self.guest
            .get()
            .wrapping_sub(self.since.get() + self.switch_cost.get())
    }

    /// Takes the one entry so far, into a guest that did not run, for the cost of a switch. QEMU
    /// does not count a VMRUN that fails.
    pub fn calibrate(&self) {
        self.switch_cost.set(self.guest.get() + 1);
        self.guest.set(0);
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

    /// Counts a #VC delivered; gives the count in its stage.
    pub fn vc(&self, stage: Stage, code: u64) -> u64 {
        let stage = &self.stages[stage as usize];
        if code == exit::NPF {
            stage.nested_faults.add(1);
        } else if let Some(counter) = stage.codes.get(code as usize) {
            counter.add(1);
        }
        stage.vc.add(1);
        stage.vc.get()
    }

    /// Counts a VMGEXIT, by what the GHCB MSR holds.
    pub fn request(&self, stage: Stage, ghcb_msr: u64) {
        let stage = &self.stages[stage as usize];
        if ghcb_msr & 0xfff == 0 {
            stage.ghcb.add(1);
        } else {
            stage.msr_protocol.add(1);
        }
    }

    /// The stages that occurred.
    fn named_stages(&self) -> impl Iterator<Item = (&StageStats, &'static str)> {
        let named = self.stages.iter().zip(Stage::ALL.map(Stage::name));
        named.filter(|(stage, _)| stage.vc.get() + stage.msr_protocol.get() + stage.ghcb.get() != 0)
    }

    /// Counts a GHCB write and VMGEXIT that took one exit.
    pub fn fused(&self) {
        self.fused.add(1);
    }

    fn report(&self, index: usize, isolated: bool) {
        let mut total = 0;
        for (code, count) in nonzero(&self.codes, &self.nested_faults) {
            total += count;
            let name = exit::name(code).unwrap_or("other");
            log!("report exit vcpu={index} name={name} code={code:#x} count={count}");
        }
        let mut vc = 0;
        for (stage, name) in self.named_stages() {
            vc += stage.vc.get();
            stage.report(index, name);
        }
        for (stage, name) in self.named_stages() {
            log!(
                "report stage vcpu={index} name={name} count={} msr-protocol={} ghcb={}",
                stage.vc.get(),
                stage.msr_protocol.get(),
                stage.ghcb.get()
            );
        }
        log!(
            "report machine vcpu={index} exits={total} vc={} fused={} guest-tsc={} host-tsc={}",
            vc,
            self.fused.get(),
            self.guest.get(),
            self.host.get()
        );
        if isolated {
            self.isolation.report(index, total);
        }
    }
}

/// Logs the counters of all vCPUs.
pub fn report(vcpus: usize, isolated: bool) {
    for (index, stats) in STATS.iter().enumerate().take(vcpus) {
        stats.report(index, isolated);
    }
}
