// SPDX-License-Identifier: GPL-2.0
//! Ports that reset a PC.

use crate::vm::Stop;

/// Keyboard controller, command register.
const KBC_COMMAND: u16 = 0x64;
/// System control port A.
const PORT_92: u16 = 0x92;
/// Reset control register of the ICH9.
const RESET_CONTROL: u16 = 0xcf9;

/// All of them.
pub const PORTS: [u16; 3] = [KBC_COMMAND, PORT_92, RESET_CONTROL];

/// Whether a port write resets the machine. A physical reset would end the host too.
pub fn reset_request(port: u16, value: u32) -> Option<Stop> {
    let reset = match port {
        // 0xf0 to 0xff pulse the low output lines; line 0, when low, is the reset line.
        KBC_COMMAND => value & 0xf1 == 0xf0,
        // Bit 0: fast reset.
        PORT_92 => value & 1 != 0,
        // RST_CPU.
        RESET_CONTROL => value & 4 != 0,
        _ => false,
    };
    reset.then_some(Stop::Reset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_and_their_neighbours() {
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
            assert_eq!(
                reset_request(port, value).is_some(),
                reset,
                "{port:#x} {value:#x}"
            );
        }
    }
}
