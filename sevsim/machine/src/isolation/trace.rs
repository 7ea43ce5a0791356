// SPDX-License-Identifier: GPL-2.0
//! The callers of an instruction, by what is on the stack.
//!
//! The image has no frame pointers: a register more and shorter code for each exit. So each word of
//! the stack that points behind a call in the code counts as a return address. Words that an
//! earlier call left behind may be among them.

/// The longest call instruction with its prefix (FF /2 with SIB and a displacement of 32 bits).
pub const LONGEST_CALL: usize = 8;

/// Whether the bytes end with a call instruction (APM vol. 3: E8, FF /2), so that what follows them
/// is a return address.
pub fn ends_with_call(code: &[u8]) -> bool {
    if matches!(code, [.., 0xe8, _, _, _, _]) {
        return true;
    }
    (2..=7).any(|len| {
        let Some(start) = code.len().checked_sub(len) else {
            return false;
        };
        match &code[start..] {
            [0xff, modrm, rest @ ..] => indirect_len(*modrm, rest) == Some(len),
            _ => false,
        }
    })
}

/// Length of FF with this ModRM byte, if it is a near call.
fn indirect_len(modrm: u8, rest: &[u8]) -> Option<usize> {
    const CALL: u8 = 2;
    if (modrm >> 3) & 7 != CALL {
        return None;
    }
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let sib = mode != 3 && rm == 4;
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if sib && rest.first()? & 7 == 5 => 4,
        0 | 3 => 0,
        1 => 1,
        _ => 4,
    };
    Some(2 + usize::from(sib) + displacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_their_bytes() {
        let calls: [&[u8]; 8] = [
            &[0x90, 0xe8, 1, 2, 3, 4],
            &[0xff, 0xd0],                      // *%rax
            &[0x41, 0xff, 0xd3],                // *%r11
            &[0xff, 0x15, 1, 2, 3, 4],          // *x(%rip)
            &[0xff, 0x50, 0x18],                // *0x18(%rax)
            &[0xff, 0x54, 0x24, 0x08],          // *8(%rsp)
            &[0xff, 0x94, 0x24, 0x80, 0, 0, 0], // *0x80(%rsp)
            &[0xff, 0x14, 0xc5, 0, 0, 0, 0],    // *x(, %rax, 8)
        ];
        for call in calls {
            assert!(ends_with_call(call), "{call:02x?}");
        }
    }

    #[test]
    fn other_instructions_are_none() {
        let others: [&[u8]; 7] = [
            &[],
            &[0xff],
            &[0xe8, 1, 2, 3],
            &[0xff, 0xe0],             // jmp *%rax
            &[0xff, 0xd0, 0x90],       // a call, and one byte more
            &[0xe9, 1, 2, 3, 4],       // jmp
            &[0xff, 0x25, 1, 2, 3, 4], // jmp *x(%rip)
        ];
        for other in others {
            assert!(!ends_with_call(other), "{other:02x?}");
        }
    }
}
