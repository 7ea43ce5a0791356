// SPDX-License-Identifier: GPL-2.0
//! Lies that concern a reply as a whole, or a vCPU (see [`crate::lies`]).

use crate::ghcb::GHCB_LEN;
use crate::hostile::boot;
use crate::hostile::random::Random;
use crate::hostile::reply;
use crate::lies::Deed;
use crate::lies::Stage;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

impl<P: Platform> Vm<P> {
    /// Tells the lies that are due with a reply. `msr` is the value for the GHCB MSR: the address
    /// of a GHCB, or a reply by the MSR protocol. Returns the value to go on with.
    #[cold]
    #[inline(never)]
    pub(crate) fn deceive(&self, vcpu: &Vcpu, msr: u64) -> u64 {
        let mut new = msr;
        let ghcb = msr & 0xfff == 0 && self.ram().contains(msr, GHCB_LEN);
        if ghcb {
            vcpu.ghcb.set(msr);
        }
        self.lies().reply(vcpu.stage(), |deed| match deed {
            Deed::Sipi => {
                self.reset_all(vcpu.stage());
                new = self.ghcb_msr_at_reset();
            }
            Deed::Init => {
                self.reset_all(vcpu.stage());
                self.apic_init(vcpu);
                new = self.ghcb_msr_at_reset();
            }
            Deed::Swap if ghcb => self.swap(vcpu, msr),
            Deed::Swap => (),
            Deed::Spoil(random) => new = self.spoil_early(vcpu, random, msr, ghcb),
        });
        new
    }

    /// INIT and SIPI for all vCPUs that have come to a stage: firmware that gets a SIPI before the
    /// kernel wants one goes where its AP jump table leads. As in KVM a vCPU that runs is not
    /// stopped, since its state is encrypted.
    fn reset_all(&self, stage: Stage) {
        for target in self.vcpus().iter().filter(|target| target.stage() == stage) {
            let mut ap = target.ap.lock();
            if ap.started() {
                ap.init();
                if ap.sipi() {
                    self.platform().kick(target.index);
                }
            }
        }
    }

    /// A page of the host's memory takes the place of another one: to the guest, contents that are
    /// exchanged.
    fn swap(&self, vcpu: &Vcpu, gpa: u64) {
        let others = self.vcpus().iter().map(|other| other.ghcb.get());
        let Some(other) = others
            .into_iter()
            .find(|other| *other != 0 && *other != gpa)
        else {
            return;
        };
        for offset in (0..GHCB_LEN).step_by(8) {
            let (here, there) = (gpa + offset, other + offset);
            let (mine, theirs) = (self.shared(here), self.shared(there));
            // Both were found to be RAM.
            let _ = self.platform().write_shared_u64(here, theirs);
            let _ = self.platform().write_shared_u64(there, mine);
        }
        let index = vcpu.index;
        self.platform().log(format_args!(
            "vcpu {index}: {gpa:#x} and {other:#x} swapped"
        ));
    }

    fn spoil_early(&self, vcpu: &Vcpu, mut random: Random, msr: u64, ghcb: bool) -> u64 {
        let (new, did) = if ghcb {
            let chosen = reply::choose(&mut random, false) & !reply::NMI;
            self.spoil_page(vcpu, &mut random, chosen, msr);
            let new = if chosen & reply::MSR != 0 {
                reply::msr(&mut random)
            } else {
                msr
            };
            (new, chosen)
        } else {
            (boot::msr_reply(&mut random, msr), 0)
        };
        self.platform().log(format_args!(
            "random reply: did={did:#x} msr={msr:#x} -> {new:#x}"
        ));
        new
    }
}
