// SPDX-License-Identifier: GPL-2.0

//! WBINVD and INVD.

use super::super::{
    env::{
        Env,
        Note, //
    },
    exit_code::ExitCode,
    ghcb::Request,
    result::{
        Error,
        Fault,
        Result, //
    }, //
};

/// Emulates WBINVD. WBNOINVD has the same exit code; writing back is the part they share, and the
/// hypervisor may do more than it is asked.
#[inline(never)]
pub(crate) fn wbinvd<E: Env + ?Sized>(env: &mut E) -> Result {
    if env.regs().user_mode() {
        return Err(Fault::GP.into());
    }
    Request::new(env.ghcb()).call(env, ExitCode::Wbinvd, 0, 0)?;
    Ok(())
}

/// Refuses INVD: it would lose what is written but still in caches.
#[inline(never)]
pub(crate) fn invd<E: Env + ?Sized>(env: &mut E) -> Result {
    if env.regs().user_mode() {
        return Err(Fault::GP.into());
    }
    env.note(Note::Invd);
    Err(Error::Unsupported)
}
