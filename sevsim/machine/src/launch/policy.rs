// SPDX-License-Identifier: GPL-2.0
//! The guest policy (SEV API, chapter 3): what the guest's owner demands of host and firmware.

use core::fmt;

/// A version of the SEV API, as firmware reports it (PLATFORM_STATUS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// API_MAJOR.
    pub major: u8,
    /// API_MINOR.
    pub minor: u8,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A policy without reserved bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy(u32);

/// Why a policy is no policy, or not one that this host can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// These bits are reserved and must be 0.
    Reserved(u32),
    /// The guest's owner wants no SEV-ES, and this host has nothing else.
    NotSevEs,
    /// The guest's owner demands a later API than this firmware's.
    ApiTooOld {
        /// What the policy demands.
        wanted: ApiVersion,
        /// What the firmware has.
        offered: ApiVersion,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved(bits) => write!(f, "the policy has reserved bits set: {bits:#x}"),
            Self::NotSevEs => f.write_str(
                "the policy does not demand SEV-ES (bit 2, 0x4), and this host starts no guests \
                 without",
            ),
            Self::ApiTooOld { wanted, offered } => write!(
                f,
                "the policy demands SEV API {wanted} or later, and the firmware has {offered}"
            ),
        }
    }
}

impl Policy {
    /// No debugging: DBG_DECRYPT and DBG_ENCRYPT are refused.
    pub const NODBG: u32 = 1 << 0;
    /// No sharing of the key with other guests.
    pub const NOKS: u32 = 1 << 1;
    /// SEV-ES is demanded.
    pub const ES: u32 = 1 << 2;
    /// The guest must not be sent to another platform.
    pub const NOSEND: u32 = 1 << 3;
    /// Nor to one outside its domain.
    pub const DOMAIN: u32 = 1 << 4;
    /// Nor to one without SEV.
    pub const SEV: u32 = 1 << 5;
    const RESERVED: u32 = 0xffc0;

    /// SEV-ES, debugging permitted, any firmware.
    pub const DEFAULT: Self = Self(Self::ES);

    /// A policy of its bits; bits 23:16 and 31:24 are the least API version, major and minor.
    ///
    /// # Errors
    /// [`PolicyError::Reserved`].
    pub fn new(bits: u32) -> Result<Self, PolicyError> {
        match bits & Self::RESERVED {
            0 => Ok(Self(bits)),
            reserved => Err(PolicyError::Reserved(reserved)),
        }
    }

    /// Its bits.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether SEV-ES is demanded.
    pub fn sev_es(self) -> bool {
        self.0 & Self::ES != 0
    }

    /// Whether the host may look into the guest for debugging.
    pub fn debug(self) -> bool {
        self.0 & Self::NODBG == 0
    }

    /// The least API version that the guest accepts.
    pub fn api(self) -> ApiVersion {
        ApiVersion {
            major: (self.0 >> 16) as u8,
            minor: (self.0 >> 24) as u8,
        }
    }

    /// What LAUNCH_START checks.
    ///
    /// # Errors
    /// [`PolicyError::NotSevEs`], [`PolicyError::ApiTooOld`].
    pub fn check(self, firmware: ApiVersion) -> Result<(), PolicyError> {
        if !self.sev_es() {
            return Err(PolicyError::NotSevEs);
        }
        let wanted = self.api();
        if wanted > firmware {
            return Err(PolicyError::ApiTooOld {
                wanted,
                offered: firmware,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRMWARE: ApiVersion = ApiVersion {
        major: 1,
        minor: 55,
    };

    #[test]
    fn each_bit_is_known_or_refused() {
        for bit in 0..32 {
            let reserved = (6..16).contains(&bit);
            let want = match reserved {
                true => Err(PolicyError::Reserved(1 << bit)),
                false => Ok(Policy(1 << bit)),
            };
            assert_eq!(Policy::new(1 << bit), want, "{bit}");
        }
    }

    #[test]
    fn bit_2_demands_sev_es() {
        for bits in 0..64 {
            let policy = Policy::new(bits).unwrap();
            let want = if bits & 4 != 0 {
                Ok(())
            } else {
                Err(PolicyError::NotSevEs)
            };
            assert_eq!(policy.check(FIRMWARE), want, "{bits:#x}");
            assert_eq!(policy.debug(), bits & 1 == 0);
        }
    }

    #[test]
    fn versions_compare_by_major_then_minor() {
        for (major, minor, good) in [
            (0u32, 0u32, true),
            (0, 255, true),
            (1, 0, true),
            (1, 55, true),
            (1, 56, false),
            (2, 0, false),
            (255, 255, false),
        ] {
            let policy = Policy::new(Policy::ES | (major << 16) | (minor << 24)).unwrap();
            assert_eq!(policy.check(FIRMWARE).is_ok(), good, "{major}.{minor}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let text = Policy::new(0x45).unwrap_err().to_string();
        assert!(text.contains("0x40"), "{text}");
        let text = Policy::new(1).unwrap().check(FIRMWARE).unwrap_err();
        assert!(text.to_string().contains("0x4"), "{text}");
        let text = Policy::new(0x3801_0004).unwrap().check(FIRMWARE);
        let text = text.unwrap_err().to_string();
        assert!(text.contains("1.56") && text.contains("1.55"), "{text}");
    }
}
