// SPDX-License-Identifier: GPL-2.0

//! The encodings that the decoders are compared on.

use super::super::Random;
use crate::proto::insn::{CodeSize, MAX_INSN_LEN};

/// As many bytes as the longest instruction has.
pub(super) type Bytes = [u8; MAX_INSN_LEN];

/// The part of a set of encodings that one worker goes through.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// Takes one of so many.
    pub(super) step: u64,
    /// The first one.
    pub(super) offset: u64,
}

/// Builds encodings in order, and shows those of the share.
struct Generator<'a> {
    share: Share,
    number: u64,
    random: Random,
    visit: &'a mut dyn FnMut(&Bytes),
}

impl Generator<'_> {
    /// Takes the next number; true if it is the share's.
    fn next(&mut self) -> bool {
        let is_ours = self.number % self.share.step == self.share.offset;

        self.number += 1;
        is_ours
    }

    /// Shows an encoding that begins with these parts. What follows is random.
    fn show(&mut self, parts: &[&[u8]]) {
        let mut bytes = [0; 16];
        let mut len = 0;

        bytes[..8].copy_from_slice(&self.random.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.random.next().to_le_bytes());
        for byte in parts.iter().copied().flatten().take(MAX_INSN_LEN) {
            if len < MAX_INSN_LEN {
                bytes[len] = *byte;
                len += 1;
            }
        }
        (self.visit)(bytes.first_chunk().expect("there are 16"));
    }
}

/// One prefix of each group at most, in one order: operand size, address size, LOCK, repetition,
/// segment, REX. All their combinations.
fn combinations(code: CodeSize) -> Vec<Vec<u8>> {
    let mut all = vec![vec![]];
    let groups: [&[u8]; 6] = [
        &[0x66],
        &[0x67],
        &[0xf0],
        &[0xf2, 0xf3],
        &[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65],
        &[
            0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d,
            0x4e, 0x4f,
        ],
    ];

    for group in groups {
        if group[0] == 0x40 && code != CodeSize::Bits64 {
            continue;
        }
        for n in 0..all.len() {
            for prefix in group {
                let mut longer: Vec<u8> = all[n].clone();

                longer.push(*prefix);
                all.push(longer);
            }
        }
    }
    all
}

/// Prefixes that come twice, in other orders, or too early: all pairs, and some longer ones.
fn disorder(code: CodeSize) -> Vec<Vec<u8>> {
    let legacy = [
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
    ];
    let mut all = vec![
        vec![0x66, 0x67, 0x65],
        vec![0xf0, 0x66, 0x65, 0xf2],
        vec![0x64, 0x2e, 0x65, 0x3e],
        vec![0x66, 0x66, 0x66, 0x66, 0x66, 0x2e],
    ];

    for first in legacy {
        for second in legacy {
            all.push(vec![first, second]);
            if code == CodeSize::Bits64 {
                all.push(vec![first, second, 0x48]);
                // REX that is not the last prefix.
                all.push(vec![first, 0x4f, second]);
            }
        }
    }
    if code == CodeSize::Bits64 {
        all.push(vec![0x44, 0xf3, 0x41]);
        for rex in 0x40..=0x4f {
            all.push(vec![rex, 0x4b]);
        }
    }
    all
}

/// All opcodes of one and two bytes, and those of three bytes.
fn opcodes() -> Vec<Vec<u8>> {
    let two = |opcode| vec![0x0f, opcode];
    let three = |map: u8| (0..=255).map(move |opcode| vec![0x0f, map, opcode]);

    (0..=255)
        .map(|opcode| vec![opcode])
        .filter(|opcode| *opcode != [0x0f])
        .chain((0..=255).map(two))
        .chain(three(0x38))
        .chain(three(0x3a))
        .collect()
}

/// Opcodes whose memory operand is handled, and some that look like them.
fn memory_opcodes() -> Vec<Vec<u8>> {
    let one = (0x00..=0x3f).chain([0x63]).chain(0x80..=0x8f);
    let one = one.chain([0xc6, 0xc7, 0xf6, 0xf7, 0xfe, 0xff]);
    let two = [
        0xa3, 0xab, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xba, 0xbb, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3,
    ];

    one.filter(|opcode| *opcode != 0x0f)
        .map(|opcode| vec![opcode])
        .chain(two.map(|opcode| vec![0x0f, opcode]))
        .collect()
}

/// A share of all encodings: combinations of prefixes, opcodes, ModRM; and with fewer prefixes all
/// SIB bytes.
pub(super) fn exhaustive(code: CodeSize, share: Share, visit: &mut dyn FnMut(&Bytes)) {
    let mut generator = Generator {
        share,
        number: 0,
        random: Random::new(share.offset),
        visit,
    };
    let opcodes = opcodes();

    for prefixes in combinations(code).into_iter().chain(disorder(code)) {
        for opcode in &opcodes {
            // Opcodes of three bytes are refused, all of them: some ModRM bytes are enough.
            let modrms = if opcode.len() == 3 { 4 } else { 256 };

            for modrm in 0..modrms {
                if generator.next() {
                    generator.show(&[&prefixes, opcode, &[(modrm * 83) as u8]]);
                }
            }
        }
    }

    let opcodes = memory_opcodes();

    for prefixes in combinations(code) {
        if prefixes
            .iter()
            .any(|prefix| matches!(prefix, 0xf0..=0xf3 | 0x26..=0x36))
        {
            continue;
        }
        for opcode in &opcodes {
            for modrm in (0..0xc0).filter(|modrm| modrm & 7 == 4) {
                for sib in 0..=255 {
                    if generator.next() {
                        generator.show(&[&prefixes, opcode, &[modrm, sib]]);
                    }
                }
            }
        }
    }
}

/// Random bytes, of which every other row begins with prefixes.
pub(super) fn random(count: u64, seed: u64, visit: &mut dyn FnMut(CodeSize, &Bytes)) {
    let mut random = Random::new(seed);

    for _ in 0..count {
        let code = random.pick(&[
            CodeSize::Bits64,
            CodeSize::Bits64,
            CodeSize::Bits32,
            CodeSize::Bits16,
        ]);
        let mut bytes = [0; 16];

        bytes[..8].copy_from_slice(&random.next().to_le_bytes());
        bytes[8..].copy_from_slice(&random.next().to_le_bytes());
        if random.below(2) == 0 {
            let len = random.below(16) as usize;

            for byte in &mut bytes[..len] {
                *byte = random.pick(&[
                    0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x48,
                    0x4f, 0x66, 0x67,
                ]);
            }
        }
        visit(code, bytes.first_chunk().expect("there are 16"));
    }
}
