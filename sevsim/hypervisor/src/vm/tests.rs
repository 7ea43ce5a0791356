// SPDX-License-Identifier: GPL-2.0
//! VMGEXITs from the guest's side: a page of shared memory in, the same page out.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::mock::{Mock, LOW};
use crate::outcome::Stop;

/// Where the test's GHCB is.
const GHCB: u64 = 0x2000;
/// Its shared buffer.
const BUFFER: u64 = GHCB + 0x800;

// Offsets, as a guest would write them down.
const CPL: u64 = 0xcb;
const XSS: u64 = 0x140;
const RAX: u64 = 0x1f8;
const RCX: u64 = 0x308;
const RDX: u64 = 0x310;
const RBX: u64 = 0x318;
const CODE: u64 = 0x390;
const INFO1: u64 = 0x398;
const INFO2: u64 = 0x3a0;
const SCRATCH: u64 = 0x3a8;
const XCR0: u64 = 0x3e8;
const BITMAP: u64 = 0x3f0;

const BASIC: [u64; 3] = [CODE, INFO1, INFO2];
const GP: u64 = 0x8000_030d;

fn options(vcpus: usize) -> Options {
    Options {
        vcpus,
        ..Options::default()
    }
}

fn vm(vcpus: usize) -> Vm<Mock> {
    vm_of(Mock::new(vcpus), options(vcpus))
}

fn vm_of(mock: Mock, options: Options) -> Vm<Mock> {
    let vm = Vm::new(mock, options).unwrap();
    vm.platform().take_outs();
    vm.platform().writes.lock().unwrap().clear();
    vm.platform().reads.lock().unwrap().clear();
    vm
}

/// A VMGEXIT in preparation.
#[derive(Clone)]
struct Call {
    fields: Vec<(u64, u64)>,
    invalid: Vec<u64>,
    usage: u32,
}

fn call(code: u64, info1: u64, info2: u64) -> Call {
    let fields = vec![(CODE, code), (INFO1, info1), (INFO2, info2)];
    Call {
        fields,
        invalid: Vec::new(),
        usage: 0,
    }
}

/// What came back.
#[derive(Debug)]
struct Reply {
    info1: u64,
    info2: u64,
    /// Offsets of the fields marked valid.
    valid: Vec<u64>,
    next: Next,
    page: Vec<u8>,
}

impl Call {
    fn with(mut self, field: u64, value: u64) -> Self {
        self.fields.push((field, value));
        self
    }

    /// Leaves a field's valid bit clear.
    fn without(mut self, field: u64) -> Self {
        self.invalid.push(field);
        self
    }

    fn run(&self, vm: &Vm<Mock>) -> Reply {
        self.run_on(vm, 0)
    }

    fn run_on(&self, vm: &Vm<Mock>, vcpu: usize) -> Reply {
        let mock = vm.platform();
        let mut bitmap = 0_u128;
        for (field, value) in &self.fields {
            if *field == CPL {
                mock.poke(GHCB + CPL, &[*value as u8]);
            } else {
                mock.poke(GHCB + field, &value.to_le_bytes());
            }
            if !self.invalid.contains(field) {
                bitmap |= 1 << (field / 8);
            }
        }
        mock.poke(GHCB + BITMAP, &bitmap.to_le_bytes());
        mock.poke(GHCB + 0xffa, &2_u16.to_le_bytes());
        mock.poke(GHCB + 0xffc, &self.usage.to_le_bytes());
        let (msr, next) = vm.vmgexit(vcpu, GHCB, 0);
        assert_eq!(msr, GHCB, "the MSR stays");
        reply(mock, next)
    }
}

fn reply(mock: &Mock, next: Next) -> Reply {
    let page = mock.peek(GHCB, 4096);
    let bitmap = u128::from_le_bytes(page[BITMAP as usize..][..16].try_into().unwrap());
    Reply {
        info1: mock.peek_u64(GHCB + INFO1),
        info2: mock.peek_u64(GHCB + INFO2),
        valid: (0..128)
            .filter(|bit| bitmap & (1 << bit) != 0)
            .map(|bit| bit * 8)
            .collect(),
        next,
        page,
    }
}

impl Reply {
    fn field(&self, field: u64) -> u64 {
        assert!(
            self.valid.contains(&field),
            "{field:#x} not valid in {:x?}",
            self.valid
        );
        u64::from_le_bytes(self.page[field as usize..][..8].try_into().unwrap())
    }

    /// Success, with these registers and no others answered.
    fn ok(self, registers: &[u64]) -> Self {
        let mut want = registers.to_vec();
        want.extend([INFO1, INFO2]);
        want.sort_unstable();
        assert_eq!(
            (self.info1, &self.valid),
            (0, &want),
            "info2 {:#x}",
            self.info2
        );
        self
    }

    /// Refused with an error code, and nothing else told.
    fn refused(self, code: u64) -> Self {
        assert_eq!(
            (self.info1, self.info2, &self.valid[..]),
            (2, code, &[INFO1, INFO2][..])
        );
        assert_eq!(self.next, Next::Resume);
        self
    }

    fn faults(self) -> Self {
        assert_eq!(
            (self.info1, self.info2, &self.valid[..]),
            (1, GP, &[INFO1, INFO2][..])
        );
        self
    }
}

/// Each event with everything it needs, and what it needs beyond the basic three.
fn events() -> Vec<(Call, Vec<u64>)> {
    vec![
        (call(0x27, 0, 0), vec![]),
        (call(0x37, 0, 0).with(RAX, 0x400), vec![RAX]),
        (call(0x6e, 0, 0), vec![]),
        (call(0x6f, 0, 0).with(RCX, 0), vec![RCX]),
        (call(0x72, 0, 0).with(RAX, 1).with(RCX, 0), vec![RAX, RCX]),
        (
            call(0x72, 0, 0).with(RAX, 0xd).with(RCX, 0).with(XCR0, 1),
            vec![RAX, RCX, XCR0],
        ),
        (call(0x76, 0, 0), vec![]),
        (call(0x7b, 0x80_0010, 0).with(RAX, 1), vec![RAX]),
        (call(0x7b, 0x80_0011, 0), vec![]),
        (
            call(0x7b, 0x80_001c, 1).with(SCRATCH, BUFFER),
            vec![SCRATCH],
        ),
        (
            call(0x7b, 0x80_001d, 1).with(SCRATCH, BUFFER),
            vec![SCRATCH],
        ),
        (call(0x7c, 0, 0).with(RCX, 0x277), vec![RCX]),
        (
            call(0x7c, 1, 0).with(RCX, 0x277).with(RAX, 6).with(RDX, 0),
            vec![RCX, RAX, RDX],
        ),
        (
            call(0x81, 0, 0).with(RAX, 1).with(CPL, 0),
            vec![RAX, CPL & !7],
        ),
        (call(0x87, 0, 0), vec![]),
        (call(0x89, 0, 0), vec![]),
        (
            call(0x8a, 0, 0).with(RAX, 0).with(RCX, 0).with(RDX, 0),
            vec![RAX, RCX, RDX],
        ),
        (call(0x8b, 0, 0).with(RAX, 0).with(RCX, 0), vec![RAX, RCX]),
        (
            call(0x8000_0001, 0xfed0_0000, 4).with(SCRATCH, BUFFER),
            vec![SCRATCH],
        ),
        (
            call(0x8000_0002, 0xfed0_0000, 4).with(SCRATCH, BUFFER),
            vec![SCRATCH],
        ),
        (call(0x8000_0003, 0, 0), vec![]),
        (call(0x8000_0005, 1, 0), vec![]),
        (call(0x8000_fffd, 0, 0), vec![]),
    ]
}

#[test]
fn every_missing_input_is_refused() {
    for (good, needs) in events() {
        assert_eq!(good.run(&vm(1)).info1, 0, "{:x?}", good.fields);
        for field in BASIC.into_iter().chain(needs) {
            // CPL's bit is that of its quadword.
            let named = if field == CPL & !7 { CPL } else { field };
            good.clone().without(named).run(&vm(1)).refused(4);
        }
    }
}

/// The inputs that an event does not need may be missing, and are not looked at.
#[test]
fn other_inputs_may_be_missing() {
    let all = [RAX, RBX, RCX, RDX, SCRATCH, XCR0, XSS, CPL];
    for (good, needs) in events() {
        let mut call = good.clone();
        for field in all {
            let given = good.fields.iter().any(|(has, _)| *has == field);
            if !given && !needs.contains(&(field & !7)) {
                call = call.with(field, !0).without(field);
            }
        }
        let (with, without) = (call.run(&vm(1)), good.run(&vm(1)));
        assert_eq!((with.info1, with.info2), (0, without.info2));
        for field in [RAX, RBX, RCX, RDX] {
            assert_eq!(with.valid, without.valid, "{:x?}", good.fields);
            if with.valid.contains(&field) {
                assert_eq!(with.field(field), without.field(field), "{field:#x}");
            }
        }
    }
}

/// KVM takes any other value for a write; the specification knows 0 and 1.
#[test]
fn msr_events_read_or_write() {
    for info1 in [2, 3, 1 << 32, u64::MAX] {
        let call = call(0x7c, info1, 0).with(RCX, 0x277);
        call.clone().run(&vm(1)).refused(4);
        let call = call.with(RAX, 6).with(RDX, 0);
        call.run(&vm(1)).refused(5);
    }
}

/// The leaf is EAX; KVM compares all of RAX, and then answers with the XCR0 of an earlier exit.
#[test]
fn leaf_of_cpuid_is_eax() {
    let call = call(0x72, 0, 0).with(RAX, 0x1_0000_000d).with(RCX, 0);
    call.run(&vm(1)).refused(4);
}

#[test]
fn usage_goes_before_everything_else() {
    for code in [0x7b, 0x8000_0010, 0x1234] {
        let mut bad = call(code, 0, 0).without(INFO1);
        bad.usage = 1;
        bad.run(&vm(1)).refused(2);
    }
}

#[test]
fn unknown_and_snp_events_are_refused() {
    for code in [
        0x40,
        0x41,
        0x51,
        0x60,
        0x400,
        0x404,
        0x8000_0000,
        0x8000_0014,
        0x8000_0015,
        0x8000_0017,
        0x8000_0018,
        0x1_8000_0003,
        u64::MAX,
    ] {
        call(code, 0, 0).run(&vm(1)).refused(6);
    }
    // SNP events are refused as such before their inputs are looked at.
    for code in 0x8000_0010..=0x8000_0013 {
        call(code, 0, 0).without(INFO2).run(&vm(1)).refused(6);
    }
    // The inputs of an unknown event go first, as in KVM.
    call(0x1234, 0, 0).without(INFO2).run(&vm(1)).refused(4);
}

#[test]
fn each_field_is_read_once() {
    for (good, _) in events() {
        let vm = vm(1);
        good.run(&vm);
        let mut reads = vm.platform().reads.lock().unwrap().clone();
        reads.retain(|(gpa, _)| *gpa & !0xfff == GHCB);
        let all = reads.len();
        reads.sort_unstable();
        reads.dedup();
        assert_eq!(reads.len(), all, "{:x?}", good.fields);
        assert!(all <= 10, "{all} reads for {:x?}", good.fields);
    }
}

#[test]
fn page_without_ghcb_is_no_accident() {
    let vm = vm(1);
    for gpa in [0, LOW, 0xfee0_0000, 1 << 51, u64::MAX & !0xfff] {
        assert_eq!(vm.vmgexit(0, gpa, 0), (gpa, Next::Resume));
    }
    assert_eq!(vm.platform().writes.lock().unwrap().len(), 0);
}

#[test]
fn single_port_io() {
    let vm = vm(1);
    let out = |size: u64, rax| {
        call(0x7b, (0x3f8 << 16) | (size << 4), 0)
            .with(RAX, rax)
            .run(&vm)
    };
    out(1, 0x1234_5678_9abc_def0).ok(&[]);
    out(2, 0x1234_5678_9abc_def0).ok(&[]);
    out(4, 0x1234_5678_9abc_def0).ok(&[]);
    assert_eq!(
        vm.platform().take_outs(),
        [
            (0x3f8, 1, 0xf0),
            (0x3f8, 2, 0xdef0),
            (0x3f8, 4, 0x9abc_def0)
        ]
    );
    vm.platform()
        .ports
        .lock()
        .unwrap()
        .insert(0x3f8, 0xaabb_ccdd);
    let input = |size: u64| {
        call(0x7b, (0x3f8 << 16) | (size << 4) | 1, 0)
            .with(RAX, !0)
            .run(&vm)
    };
    assert_eq!(input(1).ok(&[RAX]).field(RAX), 0xffff_ffff_ffff_ffdd);
    assert_eq!(input(2).ok(&[RAX]).field(RAX), 0xffff_ffff_ffff_ccdd);
    assert_eq!(input(4).ok(&[RAX]).field(RAX), 0xaabb_ccdd);
    let bare = call(0x7b, (0x3f8 << 16) | 0x11, 0).run(&vm);
    assert_eq!(
        bare.ok(&[RAX]).field(RAX),
        0xdd,
        "RAX that is not valid counts as 0"
    );
}

#[test]
fn port_io_sizes() {
    let vm = vm(1);
    call(0x7b, 0x3f8 << 16, 0).with(RAX, 1).run(&vm).ok(&[]);
    for size in [3, 5, 6, 7] {
        call(0x7b, (0x3f8 << 16) | (size << 4), 0)
            .with(RAX, 1)
            .run(&vm)
            .refused(5);
    }
    assert_eq!(vm.platform().take_outs(), []);
}

#[test]
fn string_io_moves_the_buffer() {
    let vm = vm(1);
    let text: Vec<u8> = (0..600).map(|i| i as u8).collect();
    vm.platform().poke(BUFFER, &text);
    call(0x7b, (0x3f8 << 16) | 0x1c, 600)
        .with(SCRATCH, BUFFER)
        .run(&vm)
        .ok(&[]);
    let outs = vm.platform().take_outs();
    let want: Vec<_> = text.iter().map(|b| (0x3f8, 1, u32::from(*b))).collect();
    assert_eq!(outs, want);

    call(0x7b, (0x3f8 << 16) | 0x4c, 100)
        .with(SCRATCH, BUFFER)
        .run(&vm)
        .ok(&[]);
    let outs = vm.platform().take_outs();
    assert_eq!(outs.len(), 100);
    assert_eq!(outs[65], (0x3f8, 4, u32::from_le_bytes([4, 5, 6, 7])));

    let values: Vec<u32> = (0..300).map(|i| i * 257).collect();
    vm.platform()
        .queues
        .lock()
        .unwrap()
        .insert(0x1f0, values.clone());
    call(0x7b, (0x1f0 << 16) | 0x2d, 300)
        .with(SCRATCH, BUFFER + 2)
        .run(&vm)
        .ok(&[]);
    let want: Vec<u8> = values
        .iter()
        .flat_map(|v| (*v as u16).to_le_bytes())
        .collect();
    assert_eq!(vm.platform().peek(BUFFER + 2, 600), want);
    assert_eq!(
        vm.platform().peek(BUFFER, 2),
        [0, 1],
        "nothing before the area"
    );
    assert_eq!(vm.vcpu(0).own.stats.string_bytes.get(), 600 + 400 + 600);
}

#[test]
fn string_io_bounds() {
    let run = |version, size: u64, count: u64, scratch| {
        let vm = vm_of(
            Mock::new(1),
            Options {
                ghcb: version,
                ..options(1)
            },
        );
        let reply = call(0x7b, (0x3f8 << 16) | (size << 4) | 0xc, count)
            .with(SCRATCH, scratch)
            .run(&vm);
        (reply, vm.platform().take_outs().len())
    };
    // The shared buffer is 2032 bytes at 0x800.
    for (count, scratch, ok) in [
        (2032, BUFFER, true),
        (2033, BUFFER, false),
        (1, BUFFER + 2031, true),
        (1, BUFFER + 2032, false),
        (2, BUFFER + 2031, false),
        (1, BUFFER - 1, false),
        (1, GHCB, false),
        (1, 0, false),
        (1, 0x4000, false),
        (1, u64::MAX, false),
        (2, u64::MAX, false),
    ] {
        let (reply, outs) = run(2, 1, count, scratch);
        if ok {
            reply.ok(&[]);
            assert_eq!(outs, count as usize);
        } else {
            reply.refused(3);
            assert_eq!(outs, 0);
        }
    }
    // Version 1 may pass memory elsewhere, up to 64 KiB of RAM.
    for (count, scratch, ok) in [
        (0x1000, 0x4000, true),
        (0x1000, LOW - 0x1000, true),
        (0x1001, LOW - 0x1000, false),
        (1, 0xfee0_0000, false),
        (0x1_0001, 0x1000, false),
        (2033, BUFFER, false),
    ] {
        let (reply, outs) = run(1, 1, count, scratch);
        assert_eq!(reply.info1 == 0, ok, "{count:#x} at {scratch:#x}");
        assert_eq!(outs, if ok { count as usize } else { 0 });
    }
    // Counts whose size in bytes does not fit.
    for (size, count) in [
        (4, 1 << 62),
        (4, 0x2000_0000),
        (1, 0x8000_0000),
        (2, u64::MAX),
    ] {
        run(2, size, count, BUFFER).0.refused(5);
    }
    run(2, 1, 0, 0).0.ok(&[]);
}

#[test]
fn host_ports_are_not_there() {
    let vm = vm(1);
    for port in [0xe9, 0xf4, 0xf5, 0xf7, 0xf2] {
        call(0x7b, (port << 16) | 0x40, 0)
            .with(RAX, 0)
            .run(&vm)
            .ok(&[]);
        let reply = call(0x7b, (port << 16) | 0x41, 0).run(&vm);
        assert_eq!(reply.field(RAX), 0xffff_ffff);
    }
    assert_eq!(vm.platform().take_outs(), []);
    for port in [0xe5, 0xea, 0xf8] {
        call(0x7b, (port << 16) | 0x40, 0)
            .with(RAX, 0)
            .run(&vm)
            .ok(&[]);
    }
    call(0x7b, (0xf3 << 16) | 0x10, 0)
        .with(RAX, 0)
        .run(&vm)
        .ok(&[]);
    assert_eq!(vm.platform().take_outs().len(), 4);
}

#[test]
fn power_off_and_reset_stop_the_vm() {
    let vm = vm(1);
    let out = |port: u64, size: u64, value| {
        call(0x7b, (port << 16) | (size << 4), 0)
            .with(RAX, value)
            .run(&vm)
            .ok(&[])
            .next
    };
    assert_eq!(out(0x604, 2, 0x2000), Next::Stop(Stop::PowerOff));
    assert_eq!(out(0xcf9, 1, 6), Next::Stop(Stop::Reset));
    assert_eq!(out(0x64, 1, 0xfe), Next::Stop(Stop::Reset));
    assert!(vm
        .platform()
        .take_outs()
        .iter()
        .all(|(port, ..)| *port == 0xcf8));
    assert_eq!(out(0x604, 2, 1), Next::Resume);
    assert_eq!(vm.platform().take_outs(), [(0x604, 2, 1)]);
    // A string reaches the port too.
    vm.platform().poke(BUFFER, &[2, 6, 0]);
    let string = call(0x7b, (0xcf9 << 16) | 0x1c, 3)
        .with(SCRATCH, BUFFER)
        .run(&vm);
    assert_eq!(string.ok(&[]).next, Next::Stop(Stop::Reset));
}

/// An access that only touches a filtered port is no way around the filter.
#[test]
fn straddling_accesses_are_filtered() {
    let vm = vm(1);
    let out = |port: u64, size: u64, value: u64| {
        let next = call(0x7b, (port << 16) | (size << 4), 0)
            .with(RAX, value)
            .run(&vm)
            .ok(&[])
            .next;
        (next, vm.platform().take_outs())
    };
    let bytes = |port, values: &[u32]| -> Vec<_> {
        let each = values.iter().enumerate();
        each.map(|(i, v)| (port + i as u16, 1, *v)).collect()
    };
    for (port, size, value) in [
        (0x63_u64, 2, 0xfe00_u64),
        (0x61, 4, 0xfe00_0000),
        (0x91, 2, 0x0100),
        (0xcf8, 2, 0x0600),
        (0xcf7, 4, 0x0006_0000),
        (0xcf6, 4, 0x0600_0000),
        (0xcf9, 4, 0x6),
        (0x603, 4, 0x0020_0000),
        (0x604, 1, 0x20),
        (0x605, 1, 0x20),
        (0x602, 4, 0x2000_0000),
        (0x605, 2, 0x0020),
    ] {
        let (next, _) = out(port, size, value);
        if (port, size) == (0x604, 1) {
            assert_eq!(next, Next::Resume, "the lower byte has no SLP_EN");
        } else {
            assert!(matches!(next, Next::Stop(_)), "{port:#x} {size}");
        }
    }
    // Harmless values pass, byte by byte.
    assert_eq!(out(0x91, 2, 0x0201).1, bytes(0x91, &[1, 2]));
    // The upper half of a DMA address, then the lower one: nothing that QEMU's device sees.
    assert_eq!(out(0x512, 4, 0x1122_3344).1, bytes(0x512, &[0x44, 0x33]));
    assert_eq!(out(0x50f, 2, 0x0811).1, bytes(0x50f, &[0x11]));
    assert_eq!(out(0x51a, 4, 0x1122_3344).1, bytes(0x51c, &[0x22, 0x11]));
    // CMOS: the cell that counts CPUs is selected and not written.
    assert_eq!(
        out(0x6f, 4, 0x99_5f07).1,
        bytes(0x6f, &[7, 0x5f])
            .into_iter()
            .chain(bytes(0x72, &[0]))
            .collect::<Vec<_>>()
    );
    let read = call(0x7b, (0x70 << 16) | 0x21, 0).run(&vm).ok(&[RAX]);
    assert_eq!(read.field(RAX) >> 8, 0, "one CPU less one");
    // Whole accesses stay whole.
    assert_eq!(out(0xcf8, 4, 0x8000_0600).1, [(0xcf8, 4, 0x8000_0600)]);
    assert_eq!(out(0xcfc, 4, 0x0600).1, [(0xcfc, 4, 0x0600)]);
    assert_eq!(out(0x604, 2, 1).1, [(0x604, 2, 1)]);
    assert_eq!(out(0x600, 4, 0x2000_0001).1, [(0x600, 4, 0x2000_0001)]);
}

#[test]
fn cmos_by_exits() {
    let mock = Mock {
        ram: (LOW, 0x1234_0000),
        ..Mock::new(2)
    };
    let vm = vm_of(mock, options(2));
    call(0x7b, (0x70 << 16) | 0x10, 0)
        .with(RAX, 0x5c)
        .run(&vm)
        .ok(&[]);
    let read = call(0x7b, (0x71 << 16) | 0x11, 0).run(&vm);
    assert_eq!(read.field(RAX), 0x12);
}

#[test]
fn mmio_reads_and_writes_devices() {
    let vm = vm(1);
    let at = 0xfed0_0000;
    for (len, value) in [
        (1, 0x11_u64),
        (2, 0x2222),
        (4, 0x4444_4444),
        (8, 0x8888_8888_8888_8888),
    ] {
        vm.platform().poke(BUFFER, &value.to_le_bytes());
        call(0x8000_0002, at, len)
            .with(SCRATCH, BUFFER)
            .run(&vm)
            .ok(&[]);
        assert_eq!(vm.platform().take_mmio(), [(at, len as u8, value)]);
        vm.platform().poke(BUFFER, &[0xee; 16]);
        call(0x8000_0001, at, len)
            .with(SCRATCH, BUFFER + 1)
            .run(&vm)
            .ok(&[]);
        let got = vm.platform().peek(BUFFER, 16);
        assert_eq!(got[1..=len as usize], value.to_le_bytes()[..len as usize]);
        assert!(
            got[0] == 0xee && got[len as usize + 1] == 0xee,
            "exactly the length"
        );
    }
    assert_eq!(vm.vcpu(0).own.stats.mmio_bytes.get(), 2 * 15);
}

#[test]
fn ioapic_entries_are_filtered() {
    let vm = vm(1);
    for (at, value) in [(0xfec0_0000, 0x10_u32), (0xfec0_0010, 0x0531)] {
        vm.platform().poke(BUFFER, &value.to_le_bytes());
        let write = call(0x8000_0002, at, 4).with(SCRATCH, BUFFER);
        write.run(&vm).ok(&[]);
    }
    assert_eq!(
        vm.platform().take_mmio()[1],
        (0xfec0_0010, 4, 0x1_0531),
        "INIT is masked"
    );
}

#[test]
fn mmio_bounds() {
    let run = |version, gpa, len, scratch| {
        let vm = vm_of(
            Mock::new(1),
            Options {
                ghcb: version,
                ..options(1)
            },
        );
        let reply = call(0x8000_0002, gpa, len).with(SCRATCH, scratch).run(&vm);
        let writes = vm.platform().take_mmio().len();
        (reply, writes)
    };
    let device = 0xfed0_0000;
    run(2, device, 0, 0).0.ok(&[]);
    run(2, device, 9, BUFFER).0.refused(5);
    assert_eq!(run(1, device, 16, BUFFER).1, 2);
    run(1, device, 0x7f1, BUFFER).0.refused(5);
    run(2, device, 8, BUFFER + 0x7f0 - 4).0.refused(3);
    for ram in [
        0x3000,
        LOW - 4,
        0xffff_fffc,
        0x1_0000_0000,
        0x2_8fff_fff8,
        (1 << 48) - 4,
        1 << 48,
        1 << 51,
        u64::MAX - 3,
    ] {
        let (reply, writes) = run(2, ram, 8, BUFFER);
        reply.refused(5);
        assert_eq!(writes, 0, "{ram:#x}");
    }
    assert_eq!(run(2, 0xb_8000, 2, BUFFER).1, 1, "VGA");
    assert_eq!(
        run(2, 0x2_9000_0000, 8, BUFFER).1,
        1,
        "above the host's memory"
    );
}

#[test]
fn local_apic_by_mmio() {
    let vm = vm(2);
    vm.platform().poke(BUFFER, &(0xc_0400_u32).to_le_bytes());
    call(0x8000_0002, 0xfee0_0300, 4)
        .with(SCRATCH, BUFFER)
        .run(&vm)
        .ok(&[]);
    assert!(vm.nmi_ready(1) && !vm.nmi_ready(0));
    assert_eq!(vm.platform().take_kicks(), [1]);
    assert_eq!(vm.platform().take_mmio(), []);
    vm.platform().poke(BUFFER, &[0; 4]);
    call(0x8000_0001, 0xfee0_0300, 4)
        .with(SCRATCH, BUFFER)
        .run(&vm)
        .ok(&[]);
    assert_eq!(vm.platform().peek(BUFFER, 4), 0xc_0400_u32.to_le_bytes());
    vm.platform()
        .mmio
        .lock()
        .unwrap()
        .insert(0xfee0_0030, 0x5_0014);
    call(0x8000_0001, 0xfee0_0030, 4)
        .with(SCRATCH, BUFFER)
        .run(&vm)
        .ok(&[]);
    assert_eq!(vm.platform().peek(BUFFER, 4), 0x5_0014_u32.to_le_bytes());
}

#[test]
fn msr_values_are_split_over_two_registers() {
    let vm = vm(1);
    let write = |msr, rax, rdx| {
        call(0x7c, 1, 0)
            .with(RCX, msr)
            .with(RAX, rax)
            .with(RDX, rdx)
            .run(&vm)
    };
    write(0x277, 0xffff_ffff_0007_0406, 0x0607_0406).ok(&[]);
    let read = call(0x7c, 0, 0)
        .with(RCX, 0xdead_0000_0277)
        .run(&vm)
        .refused_not();
    assert_eq!(read.field(RAX), 0x0007_0406);
    assert_eq!(read.field(RDX), 0x0607_0406);
    write(0xc000_0080, 0, 0).faults();
    call(0x7c, 0, 0).with(RCX, 0xc000_0080).run(&vm).faults();
    call(0x7c, 2, 0)
        .with(RCX, 0x277)
        .with(RAX, 0)
        .with(RDX, 0)
        .run(&vm)
        .refused(5);
}

impl Reply {
    /// Success with RAX and RDX answered.
    fn refused_not(self) -> Self {
        self.ok(&[RAX, RDX])
    }
}

#[test]
fn time_and_counters() {
    let vm = vm(1);
    vm.platform().tsc.set(0x1234_5678_9abc_def0);
    vm.platform().msrs.lock().unwrap().insert(0xc000_0103, 0x42);
    let reply = call(0x6e, 0, 0).run(&vm).ok(&[RAX, RDX]);
    assert_eq!(
        (reply.field(RDX), reply.field(RAX)),
        (0x1234_5678, 0x9abc_def0)
    );
    let reply = call(0x87, 0, 0).run(&vm).ok(&[RAX, RCX, RDX]);
    assert_eq!((reply.field(RDX), reply.field(RCX)), (0x1234_5678, 0x42));
    for counter in 0..4 {
        let reply = call(0x6f, 0, 0).with(RCX, counter).run(&vm).ok(&[RAX, RDX]);
        assert_eq!((reply.field(RAX), reply.field(RDX)), (0, 0));
    }
    call(0x6f, 0, 0).with(RCX, 4).run(&vm).faults();
}

#[test]
fn dr7_is_remembered() {
    let vm = vm(2);
    assert_eq!(call(0x27, 0, 0).run(&vm).ok(&[RAX]).field(RAX), 0x400);
    call(0x37, 0, 0).with(RAX, 0x455).run(&vm).ok(&[]);
    assert_eq!(call(0x27, 0, 0).run(&vm).field(RAX), 0x455);
    assert_eq!(
        call(0x27, 0, 0).run_on(&vm, 1).field(RAX),
        0x400,
        "for each vCPU"
    );
}

#[test]
fn hypercalls() {
    let vm = vm(1);
    let run = |nr, cpl| {
        call(0x81, 0, 0)
            .with(RAX, nr)
            .with(CPL, cpl)
            .run(&vm)
            .ok(&[RAX])
            .field(RAX)
    };
    assert_eq!(run(1, 0), 0);
    assert_eq!(run(1, 3) as i64, -1);
    assert_eq!(run(99, 0) as i64, -1000);
}

#[test]
fn cpuid_by_exit_and_by_msr_agree() {
    let mock = Mock::new(1);
    mock.cpuids
        .lock()
        .unwrap()
        .insert((0x8000_0001, 0), [1, 2, 3, 4]);
    let vm = vm_of(mock, options(1));
    let reply = call(0x72, 0, 0)
        .with(RAX, 0x8000_0001)
        .with(RCX, 0)
        .run(&vm);
    let reply = reply.ok(&[RAX, RBX, RCX, RDX]);
    for (i, field) in [RAX, RBX, RCX, RDX].into_iter().enumerate() {
        let request = (0x8000_0001_u64 << 32) | ((i as u64) << 30) | 4;
        let (msr, next) = vm.vmgexit(0, request, 0);
        assert_eq!(next, Next::Resume);
        assert_eq!(msr >> 32, reply.field(field));
        assert_eq!(msr & 0xfff, 5);
        assert_eq!((msr >> 30) & 3, i as u64);
    }
}

#[test]
fn xss_reaches_cpuid() {
    let mock = Mock::new(1);
    let leaves = [((0xd, 1), [0xf, 0, 0, 0]), ((0xd, 11), [16, 0, 1, 0])];
    mock.cpuids.lock().unwrap().extend(leaves);
    let vm = vm_of(mock, options(1));
    let ask = call(0x72, 0, 0)
        .with(RAX, 0xd)
        .with(RCX, 1)
        .with(XCR0, 1)
        .with(XSS, 1 << 11);
    assert_eq!(ask.run(&vm).ok(&[RAX, RBX, RCX, RDX]).field(RBX), 576 + 16);
    assert_eq!(ask.without(XSS).run(&vm).field(RBX), 576);
}

#[test]
fn cr4_reaches_cpuid() {
    let mock = Mock::new(1);
    mock.cpuids
        .lock()
        .unwrap()
        .insert((1, 0), [0, 0, 1 << 26, 0]);
    let vm = vm_of(mock, options(1));
    let ecx = |cr4| vm.vmgexit(0, (1 << 32) | (2 << 30) | 4, cr4).0 >> 32;
    assert_eq!((ecx(1 << 18) >> 27) & 1, 1);
    assert_eq!((ecx(0) >> 27) & 1, 0);
}

#[test]
fn msr_protocol() {
    let mock = Mock {
        ram: (LOW, 0),
        ..Mock::new(1)
    };
    let vm2 = vm_of(mock, options(1));
    assert_eq!(
        vm2.ghcb_msr_at_reset(),
        (2 << 48) | (1 << 32) | (51 << 24) | 1
    );
    let ask = |vm: &Vm<Mock>, msr| vm.vmgexit(0, msr, 0);
    let resume = |msr| (msr, Next::Resume);
    assert_eq!(ask(&vm2, 2), resume(vm2.ghcb_msr_at_reset()));
    assert_eq!(ask(&vm2, 0x10), resume(!0xfff | 0x11));
    assert_eq!(ask(&vm2, 0x5012), resume(0x5013));
    assert_eq!(ask(&vm2, LOW | 0x12), resume(!0xfff | 0x13), "not RAM");
    assert_eq!(ask(&vm2, 0x80), resume(0x81));
    for unknown in [0x1, 0x5, 0x7, 0x1234_5014, 0x16, 0x101, 0xfff] {
        assert_eq!(ask(&vm2, unknown), resume(unknown), "left as it is");
    }
    let stop = Stop::Terminate { set: 1, code: 0x23 };
    assert_eq!(ask(&vm2, 0x23_1100), (0x23_1100, Next::Stop(stop)));

    let vm1 = vm_of(
        Mock::new(1),
        Options {
            ghcb: 1,
            cbit: 47,
            ..options(1)
        },
    );
    assert_eq!(ask(&vm1, 2).0, (1 << 48) | (1 << 32) | (47 << 24) | 1);
    assert_eq!(ask(&vm1, 0x10), resume(0x10));
    assert_eq!(ask(&vm1, 0x5012), resume(0x5012));
}

#[test]
fn termination_by_exit() {
    let vm = vm(1);
    let next = call(0x8000_fffe, 0x231, 0).run(&vm).next;
    assert_eq!(next, Next::Stop(Stop::Terminate { set: 1, code: 0x23 }));
    let next = call(0x8000_ffff, 0x41, 0).run(&vm).next;
    assert_eq!(next, Next::Stop(Stop::UnsupportedEvent { code: 0x41 }));
}

#[test]
fn jump_table_is_shared_by_all() {
    let vm = vm(2);
    assert_eq!(call(0x8000_0005, 1, 0).run(&vm).ok(&[]).info2, 0);
    call(0x8000_0005, 0, 0x80_b000).run(&vm).ok(&[]);
    assert_eq!(
        call(0x8000_0005, 1, 0).run_on(&vm, 1).ok(&[]).info2,
        0x80_b000
    );
    call(0x8000_0005, 2, 0).run(&vm).refused(5);
}

#[test]
fn no_features_without_snp() {
    assert_eq!(call(0x8000_fffd, 0, 0).run(&vm(1)).ok(&[]).info2, 0);
}

#[test]
fn nmi_complete_opens_the_window_for_this_vmrun() {
    let vm = vm(1);
    vm.nmi_arrived(0);
    assert!(vm.take_nmi(0));
    vm.nmi_arrived(0);
    // An exit within the handler does not open it.
    call(0x6e, 0, 0).run(&vm);
    assert!(!vm.take_nmi(0));
    assert_eq!(call(0x8000_0003, 0, 0).run(&vm).ok(&[]).next, Next::Resume);
    assert!(
        vm.nmi_ready(0) && vm.take_nmi(0),
        "before the guest goes on"
    );
    assert_eq!(vm.vcpu(0).own.stats.nmis.get(), 2);
    // A request that is refused completes nothing.
    vm.nmi_arrived(0);
    call(0x8000_0003, 0, 0).without(INFO2).run(&vm).refused(4);
    assert!(!vm.take_nmi(0));
}

/// Sends INIT or SIPI to all others.
fn ipi(vm: &Vm<Mock>, from: usize, low: u32) {
    vm.platform().poke(BUFFER, &low.to_le_bytes());
    call(0x8000_0002, 0xfee0_0300, 4)
        .with(SCRATCH, BUFFER)
        .run_on(vm, from)
        .ok(&[]);
}

const INIT: u32 = 0xc_4500;
const SIPI: u32 = 0xc_4608;

#[test]
fn reset_hold_by_exit() {
    let vm = vm(2);
    ipi(&vm, 0, INIT);
    ipi(&vm, 0, SIPI);
    ipi(&vm, 0, SIPI);
    assert!(vm.may_start(1));
    let held = call(0x8000_0004, 0, 0).run_on(&vm, 1).ok(&[]);
    assert_eq!((held.next, held.info2), (Next::Hold, 0));
    assert_eq!(vm.release(1), None);
    vm.platform().take_kicks();
    let before = vm.platform().peek(GHCB, 4096);
    // (The test's two vCPUs share a GHCB, so put the held one's back.)
    ipi(&vm, 0, INIT);
    ipi(&vm, 0, SIPI);
    vm.platform().poke(GHCB, &before);
    assert_eq!(vm.platform().take_kicks(), [1]);
    assert_eq!(vm.release(1), Some(GHCB));
    assert_eq!(
        reply(vm.platform(), Next::Resume).ok(&[]).info2,
        1,
        "a SIPI came"
    );
    assert_eq!(vm.release(1), None, "once");
}

#[test]
fn reset_hold_by_msr() {
    let vm = vm(2);
    ipi(&vm, 0, INIT);
    ipi(&vm, 0, SIPI);
    assert!(vm.may_start(1));
    assert_eq!(vm.vmgexit(1, 6, 0), (7, Next::Hold));
    assert_eq!(vm.release(1), None);
    ipi(&vm, 0, INIT);
    ipi(&vm, 0, SIPI);
    assert_eq!(vm.release(1), Some(0x1007));
    // An NMI ends the hold too, but is no SIPI.
    assert_eq!(vm.vmgexit(1, 6, 0), (7, Next::Hold));
    vm.nmi_arrived(1);
    assert_eq!(vm.release(1), Some(7));
    assert!(vm.take_nmi(1));
    assert_eq!(vm.vmgexit(1, 6, 0), (7, Next::Hold));
    vm.nmi_arrived(1);
    assert_eq!(vm.release(1), None, "the window is closed");
}

#[test]
fn nmi_before_the_first_start_is_lost_by_init() {
    let vm = vm(2);
    vm.nmi_arrived(1);
    ipi(&vm, 0, INIT);
    assert!(!vm.nmi_ready(1));
}

#[test]
fn complaints_are_limited() {
    let vm = vm(1);
    (0..100).for_each(|_| drop(call(0x1234, 0, 0).run(&vm)));
    let lines = vm.platform().lines.lock().unwrap();
    assert_eq!(lines.len() as u64, MAX_COMPLAINTS);
    assert_eq!(
        lines[0],
        "vcpu 0: VMGEXIT code=0x1234 info1=0x0 info2=0x0: InvalidEvent"
    );
}

#[test]
fn report_lists_what_occurred() {
    let vm = vm(2);
    call(0x89, 0, 0).run(&vm);
    call(0x89, 0, 0).run(&vm);
    vm.vmgexit(1, 2, 0);
    vm.report();
    assert_eq!(
        *vm.platform().lines.lock().unwrap(),
        [
            "report ghcb-exit vcpu=0 name=wbinvd count=2",
            "report ghcb-data vcpu=0 string-io-bytes=0 mmio-bytes=0 nmis=0",
            "report ghcb-exit vcpu=1 name=msr-protocol count=1",
            "report ghcb-data vcpu=1 string-io-bytes=0 mmio-bytes=0 nmis=0",
        ]
    );
}

#[test]
fn setup_is_checked() {
    let fails = |mock: Mock| Vm::new(mock, Options::default()).err();
    assert_eq!(fails(Mock::new(0)), Some(SetupError::BadVcpus));
    assert_eq!(fails(Mock::new(9)), Some(SetupError::BadVcpus));
    let mock = Mock::new(1);
    mock.file(0, b"QEMX");
    assert_eq!(fails(mock), Some(SetupError::NoFwCfg));
    let kernel = |bytes: Vec<u8>| Mock {
        kernel: Some(bytes),
        ..Mock::new(1)
    };
    assert_eq!(fails(kernel(vec![0; 0x1000])), Some(SetupError::BadKernel));
    assert_eq!(fails(kernel(vec![0; 0x10])), Some(SetupError::BadKernel));
    assert!(SetupError::BadKernel.to_string().contains("bzImage"));
}

proptest! {
    /// Whatever the guest puts into its GHCB, the hypervisor answers it in the GHCB and touches
    /// neither RAM outside of GHCB and scratch area nor the host's memory.
    #[test]
    fn garbage_stays_in_its_place(
        code in prop_oneof![
            0_u64..0x100, 0x8000_0000_u64..0x8000_0020, 0x8000_fff0_u64..=0x8000_ffff, any::<u64>()
        ],
        info1 in any::<u64>(),
        info2 in prop_oneof![0_u64..16, any::<u64>()],
        scratch in prop_oneof![GHCB..GHCB + 0x1000, any::<u64>()],
        registers in any::<[u64; 4]>(),
        bitmap in any::<u128>(),
        version in 1_u16..=2,
    ) {
        let vm = vm_of(Mock::new(2), Options { ghcb: version, ..options(2) });
        let mock = vm.platform();
        let fields = [(CODE, code), (INFO1, info1), (INFO2, info2), (SCRATCH, scratch)];
        let registers = [RAX, RCX, RDX, RBX].into_iter().zip(registers);
        for (field, value) in fields.into_iter().chain(registers) {
            mock.poke(GHCB + field, &value.to_le_bytes());
        }
        let basic = 7_u128 << (CODE / 8);
        mock.poke(GHCB + BITMAP, &(bitmap | basic).to_le_bytes());
        let (msr, _) = vm.vmgexit(0, GHCB, 0);
        prop_assert_eq!(msr, GHCB);
        let got = reply(mock, Next::Resume);
        prop_assert!(got.info1 <= 2);
        prop_assert!(got.valid.contains(&INFO1) && got.valid.contains(&INFO2));
        for (gpa, bytes) in mock.writes.lock().unwrap().iter() {
            let end = gpa + bytes.len() as u64;
            let in_page = *gpa >= GHCB && end <= GHCB + 0x1000;
            // fw_cfg and the clock write where the guest tells them, always RAM.
            prop_assert!(in_page || end <= LOW);
        }
        for (gpa, bytes, _) in mock.take_mmio() {
            prop_assert!(vm.ram().device(gpa, bytes.into()));
        }
    }
}

/// A VM whose host lies.
fn lying(vcpus: usize, words: &str) -> Vm<Mock> {
    let words = words.split(' ').map(|word| format!("lie={word} "));
    let text = format!("{}vcpus={vcpus}", words.collect::<String>());
    vm_of(Mock::new(vcpus), Options::parse(&text).unwrap())
}

#[test]
fn a_hold_ends_at_once_or_never() {
    let vm = lying(2, "firmware:hold:at-once");
    assert_eq!(vm.vmgexit(1, 6, 0), (0x1007, Next::Resume));
    let held = call(0x8000_0004, 0, 0).run_on(&vm, 1).ok(&[]);
    assert_eq!((held.next, held.info2), (Next::Resume, 1));
    let vm = lying(2, "firmware:hold:never");
    ipi(&vm, 0, INIT);
    ipi(&vm, 0, SIPI);
    assert!(vm.may_start(1));
    assert_eq!(vm.vmgexit(1, 6, 0), (7, Next::Hold));
    ipi(&vm, 0, INIT);
    ipi(&vm, 0, SIPI);
    assert_eq!(vm.release(1), None);
}

#[test]
fn a_reset_without_need_ends_the_next_hold() {
    let vm = lying(1, "firmware:sipi:2");
    let exit = || {
        call(0x6e, 0, 0).run(&vm);
        vm.vmgexit(0, GHCB, 0).0
    };
    assert_eq!(exit(), vm.ghcb_msr_at_reset(), "the second reply");
    assert_eq!(vm.vmgexit(0, 6, 0), (7, Next::Hold));
    assert_eq!(vm.release(0), Some(0x1007));
}

#[test]
fn sev_status_and_time_are_lied_about() {
    let status = call(0x7c, 0, 0).with(RCX, 0xc001_0131);
    status.run(&vm(1)).faults();
    let vm = lying(1, "any:sev-status:7");
    assert_eq!(status.run(&vm).field(RAX), 7);
    let time = || call(0x6e, 0, 0).run(&vm).field(RAX);
    let before = time();
    vm.tsc_went_back(0, 300);
    vm.tsc_went_back(0, 100);
    assert_eq!(time(), before - 400);
}
