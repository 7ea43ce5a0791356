// SPDX-License-Identifier: GPL-2.0

//! The GHCB: its layout, and requests and replies that go through it (GHCB specification, 2.6 and 4).
//!
//! An exit is a [`Request`] that collects the fields it sets, and a [`Reply`] that hands out only
//! fields which the hypervisor marked valid. Nothing else reads or writes the page, so a field that
//! an exit does not need never reaches the hypervisor as valid. The hypervisor can change the page
//! at any time: each field, and the bitmap of valid fields, is read exactly once.

use core::{
    mem::{
        offset_of,
        size_of, //
    },
    ptr::{
        addr_of_mut,
        NonNull, //
    }, //
};

use super::{
    env::Env,
    exit_code::ExitCode,
    exit_info,
    result::{
        Error,
        Result,
        Width, //
    }, //
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
const USAGE_STANDARD: u32 = 0;

/// The page shared with the hypervisor (GHCB specification, table 3). Reserved parts are not used.
#[repr(C)]
pub(crate) struct GhcbPage {
    reserved_0x0: [u8; 0xcb],
    cpl: u8,
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
    valid_bitmap: [u64; 2],
    x87_state_gpa: u64,
    reserved_0x408: [u8; 0x3f8],
    shared_buffer: [u8; SHARED_BUFFER_SIZE],
    reserved_0xff0: [u8; 10],
    protocol_version: u16,
    usage: u32,
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
pub(crate) struct Field(u16);

impl Field {
    /// Current privilege level. One byte; see [`Request::cpl`].
    const CPL: Field = Field(offset_of!(GhcbPage, cpl) as u16);
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
    const fn valid_bits(self) -> (u64, u64) {
        let index = self.0 / 8;

        if index < 64 {
            (1 << (index & 63), 0)
        } else {
            (0, 1 << (index & 63))
        }
    }
}

/// The bitmap of valid fields, bits 63:0.
const VALID_LOW: Field = Field(offset_of!(GhcbPage, valid_bitmap) as u16);
/// The bitmap of valid fields, bits 127:64.
const VALID_HIGH: Field = Field(offset_of!(GhcbPage, valid_bitmap) as u16 + 8);

/// The version of the protocol and the usage of the page, and two reserved bytes before them.
const VERSION_AND_USAGE: Field = Field(offset_of!(GhcbPage, protocol_version) as u16 - 2);

/// A GHCB that the holder may use: it is mapped, shared, and nobody else on this CPU uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ghcb(NonNull<GhcbPage>);

impl Ghcb {
    /// Makes a handle of a pointer.
    ///
    /// # Safety
    ///
    /// For as long as the handle or a copy of it is used, `page` must point to a mapped and
    /// writable page, at least 8-byte aligned, that is accessed by this CPU only through handles
    /// made by the current owner of the GHCB (or saved and restored around the access, as a nested
    /// owner does). The hypervisor may change it at any time.
    #[inline(always)]
    pub(crate) const unsafe fn new(page: NonNull<GhcbPage>) -> Ghcb {
        Ghcb(page)
    }

    /// The page.
    #[inline(always)]
    pub(crate) const fn as_ptr(self) -> *mut GhcbPage {
        self.0.as_ptr()
    }

    /// Marks all fields invalid, so that a VMGEXIT from user space does not look like a request.
    #[inline(always)]
    pub(crate) fn invalidate(self) {
        self.write(Field::EXIT_CODE, 0);
        self.write_valid(0, 0);
    }

    /// Writes a field of eight bytes without marking it valid.
    #[inline(always)]
    fn write(self, field: Field, value: u64) {
        let page = self.0.as_ptr().cast::<u8>();

        // SAFETY: By the contract of `new` the page is mapped and writable; `Field`s of this
        // function's callers are eight bytes long, aligned, and within the page. Volatile, since
        // the hypervisor shares the page.
        unsafe { page.add(field.0.into()).cast::<u64>().write_volatile(value) }
    }

    /// Reads a field of eight bytes, valid or not.
    #[inline(always)]
    fn read(self, field: Field) -> u64 {
        let page = self.0.as_ptr().cast::<u8>();

        // SAFETY: As in `write`.
        unsafe { page.add(field.0.into()).cast::<u64>().read_volatile() }
    }

    /// Writes the bitmap of valid fields.
    #[inline(always)]
    fn write_valid(self, low: u64, high: u64) {
        self.write(VALID_LOW, low);
        self.write(VALID_HIGH, high);
    }

    /// Reads the bitmap of valid fields.
    #[inline(always)]
    fn read_valid(self) -> (u64, u64) {
        (self.read(VALID_LOW), self.read(VALID_HIGH))
    }

    /// Pointer to `len` bytes of the shared buffer at `offset`, or `None` if they do not fit.
    ///
    /// For an environment that copies to or from guest memory in bulk. The hypervisor can change
    /// the bytes at any time, so the pointer must not become a reference.
    #[inline(always)]
    pub(crate) fn buffer(self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset > SHARED_BUFFER_SIZE || len > SHARED_BUFFER_SIZE.wrapping_sub(offset) {
            return None;
        }

        // SAFETY: By the contract of `new` the page is mapped, and `offset` was checked to be in
        // the buffer.
        let start = unsafe {
            addr_of_mut!((*self.0.as_ptr()).shared_buffer)
                .cast::<u8>()
                .add(offset)
        };

        NonNull::new(start)
    }

    /// Writes a little-endian value to the shared buffer. Nothing happens if it does not fit.
    #[inline(always)]
    pub(crate) fn write_buffer(self, offset: usize, value: u64, width: Width) {
        let Some(start) = self.buffer(offset, width.bytes() as usize) else {
            return;
        };
        let start = start.as_ptr();

        // SAFETY: `buffer` checked the bounds. Unaligned, since string elements need not start
        // where their size would align them; x86 reads and writes each with one access.
        unsafe {
            match width {
                Width::B1 => start.write_volatile(value as u8),
                Width::B2 => start
                    .cast::<Packed<u16>>()
                    .write_volatile(Packed(value as u16)),
                Width::B4 => start
                    .cast::<Packed<u32>>()
                    .write_volatile(Packed(value as u32)),
                Width::B8 => start.cast::<Packed<u64>>().write_volatile(Packed(value)),
            }
        }
    }

    /// Reads a little-endian value of the shared buffer, once; 0 if it does not fit.
    #[inline(always)]
    pub(crate) fn read_buffer(self, offset: usize, width: Width) -> u64 {
        let Some(start) = self.buffer(offset, width.bytes() as usize) else {
            return 0;
        };
        let start = start.as_ptr();

        // SAFETY: As in `write_buffer`.
        unsafe {
            match width {
                Width::B1 => start.read_volatile().into(),
                Width::B2 => start.cast::<Packed<u16>>().read_volatile().0.into(),
                Width::B4 => start.cast::<Packed<u32>>().read_volatile().0.into(),
                Width::B8 => start.cast::<Packed<u64>>().read_volatile().0,
            }
        }
    }
}

/// What an exit without input fields, and the hypervisor's reply to it, overwrite. Hypervisors
/// return all of RAX to RDX from any exit.
#[derive(Clone, Copy)]
pub(crate) struct Saved {
    registers: (u64, u64, u64, u64),
    exit: (u64, u64, u64),
    valid: (u64, u64),
    version_and_usage: u64,
}

impl Ghcb {
    /// Saves what an exit without input fields overwrites, such as NMI_COMPLETE: with it, such an
    /// exit can come in the middle of any use of the GHCB by the code that an NMI interrupted.
    #[inline(always)]
    pub(crate) fn save(self) -> Saved {
        Saved {
            registers: (
                self.read(Field::RAX),
                self.read(Field::RBX),
                self.read(Field::RCX),
                self.read(Field::RDX),
            ),
            exit: (
                self.read(Field::EXIT_CODE),
                self.read(Field::EXIT_INFO_1),
                self.read(Field::EXIT_INFO_2),
            ),
            valid: self.read_valid(),
            version_and_usage: self.read(VERSION_AND_USAGE),
        }
    }

    /// Restores what was saved.
    #[inline(always)]
    pub(crate) fn restore(self, saved: &Saved) {
        self.write(Field::RAX, saved.registers.0);
        self.write(Field::RBX, saved.registers.1);
        self.write(Field::RCX, saved.registers.2);
        self.write(Field::RDX, saved.registers.3);
        self.write(Field::EXIT_CODE, saved.exit.0);
        self.write(Field::EXIT_INFO_1, saved.exit.1);
        self.write(Field::EXIT_INFO_2, saved.exit.2);
        self.write_valid(saved.valid.0, saved.valid.1);
        self.write(VERSION_AND_USAGE, saved.version_and_usage);
    }
}

/// A value at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Packed<T>(T);

/// An exit in preparation: the fields set so far.
///
/// The bitmap of valid fields is collected here and stored once, by [`Request::commit`]; whatever
/// it held before does not matter.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    ghcb: Ghcb,
    valid: (u64, u64),
}

impl Request {
    /// Begins an exit with no field valid.
    #[inline(always)]
    pub(crate) const fn new(ghcb: Ghcb) -> Request {
        Request {
            ghcb,
            valid: (0, 0),
        }
    }

    /// Begins an exit with the fields that are marked valid in the page: those that C code set.
    #[inline(always)]
    pub(crate) fn adopt(ghcb: Ghcb) -> Request {
        Request {
            ghcb,
            valid: ghcb.read_valid(),
        }
    }

    /// Sets a field and marks it valid.
    #[inline(always)]
    pub(crate) fn set(self, field: Field, value: u64) -> Request {
        self.ghcb.write(field, value);
        self.mark(field)
    }

    /// Sets the privilege level.
    #[inline(always)]
    pub(crate) fn cpl(self, cpl: u8) -> Request {
        // SAFETY: By the contract of `Ghcb::new` the page is mapped and writable.
        unsafe { addr_of_mut!((*self.ghcb.0.as_ptr()).cpl).write_volatile(cpl) };
        self.mark(Field::CPL)
    }

    #[inline(always)]
    const fn mark(self, field: Field) -> Request {
        let (low, high) = field.valid_bits();

        Request {
            ghcb: self.ghcb,
            valid: (self.valid.0 | low, self.valid.1 | high),
        }
    }

    /// Lets `hook` (C code that knows `struct ghcb`) set further fields and mark them valid.
    #[inline(always)]
    pub(crate) fn extend(self, hook: impl FnOnce(Ghcb)) -> Request {
        self.ghcb.write_valid(self.valid.0, self.valid.1);
        hook(self.ghcb);
        Request::adopt(self.ghcb)
    }

    /// Completes the page; a VMGEXIT must follow.
    #[inline(always)]
    pub(crate) fn commit(self, version: u16, code: u64, info_1: u64, info_2: u64) -> Pending {
        let page = self.ghcb.0.as_ptr();
        let request = self
            .set(Field::EXIT_CODE, code)
            .set(Field::EXIT_INFO_1, info_1)
            .set(Field::EXIT_INFO_2, info_2);

        // SAFETY: By the contract of `Ghcb::new` the page is mapped and writable.
        unsafe {
            addr_of_mut!((*page).protocol_version).write_volatile(version);
            addr_of_mut!((*page).usage).write_volatile(USAGE_STANDARD);
        }
        self.ghcb.write_valid(request.valid.0, request.valid.1);
        Pending(self.ghcb)
    }

    /// Performs the exit and checks that the hypervisor accepted it (see [`exit_info::verify`]).
    #[inline(always)]
    pub(crate) fn call<E: Env + ?Sized>(
        self,
        env: &mut E,
        code: ExitCode,
        info_1: u64,
        info_2: u64,
    ) -> Result<Reply> {
        let pending = self.commit(env.ghcb_version(), code as u64, info_1, info_2);

        env.vmgexit();
        pending.checked_reply()
    }
}

/// A completed request. After VMGEXIT it becomes a [`Reply`].
#[must_use]
#[derive(Debug)]
pub(crate) struct Pending(Ghcb);

impl Pending {
    /// The hypervisor's reply, unchecked but for the bitmap of valid fields.
    #[inline(always)]
    pub(crate) fn reply(self) -> Reply {
        Reply {
            ghcb: self.0,
            valid: self.0.read_valid(),
        }
    }

    /// The hypervisor's reply if it accepted the request.
    #[inline(always)]
    pub(crate) fn checked_reply(self) -> Result<Reply> {
        let reply = self.reply();

        exit_info::verify(&reply)?;
        Ok(reply)
    }
}

/// The hypervisor's reply to an exit.
#[derive(Debug)]
pub(crate) struct Reply {
    ghcb: Ghcb,
    valid: (u64, u64),
}

impl Reply {
    /// The reply that is in the page now, for C code that performed the exit itself.
    #[inline(always)]
    pub(crate) fn current(ghcb: Ghcb) -> Reply {
        Pending(ghcb).reply()
    }

    /// Reads a field, once, if the hypervisor marked it valid.
    #[inline(always)]
    pub(crate) fn get(&self, field: Field) -> Option<u64> {
        let (low, high) = field.valid_bits();

        if self.valid.0 & low != low || self.valid.1 & high != high {
            return None;
        }
        Some(self.ghcb.read(field))
    }

    /// Reads a field that the hypervisor has to provide.
    #[inline(always)]
    pub(crate) fn require(&self, field: Field) -> Result<u64> {
        self.get(field).ok_or(Error::Vmm)
    }

    /// Reads a value of the shared buffer, which has no valid bits.
    #[inline(always)]
    pub(crate) fn buffer(&self, offset: usize, width: Width) -> u64 {
        self.ghcb.read_buffer(offset, width)
    }
}
