// SPDX-License-Identifier: GPL-2.0

//! Segments of the interrupted context (APM vol. 2, 4.7 to 4.12).
//!
//! Only user code has segments other than the flat ones of 64-bit code: those of 32-bit code, and
//! those that a program defined itself, in its LDT. Descriptors are read from the tables here, and
//! not by `insn_get_seg_base()` and its like, which lock the LDT by a mutex: interrupts are off.

use core::arch::asm;

use kernel::bindings;

use crate::{
    cpu,
    proto::{
        Access,
        CodeSize,
        Error,
        Fault,
        Regs,
        Result,
        Segment, //
    }, //
};

/// Access rights, as the second half of a descriptor has them.
pub(crate) const WRITABLE: u32 = 1 << 9;
pub(crate) const EXPAND_DOWN: u32 = 1 << 10;
pub(crate) const CODE: u32 = 1 << 11;
pub(crate) const NOT_SYSTEM: u32 = 1 << 12;
pub(crate) const PRESENT: u32 = 1 << 15;
pub(crate) const LONG: u32 = 1 << 21;
pub(crate) const BIG: u32 = 1 << 22;
pub(crate) const PAGES: u32 = 1 << 23;

/// Readable, in code segments, is where writable is in data segments.
pub(crate) const READABLE: u32 = WRITABLE;

/// A descriptor of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor(pub(crate) u64);

impl Descriptor {
    /// The descriptor that a selector of the current task stands for, or `None` if its table is
    /// shorter. Interrupts must be off, which keeps the tables in place.
    pub(crate) fn of(selector: u16) -> Option<Descriptor> {
        let mut descriptor = 0;

        // SAFETY: The pointer is valid.
        if unsafe { bindings::sev_es_shim_descriptor(selector, &mut descriptor) } {
            Some(Descriptor(descriptor))
        } else {
            None
        }
    }

    /// The half with the access rights.
    fn rights(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Linear address of the segment.
    pub(crate) fn base(self) -> u64 {
        (self.0 >> 16 & 0xff_ffff) | (self.0 >> 32 & 0xff00_0000)
    }

    /// Offset of the last byte, or for expand-down segments of the last byte before the first.
    pub(crate) fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff) as u32 | (self.rights() & 0xf_0000);

        if self.rights() & PAGES != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }

    /// Width of code in the segment.
    pub(crate) fn code_size(self) -> Result<CodeSize> {
        let rights = self.rights();

        if rights & NOT_SYSTEM == 0 || rights & CODE == 0 {
            return Err(Error::DecodeFailed);
        }
        match (rights & LONG != 0, rights & BIG != 0) {
            (true, false) => Ok(CodeSize::Bits64),
            (false, true) => Ok(CodeSize::Bits32),
            (false, false) => Ok(CodeSize::Bits16),
            (true, true) => Err(Error::DecodeFailed),
        }
    }

    /// True if the segment allows the access.
    pub(crate) fn allows(self, access: Access) -> bool {
        let rights = self.rights();

        if rights & PRESENT == 0 || rights & NOT_SYSTEM == 0 {
            return false;
        }
        match access {
            Access::Write => rights & CODE == 0 && rights & WRITABLE != 0,
            Access::Read => rights & CODE == 0 || rights & READABLE != 0,
        }
    }

    /// True if the bytes from `first` to `last` are inside of the segment.
    pub(crate) fn contains(self, first: u64, last: u64) -> bool {
        let rights = self.rights();
        let limit = self.limit().into();

        if rights & CODE == 0 && rights & EXPAND_DOWN != 0 {
            let top = if rights & BIG != 0 {
                0xffff_ffff
            } else {
                0xffff
            };

            return first > limit && last <= top;
        }
        last <= limit
    }
}

/// The exception for a bad access through a segment.
fn fault(segment: Segment) -> Error {
    match segment {
        Segment::Ss => Fault::SS.into(),
        _ => Fault::GP.into(),
    }
}

/// True if the interrupted code is 64-bit code. User space cannot define such segments.
pub(crate) fn is_64bit(regs: &Regs) -> bool {
    !regs.user_mode() || regs.cs as u16 == bindings::__USER_CS as u16
}

/// The descriptor of the interrupted code segment.
pub(crate) fn code(regs: &Regs) -> Result<Descriptor> {
    // It was there when the instruction ran. So another thread has changed the LDT since.
    Descriptor::of(regs.cs as u16).ok_or(Fault::GP.into())
}

/// Base of a segment in 64-bit code.
pub(crate) fn base_64(segment: Segment, user_mode: bool) -> u64 {
    let msr = match segment {
        Segment::Fs => bindings::MSR_FS_BASE,
        // The entry code swapped it with the kernel's.
        Segment::Gs if user_mode => bindings::MSR_KERNEL_GS_BASE,
        Segment::Gs => bindings::MSR_GS_BASE,
        _ => return 0,
    };

    // SAFETY: All 64-bit CPUs have these MSRs.
    unsafe { cpu::rdmsr(msr) }
}

/// The selector in a segment register of the interrupted user code. The kernel does not change the
/// registers that it does not save.
fn selector(regs: &Regs, segment: Segment) -> u16 {
    let selector: u16;

    // SAFETY: Reading a segment register has no side effect.
    unsafe {
        match segment {
            Segment::Cs => return regs.cs as u16,
            Segment::Ss => return regs.ss as u16,
            Segment::Ds => asm!("mov {:x}, ds", out(reg) selector, options(nomem, nostack)),
            Segment::Es => asm!("mov {:x}, es", out(reg) selector, options(nomem, nostack)),
            Segment::Fs => asm!("mov {:x}, fs", out(reg) selector, options(nomem, nostack)),
            Segment::Gs => asm!("mov {:x}, gs", out(reg) selector, options(nomem, nostack)),
        }
    }
    selector
}

/// Linear address of a memory operand of 16- or 32-bit user code, with all checks.
pub(crate) fn legacy_linear(
    regs: &Regs,
    segment: Segment,
    offset: u64,
    len: u64,
    access: Access,
) -> Result<u64> {
    let selector = selector(regs, segment);

    // Selectors 0 to 3 are null.
    if selector & !3 == 0 {
        return Err(fault(segment));
    }

    let descriptor = Descriptor::of(selector).ok_or(fault(segment))?;
    let last = offset.wrapping_add(len).wrapping_sub(1);

    if !descriptor.allows(access) || !descriptor.contains(offset, last) {
        return Err(fault(segment));
    }
    Ok(descriptor.base().wrapping_add(offset) & 0xffff_ffff)
}
