// SPDX-License-Identifier: GPL-2.0
//! Ports that reset a PC.

use crate::outcome::Stop;
use crate::platform::Platform;

/// Keyboard controller, command register.
const KBC_COMMAND: u16 = 0x64;
/// System control port A.
const PORT_92: u16 = 0x92;
/// Reset control register of the ICH9.
const RESET_CONTROL: u16 = 0xcf9;

/// All of them.
pub const PORTS: [u16; 3] = [KBC_COMMAND, PORT_92, RESET_CONTROL];

/// Which of the devices that reset the machine are there: a board without keyboard controller has
/// no port 0x92 either, and firmware that sets the A20 gate there reads all ones and writes them
/// back.
#[derive(Clone, Copy, Debug)]
pub struct Power {
    kbc: bool,
    port_92: bool,
}

impl Power {
    /// Looks for the devices: nobody drives the bus where there is none. Neither register reads all
    /// ones otherwise (bits 7 and 6 of the status are errors, bits 7 and 6 of port 0x92 a lamp).
    pub fn find<P: Platform>(platform: &P) -> Self {
        let present = |port| platform.port_in(port, 1) & 0xff != 0xff;
        Self {
            kbc: present(KBC_COMMAND),
            port_92: present(PORT_92),
        }
    }

    /// Whether a port write resets the machine. A physical reset would end the host too.
    pub fn reset_request(self, port: u16, value: u32) -> Option<Stop> {
        let reset = match port {
            // 0xf0 to 0xff pulse the low output lines; line 0, when low, is the reset line.
            KBC_COMMAND => self.kbc && value & 0xf1 == 0xf0,
            // Bit 0: fast reset.
            PORT_92 => self.port_92 && value & 1 != 0,
            // RST_CPU.
            RESET_CONTROL => value & 4 != 0,
            _ => false,
        };
        reset.then_some(Stop::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    #[test]
    fn resets_and_their_neighbours() {
        let power = Power {
            kbc: true,
            port_92: true,
        };
        for (port, value, reset) in [
            (0x64, 0xfe, true),
            (0x64, 0xff, false),
            (0x64, 0xd4, false),
            (0x60, 0xfe, false),
            (0x92, 0x03, true),
            (0x92, 0x02, false),
            (0xcf9, 0x06, true),
            (0xcf9, 0x0e, true),
            (0xcf9, 0x02, false),
            (0xcf8, 0x06, false),
        ] {
            let stop = power.reset_request(port, value);
            assert_eq!(stop.is_some(), reset, "{port:#x} {value:#x}");
        }
    }

    #[test]
    fn absent_devices_reset_nothing() {
        let mock = Mock::new(1);
        mock.ports.lock().unwrap().remove(&0x64);
        let power = Power::find(&mock);
        assert_eq!(power.reset_request(0x64, 0xfe), None);
        assert_eq!(power.reset_request(0x92, 3), Some(Stop::Reset));
        mock.ports.lock().unwrap().remove(&0x92);
        let power = Power::find(&mock);
        assert_eq!(power.reset_request(0x92, 0xff), None);
        assert_eq!(power.reset_request(0xcf9, 6), Some(Stop::Reset));
    }
}
