// SPDX-License-Identifier: GPL-2.0

//! The interrupted registers: the layout of x86-64's `struct pt_regs`.

use core::mem::{
    offset_of,
    size_of, //
};

use super::result::Width;

/// RFLAGS.CF, carry.
pub(crate) const FLAGS_CF: u64 = 1 << 0;
/// RFLAGS.PF, parity.
pub(crate) const FLAGS_PF: u64 = 1 << 2;
/// RFLAGS.AF, auxiliary carry.
pub(crate) const FLAGS_AF: u64 = 1 << 4;
/// RFLAGS.ZF, zero.
pub(crate) const FLAGS_ZF: u64 = 1 << 6;
/// RFLAGS.SF, sign.
pub(crate) const FLAGS_SF: u64 = 1 << 7;
/// RFLAGS.TF, trap (single step).
pub(crate) const FLAGS_TF: u64 = 1 << 8;
/// RFLAGS.DF, direction.
pub(crate) const FLAGS_DF: u64 = 1 << 10;
/// RFLAGS.OF, overflow.
pub(crate) const FLAGS_OF: u64 = 1 << 11;
/// RFLAGS.RF, resume.
pub(crate) const FLAGS_RF: u64 = 1 << 16;
/// RFLAGS.AC, alignment check.
pub(crate) const FLAGS_AC: u64 = 1 << 18;

/// A general-purpose register, by its number in instruction encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gpr(u8);

impl Gpr {
    /// RAX.
    pub(crate) const RAX: Gpr = Gpr(0);
    /// RCX.
    pub(crate) const RCX: Gpr = Gpr(1);
    /// RDX.
    pub(crate) const RDX: Gpr = Gpr(2);
    /// RBX.
    pub(crate) const RBX: Gpr = Gpr(3);
    /// RSP.
    pub(crate) const RSP: Gpr = Gpr(4);
    /// RBP.
    pub(crate) const RBP: Gpr = Gpr(5);
    /// RSI.
    pub(crate) const RSI: Gpr = Gpr(6);
    /// RDI.
    pub(crate) const RDI: Gpr = Gpr(7);

    /// The register with this number; only the low four bits count.
    #[inline(always)]
    pub(crate) const fn new(number: u8) -> Gpr {
        Gpr(number & 15)
    }

    /// The register's number, 0 to 15.
    #[inline(always)]
    pub(crate) const fn number(self) -> u8 {
        self.0
    }

    /// Offset of the register in [`Regs`].
    #[inline(always)]
    const fn offset(self) -> usize {
        // In units of eight bytes, the lowest number in the lowest byte: constants in place of a
        // jump table.
        let slots: u64 = if self.0 < 8 {
            0x0e0d_0413_050c_0b0a
        } else {
            0x0001_0203_0607_0809
        };

        (slots.wrapping_shr((self.0 as u32).wrapping_mul(8)) as u8 as usize).wrapping_mul(8)
    }
}

/// `struct pt_regs` of x86-64, as the entry code saves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Regs {
    /// R15.
    pub(crate) r15: u64,
    /// R14.
    pub(crate) r14: u64,
    /// R13.
    pub(crate) r13: u64,
    /// R12.
    pub(crate) r12: u64,
    /// RBP.
    pub(crate) bp: u64,
    /// RBX.
    pub(crate) bx: u64,
    /// R11.
    pub(crate) r11: u64,
    /// R10.
    pub(crate) r10: u64,
    /// R9.
    pub(crate) r9: u64,
    /// R8.
    pub(crate) r8: u64,
    /// RAX.
    pub(crate) ax: u64,
    /// RCX.
    pub(crate) cx: u64,
    /// RDX.
    pub(crate) dx: u64,
    /// RSI.
    pub(crate) si: u64,
    /// RDI.
    pub(crate) di: u64,
    /// Error code of the exception; for #VC the exit code.
    pub(crate) orig_ax: u64,
    /// RIP.
    pub(crate) ip: u64,
    /// CS selector in the low 16 bits; with FRED there is more above.
    pub(crate) cs: u64,
    /// RFLAGS.
    pub(crate) flags: u64,
    /// RSP.
    pub(crate) sp: u64,
    /// SS selector in the low 16 bits; with FRED there is more above.
    pub(crate) ss: u64,
}

const _: () = assert!(offset_of!(Regs, bx) == 40);
const _: () = assert!(offset_of!(Regs, ax) == 80);
const _: () = assert!(offset_of!(Regs, orig_ax) == 120);
const _: () = assert!(offset_of!(Regs, ip) == 128);
const _: () = assert!(offset_of!(Regs, cs) == 136);
const _: () = assert!(offset_of!(Regs, flags) == 144);
const _: () = assert!(offset_of!(Regs, ss) == 160);
const _: () = assert!(size_of::<Regs>() == 168);

const _: () = assert!(Gpr::RAX.offset() == offset_of!(Regs, ax));
const _: () = assert!(Gpr::RCX.offset() == offset_of!(Regs, cx));
const _: () = assert!(Gpr::RDX.offset() == offset_of!(Regs, dx));
const _: () = assert!(Gpr::RBX.offset() == offset_of!(Regs, bx));
const _: () = assert!(Gpr::RSP.offset() == offset_of!(Regs, sp));
const _: () = assert!(Gpr::RBP.offset() == offset_of!(Regs, bp));
const _: () = assert!(Gpr::RSI.offset() == offset_of!(Regs, si));
const _: () = assert!(Gpr::RDI.offset() == offset_of!(Regs, di));
const _: () = assert!(Gpr::new(8).offset() == offset_of!(Regs, r8));
const _: () = assert!(Gpr::new(9).offset() == offset_of!(Regs, r9));
const _: () = assert!(Gpr::new(10).offset() == offset_of!(Regs, r10));
const _: () = assert!(Gpr::new(11).offset() == offset_of!(Regs, r11));
const _: () = assert!(Gpr::new(12).offset() == offset_of!(Regs, r12));
const _: () = assert!(Gpr::new(13).offset() == offset_of!(Regs, r13));
const _: () = assert!(Gpr::new(14).offset() == offset_of!(Regs, r14));
const _: () = assert!(Gpr::new(15).offset() == offset_of!(Regs, r15));

impl Regs {
    /// True if user mode was interrupted.
    #[inline(always)]
    pub(crate) const fn user_mode(&self) -> bool {
        self.cs & 3 != 0
    }

    /// All 64 bits of a general-purpose register.
    #[inline(always)]
    pub(crate) const fn gpr(&self, reg: Gpr) -> u64 {
        // SAFETY: `offset` is that of a field of eight bytes, aligned as all of them.
        unsafe {
            core::ptr::from_ref(self)
                .byte_add(reg.offset())
                .cast::<u64>()
                .read()
        }
    }

    /// Sets all 64 bits of a general-purpose register.
    #[inline(always)]
    pub(crate) fn set_gpr(&mut self, reg: Gpr, value: u64) {
        // SAFETY: As in `gpr`; any value is valid.
        unsafe {
            core::ptr::from_mut(self)
                .byte_add(reg.offset())
                .cast::<u64>()
                .write(value);
        }
    }

    /// `old` after an instruction wrote `value` with this width: one and two bytes leave the rest
    /// of the register alone, four bytes zero-extend (APM vol. 1, 3.1.2).
    #[inline(always)]
    pub(crate) const fn merge(old: u64, value: u64, width: Width) -> u64 {
        match width {
            Width::B1 | Width::B2 => (old & !width.mask()) | (value & width.mask()),
            Width::B4 | Width::B8 => value & width.mask(),
        }
    }
}
