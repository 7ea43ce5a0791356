// SPDX-License-Identifier: GPL-2.0

//! The GHCB in use, as a value: it cannot be released twice, nor be kept.
//!
//! There is one GHCB for each CPU, and it is used with interrupts off: a guard cannot be made
//! without [`IrqsOff`], lives no longer than that, and cannot be sent to another CPU. Debug builds
//! check what the types cannot know (see [`GhcbGuard::check`]). What can still interrupt a
//! user is an NMI, a machine check, a #DB, or a #VC of the user itself (a warning that is printed
//! to a serial port). Their handlers may use the GHCB as well: a nested user saves what it will
//! overwrite, in its own guard, and restores it when it is done. A per-CPU count tells whether a
//! user is nested. It needs no atomic access, since a nested user always unwinds, and leaves the
//! count as it was, before the interrupted one goes on.
//!
//! Nothing here limits the depth but the stack, which each level uses for its registers and frames
//! anyway. The depth that can be reached is [`MAX_USERS`].
//!
//! While the contents are saved, and before, and after, the hypervisor can change the page as it
//! likes. What is saved is therefore never looked at, only written back, and the interrupted user
//! checks the reply when it reads it, as it would have to in any case.

use core::{
    ptr::NonNull,
    sync::atomic::{compiler_fence, Ordering},
};

use kernel::{
    bindings,
    warn_on, //
};

use crate::{
    cpu::{self, IrqsOff},
    data,
    proto::{
        ghcb::{InUse, SHARED_BUFFER_SIZE},
        Ghcb,
        GhcbPage, //
    },
};

/// Users that can be nested on one CPU: a task or an interrupt handler, and on top of it one each
/// of #DB (which turns breakpoints off), machine check (a second one shuts the CPU down) and NMI
/// (`exc_nmi()` only latches a second one). In each of these a #VC handler can run, and in this one
/// a second one, for the console, if it has to print a warning.
const MAX_USERS: u64 = 8;

/// The GHCB in use.
struct Taken {
    ghcb: Ghcb,
    /// Users that were interrupted.
    users: u64,
}

/// The current CPU's GHCB, once it has been taken from whoever used it before.
///
/// Interrupts are off for the life of the guard.
#[must_use]
pub(crate) struct GhcbGuard<'irq> {
    taken: Option<Taken>,
    /// What an interrupted user had there. Apart, so that a guard that is not nested is small.
    saved: Option<InUse>,
    _irqs_off: IrqsOff<'irq>,
}

/// The guard stays on its CPU: if it were `Send`, both implementations would be meant here, and
/// this would not compile.
const _: fn() = || {
    trait Either<T> {
        fn one() {}
    }
    impl<T> Either<()> for T {}
    impl<T: Send> Either<u8> for T {}

    <GhcbGuard<'static> as Either<_>>::one();
};

impl<'irq> GhcbGuard<'irq> {
    /// A guard that has not taken the GHCB yet.
    ///
    /// It is made first and takes later so that what it saves, some 300 bytes, is written in place.
    #[inline(always)]
    pub(crate) const fn new(irqs_off: IrqsOff<'irq>) -> GhcbGuard<'irq> {
        GhcbGuard {
            taken: None,
            saved: None,
            _irqs_off: irqs_off,
        }
    }

    /// Takes the GHCB, if it has not been taken before. `None` only before the boot processor has
    /// set up its first one.
    ///
    /// Before the per-CPU GHCBs are set up this is the boot GHCB, whose users nobody counts. Only
    /// #VC itself can interrupt one (a warning that is printed while C code changes the state of
    /// pages, which gives up then), or a breakpoint that somebody set so early. A request begins
    /// without valid fields, whatever the one before left there.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Option<Ghcb> {
        match &self.taken {
            Some(taken) => Some(taken.ghcb),
            None => self.take_now(),
        }
    }

    /// Out of line, since each use of the GHCB in the protocol core may be the first one.
    #[inline(never)]
    fn take_now(&mut self) -> Option<Ghcb> {
        warn_on!(cpu::interrupts_enabled());

        // SAFETY: The flag is set once, before other CPUs run, and cleared by the last CPU that
        // runs before a kexec.
        if !unsafe { bindings::sev_es_shim_ghcbs_initialized() } {
            // SAFETY: The pointer is set, and cleared before a kexec, by a CPU that is alone.
            let page = NonNull::new(unsafe { data::boot_ghcb }.cast::<GhcbPage>())?;

            // SAFETY: The page is mapped shared. All accesses to it are volatile ones.
            return Some(unsafe { Ghcb::new(page) });
        }

        let page = NonNull::new(data::this_cpu()?.cast::<GhcbPage>())?;
        // SAFETY: The page is mapped shared, page-aligned, and until it is given back only this
        // guard, and nested users that restore it, access it on this CPU.
        let ghcb = unsafe { Ghcb::new(page) };
        let users = this_cpu_read!(data::sev_es_ghcb_users);

        // SAFETY: A count of this CPU's.
        unsafe { this_cpu_write!(data::sev_es_ghcb_users, 0, users.wrapping_add(1)) };
        // Whoever comes in between from here on has to save and restore.
        compiler_fence(Ordering::SeqCst);
        self.taken = Some(Taken { ghcb, users });
        if users != 0 {
            self.nest(ghcb, users);
        }
        Some(ghcb)
    }

    /// Saves what the interrupted user had.
    #[cold]
    #[inline(never)]
    fn nest(&mut self, ghcb: Ghcb, users: u64) {
        self.saved = Some(ghcb.save_use());
        // Not for deeper ones: the warning itself needs the GHCB.
        if cfg!(CONFIG_RUST_DEBUG_ASSERTIONS) {
            warn_on!(users == MAX_USERS);
        }
    }

    /// What must be true when the GHCB is given back, and no type says: it is this CPU's,
    /// interrupts are still off, and those that came in between have gone.
    #[inline]
    fn check(taken: &Taken) {
        let page = data::this_cpu().map(|data| data.cast::<GhcbPage>());

        warn_on!(page != Some(taken.ghcb.as_ptr()));
        warn_on!(cpu::interrupts_enabled());
        warn_on!(this_cpu_read!(data::sev_es_ghcb_users) != taken.users.wrapping_add(1));
    }

    /// Bytes of the shared buffer that this user may use: a nested one only what it saved.
    #[inline(always)]
    pub(crate) fn buffer_size(&self) -> usize {
        if self.saved.is_some() {
            InUse::BUFFER_SIZE
        } else {
            SHARED_BUFFER_SIZE
        }
    }
}

impl Drop for GhcbGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let Some(taken) = &self.taken else {
            return;
        };

        if cfg!(CONFIG_RUST_DEBUG_ASSERTIONS) {
            Self::check(taken);
        }
        match &self.saved {
            // A VMGEXIT of user space must not find a valid request.
            None => taken.ghcb.invalidate(),
            Some(saved) => taken.ghcb.restore_use(saved),
        }
        compiler_fence(Ordering::SeqCst);
        // SAFETY: A count of this CPU's, as it was before `take()`.
        unsafe { this_cpu_write!(data::sev_es_ghcb_users, 0, taken.users) };
    }
}
