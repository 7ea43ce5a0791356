// SPDX-License-Identifier: GPL-2.0
//! The guest's RAM as the hypervisor knows it: what may be copied and what is never a device.

/// 4 GiB: where the upper part of RAM starts.
pub const FOUR_GIB: u64 = 1 << 32;

/// The VGA window, which is a device although RAM lies around it.
const VGA: core::ops::Range<u64> = 0xa_0000..0xc_0000;

/// 2^48: no device of QEMU's is that high - the 64-bit PCI window ends far below - and a platform
/// need not be able to map more.
const DEVICE_END: u64 = 1 << 48;

/// The layout of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// Bytes from 0.
    pub low: u64,
    /// Bytes from 4 GiB.
    pub high: u64,
    /// End of the host's memory above 4 GiB. From the end of the guest's RAM up to here lies what
    /// the guest must not see: neither RAM nor device.
    pub host_end: u64,
}

impl Ram {
    /// Whether a range lies wholly in RAM.
    pub fn contains(&self, gpa: u64, len: u64) -> bool {
        let Some(end) = gpa.checked_add(len) else {
            return false;
        };
        end <= self.low || (gpa >= FOUR_GIB && end <= FOUR_GIB + self.high)
    }

    /// Whether a range can only belong to devices: it touches neither RAM nor the host's memory.
    pub fn device(&self, gpa: u64, len: u64) -> bool {
        let Some(end) = gpa.checked_add(len) else {
            return false;
        };
        let vga = gpa >= VGA.start && end <= VGA.end;
        let memory_end = self.host_end.max(FOUR_GIB + self.high);
        vga || (gpa >= self.low && end <= FOUR_GIB) || (gpa >= memory_end && end <= DEVICE_END)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: Ram = Ram {
        low: 0x8000_0000,
        high: 0x4000_0000,
        host_end: 0x2_0000_0000,
    };

    #[test]
    fn contains_is_exact_at_the_ends() {
        for (gpa, len, want) in [
            (0, 0x8000_0000, true),
            (0, 0x8000_0001, false),
            (0x7fff_fff8, 8, true),
            (0x7fff_fff9, 8, false),
            (0xffff_fff8, 16, false),
            (FOUR_GIB, 0x4000_0000, true),
            (FOUR_GIB + 0x3fff_fff9, 8, false),
            (u64::MAX, 2, false),
        ] {
            assert_eq!(RAM.contains(gpa, len), want, "{gpa:#x}+{len:#x}");
        }
    }

    #[test]
    fn devices_are_neither_ram_nor_hidden_memory() {
        for (gpa, len, want) in [
            (0xfee0_0000, 4, true),
            (0xb_8000, 2, true),
            (0xb_fffc, 8, false),
            (0x7fff_fffc, 4, false),
            (0x7fff_fffc, 8, false),
            (0x8000_0000, 8, true),
            (0xffff_fffc, 8, false),
            (FOUR_GIB, 4, false),
            (FOUR_GIB + 0x4000_0000, 4, false),
            (0x1_ffff_fffc, 4, false),
            (0x2_0000_0000, 8, true),
            (u64::MAX, 8, false),
            (DEVICE_END - 8, 8, true),
            (DEVICE_END - 7, 8, false),
            (DEVICE_END, 1, false),
            (1 << 51, 8, false),
            (1 << 63, 4, false),
        ] {
            assert_eq!(RAM.device(gpa, len), want, "{gpa:#x}+{len:#x}");
        }
    }
}
