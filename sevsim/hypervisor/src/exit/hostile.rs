// SPDX-License-Identifier: GPL-2.0
//! The leak check and hostile acts around an event, and what the machine asks about them.

use crate::exit::code;
use crate::ghcb::layout::{Valid, RAX, SW_EXITCODE, SW_SCRATCH, VALID_BITMAP};
use crate::ghcb::Ghcb;
use crate::hostile::random::Random;
use crate::hostile::{event, reply, Target};
use crate::leak::{Leak, Request, SEEN};
use crate::lies::Stage;
use crate::options::LeakCheck;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

impl<P: Platform> Vm<P> {
    /// A quadword of shared memory; 0 outside of it.
    pub(super) fn shared(&self, gpa: u64) -> u64 {
        self.platform().read_shared_u64(gpa).unwrap_or(0)
    }

    /// Searches a request for leaks.
    #[cold]
    #[inline(never)]
    pub(super) fn search_request(&self, vcpu: &Vcpu, ghcb: &Ghcb<'_, P>) {
        if vcpu.stage() == Stage::Firmware {
            return;
        }
        let gpa = ghcb.gpa();
        let request = Request {
            code: ghcb.code,
            info1: ghcb.info1,
            info2: ghcb.info2,
            rax: self.shared(gpa + RAX.offset()),
            scratch: self.shared(gpa + SW_SCRATCH.offset()),
        };
        let valid = Valid::from_words(
            self.shared(gpa + VALID_BITMAP),
            self.shared(gpa + VALID_BITMAP + 8),
        );
        let search = |leak: Leak| {
            if self.leaks().add(leak) {
                self.platform().log(format_args!(
                    "leak exit={:#x} info1={:#x} info2={:#x} offset={:#x} bits={:#x}",
                    request.code, request.info1, request.info2, leak.offset, leak.bits
                ));
            }
        };
        SEEN[vcpu.index].request(
            gpa,
            valid,
            &request,
            |offset| self.shared(gpa + offset),
            search,
        );
    }

    /// Notes what a reply holds.
    #[cold]
    #[inline(never)]
    pub(super) fn note_reply(&self, vcpu: &Vcpu, gpa: u64) {
        SEEN[vcpu.index].reply(|offset| self.shared(gpa + offset));
    }

    /// Spoils the page of a reply, which was found to be RAM, and takes note of what it wrote: what
    /// the guest has put there since for its next request is not the host's.
    pub(super) fn spoil_page(&self, vcpu: &Vcpu, random: &mut Random, chosen: u64, gpa: u64) {
        let seen = &SEEN[vcpu.index];
        reply::spoil(
            random,
            chosen,
            |offset| self.shared(gpa + offset),
            |offset, value| {
                if self
                    .platform()
                    .write_shared_u64(gpa + offset, value)
                    .is_ok()
                {
                    seen.wrote(offset, value);
                }
            },
        );
    }

    /// Spoils a reply, if it is one to attack. Returns the value for the GHCB MSR.
    #[cold]
    #[inline(never)]
    pub(super) fn spoil_reply(&self, vcpu: &Vcpu, gpa: u64) -> u64 {
        let hostile = &vcpu.own.hostile;
        let Some(plan) = &self.options().hostile else {
            return gpa;
        };
        let Some((mut random, part)) = hostile.attack(plan) else {
            return gpa;
        };
        let exit = self.shared(gpa + SW_EXITCODE.offset());
        if exit == code::NMI_COMPLETE {
            return gpa;
        }
        let chosen = reply::choose(&mut random, hostile.target() == Target::Kernel);
        self.spoil_page(vcpu, &mut random, chosen, gpa);
        if chosen & reply::NMI != 0 {
            vcpu.nmi.arrive();
        }
        hostile.did(chosen);
        self.platform().log(format_args!(
            "hostile {}.{part} exit={exit:#x} did={chosen:#x}",
            hostile.step()
        ));
        if chosen & reply::MSR != 0 {
            reply::msr(&mut random)
        } else {
            gpa
        }
    }

    /// The test port: arms the host for a step of the guest's program.
    pub fn hostile_arm(&self, vcpu: usize, word: u32) {
        self.vcpus()[vcpu].own.hostile.arm(word);
    }

    /// The test port: now is the time for the event of this step.
    pub fn hostile_trigger(&self, vcpu: usize) {
        let vcpu = &self.vcpus()[vcpu];
        if vcpu.own.hostile.target() == Target::KernelEvent {
            vcpu.nmi.arrive();
        } else {
            vcpu.own.hostile.trigger();
        }
    }

    /// The test port: what was done in this step.
    pub fn hostile_done(&self, vcpu: usize) -> u32 {
        self.vcpus()[vcpu].own.hostile.done() as u32
    }

    /// The test port: leaks found so far.
    pub fn leaks_found(&self) -> u32 {
        self.leaks().total() as u32
    }

    /// A #VC is delivered, in user mode or in the kernel. Only a hostile host cares.
    pub fn hostile_exception(&self, vcpu: usize, user: bool) {
        self.vcpus()[vcpu].own.hostile.exception(user);
    }

    /// The event to inject into the kernel in this step, and how many of `depth` instructions pass
    /// before it: all of them, if the guest's program says which event it wants.
    pub fn hostile_kernel_event(
        &self,
        vcpu: usize,
        depth: u64,
        wanted: Option<event::Event>,
    ) -> Option<(u64, event::Event)> {
        let hostile = &self.vcpus()[vcpu].own.hostile;
        let mut random = hostile.kernel_event(self.options().hostile.as_ref()?)?;
        match wanted {
            Some(event) => Some((depth, event)),
            None => Some(event::choose_kernel(&mut random, depth)),
        }
    }

    /// An event went into the kernel.
    pub fn hostile_injected(&self, vcpu: usize, event: event::Event) {
        self.vcpus()[vcpu].own.hostile.did(event.word());
    }

    /// The number of the step.
    pub fn hostile_step(&self, vcpu: usize) -> u32 {
        self.vcpus()[vcpu].own.hostile.step()
    }

    /// Whether replies of this step change while the guest reads them, which the machine has to
    /// follow.
    pub fn hostile_follows(&self, vcpu: usize) -> bool {
        let target = self.vcpus()[vcpu].own.hostile.target();
        matches!(target, Target::Rewrite | Target::KernelRewrite)
    }

    /// Frequency of the TSC.
    pub fn tsc_khz(&self) -> u32 {
        self.platform().tsc_khz()
    }

    /// Whether the reply to this vCPU's last VMGEXIT is to change while the guest reads it.
    pub fn hostile_rewrites(&self, vcpu: usize) -> bool {
        self.vcpus()[vcpu].own.hostile.rewrites()
    }

    /// Changes the reply that the guest is reading.
    pub fn hostile_rewrite(&self, vcpu: usize, gpa: u64) {
        let vcpu = &self.vcpus()[vcpu];
        let hostile = &vcpu.own.hostile;
        let plan = self.options().hostile.as_ref();
        let Some(mut random) = plan.and_then(|plan| hostile.rewrite(plan)) else {
            return;
        };
        let chosen = reply::choose(&mut random, false) & !(reply::MSR | reply::NMI);
        self.spoil_page(vcpu, &mut random, chosen, gpa);
        hostile.did(chosen);
    }

    /// The guest was put back to an earlier state, in which no NMI was under way and the GHCB MSR
    /// was `ghcb_msr`: nothing is attacked any more.
    pub fn hostile_rewound(&self, vcpu: usize, ghcb_msr: u64) {
        let vcpu = &self.vcpus()[vcpu];
        vcpu.own.hostile.arm(0);
        vcpu.nmi.reset();
        if self.options().leak_check != LeakCheck::Off && ghcb_msr & 0xfff == 0 {
            self.note_reply(vcpu, ghcb_msr);
        }
    }

    /// The event to inject before the next instruction in user mode, if there is one. It is due
    /// once.
    pub fn hostile_event(&self, vcpu: usize) -> Option<event::Event> {
        let vcpu = &self.vcpus()[vcpu];
        let plan = self.options().hostile.as_ref()?;
        let mut random = vcpu.own.hostile.inject(plan)?;
        let event = event::choose(&mut random);
        vcpu.own.hostile.did(event.word());
        self.platform().log(format_args!(
            "hostile {} event={event:x?}",
            vcpu.own.hostile.step()
        ));
        Some(event)
    }
}
