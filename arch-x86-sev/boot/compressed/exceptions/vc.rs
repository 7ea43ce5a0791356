// SPDX-License-Identifier: GPL-2.0

//! #VC exceptions in stage 2, by the GHCB. Stage 1 is in `no_ghcb`.
//!
//! The decompressor executes few instructions that a hypervisor intercepts: CPUID, RDTSC for KASLR,
//! and port I/O for the timer and the serial console. Any other exit is made up. That includes MMIO:
//! the identity map has no shared memory, and misc.c does without the VGA console in SEV-ES guests.

use core::ptr::NonNull;

use super::{
    env::BootEnv,
    fatal::{
        fatal,
        print,
        print_hex, //
    },
    ghcb_msr::terminate,
    proto::{
        exit,
        msr_protocol::{
            cpuid_admits_sev,
            Termination, //
        },
        CpuidLeaf,
        Env,
        Error,
        ExitCode,
        Outcome,
        Regs, //
    }, //
};

/// A failure is being reported. If that fails as well, there is nothing left to say.
static mut FAILING: bool = false;

/// Emulates the instruction.
#[inline(always)]
fn handle(env: &mut BootEnv, exit_code: u64) -> Outcome {
    let function = env.regs().ax as u32;

    match ExitCode::try_from(exit_code) {
        Ok(ExitCode::Cpuid | ExitCode::Rdtsc | ExitCode::Rdtscp | ExitCode::Ioio) => {}
        _ => return Outcome::Unsupported,
    }

    let outcome = exit::handle(env, exit_code);

    if let (Outcome::Done { .. }, Ok(ExitCode::Cpuid)) = (outcome, ExitCode::try_from(exit_code)) {
        let leaf = CpuidLeaf {
            function,
            eax: env.regs().ax as u32,
            ..CpuidLeaf::default()
        };

        // The decompressed kernel is not the only one to be told whether memory is encrypted.
        if !cpuid_admits_sev(&leaf) {
            return Error::Vmm.into();
        }
    }
    outcome
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
    let reason = match handle(&mut env, exit_code) {
        Outcome::Done { .. } | Outcome::Retry { .. } => return,
        Outcome::Exception(_) => c"exception requested by the hypervisor",
        Outcome::Unsupported => c"unsupported exit code",
        Outcome::VmmError => c"failure in communication with the hypervisor",
        Outcome::DecodeFailed => c"exit code does not belong to the instruction",
    };

    // SAFETY: There is one CPU.
    unsafe {
        if FAILING {
            terminate(Termination::General);
        }
        FAILING = true;
    }
    print(c"\n\nSEV-ES: #VC exception, exit code 0x");
    print_hex(exit_code);
    print(c", IP 0x");
    print_hex(env.regs().ip);
    fatal(reason, Termination::General)
}
