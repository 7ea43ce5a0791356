// SPDX-License-Identifier: GPL-2.0
//! KVM's clock (Documentation/virt/kvm/x86/msr.rst): how the guest learns the TSC's frequency.
//!
//! TSC and system time start together when the VM is set up and run at a fixed ratio, so one
//! structure serves all vCPUs and is written once, when the guest registers its address.

use crate::atomic::Word;
use crate::platform::{NotRam, Platform, Use};

const NANOSECONDS: u64 = 1_000_000_000;

/// PVCLOCK_TSC_STABLE_BIT: all vCPUs read the same clock.
const TSC_STABLE: u8 = 1;

/// Nanoseconds from TSC ticks: shift first, then multiply and take the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Multiplier, a fraction of 2^32.
    pub mul: u32,
    /// Left shift if positive, right shift if negative.
    pub shift: i8,
}

impl Scale {
    /// For a frequency in kHz, which must not be 0.
    pub fn of_khz(khz: u32) -> Self {
        let mut hz = u64::from(khz.max(1)) * 1000;
        let mut shift = 0;
        // Bring the shifted rate into (10^9, 2 * 10^9]: mul is then at least 2^31, the most precise
        // that fits.
        while hz > 2 * NANOSECONDS {
            hz >>= 1;
            shift -= 1;
        }
        while hz <= NANOSECONDS {
            hz <<= 1;
            shift += 1;
        }
        Self {
            mul: ((NANOSECONDS << 32) / hz) as u32,
            shift,
        }
    }

    /// What the guest computes.
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 {
            ticks >> -self.shift
        } else {
            ticks << self.shift
        };
        ((u128::from(shifted) * u128::from(self.mul)) >> 32) as u64
    }
}

/// The VM's clock.
pub struct Clock {
    start: u64,
    scale: Scale,
    /// What the guest last wrote to MSR_KVM_WALL_CLOCK_NEW.
    pub wall_clock_msr: Word,
}

impl Clock {
    /// A clock that starts now.
    pub fn start<P: Platform>(platform: &P) -> Self {
        Self {
            start: platform.tsc(),
            scale: Scale::of_khz(platform.tsc_khz()),
            wall_clock_msr: Word::default(),
        }
    }

    /// Nanoseconds since the clock started.
    pub fn now<P: Platform>(&self, platform: &P) -> u64 {
        self.scale
            .nanoseconds(platform.tsc().wrapping_sub(self.start))
    }

    /// Writes `struct pvclock_vcpu_time_info` to shared memory.
    pub fn write_system_time<P: Platform>(&self, platform: &P, gpa: u64) -> Result<(), NotRam> {
        let mut info = [0; 32];
        info[8..16].copy_from_slice(&self.start.to_le_bytes());
        // system_time at that TSC is 0.
        info[24..28].copy_from_slice(&self.scale.mul.to_le_bytes());
        info[28] = self.scale.shift as u8;
        info[29] = TSC_STABLE;
        write_versioned(platform, gpa, &info)
    }

    /// Writes `struct pvclock_wall_clock`: the wall-clock time at which system time was 0.
    pub fn write_wall_clock<P: Platform>(
        &self,
        platform: &P,
        gpa: u64,
        unix_seconds: u64,
    ) -> Result<(), NotRam> {
        // The guest sets the RTC, to years that nanoseconds in 64 bits do not reach.
        let boot = unix_seconds
            .saturating_mul(NANOSECONDS)
            .saturating_sub(self.now(platform));
        let mut info = [0; 12];
        info[4..8].copy_from_slice(&((boot / NANOSECONDS) as u32).to_le_bytes());
        info[8..12].copy_from_slice(&((boot % NANOSECONDS) as u32).to_le_bytes());
        write_versioned(platform, gpa, &info)
    }
}

/// Writes a structure that begins with a version: odd while it changes, and increased.
fn write_versioned<P: Platform>(platform: &P, gpa: u64, info: &[u8]) -> Result<(), NotRam> {
    let mut version = [0; 4];
    platform.name(Use::Exit, gpa, info.len() as u64);
    platform.read_shared(gpa, &mut version)?;
    let old = u32::from_le_bytes(version);
    // First write: the guest's memory may hold an odd number.
    let odd = old.wrapping_add(1) | 1;
    platform.write_shared(gpa, &odd.to_le_bytes())?;
    platform.write_shared(gpa + 4, &info[4..])?;
    platform.write_shared(gpa, &odd.wrapping_add(1).to_le_bytes())
}

/// Seconds since 1970 of a date in the Gregorian calendar.
pub fn unix_seconds(year: u64, month: u64, day: u64, hour: u64, min: u64, sec: u64) -> u64 {
    // Count the year from March, so that the leap day comes last.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    // 1970-01-01 is day 719468 from 0000-03-01.
    (((days.saturating_sub(719_468)) * 24 + hour) * 60 + min) * 60 + sec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn scale_is_precise(khz in 1_000_u32..20_000_000, seconds in 1_u64..100_000) {
            let scale = Scale::of_khz(khz);
            prop_assert!(scale.mul >= 1 << 31, "full precision");
            let ticks = u64::from(khz) * 1000 * seconds;
            // Within 2 in 10^9, as the pvclock structure can express.
            let error = scale.nanoseconds(ticks).abs_diff(seconds * NANOSECONDS);
            prop_assert!(error <= 2 * seconds + 1, "{khz} kHz: {error} ns in {seconds} s");
        }

        #[test]
        fn guest_can_derive_the_frequency(khz in 1_000_u32..10_000_000) {
            // pvclock_tsc_khz(): 10^6 << 32, divided by mul, shifted back.
            let scale = Scale::of_khz(khz);
            let mut got = (1_000_000_u64 << 32) / u64::from(scale.mul);
            if scale.shift < 0 { got <<= -scale.shift } else { got >>= scale.shift }
            prop_assert!(got.abs_diff(u64::from(khz)) <= 1 + u64::from(khz) / 1_000_000);
        }

        #[test]
        fn dates_advance_by_days(day in 0_u64..40_000) {
            // Walk the calendar naively and compare.
            let (mut y, mut m, mut d) = (1970, 1, 1);
            for _ in 0..day {
                let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
                let len = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
                d += 1;
                if d > len[m as usize - 1] { d = 1; m += 1; }
                if m > 12 { m = 1; y += 1; }
            }
            prop_assert_eq!(unix_seconds(y, m, d, 1, 2, 3), day * 86_400 + 3_723);
        }
    }

    #[test]
    fn scales_of_kvm() {
        // By KVM's own arithmetic.
        assert_eq!(
            Scale::of_khz(1_000_000),
            Scale {
                mul: 0x8000_0000,
                shift: 1
            }
        );
        assert_eq!(
            Scale::of_khz(2_000_000),
            Scale {
                mul: 0x8000_0000,
                shift: 0
            }
        );
        assert_eq!(
            Scale::of_khz(4_000_000),
            Scale {
                mul: 0x8000_0000,
                shift: -1
            }
        );
    }

    #[test]
    fn system_time_is_complete_and_versioned() {
        let mock = Mock::new(1);
        mock.tsc.set(5_000);
        let clock = Clock::start(&mock);
        mock.poke(0x3000, &[7, 0, 0, 0]);
        clock.write_system_time(&mock, 0x3000).unwrap();
        let page = mock.peek(0x3000, 32);
        let scale = Scale::of_khz(mock.tsc_khz());
        assert_eq!(
            page[..4],
            10_u32.to_le_bytes(),
            "even, and beyond the odd 9 meanwhile"
        );
        assert_eq!(page[8..16], 5_000_u64.to_le_bytes());
        assert_eq!(page[16..24], [0; 8]);
        assert_eq!(page[24..28], scale.mul.to_le_bytes());
        assert_eq!((page[28] as i8, page[29]), (scale.shift, TSC_STABLE));
        let writes = mock.writes.lock().unwrap();
        assert_eq!(writes[0], (0x3000, 9_u32.to_le_bytes().to_vec()));
        assert_eq!(
            writes.last().unwrap(),
            &(0x3000, 10_u32.to_le_bytes().to_vec())
        );
    }

    #[test]
    fn wall_clock_is_the_time_of_boot() {
        let mock = Mock::new(1);
        let clock = Clock::start(&mock);
        // Two and a half seconds later.
        mock.tsc
            .set(mock.tsc.get() + u64::from(mock.tsc_khz()) * 2_500);
        clock
            .write_wall_clock(&mock, 0x3000, 1_000_000_000)
            .unwrap();
        let page = mock.peek(0x3000, 12);
        assert_eq!(page[4..8], 999_999_997_u32.to_le_bytes());
        let nsec = u32::from_le_bytes(page[8..12].try_into().unwrap());
        assert!(nsec.abs_diff(500_000_000) < 10, "{nsec}");
    }

    #[test]
    fn wall_clock_of_a_guest_that_set_a_far_year() {
        let mock = Mock::new(1);
        let clock = Clock::start(&mock);
        assert_eq!(clock.write_wall_clock(&mock, 0x3000, u64::MAX / 8), Ok(()));
    }

    #[test]
    fn memory_must_be_ram() {
        let mock = Mock::new(1);
        let clock = Clock::start(&mock);
        assert_eq!(clock.write_system_time(&mock, 0xfee0_0000), Err(NotRam));
    }
}
