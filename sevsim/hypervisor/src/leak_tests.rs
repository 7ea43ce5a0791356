// SPDX-License-Identifier: GPL-2.0
//! Tests of the leak check: a page, what the guest changes in it, and what is found.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::*;
use layout::{CPL, RAX, RBX, RCX, RDX, SW_EXITCODE, SW_EXITINFO1, SW_EXITINFO2, SW_SCRATCH, XCR0};

const GPA: u64 = 0x7000;
const SECRET: u64 = 0x5ec2_e75e_c2e7_0001;

struct Guest {
    seen: Seen,
    page: BTreeMap<u64, u64>,
}

impl Guest {
    /// A guest that has performed a VMGEXIT before.
    fn new() -> Self {
        let mut guest = Self {
            seen: Seen::new(),
            page: BTreeMap::new(),
        };
        assert!(guest.exit(code::WBINVD, 0, 0, &[]).is_empty());
        guest
    }

    /// A VMGEXIT with these fields, and what is found.
    fn exit(&mut self, code: u64, info1: u64, info2: u64, fields: &[(Field, u64)]) -> Vec<Leak> {
        let mut valid = Valid::NONE;
        let basic = [
            (SW_EXITCODE, code),
            (SW_EXITINFO1, info1),
            (SW_EXITINFO2, info2),
        ];
        for (field, value) in basic.iter().chain(fields) {
            let shift = 8 * (field.offset() & 7);
            self.page.insert(field.offset() & !7, value << shift);
            valid = valid.with(*field);
        }
        let field = |wanted: Field| {
            let found = fields.iter().find(|(field, _)| *field == wanted);
            found.map_or(0, |(_, value)| *value)
        };
        let request = Request {
            code,
            info1,
            info2,
            rax: field(RAX),
            scratch: field(SW_SCRATCH),
        };
        let mut leaks = Vec::new();
        let read = |offset| self.page.get(&offset).copied().unwrap_or(0);
        self.seen
            .request(GPA, valid, &request, read, |leak| leaks.push(leak));
        self.seen.reply(read);
        leaks
    }
}

fn found(code: u64, offset: u64, bits: u64) -> Vec<Leak> {
    vec![Leak { code, offset, bits }]
}

#[test]
fn what_an_event_needs_is_no_leak() {
    let buffer = GPA + layout::SHARED_BUFFER;
    let mut guest = Guest::new();
    let out = |size: u64| (0x3f8 << 16) | (size << 4);
    for (code, info1, info2, fields) in [
        (code::CPUID, 0, 0, vec![(RAX, 7), (RCX, 1)]),
        (code::CPUID, 0, 0, vec![(RAX, 0xd), (RCX, 1), (XCR0, 7)]),
        (code::IOIO, out(1), 0, vec![(RAX, 0x5a)]),
        (code::IOIO, out(4), 0, vec![(RAX, LOW)]),
        (code::IOIO, out(2) | 1, 0, vec![(RAX, 0)]),
        (code::MSR, 1, 0, vec![(RCX, 0x10), (RAX, LOW), (RDX, LOW)]),
        (code::VMMCALL, 0, 0, vec![(RAX, SECRET), (CPL, 3)]),
        (code::MMIO_WRITE, 0xfee0_0000, 4, vec![(SW_SCRATCH, buffer)]),
        (code::NMI_COMPLETE, 0, 0, vec![]),
    ] {
        assert_eq!(guest.exit(code, info1, info2, &fields), [], "{code:#x}");
    }
}

#[test]
fn wider_values_than_the_event_needs() {
    let mut guest = Guest::new();
    let high = SECRET & !LOW;
    assert_eq!(
        guest.exit(code::CPUID, 0, 0, &[(RAX, high | 7), (RCX, 0)]),
        found(code::CPUID, RAX.offset(), high)
    );
    let out = (0x3f8 << 16) | (1 << 4);
    assert_eq!(
        guest.exit(code::IOIO, out, 0, &[(RAX, 0x1234)]),
        found(code::IOIO, RAX.offset(), 0x1200)
    );
    assert_eq!(
        guest.exit(code::MSR, 0, 0, &[(RCX, high | 0x10)]),
        found(code::MSR, RCX.offset(), high)
    );
}

#[test]
fn fields_that_the_event_does_not_need() {
    let mut guest = Guest::new();
    let leaks = guest.exit(code::MSR, 0, 0, &[(RCX, 0x10), (RBX, SECRET)]);
    let both = [
        found(code::MSR, RBX.offset(), 0),
        found(code::MSR, RBX.offset(), SECRET),
    ];
    assert_eq!(leaks, both.concat());
    // Marked valid alone, with nothing in it.
    let leaks = guest.exit(code::CPUID, 0, 0, &[(RAX, 1), (RCX, 0), (XCR0, 0)]);
    assert_eq!(leaks, found(code::CPUID, XCR0.offset(), 0));
}

#[test]
fn data_beyond_the_length() {
    let mut guest = Guest::new();
    let fields = [(SW_SCRATCH, GPA + layout::SHARED_BUFFER)];
    guest.page.insert(layout::SHARED_BUFFER, SECRET);
    let leaks = guest.exit(code::MMIO_WRITE, 0xfee0_0000, 4, &fields);
    let high = SECRET & !LOW;
    assert_eq!(leaks, found(code::MMIO_WRITE, layout::SHARED_BUFFER, high));
    // A read gives nothing away.
    guest.page.insert(layout::SHARED_BUFFER + 8, SECRET);
    let leaks = guest.exit(code::MMIO_READ, 0xfee0_0000, 8, &fields);
    assert_eq!(leaks[0].offset, layout::SHARED_BUFFER + 8);
    // String output of two elements of two bytes.
    let outs = (0x3f8 << 16) | (2 << 4) | (1 << 2);
    guest.page.insert(layout::SHARED_BUFFER, 0x1_2222_1111);
    let leaks = guest.exit(code::IOIO, outs, 2, &fields);
    assert_eq!(leaks, found(code::IOIO, layout::SHARED_BUFFER, 1 << 32));
}

#[test]
fn reserved_parts_count_too_and_old_values_do_not() {
    let mut guest = Guest::new();
    guest.page.insert(0x500, SECRET);
    let leaks = guest.exit(code::WBINVD, 0, 0, &[]);
    assert_eq!(leaks, found(code::WBINVD, 0x500, SECRET));
    // It is known from now on, also after a nested user had something else there for a while.
    assert_eq!(guest.exit(code::WBINVD, 0, 0, &[]), []);
    guest.page.insert(0x500, 0);
    assert_eq!(guest.exit(code::WBINVD, 0, 0, &[]), []);
    guest.page.insert(0x500, SECRET);
    assert_eq!(guest.exit(code::WBINVD, 0, 0, &[]), []);
    // The same for several, one after the other, but not for ever.
    let msr = |guest: &mut Guest, rcx: u64| guest.exit(code::MSR, 0, 0, &[(RCX, rcx)]);
    assert_eq!(msr(&mut guest, 0x10), []);
    for other in 1..PAST as u64 {
        assert_eq!(msr(&mut guest, 0x830 + other), []);
    }
    guest.page.insert(RCX.offset(), 0x10);
    assert_eq!(guest.exit(code::WBINVD, 0, 0, &[]), []);
    for other in 0..=PAST as u64 {
        assert_eq!(msr(&mut guest, 0x830 + other), []);
    }
    guest.page.insert(RCX.offset(), 0x10);
    assert_eq!(
        guest.exit(code::WBINVD, 0, 0, &[]),
        found(code::WBINVD, RCX.offset(), 0x10)
    );
}

#[test]
fn what_the_host_writes_meanwhile_is_its_own() {
    let mut guest = Guest::new();
    guest.page.insert(RBX.offset(), SECRET);
    guest.seen.wrote(RBX.offset(), SECRET);
    assert!(guest.exit(code::MSR, 0, 0, &[(RCX, 0x10)]).is_empty());
    // However often it writes, the guest may restore what it had.
    guest.page.insert(RBX.offset(), 7);
    guest.seen.wrote(RBX.offset(), 6);
    guest.seen.wrote(RBX.offset(), 7);
    guest
        .seen
        .reply(|offset| guest.page.get(&offset).copied().unwrap_or(0));
    guest.page.insert(RBX.offset(), SECRET);
    assert!(guest.exit(code::MSR, 0, 0, &[(RCX, 0x10)]).is_empty());
    // What the guest puts there itself is not the host's.
    guest.seen.wrote(RBX.offset(), 1);
    guest.page.insert(RBX.offset(), SECRET + 2);
    assert_eq!(
        guest.exit(code::MSR, 0, 0, &[(RCX, 0x10)]),
        found(code::MSR, RBX.offset(), 0x03)
    );
}

#[test]
fn only_bytes_that_changed_count() {
    let mut guest = Guest::new();
    let fields = [(SW_SCRATCH, GPA + layout::SHARED_BUFFER)];
    guest.page.insert(layout::SHARED_BUFFER, SECRET);
    assert_eq!(guest.exit(code::MMIO_WRITE, 0xfee0_0000, 8, &fields), []);
    guest.page.insert(layout::SHARED_BUFFER, SECRET & !LOW | 7);
    assert_eq!(guest.exit(code::MMIO_WRITE, 0xfee0_0000, 4, &fields), []);
    guest
        .page
        .insert(layout::SHARED_BUFFER, SECRET & !LOW | 0x0200_0008);
    assert_eq!(
        guest.exit(code::MMIO_WRITE, 0xfee0_0000, 2, &fields),
        found(code::MMIO_WRITE, layout::SHARED_BUFFER, 0x0200_0000)
    );
}

#[test]
fn a_page_that_was_not_seen_before_says_nothing() {
    let guest = Guest::new();
    let request = Request {
        code: code::WBINVD,
        info1: 0,
        info2: 0,
        rax: 0,
        scratch: 0,
    };
    let none = |leak| panic!("{leak:?}");
    guest
        .seen
        .request(GPA + 0x1000, Valid::NONE, &request, |_| SECRET, none);
}

#[test]
fn leaks_are_counted_by_exit_and_offset() {
    let leaks = Leaks::default();
    let leak = |offset, bits| Leak {
        code: 0x72,
        offset,
        bits,
    };
    for leak in [leak(8, 1), leak(8, 2), leak(16, 1), leak(8, 0)] {
        assert_eq!(leaks.add(leak), leak.bits != 2, "{leak:?}");
    }
    let mut rows = Vec::new();
    leaks.for_each(|leak, count| rows.push((leak, count)));
    let want = [(leak(8, 1), 2), (leak(16, 1), 1), (leak(8, 0), 1)];
    assert_eq!((rows.as_slice(), leaks.total()), (&want[..], 4));
    (0..100).for_each(|offset| {
        leaks.add(leak(8 * offset, 1));
    });
    let mut rows = 0;
    leaks.for_each(|_, _| rows += 1);
    assert_eq!(rows, ROWS);
}
