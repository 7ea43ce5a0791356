// SPDX-License-Identifier: GPL-2.0
//! A storm: NMIs for all vCPUs at random times, in bursts.
//!
//! There is no timer of its own. Each vCPU looks at each of its exits whether an NMI is due for any
//! vCPU, so that an idle one gets its NMIs as long as some vCPU has exits.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::options::MAX_VCPUS;

/// When the next NMIs of a vCPU come.
#[derive(Default)]
struct Target {
    /// TSC of the next burst; 0 before the first one was planned.
    next: AtomicU64,
    /// State of its random numbers.
    random: AtomicU64,
}

/// A storm, or none.
#[derive(Default)]
pub struct Storm {
    /// As [`Storm::set`] takes it; 0: no storm.
    word: AtomicU32,
    targets: [Target; MAX_VCPUS],
}

impl Storm {
    /// Begins a storm or, by 0, ends it. `word`: bursts per second and vCPU in bits 15:0, further
    /// NMIs of each burst in bits 19:16, seed in bits 31:20.
    pub fn set(&self, word: u32) {
        for (index, target) in self.targets.iter().enumerate() {
            // No two vCPUs alike, and never 0, where the generator would stay.
            let seed = (u64::from(word >> 20) << 8) + index as u64 + 1;
            target
                .random
                .store(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
            target.next.store(0, Ordering::Relaxed);
        }
        let word = if word & 0xffff == 0 { 0 } else { word };
        self.word.store(word, Ordering::Release);
    }

    /// Whether there is a storm.
    pub fn on(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }

    /// NMIs that are due for a vCPU at the TSC `now`. Whoever asks first gets them.
    pub fn due(&self, vcpu: usize, now: u64, tsc_khz: u32) -> u32 {
        let word = self.word.load(Ordering::Acquire);
        let Some(target) = self.targets.get(vcpu) else {
            return 0;
        };
        let next = target.next.load(Ordering::Relaxed);
        if word == 0 || now < next {
            return 0;
        }
        let mut random = target.random.load(Ordering::Relaxed);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Evenly from 0 to twice the mean.
        let mean = u64::from(tsc_khz) * 1000 / u64::from(word & 0xffff);
        let later = now + 1 + random % (2 * mean + 1);
        let mine = target
            .next
            .compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if !mine {
            return 0;
        }
        target.random.store(random, Ordering::Relaxed);
        if next == 0 {
            0
        } else {
            1 + ((word >> 16) & 0xf)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One second of a 1 MHz TSC, looked at each 10 us: NMIs of a vCPU, and when they came.
    fn second(storm: &Storm, vcpu: usize) -> Vec<(u64, u32)> {
        (1..=100_000)
            .map(|n| (n * 10, storm.due(vcpu, n * 10, 1000)))
            .filter(|(_, count)| *count != 0)
            .collect()
    }

    #[test]
    fn no_storm_unless_set() {
        let storm = Storm::default();
        assert!(!storm.on());
        assert!(second(&storm, 0).is_empty());
        storm.set(0x0003_0000);
        assert!(!storm.on(), "a burst without a rate");
        storm.set(100);
        assert!(storm.on());
        storm.set(0);
        assert!(!storm.on());
        assert!(second(&storm, 0).is_empty());
    }

    #[test]
    fn rate_and_burst() {
        let storm = Storm::default();
        storm.set(0x0002_0000 | 1000);
        let times = second(&storm, 0);
        assert!((900..1100).contains(&times.len()), "{}", times.len());
        assert!(times.iter().all(|(_, count)| *count == 3));
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.iter().any(|gap| *gap < 200) && gaps.iter().any(|gap| *gap > 1800));
    }

    #[test]
    fn the_seed_decides() {
        let run = |word, vcpu| {
            let storm = Storm::default();
            storm.set(word);
            second(&storm, vcpu)
        };
        let word = 0x0050_0064;
        assert_eq!(run(word, 1), run(word, 1));
        assert_ne!(run(word, 1), run(word, 2));
        assert_ne!(run(word, 1), run(word + (1 << 20), 1));
    }
}
