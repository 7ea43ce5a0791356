// SPDX-License-Identifier: GPL-2.0
//! Launch of a guest without firmware: a bzImage by its 64-bit entry.
//!
//! The launch puts kernel, initramfs, command line, boot parameters, descriptor table and page
//! tables into private memory and sets the first vCPU's save area to 64-bit mode at `startup_64`,
//! as a loader has to by Documentation/arch/x86/boot.rst, "64-bit boot protocol". The page tables
//! map what that protocol demands - kernel, boot parameters, command line - and the descriptor
//! table, not a byte more: whatever else the kernel's early code touches it has to map by itself.

pub mod bzimage;
mod memory_map;
mod params;
mod tables;

use core::fmt;
use core::ops::Range;

use crate::launch::vmsa::Fpu;
use crate::launch::vmsa::Vmsa;
use crate::layout::Layout;
use crate::layout::FOUR_GIB;
use crate::paging::Backing;
use crate::paging::GuestMemory;
use crate::paging::NotMemory;
use crate::reset;
use crate::vmcb::bits;
use crate::vmcb::Save;
use crate::vmcb::Segment;

use bzimage::Image;

const PAGE: u64 = 4096;

/// Where things go if nobody wishes otherwise, in low memory.
const PARAMS_AT: u64 = 0x1_0000;
const GDT_AT: u64 = 0x1_1000;
const COMMAND_LINE_AT: u64 = 0x2_0000;
const TABLES_AT: u64 = 0x3_0000;
/// Room for the page tables: each region takes three pages at most, and the root.
const TABLES_LEN: u64 = 16 * PAGE;
/// Where BIOSes keep the ACPI root pointer and kernels look for it.
const BIOS_AREA: Range<u64> = 0xe_0000..0x10_0000;

/// `__BOOT_CS` and `__BOOT_DS` of the boot protocol.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
/// Null, unused, 64-bit code, data.
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Wishes for addresses; `None` leaves the choice to [`Plan::new`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Kernel image.
    pub kernel: Option<u64>,
    /// Boot parameters ("zero page").
    pub params: Option<u64>,
    /// Command line.
    pub command_line: Option<u64>,
    /// Initramfs.
    pub initrd: Option<u64>,
    /// ACPI root pointer. With a wish the boot parameters name the address, without one the kernel
    /// has to find it in the BIOS area.
    pub rsdp: Option<u64>,
}

/// What is launched.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// bzImage.
    pub kernel: &'a [u8],
    /// Initramfs, may be empty.
    pub initrd: &'a [u8],
    /// Command line without its NUL.
    pub command_line: &'a [u8],
    /// Bytes of the ACPI tables behind the root pointer.
    pub acpi_len: u64,
    /// Bytes of the ACPI root pointer.
    pub rsdp_len: u64,
}

/// Why a guest cannot be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// Not a bzImage, or cut off.
    NotBzImage,
    /// A bzImage without 64-bit entry.
    NoEntry64,
    /// Something is to lie above 4 GiB, and the kernel cannot cope with that.
    TooHigh(&'static str),
    /// An address is not aligned as the kernel wants.
    Misaligned(&'static str),
    /// The command line is longer than the kernel takes.
    LongCommandLine,
    /// A region is not RAM.
    NotRam(&'static str),
    /// Two regions overlap.
    Overlap(&'static str, &'static str),
    /// The page tables need more pages than there is room for.
    Tables,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBzImage => f.write_str("the kernel is not a bzImage, or cut off"),
            Self::NoEntry64 => f.write_str("the kernel has no 64-bit entry (XLF_KERNEL_64)"),
            Self::TooHigh(what) => {
                write!(f, "the kernel does not take the {what} above 4 GiB")
            }
            Self::Misaligned(what) => write!(f, "the address of the {what} is not aligned"),
            Self::LongCommandLine => f.write_str("the command line is too long for the kernel"),
            Self::NotRam(what) => write!(f, "the {what} does not lie in the guest's RAM"),
            Self::Overlap(one, other) => write!(f, "the {one} overlaps the {other}"),
            Self::Tables => f.write_str("the page tables do not fit into their room"),
        }
    }
}

impl From<NotMemory> for LaunchError {
    fn from(_: NotMemory) -> Self {
        // Plans are checked against the layout.
        Self::NotRam("launch")
    }
}

/// Addresses of everything, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Kernel and the room that it unpacks itself in.
    pub kernel: Region,
    /// Boot parameters.
    pub params: Region,
    /// Descriptor table.
    pub gdt: Region,
    /// Command line with its NUL.
    pub command_line: Region,
    /// Page tables.
    pub tables: Region,
    /// Initramfs; empty if there is none.
    pub initrd: Region,
    /// ACPI tables.
    pub acpi: Region,
    /// ACPI root pointer.
    pub rsdp: Region,
    /// Whether the boot parameters name the root pointer.
    name_rsdp: bool,
}

/// A run of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name for messages.
    pub name: &'static str,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

impl Region {
    fn new(name: &'static str, start: u64, len: u64) -> Self {
        Self { name, start, len }
    }

    /// First address behind.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Its addresses, widened to whole pages.
    fn pages(&self) -> Range<u64> {
        self.start & !(PAGE - 1)..self.end().next_multiple_of(PAGE)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let both = self.len != 0 && other.len != 0;
        both && self.start < other.end() && other.start < self.end()
    }
}

impl Plan {
    /// Chooses the addresses that `wish` leaves open, and checks all of them.
    pub fn new(
        layout: &Layout,
        image: &Image<'_>,
        files: &Files<'_>,
        wish: &Placement,
    ) -> Result<Self, LaunchError> {
        // The line's pages are mapped whole, and the kernel copies as much as it takes at most.
        let line = files.command_line.len() as u64 + 1;
        if line > image.command_line_size() + 1 {
            return Err(LaunchError::LongCommandLine);
        }
        // From the top of low memory down: ACPI tables, initramfs.
        let down = |top: u64, len: u64| top.saturating_sub(len) & !(PAGE - 1);
        let acpi = down(layout.low, files.acpi_len);
        let initrd = down(acpi, files.initrd.len() as u64);
        let plan = Self {
            kernel: Region::new(
                "kernel",
                wish.kernel.unwrap_or(image.preferred_address()),
                image.init_size().next_multiple_of(PAGE),
            ),
            params: Region::new("boot parameters", wish.params.unwrap_or(PARAMS_AT), PAGE),
            gdt: Region::new("descriptor table", GDT_AT, PAGE),
            command_line: Region::new(
                "command line",
                wish.command_line.unwrap_or(COMMAND_LINE_AT),
                line,
            ),
            tables: Region::new("page tables", TABLES_AT, TABLES_LEN),
            initrd: Region::new(
                "initramfs",
                wish.initrd.unwrap_or(initrd),
                files.initrd.len() as u64,
            ),
            acpi: Region::new("ACPI tables", acpi, files.acpi_len),
            rsdp: Region::new(
                "ACPI root pointer",
                wish.rsdp.unwrap_or(BIOS_AREA.start),
                files.rsdp_len,
            ),
            name_rsdp: wish.rsdp.is_some(),
        };
        plan.check(layout, image)?;
        Ok(plan)
    }

    fn regions(&self) -> [Region; 8] {
        [
            self.kernel,
            self.params,
            self.gdt,
            self.command_line,
            self.tables,
            self.initrd,
            self.acpi,
            self.rsdp,
        ]
    }

    fn check(&self, layout: &Layout, image: &Image<'_>) -> Result<(), LaunchError> {
        let regions = self.regions();
        for (index, region) in regions.iter().enumerate() {
            if region.len != 0 && !layout.is_ram(region.start, region.len) {
                return Err(LaunchError::NotRam(region.name));
            }
            if let Some(other) = regions[..index].iter().find(|other| other.overlaps(region)) {
                return Err(LaunchError::Overlap(region.name, other.name));
            }
        }
        for region in [self.kernel, self.params, self.command_line, self.initrd] {
            if region.len != 0 && region.end() > FOUR_GIB && !image.above_4_gib() {
                return Err(LaunchError::TooHigh(region.name));
            }
        }
        if self.kernel.start % image.alignment() != 0 {
            return Err(LaunchError::Misaligned(self.kernel.name));
        }
        // The kernel takes the page of the parameters whole; the others are the loader's taste.
        for region in [self.params, self.initrd] {
            if region.start % PAGE != 0 {
                return Err(LaunchError::Misaligned(region.name));
            }
        }
        // ACPI looks at each 16th address.
        if self.rsdp.start % 16 != 0 {
            return Err(LaunchError::Misaligned(self.rsdp.name));
        }
        Ok(())
    }
}

/// Copies bytes into private memory.
fn put<M: GuestMemory>(memory: &M, mut gpa: u64, mut bytes: &[u8]) -> Result<(), NotMemory> {
    while !bytes.is_empty() {
        let room = (PAGE - gpa % PAGE) as usize;
        let (now, rest) = bytes.split_at(room.min(bytes.len()));
        memory.write(gpa, Backing::Private, now)?;
        gpa += now.len() as u64;
        bytes = rest;
    }
    Ok(())
}

/// Puts everything into private memory. `acpi` and `rsdp` are the ACPI tables, linked for the
/// plan's addresses.
pub fn launch<M: GuestMemory>(
    memory: &M,
    layout: &Layout,
    cbit: u64,
    plan: &Plan,
    image: &Image<'_>,
    files: &Files<'_>,
    (acpi, rsdp): (&[u8], &[u8]),
) -> Result<(), LaunchError> {
    put(memory, plan.kernel.start, image.protected_mode())?;
    put(memory, plan.initrd.start, files.initrd)?;
    put(memory, plan.command_line.start, files.command_line)?;
    put(memory, plan.acpi.start, acpi)?;
    put(memory, plan.rsdp.start, rsdp)?;
    for (index, descriptor) in GDT.iter().enumerate() {
        let at = plan.gdt.start + 8 * index as u64;
        put(memory, at, &descriptor.to_le_bytes())?;
    }
    put(
        memory,
        plan.params.start,
        &params::zero_page(plan, layout, image),
    )?;
    let mut builder = tables::Builder::new(memory, plan.tables, cbit);
    for region in [plan.kernel, plan.params, plan.command_line, plan.gdt] {
        builder.identity(region.pages())?;
    }
    Ok(())
}

/// The save area of the vCPU, whose processor has `signature`.
pub fn vmsa(signature: u32, plan: &Plan, cbit: u64, fpu: Fpu) -> Vmsa {
    let mut save = reset::vmcb().save;
    start(&mut save, plan, cbit);
    let mut registers = [0; 14];
    registers[2] = u64::from(signature);
    // RSI.
    registers[3] = plan.params.start;
    Vmsa::sync(&save, &registers, fpu)
}

/// The vCPU's state in its VMCB.
fn start(save: &mut Save, plan: &Plan, cbit: u64) {
    let data = Segment {
        selector: BOOT_DS,
        attributes: 0xc93,
        limit: !0,
        base: 0,
    };
    for segment in [&mut save.ds, &mut save.es, &mut save.ss] {
        *segment = data;
    }
    save.cs = Segment {
        selector: BOOT_CS,
        attributes: 0xa9b,
        limit: !0,
        base: 0,
    };
    save.gdtr = Segment {
        limit: size_of::<[u64; 4]>() as u32 - 1,
        base: plan.gdt.start,
        ..Segment::default()
    };
    // No exception can be taken before the kernel loads its own table.
    save.idtr = Segment::default();
    save.cr3 = plan.tables.start | cbit;
    save.cr4 = bits::CR4_PAE;
    save.cr0 = bits::CR0_PE | bits::CR0_ET | bits::CR0_PG;
    save.efer |= bits::EFER_LME | bits::EFER_LMA;
    save.rip = plan.kernel.start + bzimage::ENTRY_64;
}

#[cfg(test)]
mod tests;
