// SPDX-License-Identifier: GPL-2.0

//! CPUID.

use super::super::{
    env::{
        CpuidLeaf,
        Env,
        SnpCpuid, //
    },
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
};

/// The leaf that describes extended state, and depends on what is enabled in XCR0 and XSS.
const LEAF_XSTATE: u32 = 0xd;

/// Emulates CPUID.
///
/// Where user mode may not execute it (HWCR.CpuidUserDis) the fault is raised here: a hypervisor
/// that keeps HWCR in software has hardware execute it, and does not know that the exit is about
/// user mode.
#[inline(never)]
pub(crate) fn cpuid<E: Env + ?Sized>(env: &mut E) -> Result {
    if env.regs().user_mode() && env.cpuid_faults() {
        return Err(Fault::GP.into());
    }

    let regs = env.regs();
    let mut leaf = CpuidLeaf {
        function: regs.ax as u32,
        index: regs.cx as u32,
        ..CpuidLeaf::default()
    };

    match env.snp_cpuid(&mut leaf) {
        SnpCpuid::Found => {}
        SnpCpuid::NoTable => ask_hypervisor(env, &mut leaf)?,
        SnpCpuid::Failed => return Err(Error::Vmm),
    }

    let regs = env.regs_mut();

    regs.ax = leaf.eax.into();
    regs.bx = leaf.ebx.into();
    regs.cx = leaf.ecx.into();
    regs.dx = leaf.edx.into();
    Ok(())
}

/// Asks the hypervisor for a leaf of CPUID, through the GHCB.
///
/// XCR0 and XSS are sent only for the leaf that needs them. Both are read before the GHCB is taken:
/// XSS may be intercepted itself.
#[inline(never)]
pub(crate) fn ask_hypervisor<E: Env + ?Sized>(env: &mut E, leaf: &mut CpuidLeaf) -> Result {
    let xcr0 = if leaf.function == LEAF_XSTATE {
        Some(env.xcr0())
    } else {
        None
    };
    let xss = if leaf.function == LEAF_XSTATE && leaf.index == 1 {
        env.xss()
    } else {
        None
    };
    let mut request = Request::new(env.ghcb())
        .set(Field::RAX, leaf.function.into())
        .set(Field::RCX, leaf.index.into());

    if let Some(value) = xcr0 {
        request = request.set(Field::XCR0, value);
    }
    if let Some(value) = xss {
        request = request.set(Field::XSS, value);
    }

    let reply = request.call(env, ExitCode::Cpuid, 0, 0)?;
    let eax = reply.require(Field::RAX)?;
    let ebx = reply.require(Field::RBX)?;
    let ecx = reply.require(Field::RCX)?;
    let edx = reply.require(Field::RDX)?;

    leaf.eax = eax as u32;
    leaf.ebx = ebx as u32;
    leaf.ecx = ecx as u32;
    leaf.edx = edx as u32;
    Ok(())
}
