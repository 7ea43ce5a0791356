// SPDX-License-Identifier: GPL-2.0
//! Counts of what the guest asked, by event and vCPU.

use crate::atomic::Word;
use crate::exit::code;

/// Events that are counted by name.
const EVENTS: [(u64, &str); 21] = [
    (code::DR7_READ, "dr7-read"),
    (code::DR7_WRITE, "dr7-write"),
    (code::RDTSC, "rdtsc"),
    (code::RDPMC, "rdpmc"),
    (code::CPUID, "cpuid"),
    (code::INVD, "invd"),
    (code::IOIO, "ioio"),
    (code::MSR, "msr"),
    (code::VMMCALL, "vmmcall"),
    (code::RDTSCP, "rdtscp"),
    (code::WBINVD, "wbinvd"),
    (code::MONITOR, "monitor"),
    (code::MWAIT, "mwait"),
    (code::MMIO_READ, "mmio-read"),
    (code::MMIO_WRITE, "mmio-write"),
    (code::NMI_COMPLETE, "nmi-complete"),
    (code::AP_RESET_HOLD, "ap-reset-hold"),
    (code::AP_JUMP_TABLE, "ap-jump-table"),
    (code::HV_FEATURES, "hv-features"),
    (code::TERM_REQUEST, "term-request"),
    (code::UNSUPPORTED_EVENT, "unsupported-event"),
];

/// Counters of one vCPU; only that vCPU adds to them.
#[derive(Default)]
pub struct Stats {
    nae: [Word; EVENTS.len()],
    other: Word,
    /// Requests by the MSR protocol.
    pub msr_protocol: Word,
    /// Bytes moved by string I/O.
    pub string_bytes: Word,
    /// Bytes moved by MMIO.
    pub mmio_bytes: Word,
    /// NMIs given out for injection.
    pub nmis: Word,
}

impl Stats {
    /// Counts an event.
    pub fn count_nae(&self, event: u64) {
        match slot(event) {
            Some(slot) => self.nae[slot].add(1),
            None => self.other.add(1),
        }
    }

    /// Name and count of each kind of request that occurred.
    pub fn nonzero(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let named = EVENTS
            .iter()
            .zip(&self.nae)
            .map(|((_, name), count)| (*name, count.get()));
        named
            .chain([
                ("other", self.other.get()),
                ("msr-protocol", self.msr_protocol.get()),
            ])
            .filter(|(_, count)| *count != 0)
    }
}

/// The counter of an event; a dense match, for a search would cost on each exit.
fn slot(event: u64) -> Option<usize> {
    Some(match event {
        code::DR7_READ => 0,
        code::DR7_WRITE => 1,
        code::RDTSC => 2,
        code::RDPMC => 3,
        code::CPUID => 4,
        code::INVD => 5,
        code::IOIO => 6,
        code::MSR => 7,
        code::VMMCALL => 8,
        code::RDTSCP => 9,
        code::WBINVD => 10,
        code::MONITOR => 11,
        code::MWAIT => 12,
        code::MMIO_READ => 13,
        code::MMIO_WRITE => 14,
        code::NMI_COMPLETE => 15,
        code::AP_RESET_HOLD => 16,
        code::AP_JUMP_TABLE => 17,
        code::HV_FEATURES => 18,
        code::TERM_REQUEST => 19,
        code::UNSUPPORTED_EVENT => 20,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_counts_under_its_name() {
        for (i, (event, name)) in EVENTS.iter().enumerate() {
            assert_eq!(slot(*event), Some(i));
            let stats = Stats::default();
            stats.count_nae(*event);
            stats.count_nae(*event);
            assert_eq!(stats.nonzero().collect::<Vec<_>>(), [(*name, 2)]);
        }
        let stats = Stats::default();
        stats.count_nae(code::PSC);
        stats.msr_protocol.add(3);
        let want = [("other", 1), ("msr-protocol", 3)];
        assert_eq!(stats.nonzero().collect::<Vec<_>>(), want);
    }
}
