// SPDX-License-Identifier: GPL-2.0
//! The user's terminal: raw while the guest has it, restored in every case.

use std::io::stdin;
use std::io::IsTerminal;
use std::sync::Mutex;

use nix::sys::termios;
use nix::sys::termios::SetArg;
use nix::sys::termios::Termios;

/// Settings to go back to. Global, because the panic hook needs them too: with `panic = "abort"`
/// nothing is dropped.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The escape key, Ctrl-A.
const ESCAPE: u8 = 0x01;

/// Holds the terminal in raw mode.
pub struct RawTerminal(());

impl RawTerminal {
    /// Switches the terminal to raw mode; `None` if standard input is none.
    pub fn enter() -> Option<Self> {
        if !stdin().is_terminal() {
            return None;
        }
        let saved = termios::tcgetattr(stdin()).ok()?;
        let mut raw = saved.clone();
        termios::cfmakeraw(&mut raw);
        *SAVED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(saved);
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
        termios::tcsetattr(stdin(), SetArg::TCSADRAIN, &raw).ok()?;
        Some(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Goes back to the saved settings.
fn restore() {
    let saved = SAVED
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .take();
    if let Some(saved) = saved {
        // Nothing can be done about a terminal that went away.
        let _ = termios::tcsetattr(stdin(), SetArg::TCSADRAIN, &saved);
    }
}

/// What a piece of keyboard input asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Bytes for the guest.
    pub guest: Vec<u8>,
    /// The user quit.
    pub quit: bool,
    /// The user asked for help.
    pub help: bool,
}

/// Takes the escape sequences out of the keyboard's input.
#[derive(Debug, Default)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    /// Reads a piece of input.
    pub fn keys(&mut self, input: &[u8]) -> Keys {
        let mut keys = Keys::default();
        for &byte in input {
            if !std::mem::take(&mut self.pending) {
                if byte == ESCAPE {
                    self.pending = true;
                } else {
                    keys.guest.push(byte);
                }
                continue;
            }
            match byte {
                b'x' | b'X' => keys.quit = true,
                b'h' | b'H' | b'?' => keys.help = true,
                ESCAPE | b'a' => keys.guest.push(ESCAPE),
                _ => {}
            }
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_through() {
        let mut escape = Escape::default();
        let keys = escape.keys(b"ls\r\x03");
        assert_eq!(
            keys,
            Keys {
                guest: b"ls\r\x03".to_vec(),
                ..Keys::default()
            }
        );
    }

    #[test]
    fn the_escape_key_may_be_cut_from_its_command() {
        let mut escape = Escape::default();
        assert_eq!(escape.keys(b"a\x01").guest, b"a");
        assert!(escape.keys(b"x").quit);
        assert_eq!(escape.keys(b"\x01\x01x").guest, b"\x01x");
        assert!(escape.keys(b"\x01h").help);
        assert_eq!(escape.keys(b"\x01z!").guest, b"!");
    }
}
