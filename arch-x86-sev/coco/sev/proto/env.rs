// SPDX-License-Identifier: GPL-2.0

//! What the core needs from its surroundings.

use super::{
    exit_code::ExitCode,
    ghcb::{
        Ghcb,
        SHARED_BUFFER_SIZE, //
    },
    insn::{
        CodeSize,
        Segment,
        MAX_INSN_LEN, //
    },
    regs::Regs,
    result::{
        Access,
        Error,
        Fault,
        Result,
        Width, //
    }, //
};

/// Features that change what an intercept means. All but the first exist with SEV-SNP only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Hardware swaps the debug registers: the hypervisor has no reason to intercept DR7.
    pub(crate) debug_swap: bool,
    /// Secure TSC: the hypervisor has no reason to intercept the TSC.
    pub(crate) secure_tsc: bool,
    /// Secure AVIC: the hypervisor has no reason to intercept its control MSR.
    pub(crate) secure_avic: bool,
}

/// One leaf of CPUID: the question and the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuidLeaf {
    /// The leaf (EAX before).
    pub(crate) function: u32,
    /// The subleaf (ECX before).
    pub(crate) index: u32,
    /// EAX after.
    pub(crate) eax: u32,
    /// EBX after.
    pub(crate) ebx: u32,
    /// ECX after.
    pub(crate) ecx: u32,
    /// EDX after.
    pub(crate) edx: u32,
}

/// Answer of [`Env::snp_cpuid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnpCpuid {
    /// There is no table of CPUID values from the SEV-SNP firmware: ask the hypervisor.
    NoTable,
    /// The leaf was filled in.
    Found,
    /// The leaf could not be completed; the guest must not go on.
    Failed,
}

/// Where a linear address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Guest-physical address, without the C-bit.
    pub(crate) gpa: u64,
    /// The C-bit is set: private memory, which cannot be MMIO.
    pub(crate) encrypted: bool,
}

/// Things worth a message. The core cannot print; an environment may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The instruction at RIP cannot have caused an exit with this code. Hypervisors may not
    /// inject #VC; this is how it shows.
    WrongInstruction {
        /// The exit code.
        code: u64,
        /// The first bytes at RIP, the byte at RIP lowest, as far as they were read.
        bytes: u64,
    },
    /// INVD was executed. It would lose memory writes and nothing needs it.
    Invd,
    /// An emulated access hit a page that is mapped encrypted.
    EncryptedMmio {
        /// The linear address.
        address: u64,
    },
}

/// The surroundings of a #VC handler: the interrupted context, memory, and the GHCB.
///
/// Each method says in what context the core calls it. Methods with a default are not needed
/// everywhere: the decompressor's handler, for one, implements the first group and memory access.
///
/// Unless said otherwise a method must leave the interrupted registers and the GHCB as they are.
pub(crate) trait Env {
    // The interrupted context.

    /// The interrupted registers.
    fn regs(&self) -> &Regs;

    /// The interrupted registers, to update them. Called only after the exit succeeded, so that an
    /// exception never sees half an instruction.
    fn regs_mut(&mut self) -> &mut Regs;

    /// Width of the interrupted code segment. Called at most once per exit, before [`Env::fetch`].
    fn code_size(&mut self) -> Result<CodeSize> {
        Ok(CodeSize::Bits64)
    }

    /// The eight bytes at RIP, the first one lowest, if the code segment is a 64-bit one and they
    /// can be had with one access, for instance because they do not cross a page. They need not all
    /// belong to the instruction. `None` is always right and costs only time: it leads to
    /// [`Env::code_size`] and [`Env::fetch`]. Must not fault nor sleep.
    fn peek(&mut self) -> Option<u64> {
        None
    }

    /// Reads up to 15 bytes at CS:RIP and returns how many could be read: fewer if the next page
    /// is absent. If there is none, the error says why (usually a page fault on a fetch). Must not
    /// sleep.
    fn fetch(&mut self, bytes: &mut [u8; MAX_INSN_LEN]) -> Result<usize>;

    /// False for exits that are refused here. Constant for each exit, so that there is no code for
    /// them either.
    #[inline(always)]
    fn handles(&self, exit: ExitCode) -> bool {
        let _ = exit;
        true
    }

    // The GHCB.

    /// The GHCB that this handler owns. The core calls it as late as it can, once or more per exit,
    /// so that an environment may acquire the GHCB at the first call.
    fn ghcb(&mut self) -> Ghcb;

    /// Guest-physical address of [`Env::ghcb`]; called only after it.
    fn ghcb_gpa(&mut self) -> u64;

    /// Bytes of the shared buffer that this handler may use, at least eight. Fewer than there are
    /// if it interrupted a user of the GHCB.
    fn buffer_size(&mut self) -> usize {
        SHARED_BUFFER_SIZE
    }

    /// Version of the protocol that was negotiated.
    fn ghcb_version(&self) -> u16;

    /// Writes the GHCB's address to the GHCB MSR and executes VMGEXIT. The hypervisor reads and
    /// writes the page during this call.
    fn vmgexit(&mut self);

    // Memory. Addresses are linear and canonical.

    /// Number of significant bits of a linear address: 57 with five-level paging.
    fn linear_bits(&self) -> u32 {
        48
    }

    /// Linear address of `offset` in a segment, with the checks of a memory operand of `len` bytes.
    ///
    /// In 64-bit mode called for FS and GS only, and only the base is wanted (the other segments
    /// start at 0, and the core checks that the result is canonical). In 16- and 32-bit mode called
    /// for all segments: present, writable or readable, limit; #GP, or #SS for the stack segment.
    fn linear(&mut self, segment: Segment, offset: u64, len: u64, access: Access) -> Result<u64> {
        let _ = (segment, offset, len, access);
        Err(Error::Unsupported)
    }

    /// Reads memory for the interrupted context with its privileges: user code must not reach
    /// kernel addresses. Must not sleep; what cannot be read is a page fault for the context.
    fn read(&mut self, address: u64, width: Width) -> Result<u64> {
        let _ = (address, width);
        Err(Error::Unsupported)
    }

    /// Writes memory, as [`Env::read`].
    fn write(&mut self, address: u64, value: u64, width: Width) -> Result {
        let _ = (address, value, width);
        Err(Error::Unsupported)
    }

    /// Copies `len` bytes at `address` to the shared buffer at `offset`. Returns the number of
    /// bytes copied and, if that is not all of them, the fault that the next byte caused.
    ///
    /// The default reads element by element; an environment may copy in bulk through
    /// [`Ghcb::buffer`].
    fn read_to_buffer(
        &mut self,
        address: u64,
        offset: usize,
        len: usize,
        element: Width,
    ) -> (usize, Result) {
        let mut done = 0;

        while done < len {
            match self.read(address.wrapping_add(done as u64), element) {
                Ok(value) => {
                    let ghcb = self.ghcb();

                    ghcb.write_buffer(offset.wrapping_add(done), value, element);
                }
                Err(error) => return (done, Err(error)),
            }
            done = done.wrapping_add(element.bytes() as usize);
        }
        (done, Ok(()))
    }

    /// Copies `len` bytes of the shared buffer at `offset` to `address`, as
    /// [`Env::read_to_buffer`].
    fn write_from_buffer(
        &mut self,
        address: u64,
        offset: usize,
        len: usize,
        element: Width,
    ) -> (usize, Result) {
        let mut done = 0;

        while done < len {
            let value = self.ghcb().read_buffer(offset.wrapping_add(done), element);

            if let Err(error) = self.write(address.wrapping_add(done as u64), value, element) {
                return (done, Err(error));
            }
            done = done.wrapping_add(element.bytes() as usize);
        }
        (done, Ok(()))
    }

    /// Checks, before the exit of a string instruction, `len` bytes at `address`, which do not
    /// cross a page.
    ///
    /// If they are known to be a device's, they are refused: the access would raise a #VC of its
    /// own, while the GHCB is in use. For a write, they must be writable: input is taken from a
    /// device first, and would be lost. For a read, what is absent is no business of this check:
    /// reading it will tell. The default does not check.
    fn probe(&mut self, address: u64, len: u64, access: Access) -> Result {
        let _ = (address, len, access);
        Ok(())
    }

    /// Walks the page tables for an access to MMIO, with the checks that hardware makes: present,
    /// writable for a write, user for user mode; #PF else. Called for kernel mode only.
    fn translate(&mut self, address: u64, access: Access) -> Result<Mapping> {
        let _ = (address, access);
        Err(Error::Unsupported)
    }

    /// True if the guest-physical address is known to be memory that is shared with the hypervisor,
    /// and not a device. Tells the operands of a string move apart.
    fn is_shared_memory(&mut self, gpa: u64) -> bool {
        let _ = gpa;
        false
    }

    // Permissions.

    /// True if user code may access these ports: all bits clear in the I/O permission bitmap, which
    /// ends at its limit, or what stands for I/O privilege level 3. Called for user mode only.
    fn io_permitted(&mut self, port: u16, width: Width) -> bool {
        let _ = (port, width);
        false
    }

    // State of the CPU and of the platform.

    /// SEV features that are active.
    fn features(&self) -> Features {
        Features::default()
    }

    /// The shadow of DR7, or `None` if there is no place for one yet.
    fn dr7(&self) -> Option<u64> {
        None
    }

    /// Stores the shadow of DR7. Called only if [`Env::dr7`] has one.
    fn set_dr7(&mut self, value: u64) {
        let _ = value;
    }

    /// CR4, for what it permits user mode to do.
    fn cr4(&self) -> u64 {
        0
    }

    /// True if user mode may not execute CPUID. Called for user mode only.
    fn cpuid_faults(&self) -> bool {
        false
    }

    /// True if RFLAGS.TF has the processor stop at branches only (DebugCtl.BTF; APM vol. 2,
    /// 13.1.4.4). Called if TF is set.
    fn steps_blocks(&self) -> bool {
        false
    }

    /// XCR0, or 1, its value at reset, if CR4.OSXSAVE is off. Called before [`Env::ghcb`].
    fn xcr0(&mut self) -> u64 {
        1
    }

    /// The XSS MSR if it affects CPUID (shadow stacks are supported). Reading it may itself cause
    /// a #VC: it is called before [`Env::ghcb`].
    fn xss(&mut self) -> Option<u64> {
        None
    }

    /// Looks the leaf up in the table from the SEV-SNP firmware. May perform exits of its own
    /// (see `exit::cpuid::ask_hypervisor`).
    fn snp_cpuid(&mut self, leaf: &mut CpuidLeaf) -> SnpCpuid {
        let _ = leaf;
        SnpCpuid::NoTable
    }

    /// The TSC, read in order. Called with Secure TSC only.
    fn rdtsc(&mut self) -> u64 {
        0
    }

    /// Guest-physical address of the SVSM calling area.
    fn svsm_calling_area(&self) -> u64 {
        0
    }

    /// Lets the platform add registers to a hypercall. The hook may set fields of the GHCB.
    fn hypercall_prepare(&mut self, ghcb: Ghcb) {
        let _ = ghcb;
    }

    /// Lets the platform take further results of a hypercall from the GHCB and put them in the
    /// registers, where RAX already is. False refuses the reply.
    fn hypercall_finish(&mut self, ghcb: Ghcb) -> bool {
        let _ = ghcb;
        true
    }

    /// Reports something. Must not touch the GHCB.
    fn note(&mut self, note: Note) {
        let _ = note;
    }

    // What follows from the above.

    /// A page fault at `address` for the interrupted context. `present` tells a protection fault
    /// from an absent page.
    fn page_fault(&self, address: u64, access: Access, present: bool) -> Fault {
        use super::result::{
            PF_PRESENT,
            PF_USER,
            PF_WRITE, //
        };

        let mut code = 0;

        if present {
            code |= PF_PRESENT;
        }
        if access == Access::Write {
            code |= PF_WRITE;
        }
        if self.regs().user_mode() {
            code |= PF_USER;
        }
        Fault::page(address, code)
    }
}
