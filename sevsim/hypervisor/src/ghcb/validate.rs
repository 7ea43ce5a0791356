// SPDX-License-Identifier: GPL-2.0
//! Which inputs each event needs (GHCB specification 4.1; the checks and their order are KVM's).

use crate::exit::code;
use crate::exit::ioio::IoInfo;
use crate::ghcb::layout::{
    CPL, RAX, RCX, RDX, SW_EXITCODE, SW_EXITINFO1, SW_EXITINFO2, SW_SCRATCH, XCR0,
};
use crate::ghcb::{BadInput, Ghcb};
use crate::platform::Platform;

impl<P: Platform> Ghcb<'_, P> {
    /// Checks the page's usage and that everything the event needs is there.
    ///
    /// The protocol version that the page claims is not checked: KVM does not, and firmware of the
    /// field leaves it 0.
    pub fn validate(&self) -> Result<(), BadInput> {
        let (_, usage) = self.version_and_usage();
        if usage != 0 {
            return Err(BadInput::Usage);
        }
        if snp_only(self.code) {
            return Err(BadInput::InvalidEvent);
        }
        if !self.inputs_present() {
            return Err(BadInput::MissingInput);
        }
        Ok(())
    }

    fn inputs_present(&self) -> bool {
        let all = |fields: &[_]| fields.iter().all(|field| self.has(*field));
        if !all(&[SW_EXITCODE, SW_EXITINFO1, SW_EXITINFO2]) {
            return false;
        }
        // As in the dispatch, the frequent ones by comparisons.
        match self.code {
            code::IOIO => {
                let info = IoInfo(self.info1);
                if info.string() {
                    all(&[SW_SCRATCH])
                } else {
                    info.input() || all(&[RAX])
                }
            }
            code::MSR => all(&[RCX]) && (self.info1 == 0 || all(&[RAX, RDX])),
            // Leaf 0xd also needs XCR0; the leaf is looked at when RAX is read for use.
            code::CPUID => all(&[RAX, RCX]),
            code::MMIO_READ | code::MMIO_WRITE => all(&[SW_SCRATCH]),
            _ => self.rare_inputs_present(),
        }
    }

    #[cold]
    #[inline(never)]
    fn rare_inputs_present(&self) -> bool {
        let all = |fields: &[_]| fields.iter().all(|field| self.has(*field));
        match self.code {
            code::DR7_WRITE => all(&[RAX]),
            code::RDPMC => all(&[RCX]),
            code::VMMCALL => all(&[RAX, CPL]),
            code::MONITOR => all(&[RAX, RCX, RDX]),
            code::MWAIT => all(&[RAX, RCX]),
            _ => true,
        }
    }

    /// CPUID's leaf and subleaf and, for leaf 0xd, XCR0, which that leaf needs (APM volume 3, E.3).
    pub fn cpuid_inputs(&self) -> Result<(u32, u32, u64), BadInput> {
        let (leaf, subleaf) = (self.field(RAX) as u32, self.field(RCX) as u32);
        if leaf != 0xd {
            return Ok((leaf, subleaf, 0));
        }
        if !self.has(XCR0) {
            return Err(BadInput::MissingInput);
        }
        Ok((leaf, subleaf, self.field(XCR0)))
    }
}

/// Events that exist only for SEV-SNP guests.
fn snp_only(event: u64) -> bool {
    matches!(
        event,
        code::PSC | code::GUEST_REQUEST | code::EXT_GUEST_REQUEST | code::AP_CREATION
    )
}
