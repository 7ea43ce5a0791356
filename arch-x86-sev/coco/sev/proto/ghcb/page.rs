// SPDX-License-Identifier: GPL-2.0

//! Accesses to the page. The hypervisor can change it at any time: each access is a volatile one.

use core::ptr::{
    addr_of_mut,
    NonNull, //
};

use super::{
    super::result::Width,
    layout::{
        Field,
        GhcbPage,
        SHARED_BUFFER_SIZE,
        VALID_HIGH,
        VALID_LOW,
        VERSION_AND_USAGE, //
    }, //
};

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
    pub(super) fn write(self, field: Field, value: u64) {
        let page = self.0.as_ptr().cast::<u8>();

        // SAFETY: By the contract of `new` the page is mapped and writable; `Field`s of this
        // function's callers are eight bytes long, aligned, and within the page. Volatile, since
        // the hypervisor shares the page.
        unsafe { page.add(field.0.into()).cast::<u64>().write_volatile(value) }
    }

    /// Reads a field of eight bytes, valid or not.
    #[inline(always)]
    pub(super) fn read(self, field: Field) -> u64 {
        let page = self.0.as_ptr().cast::<u8>();

        // SAFETY: As in `write`.
        unsafe { page.add(field.0.into()).cast::<u64>().read_volatile() }
    }

    /// Writes the bitmap of valid fields.
    #[inline(always)]
    pub(super) fn write_valid(self, low: u64, high: u64) {
        self.write(VALID_LOW, low);
        self.write(VALID_HIGH, high);
    }

    /// Reads the bitmap of valid fields.
    #[inline(always)]
    pub(super) fn read_valid(self) -> (u64, u64) {
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

/// The fields that some exit, or the hypervisor's reply to it, overwrites.
const IN_USE: [Field; 29] = {
    let mut fields = [Field(0); 29];
    // CPL, XSS, DR7, RIP, RSP, RAX; RCX to RBX; RBP to R15; exit code, information, scratch area;
    // XCR0, the bitmap of valid fields, x87 state; version and usage.
    let ranges = [
        (0x0c8, 1),
        (0x140, 1),
        (0x160, 1),
        (0x178, 1),
        (0x1d8, 1),
        (0x1f8, 1),
        (0x308, 3),
        (0x328, 11),
        (0x390, 4),
        (0x3e8, 4),
        (VERSION_AND_USAGE.0, 1),
    ];
    let (mut range, mut next) = (0, 0);

    while range < ranges.len() {
        let (first, count) = ranges[range];
        let mut index = 0;

        while index < count {
            fields[next] = Field(first + 8 * index);
            next += 1;
            index += 1;
        }
        range += 1;
    }
    assert!(next == fields.len());
    fields
};

/// All that a user of the GHCB may have in it, saved by a nested user, but for the part of the
/// shared buffer that the nested user does not touch.
pub(crate) struct InUse {
    fields: [u64; IN_USE.len()],
    buffer: [u64; InUse::BUFFER_SIZE / 8],
}

impl InUse {
    /// Bytes at the start of the shared buffer that are saved, and that a nested user can use: the
    /// largest memory access of an exit, or a few elements of a string. Few, since they are copied
    /// each time.
    pub(crate) const BUFFER_SIZE: usize = 64;
}

impl Ghcb {
    /// Saves what any exit, and an honest hypervisor's reply to it, overwrites.
    #[inline]
    pub(crate) fn save_use(self) -> InUse {
        let mut saved = InUse {
            fields: [0; IN_USE.len()],
            buffer: [0; InUse::BUFFER_SIZE / 8],
        };

        for (word, field) in saved.fields.iter_mut().zip(IN_USE) {
            *word = self.read(field);
        }
        for (index, word) in saved.buffer.iter_mut().enumerate() {
            *word = self.read_buffer(index.wrapping_mul(8), Width::B8);
        }
        saved
    }

    /// Restores what was saved.
    #[inline]
    pub(crate) fn restore_use(self, saved: &InUse) {
        for (&word, field) in saved.fields.iter().zip(IN_USE) {
            self.write(field, word);
        }
        for (index, &word) in saved.buffer.iter().enumerate() {
            self.write_buffer(index.wrapping_mul(8), word, Width::B8);
        }
    }
}

/// A value at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Packed<T>(T);
