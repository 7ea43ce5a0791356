// SPDX-License-Identifier: GPL-2.0
//! Tests of the launch: header, placement, boot parameters, memory map, page tables, save area.

use super::memory_map::Entry;
use super::memory_map::Kind;
use super::memory_map::Map;
use super::*;
use crate::paging::model::Memory;
use crate::paging::walk;
use crate::paging::Paging;
use crate::paging::Want;
use crate::paging::Who;
use crate::reset;
use crate::vmcb::Vmcb;

const C: u64 = 1 << 51;
const MIB: u64 = 1 << 20;
const INIT_SIZE: u64 = 0x30_5000;

const LAYOUT: Layout = Layout {
    low: 64 * MIB,
    high: 64 * MIB,
    flash: 0,
    private_low: 0x2_0000_0000,
    private_high: 0x3_0000_0000,
    flash_copy: 0,
    flash_shared: 0,
};

/// A bzImage of protocol 2.15 with one sector of set-up code and `payload` bytes of kernel.
fn bzimage(payload: usize) -> Vec<u8> {
    let mut file = vec![0; 1024 + payload];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x236, &3_u16.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &(INIT_SIZE as u32).to_le_bytes());
    for (index, byte) in file[1024..].iter_mut().enumerate() {
        *byte = (index % 251) as u8;
    }
    file
}

fn files(kernel: &[u8]) -> Files<'_> {
    Files {
        kernel,
        initrd: &[7; 5000],
        command_line: b"console=ttyS0",
        acpi_len: 0x3000,
        rsdp_len: 20,
    }
}

fn plan(wish: &Placement) -> Result<Plan, LaunchError> {
    let kernel = bzimage(100);
    Plan::new(
        &LAYOUT,
        &Image::new(&kernel).unwrap(),
        &files(&kernel),
        wish,
    )
}

/// Launches by `wish`; memory, plan and the first vCPU.
fn launched(wish: &Placement) -> (Memory, Plan, Vmcb) {
    let kernel = bzimage(9000);
    let image = Image::new(&kernel).unwrap();
    let files = files(&kernel);
    let plan = Plan::new(&LAYOUT, &image, &files, wish).unwrap();
    let memory = Memory::new(FOUR_GIB + 64 * MIB);
    let acpi: (&[u8], &[u8]) = (&[3; 0x3000], b"RSD PTR ............");
    launch(&memory, &LAYOUT, C, &plan, &image, &files, acpi).unwrap();
    let mut vmcb = reset::vmcb();
    start(&mut vmcb.save, &plan, C);
    (memory, plan, vmcb)
}

fn bytes<const N: usize>(memory: &Memory, at: u64) -> [u8; N] {
    let mut buf = [0; N];
    memory.read(at, Backing::Private, &mut buf).unwrap();
    buf
}

fn u32_at(memory: &Memory, at: u64) -> u32 {
    u32::from_le_bytes(bytes(memory, at))
}

const FAR: Placement = Placement {
    kernel: Some(FOUR_GIB + 2 * MIB),
    params: Some(FOUR_GIB + 0x1000),
    command_line: Some(FOUR_GIB + 0x3ff0),
    initrd: Some(FOUR_GIB + 32 * MIB),
    rsdp: Some(FOUR_GIB + 0x5010),
};

#[test]
fn bad_images_are_refused() {
    type Break = fn(&mut Vec<u8>);
    let cases: [(LaunchError, Break); 7] = [
        (LaunchError::NotBzImage, |f| f[0x202] = 0),
        (LaunchError::NotBzImage, |f| f.truncate(1024)),
        (LaunchError::NotBzImage, |f| f.truncate(0x205)),
        (LaunchError::NotBzImage, |f| f[0x201] = 0x20),
        (LaunchError::NotBzImage, |f| f[0x230] = 1),
        (LaunchError::NoEntry64, |f| f[0x236] = 2),
        (LaunchError::NoEntry64, |f| f[0x206] = 0x0b),
    ];
    for (index, (error, case)) in cases.into_iter().enumerate() {
        let mut file = bzimage(100);
        case(&mut file);
        assert_eq!(Image::new(&file).err(), Some(error), "case {index}");
    }
    let mut small = bzimage(100);
    small[0x260..0x264].copy_from_slice(&99_u32.to_le_bytes());
    assert_eq!(Image::new(&small).err(), Some(LaunchError::NotBzImage));
}

#[test]
fn addresses_are_chosen_and_checked() {
    let plan_made = plan(&Placement::default()).unwrap();
    assert_eq!(plan_made.kernel.start, 0x100_0000);
    assert_eq!(plan_made.acpi.start, 64 * MIB - 0x3000);
    assert_eq!(plan_made.initrd.start, 64 * MIB - 0x5000);
    assert!(plan(&FAR).is_ok());
    let wish = Placement::default();
    let cases = [
        (
            Placement {
                kernel: Some(0x100_1000),
                ..wish
            },
            LaunchError::Misaligned("kernel"),
        ),
        (
            Placement {
                initrd: Some(0x123),
                ..wish
            },
            LaunchError::Misaligned("initramfs"),
        ),
        (
            Placement {
                rsdp: Some(0xe_0008),
                ..wish
            },
            LaunchError::Misaligned("ACPI root pointer"),
        ),
        (
            Placement {
                kernel: Some(62 * MIB),
                ..wish
            },
            LaunchError::NotRam("kernel"),
        ),
        (
            Placement {
                params: Some(0xa_0000),
                ..wish
            },
            LaunchError::NotRam("boot parameters"),
        ),
        (
            Placement {
                command_line: Some(0x130_4fff),
                ..wish
            },
            LaunchError::Overlap("command line", "kernel"),
        ),
        (
            Placement {
                initrd: Some(u64::MAX - 0xfff),
                ..wish
            },
            LaunchError::NotRam("initramfs"),
        ),
    ];
    for (wish, error) in cases {
        assert_eq!(plan(&wish).err(), Some(error), "{wish:x?}");
    }
}

#[test]
fn a_kernel_that_cannot_go_high_stays_low() {
    let mut kernel = bzimage(100);
    kernel[0x236] = 1;
    let image = Image::new(&kernel).unwrap();
    let files = files(&kernel);
    let high = |wish| Plan::new(&LAYOUT, &image, &files, &wish).err();
    let wish = Placement::default();
    assert_eq!(high(wish), None);
    let initrd = Placement {
        initrd: FAR.initrd,
        ..wish
    };
    assert_eq!(high(initrd), Some(LaunchError::TooHigh("initramfs")));
    // ACPI is not the boot protocol's.
    let rsdp = Placement {
        rsdp: FAR.rsdp,
        ..wish
    };
    assert_eq!(high(rsdp), None);
}

#[test]
fn a_long_command_line_is_refused() {
    let kernel = bzimage(100);
    let image = Image::new(&kernel).unwrap();
    for (len, error) in [(2047, None), (2048, Some(LaunchError::LongCommandLine))] {
        let line = vec![b'x'; len];
        let files = Files {
            command_line: &line,
            ..files(&kernel)
        };
        let plan = Plan::new(&LAYOUT, &image, &files, &Placement::default());
        assert_eq!(plan.err(), error);
    }
}

#[test]
fn the_boot_parameters_name_everything() {
    let (memory, plan, _) = launched(&FAR);
    let page = plan.params.start;
    assert_eq!(bytes(&memory, page + 0x202), *b"HdrS");
    assert_eq!(u32_at(&memory, page + 0x260), INIT_SIZE as u32);
    assert_eq!(bytes(&memory, page + 0x210), [0xff]);
    let halves = |low, high| {
        u64::from(u32_at(&memory, page + low)) | (u64::from(u32_at(&memory, page + high)) << 32)
    };
    assert_eq!(halves(0x218, 0xc0), FOUR_GIB + 32 * MIB);
    assert_eq!(halves(0x21c, 0xc4), 5000);
    assert_eq!(halves(0x228, 0xc8), FOUR_GIB + 0x3ff0);
    assert_eq!(halves(0x70, 0x74), FOUR_GIB + 0x5010);
    // The sentinel tells the kernel that the fields outside of the header are good.
    assert_eq!(bytes(&memory, page + 0x1ef), [0]);
    assert_eq!(bytes(&memory, page + 0x26c), [0; 4], "behind the header");
    let (memory, plan, _) = launched(&Placement::default());
    assert_eq!(memory.get(plan.params.start + 0x70), 0);
}

#[test]
fn the_files_are_in_private_memory() {
    for wish in [Placement::default(), FAR] {
        let (memory, plan, _) = launched(&wish);
        assert_eq!(bytes(&memory, plan.kernel.start + 250), [250, 0]);
        assert_eq!(bytes(&memory, plan.kernel.start + 8999), [214, 0]);
        assert_eq!(bytes(&memory, plan.initrd.start + 4999), [7, 0]);
        assert_eq!(bytes(&memory, plan.command_line.start), *b"console=ttyS0\0");
        assert_eq!(bytes(&memory, plan.rsdp.start), *b"RSD PTR ");
        assert_eq!(bytes(&memory, plan.acpi.start + 0x2fff), [3]);
        assert!(memory.shared.borrow().is_empty());
    }
}

#[test]
fn the_memory_map_is_all_of_the_ram() {
    let entry = |start, end, kind| Entry { start, end, kind };
    let near = plan(&Placement::default()).unwrap();
    let map = Map::new(&LAYOUT, &near);
    let top = 64 * MIB - 0x3000;
    let want = [
        entry(0, 0xa_0000, Kind::Ram),
        entry(0xe_0000, 0x10_0000, Kind::Reserved),
        entry(0x10_0000, top, Kind::Ram),
        entry(top, 64 * MIB, Kind::Acpi),
        entry(FOUR_GIB, FOUR_GIB + 64 * MIB, Kind::Ram),
    ];
    assert_eq!(map.entries(), want);
    let far = Map::new(&LAYOUT, &plan(&FAR).unwrap());
    let want = [
        entry(FOUR_GIB, FOUR_GIB + 0x5000, Kind::Ram),
        entry(FOUR_GIB + 0x5000, FOUR_GIB + 0x6000, Kind::Acpi),
        entry(FOUR_GIB + 0x6000, FOUR_GIB + 64 * MIB, Kind::Ram),
    ];
    assert_eq!(far.entries()[4..], want);
    let low = Placement {
        rsdp: Some(0x200_0000),
        ..Placement::default()
    };
    let map = Map::new(&LAYOUT, &plan(&low).unwrap());
    assert!(map
        .entries()
        .contains(&entry(0x200_0000, 0x200_1000, Kind::Acpi)));
    assert!(map
        .entries()
        .windows(2)
        .all(|two| two[0].end <= two[1].start));
}

/// Where the launch's tables lead, if they map the address at all.
fn translate(memory: &Memory, save: &Save, at: u64) -> Option<(u64, Backing)> {
    let paging = Paging::of(save, C);
    let found = walk(memory, &paging, at, Want::Write, Who::Supervisor).ok()?;
    Some((found.gpa, found.backing))
}

#[test]
fn the_page_tables_map_what_they_should_and_no_more() {
    for wish in [Placement::default(), FAR] {
        let (memory, plan, vmcb) = launched(&wish);
        let mapped = [plan.kernel, plan.params, plan.command_line, plan.gdt].map(|r| r.pages());
        let near = |at: u64| [at.wrapping_sub(4096), at.wrapping_sub(1), at, at + 4095];
        let mut probes: Vec<u64> = mapped
            .iter()
            .flat_map(|pages| [near(pages.start), near(pages.end)].concat())
            .collect();
        probes.extend([0, plan.tables.start, plan.initrd.start, plan.acpi.start]);
        probes.extend([plan.rsdp.start, plan.kernel.start + 2 * MIB, 1 << 39]);
        for at in probes {
            let want = mapped.iter().any(|pages| pages.contains(&at));
            let want = want.then_some((at, Backing::Private));
            assert_eq!(translate(&memory, &vmcb.save, at), want, "{at:#x}");
        }
    }
}

#[test]
fn the_page_tables_stay_in_their_room() {
    let memory = Memory::new(FOUR_GIB);
    let room = Region::new("page tables", 0x3_0000, 4 * PAGE);
    let mut builder = tables::Builder::new(&memory, room, C);
    builder.identity(0x1000..0x2000).unwrap();
    assert_eq!(
        builder.identity(0x4000_0000..0x4000_1000),
        Err(LaunchError::Tables)
    );
    let outside = memory.private.borrow();
    assert!(outside.keys().all(|at| (0x3_0000..0x3_4000).contains(at)));
}

#[test]
fn the_first_vcpu_is_in_64_bit_code() {
    let (memory, plan, vmcb) = launched(&Placement::default());
    let save = &vmcb.save;
    assert_eq!(save.rip, 0x100_0200);
    assert_eq!((save.cs.selector, save.ds.selector), (0x10, 0x18));
    assert_eq!((save.es, save.ss), (save.ds, save.ds));
    assert_eq!(save.rflags & bits::RFLAGS_IF, 0);
    assert_eq!(save.cr3, plan.tables.start | C);
    assert!(Paging::of(save, C).cbit_active());
    // The selectors' descriptors say what the hidden parts do.
    let code = memory.get(save.gdtr.base + 0x10);
    assert_eq!((code >> 40) & 0xff, u64::from(save.cs.attributes & 0xff));
    assert_eq!((code >> 52) & 0xf, u64::from(save.cs.attributes >> 8));
    assert_eq!(save.gdtr.limit, 0x1f);
}
