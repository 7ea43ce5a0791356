// SPDX-License-Identifier: GPL-2.0
//! CMOS: QEMU's, except for the cells that tell the memory's size and the number of CPUs.

use spin::Mutex;

use crate::clock::unix_seconds;
use crate::platform::Platform;
use crate::ram::Ram;

/// Index register; bit 7 masks NMIs on a PC of old and does nothing in QEMU.
pub const INDEX: u16 = 0x70;
/// Data register.
pub const DATA: u16 = 0x71;

/// CMOS as the guest sees it.
pub struct Cmos {
    ram: Ram,
    vcpus: usize,
    /// The last index written. Also serializes index and data accesses of the host and the guest.
    index: Mutex<u8>,
}

impl Cmos {
    /// For a guest with this RAM.
    pub fn new(ram: Ram, vcpus: usize) -> Self {
        Self {
            ram,
            vcpus,
            index: Mutex::new(0),
        }
    }

    /// A cell that is not QEMU's: sizes as pc_cmos_init() computes them.
    fn cell(&self, index: u8) -> Option<u8> {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let above_1m = (self.ram.low.saturating_sub(MIB) / KIB).min(0xffff);
        let above_16m = (self.ram.low.saturating_sub(16 * MIB) / (64 * KIB)).min(0xffff);
        let above_4g = self.ram.high / (64 * KIB);
        let value = match index {
            0x17 | 0x30 => above_1m,
            0x18 | 0x31 => above_1m >> 8,
            0x34 => above_16m,
            0x35 => above_16m >> 8,
            0x5b => above_4g,
            0x5c => above_4g >> 8,
            0x5d => above_4g >> 16,
            0x5f => self.vcpus as u64 - 1,
            _ => return None,
        };
        Some(value as u8)
    }

    /// IN of either port.
    pub fn read<P: Platform>(&self, platform: &P, port: u16, size: u8) -> u32 {
        let index = self.index.lock();
        if port == DATA && size == 1 {
            if let Some(value) = self.cell(*index) {
                return value.into();
            }
        }
        platform.port_in(port, size)
    }

    /// OUT to either port. A wider one reaches both, as on the ISA bus.
    pub fn write<P: Platform>(&self, platform: &P, port: u16, size: u8, value: u32) {
        let mut index = self.index.lock();
        for (i, byte) in value
            .to_le_bytes()
            .into_iter()
            .take(size.into())
            .enumerate()
        {
            match port + i as u16 {
                INDEX => {
                    *index = byte & 0x7f;
                    platform.port_out(INDEX, 1, byte.into());
                }
                DATA if self.cell(*index).is_some() => {}
                other => platform.port_out(other, 1, byte.into()),
            }
        }
    }

    /// The wall-clock time in seconds since 1970, from the real-time clock.
    pub fn wall_clock<P: Platform>(&self, platform: &P) -> u64 {
        let index = self.index.lock();
        let cell = |at: u32| {
            platform.port_out(INDEX, 1, at);
            u64::from(platform.port_in(DATA, 1) & 0xff)
        };
        // Read until two readings agree, so that none falls into an update.
        let mut last = [0; 8];
        for _ in 0..16 {
            let now = [0, 2, 4, 7, 8, 9, 0x32, 0xb].map(cell);
            if now == last {
                break;
            }
            last = now;
        }
        platform.port_out(INDEX, 1, (*index).into());

        let [sec, min, hour, day, month, year, century, status_b] = last;
        let binary = status_b & 4 != 0;
        let decode = |value: u64| {
            if binary {
                value
            } else {
                (value >> 4) * 10 + (value & 15)
            }
        };
        // Status B bit 1: 24 hours. Otherwise bit 7 of the hour is PM, and 12 counts as 0.
        let hour = if status_b & 2 != 0 {
            decode(hour)
        } else {
            decode(hour & 0x7f) % 12 + if hour & 0x80 != 0 { 12 } else { 0 }
        };
        let year = decode(century) * 100 + decode(year);
        unix_seconds(
            year.max(1970),
            decode(month),
            decode(day),
            hour,
            decode(min),
            decode(sec),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    const RAM: Ram = Ram {
        low: 0x8000_0000,
        high: 0x1_4000_0000,
        host_end: 0x9_0000_0000,
    };

    fn byte(cmos: &Cmos, mock: &Mock, index: u32) -> u32 {
        cmos.write(mock, INDEX, 1, index);
        cmos.read(mock, DATA, 1)
    }

    #[test]
    fn sizes_are_the_guests() {
        let mock = Mock::new(4);
        mock.ports.lock().unwrap().insert(DATA, 0x99);
        let cmos = Cmos::new(RAM, 4);
        for (index, want) in [
            (0x34, 0x00),
            (0x35, 0x7f),
            (0x30, 0xff),
            (0x31, 0xff),
            (0x17, 0xff),
            (0x18, 0xff),
            (0x5b, 0x00),
            (0x5c, 0x40),
            (0x5d, 0x01),
            (0x5f, 3),
            (0x15, 0x99),
            (0x0a, 0x99),
            (0xb4, 0x00),
            (0xb5, 0x7f),
        ] {
            assert_eq!(byte(&cmos, &mock, index), want, "{index:#x}");
        }
        assert_eq!(mock.ports.lock().unwrap()[&INDEX], 0xb5, "NMI bit and all");
    }

    #[test]
    fn small_memory() {
        let mock = Mock::new(1);
        let cmos = Cmos::new(
            Ram {
                low: 0x400_0000,
                high: 0,
                host_end: 1 << 32,
            },
            1,
        );
        for (index, want) in [
            (0x30, 0x00),
            (0x31, 0xfc),
            (0x34, 0x00),
            (0x35, 0x03),
            (0x5c, 0),
            (0x5f, 0),
        ] {
            assert_eq!(byte(&cmos, &mock, index), want, "{index:#x}");
        }
    }

    #[test]
    fn cells_of_the_host_cannot_be_written() {
        let mock = Mock::new(1);
        let cmos = Cmos::new(RAM, 1);
        cmos.write(&mock, INDEX, 1, 0x34);
        cmos.write(&mock, DATA, 1, 0x55);
        assert!(!mock.ports.lock().unwrap().contains_key(&DATA));
        cmos.write(&mock, INDEX, 2, 0x5540);
        assert_eq!(mock.ports.lock().unwrap()[&INDEX], 0x40);
        assert_eq!(mock.ports.lock().unwrap()[&DATA], 0x55);
    }

    #[test]
    fn wall_clock_in_both_encodings() {
        let mock = Mock::new(1);
        let cmos = Cmos::new(RAM, 1);
        cmos.write(&mock, INDEX, 1, 0x8f);
        mock.cmos(&[
            (0, 0x56),
            (2, 0x34),
            (4, 0x12),
            (7, 0x29),
            (8, 0x02),
            (9, 0x24),
            (0x32, 0x20),
            (0xb, 0x02),
        ]);
        let want = unix_seconds(2024, 2, 29, 12, 34, 56);
        assert_eq!(want, 1_709_210_096);
        assert_eq!(cmos.wall_clock(&mock), want);
        assert_eq!(
            mock.ports.lock().unwrap()[&INDEX],
            0x0f,
            "the guest's index is back"
        );
        mock.cmos(&[
            (0, 56),
            (2, 34),
            (4, 0x80 | 11),
            (7, 29),
            (8, 2),
            (9, 24),
            (0x32, 20),
            (0xb, 0x04),
        ]);
        assert_eq!(
            cmos.wall_clock(&mock),
            unix_seconds(2024, 2, 29, 23, 34, 56)
        );
        // Midnight and noon of the twelve-hour clock.
        mock.cmos(&[(4, 12)]);
        assert_eq!(cmos.wall_clock(&mock), unix_seconds(2024, 2, 29, 0, 34, 56));
        mock.cmos(&[(4, 0x80 | 12)]);
        assert_eq!(
            cmos.wall_clock(&mock),
            unix_seconds(2024, 2, 29, 12, 34, 56)
        );
    }
}
