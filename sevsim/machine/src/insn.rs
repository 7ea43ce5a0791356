// SPDX-License-Identifier: GPL-2.0
//! The few instructions that the machine carries out itself, found by their bytes.
//!
//! QEMU saves no next RIP, and SVM exits do not carry the operand of every instruction. The
//! guest's own decoder handles everything that becomes #VC; here are only those that hardware
//! executes without its help: MSR access, VMGEXIT, MOV to CR, LMSW, CLTS, INVLPG.

use crate::linear::Linear;
use crate::paging::GuestMemory;
use crate::paging::Paging;
use crate::paging::Want;
use crate::paging::Who;
use crate::vmcb::CodeSize;
use crate::vmcb::Save;

/// The longest instruction.
pub const LONGEST: usize = 15;

/// The bytes at CS:RIP, and how many of them can be fetched: up to the end of the page, if the next
/// one is not there.
pub fn fetch<M: GuestMemory>(save: &Save, memory: &M, cbit: u64) -> ([u8; LONGEST], usize) {
    let linear = Linear {
        memory,
        paging: Paging::of(save, cbit),
    };
    let who = if save.cpl == 3 {
        Who::User
    } else {
        Who::Supervisor
    };
    // Outside 64-bit code linear addresses wrap at 4 GiB, in compatibility mode too.
    let (base, mask) = if save.long_code() {
        (0, u64::MAX)
    } else {
        (save.cs.base, 0xffff_ffff)
    };
    let start = base.wrapping_add(save.rip) & mask;
    let mut bytes = [0; LONGEST];
    let first = LONGEST.min(4096 - (start & 0xfff) as usize);
    let read = |start, bytes: &mut [u8]| linear.read(start, bytes, Want::Fetch, who).is_ok();
    if !read(start, &mut bytes[..first]) {
        return (bytes, 0);
    }
    let rest = start.wrapping_add(first as u64) & mask;
    if first < LONGEST && !read(rest, &mut bytes[first..]) {
        return (bytes, first);
    }
    (bytes, LONGEST)
}

/// An instruction that the machine can carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insn {
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// VMMCALL without REP prefix.
    Vmmcall,
    /// VMMCALL with a REP or REPNE prefix.
    Vmgexit,
    /// RDTSCP.
    Rdtscp,
    /// MOV CRn, register.
    WriteCr {
        /// Control register number.
        cr: u8,
        /// General register number, 0 to 15.
        register: u8,
    },
    /// CLTS.
    ClearTs,
    /// LMSW with a register operand.
    LoadMsw {
        /// General register number.
        register: u8,
    },
    /// INVLPG of whatever address.
    Invlpg,
}

/// Decodes the instruction at the start of `bytes` (up to 15). Returns it with its length.
#[inline(always)]
pub fn decode(bytes: &[u8], size: CodeSize) -> Option<(Insn, usize)> {
    // The three that nearly all exits are about, without prefixes of no effect.
    match bytes {
        [0x0f, 0x30, ..] => Some((Insn::WriteMsr, 2)),
        [0x0f, 0x32, ..] => Some((Insn::ReadMsr, 2)),
        [0xf3, 0x0f, 0x01, 0xd9, ..] => Some((Insn::Vmgexit, 4)),
        _ => decode_any(bytes, size),
    }
}

#[inline(never)]
fn decode_any(bytes: &[u8], size: CodeSize) -> Option<(Insn, usize)> {
    let long = size == CodeSize::Bits64;
    let mut at = 0;
    let mut rep = false;
    let mut other_address = false;
    let mut rex = 0;
    // Prefixes in any order; a REX prefix counts only right before the opcode.
    loop {
        match *bytes.get(at)? {
            0xf2 | 0xf3 => (rep, rex) = (true, 0),
            0x67 => (other_address, rex) = (true, 0),
            0x66 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 => rex = 0,
            byte @ 0x40..=0x4f if long => rex = byte,
            _ => break,
        }
        at += 1;
    }
    if *bytes.get(at)? != 0x0f {
        return None;
    }
    let opcode = *bytes.get(at + 1)?;
    at += 2;
    let modrm = bytes.get(at).copied();
    let high = |bit: u8| if rex & bit != 0 { 8 } else { 0 };
    Some(match opcode {
        0x30 => (Insn::WriteMsr, at),
        0x32 => (Insn::ReadMsr, at),
        0x06 => (Insn::ClearTs, at),
        0x22 => {
            let cr = ((modrm? >> 3) & 7) | high(4);
            (
                Insn::WriteCr {
                    cr,
                    register: modrm? & 7 | high(1),
                },
                at + 1,
            )
        }
        0x01 => match modrm? {
            0xd9 if rep => (Insn::Vmgexit, at + 1),
            0xd9 => (Insn::Vmmcall, at + 1),
            0xf9 => (Insn::Rdtscp, at + 1),
            byte @ 0xf0..=0xf7 => (
                Insn::LoadMsw {
                    register: byte & 7 | high(1),
                },
                at + 1,
            ),
            byte if (byte >> 3) & 7 == 7 && byte < 0xc0 => {
                let narrow = !long && (size == CodeSize::Bits16) != other_address;
                (Insn::Invlpg, at + operand(&bytes[at..], narrow)?)
            }
            _ => return None,
        },
        _ => return None,
    })
}

/// Length of ModRM, SIB and displacement of a memory operand; `narrow` with 16-bit addressing.
fn operand(bytes: &[u8], narrow: bool) -> Option<usize> {
    let modrm = *bytes.first()?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let mut length = 1;
    if narrow {
        length += match mode {
            0 if rm == 6 => 2,
            1 => 1,
            2 => 2,
            _ => 0,
        };
        return (bytes.len() >= length).then_some(length);
    }
    let mut base = rm;
    if rm == 4 {
        base = *bytes.get(1)? & 7;
        length += 1;
    }
    length += match mode {
        0 if base == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    (bytes.len() >= length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::model::Memory;
    use crate::paging::Backing;
    use crate::vmcb::bits;

    #[test]
    fn instructions_and_lengths() {
        type Case<'a> = (&'a [u8], Option<(Insn, usize)>);
        let table: [Case<'_>; 22] = [
            (&[0x0f, 0x30], Some((Insn::WriteMsr, 2))),
            (&[0x0f, 0x32, 0x90], Some((Insn::ReadMsr, 2))),
            (&[0x2e, 0x0f, 0x30], Some((Insn::WriteMsr, 3))),
            (&[0xf3, 0x0f, 0x01, 0xd9], Some((Insn::Vmgexit, 4))),
            (
                &[0x66, 0xf3, 0x48, 0x0f, 0x01, 0xd9],
                Some((Insn::Vmgexit, 6)),
            ),
            (&[0xf2, 0x0f, 0x01, 0xd9], Some((Insn::Vmgexit, 4))),
            (&[0x48, 0xf3, 0x0f, 0x01, 0xd9], Some((Insn::Vmgexit, 5))),
            (&[0x48, 0x66, 0x0f, 0x01, 0xd9], Some((Insn::Vmmcall, 5))),
            (
                &[0x41, 0x66, 0x0f, 0x22, 0xd8],
                Some((Insn::WriteCr { cr: 3, register: 0 }, 5)),
            ),
            (&[0x0f, 0x01, 0xf9], Some((Insn::Rdtscp, 3))),
            (&[0x0f, 0x31, 0x0f, 0x01, 0xf9], None),
            (&[0x0f, 0x01, 0xd9], Some((Insn::Vmmcall, 3))),
            (
                &[0x0f, 0x22, 0xd8],
                Some((Insn::WriteCr { cr: 3, register: 0 }, 3)),
            ),
            (
                &[0x41, 0x0f, 0x22, 0xe7],
                Some((
                    Insn::WriteCr {
                        cr: 4,
                        register: 15,
                    },
                    4,
                )),
            ),
            (
                &[0x44, 0x0f, 0x22, 0xc1],
                Some((Insn::WriteCr { cr: 8, register: 1 }, 4)),
            ),
            (&[0x0f, 0x06], Some((Insn::ClearTs, 2))),
            (
                &[0x0f, 0x01, 0xf0],
                Some((Insn::LoadMsw { register: 0 }, 3)),
            ),
            (&[0x0f, 0x01, 0x3f], Some((Insn::Invlpg, 3))),
            (
                &[0x41, 0x0f, 0x01, 0x7c, 0x24, 0x08],
                Some((Insn::Invlpg, 6)),
            ),
            (&[0x0f, 0x01, 0x3d, 1, 2, 3, 4], Some((Insn::Invlpg, 7))),
            (&[0x0f, 0xa2], None),
            (&[0x0f], None),
        ];
        for (bytes, expected) in table {
            assert_eq!(decode(bytes, CodeSize::Bits64), expected, "{bytes:02x?}");
        }
    }

    /// Linear addresses are physical ones: 32-bit code without paging.
    fn flat() -> Save {
        let mut save = crate::reset::vmcb().save;
        save.cs.base = 0;
        save.rip = 0x1000;
        save
    }

    fn memory(at: u64) -> Memory {
        let memory = Memory::new(1 << 20);
        let code: Vec<u8> = (1..=LONGEST as u8).collect();
        memory.write(at, Backing::Private, &code).unwrap();
        memory
    }

    #[test]
    fn fetches_up_to_what_is_there() {
        let mut save = flat();
        let (bytes, len) = fetch(&save, &memory(0x1000), 1 << 51);
        assert_eq!((bytes[0], bytes[14], len), (1, 15, 15));
        // The last page of memory.
        save.rip = (1 << 20) - 4;
        let memory = Memory::new(1 << 20);
        assert_eq!(fetch(&save, &memory, 1 << 51).1, 4);
        save.rip = 1 << 20;
        assert_eq!(fetch(&save, &memory, 1 << 51).1, 0);
    }

    #[test]
    fn addresses_wrap_outside_64_bit_code() {
        let mut save = flat();
        save.cs.base = 0xffff_f000;
        save.rip = 0x2000;
        assert_eq!(fetch(&save, &memory(0x1000), 1 << 51).0[0], 1);
        // Compatibility mode: linear addresses have 64 bits, segments do not reach them.
        let memory = memory(0x1000);
        memory.put(0x8000, 0x9000 | 7 | (1 << 51));
        memory.put(0x9000, 0xa007 | (1 << 51));
        memory.put(0xa000, 0x87 | (1 << 51));
        save.cr3 = 0x8000;
        save.cr4 = bits::CR4_PAE;
        save.cr0 = bits::CR0_PE | bits::CR0_PG;
        save.efer |= bits::EFER_LME | bits::EFER_LMA;
        save.cs.attributes = 0xcfb;
        save.cpl = 3;
        assert_eq!(fetch(&save, &memory, 1 << 51).0[0], 1);
    }

    #[test]
    fn operands_by_size_of_addresses() {
        use CodeSize::*;
        for (size, bytes, length) in [
            (Bits16, &[0x0f, 0x01, 0x3e, 1, 2][..], 5),
            (Bits16, &[0x0f, 0x01, 0x3c, 1, 2], 3),
            (Bits16, &[0x0f, 0x01, 0x7c, 1, 2], 4),
            (Bits16, &[0x0f, 0x01, 0xbc, 1, 2], 5),
            (Bits16, &[0x67, 0x0f, 0x01, 0x3e, 1], 4),
            (Bits16, &[0x67, 0x0f, 0x01, 0x3c, 0x24], 5),
            (Bits32, &[0x0f, 0x01, 0x3e, 1, 2], 3),
            (Bits32, &[0x67, 0x0f, 0x01, 0x3e, 1, 2], 6),
            (Bits64, &[0x67, 0x0f, 0x01, 0x3e, 1, 2], 4),
        ] {
            let found = decode(bytes, size);
            assert_eq!(found, Some((Insn::Invlpg, length)), "{size:?} {bytes:02x?}");
        }
        assert_eq!(decode(&[0x0f, 0x01, 0x3e, 1], Bits16), None, "cut off");
    }

    #[test]
    fn rex_is_an_opcode_outside_64_bit_code() {
        assert_eq!(decode(&[0x41, 0x0f, 0x30], CodeSize::Bits32), None);
    }
}
