// SPDX-License-Identifier: GPL-2.0
//! Hostile replies: the honest one is in the GHCB, and is spoiled.

use super::random::Random;
use crate::ghcb::layout;
use crate::ghcb::layout::Valid;

/// Values in RAX, RBX, RCX and RDX.
pub const REGISTERS: u64 = 1 << 0;
/// The valid bitmap.
pub const VALID: u64 = 1 << 1;
/// SW_EXITINFO1 and SW_EXITINFO2.
pub const INFO: u64 = 1 << 2;
/// The shared buffer.
pub const BUFFER: u64 = 1 << 3;
/// The whole page.
pub const NOISE: u64 = 1 << 4;
/// Protocol version and usage.
pub const USAGE: u64 = 1 << 5;
/// The GHCB MSR.
pub const MSR: u64 = 1 << 6;
/// SW_EXITCODE and SW_SCRATCH.
pub const CODE: u64 = 1 << 7;
/// An NMI comes with it.
pub const NMI: u64 = 1 << 8;
/// Reserved fields, and registers that no event answers; all of it marked valid.
pub const UNUSED: u64 = 1 << 9;

/// The kinds that must make no difference to the guest.
const HARMLESS: [u64; 5] = [USAGE, MSR, CODE, NMI, UNUSED];
/// All kinds.
const ALL: [u64; 12] = [
    REGISTERS, REGISTERS, VALID, VALID, INFO, INFO, BUFFER, NOISE, USAGE, MSR, CODE, NMI,
];

/// Chooses what to do, as a sum of the constants above.
pub fn choose(random: &mut Random, harmless: bool) -> u64 {
    let kinds: &[u64] = if harmless { &HARMLESS } else { &ALL };
    let mut chosen = random.pick(kinds);
    while random.one_in(3) {
        chosen |= random.pick(kinds);
    }
    chosen
}

/// SW_EXITINFO1 and SW_EXITINFO2: an exception, whether allowed or not; an error; anything.
fn info(random: &mut Random) -> (u64, u64) {
    const EVENT_VALID: u64 = 1 << 31;
    const EXCEPTION: u64 = 3 << 8;
    let high = if random.one_in(4) {
        random.next() << 32
    } else {
        0
    };
    match random.below(6) {
        0 => (high | 1, EVENT_VALID | EXCEPTION | random.pick(&[6, 13])),
        // With an error code.
        1 => (
            high | 1,
            (random.next() << 32) | EVENT_VALID | EXCEPTION | (1 << 11) | random.pick(&[6, 13]),
        ),
        2 => (
            high | 1,
            EVENT_VALID | (random.below(8) << 8) | random.below(256),
        ),
        3 => (high | 1, random.next()),
        4 => (high | random.below(12), random.below(12)),
        _ => (random.value(), random.value()),
    }
}

/// The bitmap's two words: one bit turned, none, all, or any.
fn valid(random: &mut Random, old: (u64, u64)) -> (u64, u64) {
    let relevant = [
        layout::RAX,
        layout::RBX,
        layout::RCX,
        layout::RDX,
        layout::SW_EXITINFO1,
        layout::SW_EXITINFO2,
    ];
    match random.below(5) {
        0 => (0, 0),
        1 => (u64::MAX, u64::MAX),
        2 => (random.next(), random.next()),
        _ => {
            let (low, high) = Valid::NONE.with(random.pick(&relevant)).words();
            (old.0 ^ low, old.1 ^ high)
        }
    }
}

/// Whether a harmless reply may change the quadword at `offset`: no field that a reply has, and
/// not the shared buffer, and not the bitmap, which has a turn of its own.
fn unused(offset: u64) -> bool {
    let fields = [
        layout::RAX,
        layout::RBX,
        layout::RCX,
        layout::RDX,
        layout::SW_EXITINFO1,
        layout::SW_EXITINFO2,
    ];
    let field = |field: &layout::Field| field.offset() == offset;
    offset < layout::VALID_BITMAP && !fields.iter().any(field)
}

/// Spoils the page of a reply.
pub fn spoil(
    random: &mut Random,
    chosen: u64,
    read: impl Fn(u64) -> u64,
    write: impl Fn(u64, u64),
) {
    let has = |kind| chosen & kind != 0;
    if has(NOISE) {
        (0..512).for_each(|index| write(8 * index, random.next()));
    }
    if has(UNUSED) {
        let offsets = (0..512).map(|index| 8 * index);
        for offset in offsets.filter(|offset| unused(*offset)) {
            write(offset, random.next());
        }
        for word in [layout::VALID_BITMAP, layout::VALID_BITMAP + 8] {
            write(word, u64::MAX);
        }
    }
    if has(BUFFER) {
        (layout::SHARED_BUFFER..layout::SHARED_BUFFER_END)
            .step_by(8)
            .for_each(|offset| write(offset, random.next()));
    }
    if has(REGISTERS) {
        for field in [layout::RAX, layout::RBX, layout::RCX, layout::RDX] {
            write(field.offset(), random.value());
        }
    }
    if has(INFO) {
        let (info1, info2) = info(random);
        write(layout::SW_EXITINFO1.offset(), info1);
        write(layout::SW_EXITINFO2.offset(), info2);
    }
    if has(VALID) {
        let (low, high) = (layout::VALID_BITMAP, layout::VALID_BITMAP + 8);
        let words = valid(random, (read(low), read(high)));
        write(low, words.0);
        write(high, words.1);
    }
    if has(CODE) {
        write(layout::SW_EXITCODE.offset(), random.value());
        write(layout::SW_SCRATCH.offset(), random.value());
    }
    if has(USAGE) {
        write(layout::TRAILER, random.value());
    }
}

/// A value for the GHCB MSR. None that is a request: user space that executes VMGEXIT would make
/// it, in the guest's name.
pub fn msr(random: &mut Random) -> u64 {
    let function = random.pick(&[0x000, 0x001, 0x005, 0x013, 0x081]);
    random.value() & !0xfff | function
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Offsets that are written.
    fn written(chosen: u64) -> BTreeMap<u64, u64> {
        let page = RefCell::new(BTreeMap::new());
        let write = |offset: u64, value| {
            assert!(offset % 8 == 0 && offset < 4096);
            page.borrow_mut().insert(offset, value);
        };
        spoil(&mut Random::new(1, 2, 3), chosen, |_| 0x55, write);
        page.into_inner()
    }

    #[test]
    fn each_kind_changes_what_it_says() {
        let offsets = |chosen| written(chosen).into_keys().collect::<Vec<_>>();
        assert_eq!(offsets(REGISTERS), [0x1f8, 0x308, 0x310, 0x318]);
        assert_eq!(offsets(VALID), [0x3f0, 0x3f8]);
        assert_eq!(offsets(INFO), [0x398, 0x3a0]);
        assert_eq!(offsets(CODE), [0x390, 0x3a8]);
        assert_eq!(offsets(USAGE), [0xff8]);
        assert_eq!(offsets(MSR | NMI), []);
        assert_eq!(offsets(NOISE).len(), 512);
        assert_eq!(offsets(BUFFER).len(), 0x7f0 / 8);
    }

    #[test]
    fn harmless_replies_keep_what_the_guest_asked_for() {
        let mut random = Random::new(1, 2, 3);
        for _ in 0..1000 {
            let chosen = choose(&mut random, true);
            assert_eq!(chosen & (REGISTERS | VALID | INFO | BUFFER | NOISE), 0);
            let page = written(chosen);
            for offset in [0x1f8, 0x308, 0x310, 0x318, 0x398, 0x3a0, 0x800, 0xfe8] {
                assert!(!page.contains_key(&offset), "{offset:#x}");
            }
        }
        assert!(written(UNUSED).contains_key(&0x330));
        let all = (0..1000).fold(0, |all, _| all | choose(&mut random, false));
        assert_eq!(all, ALL.iter().fold(0, |all, kind| all | kind));
    }

    #[test]
    fn the_msr_never_holds_a_request() {
        let mut random = Random::new(1, 2, 3);
        for _ in 0..1000 {
            let function = msr(&mut random) & 0xfff;
            assert!(function == 0 || function % 2 == 1, "{function:#x}");
        }
    }
}
