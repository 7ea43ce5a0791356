// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR.

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

/// IA32_TSC.
const MSR_TSC: u32 = 0x10;
/// GUEST_TSC_FREQ.
const MSR_GUEST_TSC_FREQ: u32 = 0xc001_0134;
/// SAVIC_CONTROL of Secure AVIC.
const MSR_SAVIC_CONTROL: u32 = 0xc001_0138;
/// The calling area of an SVSM.
const MSR_SVSM_CAA: u32 = 0xc001_f000;

/// What to do with an access to an MSR.
enum Action {
    /// Ask the hypervisor.
    Forward,
    /// The write has no effect.
    Ignore,
    /// The read has this value.
    Value(u64),
}

/// Emulates RDMSR or WRMSR of the MSR in RCX.
#[inline(never)]
pub(crate) fn access<E: Env + ?Sized>(env: &mut E, write: bool) -> Result {
    let regs = env.regs();
    let msr = regs.cx as u32;

    if regs.user_mode() {
        return Err(Fault::GP.into());
    }
    match action(env, msr, write)? {
        Action::Forward if write => forward_write(env),
        Action::Forward => forward_read(env),
        Action::Ignore => Ok(()),
        Action::Value(value) => {
            edx_eax::set(env.regs_mut(), value, value >> 32);
            Ok(())
        }
    }
}

/// Decides about an access. Some MSRs are none of the hypervisor's business.
#[inline(always)]
fn action<E: Env + ?Sized>(env: &mut E, msr: u32, write: bool) -> Result<Action> {
    match msr {
        MSR_SVSM_CAA if write => Ok(Action::Ignore),
        MSR_SVSM_CAA => Ok(Action::Value(env.svsm_calling_area())),
        // A write could make later reads undefined, and the frequency is read-only.
        MSR_TSC | MSR_GUEST_TSC_FREQ if env.features().secure_tsc && write => Err(Fault::GP.into()),
        MSR_TSC if env.features().secure_tsc => Ok(Action::Value(env.rdtsc())),
        // With Secure TSC and Secure AVIC the hypervisor has no reason to intercept these.
        MSR_GUEST_TSC_FREQ if env.features().secure_tsc => Err(Error::Vmm),
        MSR_SAVIC_CONTROL if env.features().secure_avic => Err(Error::Vmm),
        _ => Ok(Action::Forward),
    }
}

/// Lets the hypervisor write the MSR.
#[inline(always)]
fn forward_write<E: Env + ?Sized>(env: &mut E) -> Result {
    let ghcb = env.ghcb();
    let regs = env.regs();

    Request::new(ghcb)
        .set(Field::RCX, (regs.cx as u32).into())
        .set(Field::RAX, (regs.ax as u32).into())
        .set(Field::RDX, (regs.dx as u32).into())
        .call(env, ExitCode::Msr, 1, 0)?;
    Ok(())
}

/// Lets the hypervisor read the MSR.
#[inline(always)]
fn forward_read<E: Env + ?Sized>(env: &mut E) -> Result {
    let request = Request::new(env.ghcb()).set(Field::RCX, (env.regs().cx as u32).into());

    edx_eax::ask(env, request, ExitCode::Msr, false)
}
