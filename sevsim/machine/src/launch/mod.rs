// SPDX-License-Identifier: GPL-2.0
//! Launch of a SEV-ES guest as the secure processor does it (SEV API, chapter 6).
//!
//! ```text
//!     command                state before   state after   what
//!     LAUNCH_START           uninit         update        policy, and the owner's integrity key
//!     LAUNCH_UPDATE_DATA     update         update        encrypts memory, adds it to the digest
//!     LAUNCH_UPDATE_VMSA     update         update        the same for a vCPU's save area
//!     LAUNCH_MEASURE         update         secret        the digest's MAC, for the guest's owner
//!     LAUNCH_FINISH          secret         running       from now on the guest may run
//! ```
//!
//! The guest's owner compares the measurement with what he computes by himself of firmware, hashes
//! table, number and kind of vCPUs and policy; `sevsim-run measure` is that computation. Only if it
//! matches he trusts the guest with a secret (LAUNCH_SECRET, which is not simulated).
//!
//! Nobody can check the launch of a guest without such a key, so nothing is computed for it. On
//! hardware the digest costs the guest's processors no time; here it is 1.5 % of a boot.
//!
//! ACTIVATE, which KVM issues within its LAUNCH_START, has no counterpart: there are no keys to
//! install. Encryption itself is left to whoever owns the memory, see `layout`.

pub mod hashes;
pub mod options;
pub mod policy;
pub mod vmsa;

use core::fmt;

use hmac::Hmac;
use hmac::Mac;
use sha2::Digest;
use sha2::Sha256;

use policy::ApiVersion;
use policy::Policy;
use policy::PolicyError;
use vmsa::Vmsa;

/// DR7 of a vCPU without breakpoints.
const DR7_FIXED: u64 = 0x400;
/// LAUNCH_UPDATE_DATA encrypts so many bytes at a time.
const BLOCK: u64 = 16;
/// First byte of the message that LAUNCH_MEASURE authenticates (SEV API 6.5).
const MEASURE_CONTEXT: u8 = 4;

/// The launch digest, GCTX.LD.
pub type LaunchDigest = [u8; 32];

/// What firmware tells of itself; it is part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Version of the API.
    pub api: ApiVersion,
    /// BUILD.
    pub build: u8,
}

impl Default for Firmware {
    /// A firmware of recent Milan hosts: SEV 1.55, build 21.
    fn default() -> Self {
        Self {
            api: ApiVersion {
                major: 1,
                minor: 55,
            },
            build: 21,
        }
    }
}

/// The commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// LAUNCH_START (SEV API 6.2).
    Start,
    /// LAUNCH_UPDATE_DATA (6.3).
    UpdateData,
    /// LAUNCH_UPDATE_VMSA (6.4).
    UpdateVmsa,
    /// LAUNCH_MEASURE (6.5).
    Measure,
    /// LAUNCH_FINISH (6.7).
    Finish,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "LAUNCH_START",
            Self::UpdateData => "LAUNCH_UPDATE_DATA",
            Self::UpdateVmsa => "LAUNCH_UPDATE_VMSA",
            Self::Measure => "LAUNCH_MEASURE",
            Self::Finish => "LAUNCH_FINISH",
        }
    }
}

/// GCTX.STATE, as far as a launch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// UNINIT: no guest yet.
    Uninit,
    /// LUPDATE: memory and save areas are added.
    Update,
    /// LSECRET: measured; the owner may add secrets.
    Secret,
    /// RUNNING.
    Running,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Uninit => "UNINIT",
            Self::Update => "LUPDATE",
            Self::Secret => "LSECRET",
            Self::Running => "RUNNING",
        }
    }
}

/// Why a command was refused. The guest stays in the state that it was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The command does not belong to the guest's state.
    OutOfOrder {
        /// The command.
        command: Command,
        /// The guest's state.
        state: State,
    },
    /// The policy cannot be kept.
    Policy(PolicyError),
    /// The address is not a multiple of 16.
    Address(u64),
    /// The length is 0, or not a multiple of 16.
    Length(u64),
    /// The guest has no vCPU of this number.
    NoVcpu(usize),
    /// This vCPU's save area is encrypted already, or an earlier vCPU's is not yet: the order
    /// counts, as all of them go into one digest.
    VcpuOrder(usize),
    /// A save area with breakpoints in DR7 would let the VMM debug what it cannot see.
    Breakpoints,
    /// This vCPU's save area is missing.
    NoVmsa(usize),
}

impl LaunchError {
    /// The status code of the SEV API (chapter 5.1, table "Status Codes"); `None` for what the VMM
    /// (KVM: -EINVAL) refuses before it asks the secure processor.
    pub fn status(&self) -> Option<u32> {
        Some(match self {
            Self::OutOfOrder { .. } => 2,
            Self::Length(_) => 4,
            Self::Policy(_) => 7,
            Self::Address(_) => 9,
            Self::NoVcpu(_) | Self::VcpuOrder(_) | Self::Breakpoints | Self::NoVmsa(_) => {
                return None;
            }
        })
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfOrder { command, state } => write!(
                f,
                "{} is out of order: the guest is in state {}",
                command.name(),
                state.name()
            ),
            Self::Policy(error) => error.fmt(f),
            Self::Address(at) => {
                write!(f, "memory to encrypt starts at {at:#x}, no multiple of 16")
            }
            Self::Length(len) => {
                write!(
                    f,
                    "memory to encrypt has {len} bytes, no multiple of 16 above 0"
                )
            }
            Self::NoVcpu(vcpu) => write!(f, "the guest has no vCPU {vcpu}"),
            Self::VcpuOrder(vcpu) => write!(
                f,
                "the save area of vCPU {vcpu} is encrypted already, or before those of earlier \
                 vCPUs"
            ),
            Self::Breakpoints => f.write_str("the save area has breakpoints in DR7"),
            Self::NoVmsa(vcpu) => write!(f, "the save area of vCPU {vcpu} was never encrypted"),
        }
    }
}

impl From<PolicyError> for LaunchError {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

/// GCTX.TIK, the transport integrity key: what the guest's owner shares with the secure processor
/// alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tik(pub [u8; 16]);

impl fmt::Debug for Tik {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tik(..)")
    }
}

/// What LAUNCH_MEASURE gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// MEASURE.
    pub mac: [u8; 32],
    /// MNONCE.
    pub nonce: [u8; 16],
}

impl Measurement {
    /// Bytes of the blob.
    pub const LEN: usize = 48;

    /// MEASURE and MNONCE, as the VMM hands them to the guest's owner.
    pub fn blob(&self) -> [u8; Self::LEN] {
        let mut blob = [0; Self::LEN];
        blob[..32].copy_from_slice(&self.mac);
        blob[32..].copy_from_slice(&self.nonce);
        blob
    }

    /// HMAC(0x04 || API_MAJOR || API_MINOR || BUILD || GCTX.POLICY || GCTX.LD || MNONCE; GCTX.TIK),
    /// SEV API 6.5.
    pub fn new(
        firmware: Firmware,
        policy: Policy,
        digest: &LaunchDigest,
        nonce: [u8; 16],
        tik: &Tik,
    ) -> Self {
        let mut mac = match Hmac::<Sha256>::new_from_slice(&tik.0) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        };
        mac.update(&[
            MEASURE_CONTEXT,
            firmware.api.major,
            firmware.api.minor,
            firmware.build,
        ]);
        mac.update(&policy.bits().to_le_bytes());
        mac.update(digest);
        mac.update(&nonce);
        Self {
            mac: mac.finalize().into_bytes().into(),
            nonce,
        }
    }
}

/// Proof that a guest was launched; nothing else makes one, and vCPUs run by one only.
#[derive(Clone, Copy, Debug)]
pub struct Launched {
    policy: Policy,
}

impl Launched {
    /// The guest's policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }
}

/// A guest on its way to run: GCTX, and what KVM keeps besides.
#[derive(Clone)]
pub struct Launch {
    firmware: Firmware,
    vcpus: usize,
    state: State,
    policy: Policy,
    tik: Option<Tik>,
    digest: Sha256,
    /// Save areas encrypted so far.
    vmsas: usize,
}

impl Launch {
    /// No guest yet, for one of `vcpus` vCPUs.
    pub fn new(firmware: Firmware, vcpus: usize) -> Self {
        Self {
            firmware,
            vcpus,
            state: State::Uninit,
            policy: Policy::DEFAULT,
            tik: None,
            digest: Sha256::new(),
            vmsas: 0,
        }
    }

    /// The guest's state.
    pub fn state(&self) -> State {
        self.state
    }

    fn expect(&self, command: Command, state: State) -> Result<(), LaunchError> {
        if self.state == state {
            Ok(())
        } else {
            Err(LaunchError::OutOfOrder {
                command,
                state: self.state,
            })
        }
    }

    /// LAUNCH_START. Hardware gets `tik` wrapped in the session, by a key that the owner negotiates
    /// with the platform's certificate, and draws one if the owner gave none.
    ///
    /// # Errors
    /// [`LaunchError::Policy`], [`LaunchError::OutOfOrder`].
    pub fn start(&mut self, policy: Policy, tik: Option<Tik>) -> Result<(), LaunchError> {
        self.expect(Command::Start, State::Uninit)?;
        policy.check(self.firmware.api)?;
        self.policy = policy;
        self.tik = tik;
        self.state = State::Update;
        Ok(())
    }

    /// LAUNCH_UPDATE_DATA of memory at `gpa`. Where it lies does not go into the digest, only the
    /// order: SEV-SNP mended that.
    ///
    /// # Errors
    /// [`LaunchError::Address`], [`LaunchError::Length`], [`LaunchError::OutOfOrder`].
    pub fn update_data(&mut self, gpa: u64, data: &[u8]) -> Result<(), LaunchError> {
        self.expect(Command::UpdateData, State::Update)?;
        let len = data.len() as u64;
        if gpa % BLOCK != 0 {
            return Err(LaunchError::Address(gpa));
        }
        if len == 0 || len % BLOCK != 0 {
            return Err(LaunchError::Length(len));
        }
        self.add(data);
        Ok(())
    }

    /// LAUNCH_UPDATE_VMSA of a vCPU's save area; in order of the vCPUs, each once.
    ///
    /// # Errors
    /// [`LaunchError::NoVcpu`], [`LaunchError::VcpuOrder`], [`LaunchError::Breakpoints`],
    /// [`LaunchError::OutOfOrder`].
    pub fn update_vmsa(&mut self, vcpu: usize, vmsa: &Vmsa) -> Result<(), LaunchError> {
        self.expect(Command::UpdateVmsa, State::Update)?;
        if vcpu >= self.vcpus {
            return Err(LaunchError::NoVcpu(vcpu));
        }
        if vcpu != self.vmsas {
            return Err(LaunchError::VcpuOrder(vcpu));
        }
        if vmsa.dr7 & !DR7_FIXED != 0 {
            return Err(LaunchError::Breakpoints);
        }
        self.add(vmsa.bytes());
        self.vmsas += 1;
        Ok(())
    }

    /// LAUNCH_MEASURE. Hardware draws the nonce by itself. `None` without the owner's key.
    ///
    /// # Errors
    /// [`LaunchError::NoVmsa`], [`LaunchError::OutOfOrder`].
    pub fn measure(
        &mut self,
        nonce: [u8; 16],
    ) -> Result<Option<(LaunchDigest, Measurement)>, LaunchError> {
        self.expect(Command::Measure, State::Update)?;
        if self.vmsas != self.vcpus {
            return Err(LaunchError::NoVmsa(self.vmsas));
        }
        self.state = State::Secret;
        let Some(tik) = &self.tik else {
            return Ok(None);
        };
        let digest = self.digest.clone().finalize().into();
        let measurement = Measurement::new(self.firmware, self.policy, &digest, nonce, tik);
        Ok(Some((digest, measurement)))
    }

    /// LAUNCH_FINISH.
    ///
    /// # Errors
    /// [`LaunchError::OutOfOrder`].
    pub fn finish(&mut self) -> Result<Launched, LaunchError> {
        self.expect(Command::Finish, State::Secret)?;
        self.state = State::Running;
        Ok(Launched {
            policy: self.policy,
        })
    }

    fn add(&mut self, data: &[u8]) {
        if self.tik.is_some() {
            self.digest.update(data);
        }
    }
}

#[cfg(test)]
mod tests;
