// SPDX-License-Identifier: GPL-2.0
//! NAE events: one function for each SW_EXITCODE (GHCB specification 4.1).

pub mod code;
pub mod cpuid;
mod deceive;
mod hostile;
pub mod hypercall;
pub mod ioio;
pub mod mmio;
pub mod msr;

use crate::ap::Hold;
use crate::ghcb::layout::{RAX, RBX, RCX, RDX, SW_EXITCODE};
use crate::ghcb::{BadInput, Exception, Fault, Ghcb, GHCB_LEN};
use crate::options::LeakCheck;
use crate::outcome::{Next, Stop};
use crate::platform::{Platform, Use};
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// MSR that holds what RDTSCP returns in ECX.
const MSR_TSC_AUX: u32 = 0xc000_0103;

/// What an event answers in SW_EXITINFO2, and what the vCPU does next.
pub struct Answer {
    info2: u64,
    next: Next,
}

impl Answer {
    /// The usual answer.
    pub const DONE: Self = Self {
        info2: 0,
        next: Next::Resume,
    };

    /// Resume with data for the guest.
    pub const fn data(info2: u64) -> Self {
        Self {
            info2,
            next: Next::Resume,
        }
    }

    /// Nothing for the guest, but something for the exit loop.
    pub const fn next(next: Next) -> Self {
        Self { info2: 0, next }
    }
}

impl<P: Platform> Vm<P> {
    /// Handles the event in the GHCB at `gpa`, and spoils the reply if the host is hostile. Returns
    /// the value of the GHCB MSR to go on with.
    pub(crate) fn event_of(&self, vcpu: &Vcpu, gpa: u64, cr4: u64) -> (u64, Next) {
        let next = self.nae_event(vcpu, gpa, cr4);
        let options = self.options();
        let mut msr = gpa;
        let looked_at = options.hostile.is_some() || options.leak_check != LeakCheck::Off;
        if looked_at && self.ram().contains(gpa, GHCB_LEN) {
            self.platform().name(Use::Ghcb, gpa, GHCB_LEN);
        }
        if options.hostile.is_some() && next == Next::Resume {
            msr = self.spoil_reply(vcpu, gpa);
        }
        if self.lies().any() && next == Next::Resume {
            msr = self.deceive(vcpu, msr);
        }
        if options.leak_check != LeakCheck::Off {
            self.note_reply(vcpu, gpa);
        }
        (msr, next)
    }

    /// Handles the event in the GHCB at `gpa`.
    fn nae_event(&self, vcpu: &Vcpu, gpa: u64, cr4: u64) -> Next {
        // KVM too returns to the guest when there is no GHCB to reply in, and takes 0 for none.
        if gpa == 0 || !self.ram().contains(gpa, GHCB_LEN) {
            return self.no_ghcb(vcpu, gpa);
        }
        let Ok(mut ghcb) = Ghcb::open(self.platform(), gpa) else {
            return self.no_ghcb(vcpu, gpa);
        };
        vcpu.own.stats.count_nae(ghcb.code);
        if self.options().leak_check != LeakCheck::Off {
            self.search_request(vcpu, &ghcb);
        }

        let result = match ghcb.validate() {
            Ok(()) => self.dispatch(vcpu, &mut ghcb, cr4),
            Err(bad) => Err(Fault::Bad(bad)),
        };
        match result {
            Ok(answer) => {
                if let Some(upper) = self.lies().upper(vcpu.stage()) {
                    ghcb.lie_above([RAX, RBX, RCX, RDX], upper);
                }
                match self.lies().response(vcpu.stage()) {
                    None => ghcb.succeed(answer.info2),
                    Some(response) => ghcb.lie(response, answer.info2),
                }
                answer.next
            }
            Err(fault) => {
                self.explain(vcpu, &ghcb, fault);
                ghcb.fail(fault);
                Next::Resume
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn no_ghcb(&self, vcpu: &Vcpu, gpa: u64) -> Next {
        self.complain(vcpu, format_args!("GHCB at {gpa:#x} is not in RAM"));
        Next::Resume
    }

    #[cold]
    #[inline(never)]
    fn explain(&self, vcpu: &Vcpu, ghcb: &Ghcb<'_, P>, fault: Fault) {
        if let Fault::Bad(bad) = fault {
            self.complain(
                vcpu,
                format_args!(
                    "VMGEXIT code={:#x}{} info1={:#x} info2={:#x}: {bad:?}",
                    ghcb.code,
                    if ghcb.has(SW_EXITCODE) {
                        ""
                    } else {
                        " (not valid)"
                    },
                    ghcb.info1,
                    ghcb.info2,
                ),
            );
        }
    }

    /// The events that a boot is full of, found by comparisons: an indirect jump, which a match
    /// over all events becomes, costs more than all of them under TCG.
    fn dispatch(&self, vcpu: &Vcpu, ghcb: &mut Ghcb<'_, P>, cr4: u64) -> Result<Answer, Fault> {
        match ghcb.code {
            code::IOIO => self.exit_ioio(vcpu, ghcb),
            code::MSR => self.exit_msr(vcpu, ghcb),
            code::CPUID => self.exit_cpuid(vcpu, ghcb, cr4),
            code::MMIO_READ => self.exit_mmio_read(vcpu, ghcb),
            code::MMIO_WRITE => self.exit_mmio_write(vcpu, ghcb),
            _ => self.dispatch_rare(vcpu, ghcb),
        }
    }

    #[cold]
    #[inline(never)]
    fn dispatch_rare(&self, vcpu: &Vcpu, ghcb: &mut Ghcb<'_, P>) -> Result<Answer, Fault> {
        match ghcb.code {
            code::VMMCALL => self.exit_vmmcall(ghcb),
            code::RDTSC => Ok(self.exit_rdtsc(vcpu, ghcb)),
            code::RDTSCP => {
                // TSC_AUX is the guest's own value: SEV-ES hardware swaps it with the VMSA.
                let aux = self.platform().rdmsr(MSR_TSC_AUX).unwrap_or(0);
                ghcb.set(RCX, aux);
                Ok(self.exit_rdtsc(vcpu, ghcb))
            }
            code::RDPMC => exit_rdpmc(ghcb),
            code::DR7_READ => {
                ghcb.set(RAX, vcpu.own.dr7.get());
                Ok(Answer::DONE)
            }
            // DR7 itself is in the VMSA, out of reach; the value only serves later reads.
            code::DR7_WRITE => {
                vcpu.own.dr7.set(ghcb.field(RAX));
                Ok(Answer::DONE)
            }
            // Caches are coherent here, and KVM makes MONITOR and MWAIT no-operations.
            code::INVD | code::WBINVD | code::MONITOR | code::MWAIT => Ok(Answer::DONE),
            code::NMI_COMPLETE => {
                vcpu.nmi.complete();
                Ok(Answer::DONE)
            }
            code::AP_RESET_HOLD => {
                match self.lies().hold(vcpu.stage()) {
                    Some(true) => return Ok(Answer::data(1)),
                    Some(false) => return Ok(Answer::next(Next::Hold)),
                    None => (),
                }
                vcpu.ap.lock().hold(Hold::Nae(ghcb.gpa()));
                Ok(Answer::next(Next::Hold))
            }
            code::AP_JUMP_TABLE => self.exit_ap_jump_table(vcpu, ghcb),
            // No SEV-SNP, so none of the features that have bits.
            code::HV_FEATURES => Ok(Answer::data(0)),
            // SW_EXITINFO1 holds what the MSR protocol has above its function: set, then code.
            code::TERM_REQUEST => Ok(Answer::next(Next::Stop(Stop::Terminate {
                set: (ghcb.info1 & 0xf) as u8,
                code: (ghcb.info1 >> 4) as u8,
            }))),
            code::UNSUPPORTED_EVENT => Ok(Answer::next(Next::Stop(Stop::UnsupportedEvent {
                code: ghcb.info1,
            }))),
            _ => Err(Fault::Bad(BadInput::InvalidEvent)),
        }
    }

    fn exit_rdtsc(&self, vcpu: &Vcpu, ghcb: &mut Ghcb<'_, P>) -> Answer {
        let tsc = self.tsc(vcpu);
        ghcb.set(RAX, tsc & 0xffff_ffff);
        ghcb.set(RDX, tsc >> 32);
        Answer::DONE
    }

    /// The table's address is the guest's business: kept and given back unchecked (GHCB
    /// specification 4.1.7).
    fn exit_ap_jump_table(&self, vcpu: &Vcpu, ghcb: &Ghcb<'_, P>) -> Result<Answer, Fault> {
        match ghcb.info1 {
            0 => {
                self.ap_jump_table().set(ghcb.info2);
                Ok(Answer::DONE)
            }
            1 => {
                let lie = self.lies().jump_table(vcpu.stage());
                Ok(Answer::data(
                    lie.unwrap_or_else(|| self.ap_jump_table().get()),
                ))
            }
            _ => Err(Fault::Bad(BadInput::InvalidInput)),
        }
    }
}

/// There is no performance monitoring: the four legacy counters stand still at 0, as their MSRs do.
fn exit_rdpmc<P: Platform>(ghcb: &mut Ghcb<'_, P>) -> Result<Answer, Fault> {
    if ghcb.field(RCX) as u32 >= 4 {
        return Err(Fault::Exception(Exception::GeneralProtection));
    }
    ghcb.set(RAX, 0);
    ghcb.set(RDX, 0);
    Ok(Answer::DONE)
}
