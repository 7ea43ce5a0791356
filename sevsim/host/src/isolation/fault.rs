// SPDX-License-Identifier: GPL-2.0
//! A page fault in the isolated space: the report, and one that is made on purpose.

use core::sync::atomic::Ordering;

use hypervisor::Platform;
use hypervisor::Touch;
use machine::isolation::trace;
use machine::isolation::Reason;

use super::build::code;
use super::build::host_only;
use super::build::stack;
use super::leave;
use super::local;
use super::started;
use super::window;
use super::SURVIVE;
use crate::fatal;
use crate::log;
use crate::memory::direct;
use crate::world::World;

/// Callers to show.
const CALLERS: usize = 16;

/// Touches what is not mapped, once, if the user wants to see what becomes of it.
#[cold]
#[inline(never)]
pub fn touch(what: Touch, world: &World) {
    // SAFETY: started.
    if !core::mem::take(unsafe { &mut local().touch }) {
        return;
    }
    let at = match what {
        Touch::Private => direct(world.memory.layout.private_low),
        Touch::Window => window::last_closed(),
        Touch::Sibling => world.vm.own_parts(1)[0].start as *mut u8,
        Touch::Host => host_only(),
        Touch::Code => code().start as *mut u8,
        Touch::Shared => {
            let _ = world.vm.platform().read_shared_u64(window::unnamed());
            return;
        }
    };
    // SAFETY: memory that is mapped in the full space, but for the window's slot, where the fault
    // ends the run in any case; what is read is written back.
    unsafe {
        let value = at.read_volatile();
        if what == Touch::Code {
            at.write_volatile(value);
        }
    }
}

/// A page fault of the host, at `rip` with the stack at `rsp`. True if the instruction is to be
/// executed again, outside.
pub fn fault(error: u64, rip: u64, rsp: u64, address: u64) -> bool {
    // SAFETY: started, and what is read is not changed meanwhile.
    if !started() || unsafe { local() }.outside {
        return false;
    }
    // SAFETY: as above.
    let vcpu = unsafe { local() }.vcpu;
    log!("event asi-fault vcpu={vcpu} error={error:#x} rip={rip:#x} address={address:#x}");
    report_stack(vcpu, rsp);
    if !SURVIVE.load(Ordering::Relaxed) {
        fatal!(
            "isolation: page fault error={error:#x} at {rip:#x} on {address:#x}, vCPU {vcpu}: not \
             mapped while exits are handled"
        );
    }
    leave(Reason::Fault);
    true
}

/// Logs what looks like a return address on the stack.
fn report_stack(vcpu: usize, rsp: u64) {
    let code = code();
    let words = (rsp.next_multiple_of(8)..stack(vcpu).end).step_by(8);
    let callers = words.filter_map(|at| {
        // SAFETY: a word of this CPU's own stack, between the fault's and the top.
        let word = unsafe { *(at as *const u64) };
        let before = word.checked_sub(trace::LONGEST_CALL as u64)?;
        if !code.contains(&before) || !code.contains(&word) {
            return None;
        }
        // SAFETY: in the code, which is mapped for reading.
        let before = unsafe { &*(before as *const [u8; trace::LONGEST_CALL]) };
        trace::ends_with_call(before).then_some(word)
    });
    for caller in callers.take(CALLERS) {
        log!("event asi-caller vcpu={vcpu} rip={caller:#x}");
    }
}
