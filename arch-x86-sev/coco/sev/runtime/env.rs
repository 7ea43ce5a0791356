// SPDX-License-Identifier: GPL-2.0

//! The surroundings of a #VC handler in the running kernel.

use core::ptr::NonNull;

use kernel::{
    bindings,
    prelude::*,
    task::Task, //
};

use crate::{
    cpu::{self, IrqsOff},
    data,
    fetch,
    guard::GhcbGuard,
    memory::{self, in_words},
    proto::{
        insn::MAX_INSN_LEN,
        Access,
        CodeSize,
        CpuidLeaf,
        Env,
        Features,
        Ghcb,
        Mapping,
        Note,
        Regs,
        Result,
        Segment,
        SnpCpuid,
        Width, //
    },
    segment,
    snp_cpuid,
    vmgexit::vmgexit, //
};

/// The interrupted context, and the GHCB while it is in use. Interrupts are off.
pub(crate) struct KernelEnv<'irq> {
    regs: NonNull<bindings::pt_regs>,
    /// The GHCB of C code that took it and calls into Rust.
    caller: Option<Ghcb>,
    /// The GHCB that this handler took, if it needed one.
    guard: GhcbGuard<'irq>,
    /// The GHCB's guest-physical address; 0 if it was not asked for yet.
    gpa: u64,
}

impl KernelEnv<'_> {
    /// The surroundings of a #VC handler.
    ///
    /// # Safety
    ///
    /// For the life of the value `regs` must be valid and not be accessed otherwise, and interrupts
    /// must be off.
    #[inline(always)]
    pub(crate) unsafe fn new(regs: NonNull<bindings::pt_regs>) -> Self {
        KernelEnv {
            regs,
            caller: None,
            // SAFETY: By the contract of the function.
            guard: GhcbGuard::new(unsafe { IrqsOff::assume() }),
            gpa: 0,
        }
    }

    /// The surroundings of C code that owns the GHCB.
    ///
    /// # Safety
    ///
    /// As for `new`; and the caller must own the GHCB.
    pub(crate) unsafe fn with_ghcb(regs: NonNull<bindings::pt_regs>, ghcb: Ghcb) -> Self {
        KernelEnv {
            regs,
            caller: Some(ghcb),
            // SAFETY: By the contract of the function.
            guard: GhcbGuard::new(unsafe { IrqsOff::assume() }),
            gpa: 0,
        }
    }

    /// The registers as C code knows them.
    fn pt_regs(&mut self) -> *mut bindings::pt_regs {
        self.regs.as_ptr()
    }
}

/// True if a feature bit of the boot CPU is set.
pub(crate) fn boot_cpu_has(feature: u32) -> bool {
    // SAFETY: Written before other CPUs run.
    let words = unsafe { bindings::boot_cpu_data.__bindgen_anon_3.x86_capability };

    words
        .get(feature as usize / 32)
        .is_some_and(|word| word & (1 << (feature % 32)) != 0)
}

impl Env for KernelEnv<'_> {
    fn regs(&self) -> &Regs {
        // SAFETY: Valid by the contract of `new`; `layout` checks that the layouts are the same.
        unsafe { self.regs.cast::<Regs>().as_ref() }
    }

    fn regs_mut(&mut self) -> &mut Regs {
        // SAFETY: As in `regs`.
        unsafe { self.regs.cast::<Regs>().as_mut() }
    }

    fn code_size(&mut self) -> Result<CodeSize> {
        if segment::is_64bit(self.regs()) {
            return Ok(CodeSize::Bits64);
        }
        segment::code(self.regs())?.code_size()
    }

    fn peek(&mut self) -> Option<u64> {
        let regs = self.regs();

        if memory::bytes_in_page(regs.ip) < 8
            || !segment::is_64bit(regs)
            || regs.user_mode() == memory::is_kernel_address(regs.ip)
        {
            return None;
        }
        memory::get(regs.ip, Width::B8).ok()
    }

    fn fetch(&mut self, bytes: &mut [u8; MAX_INSN_LEN]) -> Result<usize> {
        fetch::fetch(self.regs(), bytes)
    }

    fn ghcb(&mut self) -> Ghcb {
        if let Some(ghcb) = self.caller {
            return ghcb;
        }
        match self.guard.take() {
            Some(ghcb) => ghcb,
            // There is one before there are #VC exceptions.
            None => {
                // SAFETY: Does not return.
                unsafe {
                    bindings::sev_es_terminate(
                        bindings::SEV_TERM_SET_GEN,
                        bindings::GHCB_SEV_ES_GEN_REQ,
                    )
                }
            }
        }
    }

    fn ghcb_gpa(&mut self) -> u64 {
        if self.gpa == 0 {
            let page = self.ghcb().as_ptr();

            // SAFETY: Computes an address from an address of the kernel's mappings.
            self.gpa = unsafe { bindings::sev_es_shim_pa_nodebug(page.cast()) as u64 };
        }
        self.gpa
    }

    fn buffer_size(&mut self) -> usize {
        let _ = self.ghcb();

        self.guard.buffer_size()
    }

    fn ghcb_version(&self) -> u16 {
        // SAFETY: Negotiated before there is a GHCB, and constant since.
        unsafe { bindings::ghcb_version }
    }

    fn vmgexit(&mut self) {
        let gpa = self.ghcb_gpa();

        // SAFETY: This is the address of the GHCB, in which the core completed a request.
        unsafe { vmgexit(gpa) };
    }

    fn linear_bits(&self) -> u32 {
        cpu::linear_bits()
    }

    fn linear(&mut self, segment: Segment, offset: u64, len: u64, access: Access) -> Result<u64> {
        let regs = self.regs();

        if segment::is_64bit(regs) {
            Ok(segment::base_64(segment, regs.user_mode()).wrapping_add(offset))
        } else {
            segment::legacy_linear(regs, segment, offset, len, access)
        }
    }

    fn read(&mut self, address: u64, width: Width) -> Result<u64> {
        let regs = self.regs();

        if regs.user_mode() && reaches_kernel(address, width) {
            return Err(memory::page_fault(regs, address, Access::Read, 0));
        }
        memory::get(address, width)
            .map_err(|()| memory::access_fault(regs, address, width.bytes(), Access::Read))
    }

    fn write(&mut self, address: u64, value: u64, width: Width) -> Result {
        let regs = self.regs();

        if regs.user_mode() && reaches_kernel(address, width) {
            return Err(memory::page_fault(regs, address, Access::Write, 0));
        }
        // SAFETY: User code writes to user addresses; and kernel code, which is trusted, would have
        // written there itself.
        unsafe { memory::put(address, value, width) }
            .map_err(|()| memory::access_fault(regs, address, width.bytes(), Access::Write))
    }

    fn read_to_buffer(
        &mut self,
        address: u64,
        offset: usize,
        len: usize,
        element: Width,
    ) -> (usize, Result) {
        let ghcb = self.ghcb();

        in_words(len, element, |done, width| {
            let value = self.read(address.wrapping_add(done as u64), width)?;

            ghcb.write_buffer(offset + done, value, width);
            Ok(())
        })
    }

    fn write_from_buffer(
        &mut self,
        address: u64,
        offset: usize,
        len: usize,
        element: Width,
    ) -> (usize, Result) {
        let ghcb = self.ghcb();

        in_words(len, element, |done, width| {
            let value = ghcb.read_buffer(offset + done, width);

            self.write(address.wrapping_add(done as u64), value, width)
        })
    }

    fn probe(&mut self, address: u64, _len: u64, access: Access) -> Result {
        memory::probe(self.regs(), address, access)
    }

    fn translate(&mut self, address: u64, access: Access) -> Result<Mapping> {
        memory::translate(self.regs(), address, access)
    }

    fn is_shared_memory(&mut self, gpa: u64) -> bool {
        memory::is_ram(gpa)
    }

    fn io_permitted(&mut self, port: u16, width: Width) -> bool {
        #[cfg(CONFIG_X86_IOPL_IOPERM)]
        {
            // A port behind the last one is not permitted. Hardware agrees for iopl(3) as well,
            // which is a bitmap without bits that are set, but for those behind the last port.
            if u64::from(port) + (width.bytes() - 1) > u64::from(u16::MAX) {
                return false;
            }

            // SAFETY: `current` is valid, and only it changes its permissions.
            let bitmap = unsafe {
                let thread = &(*Task::current_raw()).thread;

                if thread.iopl_emul == 3 {
                    return true;
                }
                match thread.io_bitmap.as_ref() {
                    None => return false,
                    Some(io_bitmap) => &io_bitmap.bitmap,
                }
            };
            let first = u32::from(port);

            (first..first + width.bytes() as u32).all(|port| {
                bitmap
                    .get(port as usize / 64)
                    .is_some_and(|word| word & (1 << (port % 64)) == 0)
            })
        }
        #[cfg(not(CONFIG_X86_IOPL_IOPERM))]
        {
            let _ = (port, width);
            false
        }
    }

    fn features(&self) -> Features {
        // SAFETY: Set before the kernel is relocated, and constant since.
        let status = unsafe { bindings::sev_status };
        let has = |bit: u32| status & (1 << bit) != 0;

        Features {
            debug_swap: has(bindings::MSR_AMD64_SNP_DEBUG_SWAP_BIT),
            secure_tsc: has(bindings::MSR_AMD64_SNP_SECURE_TSC_BIT),
            secure_avic: has(bindings::MSR_AMD64_SNP_SECURE_AVIC_BIT),
        }
    }

    fn dr7(&self) -> Option<u64> {
        // SAFETY: This CPU's data, with interrupts off.
        data::this_cpu().map(|data| unsafe { (*data).dr7 } as u64)
    }

    fn set_dr7(&mut self, value: u64) {
        if let Some(data) = data::this_cpu() {
            // SAFETY: This CPU's data, with interrupts off.
            unsafe { (*data).dr7 = value as usize };
        }
    }

    fn cr4(&self) -> u64 {
        cpu::cr4()
    }

    fn cpuid_faults(&self) -> bool {
        thread_flag(bindings::TIF_NOCPUID)
    }

    fn steps_blocks(&self) -> bool {
        // The kernel does not step through itself by blocks. The flag of a task that does is what
        // DebugCtl.BTF follows, and what #DB handlers look at.
        self.regs().user_mode() && thread_flag(bindings::TIF_BLOCKSTEP)
    }

    fn xcr0(&mut self) -> u64 {
        cpu::xcr0()
    }

    fn xss(&mut self) -> Option<u64> {
        if !boot_cpu_has(bindings::X86_FEATURE_SHSTK) {
            return None;
        }
        // SAFETY: The MSR exists where shadow stacks do.
        Some(unsafe { cpu::rdmsr(bindings::MSR_IA32_XSS) })
    }

    fn snp_cpuid(&mut self, leaf: &mut CpuidLeaf) -> SnpCpuid {
        snp_cpuid::lookup(self, leaf)
    }

    fn rdtsc(&mut self) -> u64 {
        cpu::rdtsc_ordered()
    }

    fn svsm_calling_area(&self) -> u64 {
        this_cpu_read!(bindings::svsm_caa_pa)
    }

    fn hypercall_prepare(&mut self, ghcb: Ghcb) {
        // SAFETY: The hook is set up during boot. It gets the GHCB that this handler owns.
        unsafe {
            if let Some(prepare) = bindings::x86_platform.hyper.sev_es_hcall_prepare {
                prepare(ghcb.as_ptr().cast(), self.pt_regs());
            }
        }
    }

    fn hypercall_finish(&mut self, ghcb: Ghcb) -> bool {
        // SAFETY: As in `hypercall_prepare`.
        unsafe {
            match bindings::x86_platform.hyper.sev_es_hcall_finish {
                Some(finish) => finish(ghcb.as_ptr().cast(), self.pt_regs()),
                None => true,
            }
        }
    }

    fn note(&mut self, note: Note) {
        // What ends the guest must not be lost because user space used the limit up.
        // SAFETY: Only keeps count.
        if self.regs().user_mode() && !unsafe { bindings::sev_es_shim_ratelimit() } {
            return;
        }

        let ip = self.regs().ip;

        match note {
            Note::WrongInstruction { code, bytes } => pr_err!(
                "exit code {code:#x} does not belong to the instruction {:02x?} (IP: {ip:#x})\n",
                bytes.to_le_bytes()
            ),
            Note::Invd => pr_err!("INVD is not supported (IP: {ip:#x})\n"),
            Note::EncryptedMmio { address } => {
                pr_err!("MMIO at {address:#x}, which is mapped encrypted (IP: {ip:#x})\n");
            }
        }
    }
}

/// Whether a flag of the current task is set (TIF_*).
fn thread_flag(flag: u32) -> bool {
    // SAFETY: `current` is valid. Others may change flags at any time, but not tear them.
    let flags = unsafe { (&raw const (*Task::current_raw()).thread_info.flags).read_volatile() };

    flags & (1 << flag) != 0
}

/// True if an access of user code touches an address that is not user space's.
fn reaches_kernel(address: u64, width: Width) -> bool {
    let last = address.wrapping_add(width.bytes() - 1);

    memory::is_kernel_address(address) || memory::is_kernel_address(last)
}
