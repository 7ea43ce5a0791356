// SPDX-License-Identifier: GPL-2.0
//! fw_cfg, the channel by which QEMU configures firmware (docs/specs/fw_cfg.rst of QEMU).
//!
//! Most of it is QEMU's. An overlay replaces what concerns the kernel to boot - QEMU's items hold
//! sevsim itself - and the memory and CPUs of the guest, so that the firmware finds no memory of
//! the host and puts no PCI window over it.
//!
//! Firmware searches the directory from its start, four reads an entry, for each file that it may
//! or may not find; in a SEV-ES guest one such read is up to sixteen exits. So the overlay's files
//! come first, and what only other firmware or another machine could use is left out.
//!
//! DMA never reaches QEMU's device: it would fetch the descriptor again from the guest's memory,
//! after the guest had time to point it at the host's. All transfers are carried out here, those
//! of QEMU's items by its data register. That register cannot write, so DMA writes fail as they do
//! for a read-only item; the files that QEMU lets a guest write (addresses of the VM generation
//! ID, vmcoreinfo, ramfb) belong to devices that sevsim's machine does not have.

use spin::Mutex;

use crate::outcome::SetupError;
use crate::platform::{Blob, NotRam, Platform, Use};
use crate::ram::{Ram, FOUR_GIB};

/// Selector register, 16 bits.
pub const SELECTOR: u16 = 0x510;
/// Data register, 8 bits.
pub const DATA: u16 = 0x511;
/// DMA address, upper half, big endian.
pub const DMA_HIGH: u16 = 0x514;
/// DMA address, lower half, big endian; the write starts the transfer.
pub const DMA_LOW: u16 = 0x518;
/// Last port of the DMA address register.
pub const DMA_LAST: u16 = 0x51b;

mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NB_CPUS: u16 = 0x05;
    pub const KERNEL_ADDR: u16 = 0x07;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_ADDR: u16 = 0x0a;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const KERNEL_ENTRY: u16 = 0x10;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_ADDR: u16 = 0x13;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const SETUP_ADDR: u16 = 0x16;
    pub const SETUP_SIZE: u16 = 0x17;
    pub const SETUP_DATA: u16 = 0x18;
    pub const FILE_DIR: u16 = 0x19;
    /// First file.
    pub const FILE_FIRST: u16 = 0x20;
    /// Only tells that writing is meant; QEMU takes it off too.
    pub const WRITE_CHANNEL: u16 = 0x4000;
}

/// FWCfgDmaAccess.control.
mod control {
    pub const ERROR: u32 = 1;
    pub const READ: u32 = 2;
    pub const SKIP: u32 = 4;
    pub const SELECT: u32 = 8;
    pub const WRITE: u32 = 16;
}

/// Addresses at which QEMU would put setup, command line and kernel. The EFI stub does not care.
const SETUP_AT: u32 = 0x1_0000;
const CMDLINE_AT: u32 = 0x2_0000;
const KERNEL_AT: u32 = 0x10_0000;

/// A directory entry: size, key, reserved (big endian), name.
const ENTRY: usize = 64;
/// Most files that the overlay can list.
const MAX_FILES: usize = 96;
/// A memory range: base, length, type (little endian).
const RANGE: usize = 20;
/// Most memory ranges.
const MAX_RANGES: usize = 32;
/// Most bytes of an item of QEMU's that is no file, whose size is therefore unknown. The largest,
/// tables that the user adds, are a few KiB.
const MAX_UNNAMED: usize = 0x1_0000;
/// Type of a memory range that is RAM.
const E820_RAM: u32 = 1;

/// Where QEMU keeps ROMs for BIOS.
const ROMS: &[u8] = b"genroms/";
/// Devices to boot from, in their order.
const BOOT_ORDER: &[u8] = b"bootorder";
/// Most bytes of a boot order that are looked at; one that is longer names more than ROMs.
const MAX_BOOT_ORDER: usize = 256;
/// The memory map.
const E820: &[u8] = b"etc/e820";
/// The end of memory that could be plugged in: the 64-bit PCI window starts above it.
const RESERVED_END: &[u8] = b"etc/reserved-memory-end";

/// A buffer of known capacity.
struct Table<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Table<N> {
    const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), SetupError> {
        let end = self.len + bytes.len();
        let room = self
            .bytes
            .get_mut(self.len..end)
            .ok_or(SetupError::FwCfgTooLarge)?;
        room.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// An item of the overlay: a few bytes or a slice, and zeroes behind.
#[derive(Clone, Copy)]
struct Item<'a> {
    inline: [u8; 8],
    inline_len: usize,
    slice: &'a [u8],
}

impl<'a> Item<'a> {
    fn inline(bytes: &[u8]) -> Self {
        let mut inline = [0; 8];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self {
            inline,
            inline_len: bytes.len(),
            slice: &[],
        }
    }

    fn slice(slice: &'a [u8]) -> Self {
        Self {
            inline: [0; 8],
            inline_len: 0,
            slice,
        }
    }

    fn u32(value: usize) -> Self {
        Self::inline(&(value as u32).to_le_bytes())
    }

    /// What follows at an offset; empty behind the end, where zeroes are read.
    fn at(&self, offset: usize) -> &[u8] {
        let bytes = if self.slice.is_empty() {
            &self.inline[..self.inline_len]
        } else {
            self.slice
        };
        bytes.get(offset..).unwrap_or(&[])
    }
}

/// What is selected.
#[derive(Default)]
struct Selected {
    key: u16,
    offset: usize,
    /// Whether the overlay answers for this key.
    overlaid: bool,
    /// The upper half of the DMA address, as written (big endian).
    dma_high: u32,
}

/// fw_cfg as the guest sees it.
pub struct FwCfg {
    directory: Table<{ 4 + ENTRY * MAX_FILES }>,
    e820: Table<{ RANGE * MAX_RANGES }>,
    e820_key: u16,
    reserved_end: u64,
    reserved_end_key: u16,
    ram: Ram,
    vcpus: usize,
    /// Bytes of the kernel image before the protected-mode part.
    setup_len: usize,
    selected: Mutex<Selected>,
}

impl FwCfg {
    /// Reads what the physical device says and prepares the overlay. Also gives the end of the
    /// host's memory.
    pub fn new<P: Platform>(
        platform: &P,
        low: u64,
        high: u64,
        vcpus: usize,
    ) -> Result<Self, SetupError> {
        let mut signature = [0; 4];
        select(platform, key::SIGNATURE);
        read_physical(platform, &mut signature);
        if &signature != b"QEMU" {
            return Err(SetupError::NoFwCfg);
        }

        let mut fw_cfg = Self {
            directory: Table::new(),
            e820: Table::new(),
            e820_key: 0,
            reserved_end: 0,
            reserved_end_key: 0,
            ram: Ram {
                low,
                high,
                host_end: FOUR_GIB + high,
            },
            vcpus,
            setup_len: setup_len(platform)?,
            selected: Mutex::default(),
        };
        fw_cfg.read_directory(platform)?;
        fw_cfg.read_boot_order(platform);
        fw_cfg.read_e820(platform)?;
        fw_cfg.finish_directory()?;
        Ok(fw_cfg)
    }

    /// The guest's RAM and the end of the host's.
    pub fn ram(&self) -> Ram {
        self.ram
    }

    fn read_directory<P: Platform>(&mut self, platform: &P) -> Result<(), SetupError> {
        let mut count = [0; 4];
        select(platform, key::FILE_DIR);
        read_physical(platform, &mut count);
        self.directory.push(&count)?;
        let mut next_key = key::FILE_FIRST;
        for _ in 0..u32::from_be_bytes(count) {
            let mut entry = [0; ENTRY];
            read_physical(platform, &mut entry);
            let key = File::of(&entry).key;
            next_key = next_key.max(key + 1);
            if useless(&entry) {
                continue;
            }
            match name(&entry) {
                E820 => self.e820_key = key,
                RESERVED_END => {
                    self.reserved_end_key = key;
                    entry[..4].copy_from_slice(&8_u32.to_be_bytes());
                }
                _ => {}
            }
            self.directory.push(&entry)?;
        }
        if self.reserved_end_key == 0 {
            self.reserved_end_key = next_key;
            let mut entry = [0; ENTRY];
            entry[..4].copy_from_slice(&8_u32.to_be_bytes());
            entry[4..6].copy_from_slice(&next_key.to_be_bytes());
            entry[8..8 + RESERVED_END.len()].copy_from_slice(RESERVED_END);
            self.directory.push(&entry)?;
        }
        Ok(())
    }

    /// Leaves out a boot order that does not concern the guest: QEMU names the ROM that loads
    /// sevsim.
    fn read_boot_order<P: Platform>(&mut self, platform: &P) {
        let mut entries = self.directory.get()[4..].chunks_exact(ENTRY);
        let Some(index) = entries.position(|entry| name(entry) == BOOT_ORDER) else {
            return;
        };
        let at = 4 + index * ENTRY;
        let file = File::of(&self.directory.get()[at..at + ENTRY]);
        let mut order = [0; MAX_BOOT_ORDER];
        let Some(order) = order.get_mut(..file.size) else {
            return;
        };
        read_file(platform, &file, order);
        if roms_alone(order) {
            self.directory.bytes[at..self.directory.len].rotate_left(ENTRY);
            self.directory.len -= ENTRY;
        }
    }

    /// Replaces RAM by the guest's and keeps the other ranges.
    fn read_e820<P: Platform>(&mut self, platform: &P) -> Result<(), SetupError> {
        let old = self.directory.get()[4..]
            .chunks_exact(ENTRY)
            .find(|entry| self.e820_key != 0 && name(entry) == E820)
            .map_or(0, |entry| File::of(entry).size);

        self.e820.push(&range(0, self.ram.low))?;
        if self.ram.high != 0 {
            self.e820.push(&range(FOUR_GIB, self.ram.high))?;
        }
        select(platform, self.e820_key);
        for _ in 0..old / RANGE {
            let mut entry = [0; RANGE];
            read_physical(platform, &mut entry);
            let quad = |at: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&entry[at..at + 8]);
                u64::from_le_bytes(bytes)
            };
            if entry[16..] == E820_RAM.to_le_bytes() {
                self.ram.host_end = self.ram.host_end.max(quad(0).saturating_add(quad(8)));
            } else {
                self.e820.push(&entry)?;
            }
        }
        self.reserved_end = self.ram.host_end;
        Ok(())
    }

    /// Puts the new sizes into the directory.
    fn finish_directory(&mut self) -> Result<(), SetupError> {
        let count = (self.directory.len - 4) / ENTRY;
        self.directory.bytes[..4].copy_from_slice(&(count as u32).to_be_bytes());
        let e820_size = (self.e820.len as u32).to_be_bytes();
        let entries = &mut self.directory.bytes[4..4 + count * ENTRY];
        // The memory map last and so first: it is looked up most.
        for file in [RESERVED_END, E820] {
            let mut all = entries.chunks_exact(ENTRY);
            let Some(index) = all.position(|entry| name(entry) == file) else {
                continue;
            };
            entries[..(index + 1) * ENTRY].rotate_right(ENTRY);
            if file == E820 {
                entries[..4].copy_from_slice(&e820_size);
            }
        }
        Ok(())
    }

    /// The overlay's item for a key, or `None` if QEMU's device answers.
    fn item<'a, P: Platform>(&'a self, platform: &'a P, key: u16) -> Option<Item<'a>> {
        let blob = |blob| platform.blob(blob).unwrap_or(&[]);
        let (kernel, initrd) = (blob(Blob::Kernel), blob(Blob::Initrd));
        let cmdline = blob(Blob::CommandLine);
        // With no kernel there is nothing to boot and so no command line.
        let cmdline_size = if kernel.is_empty() {
            0
        } else {
            cmdline.len() + 1
        };
        let (setup, protected) = kernel.split_at(self.setup_len);
        Some(match key & !key::WRITE_CHANNEL {
            key::RAM_SIZE => Item::inline(&(self.ram.low + self.ram.high).to_le_bytes()),
            key::NB_CPUS => Item::inline(&(self.vcpus as u16).to_le_bytes()),
            key::KERNEL_ADDR => Item::u32(KERNEL_AT as usize),
            key::KERNEL_SIZE => Item::u32(protected.len()),
            key::KERNEL_DATA => Item::slice(protected),
            key::KERNEL_ENTRY => Item::slice(&[]),
            // As high as possible in low memory.
            key::INITRD_ADDR => {
                let end = self.ram.low as usize - 1;
                Item::u32(end.saturating_sub(initrd.len()) & !0xfff)
            }
            key::INITRD_SIZE => Item::u32(initrd.len()),
            key::INITRD_DATA => Item::slice(initrd),
            key::CMDLINE_ADDR => Item::u32(CMDLINE_AT as usize),
            key::CMDLINE_SIZE => Item::u32(cmdline_size),
            // Its terminating NUL is the first of the zeroes behind.
            key::CMDLINE_DATA => Item::slice(cmdline),
            key::SETUP_ADDR => Item::u32(SETUP_AT as usize),
            key::SETUP_SIZE => Item::u32(setup.len()),
            key::SETUP_DATA => Item::slice(setup),
            key::FILE_DIR => Item::slice(self.directory.get()),
            key if key == self.e820_key && key != 0 => Item::slice(self.e820.get()),
            key if key == self.reserved_end_key => Item::inline(&self.reserved_end.to_le_bytes()),
            _ => return None,
        })
    }

    fn select<P: Platform>(&self, platform: &P, selected: &mut Selected, key: u16) {
        selected.key = key;
        selected.offset = 0;
        selected.overlaid = self.item(platform, key).is_some();
        if !selected.overlaid {
            select(platform, key);
        }
    }

    /// No item of QEMU's with this key is longer: zeroes follow. Bounds what a transfer costs.
    fn physical_len(&self, key: u16) -> usize {
        let key = (key & !key::WRITE_CHANNEL).to_be_bytes();
        self.directory.get()[4..]
            .chunks_exact(ENTRY)
            .find(|entry| entry[4..6] == key)
            .map_or(MAX_UNNAMED, |entry| File::of(entry).size)
    }

    /// Fills a buffer from the data register.
    pub fn read_string<P: Platform>(&self, platform: &P, buf: &mut [u8]) {
        let mut selected = self.selected.lock();
        // Under the lock, so that no other vCPU's transfer selects something else meanwhile.
        let Some(item) = self.selected_item(platform, &selected) else {
            return read_physical(platform, buf);
        };
        let rest = item.at(selected.offset);
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        buf[len..].fill(0);
        selected.offset = selected.offset.saturating_add(buf.len());
    }

    /// IN of selector or data register; a byte of either is data.
    pub fn read<P: Platform>(&self, platform: &P, port: u16, size: u8) -> u32 {
        if size != 1 {
            return platform.port_in(port, size);
        }
        let mut byte = [0];
        self.read_string(platform, &mut byte);
        byte[0].into()
    }

    fn selected_item<'a, P: Platform>(
        &'a self,
        platform: &'a P,
        selected: &Selected,
    ) -> Option<Item<'a>> {
        if selected.overlaid {
            self.item(platform, selected.key)
        } else {
            None
        }
    }

    /// OUT to any of the registers.
    pub fn write<P: Platform>(&self, platform: &P, ram: &Ram, port: u16, size: u8, value: u32) {
        let mut selected = self.selected.lock();
        match (port, size) {
            (SELECTOR, 2) => self.select(platform, &mut selected, value as u16),
            (DMA_HIGH, 4) => selected.dma_high = value,
            (DMA_LOW, 4) => {
                let high = core::mem::take(&mut selected.dma_high);
                let gpa = (u64::from(high.swap_bytes()) << 32) | u64::from(value.swap_bytes());
                self.dma(platform, ram, &mut selected, gpa);
            }
            // Nothing that QEMU would react to.
            _ => {}
        }
    }

    /// Carries out a FWCfgDmaAccess. It is read once; what the guest makes of it afterwards does
    /// not matter.
    fn dma<P: Platform>(&self, platform: &P, ram: &Ram, selected: &mut Selected, gpa: u64) {
        let mut access = [0; 16];
        if !ram.contains(gpa, 16) {
            return;
        }
        platform.name(Use::Exit, gpa, 16);
        if platform.read_shared(gpa, &mut access).is_err() {
            return;
        }
        let word = |at: usize| {
            u32::from_be_bytes([access[at], access[at + 1], access[at + 2], access[at + 3]])
        };
        let (command, len) = (word(0), word(4) as usize);
        let address = (u64::from(word(8)) << 32) | u64::from(word(12));

        if command & control::SELECT != 0 {
            self.select(platform, selected, (command >> 16) as u16);
        }
        // QEMU's order of precedence: read, write, skip.
        let ok = if len == 0 {
            Ok(())
        } else if command & control::READ != 0 {
            if ram.contains(address, len as u64) {
                platform.name(Use::Exit, address, len as u64);
                self.copy_out(platform, selected, address, len)
            } else {
                // Not RAM, or the host's.
                Err(NotRam)
            }
        } else if command & control::WRITE != 0 {
            // Nothing can be written.
            Err(NotRam)
        } else {
            if command & control::SKIP != 0 {
                self.skip(platform, selected, len);
            }
            Ok(())
        };
        let status = if ok.is_ok() { 0 } else { control::ERROR };
        // The access structure was just read from there.
        let _ = platform.write_shared(gpa, &status.to_be_bytes());
    }

    fn skip<P: Platform>(&self, platform: &P, selected: &mut Selected, len: usize) {
        if selected.overlaid {
            selected.offset = selected.offset.saturating_add(len);
        } else {
            for _ in 0..len.min(self.physical_len(selected.key)) {
                platform.port_in(DATA, 1);
            }
        }
    }

    /// Copies the selected item to the guest, zeroes behind its end.
    fn copy_out<P: Platform>(
        &self,
        platform: &P,
        selected: &mut Selected,
        mut gpa: u64,
        len: usize,
    ) -> Result<(), NotRam> {
        let mut buf = [0; 256];
        let mut left = len;
        if let Some(item) = self.selected_item(platform, selected) {
            let rest = item.at(selected.offset);
            let there = rest.len().min(left);
            platform.write_shared(gpa, &rest[..there])?;
            gpa += there as u64;
            left -= there;
            selected.offset = selected.offset.saturating_add(len);
        } else {
            let mut there = left.min(self.physical_len(selected.key));
            left -= there;
            while there != 0 {
                let part = there.min(buf.len());
                read_physical(platform, &mut buf[..part]);
                platform.write_shared(gpa, &buf[..part])?;
                gpa += part as u64;
                there -= part;
            }
            buf.fill(0);
        }
        while left != 0 {
            let part = left.min(buf.len());
            platform.write_shared(gpa, &buf[..part])?;
            gpa += part as u64;
            left -= part;
        }
        Ok(())
    }
}

/// Whether a byte read of this port is a read of data.
pub fn is_data(port: u16) -> bool {
    port == DATA || port == SELECTOR
}

/// A file of QEMU's.
pub struct File {
    key: u16,
    /// Its bytes.
    pub size: usize,
}

impl File {
    /// What a directory entry says.
    fn of(entry: &[u8]) -> Self {
        Self {
            key: u16::from_be_bytes([entry[4], entry[5]]),
            size: u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]) as usize,
        }
    }
}

/// Finds a file in the physical device's directory.
pub fn find<P: Platform>(platform: &P, wanted: &[u8]) -> Option<File> {
    let mut count = [0; 4];
    select(platform, key::FILE_DIR);
    read_physical(platform, &mut count);
    let entries = (0..u32::from_be_bytes(count)).map(|_| {
        let mut entry = [0; ENTRY];
        read_physical(platform, &mut entry);
        entry
    });
    let entry = entries
        .take(MAX_FILES)
        .find(|entry| name(entry) == wanted)?;
    Some(File::of(&entry))
}

/// Reads a file from its start.
pub fn read_file<P: Platform>(platform: &P, file: &File, buf: &mut [u8]) {
    select(platform, file.key);
    read_physical(platform, buf);
}

fn select<P: Platform>(platform: &P, key: u16) {
    platform.port_out(SELECTOR, 2, key.into());
}

fn read_physical<P: Platform>(platform: &P, buf: &mut [u8]) {
    buf.fill_with(|| platform.port_in(DATA, 1) as u8);
}

/// The file name in a directory entry.
fn name(entry: &[u8]) -> &[u8] {
    entry[8..].split(|byte| *byte == 0).next().unwrap_or(&[])
}

/// Whether a directory entry is of no use to the guest: an empty file, which says no more than a
/// missing one; a ROM for BIOS, one of them QEMU's loader of sevsim, and how long BIOS waits before
/// it tries again; the negotiation of SMM's features, as there is no SMM; whether there is S3: a
/// missing file says no, and no vCPU of a SEV-ES guest can be put back to its reset state.
fn useless(entry: &[u8; ENTRY]) -> bool {
    let name = name(entry);
    entry[..4] == [0; 4]
        || name.starts_with(ROMS)
        || name == b"etc/boot-fail-wait"
        || name == b"etc/system-states"
        || name.starts_with(b"etc/smi/")
}

/// Whether a boot order, a device path a line and a NUL, names ROMs for BIOS alone.
fn roms_alone(order: &[u8]) -> bool {
    order.split(|byte| matches!(byte, b'\n' | 0)).all(|path| {
        path.is_empty()
            || path
                .strip_prefix(b"/rom@")
                .is_some_and(|rom| rom.starts_with(ROMS))
    })
}

/// A range of RAM.
fn range(base: u64, len: u64) -> [u8; RANGE] {
    let mut bytes = [0; RANGE];
    bytes[..8].copy_from_slice(&base.to_le_bytes());
    bytes[8..16].copy_from_slice(&len.to_le_bytes());
    bytes[16..].copy_from_slice(&E820_RAM.to_le_bytes());
    bytes
}

/// Where the protected-mode part of the kernel begins (Documentation/arch/x86/boot.rst).
fn setup_len<P: Platform>(platform: &P) -> Result<usize, SetupError> {
    let Some(kernel) = platform.blob(Blob::Kernel) else {
        return Ok(0);
    };
    if kernel.get(0x202..0x206) != Some(b"HdrS") {
        return Err(SetupError::BadKernel);
    }
    let sectors = match kernel[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let len = (sectors + 1) * 512;
    if len >= kernel.len() {
        return Err(SetupError::BadKernel);
    }
    Ok(len)
}

#[cfg(test)]
mod tests;
