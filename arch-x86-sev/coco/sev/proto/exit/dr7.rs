// SPDX-License-Identifier: GPL-2.0

//! MOV from and to DR7.
//!
//! DR7 of the encrypted save area is out of reach of the hypervisor. The guest tells it what it
//! wrote, keeps a shadow of that, and never asks.

use super::super::{
    env::Env,
    exit_code::ExitCode,
    ghcb::{
        Field,
        Request, //
    },
    regs::Gpr,
    result::{
        Error,
        Fault,
        Result, //
    }, //
};

/// DR7 at reset; bit 10 is always set (APM vol. 2, 13.1.1.4).
pub(crate) const DR7_RESET: u64 = 1 << 10;

/// Bits of DR7 that software can set.
const DR7_WRITABLE: u64 = 0xffff_23ff;

/// Checks what holds for both directions: the access is privileged, and with DebugSwap hardware
/// handles DR7, so that the hypervisor has no reason to intercept it.
#[inline(always)]
fn check<E: Env + ?Sized>(env: &mut E) -> Result {
    if env.features().debug_swap {
        return Err(Error::Vmm);
    }
    if env.regs().user_mode() {
        return Err(Fault::GP.into());
    }
    Ok(())
}

/// Emulates MOV from DR7.
#[inline(never)]
pub(crate) fn read<E: Env + ?Sized>(env: &mut E, to: Gpr) -> Result {
    check(env)?;

    let value = env.dr7().unwrap_or(DR7_RESET);

    env.regs_mut().set_gpr(to, value);
    Ok(())
}

/// Emulates MOV to DR7.
#[inline(never)]
pub(crate) fn write<E: Env + ?Sized>(env: &mut E, from: Gpr) -> Result {
    check(env)?;

    let value = env.regs().gpr(from);
    let shadow = env.dr7();

    // Bits 63:32 must be written as zeroes.
    if value >> 32 != 0 {
        return Err(Fault::GP.into());
    }

    let value = (value & DR7_WRITABLE) | DR7_RESET;

    // Without a shadow a later read could not return the value.
    if shadow.is_none() && value != DR7_RESET {
        return Err(Error::Unsupported);
    }

    // SW_EXITINFO1 of 0 says that the value is in RAX.
    Request::new(env.ghcb())
        .set(Field::RAX, value)
        .call(env, ExitCode::WriteDr7, 0, 0)?;

    if shadow.is_some() {
        env.set_dr7(value);
    }
    Ok(())
}
