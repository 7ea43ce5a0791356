// SPDX-License-Identifier: GPL-2.0

//! The stack of #VC exceptions: which one is in use, and its adjustment while an NMI is handled.

use core::mem::{offset_of, size_of};

use kernel::{
    bindings,
    prelude::*,
    warn_on, //
};

/// Offset of the IST entry of #VC in the per-CPU TSS.
const IST_VC: usize = offset_of!(bindings::tss_struct, x86_tss)
    + offset_of!(bindings::x86_hw_tss, ist)
    + bindings::IST_INDEX_VC as usize * size_of::<u64>();

const fn field_size<T, F>(_: fn(&T) -> &F) -> u64 {
    size_of::<F>() as u64
}

type Stacks = bindings::cea_exception_stacks;

const VC_OFFSET: u64 = offset_of!(Stacks, VC_stack) as u64;
const VC_SIZE: u64 = field_size(|stacks: &Stacks| &stacks.VC_stack);
const VC2_OFFSET: u64 = offset_of!(Stacks, VC2_stack) as u64;
const VC2_SIZE: u64 = field_size(|stacks: &Stacks| &stacks.VC2_stack);

/// True if `sp` is in the exception stack at `offset` of the current CPU.
#[inline(always)]
fn in_stack(sp: u64, offset: u64, size: u64) -> bool {
    let bottom = this_cpu_read!(bindings::cea_exception_stacks).wrapping_add(offset);

    sp.wrapping_sub(bottom) < size
}

/// True if `sp` is in VC2, the stack of #VC exceptions for which no other stack is safe.
#[inline(always)]
pub(crate) fn is_vc2_stack(sp: u64) -> bool {
    in_stack(sp, VC2_OFFSET, VC2_SIZE)
}

/// True if the interrupted context used the #VC IST stack.
///
/// # Safety
///
/// `regs` must be valid.
#[inline(always)]
unsafe fn on_vc_stack(regs: *mut bindings::pt_regs) -> bool {
    // SAFETY: By the contract of the function.
    unsafe {
        // The stack pointer of user mode is not trusted, nor is it in the syscall gap, which still
        // has the user's.
        if (*regs).__bindgen_anon_1.cs & 3 != 0 || bindings::sev_es_shim_in_syscall_gap(regs) {
            return false;
        }
        in_stack((*regs).sp as u64, VC_OFFSET, VC_SIZE)
    }
}

/// What may be in use below `pt_regs.sp` of an NMI: the return address, and what CALL has pushed.
///
/// If the NMI hits the safe-RET sequence, the entry code changes its registers, by
/// `handle_interrupted_saferet()`, as if the rest of the sequence had been executed, which moves
/// the stack pointer by up to two words. But an NMI does not return by these registers: it returns
/// to the sequence, whose RET then reads the return address (see `asm_exc_nmi`, "iret" frame).
const SAFE_RET_SIZE: u64 = 2 * size_of::<u64>() as u64;

/// Moves the IST entry of #VC away from a stack in use.
///
/// An NMI can hit the #VC entry code before that has left its IST stack; a #VC of the NMI handler
/// would then overwrite the frame of the interrupted one. In that case the new stack starts below
/// what the interrupted context has on it.
///
/// The entry is moved in all cases, so that `__sev_es_ist_exit()` can undo it in all cases: if it
/// were not, a nested exit could move it back too early. Runs on the NMI stack only.
///
/// # Safety
///
/// `regs` must be the registers interrupted by the NMI, on an SEV-ES guest.
#[export]
#[link_section = ".noinstr.text"]
pub(crate) unsafe extern "C" fn __sev_es_ist_enter(regs: *mut bindings::pt_regs) {
    let old = this_cpu_read!(bindings::cpu_tss_rw, IST_VC);
    // SAFETY: `regs` is valid by the contract of the function.
    let top = unsafe {
        if on_vc_stack(regs) {
            ((*regs).sp as u64).wrapping_sub(SAFE_RET_SIZE)
        } else {
            old
        }
    };
    // Eight bytes for the old value.
    let new = top.wrapping_sub(size_of::<u64>() as u64);

    // The entry first: a #VC that the hypervisor injects before it is moved is written over the
    // place for the old value.
    //
    // SAFETY: `new` is in the #VC stack of this CPU. Nothing is in use below `top`: an interrupted
    // context on this stack is above, and #VC exceptions of this NMI have not happened yet; one
    // that is injected in between stays below `new`. If the hypervisor has events injected in the
    // entry code of #VC before the NMI, the stack can be in use without `regs` being on it:
    // `vc_switch_off_ist()` finds out, and the kernel panics.
    unsafe {
        this_cpu_write!(bindings::cpu_tss_rw, IST_VC, new);
        (new as *mut u64).write_volatile(old);
    }
}

/// Undoes `__sev_es_ist_enter()`.
///
/// # Safety
///
/// Must follow a `__sev_es_ist_enter()` on the same CPU.
#[export]
#[link_section = ".noinstr.text"]
pub(crate) unsafe extern "C" fn __sev_es_ist_exit() {
    let ist = this_cpu_read!(bindings::cpu_tss_rw, IST_VC);

    // At its top the entry has not been moved.
    let top = this_cpu_read!(bindings::cea_exception_stacks)
        .wrapping_add(VC_OFFSET)
        .wrapping_add(VC_SIZE);

    if warn_on!(ist == top) {
        return;
    }

    // SAFETY: `__sev_es_ist_enter()` stored the old value there.
    unsafe {
        let old = (ist as *const u64).read_volatile();

        this_cpu_write!(bindings::cpu_tss_rw, IST_VC, old);
    }
}
