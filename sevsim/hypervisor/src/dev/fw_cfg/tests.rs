// SPDX-License-Identifier: GPL-2.0
//! fw_cfg as firmware reads it: by the data register and by DMA.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::mock::{Mock, LOW};

/// A bzImage of `sectors` setup sectors and a recognizable rest.
fn kernel(sectors: u8, len: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
    image[0x1f1] = sectors;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image
}

fn mock() -> Mock {
    Mock {
        kernel: Some(kernel(2, 0x900)),
        initrd: Some(b"initrd's bytes".to_vec()),
        command_line: Some(b"console=ttyS0".to_vec()),
        ..Mock::new(3)
    }
}

struct Guest {
    mock: Mock,
    fw_cfg: FwCfg,
}

fn guest(mock: Mock) -> Guest {
    let (low, high) = mock.ram;
    let fw_cfg = FwCfg::new(&mock, low, high, 3).unwrap();
    mock.take_outs();
    Guest { mock, fw_cfg }
}

impl Guest {
    fn out(&self, port: u16, size: u8, value: u32) {
        self.fw_cfg
            .write(&self.mock, &self.fw_cfg.ram(), port, size, value);
    }

    fn select(&self, key: u16) {
        self.out(SELECTOR, 2, key.into());
    }

    /// Reads byte by byte.
    fn read(&self, key: u16, len: usize) -> Vec<u8> {
        self.select(key);
        (0..len)
            .map(|_| self.fw_cfg.read(&self.mock, DATA, 1) as u8)
            .collect()
    }

    fn read_u32(&self, key: u16) -> u32 {
        u32::from_le_bytes(self.read(key, 4).try_into().unwrap())
    }

    /// A DMA access; gives the control word afterwards.
    fn dma(&self, control: u32, len: u32, address: u64) -> u32 {
        let mut access = control.to_be_bytes().to_vec();
        access.extend(len.to_be_bytes());
        access.extend(address.to_be_bytes());
        self.mock.poke(0x1000, &access);
        self.out(DMA_HIGH, 4, 0);
        self.out(DMA_LOW, 4, 0x1000_u32.to_be());
        u32::from_be_bytes(self.mock.peek(0x1000, 4).try_into().unwrap())
    }
}

fn select_and(key: u16, control: u32) -> u32 {
    (u32::from(key) << 16) | control::SELECT | control
}

#[test]
fn kernel_is_split_at_its_setup() {
    let g = guest(mock());
    let image = kernel(2, 0x900);
    assert_eq!(g.read_u32(key::SETUP_SIZE), 0x600);
    assert_eq!(g.read_u32(key::KERNEL_SIZE), 0x300);
    assert_eq!(g.read(key::SETUP_DATA, 0x600), image[..0x600]);
    assert_eq!(g.read(key::KERNEL_DATA, 0x300), image[0x600..]);
    assert_eq!(g.read_u32(key::INITRD_SIZE), 14);
    assert_eq!(g.read(key::INITRD_DATA, 16), b"initrd's bytes\0\0");
    assert_eq!(g.read_u32(key::CMDLINE_SIZE), 14);
    assert_eq!(g.read(key::CMDLINE_DATA, 14), b"console=ttyS0\0");
    assert_eq!(g.mock.take_outs(), [], "nothing of this reaches QEMU");
    let four = guest(Mock {
        kernel: Some(kernel(0, 0x2000)),
        ..Mock::new(1)
    });
    assert_eq!(four.read_u32(key::SETUP_SIZE), 5 * 512, "0 sectors mean 4");
}

#[test]
fn sevsims_own_blobs_are_hidden() {
    let none = Mock::new(1);
    for item in [8, 0xb, 0x11, 0x12, 0x14, 0x15, 0x17, 0x18, 0x10] {
        none.file(item, b"sevsim itself");
    }
    let g = guest(none);
    for item in [8, 0xb, 0x14, 0x17] {
        assert_eq!(g.read_u32(item), 0, "{item:#x}");
        assert_eq!(
            g.read_u32(item | 0x4000),
            0,
            "{item:#x} by the write channel"
        );
    }
    for item in [0x10, 0x11, 0x12, 0x15, 0x18] {
        assert_eq!(g.read(item, 13), [0; 13], "{item:#x}");
    }
}

#[test]
fn memory_and_cpus_are_the_guests() {
    let g = guest(Mock {
        ram: (0x8000_0000, 0x4000_0000),
        ..Mock::new(3)
    });
    assert_eq!(g.read(key::RAM_SIZE, 8), 0xc000_0000_u64.to_le_bytes());
    assert_eq!(g.read(key::NB_CPUS, 2), [3, 0]);
}

/// Name, key and size of each file.
fn directory(g: &Guest) -> Vec<(Vec<u8>, u16, u32)> {
    let count = u32::from_be_bytes(g.read(key::FILE_DIR, 4).try_into().unwrap()) as usize;
    let all = g.read(key::FILE_DIR, 4 + 64 * count);
    all[4..]
        .chunks(64)
        .map(|e| {
            let size = u32::from_be_bytes(e[..4].try_into().unwrap());
            (name(e).to_vec(), u16::from_be_bytes([e[4], e[5]]), size)
        })
        .collect()
}

#[test]
fn memory_map_has_no_host_memory() {
    let g = guest(Mock {
        ram: (0x8000_0000, 0x4000_0000),
        ..Mock::new(3)
    });
    let files = directory(&g);
    let e820 = files.iter().find(|(name, ..)| name == b"etc/e820").unwrap();
    assert_eq!((e820.1, e820.2), (0x21, 60));
    let mut want = range(0, 0x8000_0000).to_vec();
    want.extend(range(1 << 32, 0x4000_0000));
    want.extend(0xfd_0000_0000_u64.to_le_bytes());
    want.extend(0x3_0000_0000_u64.to_le_bytes());
    want.extend(2_u32.to_le_bytes());
    assert_eq!(g.read(0x21, 60), want);
    // The PCI window starts above what QEMU really has: 4 GiB + 0x1_9000_0000.
    let end = files
        .iter()
        .find(|(name, ..)| name == RESERVED_END)
        .unwrap();
    assert_eq!((end.1, end.2), (0x22, 8), "added with the next free key");
    assert_eq!(g.read(0x22, 8), 0x2_9000_0000_u64.to_le_bytes());
    assert_eq!(files.len(), 3);
    assert_eq!(g.fw_cfg.ram().host_end, 0x2_9000_0000);
}

#[test]
fn memory_map_without_high_ram_is_shorter() {
    let g = guest(Mock {
        ram: (0x4000_0000, 0),
        ..Mock::new(1)
    });
    let e820 = directory(&g)
        .into_iter()
        .find(|(name, ..)| name == b"etc/e820")
        .unwrap();
    assert_eq!(e820.2, 40);
    assert_eq!(g.read(0x21, 20), range(0, 0x4000_0000));
}

#[test]
fn reserved_memory_end_of_qemu_is_replaced() {
    let mock = Mock::new(1);
    mock.directory(&[("etc/e820", 0x20, 20), ("etc/reserved-memory-end", 0x21, 8)]);
    mock.file(0x20, &range(1 << 32, 0x1000_0000));
    mock.file(0x21, &7_u64.to_le_bytes());
    let g = guest(mock);
    assert_eq!(directory(&g).len(), 2);
    assert_eq!(g.read(0x21, 8), 0x1_1000_0000_u64.to_le_bytes());
}

#[test]
fn the_directory_is_short_and_begins_with_the_memory_map() {
    let mock = Mock::new(1);
    mock.directory(&[
        ("bios-geometry", 0x20, 0),
        ("etc/boot-fail-wait", 0x27, 4),
        ("etc/e820", 0x21, 20),
        ("etc/smi/features-ok", 0x22, 1),
        ("etc/system-states", 0x23, 6),
        ("etc/table-loader", 0x26, 128),
        ("genroms/multiboot_dma.bin", 0x24, 0x400),
        ("opt/genroms/mine", 0x25, 1),
    ]);
    let g = guest(mock);
    let name = |name: &[u8]| name.to_vec();
    assert_eq!(
        directory(&g),
        [
            (name(b"etc/e820"), 0x21, 20),
            (name(RESERVED_END), 0x28, 8),
            (name(b"etc/table-loader"), 0x26, 128),
            (name(b"opt/genroms/mine"), 0x25, 1),
        ]
    );
}

/// Whether a boot order of QEMU's stays in the directory, among other files that have to.
fn order_stays(order: &[u8]) -> bool {
    let mock = Mock::new(1);
    mock.directory(&[
        ("etc/acpi/tables", 0x20, 6),
        ("bootorder", 0x21, order.len() as u32),
        ("etc/table-loader", 0x22, 128),
    ]);
    mock.file(0x21, order);
    let all = directory(&guest(mock));
    let names: Vec<_> = all.iter().map(|(name, ..)| &name[..]).collect();
    let stays = names.contains(&BOOT_ORDER);
    assert_eq!(names.len(), 3 + usize::from(stays), "{names:?}");
    for other in [
        b"etc/acpi/tables" as &[u8],
        b"etc/table-loader",
        RESERVED_END,
    ] {
        assert!(names.contains(&other), "{names:?}");
    }
    stays
}

#[test]
fn a_boot_order_without_the_guests_devices_is_left_out() {
    assert!(!order_stays(b"/rom@genroms/multiboot_dma.bin\0"));
    assert!(!order_stays(
        b"/rom@genroms/multiboot_dma.bin\n/rom@genroms/x\0"
    ));
    let disk = b"/pci@i0cf8/pci8086,2922@1f,2/drive@0/disk@0";
    assert!(order_stays(&[disk as &[u8], b"\0"].concat()));
    assert!(order_stays(
        &[b"/rom@genroms/multiboot_dma.bin\n" as &[u8], disk].concat()
    ));
    assert!(
        order_stays(b"HALT\0"),
        "what QEMU is told by -boot strict=on"
    );
    let many = b"/rom@genroms/x\n".repeat(100);
    assert!(order_stays(&many), "too long to look at");
}

#[test]
fn too_many_files_are_refused() {
    let mock = Mock::new(1);
    let files: Vec<_> = (0..96).map(|i| ("x", 0x20 + i, 1)).collect();
    mock.directory(&files);
    let (low, high) = mock.ram;
    assert_eq!(
        FwCfg::new(&mock, low, high, 1).err(),
        Some(SetupError::FwCfgTooLarge)
    );
    mock.directory(&files[..95]);
    assert!(
        FwCfg::new(&mock, low, high, 1).is_ok(),
        "room for the one that is added"
    );
}

#[test]
fn other_items_are_qemus() {
    let g = guest(mock());
    assert_eq!(g.read(0x20, 5), b"boot\0");
    assert_eq!(g.mock.take_outs(), [(SELECTOR, 2, 0x20)]);
    // Back and forth between the two.
    assert_eq!(g.read_u32(key::INITRD_SIZE), 14);
    assert_eq!(g.read(0x20, 4), b"boot");
    g.mock.take_outs();
    assert_eq!(g.dma(select_and(0x20, control::READ), 16, 0x3000), 0);
    assert_eq!(g.mock.take_outs(), [(SELECTOR, 2, 0x20)]);
    assert_eq!(g.mock.peek(0x3000, 16), b"boot\0\0\0\0\0\0\0\0\0\0\0\0");
}

/// QEMU would read the descriptor again, after the guest changed it.
#[test]
fn dma_descriptor_never_reaches_qemu() {
    let g = guest(mock());
    for control in [
        select_and(0x20, control::READ),
        control::READ,
        control::SKIP,
        control::WRITE,
        select_and(0xffff, control::READ),
        select_and(0x4020, control::READ),
    ] {
        g.dma(control, 4, 0x3000);
    }
    let outs = g.mock.take_outs();
    assert!(outs.iter().all(|(port, ..)| *port == SELECTOR), "{outs:x?}");
    assert_eq!(outs.len(), 3);
    let reads = g.mock.reads.lock().unwrap().clone();
    assert_eq!(reads, [(0x1000, 16); 6], "each descriptor is read once");
}

#[test]
fn dma_of_qemus_items() {
    let g = guest(mock());
    let big: Vec<u8> = (0..1000).map(|i| (i / 3) as u8).collect();
    g.mock.file(0x0e, &big);
    g.mock.poke(0x3000, &[0xee; 1100]);
    assert_eq!(g.dma(select_and(0x0e, control::READ), 300, 0x3000), 0);
    assert_eq!(g.dma(control::SKIP, 100, 0), 0);
    assert_eq!(
        g.fw_cfg.read(&g.mock, DATA, 1),
        u32::from(big[400]),
        "one position"
    );
    assert_eq!(g.dma(control::READ, 700, 0x3000 + 300), 0);
    assert_eq!(g.mock.peek(0x3000, 300), big[..300]);
    assert_eq!(g.mock.peek(0x3000 + 300, 599), big[401..]);
    assert_eq!(g.mock.peek(0x3000 + 899, 101), [0; 101]);
    assert_eq!(g.mock.peek(0x3000 + 1000, 1), [0xee], "not one more");
    // An overlaid item in between does not disturb QEMU's device, a new selection starts over.
    assert_eq!(
        g.dma(select_and(key::INITRD_DATA, control::READ), 6, 0x3000),
        0
    );
    assert_eq!(g.dma(select_and(0x0e, 0), 0, 0), 0);
    assert_eq!(g.dma(control::READ, 8, 0x3000), 0);
    assert_eq!(g.mock.peek(0x3000, 8), big[..8]);
}

/// A length is the guest's: neither a copy nor a skip reads on behind the end of a file.
#[test]
fn dma_length_does_not_keep_the_host_busy() {
    let g = guest(mock());
    let at = || g.mock.fw_cfg_at.lock().unwrap().1;
    assert_eq!(g.dma(select_and(0x20, control::SKIP), u32::MAX, 0), 0);
    assert_eq!(at(), 5);
    assert_eq!(g.dma(select_and(0x20, control::READ), 0x4000, 0x3000), 0);
    assert_eq!(at(), 5);
    assert_eq!(g.mock.peek(0x3000, 8), b"boot\0\0\0\0");
    assert_eq!(g.dma(select_and(0x0e, control::SKIP), u32::MAX, 0), 0);
    assert_eq!(at(), 0x1_0000);
}

#[test]
fn string_reads() {
    let g = guest(mock());
    let mut buf = [9; 8];
    g.select(key::INITRD_DATA);
    g.fw_cfg.read_string(&g.mock, &mut buf);
    assert_eq!(&buf, b"initrd's");
    g.fw_cfg.read_string(&g.mock, &mut buf);
    assert_eq!(&buf, b" bytes\0\0", "zeroes behind the end");
    g.fw_cfg.read_string(&g.mock, &mut buf);
    assert_eq!(buf, [0; 8]);
    g.select(0x20);
    g.fw_cfg.read_string(&g.mock, &mut buf);
    assert_eq!(&buf, b"boot\0\0\0\0", "QEMU's item");
}

#[test]
fn dma_select_read_and_skip() {
    let g = guest(mock());
    g.mock.poke(0x3000, &[0xee; 32]);
    assert_eq!(
        g.dma(select_and(key::INITRD_DATA, control::READ), 6, 0x3000),
        0
    );
    assert_eq!(g.mock.peek(0x3000, 8), b"initrd\xee\xee");
    assert_eq!(g.dma(control::SKIP, 3, 0), 0);
    assert_eq!(g.dma(control::READ, 10, 0x3000), 0);
    assert_eq!(
        g.mock.peek(0x3000, 11),
        b"bytes\0\0\0\0\0\xee",
        "zeroes, and not one more"
    );
    assert_eq!(g.dma(select_and(key::CMDLINE_DATA, 0), 5, 0x3000), 0);
    assert_eq!(
        g.fw_cfg.read(&g.mock, DATA, 1),
        u32::from(b'c'),
        "one state for both ways"
    );
    assert_eq!(g.dma(control::READ, 0, 0), 0, "nothing to do");
}

#[test]
fn dma_errors() {
    let g = guest(mock());
    let initrd = |control| select_and(key::INITRD_DATA, control);
    assert_eq!(g.dma(initrd(control::WRITE), 4, 0x3000), control::ERROR);
    assert_eq!(g.dma(initrd(control::READ), 4, LOW - 3), control::ERROR);
    assert_eq!(g.dma(initrd(control::READ), 4, 0xfee0_0000), control::ERROR);
    assert_eq!(g.dma(initrd(control::READ), 4, u64::MAX), control::ERROR);
    // QEMU's device, too, must not be sent beyond the guest's RAM.
    assert_eq!(
        g.dma(select_and(0x20, control::READ), 4, 0x1_8000_0000),
        control::ERROR
    );
    assert_eq!(
        g.dma(select_and(0x20, control::WRITE), 4, LOW),
        control::ERROR
    );
    assert_eq!(g.mock.take_outs(), [(SELECTOR, 2, 0x20); 2]);
    // No access structure: nothing happens.
    g.out(DMA_HIGH, 4, 1_u32.to_be());
    g.out(DMA_LOW, 4, 0x1000_u32.to_be());
    g.out(DMA_LOW, 2, 0);
    assert_eq!(g.mock.take_outs(), []);
}

#[test]
fn dma_address_is_put_together_once() {
    let g = guest(mock());
    g.out(DMA_HIGH, 4, 1_u32.to_be());
    g.out(DMA_LOW, 4, 0x1000_u32.to_be());
    // The upper half went with that transfer: the lower half alone is enough for the next.
    let mut access = select_and(key::INITRD_DATA, control::READ)
        .to_be_bytes()
        .to_vec();
    access.extend([0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0x30, 0]);
    g.mock.poke(0x1000, &access);
    g.out(DMA_LOW, 4, 0x1000_u32.to_be());
    assert_eq!(g.mock.peek(0x3000, 2), b"in");
}

proptest! {
    /// Reads in pieces of any size, by either way, give the same bytes.
    #[test]
    fn pieces_make_up_the_item(
        pieces in prop::collection::vec((any::<bool>(), 1_usize..700), 1..8),
    ) {
        let g = guest(mock());
        let mut want = kernel(2, 0x900)[0x600..].to_vec();
        let total: usize = pieces.iter().map(|(_, len)| len).sum();
        want.resize(want.len().max(total), 0);
        g.select(key::KERNEL_DATA);
        let mut got = Vec::new();
        for (dma, len) in pieces {
            if dma {
                prop_assert_eq!(g.dma(control::READ, len as u32, 0x3000), 0);
                got.extend(g.mock.peek(0x3000, len));
            } else {
                let mut buf = vec![0; len];
                g.fw_cfg.read_string(&g.mock, &mut buf);
                got.extend(buf);
            }
        }
        prop_assert_eq!(&got[..], &want[..total]);
    }
}
