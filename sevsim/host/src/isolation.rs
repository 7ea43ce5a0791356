// SPDX-License-Identifier: GPL-2.0
//! Address space isolation on this machine: the two spaces of each vCPU's CPU, and the way out of
//! the isolated one (`doc/address-space.md`).
//!
//! Context of all functions but [`choose`]: the CPU that runs the vCPU, GIF = 0, so that nothing
//! interrupts them.

mod build;
mod fault;
mod window;

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;

use hypervisor::Isolation;
use machine::in_use::PAGE;
use machine::isolation::Gate;
use machine::isolation::Reason;

use crate::cpu;
use crate::memory;
use crate::memory::LOCAL;
use crate::platform;
use crate::vcpu::stats::Stats;

pub use build::start;
pub use fault::fault;
pub use fault::touch;
pub use window::close_processor;
pub use window::device;
pub use window::name;
pub use window::processor;
pub use window::shared;

use window::Windows;

/// What a CPU knows of its own space: the page at [`LOCAL`].
#[repr(C)]
struct Local {
    windows: Windows,
    vcpu: usize,
    /// CR3 of the isolated space.
    isolated: u64,
    /// CR3 of the full space.
    full: u64,
    /// The full one is in use.
    outside: bool,
    /// The exit in hand was not handled in the isolated space alone.
    left: bool,
    /// This vCPU is to touch what is not mapped.
    touch: bool,
}

const _: () = assert!(size_of::<Local>() as u64 <= PAGE);

static ON: AtomicBool = AtomicBool::new(false);
static SURVIVE: AtomicBool = AtomicBool::new(false);
static GATE: Gate = Gate::new();

/// Whether exits are to be handled isolated; before the first vCPU starts.
pub fn choose(isolation: Isolation) {
    ON.store(isolation != Isolation::Off, Ordering::Relaxed);
    SURVIVE.store(isolation == Isolation::Report, Ordering::Relaxed);
}

/// Whether this CPU has a space of its own by now.
pub fn started() -> bool {
    ON.load(Ordering::Relaxed) && cpu::cr3() != memory::common_cr3()
}

/// This CPU's page.
///
/// # Safety
/// The CPU has been through [`start`], and the caller does not hold another such reference.
#[inline(always)]
unsafe fn local() -> &'static mut Local {
    // SAFETY: both spaces of the CPU map a page of its own there, which holds a valid Local (zeros
    // at first); GIF is 0, so that nothing comes in between but a fault, which ends the run or
    // touches only what the interrupted code does not keep in registers (`leave`).
    unsafe { &mut *(LOCAL as *mut Local) }
}

/// Leaves for the full address space, until the next entry to the guest: counts the reason, tells
/// the vCPUs that are in the guest, and waits until they are out. Harmless where there is no
/// isolation, and outside.
#[cold]
#[inline(never)]
pub fn leave(reason: Reason) {
    if !started() {
        return;
    }
    // SAFETY: started. A fault's handler comes here while others hold a reference: it writes only
    // flags that they do not change.
    let local = unsafe { local() };
    if local.outside {
        return;
    }
    let stats = &Stats::of(local.vcpu).isolation;
    stats.left(reason);
    local.outside = true;
    local.left = true;
    let full = local.full;
    let siblings = GATE.leave(local.vcpu);
    // From here on without `local`: a kick uses the window for devices.
    let mut kicks = siblings;
    while kicks != 0 {
        platform::kick(kicks.trailing_zeros() as usize);
        kicks &= kicks - 1;
        stats.kick();
    }
    while GATE.still_in_guest(siblings) != 0 {
        core::hint::spin_loop();
    }
    // SAFETY: the full space maps what the isolated one does, at the same addresses.
    unsafe { cpu::set_cr3(full) };
}

/// Goes back inside, if this CPU is outside.
pub fn enter() {
    // SAFETY: started.
    let local = unsafe { local() };
    if local.outside {
        // SAFETY: the isolated space maps code, stack and all that follows until the next `leave`;
        // if it does not, a fault tells.
        unsafe { cpu::set_cr3(local.isolated) };
        local.outside = false;
        GATE.enter(local.vcpu);
    }
}

/// Before the guest runs: the exit is over. VMRUN has to find the isolated space, for it is what
/// VMEXIT loads: with it alone the next exit begins, and with GIF = 0 no interrupt comes first.
pub fn before_run() {
    enter();
    window::end_named();
    // SAFETY: started.
    let local = unsafe { local() };
    let stats = &Stats::of(local.vcpu).isolation;
    if core::mem::take(&mut local.left) {
        stats.exit_left();
    }
    if !GATE.may_run(local.vcpu) {
        stats.wait();
        while !GATE.may_run(local.vcpu) {
            core::hint::spin_loop();
        }
    }
}

/// After the guest ran.
pub fn after_run(vcpu: usize) {
    GATE.stopped(vcpu);
}

/// Whether the exit in hand has been outside.
pub fn has_left() -> bool {
    // SAFETY: started.
    unsafe { local().left }
}
