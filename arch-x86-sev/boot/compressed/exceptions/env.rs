// SPDX-License-Identifier: GPL-2.0

//! The surroundings of stage 2's #VC handler: identity-mapped memory and one GHCB.

use core::{
    ffi::c_void,
    ptr::{
        from_mut,
        NonNull, //
    }, //
};

use super::{
    c,
    cpu,
    ghcb,
    ghcb_msr::terminate,
    no_ghcb::{
        cpuid_leaf,
        lookup, //
    },
    proto::{
        exit::cpuid,
        insn::MAX_INSN_LEN,
        msr_protocol::Termination,
        CpuidLeaf,
        Env,
        ExitCode,
        Features,
        Ghcb,
        Regs,
        Result,
        SnpCpuid,
        Width, //
    },
    report::Status,
    vmgexit::vmgexit, //
};

/// The XSS MSR.
const MSR_XSS: u32 = 0xda0;

/// The interrupted context.
pub(crate) struct BootEnv {
    regs: NonNull<Regs>,
}

impl BootEnv {
    /// The surroundings of a #VC handler.
    ///
    /// # Safety
    ///
    /// For the life of the value `regs` must be valid and not be accessed otherwise.
    pub(crate) unsafe fn new(regs: NonNull<Regs>) -> BootEnv {
        BootEnv { regs }
    }
}

/// A value at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned<T>(T);

impl Env for BootEnv {
    #[inline(always)]
    fn regs(&self) -> &Regs {
        // SAFETY: Valid by the contract of `new`.
        unsafe { self.regs.as_ref() }
    }

    #[inline(always)]
    fn regs_mut(&mut self) -> &mut Regs {
        // SAFETY: As in `regs`.
        unsafe { self.regs.as_mut() }
    }

    /// The decompressor executes nothing else that a hypervisor intercepts: CPUID, RDTSC for KASLR,
    /// and port I/O for the timer and the serial console. Any other exit is made up. That includes
    /// MMIO: the identity map has no shared memory, and misc.c does without the VGA console in
    /// SEV-ES guests.
    #[inline(always)]
    fn handles(&self, exit: ExitCode) -> bool {
        matches!(
            exit,
            ExitCode::Cpuid | ExitCode::Rdtsc | ExitCode::Rdtscp | ExitCode::Ioio
        )
    }

    fn peek(&mut self) -> Option<u64> {
        let ip = self.regs().ip;

        if ip & 0xfff > 0x1000 - 8 {
            return None;
        }
        // SAFETY: The instruction has just been fetched from this page.
        Some(unsafe { (ip as *const Unaligned<u64>).read().0 })
    }

    fn fetch(&mut self, bytes: &mut [u8; MAX_INSN_LEN]) -> Result<usize> {
        // SAFETY: The decompressor's code is followed by its data. What is not mapped yet will be
        // by the page-fault handler.
        *bytes = unsafe { (self.regs().ip as *const [u8; MAX_INSN_LEN]).read() };
        Ok(MAX_INSN_LEN)
    }

    fn ghcb(&mut self) -> Ghcb {
        ghcb::get()
    }

    fn ghcb_gpa(&mut self) -> u64 {
        self.ghcb().as_ptr() as u64
    }

    fn ghcb_version(&self) -> u16 {
        // SAFETY: Negotiated in stage 1.
        unsafe { c::ghcb_version }
    }

    fn vmgexit(&mut self) {
        let gpa = self.ghcb_gpa();

        // SAFETY: This is the address of the GHCB, in which the core completed a request.
        unsafe { vmgexit(gpa) };
    }

    fn linear_bits(&self) -> u32 {
        cpu::linear_bits()
    }

    fn read(&mut self, address: u64, width: Width) -> Result<u64> {
        // SAFETY: The decompressor would have read there itself, once for each iteration.
        Ok(unsafe {
            match width {
                Width::B1 => (address as *const u8).read_volatile().into(),
                Width::B2 => (address as *const Unaligned<u16>).read_volatile().0.into(),
                Width::B4 => (address as *const Unaligned<u32>).read_volatile().0.into(),
                Width::B8 => (address as *const Unaligned<u64>).read_volatile().0,
            }
        })
    }

    fn write(&mut self, address: u64, value: u64, width: Width) -> Result {
        // SAFETY: As in `read`.
        unsafe {
            match width {
                Width::B1 => (address as *mut u8).write_volatile(value as u8),
                Width::B2 => {
                    (address as *mut Unaligned<u16>).write_volatile(Unaligned(value as u16))
                }
                Width::B4 => {
                    (address as *mut Unaligned<u32>).write_volatile(Unaligned(value as u32))
                }
                Width::B8 => (address as *mut Unaligned<u64>).write_volatile(Unaligned(value)),
            }
        }
        Ok(())
    }

    fn features(&self) -> Features {
        Features {
            secure_tsc: Status::get().secure_tsc(),
            ..Features::default()
        }
    }

    fn xcr0(&mut self) -> u64 {
        cpu::xcr0()
    }

    fn xss(&mut self) -> Option<u64> {
        // SAFETY: The MSR exists where shadow stacks do. The GHCB is not in use, so the first call
        // may raise #VC. If the MSR is intercepted the guest ends, see `handles()`.
        unsafe { c::has_cpuflag(c::FEATURE_SHSTK).then(|| cpu::rdmsr(MSR_XSS)) }
    }

    fn snp_cpuid(&mut self, leaf: &mut CpuidLeaf) -> SnpCpuid {
        // SAFETY: The callback gets the environment, which nothing else uses in the meantime.
        match unsafe { lookup(ask, from_mut(self).cast(), leaf) } {
            Ok(true) => SnpCpuid::Found,
            Ok(false) => SnpCpuid::NoTable,
            Err(_) => SnpCpuid::Failed,
        }
    }
}

/// Asks for a leaf that the table of SEV-SNP does not have all of.
///
/// # Safety
///
/// `env` must point to a `BootEnv`, and `leaf` must be valid.
unsafe extern "C" fn ask(env: *mut c_void, leaf: *mut cpuid_leaf) {
    // SAFETY: By the contract of the function.
    let (env, c_leaf) = unsafe { (&mut *env.cast::<BootEnv>(), &mut *leaf) };
    let mut leaf = CpuidLeaf::from(&*c_leaf);

    if cpuid::ask_hypervisor(env, &mut leaf).is_err() {
        terminate(Termination::CpuidHypervisor);
    }
    *c_leaf = cpuid_leaf::from(&leaf);
}
