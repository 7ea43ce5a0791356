// SPDX-License-Identifier: GPL-2.0

//! What RDMSR, RDTSC, RDTSCP and RDPMC have in common: the result is in EDX:EAX.

use super::super::{
    env::Env,
    exit_code::ExitCode,
    ghcb::{
        Field,
        Request, //
    },
    regs::Regs,
    result::Result, //
};

/// Performs the exit and takes EDX:EAX from the reply, and ECX if that is wanted.
#[inline(never)]
pub(super) fn ask<E: Env + ?Sized>(
    env: &mut E,
    request: Request,
    code: ExitCode,
    ecx_wanted: bool,
) -> Result {
    let reply = request.call(env, code, 0, 0)?;
    let eax = reply.require(Field::RAX)?;
    let edx = reply.require(Field::RDX)?;

    if ecx_wanted {
        let ecx = reply.require(Field::RCX)?;

        env.regs_mut().cx = (ecx as u32).into();
    }
    set(env.regs_mut(), eax, edx);
    Ok(())
}

/// Sets EDX:EAX, and clears the upper halves of the registers as hardware does.
#[inline(always)]
pub(super) fn set(regs: &mut Regs, eax: u64, edx: u64) {
    regs.ax = (eax as u32).into();
    regs.dx = (edx as u32).into();
}
