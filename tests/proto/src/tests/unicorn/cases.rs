// SPDX-License-Identifier: GPL-2.0

//! Random instructions, and registers with which they access what they are meant to.

use super::{
    super::Random,
    engine::{State, CODE, DATA, DEVICE, SIZE},
};
use crate::proto::{
    insn::{
        self, Alu, Base, CodeSize, Extend, Insn, InsnBytes, Memory, MemoryOp, Op, Segment, Source,
        Unary, MAX_INSN_LEN,
    },
    regs::Gpr,
    Width,
};

/// DF.
pub(super) const DF: u64 = 1 << 10;
/// TF.
pub(super) const TF: u64 = 1 << 8;
/// RF.
pub(super) const RF: u64 = 1 << 16;
/// CF, PF, AF, ZF, SF, DF, OF.
pub(super) const FLAGS: u64 = 0xcd5;

/// An instruction and the state that it runs in.
pub(super) struct Case {
    pub(super) bytes: Vec<u8>,
    pub(super) state: State,
    /// Bases of the segments.
    pub(super) bases: [u64; 6],
    /// The exit that it causes.
    pub(super) exit: u64,
    /// Width of the data.
    pub(super) width: u64,
    /// An access to the device or to memory is not aligned.
    pub(super) unaligned: bool,
    /// Both operands of CMPS are the device. Which one is read first is nowhere laid down.
    pub(super) either_first: bool,
    /// What to put at an address before.
    pub(super) poke: Option<(u64, u64)>,
}

/// A value that is likely to carry, to overflow, or to be zero.
pub(super) fn interesting(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => (1u64 << random.below(64)).wrapping_sub(1),
        4 => random.pick(&[0x7f, 0x80, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, 1]),
        _ => random.next(),
    }
}

/// Legacy prefixes in any order, and REX.
fn prefixes(random: &mut Random, code: CodeSize, lock: bool, repeat: bool) -> Vec<u8> {
    let mut bytes = vec![];

    if random.below(3) == 0 {
        bytes.push(0x66);
    }
    if random.below(4) == 0 {
        bytes.push(0x67);
    }
    if random.below(3) == 0 {
        bytes.push(random.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]));
    }
    if lock && random.below(6) == 0 {
        bytes.push(0xf0);
    }
    if repeat && random.below(2) == 0 {
        bytes.push(random.pick(&[0xf2, 0xf3]));
    }
    for n in (1..bytes.len()).rev() {
        bytes.swap(n, random.below(n as u64 + 1) as usize);
    }
    if code == CodeSize::Bits64 && random.below(2) == 0 {
        bytes.push(0x40 | random.below(16) as u8);
    }
    bytes
}

/// Registers and flags.
fn state(random: &mut Random, code: CodeSize, ip: u64) -> State {
    let mut state = State {
        ip,
        flags: random.next() & FLAGS,
        ..State::default()
    };

    for value in &mut state.gpr {
        *value = interesting(random);
    }
    if code != CodeSize::Bits64 {
        state.gpr = state.gpr.map(|value| value & 0xffff_ffff);
    }
    state
}

/// Bases of the segments: of FS and GS in 64-bit mode, of all but CS in 16-bit mode. The engine has
/// flat segments in 32-bit mode.
fn bases(random: &mut Random, code: CodeSize) -> [u64; 6] {
    let mut bases = [0; 6];

    for (segment, base) in bases.iter_mut().enumerate() {
        *base = match code {
            CodeSize::Bits64 if segment >= 4 => interesting(random),
            CodeSize::Bits16 if segment != Segment::Cs as usize => random.below(0x300) << 4,
            _ => 0,
        };
    }
    bases
}

fn decode(bytes: &[u8], code: CodeSize) -> Option<Insn> {
    let mut buffer = [0; MAX_INSN_LEN];

    buffer[..bytes.len()].copy_from_slice(bytes);
    insn::decode(InsnBytes::new(&buffer, bytes.len()), code).ok()
}

/// Opcodes with ModRM whose memory operand is handled, and MOV with the address in the instruction.
fn memory_opcode(random: &mut Random) -> Vec<u8> {
    const TWO: [u8; 14] = [
        0xa3, 0xab, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xba, 0xbb, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3,
    ];
    const ONE: [u8; 22] = [
        0x63, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0xa0, 0xa1,
        0xa2, 0xa3, 0xc6, 0xc7, 0xf6, 0xf7, 0xfe,
    ];

    match random.below(8) {
        0..=1 => vec![0x0f, random.pick(&TWO)],
        2..=5 => vec![random.pick(&ONE)],
        6 => vec![0xff],
        _ => vec![random.below(8) as u8 * 8 + random.below(4) as u8],
    }
}

/// The register that the bit number of BT is in.
fn bit_register(op: &MemoryOp) -> Option<Gpr> {
    match op {
        MemoryOp::Bit(_, Source::Register(register)) => Some(register.gpr),
        _ => None,
    }
}

/// An address in the device: most are aligned, a few cross a page or are in a hole.
fn device_address(random: &mut Random, len: u64) -> u64 {
    DEVICE
        + match random.below(40) {
            // The first or the last page's end, and the hole after the device.
            0..=2 => 4096 * (1 + random.below(3)) - random.below(len.max(2)),
            3 => SIZE + random.below(64),
            4..=11 => random.below(SIZE - 2 * len),
            _ => random.below(SIZE / len - 2) * len,
        }
}

/// The number that `factor` multiplies to 1, modulo 2^64.
fn inverse(factor: u64) -> u64 {
    let mut inverse = factor;

    for _ in 0..6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(inverse)));
    }
    inverse
}

/// Sets registers such that the operand's offset in its segment is `offset`. `None` if they cannot
/// be.
fn solve(
    random: &mut Random,
    insn: &Insn,
    memory: &Memory,
    offset: u64,
    state: &mut State,
) -> Option<()> {
    let size = insn.address_size;
    let above = random.next() & !size.mask();
    let target = offset.wrapping_sub(memory.displacement);
    let factor = 1u64 << memory.scale;
    let mut set = |gpr: Gpr, value: u64| {
        state.gpr[usize::from(gpr.number())] = size.truncate(value) | above;
    };

    match (memory.base, memory.index) {
        (Base::Gpr(base), Some(index)) if base == index => {
            let target = size.truncate(target);

            if factor == 1 {
                if target & 1 != 0 {
                    return None;
                }
                set(base, target / 2);
            } else {
                set(base, target.wrapping_mul(inverse(factor + 1)));
            }
        }
        (Base::Gpr(base), Some(index)) => {
            let index = state.gpr[usize::from(index.number())].wrapping_mul(factor);

            state.gpr[usize::from(base.number())] =
                size.truncate(target.wrapping_sub(index)) | above;
        }
        (Base::Gpr(base), None) => set(base, target),
        (_, Some(index)) => {
            let target = size.truncate(target);

            if target % factor != 0 {
                return None;
            }
            set(index, target / factor);
        }
        _ => {}
    }
    Some(())
}

/// What CPUs have and the model has not, or has wrong. All of it is compared with the CPU that runs
/// the tests, and by the decoders' tests.
fn is_wrong_in_the_model(bytes: &[u8], op: &MemoryOp) -> bool {
    let modrm = |opcodes: [u8; 2], mask: u8, value: u8| {
        bytes
            .windows(2)
            .any(|pair| opcodes.contains(&pair[0]) && pair[1] & mask == value)
    };
    let rex_r = |opcodes: [u8; 2]| {
        bytes
            .windows(2)
            .any(|pair| pair[0] & 0xf4 == 0x44 && opcodes.contains(&pair[1]))
    };

    match op {
        // The second encoding of TEST (group 3, ModRM.reg 1) is unknown.
        MemoryOp::Compare(Alu::And, Source::Immediate(_)) => modrm([0xf6, 0xf7], 0x38, 8),
        // MOVSXD from 16 bits reads 32.
        MemoryOp::Load {
            to_width: Width::B2,
            extend: Extend::Sign,
            ..
        } => bytes.contains(&0x63),
        // REX.R counts as part of the opcode of group 11.
        MemoryOp::Store(Source::Immediate(_)) => rex_r([0xc6, 0xc7]),
        // The flags of LOCK NEG are those of the operand, not of the result.
        MemoryOp::Unary(Unary::Neg) => bytes.contains(&0xf0),
        _ => false,
    }
}

/// An instruction with a memory operand in the device.
fn try_memory(random: &mut Random, code: CodeSize, ip: u64) -> Option<Case> {
    let repeat = random_bool(random);
    let mut bytes = prefixes(random, code, true, repeat);

    bytes.extend(memory_opcode(random));
    bytes.push(random.below(0xc0) as u8);
    bytes.extend(interesting(random).to_le_bytes());
    bytes.extend(interesting(random).to_le_bytes());
    bytes.truncate(MAX_INSN_LEN);

    let insn = decode(&bytes, code)?;
    let Op::Memory(op, memory) = insn.op else {
        return None;
    };

    if is_wrong_in_the_model(&bytes, &op) {
        return None;
    }
    bytes.truncate(insn.len.into());

    let mut state = state(random, code, ip);
    let bases = bases(random, code);
    let len = insn.width.bytes();
    let address = device_address(random, len);
    let mut offset = address.wrapping_sub(bases[memory.segment as usize]);

    if let Some(register) = bit_register(&op) {
        if memory.base == Base::Gpr(register) || memory.index == Some(register) {
            return None;
        }

        let bit = random.below(4096).wrapping_sub(2048);
        let above = random.next() & !insn.width.mask();

        state.gpr[usize::from(register.number())] = insn.width.truncate(bit) | above;

        let elements = (bit as i64) >> (insn.width.bits().trailing_zeros());

        offset = offset.wrapping_sub((elements as u64).wrapping_mul(len));
    }
    // Offsets that wrap around are refused or undefined; in 64-bit mode with short addresses not
    // all of them reach the device.
    if !fits(offset, insn.address_size, code)
        || insn.address_size.truncate(offset) > insn.address_size.mask() - 16
    {
        return None;
    }
    offset = insn.address_size.truncate(offset);

    if matches!(memory.base, Base::None | Base::Rip) && memory.index.is_none() {
        // The displacement is all there is.
        let mut decoder = iced_x86::Decoder::new(
            match code {
                CodeSize::Bits64 => 64,
                CodeSize::Bits32 => 32,
                CodeSize::Bits16 => 16,
            },
            &bytes,
            iced_x86::DecoderOptions::AMD,
        );
        let decoded = decoder.decode();
        let place = decoder.get_constant_offsets(&decoded);
        let start = place.displacement_offset();
        let size = place.displacement_size();
        let displacement = match memory.base {
            Base::Rip => offset.wrapping_sub(ip + u64::from(insn.len)),
            _ => offset,
        };

        bytes[start..start + size].copy_from_slice(&displacement.to_le_bytes()[..size]);
        // What does not fit is another address.
        if size < 8 && insn.address_size == Width::B8 {
            let unused = 64 - 8 * size as u32;

            if ((displacement << unused) as i64 >> unused) as u64 != displacement {
                return None;
            }
        }
    } else {
        solve(random, &insn, &memory, offset, &mut state)?;
    }
    if code != CodeSize::Bits64 {
        state.gpr = state.gpr.map(|value| value & 0xffff_ffff);
    }

    let value = interesting(random);
    let rax = [memory.base, memory.index.map_or(Base::None, Base::Gpr)];

    // CMPXCHG should find what it looks for now and then.
    if matches!(op, MemoryOp::CompareExchange(_))
        && random_bool(random)
        && !rax.contains(&Base::Gpr(Gpr::RAX))
    {
        state.gpr[0] = value;
        if code != CodeSize::Bits64 {
            state.gpr[0] &= 0xffff_ffff;
        }
    }
    Some(Case {
        bytes,
        state,
        bases,
        exit: 0x400,
        width: len,
        unaligned: address % len != 0,
        either_first: false,
        poke: (address >= DEVICE && address + 8 <= DEVICE + SIZE).then_some((address, value)),
    })
}

fn random_bool(random: &mut Random) -> bool {
    random.below(2) == 0
}

/// True if an offset loses nothing by the width of addresses.
fn fits(offset: u64, size: Width, code: CodeSize) -> bool {
    let offset = match code {
        CodeSize::Bits64 => offset,
        _ => offset & 0xffff_ffff,
    };

    size.truncate(offset) == offset
}

/// How far a string may go from `start` before it leaves the area at `area`.
fn room(start: u64, area: u64, width: u64, backwards: bool) -> u64 {
    if backwards {
        (start - area) / width + 1
    } else {
        (area + SIZE - start) / width
    }
}

/// Puts an address in rSI or rDI.
fn set_pointer(random: &mut Random, case: &mut Case, insn: &Insn, number: usize, offset: u64) {
    let above = random.next() & !insn.address_size.mask();

    case.state.gpr[number] = insn.address_size.truncate(offset) | above;
}

/// A string instruction: MOVS, STOS, LODS, CMPS, SCAS with the device, or INS, OUTS with memory.
fn try_string(random: &mut Random, code: CodeSize, ip: u64, port: bool) -> Option<Case> {
    let mut bytes = prefixes(random, code, false, true);

    bytes.push(if port {
        0x6c + random.below(4) as u8
    } else {
        random.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf])
    });

    let insn = decode(&bytes, code)?;
    let mut case = Case {
        bytes,
        state: state(random, code, ip),
        bases: bases(random, code),
        exit: if port { 0x7b } else { 0x400 },
        width: insn.width.bytes(),
        unaligned: false,
        either_first: false,
        poke: None,
    };
    let backwards = case.state.flags & DF != 0;
    let width = insn.width.bytes();
    let (source, destination) = match insn.op {
        Op::Ins => (None, Some(DATA)),
        Op::Outs => (Some(DATA), None),
        Op::Stos | Op::Scas { .. } => (None, Some(DEVICE)),
        Op::Lods => (Some(DEVICE), None),
        _ => random.pick(&[
            (Some(DEVICE), Some(DATA)),
            (Some(DATA), Some(DEVICE)),
            (Some(DEVICE), Some(DEVICE)),
        ]),
    };
    let mut limit = u64::MAX;

    case.either_first =
        matches!(insn.op, Op::Cmps { .. }) && (source, destination) == (Some(DEVICE), Some(DEVICE));
    for (area, number, segment) in [(source, 6, insn.segment), (destination, 7, Segment::Es)] {
        let Some(area) = area else {
            continue;
        };
        let alignment = random.pick(&[1, 8, 8]);
        let start = area + random.below(SIZE / alignment - 8) * alignment;
        let offset = start.wrapping_sub(case.bases[segment as usize]);

        if !fits(offset, insn.address_size, code) {
            return None;
        }

        let offset = insn.address_size.truncate(offset);

        // Offsets that wrap around.
        if offset < SIZE || offset > insn.address_size.mask() - SIZE {
            return None;
        }
        case.unaligned |= start % width != 0;
        limit = limit.min(room(start, area, width, backwards));
        set_pointer(random, &mut case, &insn, number, offset);
    }

    let most = if port { 4000 } else { 200 };
    let count = match random.below(8) {
        0 => 0,
        // Into the hole.
        1 => limit + random.below(20),
        2 => limit.min(most),
        _ => random.below(limit.min(most) + 1),
    };

    set_pointer(random, &mut case, &insn, 1, count);
    if code != CodeSize::Bits64 {
        case.state.gpr = case.state.gpr.map(|value| value & 0xffff_ffff);
    }
    Some(case)
}

/// IN or OUT.
fn try_port(random: &mut Random, code: CodeSize, ip: u64) -> Option<Case> {
    let mut bytes = prefixes(random, code, false, true);

    bytes.push(random.pick(&[0xe4, 0xe5, 0xe6, 0xe7, 0xec, 0xed, 0xee, 0xef]));
    if bytes[bytes.len() - 1] < 0xe8 {
        bytes.push(random.next() as u8);
    }

    let insn = decode(&bytes, code)?;

    Some(Case {
        bytes,
        state: state(random, code, ip),
        bases: bases(random, code),
        exit: 0x7b,
        width: insn.width.bytes(),
        unaligned: false,
        either_first: false,
        poke: None,
    })
}

/// A random case.
pub(super) fn case(random: &mut Random, code: CodeSize, ip: u64) -> Case {
    assert!((CODE..CODE + 4096).contains(&ip));
    loop {
        let case = match random.below(10) {
            0 => try_port(random, code, ip),
            1 => try_string(random, code, ip, true),
            2..=3 => try_string(random, code, ip, false),
            _ => try_memory(random, code, ip),
        };

        if let Some(mut case) = case {
            // A debugger steps, and goes on from a breakpoint.
            if random.below(3) == 0 {
                case.state.flags |= TF;
            }
            if random_bool(random) {
                case.state.flags |= RF;
            }
            return case;
        }
    }
}
