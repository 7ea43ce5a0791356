// SPDX-License-Identifier: GPL-2.0
//! The ACPI PM1a control register of the ICH9: how the guest powers off (ACPI 6.5, 4.8.3.2.1).

use spin::{Mutex, MutexGuard};

use crate::outcome::Stop;
use crate::platform::Platform;

/// PM1_CNT's offset from PMBASE.
const PM1_CNT: u16 = 4;
/// Its upper byte.
const PM1_CNT_HIGH: u16 = PM1_CNT + 1;
/// Sleep enable.
const SLP_EN: u32 = 1 << 13;
/// Sleep type that q35's DSDT gives for \_S5 (soft off).
const SLP_TYP_S5: u32 = 0;
/// The same for \_S4 (hibernation), which powers off as well.
const SLP_TYP_S4: u32 = 2;

/// Configuration mechanism 1's ports.
pub const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;
/// Address of PMBASE: device 31, function 0, register 0x40.
const LPC_PMBASE: u32 = 0x8000_f840;

/// Serializes the guest's accesses to configuration space by ports and the hypervisor's own, which
/// must not come between another vCPU's write of the address register and its restoration.
#[derive(Default)]
pub struct PciPorts(Mutex<()>);

impl PciPorts {
    /// To be held during an access, if it is one to these ports.
    pub fn lock(&self, port: u16) -> Option<MutexGuard<'_, ()>> {
        (port & !7 == PCI_ADDRESS).then(|| self.0.lock())
    }
}

/// Whether an access could reach PM1_CNT without beginning there. PMBASE is a multiple of 128. No
/// device's registers are laid out so that a driver would do this, wherever PMBASE is.
pub fn straddles(port: u16, size: u8) -> bool {
    let (first, end) = (port & 0x7f, (port & 0x7f) + u16::from(size));
    first != PM1_CNT && first <= PM1_CNT + 1 && end > PM1_CNT
}

/// Whether a port write puts the machine to sleep for good.
pub fn sleep_request<P: Platform>(
    platform: &P,
    pci: &PciPorts,
    port: u16,
    size: u8,
    value: u32,
) -> Option<Stop> {
    // The upper byte alone counts in QEMU as well.
    let (port, value) = match (port & 0x7f, size) {
        (PM1_CNT, 2..) => (port, value),
        (PM1_CNT_HIGH, 1) => (port - 1, value << 8),
        // PMBASE is a multiple of 128: most writes are out of question without looking at it.
        _ => return None,
    };
    if value & SLP_EN == 0 {
        return None;
    }
    if !matches!((value >> 10) & 7, SLP_TYP_S5 | SLP_TYP_S4) {
        return None;
    }
    (base(platform, pci) == Some(port - PM1_CNT)).then_some(Stop::PowerOff)
}

/// Where the firmware put the power management registers.
pub fn base<P: Platform>(platform: &P, pci: &PciPorts) -> Option<u16> {
    let _others_wait = pci.0.lock();
    // The guest may be in the middle of a configuration access of its own.
    let saved = platform.port_in(PCI_ADDRESS, 4);
    platform.port_out(PCI_ADDRESS, 4, LPC_PMBASE);
    let value = platform.port_in(PCI_DATA, 4);
    platform.port_out(PCI_ADDRESS, 4, saved);
    // Bit 0 says that this is an I/O range.
    (value & 1 != 0).then_some((value & 0xff80) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    #[test]
    fn only_s5_at_pmbase_powers_off() {
        let mock = Mock::new(1);
        mock.ports.lock().unwrap().insert(PCI_DATA, 0x601);
        mock.ports.lock().unwrap().insert(PCI_ADDRESS, 0x8000_1234);
        for (port, size, value, off) in [
            (0x604, 2, 0x2000, true),
            (0x604, 4, 0x2001, true),
            (0x604, 2, 0x2800, true),
            (0x604, 2, 0x2400, false),
            (0x604, 2, 0x0001, false),
            (0x604, 1, 0x2000, false),
            (0x605, 1, 0x20, true),
            (0x605, 1, 0x28, true),
            (0x605, 1, 0x24, false),
            (0x605, 1, 0x08, false),
            (0x685, 1, 0x20, false),
            (0x684, 2, 0x2000, false),
            (0x600, 2, 0x2000, false),
        ] {
            let got = sleep_request(&mock, &PciPorts::default(), port, size, value);
            assert_eq!(got.is_some(), off, "{port:#x} {value:#x}");
        }
        assert_eq!(
            mock.ports.lock().unwrap()[&PCI_ADDRESS],
            0x8000_1234,
            "restored"
        );
    }

    #[test]
    fn configuration_ports_share_a_lock() {
        let pci = PciPorts::default();
        for port in [0xcf7, 0xd00, 0x604] {
            assert!(pci.lock(port).is_none(), "{port:#x}");
        }
        for port in 0xcf8..=0xcff {
            let held = pci.lock(port);
            assert!(held.is_some() && pci.0.try_lock().is_none(), "{port:#x}");
        }
        // Given back each time: this would hang otherwise.
        base(&Mock::new(1), &pci);
        assert!(pci.0.try_lock().is_some());
    }

    #[test]
    fn no_power_management_no_power_off() {
        let mock = Mock::new(1);
        mock.ports.lock().unwrap().insert(PCI_DATA, 0x600);
        assert_eq!(
            sleep_request(&mock, &PciPorts::default(), 0x604, 2, 0x2000),
            None
        );
    }
}
