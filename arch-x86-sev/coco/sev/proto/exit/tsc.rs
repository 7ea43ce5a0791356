// SPDX-License-Identifier: GPL-2.0

//! RDTSC, RDTSCP and RDPMC.

use super::{
    super::{
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
    },
    edx_eax, //
};

/// Emulates RDTSC and RDTSCP.
///
/// With Secure TSC the hypervisor has no reason to intercept them, and its value of the TSC is not
/// to be relied on.
#[inline(never)]
pub(crate) fn rdtsc<E: Env + ?Sized>(env: &mut E, code: ExitCode) -> Result {
    if env.features().secure_tsc {
        return Err(Error::Vmm);
    }

    let request = Request::new(env.ghcb());

    edx_eax::ask(env, request, code, code == ExitCode::Rdtscp)
}

/// Emulates RDPMC.
#[inline(never)]
pub(crate) fn rdpmc<E: Env + ?Sized>(env: &mut E) -> Result {
    let request = Request::new(env.ghcb()).set(Field::RCX, (env.regs().cx as u32).into());

    edx_eax::ask(env, request, ExitCode::Rdpmc, false)
}
