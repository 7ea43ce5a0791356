// SPDX-License-Identifier: GPL-2.0
//! Options of the launch: the `launch-...=value` words of sevsim's command line.
//!
//! They are the machine's, not the hypervisor's: the integrity key is a secret between the guest's
//! owner and the secure processor.

use core::fmt;

use super::policy::ApiVersion;
use super::policy::Policy;
use super::vmsa::Fpu;
use super::Firmware;
use super::Tik;

/// What all the words start with.
pub const PREFIX: &str = "launch-";

/// The options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `launch-policy`: the guest policy.
    pub policy: Policy,
    /// `launch-tik`: the integrity key, 32 hexadecimal digits. Hardware draws one if the owner gave
    /// none, and then nobody can check the measurement.
    pub tik: Option<Tik>,
    /// `launch-nonce`: what hardware draws at LAUNCH_MEASURE, 32 hexadecimal digits.
    pub nonce: [u8; 16],
    /// `launch-api`: version of the secure processor's firmware, MAJOR.MINOR.BUILD.
    pub firmware: Firmware,
    /// `launch-fpu`: `reset` or `zero`.
    pub fpu: Fpu,
    /// `launch-hashes`: whether the firmware gets hashes of kernel, initramfs and command line
    /// (`on` or `off`).
    pub hashes: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::DEFAULT,
            tik: None,
            nonce: [0; 16],
            firmware: Firmware::default(),
            fpu: Fpu::default(),
            hashes: false,
        }
    }
}

/// A word that was not understood. The value is not repeated: it may be the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionError<'a> {
    key: &'a str,
    expected: &'static str,
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option {}: expected {}", self.key, self.expected)
    }
}

impl Options {
    /// Reads the launch's words out of a command line and leaves the others alone.
    ///
    /// # Errors
    /// An unknown key, or a value that does not fit.
    pub fn parse(text: &str) -> Result<Self, OptionError<'_>> {
        let mut options = Self::default();
        for word in text.split_ascii_whitespace() {
            if !word.starts_with(PREFIX) {
                continue;
            }
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            options
                .set(&key[PREFIX.len()..], value)
                .map_err(|expected| OptionError { key, expected })?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "policy" => {
                self.policy = policy(value).ok_or("a policy such as 0x5, without reserved bits")?;
            }
            "tik" => self.tik = Some(Tik(hex(value).ok_or("32 hexadecimal digits")?)),
            "nonce" => self.nonce = hex(value).ok_or("32 hexadecimal digits")?,
            "api" => self.firmware = firmware(value).ok_or("MAJOR.MINOR.BUILD such as 1.55.21")?,
            "fpu" => self.fpu = Fpu::parse(value).ok_or("reset or zero")?,
            "hashes" => {
                self.hashes = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err("on or off"),
                }
            }
            _ => return Err("no such option (policy, tik, nonce, api, fpu and hashes are known)"),
        }
        Ok(())
    }
}

/// Reads a policy: decimal, or hexadecimal with `0x`.
pub fn policy(text: &str) -> Option<Policy> {
    let bits = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Policy::new(bits.ok()?).ok()
}

/// Reads MAJOR.MINOR.BUILD.
pub fn firmware(text: &str) -> Option<Firmware> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    let firmware = Firmware {
        api: ApiVersion {
            major: next()?,
            minor: next()?,
        },
        build: next()?,
    };
    numbers.next().is_none().then_some(firmware)
}

/// Reads 16 bytes of two hexadecimal digits each.
pub fn hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let number = u128::from_str_radix(text, 16).ok()?;
    Some(number.to_be_bytes())
}

/// Bytes as hexadecimal digits.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_options_are_read_and_others_skipped() {
        let text = "mem=512 launch-policy=0x5 launch-tik=000102030405060708090a0b0c0d0e0f \
                    launch-nonce=ff000000000000000000000000000001 launch-api=1.2.3 vcpus=2 \
                    launch-fpu=zero launch-hashes=on";
        let options = Options::parse(text).unwrap();
        assert_eq!(options.policy.bits(), 5);
        assert_eq!(options.tik, Some(Tik(core::array::from_fn(|n| n as u8))));
        assert_eq!((options.nonce[0], options.nonce[15]), (0xff, 1));
        assert_eq!(options.firmware.api.to_string(), "1.2");
        assert_eq!(options.firmware.build, 3);
        assert_eq!((options.fpu, options.hashes), (Fpu::Zero, true));
        assert_eq!(Options::parse("mem=512"), Ok(Options::default()));
    }

    #[test]
    fn bad_values_are_refused_and_not_repeated() {
        for bad in [
            "launch-policy=0x40",
            "launch-policy=",
            "launch-policy=0x100000000",
            "launch-tik=00",
            "launch-tik=+00102030405060708090a0b0c0d0e0ff",
            "launch-tik=zz0102030405060708090a0b0c0d0e0f",
            "launch-nonce",
            "launch-api=1.55",
            "launch-api=1.55.21.0",
            "launch-api=1.256.1",
            "launch-fpu=none",
            "launch-hashes=1",
            "launch-key=1",
        ] {
            let error = Options::parse(bad).unwrap_err().to_string();
            let (key, value) = bad.split_once('=').unwrap_or((bad, ""));
            assert!(error.contains(key), "{error}");
            assert!(value.len() < 8 || !error.contains(value), "{error}");
        }
    }

    #[test]
    fn bytes_are_shown_in_order() {
        assert_eq!(Hex(&[0, 0x1f, 0xff]).to_string(), "001fff");
    }
}
