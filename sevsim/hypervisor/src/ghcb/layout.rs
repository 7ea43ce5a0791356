// SPDX-License-Identifier: GPL-2.0
//! Layout of the GHCB page (GHCB specification 2.6, table 3) and its valid bitmap.
//!
//! Deliberately written independently of the guest's definitions in this project.

use core::mem::offset_of;
use core::mem::size_of;

/// The page as the specification draws it. Only its offsets are used: the memory belongs to the
/// guest and is read field by field.
#[repr(C)]
struct Page {
    reserved_000: [u8; 0xcb],
    cpl: u8,
    reserved_0cc: [u8; 0x74],
    xss: u64,
    reserved_148: [u8; 0x18],
    dr7: u64,
    reserved_168: [u8; 0x90],
    rax: u64,
    reserved_200: [u8; 0x108],
    rcx: u64,
    rdx: u64,
    rbx: u64,
    reserved_320: [u8; 0x10],
    rsi: u64,
    rdi: u64,
    reserved_340: [u8; 0x50],
    sw_exitcode: u64,
    sw_exitinfo1: u64,
    sw_exitinfo2: u64,
    sw_scratch: u64,
    reserved_3b0: [u8; 0x38],
    xcr0: u64,
    valid_bitmap: [u64; 2],
    x87_state_gpa: u64,
    reserved_408: [u8; 0x3f8],
    shared_buffer: [u8; 0x7f0],
    reserved_ff0: [u8; 8],
    trailer: Trailer,
}

/// The last quadword.
#[repr(C)]
struct Trailer {
    reserved_ff8: u16,
    protocol_version: u16,
    usage: u32,
}

/// A field that has a bit in the valid bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(usize);

impl Field {
    /// Offset in the page.
    pub const fn offset(self) -> u64 {
        self.0 as u64
    }

    /// The bitmap has one bit for each quadword of the save area's first 0x400 bytes.
    const fn bit(self) -> u128 {
        1 << (self.0 / 8)
    }
}

/// Current privilege level, one byte.
pub const CPL: Field = Field(offset_of!(Page, cpl));
/// XSS.
pub const XSS: Field = Field(offset_of!(Page, xss));
/// RAX.
pub const RAX: Field = Field(offset_of!(Page, rax));
/// RCX.
pub const RCX: Field = Field(offset_of!(Page, rcx));
/// RDX.
pub const RDX: Field = Field(offset_of!(Page, rdx));
/// RBX.
pub const RBX: Field = Field(offset_of!(Page, rbx));
/// RSI.
pub const RSI: Field = Field(offset_of!(Page, rsi));
/// SW_EXITCODE.
pub const SW_EXITCODE: Field = Field(offset_of!(Page, sw_exitcode));
/// SW_EXITINFO1.
pub const SW_EXITINFO1: Field = Field(offset_of!(Page, sw_exitinfo1));
/// SW_EXITINFO2.
pub const SW_EXITINFO2: Field = Field(offset_of!(Page, sw_exitinfo2));
/// SW_SCRATCH: guest physical address of the scratch area.
pub const SW_SCRATCH: Field = Field(offset_of!(Page, sw_scratch));
/// XCR0.
pub const XCR0: Field = Field(offset_of!(Page, xcr0));

/// Offset of the valid bitmap.
pub const VALID_BITMAP: u64 = offset_of!(Page, valid_bitmap) as u64;
/// Offset of the quadword that holds protocol version and usage.
pub const TRAILER: u64 = offset_of!(Page, trailer) as u64;
/// The shared buffer: where scratch areas normally are.
pub const SHARED_BUFFER: u64 = offset_of!(Page, shared_buffer) as u64;
/// End of the shared buffer.
pub const SHARED_BUFFER_END: u64 = offset_of!(Page, reserved_ff0) as u64;

// The specification's numbers.
const _: () = {
    assert!(size_of::<Page>() == 0x1000);
    assert!(offset_of!(Page, cpl) == 0xcb);
    assert!(offset_of!(Page, xss) == 0x140);
    assert!(offset_of!(Page, dr7) == 0x160);
    assert!(offset_of!(Page, rax) == 0x1f8);
    assert!(offset_of!(Page, rcx) == 0x308);
    assert!(offset_of!(Page, rdx) == 0x310);
    assert!(offset_of!(Page, rbx) == 0x318);
    assert!(offset_of!(Page, rsi) == 0x330);
    assert!(offset_of!(Page, rdi) == 0x338);
    assert!(offset_of!(Page, sw_exitcode) == 0x390);
    assert!(offset_of!(Page, sw_exitinfo1) == 0x398);
    assert!(offset_of!(Page, sw_exitinfo2) == 0x3a0);
    assert!(offset_of!(Page, sw_scratch) == 0x3a8);
    assert!(offset_of!(Page, xcr0) == 0x3e8);
    assert!(offset_of!(Page, valid_bitmap) == 0x3f0);
    assert!(offset_of!(Page, x87_state_gpa) == 0x400);
    assert!(offset_of!(Page, shared_buffer) == 0x800);
    assert!(offset_of!(Page, reserved_ff0) == 0xff0);
    assert!(offset_of!(Page, trailer) == 0xff8);
    assert!(offset_of!(Trailer, protocol_version) == 2);
    assert!(offset_of!(Trailer, usage) == 4);
};

/// The valid bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Valid(u128);

impl Valid {
    /// Nothing valid.
    pub const NONE: Self = Self(0);

    /// From the bitmap's two quadwords.
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self(low as u128 | ((high as u128) << 64))
    }

    /// The bitmap's two quadwords.
    pub const fn words(self) -> (u64, u64) {
        (self.0 as u64, (self.0 >> 64) as u64)
    }

    /// Whether a field is marked valid.
    pub const fn has(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    /// With a field marked valid.
    pub const fn with(self, field: Field) -> Self {
        Self(self.0 | field.bit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_specification_has_them() {
        // GHCB specification 2.6: bit = offset / 8 of the field's quadword.
        for (field, bit) in [
            (CPL, 25),
            (XSS, 40),
            (RAX, 63),
            (RCX, 97),
            (RDX, 98),
            (RBX, 99),
            (SW_EXITCODE, 114),
            (SW_EXITINFO1, 115),
            (SW_EXITINFO2, 116),
            (SW_SCRATCH, 117),
            (XCR0, 125),
        ] {
            let valid = Valid::NONE.with(field);
            let (low, high) = valid.words();
            assert_eq!(low as u128 | ((high as u128) << 64), 1 << bit, "{field:?}");
            assert!(valid.has(field));
            assert_eq!(Valid::from_words(low, high), valid);
        }
    }
}
