// SPDX-License-Identifier: GPL-2.0

//! #VC exceptions in stage 2, by the GHCB. Stage 1 is in `no_ghcb`.
//!
//! What is handled and what is not: see `BootEnv::handles()`.

use core::{
    ffi::CStr,
    ptr::NonNull, //
};

use super::{
    env::BootEnv,
    ghcb_msr::terminate,
    proto::{
        exit,
        msr_protocol::{
            cpuid_admits_sev,
            Termination, //
        },
        CpuidLeaf,
        Env,
        ExitCode,
        Outcome,
        Regs, //
    },
    report::{
        fatal,
        print,
        print_hex, //
    }, //
};

/// A failure is being reported. If that fails as well, there is nothing left to say.
static mut FAILING: bool = false;

/// Emulates the instruction. The error says why that is not possible.
#[inline(always)]
fn handle(env: &mut BootEnv, exit_code: u64) -> Result<(), &'static CStr> {
    let function = env.regs().ax as u32;

    match exit::handle(env, exit_code) {
        Outcome::Done { .. } | Outcome::Retry { .. } => {}
        Outcome::Exception(_) => return Err(c"exception requested by the hypervisor"),
        Outcome::Unsupported => return Err(c"unsupported exit code"),
        Outcome::VmmError => return Err(c"failure in communication with the hypervisor"),
        Outcome::DecodeFailed => return Err(c"exit code does not belong to the instruction"),
    }

    // The decompressed kernel is not the only one that is told whether memory is encrypted.
    let leaf = CpuidLeaf {
        function,
        eax: env.regs().ax as u32,
        ..CpuidLeaf::default()
    };

    if exit_code == ExitCode::Cpuid as u64 && !cpuid_admits_sev(&leaf) {
        return Err(c"CPUID denies that memory is encrypted");
    }
    Ok(())
}

/// Handles a #VC exception. What is not handled ends the guest: there is nobody to raise another
/// exception for, either.
///
/// # Safety
///
/// Called by the entry code only, with the interrupted registers.
#[no_mangle]
unsafe extern "C" fn do_boot_stage2_vc(regs: *mut Regs, exit_code: u64) {
    let Some(regs) = NonNull::new(regs) else {
        terminate(Termination::General);
    };
    // SAFETY: By the contract of the function.
    let mut env = unsafe { BootEnv::new(regs) };
    let ip = env.regs().ip;

    if let Err(reason) = handle(&mut env, exit_code) {
        fail(reason, exit_code, ip);
    }
}

/// Reports a #VC exception that was not handled, and ends the guest. The GHCB is not in use.
#[cold]
#[inline(never)]
fn fail(reason: &CStr, exit_code: u64, ip: u64) -> ! {
    // SAFETY: There is one CPU.
    unsafe {
        if FAILING {
            terminate(Termination::General);
        }
        FAILING = true;
    }
    print(c"\n\n#VC exception, exit code 0x");
    print_hex(exit_code);
    print(c", IP 0x");
    print_hex(ip);
    fatal(reason)
}
