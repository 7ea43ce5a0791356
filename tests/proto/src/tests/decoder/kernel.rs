// SPDX-License-Identifier: GPL-2.0

//! What the kernel's C decoder makes of an instruction: `insn_get_length()` and, for the forms that
//! it knows, `insn_decode_mmio()`.
//!
//! The C decoder knows 32- and 64-bit mode. It is made for instructions that the CPU has executed,
//! so that it takes more for an instruction than the CPU does; what it must agree on is the length
//! and the operands of everything that the core accepts, and that the core accepts each form of
//! MMIO that it knows and that is one.

use super::iced::is_string;
use crate::proto::{
    exit::address,
    insn::{
        Base, CodeSize, DecodeError, Extend, Insn, Memory, MemoryOp, Op, Register, Source,
        MAX_INSN_LEN,
    },
    regs::{Gpr, Regs},
};

/// Made by the build script from the kernel's headers.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
mod c {
    include!(concat!(env!("OUT_DIR"), "/kernel.rs"));
}

/// How one instruction compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// Both accept it, with the same length and operands.
    Same,
    /// So, and it is one that `insn_decode_mmio()` knows.
    SameMmio,
    /// The core refuses it, and C's decoder does not take it for MMIO.
    Refused,
    /// C gives MOV from and to debug registers a memory operand if ModRM.mod is not 3. Hardware
    /// ignores ModRM.mod (APM vol. 3, MOV DRn), so that C's length may be wrong.
    DebugRegister,
    /// C takes a fifth different legacy prefix for the opcode.
    FivePrefixes,
    /// C takes a REX prefix that is not the last prefix for an opcode.
    EarlyRex,
    /// C takes it for MMIO, but the instruction is another: the opcode after a VEX, EVEX or XOP
    /// prefix.
    Vex,
    /// C takes it for MMIO, but LOCK makes it #UD.
    Lock,
    /// C takes it for MMIO, but the operand is a register.
    NoMemory,
    /// C takes it for MMIO, but ModRM.reg makes it another instruction or none (group 11).
    Group11,
    /// C takes it for MMIO, but the instruction has a REX2 prefix, which AMD's CPUs do not know.
    Rex2,
    /// C takes the bytes of Xen's and KVM's forced emulation for a prefix.
    ForcedEmulation,
}

/// The instruction as C's decoder describes it.
struct Decoded {
    insn: c::insn,
    mmio: c::insn_mmio_type,
    mmio_bytes: i32,
}

impl Decoded {
    /// Decodes; `None` if C refuses the bytes.
    fn new(bytes: &[u8; MAX_INSN_LEN], code: CodeSize) -> Option<Decoded> {
        let mut insn = c::insn::default();
        let mut mmio_bytes = 0;

        // SAFETY: `insn` outlives the calls, and the decoder reads no more of the buffer than it is
        // told; `bytes` outlives them, too.
        let mmio = unsafe {
            c::insn_init(
                &mut insn,
                bytes.as_ptr().cast(),
                bytes.len() as i32,
                i32::from(code == CodeSize::Bits64),
            );
            if c::insn_get_length(&mut insn) != 0 || insn.length == 0 {
                return None;
            }
            c::insn_decode_mmio(&mut insn, &mut mmio_bytes)
        };

        Some(Decoded {
            insn,
            mmio,
            mmio_bytes,
        })
    }

    /// A byte of a field.
    fn byte(field: &c::insn_field, index: usize) -> u8 {
        // SAFETY: All bytes of the union were set, by `insn_init()` if by nothing else.
        unsafe { field.__bindgen_anon_1.bytes[index] }
    }

    /// A field as a number with a sign.
    fn value(field: &c::insn_field) -> i32 {
        // SAFETY: As in `byte`.
        unsafe { field.__bindgen_anon_1.value }
    }

    fn rex(&self) -> u8 {
        Decoded::byte(&self.insn.rex_prefix, 0)
    }

    fn modrm(&self) -> u8 {
        Decoded::byte(&self.insn.modrm, 0)
    }

    fn immediate(&self) -> i32 {
        // SAFETY: The members of the union are of one type.
        Decoded::value(unsafe { &self.insn.__bindgen_anon_2.immediate })
    }

    fn is_vex(&self) -> bool {
        // SAFETY: As in `immediate`.
        Decoded::value(unsafe { &self.insn.__bindgen_anon_1.vex_prefix }) != 0
    }

    fn opcode(&self) -> u8 {
        Decoded::byte(&self.insn.opcode, 0)
    }

    /// The register that ModRM.reg says.
    fn reg(&self) -> u8 {
        ((self.modrm() >> 3) & 7) | ((self.rex() & 4) << 1)
    }

    /// The offset of the memory operand, from the decoder's fields.
    fn offset(&self, insn: &Insn, regs: &Regs) -> u64 {
        let modrm = self.modrm();
        let displacement = Decoded::value(&self.insn.displacement) as u64;
        let gpr = |number: u8| regs.gpr(Gpr::new(number));
        let base_bit = (self.rex() & 1) << 3;

        if self.insn.modrm.nbytes == 0 {
            // MOV with the address in the instruction.
            // SAFETY: As in `immediate`.
            let (low, high) = unsafe {
                (
                    Decoded::value(&self.insn.__bindgen_anon_2.moffset1),
                    Decoded::value(&self.insn.__bindgen_anon_3.moffset2),
                )
            };

            return (u64::from(high as u32) << 32) | u64::from(low as u32);
        }
        if self.insn.addr_bytes == 2 {
            let (bx, bp, si, di) = (gpr(3), gpr(5), gpr(6), gpr(7));
            let registers = match modrm & 7 {
                0 => bx.wrapping_add(si),
                1 => bx.wrapping_add(di),
                2 => bp.wrapping_add(si),
                3 => bp.wrapping_add(di),
                4 => si,
                5 => di,
                6 if modrm < 0x40 => 0,
                6 => bp,
                _ => bx,
            };

            return registers.wrapping_add(displacement);
        }

        let registers = if self.insn.sib.nbytes != 0 {
            let sib = Decoded::byte(&self.insn.sib, 0);
            let index = ((sib >> 3) & 7) | ((self.rex() & 2) << 2);
            let index = if index == 4 {
                0
            } else {
                gpr(index) << (sib >> 6)
            };
            let base = if sib & 7 == 5 && modrm < 0x40 {
                0
            } else {
                gpr((sib & 7) | base_bit)
            };

            base.wrapping_add(index)
        } else if modrm & 0xc7 == 5 {
            if self.insn.x86_64 != 0 {
                regs.ip.wrapping_add(insn.len.into())
            } else {
                0
            }
        } else {
            gpr((modrm & 7) | base_bit)
        };

        registers.wrapping_add(displacement)
    }

    /// What the core should know of an instruction of this type.
    fn is_same_mmio(&self, insn: &Insn) -> bool {
        let same = match (self.mmio, &insn.op) {
            (c::insn_mmio_type_INSN_MMIO_MOVS, Op::Movs) => true,
            (kind, Op::Memory(op, _)) => matches!(
                (kind, op),
                (
                    c::insn_mmio_type_INSN_MMIO_WRITE,
                    MemoryOp::Store(Source::Register(_))
                ) | (
                    c::insn_mmio_type_INSN_MMIO_WRITE_IMM,
                    MemoryOp::Store(Source::Immediate(_))
                ) | (
                    c::insn_mmio_type_INSN_MMIO_READ | c::insn_mmio_type_INSN_MMIO_READ_ZERO_EXTEND,
                    MemoryOp::Load {
                        extend: Extend::Zero,
                        ..
                    }
                ) | (
                    c::insn_mmio_type_INSN_MMIO_READ_SIGN_EXTEND,
                    MemoryOp::Load {
                        extend: Extend::Sign,
                        ..
                    }
                )
            ),
            _ => false,
        };

        same && self.mmio_bytes as u64 == insn.width.bytes()
    }
}

/// The register and the immediate of a memory instruction.
fn operands(op: &MemoryOp) -> (Option<Register>, Option<u64>) {
    let source = |source: &Source| match *source {
        Source::Register(register) => (Some(register), None),
        Source::Immediate(value) => (None, Some(value)),
    };

    match op {
        MemoryOp::Store(from)
        | MemoryOp::Modify(_, from)
        | MemoryOp::Compare(_, from)
        | MemoryOp::Bit(_, from) => source(from),
        MemoryOp::Load { to, .. } => (Some(*to), None),
        MemoryOp::Combine(_, register)
        | MemoryOp::CompareRegister(_, register)
        | MemoryOp::Exchange(register)
        | MemoryOp::ExchangeAdd(register)
        | MemoryOp::CompareExchange(register) => (Some(*register), None),
        MemoryOp::Unary(_) => (None, None),
    }
}

/// Compares the operands of a memory instruction.
fn check_memory(c: &Decoded, insn: &Insn, op: &MemoryOp, memory: &Memory, regs: &Regs) {
    let (register, immediate) = operands(op);

    assert_eq!(
        address::offset(regs, insn, memory),
        insn.address_size.truncate(c.offset(insn, regs)),
        "offset"
    );
    assert_eq!(
        matches!(memory.base, Base::Rip),
        c.insn.x86_64 != 0 && c.insn.modrm.nbytes != 0 && c.modrm() & 0xc7 == 5
    );
    if let Some(value) = immediate {
        let width = insn.width;

        assert_eq!(
            width.truncate(value) & 0xffff_ffff,
            width.truncate(c.immediate() as u64)
                & if matches!(op, MemoryOp::Bit(..)) {
                    0xff
                } else {
                    0xffff_ffff
                },
            "immediate"
        );
    }
    if let Some(register) = register {
        let number = register.gpr.number() + if register.high { 4 } else { 0 };
        // Without ModRM it is rAX.
        let expected = if c.insn.modrm.nbytes == 0 { 0 } else { c.reg() };

        assert_eq!(number, expected, "register");
        assert!(!register.high || c.insn.rex_prefix.nbytes == 0);
    }
}

/// True if a legacy prefix follows a REX prefix.
fn has_early_rex(bytes: &[u8]) -> bool {
    let prefixes = bytes.iter().take_while(|byte| {
        matches!(
            byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        )
    });
    let mut rex = false;

    for prefix in prefixes {
        if rex {
            return true;
        }
        rex = matches!(prefix, 0x40..=0x4f);
    }
    false
}

/// The different legacy prefixes.
fn legacy_prefixes(bytes: &[u8]) -> usize {
    let mut prefixes: Vec<_> = bytes
        .iter()
        .take_while(|byte| {
            matches!(
                byte,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
            )
        })
        .collect();

    prefixes.sort();
    prefixes.dedup();
    prefixes.len()
}

/// Compares the core's decoder with C's on one instruction. Panics if one of them is wrong; `None`
/// in 16-bit mode, which C's does not know.
pub(super) fn compare(
    bytes: &[u8; MAX_INSN_LEN],
    code: CodeSize,
    ours: &Result<Insn, DecodeError>,
    regs: &Regs,
) -> Option<Verdict> {
    if code == CodeSize::Bits16 {
        return None;
    }

    let c = Decoded::new(bytes, code);
    let Ok(insn) = ours else {
        return Some(refused(c.as_ref(), bytes));
    };
    let context = || format!("{bytes:02x?} in {code:?}: {insn:x?}");

    if code == CodeSize::Bits64 && has_early_rex(bytes) {
        return Some(Verdict::EarlyRex);
    }

    if legacy_prefixes(bytes) > 4 {
        return Some(Verdict::FivePrefixes);
    }

    let c = c.unwrap_or_else(|| panic!("C refuses {}", context()));

    if matches!(insn.op, Op::ReadDr(..) | Op::WriteDr(..)) && c.modrm() < 0xc0 {
        return Some(Verdict::DebugRegister);
    }
    assert_eq!(c.insn.length, insn.len, "length of {}", context());
    if is_string(&insn.op) || matches!(insn.op, Op::Memory(..)) {
        let size = insn.address_size.bytes();

        assert_eq!(u64::from(c.insn.addr_bytes), size, "{}", context());
    }
    match &insn.op {
        Op::Memory(op, memory) => check_memory(&c, insn, op, memory, regs),
        Op::In(Some(port)) | Op::Out(Some(port)) => assert_eq!(*port, c.immediate() as u8),
        Op::ReadDr(number, gpr) | Op::WriteDr(number, gpr) => {
            let rm = (c.modrm() & 7) | ((c.rex() & 1) << 3);

            assert_eq!((*number, gpr.number()), (c.reg(), rm), "{}", context());
        }
        _ => {}
    }
    if c.mmio == c::insn_mmio_type_INSN_MMIO_DECODE_FAILED {
        return Some(Verdict::Same);
    }
    assert!(
        c.is_same_mmio(insn),
        "C: type {} of {} bytes; {}",
        c.mmio,
        c.mmio_bytes,
        context()
    );
    Some(Verdict::SameMmio)
}

/// What there is to say of an instruction that the core refuses.
fn refused(c: Option<&Decoded>, bytes: &[u8]) -> Verdict {
    let Some(c) = c.filter(|c| c.mmio != c::insn_mmio_type_INSN_MMIO_DECODE_FAILED) else {
        return Verdict::Refused;
    };
    let prefixes = usize::from(c.insn.prefixes.nbytes);

    if c.insn.emulate_prefix_size != 0 {
        Verdict::ForcedEmulation
    } else if c.insn.rex_prefix.nbytes == 2 {
        Verdict::Rex2
    } else if c.is_vex() {
        Verdict::Vex
    } else if bytes[..prefixes].contains(&0xf0) {
        Verdict::Lock
    } else if c.insn.modrm.nbytes != 0 && c.modrm() >= 0xc0 {
        Verdict::NoMemory
    } else if matches!(c.opcode(), 0xc6 | 0xc7) && c.modrm() & 0x38 != 0 {
        Verdict::Group11
    } else {
        panic!(
            "{bytes:02x?} is refused; C: type {} of {} bytes",
            c.mmio, c.mmio_bytes
        );
    }
}
