// SPDX-License-Identifier: GPL-2.0
//! Multiboot 1: the memory map, the modules and the command line that QEMU's loader passes.

use crate::memory::direct;

/// What EAX holds at entry.
pub const MAGIC: u32 = 0x2bad_b002;

const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;

/// The information structure.
#[derive(Clone, Copy)]
pub struct Info {
    base: u64,
}

/// A file that was loaded along with the host.
#[derive(Clone, Copy)]
pub struct Module {
    /// Host-physical address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// The word after the file name.
    pub tag: &'static str,
}

fn read32(pa: u64) -> u32 {
    // SAFETY: the loader's structures lie in RAM below 4 GiB, which the direct map covers.
    unsafe { direct(pa).cast::<u32>().read_unaligned() }
}

fn text(pa: u64) -> &'static str {
    let start = direct(pa);
    // SAFETY: NUL-terminated strings of the loader, in RAM.
    let bytes = unsafe {
        let mut len = 0;
        while start.add(len).read() != 0 {
            len += 1;
        }
        core::slice::from_raw_parts(start, len)
    };
    core::str::from_utf8(bytes).unwrap_or("")
}

/// What follows the first word: the loader puts the file's name first.
fn behind_name(text: &'static str) -> &'static str {
    text.split_once(' ').map_or("", |(_, rest)| rest.trim())
}

impl Info {
    /// The structure at `base`.
    pub fn new(base: u64) -> Self {
        Self { base }
    }

    fn field(&self, offset: u64) -> u32 {
        read32(self.base + offset)
    }

    fn has(&self, flag: u32) -> bool {
        self.field(0) & flag != 0
    }

    /// Options of the command line.
    pub fn options(&self) -> &'static str {
        if self.has(HAS_COMMAND_LINE) {
            behind_name(text(u64::from(self.field(16))))
        } else {
            ""
        }
    }

    /// The modules.
    pub fn modules(self) -> impl Iterator<Item = Module> {
        let (count, table) = if self.has(HAS_MODULES) {
            (u64::from(self.field(20)), u64::from(self.field(24)))
        } else {
            (0, 0)
        };
        (0..count).map(move |index| {
            let entry = table + index * 16;
            let start = u64::from(read32(entry));
            let len = u64::from(read32(entry + 4)) - start;
            Module {
                start,
                len,
                tag: behind_name(text(u64::from(read32(entry + 8)))),
            }
        })
    }

    /// Ranges of RAM (start, length) of the memory map.
    pub fn ram(self) -> impl Iterator<Item = (u64, u64)> {
        let (len, table) = if self.has(HAS_MEMORY_MAP) {
            (u64::from(self.field(44)), u64::from(self.field(48)))
        } else {
            (0, 0)
        };
        let mut offset = 0;
        core::iter::from_fn(move || {
            while offset < len {
                let entry = table + offset;
                offset += u64::from(read32(entry)) + 4;
                let read64 = |at| u64::from(read32(at)) | (u64::from(read32(at + 4)) << 32);
                if read32(entry + 20) == 1 {
                    return Some((read64(entry + 4), read64(entry + 12)));
                }
            }
            None
        })
    }
}
