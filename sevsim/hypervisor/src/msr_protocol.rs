// SPDX-License-Identifier: GPL-2.0
//! The GHCB MSR protocol (GHCB specification 2.3.1): requests that fit into the MSR itself.

use crate::ap::Hold;
use crate::outcome::{Next, Stop};
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// Bits of the MSR that hold the function.
pub const INFO_MASK: u64 = 0xfff;

const SEV_INFO_RESPONSE: u64 = 0x001;
const SEV_INFO_REQUEST: u64 = 0x002;
const CPUID_REQUEST: u64 = 0x004;
const CPUID_RESPONSE: u64 = 0x005;
const AP_RESET_HOLD_REQUEST: u64 = 0x006;
const AP_RESET_HOLD_RESPONSE: u64 = 0x007;
const PREFERRED_GPA_REQUEST: u64 = 0x010;
const PREFERRED_GPA_RESPONSE: u64 = 0x011;
const REGISTER_GPA_REQUEST: u64 = 0x012;
const REGISTER_GPA_RESPONSE: u64 = 0x013;
const FEATURES_REQUEST: u64 = 0x080;
const FEATURES_RESPONSE: u64 = 0x081;
const TERM_REQUEST: u64 = 0x100;

/// The lowest protocol version offered.
pub const VERSION_MIN: u16 = 1;

/// No preferred GPA; in a registration response: refused.
const NO_GPA: u64 = !INFO_MASK;

/// SEV_INFO response: versions and the C-bit's position.
pub fn sev_info(versions: (u16, u16), cbit: u8) -> u64 {
    (u64::from(versions.1) << 48)
        | (u64::from(versions.0) << 32)
        | (u64::from(cbit) << 24)
        | SEV_INFO_RESPONSE
}

/// AP reset hold response: whether a SIPI came.
pub fn ap_reset_hold_response(sipi: bool) -> u64 {
    (u64::from(sipi) << 12) | AP_RESET_HOLD_RESPONSE
}

impl<P: Platform> Vm<P> {
    /// Handles a request by the MSR protocol: the MSR's new value and what to do.
    pub(crate) fn msr_request(&self, vcpu: &Vcpu, msr: u64, cr4: u64) -> (u64, Next) {
        vcpu.own.stats.msr_protocol.add(1);
        let version2 = self.options().ghcb >= 2;
        let reply = match msr & INFO_MASK {
            SEV_INFO_REQUEST => match self.lies().versions(vcpu.stage()) {
                Some(versions) => sev_info(versions, self.options().cbit),
                None => self.ghcb_msr_at_reset(),
            },
            CPUID_REQUEST => {
                // No subleaf can be given, nor XCR0 for leaf 0xd: both count as 0.
                let leaf = (msr >> 32) as u32;
                let registers = self.cpuid(vcpu, leaf, 0, cr4, 0, 0);
                let register = ((msr >> 30) & 3) as usize;
                (u64::from(registers[register]) << 32) | (msr & 0xffff_f000) | CPUID_RESPONSE
            }
            AP_RESET_HOLD_REQUEST => {
                match self.lies().hold(vcpu.stage()) {
                    Some(true) => return (ap_reset_hold_response(true), Next::Resume),
                    Some(false) => return (ap_reset_hold_response(false), Next::Hold),
                    None => (),
                }
                vcpu.ap.lock().hold(Hold::Msr);
                return (ap_reset_hold_response(false), Next::Hold);
            }
            PREFERRED_GPA_REQUEST if version2 => NO_GPA | PREFERRED_GPA_RESPONSE,
            REGISTER_GPA_REQUEST if version2 => {
                let gpa = msr & !INFO_MASK;
                let answer = if self.ram().contains(gpa, 0x1000) {
                    gpa
                } else {
                    NO_GPA
                };
                answer | REGISTER_GPA_RESPONSE
            }
            FEATURES_REQUEST => FEATURES_RESPONSE,
            TERM_REQUEST => {
                let stop = Stop::Terminate {
                    set: ((msr >> 12) & 0xf) as u8,
                    code: (msr >> 16) as u8,
                };
                return (msr, Next::Stop(stop));
            }
            // As KVM: a request that is not known leaves the MSR as it is; so the guest knows.
            _ => {
                self.complain(vcpu, format_args!("unknown GHCB MSR request {msr:#x}"));
                msr
            }
        };
        if msr & INFO_MASK != SEV_INFO_REQUEST {
            if let Some(lie) = self.lies().msr_reply(vcpu.stage()) {
                return (lie, Next::Resume);
            }
            if self.lies().any() {
                return (self.deceive(vcpu, reply), Next::Resume);
            }
        }
        (reply, Next::Resume)
    }
}
