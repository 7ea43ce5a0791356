// SPDX-License-Identifier: GPL-2.0

//! The instruction decoder under any bytes: it agrees with iced-x86, and needs exactly the bytes
//! of the instruction.

use crate::proto::{
    insn::{self, CodeSize, DecodeError, Insn, InsnBytes, MAX_INSN_LEN},
    regs::{Gpr, Regs},
};

#[path = "../../src/tests/decoder/iced.rs"]
mod iced;

/// Where the instructions are.
const IP: u64 = 0x12_3400;

/// The decoder under test, on as many bytes as there are.
fn decode(bytes: &[u8], code: CodeSize) -> Result<Insn, DecodeError> {
    let mut buffer = [0xcc; MAX_INSN_LEN];
    let len = bytes.len().min(MAX_INSN_LEN);

    buffer[..len].copy_from_slice(&bytes[..len]);
    insn::decode(InsnBytes::new(&buffer, bytes.len()), code)
}

/// Compares on one input: a byte for the mode, and the bytes of an instruction.
pub fn decode_one(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let code = match mode % 3 {
        0 => CodeSize::Bits64,
        1 => CodeSize::Bits32,
        _ => CodeSize::Bits16,
    };
    let mut bytes = [0; MAX_INSN_LEN];
    let mut regs = Regs {
        ip: IP,
        ..Regs::default()
    };

    for number in 0..16u8 {
        let value = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(u64::from(number) + 1);

        regs.set_gpr(Gpr::new(number), value);
    }
    for (to, from) in bytes.iter_mut().zip(rest) {
        *to = *from;
    }

    let ours = decode(&bytes, code);

    iced::compare(&bytes, code, &ours, &regs);
    if let Ok(insn) = ours {
        for len in 0..usize::from(insn.len) {
            assert_eq!(decode(&bytes[..len], code), Err(DecodeError::Truncated));
        }
        assert_eq!(decode(&bytes[..insn.len.into()], code), Ok(insn));
    }
}
