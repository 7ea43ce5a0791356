// SPDX-License-Identifier: GPL-2.0
//! The guest's serial console: splits it into lines and notes what they tell.

use crate::verdict::Expect;
use crate::verdict::Seen;

/// Removes terminal control sequences (the firmware clears the screen and sets colours).
pub fn strip_control(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.peek() == Some(&'[') => {
                chars.next();
                // A control sequence ends with a byte from '@' to '~'.
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\x1b' => {
                chars.next();
            }
            '\t' => text.push('\t'),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

/// Removes the kernel's time stamp.
fn message(line: &str) -> &str {
    match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((stamp, rest)) if stamp.chars().all(|c| " .0123456789".contains(c)) => rest,
        _ => line,
    }
}

/// Splits bytes into lines; a line may come in any number of pieces.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes, gives the lines that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(
                String::from_utf8_lossy(&line[..end])
                    .trim_end_matches('\r')
                    .to_string(),
            );
        }
        lines
    }

    /// Gives what is left at the end.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.rest);
        let text = String::from_utf8_lossy(&rest).trim_end().to_string();
        (!text.is_empty()).then_some(text)
    }
}

/// Points in a boot that the bench compares; seconds since the start of QEMU are noted for each.
pub const MARKS: [(&str, &str); 4] = [
    ("kernel", "Linux version "),
    ("user-space", "sevsim-init: kernel:"),
    ("done", "sevsim-init: done "),
    ("power-down", "reboot: Power down"),
];

/// Notes what one console line (without control sequences) tells.
pub fn observe(seen: &mut Seen, line: &str, expect: &Expect) {
    let text = message(line);
    if seen.panic.is_none() {
        // A panic on a serial line may follow the rest of another line.
        if let Some(at) = text.find("Kernel panic - not syncing") {
            seen.panic = Some(text[at..].to_string());
        }
    }
    if text.starts_with("reboot: Power down") {
        seen.power_down = true;
    }
    if text.starts_with("reboot: Restarting system") || text.starts_with("reboot: machine restart")
    {
        seen.restart = true;
    }
    if let Some(status) = text.strip_prefix("sevsim-init: done status=") {
        seen.init_status = status.trim().parse().ok();
    }
    if let Expect::Text(wanted) = expect {
        // The kernel prints its command line, and again the words of it that it does not know: what
        // is only there has not been reached.
        let echo = text.to_ascii_lowercase().contains("command line");
        seen.text |= !echo && line.contains(wanted.as_str());
    }
    seen.ktap.line(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_any_cut() {
        let text = b"one\r\ntwo\nthree";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut got = lines.push(&text[..cut]);
            got.extend(lines.push(&text[cut..]));
            assert_eq!(got, ["one", "two"]);
            assert_eq!(lines.finish().as_deref(), Some("three"));
            assert_eq!(lines.finish(), None);
        }
    }

    #[test]
    fn control_sequences_are_removed() {
        assert_eq!(
            strip_control("\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: x\x07"),
            "BdsDxe: x"
        );
        assert_eq!(strip_control("a\tb\x1b"), "a\tb");
    }

    fn seen(lines: &[&str], expect: &Expect) -> Seen {
        let mut seen = Seen::default();
        lines
            .iter()
            .for_each(|line| observe(&mut seen, line, expect));
        seen
    }

    #[test]
    fn signs_are_found() {
        let got = seen(
            &[
                "[    1.5] Kernel panic - not syncing: VFS: Unable to mount root fs",
                "[    1.6] Kernel panic - not syncing: second",
                "sevsim-init: done status=3",
                "[   10.000000] reboot: Power down",
            ],
            &Expect::Check,
        );
        assert!(got.panic.unwrap().contains("VFS"));
        assert_eq!(got.init_status, Some(3));
        assert!(got.power_down);
    }

    #[test]
    fn a_user_that_prints_like_a_power_off_does_not_count() {
        let got = seen(&["echo reboot: Power down"], &Expect::Check);
        assert!(!got.power_down);
    }

    #[test]
    fn expected_text_on_the_command_line_does_not_count() {
        let expect = Expect::Text("hello".into());
        for echo in [
            "[    0.0] Kernel command line: x=hello",
            "[    0.0] Command line: x=hello",
            "[    0.0] Unknown kernel command line parameters \"x=hello\", will be passed on",
        ] {
            assert!(!seen(&[echo], &expect).text, "{echo}");
        }
        assert!(seen(&["# hello"], &expect).text);
    }
}
