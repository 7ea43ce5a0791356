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
            Fault,
            Result, //
        }, //
    },
    edx_eax, //
};

/// CR4.TSD: user mode may not read the TSC.
const CR4_TSD: u64 = 1 << 2;
/// CR4.PCE: user mode may read performance counters.
const CR4_PCE: u64 = 1 << 8;

/// Checks what hardware does before it intercepts: the hypervisor can raise #VC where hardware
/// would have raised #GP.
#[inline(always)]
fn check<E: Env + ?Sized>(env: &E, mask: u64, permitted: u64) -> Result {
    if env.regs().user_mode() && env.cr4() & mask != permitted {
        return Err(Fault::GP.into());
    }
    Ok(())
}

/// Emulates RDTSC and RDTSCP.
///
/// With Secure TSC the hypervisor has no reason to intercept them, and its value of the TSC is not
/// to be relied on.
#[inline(never)]
pub(crate) fn rdtsc<E: Env + ?Sized>(env: &mut E, code: ExitCode) -> Result {
    if env.features().secure_tsc {
        return Err(Error::Vmm);
    }
    check(env, CR4_TSD, 0)?;

    let request = Request::new(env.ghcb());

    edx_eax::ask(env, request, code, code == ExitCode::Rdtscp)
}

/// Emulates RDPMC.
#[inline(never)]
pub(crate) fn rdpmc<E: Env + ?Sized>(env: &mut E) -> Result {
    check(env, CR4_PCE, CR4_PCE)?;

    let request = Request::new(env.ghcb()).set(Field::RCX, (env.regs().cx as u32).into());

    edx_eax::ask(env, request, ExitCode::Rdpmc, false)
}
