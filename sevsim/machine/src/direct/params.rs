// SPDX-License-Identifier: GPL-2.0
//! The boot parameters, or "zero page" (Documentation/arch/x86/zero-page.rst).

use super::bzimage::Image;
use super::bzimage::HEADER;
use super::memory_map::Map;
use super::Plan;
use crate::layout::Layout;

const ACPI_RSDP_ADDR: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const EXT_CMD_LINE_PTR: usize = 0x0c8;
const E820_ENTRIES: usize = 0x1e8;
const TYPE_OF_LOADER: usize = 0x210;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY: usize = 20;

/// A loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;

/// The page's bytes.
pub fn zero_page(plan: &Plan, layout: &Layout, image: &Image<'_>) -> [u8; 4096] {
    let mut page = [0; 4096];
    let header = image.header();
    page[HEADER..HEADER + header.len()].copy_from_slice(header);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let mut halves = |low: usize, high: usize, value: u64| {
        put(low, &(value as u32).to_le_bytes());
        put(high, &((value >> 32) as u32).to_le_bytes());
    };
    halves(CMD_LINE_PTR, EXT_CMD_LINE_PTR, plan.command_line.start);
    if plan.initrd.len != 0 {
        halves(RAMDISK_IMAGE, EXT_RAMDISK_IMAGE, plan.initrd.start);
        halves(RAMDISK_SIZE, EXT_RAMDISK_SIZE, plan.initrd.len);
    }
    put(TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    // Of no use to a kernel that is entered in 64-bit mode, but what loaders put there.
    put(CODE32_START, &(plan.kernel.start as u32).to_le_bytes());
    if plan.name_rsdp {
        put(ACPI_RSDP_ADDR, &plan.rsdp.start.to_le_bytes());
    }
    let map = Map::new(layout, plan);
    put(E820_ENTRIES, &[map.entries().len() as u8]);
    for (index, entry) in map.entries().iter().enumerate() {
        let at = E820_TABLE + E820_ENTRY * index;
        put(at, &entry.start.to_le_bytes());
        put(at + 8, &(entry.end - entry.start).to_le_bytes());
        put(at + 16, &(entry.kind as u32).to_le_bytes());
    }
    page
}
