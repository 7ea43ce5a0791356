// SPDX-License-Identifier: GPL-2.0

//! What iced-x86 makes of an instruction, in the core's terms.

use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register as IcedRegister,
};

use super::{decode, IP};
use crate::proto::{
    exit::address,
    insn::{
        Alu, BitOp, CodeSize, DecodeError, Extend, Insn, MemoryOp, Op, Register, Segment, Source,
        Unary,
    },
    regs::{Gpr, Regs},
    result::Width,
};

fn bits(code: CodeSize) -> u32 {
    match code {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    }
}

/// What iced makes of the bytes; `None` if they are no instruction.
fn iced(bytes: &[u8], code: CodeSize) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(bits(code), bytes, IP, DecoderOptions::AMD);
    let insn = decoder.decode();

    (!insn.is_invalid()).then_some(insn)
}

fn width(bytes: usize) -> Width {
    match bytes {
        1 => Width::B1,
        2 => Width::B2,
        4 => Width::B4,
        8 => Width::B8,
        _ => panic!("no width of {bytes} bytes"),
    }
}

fn register(register: IcedRegister) -> Register {
    let high = matches!(
        register,
        IcedRegister::AH | IcedRegister::CH | IcedRegister::DH | IcedRegister::BH
    );
    let number = if high {
        register as u8 - IcedRegister::AH as u8
    } else {
        register.full_register() as u8 - IcedRegister::RAX as u8
    };

    Register {
        gpr: Gpr::new(number),
        high,
    }
}

fn segment(register: IcedRegister) -> Segment {
    match register {
        IcedRegister::ES => Segment::Es,
        IcedRegister::CS => Segment::Cs,
        IcedRegister::SS => Segment::Ss,
        IcedRegister::DS => Segment::Ds,
        IcedRegister::FS => Segment::Fs,
        IcedRegister::GS => Segment::Gs,
        _ => panic!("no segment {register:?}"),
    }
}

/// The segment of the memory operand.
fn memory_segment(insn: &Instruction, code: CodeSize) -> Segment {
    let effective = segment(insn.memory_segment());

    // iced shows a prefix even where it has no effect.
    if code != CodeSize::Bits64 || matches!(effective, Segment::Fs | Segment::Gs) {
        return effective;
    }
    match insn.memory_base() {
        IcedRegister::RSP | IcedRegister::RBP | IcedRegister::ESP | IcedRegister::EBP => {
            Segment::Ss
        }
        _ => Segment::Ds,
    }
}

/// The operand that is not in memory, if it is a general-purpose register or an immediate.
fn source(insn: &Instruction, operand: u32) -> Option<Source> {
    match insn.op_kind(operand) {
        OpKind::Register if insn.op_register(operand).is_gpr() => {
            Some(Source::Register(register(insn.op_register(operand))))
        }
        // The immediate of BT is a bit number; the others are sign-extended.
        OpKind::Immediate8 if is_bit_op(insn.mnemonic()) => {
            Some(Source::Immediate(insn.immediate8().into()))
        }
        OpKind::Immediate8 => Some(Source::Immediate(insn.immediate8() as i8 as u64)),
        OpKind::Immediate16 => Some(Source::Immediate(insn.immediate16() as i16 as u64)),
        OpKind::Immediate32 => Some(Source::Immediate(insn.immediate32() as i32 as u64)),
        OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Some(Source::Immediate(sign_extended(insn, operand))),
        _ => None,
    }
}

fn is_bit_op(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    )
}

/// An immediate that the instruction widens; iced stops at the operand's width.
fn sign_extended(insn: &Instruction, operand: u32) -> u64 {
    match insn.op_kind(operand) {
        OpKind::Immediate8to16 => insn.immediate8to16() as u64,
        OpKind::Immediate8to32 => insn.immediate8to32() as u64,
        OpKind::Immediate8to64 => insn.immediate8to64() as u64,
        _ => insn.immediate32to64() as u64,
    }
}

fn is_memory(insn: &Instruction, operand: u32) -> bool {
    insn.op_kind(operand) == OpKind::Memory
}

fn alu(mnemonic: Mnemonic) -> Option<(Alu, bool)> {
    Some(match mnemonic {
        Mnemonic::Add => (Alu::Add, false),
        Mnemonic::Or => (Alu::Or, false),
        Mnemonic::Adc => (Alu::Adc, false),
        Mnemonic::Sbb => (Alu::Sbb, false),
        Mnemonic::And => (Alu::And, false),
        Mnemonic::Sub => (Alu::Sub, false),
        Mnemonic::Xor => (Alu::Xor, false),
        Mnemonic::Cmp => (Alu::Sub, true),
        Mnemonic::Test => (Alu::And, true),
        _ => return None,
    })
}

/// The memory instruction that this should decode to, if it is one that is handled.
fn expected_memory(insn: &Instruction) -> Option<MemoryOp> {
    let operands = insn.op_count();

    if operands == 1 && is_memory(insn, 0) {
        return Some(MemoryOp::Unary(match insn.mnemonic() {
            Mnemonic::Inc => Unary::Inc,
            Mnemonic::Dec => Unary::Dec,
            Mnemonic::Not => Unary::Not,
            Mnemonic::Neg => Unary::Neg,
            _ => return None,
        }));
    }
    if operands != 2 {
        return None;
    }

    if is_memory(insn, 0) {
        let source = source(insn, 1)?;
        let other = match source {
            Source::Register(register) => Some(register),
            Source::Immediate(_) => None,
        };

        if let Some((alu, compare)) = alu(insn.mnemonic()) {
            return Some(if compare {
                MemoryOp::Compare(alu, source)
            } else {
                MemoryOp::Modify(alu, source)
            });
        }
        return Some(match insn.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movnti => MemoryOp::Store(source),
            Mnemonic::Xchg => MemoryOp::Exchange(other?),
            Mnemonic::Xadd => MemoryOp::ExchangeAdd(other?),
            Mnemonic::Cmpxchg => MemoryOp::CompareExchange(other?),
            Mnemonic::Bt => MemoryOp::Bit(BitOp::Test, source),
            Mnemonic::Bts => MemoryOp::Bit(BitOp::Set, source),
            Mnemonic::Btr => MemoryOp::Bit(BitOp::Reset, source),
            Mnemonic::Btc => MemoryOp::Bit(BitOp::Complement, source),
            _ => return None,
        });
    }
    if is_memory(insn, 1) {
        let Some(Source::Register(to)) = source(insn, 0) else {
            return None;
        };

        if let Some((alu, compare)) = alu(insn.mnemonic()) {
            return Some(if compare {
                MemoryOp::CompareRegister(alu, to)
            } else {
                MemoryOp::Combine(alu, to)
            });
        }

        let extend = match insn.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movzx => Extend::Zero,
            Mnemonic::Movsx | Mnemonic::Movsxd => Extend::Sign,
            _ => return None,
        };

        return Some(MemoryOp::Load {
            to,
            to_width: width(insn.op_register(0).size()),
            extend,
        });
    }
    None
}

/// What this should decode to but for the memory operand, if it is handled.
fn expected(insn: &Instruction) -> Option<Op> {
    let port = |operand| match insn.op_kind(operand) {
        OpKind::Immediate8 => Some(insn.immediate8()),
        _ => None,
    };

    Some(match insn.code() {
        Code::Cpuid => Op::Cpuid,
        Code::Rdtsc => Op::Rdtsc,
        Code::Rdtscp => Op::Rdtscp,
        Code::Rdpmc => Op::Rdpmc,
        Code::Invd => Op::Invd,
        Code::Wbinvd | Code::Wbnoinvd => Op::Wbinvd,
        Code::Rdmsr => Op::Rdmsr,
        Code::Wrmsr => Op::Wrmsr,
        Code::Vmmcall => Op::Vmmcall,
        Code::Monitorw | Code::Monitord | Code::Monitorq => Op::Monitor,
        Code::Monitorxw | Code::Monitorxd | Code::Monitorxq => Op::Monitor,
        Code::Mwait | Code::Mwaitx => Op::Mwait,
        Code::Mov_r32_dr | Code::Mov_r64_dr => Op::ReadDr(
            insn.op_register(1) as u8 - IcedRegister::DR0 as u8,
            register(insn.op_register(0)).gpr,
        ),
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => Op::WriteDr(
            insn.op_register(0) as u8 - IcedRegister::DR0 as u8,
            register(insn.op_register(1)).gpr,
        ),
        _ => match insn.mnemonic() {
            Mnemonic::In => Op::In(port(1)),
            Mnemonic::Out => Op::Out(port(0)),
            Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => Op::Ins,
            Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => Op::Outs,
            Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq
                if insn.op_kind(0) != OpKind::Register
                    && insn.op_kind(1) != OpKind::Register
                    && !is_memory(insn, 0)
                    && !is_memory(insn, 1) =>
            {
                Op::Movs
            }
            Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => Op::Stos,
            Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => Op::Lods,
            // CMPSD is an SSE instruction as well.
            Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq
                if insn.op_kind(0) != OpKind::Register =>
            {
                Op::Cmps {
                    while_equal: insn.has_repe_prefix(),
                }
            }
            Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => Op::Scas {
                while_equal: insn.has_repe_prefix(),
            },
            _ => {
                let op = expected_memory(insn)?;
                // The memory operand is compared by its value.
                let placeholder = decode(&[0x88, 0x00], CodeSize::Bits64).unwrap();
                let Op::Memory(_, memory) = placeholder.op else {
                    unreachable!();
                };

                Op::Memory(op, memory)
            }
        },
    })
}

/// True for the string instructions.
pub(super) fn is_string(op: &Op) -> bool {
    matches!(
        op,
        Op::Ins | Op::Outs | Op::Movs | Op::Stos | Op::Lods | Op::Cmps { .. } | Op::Scas { .. }
    )
}

/// Width of the data of an instruction.
fn data_width(insn: &Instruction, op: &Op) -> Option<Width> {
    match op {
        Op::In(_) => Some(width(insn.op_register(0).size())),
        Op::Out(_) => Some(width(insn.op_register(1).size())),
        Op::Memory(..) => Some(width(insn.memory_size().size())),
        op if is_string(op) => Some(width(insn.memory_size().size())),
        _ => None,
    }
}
/// The offset of the memory operand as iced computes it.
fn expected_offset(insn: &Instruction, regs: &Regs) -> u64 {
    let operand = (0..insn.op_count()).find(|n| is_memory(insn, *n)).unwrap();

    insn.virtual_address(operand, 0, |register, _, _| {
        Some(if register.is_segment_register() {
            0
        } else {
            let value = regs.gpr(Gpr::new(
                register.full_register() as u8 - IcedRegister::RAX as u8,
            ));

            width(register.size()).truncate(value)
        })
    })
    .unwrap()
}

/// Compares both decoders on one instruction. True if it is one that is handled.
pub(super) fn compare(
    bytes: &[u8],
    code: CodeSize,
    ours: &Result<Insn, DecodeError>,
    regs: &Regs,
) -> bool {
    let iced = iced(bytes, code);
    let expected = iced.as_ref().and_then(expected);
    let context = || {
        format!(
            "{bytes:02x?} in {code:?}, iced: {iced:?} {}",
            iced.unwrap_or_default()
        )
    };

    let (Some(iced), Some(expected)) = (iced, expected) else {
        assert_eq!(*ours, Err(DecodeError::Unknown), "{}", context());
        return false;
    };
    let ours = ours
        .as_ref()
        .unwrap_or_else(|error| panic!("{error:?}: {}", context()));

    assert_eq!(usize::from(ours.len), iced.len(), "length: {}", context());
    if let Some(width) = data_width(&iced, &expected) {
        assert_eq!(ours.width, width, "width: {}", context());
    }

    match (ours.op, expected) {
        (Op::Memory(op, memory), Op::Memory(expected, _)) => {
            assert_eq!(op, expected, "{}", context());
            assert_eq!(
                memory.segment,
                memory_segment(&iced, code),
                "segment: {}",
                context()
            );
            assert_eq!(
                address::offset(regs, ours, &memory),
                expected_offset(&iced, regs),
                "offset: {}",
                context()
            );
        }
        (op, expected) => assert_eq!(op, expected, "{}", context()),
    }

    if is_string(&ours.op) {
        compare_string(ours, &iced, code, &context);
    }
    true
}

/// Compares what is special about string instructions.
fn compare_string(ours: &Insn, iced: &Instruction, code: CodeSize, context: &dyn Fn() -> String) {
    assert_eq!(
        ours.rep,
        iced.has_rep_prefix() || iced.has_repne_prefix(),
        "repeat prefix: {}",
        context()
    );

    let mut address_size = None;

    for operand in 0..iced.op_count() {
        address_size = match iced.op_kind(operand) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => Some(Width::B2),
            OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(Width::B4),
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(Width::B8),
            _ => address_size,
        };
    }
    assert_eq!(Some(ours.address_size), address_size, "{}", context());
    if matches!(ours.op, Op::Outs | Op::Movs | Op::Lods | Op::Cmps { .. }) {
        assert_eq!(
            ours.segment,
            memory_segment(iced, code),
            "segment: {}",
            context()
        );
    }
}
