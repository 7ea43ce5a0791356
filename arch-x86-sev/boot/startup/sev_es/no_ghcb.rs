// SPDX-License-Identifier: GPL-2.0

//! #VC exceptions while there is no GHCB: only CPUID, by the MSR protocol.
//!
//! For code that runs before the kernel is relocated: stage 1 of the decompressor and the startup
//! code include this.

use core::{
    ffi::c_void,
    ptr::{
        addr_of,
        null_mut, //
    }, //
};

use super::{
    c_bit,
    cpu,
    ghcb_msr::{
        terminate,
        GhcbMsr, //
    },
    page_table_entry,
    proto::{
        msr_protocol::{
            self,
            Termination, //
        },
        CpuidLeaf,
        Error,
        ExitCode,
        Regs,
        Result, //
    }, //
};

/// CPUID, the first byte lowest.
const OPCODE_CPUID: u16 = 0xa20f;
/// The leaf about memory encryption; bits 5:0 of EBX are the position of the C-bit.
const LEAF_ENCRYPTION: u32 = 0x8000_001f;
/// The SEV_STATUS MSR, and its bit for SEV-SNP (APM vol. 2, 15.34.10).
const MSR_SEV_STATUS: u32 = 0xc001_0131;
const STATUS_SNP: u64 = 1 << 2;
/// Result of `snp_cpuid()`: there is no table.
const EOPNOTSUPP: i32 = 95;

/// `struct cpuid_leaf` of asm/sev.h. The name has to be C's: with CONFIG_CFI it is part of the type
/// of a function that C code calls by pointer.
#[allow(non_camel_case_types)]
#[repr(C)]
pub(crate) struct cpuid_leaf {
    function: u32,
    index: u32,
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
}

impl From<&CpuidLeaf> for cpuid_leaf {
    #[inline(always)]
    fn from(leaf: &CpuidLeaf) -> cpuid_leaf {
        cpuid_leaf {
            function: leaf.function,
            index: leaf.index,
            eax: leaf.eax,
            ebx: leaf.ebx,
            ecx: leaf.ecx,
            edx: leaf.edx,
        }
    }
}

impl From<&cpuid_leaf> for CpuidLeaf {
    #[inline(always)]
    fn from(leaf: &cpuid_leaf) -> CpuidLeaf {
        CpuidLeaf {
            function: leaf.function,
            index: leaf.index,
            eax: leaf.eax,
            ebx: leaf.ebx,
            ecx: leaf.ecx,
            edx: leaf.edx,
        }
    }
}

/// What `snp_cpuid()` calls for leaves that the hypervisor has a part in.
pub(crate) type AskHypervisor = unsafe extern "C" fn(context: *mut c_void, leaf: *mut cpuid_leaf);

extern "C" {
    // sev-shared.c
    fn snp_cpuid(ask: AskHypervisor, context: *mut c_void, leaf: *mut cpuid_leaf) -> i32;
}

/// Looks a leaf up in the table from the SEV-SNP firmware. False if there is no table.
///
/// # Safety
///
/// `context` must be what `ask` expects.
#[inline(always)]
pub(crate) unsafe fn lookup(
    ask: AskHypervisor,
    context: *mut c_void,
    leaf: &mut CpuidLeaf,
) -> Result<bool> {
    let mut c_leaf = cpuid_leaf::from(&*leaf);

    // SAFETY: By the contract of the function.
    match unsafe { snp_cpuid(ask, context, &mut c_leaf) } {
        0 => {
            *leaf = CpuidLeaf::from(&c_leaf);
            Ok(true)
        }
        error if error == -EOPNOTSUPP => Ok(false),
        _ => Err(Error::Vmm),
    }
}

/// Asks for a leaf that the table does not have all of.
///
/// # Safety
///
/// `leaf` must be valid.
unsafe extern "C" fn ask_by_msr(_context: *mut c_void, leaf: *mut cpuid_leaf) {
    // SAFETY: By the contract of the function.
    let c_leaf = unsafe { &mut *leaf };
    let mut leaf = CpuidLeaf::from(&*c_leaf);

    if msr_protocol::cpuid(&mut GhcbMsr, &mut leaf).is_err() {
        terminate(Termination::CpuidHypervisor);
    }
    *c_leaf = cpuid_leaf::from(&leaf);
}

/// False if the answer has a position of the C-bit that the page tables in use contradict. What
/// does not show here may still be wrong; `sev_verify_cbit()` checks it later.
#[inline(always)]
fn c_bit_is_possible(leaf: &CpuidLeaf) -> bool {
    let five_levels = cpu::linear_bits() > 48;
    let mask = 1u64.wrapping_shl(leaf.ebx & 0x3f);
    // The stack, which is private memory.
    let address = addr_of!(*leaf) as u64;

    !c_bit::contradicts(cpu::cr3(), five_levels, mask, address, page_table_entry)
}

/// Whether the guest takes the position of the C-bit from this answer. An SEV-SNP guest asks the
/// hypervisor as well, before it has found the CPUID table, but takes the position from the table.
#[inline(always)]
fn tells_c_bit(leaf: &CpuidLeaf, from_table: bool) -> bool {
    leaf.function == LEAF_ENCRYPTION
        // SAFETY: There was a #VC, so the processor has the MSR. Reading it is not intercepted.
        && (from_table || unsafe { cpu::rdmsr(MSR_SEV_STATUS) } & STATUS_SNP == 0)
}

/// Emulates CPUID.
///
/// # Safety
///
/// `regs.ip` must be the address of an instruction that is mapped.
#[inline(always)]
unsafe fn handle(regs: &mut Regs, exit_code: u64) -> Result {
    if exit_code != ExitCode::Cpuid as u64 {
        return Err(Error::Unsupported);
    }

    // SAFETY: By the contract of the function. A #VC that the hypervisor made up may come from
    // anywhere, but always from code.
    let opcode = unsafe { (regs.ip as *const u16).read_unaligned() };

    if opcode != OPCODE_CPUID {
        return Err(Error::DecodeFailed);
    }

    let mut leaf = CpuidLeaf {
        function: regs.ax as u32,
        index: regs.cx as u32,
        ..CpuidLeaf::default()
    };

    // SAFETY: The callback does without a context.
    let from_table = unsafe { lookup(ask_by_msr, null_mut(), &mut leaf) }?;

    if !from_table {
        msr_protocol::cpuid(&mut GhcbMsr, &mut leaf)?;
    }
    // What follows decides whether memory is encrypted, and how.
    if !msr_protocol::cpuid_admits_sev(&leaf)
        || (tells_c_bit(&leaf, from_table) && !c_bit_is_possible(&leaf))
    {
        return Err(Error::Vmm);
    }

    regs.ax = leaf.eax.into();
    regs.bx = leaf.ebx.into();
    regs.cx = leaf.ecx.into();
    regs.dx = leaf.edx.into();
    regs.ip = regs.ip.wrapping_add(2);
    Ok(())
}

/// Handles a #VC exception while there is no GHCB. What is not handled ends the guest.
///
/// # Safety
///
/// Called by the entry code only, with the interrupted registers.
#[no_mangle]
unsafe extern "C" fn do_vc_no_ghcb(regs: *mut Regs, exit_code: u64) {
    // SAFETY: By the contract of the function.
    if unsafe { handle(&mut *regs, exit_code) }.is_err() {
        terminate(Termination::General);
    }
}
