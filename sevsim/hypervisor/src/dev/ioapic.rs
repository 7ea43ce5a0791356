// SPDX-License-Identifier: GPL-2.0
//! The I/O APIC: QEMU's, with the redirection entries looked at (82093AA, 3.2.4).
//!
//! An entry with delivery mode INIT or SMI would reset a physical CPU below the host, or send it to
//! SMM; such entries are kept masked. So are the reserved modes. NMI passes: physical NMIs are
//! intercepted and become the guest's. Message signalled interrupts are not looked at: their
//! messages lie in the devices' own registers, and only an IOMMU could filter them.

use spin::Mutex;

use crate::platform::Platform;

/// The register page. QEMU decodes the lowest 8 bits of its addresses.
const BASE: u64 = 0xfec0_0000;
/// Register select.
const SELECT: u64 = 0x00;
/// Data window.
const WINDOW: u64 = 0x10;
/// First register of the redirection table; entries have two, the lower half first.
const TABLE: u8 = 0x10;
/// Bits of the lower half.
const MASKED: u32 = 1 << 16;

/// The I/O APIC as the guest sees it.
#[derive(Default)]
pub struct IoApic {
    /// The selected register. Held while the physical one is written, so that both agree.
    select: Mutex<u8>,
}

/// Whether an address is in the register page.
pub fn in_page(gpa: u64) -> bool {
    gpa & !0xfff == BASE
}

impl IoApic {
    /// Naturally aligned write to the page.
    pub fn write<P: Platform>(&self, platform: &P, gpa: u64, bytes: u8, value: u64) {
        if bytes == 8 {
            self.write(platform, gpa, 4, value & 0xffff_ffff);
            return self.write(platform, gpa + 4, 4, value >> 32);
        }
        let mut select = self.select.lock();
        let value = match gpa & 0xff {
            SELECT => {
                *select = value as u8;
                value
            }
            // The window knows doublewords only.
            WINDOW if bytes != 4 => return,
            WINDOW => filter(*select, value as u32).into(),
            _ => value,
        };
        platform.mmio_write(gpa, bytes, value);
    }
}

/// What may be written to a register.
fn filter(register: u8, value: u32) -> u32 {
    let lower_half = register >= TABLE && register % 2 == 0;
    match (value >> 8) & 7 {
        // SMI, reserved, INIT, reserved.
        2 | 3 | 5 | 6 if lower_half => value | MASKED,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    #[test]
    fn dangerous_delivery_modes_stay_masked() {
        let (mock, ioapic) = (Mock::new(1), IoApic::default());
        for (mode, passes) in [true, true, false, false, true, false, false, true]
            .into_iter()
            .enumerate()
        {
            for (register, lower) in [(0x10, true), (0x11, false), (0x3e, true), (0x00, false)] {
                for base in [BASE, BASE + 0xf00] {
                    let entry = (mode << 8) as u64 | 0x31;
                    ioapic.write(&mock, base, 1, register);
                    ioapic.write(&mock, base + 0x10, 4, entry);
                    let mask = if passes || !lower { 0 } else { 1 << 16 };
                    let want = [(base, 1, register), (base + 0x10, 4, entry | mask)];
                    assert_eq!(mock.take_mmio(), want, "{mode} {register:#x}");
                }
            }
        }
    }

    #[test]
    fn other_sizes_are_no_way_around() {
        let (mock, ioapic) = (Mock::new(1), IoApic::default());
        ioapic.write(&mock, BASE, 8, 0x12);
        assert_eq!(mock.take_mmio(), [(BASE, 4, 0x12), (BASE + 4, 4, 0)]);
        ioapic.write(&mock, BASE + 0x10, 8, 0x531);
        let window = BASE + 0x10;
        assert_eq!(
            mock.take_mmio(),
            [(window, 4, 0x1_0531), (window + 4, 4, 0)]
        );
        for bytes in [1, 2] {
            ioapic.write(&mock, window, bytes, 0x531);
        }
        assert_eq!(mock.take_mmio(), []);
        ioapic.write(&mock, BASE + 0x40, 4, 0x31);
        assert_eq!(mock.take_mmio(), [(BASE + 0x40, 4, 0x31)], "EOI");
    }
}
