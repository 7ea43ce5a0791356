// SPDX-License-Identifier: GPL-2.0

//! From memory operands to linear addresses (APM vol. 2, 4.5 and 5.3.1).

use super::super::{
    env::Env,
    insn::{
        Base,
        CodeSize,
        Insn,
        Memory,
        Segment, //
    },
    regs::{
        Regs,
        FLAGS_AC, //
    },
    result::{
        Access,
        Error,
        Fault,
        Result,
        Width, //
    }, //
};

/// Size of the smallest page.
pub(crate) const PAGE_SIZE: u64 = 4096;

/// The offset of a memory operand in its segment.
#[inline(always)]
pub(crate) fn offset(regs: &Regs, insn: &Insn, memory: &Memory) -> u64 {
    let base = match memory.base {
        Base::None => 0,
        Base::Rip => regs.ip.wrapping_add(insn.len.into()),
        Base::Gpr(gpr) => regs.gpr(gpr),
    };
    let index = match memory.index {
        Some(gpr) => regs.gpr(gpr).wrapping_shl(memory.scale.into()),
        None => 0,
    };

    insn.address_size
        .truncate(base.wrapping_add(index).wrapping_add(memory.displacement))
}

/// The linear address of `len` bytes at `offset` in a segment, checked to be canonical. What user
/// mode may access is up to [`check_user`].
#[inline(never)]
pub(crate) fn linear<E: Env + ?Sized>(
    env: &mut E,
    code: CodeSize,
    segment: Segment,
    offset: u64,
    len: u64,
    access: Access,
) -> Result<u64> {
    let long = matches!(code, CodeSize::Bits64);
    let address = match segment {
        Segment::Es | Segment::Cs | Segment::Ss | Segment::Ds if long => offset,
        _ => env.linear(segment, offset, len, access)?,
    };

    if !long {
        return Ok(address & 0xffff_ffff);
    }

    let last = address.wrapping_add(len.wrapping_sub(1));
    let bits = env.linear_bits();

    if !is_canonical(address, bits) || !is_canonical(last, bits) {
        return Err(Error::Exception(match segment {
            Segment::Ss => Fault::SS,
            _ => Fault::GP,
        }));
    }
    Ok(address)
}

/// Checks an access of user mode to `len` bytes of elements: aligned if RFLAGS.AC asks for that
/// (APM vol. 2, 3.1.6; Linux keeps CR0.AM set), and not the kernel's. Other modes may access all.
///
/// Hardware compares the alignment before it walks the page tables.
#[inline(always)]
pub(crate) fn check_user<E: Env + ?Sized>(
    env: &E,
    address: u64,
    len: u64,
    element: Width,
    access: Access,
) -> Result {
    let regs = env.regs();

    if !regs.user_mode() {
        return Ok(());
    }
    if regs.flags & FLAGS_AC != 0 && address & element.bytes().wrapping_sub(1) != 0 {
        return Err(Fault::AC.into());
    }
    // The upper half is the kernel's. The environment checks this too, but must never be trusted
    // alone with it: the handler itself could access these addresses.
    if (address | address.wrapping_add(len.wrapping_sub(1))) >> 63 != 0 {
        return Err(env.page_fault(address, access, false).into());
    }
    Ok(())
}

/// True if an access of this width does not cross a page.
#[inline(always)]
pub(crate) const fn in_page(address: u64, width: Width) -> bool {
    (address & PAGE_SIZE.wrapping_sub(1)) <= PAGE_SIZE.wrapping_sub(width.bytes())
}

/// True if all bits above the significant ones are copies of the highest of those.
#[inline(always)]
const fn is_canonical(address: u64, bits: u32) -> bool {
    let unused = 64u32.wrapping_sub(bits);

    (address.wrapping_shl(unused) as i64).wrapping_shr(unused) as u64 == address
}
