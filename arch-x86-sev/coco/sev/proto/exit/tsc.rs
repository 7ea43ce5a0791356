// SPDX-License-Identifier: GPL-2.0

//! RDTSC, RDTSCP and RDPMC.

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

/// Emulates RDTSC and RDTSCP.
///
/// With Secure TSC the hypervisor has no reason to intercept them, and its value of the TSC is not
/// to be relied on.
#[inline]
pub(crate) fn rdtsc<E: Env + ?Sized>(env: &mut E, code: ExitCode) -> Result {
    if env.features().secure_tsc {
        return Err(Error::Vmm);
    }

    let reply = Request::new(env.ghcb()).call(env, code, 0, 0)?;
    let eax = reply.require(Field::RAX)?;
    let edx = reply.require(Field::RDX)?;

    if code == ExitCode::Rdtscp {
        let ecx = reply.require(Field::RCX)?;

        env.regs_mut().cx = (ecx as u32).into();
    }

    let regs = env.regs_mut();

    regs.ax = (eax as u32).into();
    regs.dx = (edx as u32).into();
    Ok(())
}

/// Emulates RDPMC.
#[inline]
pub(crate) fn rdpmc<E: Env + ?Sized>(env: &mut E) -> Result {
    let counter = env.regs().cx;
    let reply = Request::new(env.ghcb())
        .set(Field::RCX, (counter as u32).into())
        .call(env, ExitCode::Rdpmc, 0, 0)?;
    let eax = reply.require(Field::RAX)?;
    let edx = reply.require(Field::RDX)?;
    let regs = env.regs_mut();

    regs.ax = (eax as u32).into();
    regs.dx = (edx as u32).into();
    Ok(())
}
