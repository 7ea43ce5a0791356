// SPDX-License-Identifier: GPL-2.0
//! System management interrupts of the ICH9: there are none.
//!
//! A SEV-ES guest has no system management mode: its host could not switch the registers. An SMI
//! of QEMU's would hit the CPU in the guest, save the CPU's state to guest memory and execute code
//! there. So its sources are kept quiet: the command port, and the enable register with its timers.

use crate::dev::acpi_pm;
use crate::dev::acpi_pm::PciPorts;
use crate::platform::Platform;

/// APM_CNT: a write is an SMI.
pub const COMMAND: u16 = 0xb2;
/// Commands that hand the power management over to the guest's ACPI driver, and back: QEMU carries
/// them out without an SMI.
const ACPI_COMMANDS: [u32; 2] = [2, 3];
/// SMI_EN: four ports from here in the power management registers.
const ENABLE: u16 = 0x30;
const ENABLE_END: u16 = 0x34;

/// Whether a port write must not reach QEMU.
pub fn hold_back<P: Platform>(
    platform: &P,
    pci: &PciPorts,
    port: u16,
    size: u8,
    value: u32,
) -> bool {
    if port == COMMAND {
        return !ACPI_COMMANDS.contains(&value);
    }
    // As for PM1_CNT: most writes are out of question.
    let first = port & 0x7f;
    let touches = first < ENABLE_END && first + u16::from(size) > ENABLE;
    touches && acpi_pm::base(platform, pci) == Some(port & !0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    fn held(port: u16, size: u8, value: u32) -> bool {
        let mock = Mock::new(1);
        mock.ports.lock().unwrap().insert(0xcfc, 0x601);
        hold_back(&mock, &PciPorts::default(), port, size, value)
    }

    #[test]
    fn only_commands_for_acpi_pass() {
        for (value, want) in [(0, true), (1, true), (2, false), (3, false), (0xb5, true)] {
            assert_eq!(held(COMMAND, 1, value), want, "{value:#x}");
        }
    }

    #[test]
    fn enable_register_stays() {
        for (port, size, want) in [
            (0x630, 4, true),
            (0x633, 1, true),
            (0x62e, 4, true),
            (0x62c, 4, false),
            (0x634, 4, false),
            (0x6b0, 4, false),
            (0xb30, 4, false),
            (0xb1, 1, false),
            (0xb3, 1, false),
            (0x80, 1, false),
        ] {
            assert_eq!(held(port, size, 0x21), want, "{port:#x} {size}");
        }
    }
}
