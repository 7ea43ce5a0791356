// SPDX-License-Identifier: GPL-2.0

//! VMMCALL.

use super::super::{
    env::Env,
    exit_code::ExitCode,
    ghcb::{
        Field,
        Request, //
    },
    result::{
        Error,
        Result, //
    }, //
};

/// Emulates VMMCALL: a hypercall, whose further registers the platform knows.
#[inline(never)]
pub(crate) fn vmmcall<E: Env + ?Sized>(env: &mut E) -> Result {
    let ghcb = env.ghcb();
    let regs = env.regs();
    let cpl = if regs.user_mode() { 3 } else { 0 };
    let reply = Request::new(ghcb)
        .set(Field::RAX, regs.ax)
        .cpl(cpl)
        .extend(|ghcb| env.hypercall_prepare(ghcb))
        .call(env, ExitCode::Vmmcall, 0, 0)?;

    let result = reply.require(Field::RAX)?;
    let before = core::mem::replace(&mut env.regs_mut().ax, result);

    // The platform may overwrite RAX again, so it comes last.
    if !env.hypercall_finish(ghcb) {
        env.regs_mut().ax = before;
        return Err(Error::Vmm);
    }
    Ok(())
}
