// SPDX-License-Identifier: GPL-2.0

//! The layout of the GHCB (GHCB specification, table 3).

use core::mem::{
    offset_of,
    size_of, //
};

/// Size of [`GhcbPage::shared_buffer`].
pub(crate) const SHARED_BUFFER_SIZE: usize = 2032;

/// Offset of [`GhcbPage::shared_buffer`] in the page, to compute its guest-physical address.
pub(crate) const SHARED_BUFFER_OFFSET: u64 = 0x800;

/// Lowest protocol version that this code speaks.
pub(crate) const PROTOCOL_MIN: u16 = 1;
/// Highest protocol version that this code speaks.
pub(crate) const PROTOCOL_MAX: u16 = 2;

/// GHCB usage 0: the page is laid out as in [`GhcbPage`].
pub(super) const USAGE_STANDARD: u32 = 0;

/// The page shared with the hypervisor (GHCB specification, table 3). Reserved parts are not used.
#[repr(C)]
pub(crate) struct GhcbPage {
    reserved_0x0: [u8; 0xcb],
    pub(super) cpl: u8,
    reserved_0xcc: [u8; 0x74],
    xss: u64,
    reserved_0x148: [u8; 0x18],
    dr7: u64,
    reserved_0x168: [u8; 0x10],
    rip: u64,
    reserved_0x180: [u8; 0x58],
    rsp: u64,
    reserved_0x1e0: [u8; 0x18],
    rax: u64,
    reserved_0x200: [u8; 0x108],
    rcx: u64,
    rdx: u64,
    rbx: u64,
    reserved_0x320: u64,
    rbp: u64,
    rsi: u64,
    rdi: u64,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    reserved_0x380: [u8; 0x10],
    sw_exit_code: u64,
    sw_exit_info_1: u64,
    sw_exit_info_2: u64,
    sw_scratch: u64,
    reserved_0x3b0: [u8; 0x38],
    xcr0: u64,
    pub(super) valid_bitmap: [u64; 2],
    x87_state_gpa: u64,
    reserved_0x408: [u8; 0x3f8],
    pub(super) shared_buffer: [u8; SHARED_BUFFER_SIZE],
    reserved_0xff0: [u8; 10],
    pub(super) protocol_version: u16,
    pub(super) usage: u32,
}

const _: () = assert!(offset_of!(GhcbPage, cpl) == 0x0cb);
const _: () = assert!(offset_of!(GhcbPage, xss) == 0x140);
const _: () = assert!(offset_of!(GhcbPage, dr7) == 0x160);
const _: () = assert!(offset_of!(GhcbPage, rip) == 0x178);
const _: () = assert!(offset_of!(GhcbPage, rsp) == 0x1d8);
const _: () = assert!(offset_of!(GhcbPage, rax) == 0x1f8);
const _: () = assert!(offset_of!(GhcbPage, rcx) == 0x308);
const _: () = assert!(offset_of!(GhcbPage, rdx) == 0x310);
const _: () = assert!(offset_of!(GhcbPage, rbx) == 0x318);
const _: () = assert!(offset_of!(GhcbPage, rbp) == 0x328);
const _: () = assert!(offset_of!(GhcbPage, rsi) == 0x330);
const _: () = assert!(offset_of!(GhcbPage, rdi) == 0x338);
const _: () = assert!(offset_of!(GhcbPage, r8) == 0x340);
const _: () = assert!(offset_of!(GhcbPage, r15) == 0x378);
const _: () = assert!(offset_of!(GhcbPage, sw_exit_code) == 0x390);
const _: () = assert!(offset_of!(GhcbPage, sw_exit_info_1) == 0x398);
const _: () = assert!(offset_of!(GhcbPage, sw_exit_info_2) == 0x3a0);
const _: () = assert!(offset_of!(GhcbPage, sw_scratch) == 0x3a8);
const _: () = assert!(offset_of!(GhcbPage, xcr0) == 0x3e8);
const _: () = assert!(offset_of!(GhcbPage, valid_bitmap) == 0x3f0);
const _: () = assert!(offset_of!(GhcbPage, x87_state_gpa) == 0x400);
const _: () = assert!(offset_of!(GhcbPage, shared_buffer) == SHARED_BUFFER_OFFSET as usize);
const _: () = assert!(offset_of!(GhcbPage, protocol_version) == 0xffa);
const _: () = assert!(offset_of!(GhcbPage, usage) == 0xffc);
const _: () = assert!(size_of::<GhcbPage>() == 0x1000);

/// A field of the save area that has a bit in the bitmap of valid fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field(pub(super) u16);

impl Field {
    /// Current privilege level. One byte; see [`Request::cpl`].
    pub(super) const CPL: Field = Field(offset_of!(GhcbPage, cpl) as u16);
    /// The XSS MSR.
    pub(crate) const XSS: Field = Field(offset_of!(GhcbPage, xss) as u16);
    /// RAX.
    pub(crate) const RAX: Field = Field(offset_of!(GhcbPage, rax) as u16);
    /// RCX.
    pub(crate) const RCX: Field = Field(offset_of!(GhcbPage, rcx) as u16);
    /// RDX.
    pub(crate) const RDX: Field = Field(offset_of!(GhcbPage, rdx) as u16);
    /// RBX.
    pub(crate) const RBX: Field = Field(offset_of!(GhcbPage, rbx) as u16);
    /// Exit code.
    pub(crate) const EXIT_CODE: Field = Field(offset_of!(GhcbPage, sw_exit_code) as u16);
    /// First information word of the exit; in the reply the result.
    pub(crate) const EXIT_INFO_1: Field = Field(offset_of!(GhcbPage, sw_exit_info_1) as u16);
    /// Second information word of the exit.
    pub(crate) const EXIT_INFO_2: Field = Field(offset_of!(GhcbPage, sw_exit_info_2) as u16);
    /// Guest-physical address of a scratch area, such as the shared buffer.
    pub(crate) const SCRATCH: Field = Field(offset_of!(GhcbPage, sw_scratch) as u16);
    /// The XCR0 register.
    pub(crate) const XCR0: Field = Field(offset_of!(GhcbPage, xcr0) as u16);

    /// The field's bits in the two words of the bitmap: one bit per eight bytes of the save area.
    #[inline(always)]
    pub(super) const fn valid_bits(self) -> (u64, u64) {
        let index = self.0 / 8;

        if index < 64 {
            (1 << (index & 63), 0)
        } else {
            (0, 1 << (index & 63))
        }
    }
}

/// The bitmap of valid fields, bits 63:0.
pub(super) const VALID_LOW: Field = Field(offset_of!(GhcbPage, valid_bitmap) as u16);
/// The bitmap of valid fields, bits 127:64.
pub(super) const VALID_HIGH: Field = Field(offset_of!(GhcbPage, valid_bitmap) as u16 + 8);

/// The version of the protocol and the usage of the page, and two reserved bytes before them.
pub(super) const VERSION_AND_USAGE: Field =
    Field(offset_of!(GhcbPage, protocol_version) as u16 - 2);
