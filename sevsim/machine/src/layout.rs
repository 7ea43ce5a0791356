// SPDX-License-Identifier: GPL-2.0
//! The guest-physical address space, and where its private backing lies in host memory.
//!
//! The shared backing of RAM is the same address in host-physical memory, so that devices' DMA
//! reaches it. The private backing lies in memory that the guest is never told of.

/// 4 GiB.
pub const FOUR_GIB: u64 = 1 << 32;
/// The legacy video window, which is not RAM.
const VIDEO: core::ops::Range<u64> = 0xa_0000..0xc_0000;

/// What a guest-physical address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// RAM, with the host-physical address of its private backing.
    Ram {
        /// Private backing.
        private: u64,
    },
    /// Firmware image: read-only. It exists in encrypted form only.
    Flash {
        /// Host-physical address of the copy.
        copy: u64,
    },
    /// A device or nothing.
    Device,
}

/// The address space of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of RAM from 0.
    pub low: u64,
    /// Bytes of RAM from 4 GiB.
    pub high: u64,
    /// Bytes of the firmware image, which ends at 4 GiB.
    pub flash: u64,
    /// Private backing of low RAM.
    pub private_low: u64,
    /// Private backing of high RAM.
    pub private_high: u64,
    /// Copy of the firmware image.
    pub flash_copy: u64,
    /// A page of zeros, which any page of the image shows without C-bit. Hardware shows ciphertext
    /// there; with zeros OVMF finds no flash chip, and so keeps its variables in RAM instead of
    /// writing them, a VMGEXIT for each byte, to a chip that does not exist.
    pub flash_shared: u64,
}

impl Layout {
    /// What lies at a guest-physical address without C-bit.
    #[inline(always)]
    pub fn place(&self, gpa: u64) -> Place {
        let flash = FOUR_GIB - self.flash;
        if gpa < self.low {
            if VIDEO.contains(&gpa) {
                return Place::Device;
            }
            Place::Ram {
                private: self.private_low + gpa,
            }
        } else if gpa >= FOUR_GIB && gpa - FOUR_GIB < self.high {
            Place::Ram {
                private: self.private_high + (gpa - FOUR_GIB),
            }
        } else if (flash..FOUR_GIB).contains(&gpa) {
            Place::Flash {
                copy: self.flash_copy + (gpa - flash),
            }
        } else {
            Place::Device
        }
    }

    /// Whether `bytes` bytes from `gpa` are RAM, all in the same run.
    #[inline(always)]
    pub fn is_ram(&self, gpa: u64, bytes: u64) -> bool {
        let Some(end) = gpa.checked_add(bytes) else {
            return false;
        };
        let low = end <= self.low && (end <= VIDEO.start || gpa >= VIDEO.end);
        let high = gpa >= FOUR_GIB && end <= FOUR_GIB + self.high;
        low || high
    }

    /// Ranges of guest-physical addresses that have memory.
    pub fn ranges(&self) -> [core::ops::Range<u64>; 4] {
        [
            0..VIDEO.start,
            VIDEO.end..self.low,
            FOUR_GIB - self.flash..FOUR_GIB,
            FOUR_GIB..FOUR_GIB + self.high,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const LAYOUT: Layout = Layout {
        low: 0x4000_0000,
        high: 0x2000_0000,
        flash: 0x40_0000,
        private_low: 0x2_0000_0000,
        private_high: 0x3_0000_0000,
        flash_copy: 0x4_0000_0000,
        flash_shared: 0x5_0000_0000,
    };

    #[test]
    fn places() {
        let ram = |private| Place::Ram { private };
        let table = [
            (0, ram(0x2_0000_0000)),
            (0x9_ffff, ram(0x2_0009_ffff)),
            (0xa_0000, Place::Device),
            (0xc_0000, ram(0x2_000c_0000)),
            (0x3fff_ffff, ram(0x2_3fff_ffff)),
            (0x4000_0000, Place::Device),
            (0xfee0_0000, Place::Device),
            (
                0xffc0_0000,
                Place::Flash {
                    copy: 0x4_0000_0000,
                },
            ),
            (
                0xffff_ffff,
                Place::Flash {
                    copy: 0x4_003f_ffff,
                },
            ),
            (0x1_0000_0000, ram(0x3_0000_0000)),
            (0x1_2000_0000, Place::Device),
        ];
        for (gpa, place) in table {
            assert_eq!(LAYOUT.place(gpa), place, "{gpa:#x}");
        }
    }

    #[test]
    fn ram_runs_do_not_cross_holes() {
        assert!(LAYOUT.is_ram(0x9_f000, 0x1000));
        assert!(!LAYOUT.is_ram(0x9_f000, 0x1001));
        assert!(!LAYOUT.is_ram(0x3fff_f000, 0x2000));
        assert!(!LAYOUT.is_ram(0xffff_f000, 0x1000));
        assert!(LAYOUT.is_ram(0x1_0000_0000, 0x2000_0000));
        assert!(!LAYOUT.is_ram(u64::MAX, 2));
    }

    #[test]
    fn ranges_agree_with_places() {
        for range in LAYOUT.ranges() {
            assert_ne!(LAYOUT.place(range.start), Place::Device);
            assert_ne!(LAYOUT.place(range.end - 1), Place::Device);
        }
    }
}
