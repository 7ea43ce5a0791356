// SPDX-License-Identifier: GPL-2.0

//! The GHCB in use, as a value: it cannot be released twice, nor be kept.

use core::ptr::NonNull;

use kernel::bindings;

use crate::proto::{Ghcb, GhcbPage};

/// The current CPU's GHCB, taken from whoever used it before.
///
/// Interrupts must stay off for the life of the guard. Nested users (an NMI that raises #VC) take
/// the GHCB and give it back before the interrupted user goes on.
#[must_use]
pub(crate) struct GhcbGuard {
    ghcb: Ghcb,
    state: bindings::ghcb_state,
}

impl GhcbGuard {
    /// Takes the GHCB. `None` only before the boot processor has set up its first one.
    #[inline(always)]
    pub(crate) fn take() -> Option<GhcbGuard> {
        let mut state = bindings::ghcb_state {
            ghcb: core::ptr::null_mut(),
        };
        // SAFETY: `state` is valid; the function warns if interrupts are on.
        let page = unsafe { bindings::__sev_get_ghcb(&mut state) };
        let page = NonNull::new(page.cast::<GhcbPage>())?;

        Some(GhcbGuard {
            // SAFETY: The page is mapped shared, page-aligned, and until it is put back only this
            // guard, and nested users that restore it, access it on this CPU.
            ghcb: unsafe { Ghcb::new(page) },
            state,
        })
    }

    /// The GHCB.
    #[inline(always)]
    pub(crate) fn ghcb(&self) -> Ghcb {
        self.ghcb
    }
}

impl Drop for GhcbGuard {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `state` comes from the `__sev_get_ghcb()` of this guard.
        unsafe { bindings::__sev_put_ghcb(&mut self.state) };
    }
}
