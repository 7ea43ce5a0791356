// SPDX-License-Identifier: GPL-2.0
//! The bzImage: what its set-up header says (Documentation/arch/x86/boot.rst).

use super::LaunchError;

/// Offset of the 64-bit entry in the protected-mode part.
pub const ENTRY_64: u64 = 0x200;

/// Start of the set-up header, in the image as in the boot parameters.
pub const HEADER: usize = 0x1f1;
/// Byte that holds the header's length beyond [`HEADER_BASE`]: the offset of a jump.
const HEADER_LEN: usize = 0x201;
const HEADER_BASE: usize = 0x202;
/// Oldest header with all of the fields below: protocol 2.12.
const OLDEST: u16 = 0x20c;

const VERSION: usize = 0x206;
const KERNEL_ALIGNMENT: usize = 0x230;
const XLOADFLAGS: usize = 0x236;
const COMMAND_LINE_SIZE: usize = 0x238;
const PREFERRED_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

/// XLF_KERNEL_64: there is a 64-bit entry.
const KERNEL_64: u16 = 1 << 0;
/// XLF_CAN_BE_LOADED_ABOVE_4G: kernel, boot parameters, command line and initramfs can lie there.
const ABOVE_4G: u16 = 1 << 1;

/// A bzImage whose header was checked.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    setup: &'a [u8],
    protected_mode: &'a [u8],
    header_end: usize,
}

impl<'a> Image<'a> {
    /// Checks an image.
    pub fn new(file: &'a [u8]) -> Result<Self, LaunchError> {
        let error = LaunchError::NotBzImage;
        if file.get(0x202..0x206) != Some(b"HdrS") {
            return Err(error);
        }
        let sectors = match file[HEADER] {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let setup = (sectors + 1) * 512;
        let header_end = HEADER_BASE + usize::from(file[HEADER_LEN]);
        if file.len() <= setup || header_end > setup || header_end < INIT_SIZE + 4 {
            return Err(error);
        }
        let (setup, protected_mode) = file.split_at(setup);
        let image = Self {
            setup,
            protected_mode,
            header_end,
        };
        if image.u16(VERSION) < OLDEST || image.u16(XLOADFLAGS) & KERNEL_64 == 0 {
            return Err(LaunchError::NoEntry64);
        }
        // The file has to fit where it is unpacked, and its alignment has to be one.
        let fits = image.init_size() >= image.protected_mode.len() as u64;
        if !fits || !image.alignment().is_power_of_two() {
            return Err(error);
        }
        Ok(image)
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.setup[at], self.setup[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | (u32::from(self.u16(at + 2)) << 16)
    }

    /// The set-up header, which belongs at [`HEADER`] of the boot parameters.
    pub fn header(&self) -> &'a [u8] {
        &self.setup[HEADER..self.header_end]
    }

    /// What is loaded.
    pub fn protected_mode(&self) -> &'a [u8] {
        self.protected_mode
    }

    /// Alignment of the load address.
    pub fn alignment(&self) -> u64 {
        self.u32(KERNEL_ALIGNMENT).into()
    }

    /// Memory that the kernel needs from its load address on.
    pub fn init_size(&self) -> u64 {
        self.u32(INIT_SIZE).into()
    }

    /// The load address that needs no relocation.
    pub fn preferred_address(&self) -> u64 {
        u64::from(self.u32(PREFERRED_ADDRESS)) | (u64::from(self.u32(PREFERRED_ADDRESS + 4)) << 32)
    }

    /// Longest command line, without its NUL.
    pub fn command_line_size(&self) -> u64 {
        self.u32(COMMAND_LINE_SIZE).into()
    }

    /// Whether things can lie above 4 GiB.
    pub fn above_4_gib(&self) -> bool {
        self.u16(XLOADFLAGS) & ABOVE_4G != 0
    }
}
