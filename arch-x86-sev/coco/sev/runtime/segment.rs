// SPDX-License-Identifier: GPL-2.0

//! Segments of the interrupted context (APM vol. 2, 4.7 to 4.12).

use core::arch::asm;

use kernel::bindings;

use crate::proto::{
    Access,
    CodeSize,
    Error,
    Fault,
    Result,
    Segment, //
};

/// Access rights as LAR returns them: the descriptor's second half.
pub(crate) const LAR_WRITABLE: u32 = 1 << 9;
pub(crate) const LAR_EXPAND_DOWN: u32 = 1 << 10;
pub(crate) const LAR_CODE: u32 = 1 << 11;
pub(crate) const LAR_NOT_SYSTEM: u32 = 1 << 12;
pub(crate) const LAR_PRESENT: u32 = 1 << 15;
pub(crate) const LAR_BIG: u32 = 1 << 22;

/// Readable, in code segments, is where writable is in data segments.
pub(crate) const LAR_READABLE: u32 = LAR_WRITABLE;

/// Number of a segment register for the C code.
fn index(segment: Segment) -> i32 {
    let index = match segment {
        Segment::Es => bindings::INAT_SEG_REG_ES,
        Segment::Cs => bindings::INAT_SEG_REG_CS,
        Segment::Ss => bindings::INAT_SEG_REG_SS,
        Segment::Ds => bindings::INAT_SEG_REG_DS,
        Segment::Fs => bindings::INAT_SEG_REG_FS,
        Segment::Gs => bindings::INAT_SEG_REG_GS,
    };

    index as i32
}

/// The exception for a bad access through a segment.
fn fault(segment: Segment) -> Error {
    match segment {
        Segment::Ss => Fault::SS.into(),
        _ => Fault::GP.into(),
    }
}

/// Width of the code segment; anything but 64 bits is user space's choice.
///
/// # Safety
///
/// `regs` must be the interrupted registers.
pub(crate) unsafe fn code_size(regs: *mut bindings::pt_regs) -> Result<CodeSize> {
    // SAFETY: By the contract of the function; IRQs are off, which is all that it takes.
    let params = unsafe { bindings::insn_get_code_seg_params(regs) };

    // Operand size in the low four bits, address size above.
    match params {
        0x84 => Ok(CodeSize::Bits64),
        0x44 => Ok(CodeSize::Bits32),
        0x22 => Ok(CodeSize::Bits16),
        _ => Err(Error::DecodeFailed),
    }
}

/// Base of a segment.
///
/// # Safety
///
/// `regs` must be the interrupted registers.
pub(crate) unsafe fn base(regs: *mut bindings::pt_regs, segment: Segment) -> Result<u64> {
    // SAFETY: By the contract of the function.
    let base = unsafe { bindings::insn_get_seg_base(regs, index(segment)) };

    if base == usize::MAX {
        return Err(fault(segment));
    }
    Ok(base as u64)
}

/// The selector in a segment register of the interrupted context. The kernel does not change the
/// registers that it does not save.
///
/// # Safety
///
/// `regs` must be the interrupted registers, of user mode.
unsafe fn selector(regs: *mut bindings::pt_regs, segment: Segment) -> u16 {
    let selector: u16;

    // SAFETY: By the contract of the function; reading a segment register has no side effect.
    unsafe {
        match segment {
            Segment::Cs => return (*regs).__bindgen_anon_1.cs,
            Segment::Ss => return (*regs).__bindgen_anon_2.ss,
            Segment::Ds => asm!("mov {:x}, ds", out(reg) selector, options(nomem, nostack)),
            Segment::Es => asm!("mov {:x}, es", out(reg) selector, options(nomem, nostack)),
            Segment::Fs => asm!("mov {:x}, fs", out(reg) selector, options(nomem, nostack)),
            Segment::Gs => asm!("mov {:x}, gs", out(reg) selector, options(nomem, nostack)),
        }
    }
    selector
}

/// Access rights and limit of a descriptor, or `None` if there is no such descriptor.
pub(crate) fn descriptor(selector: u16) -> Option<(u32, u32)> {
    let (rights, limit): (u32, u32);
    let (has_rights, has_limit): (u8, u8);

    // SAFETY: LAR and LSL read a descriptor; they do not fault, but clear ZF.
    unsafe {
        asm!(
            "lar {rights:e}, {selector:e}",
            "setz {has_rights}",
            "lsl {limit:e}, {selector:e}",
            "setz {has_limit}",
            selector = in(reg) u32::from(selector),
            rights = out(reg) rights,
            limit = out(reg) limit,
            has_rights = out(reg_byte) has_rights,
            has_limit = out(reg_byte) has_limit,
            options(nostack),
        );
    }
    if has_rights == 0 || has_limit == 0 {
        return None;
    }
    Some((rights, limit))
}

/// True if the segment allows the access.
pub(crate) fn allows(rights: u32, access: Access) -> bool {
    if rights & LAR_PRESENT == 0 || rights & LAR_NOT_SYSTEM == 0 {
        return false;
    }
    match access {
        Access::Write => rights & LAR_CODE == 0 && rights & LAR_WRITABLE != 0,
        Access::Read => rights & LAR_CODE == 0 || rights & LAR_READABLE != 0,
    }
}

/// True if the bytes from `first` to `last` are inside of the segment.
pub(crate) fn inside(rights: u32, limit: u32, first: u64, last: u64) -> bool {
    if rights & LAR_CODE == 0 && rights & LAR_EXPAND_DOWN != 0 {
        let top = if rights & LAR_BIG != 0 {
            0xffff_ffff
        } else {
            0xffff
        };

        return first > limit.into() && last <= top;
    }
    last <= limit.into()
}

/// Linear address of a memory operand in 16- and 32-bit mode, with all checks.
///
/// # Safety
///
/// `regs` must be the interrupted registers, of user mode.
pub(crate) unsafe fn legacy_linear(
    regs: *mut bindings::pt_regs,
    segment: Segment,
    offset: u64,
    len: u64,
    access: Access,
) -> Result<u64> {
    // SAFETY: By the contract of the function.
    let selector = unsafe { selector(regs, segment) };

    // Selectors 0 to 3 are null.
    if selector & !3 == 0 {
        return Err(fault(segment));
    }

    let (rights, limit) = descriptor(selector).ok_or(fault(segment))?;
    let last = offset.wrapping_add(len).wrapping_sub(1);

    if !allows(rights, access) || !inside(rights, limit, offset, last) {
        return Err(fault(segment));
    }

    // SAFETY: By the contract of the function.
    let base = unsafe { base(regs, segment) }?;

    Ok(base.wrapping_add(offset) & 0xffff_ffff)
}
