// SPDX-License-Identifier: GPL-2.0
//! Execution of one guest instruction by the trap flag, without the guest noticing.
//!
//! The flag is set for one entry. An instruction that stores RFLAGS has its image put right
//! afterwards, one that loads RFLAGS decides about the flag itself, and DR6 does not keep the trap.
//! All exceptions have to be intercepted meanwhile ([`EXCEPTIONS`]): QEMU would push the flag with
//! the frame. Interrupts have to be off in the guest for the same reason.

use crate::linear::Linear;
use crate::paging::GuestMemory;
use crate::paging::Who;
use crate::vmcb::bits;
use crate::vmcb::Save;

/// Exception intercepts for a step: all but NMI, which has an intercept of its own.
pub const EXCEPTIONS: u32 = !(1 << 2);

/// DR6.BS: the trap came from the flag.
const DR6_BS: u64 = 1 << 14;

/// What an instruction has to do with the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Plain,
    /// Pushes RFLAGS.
    Push,
    /// Returns from an interrupt, which loads RFLAGS.
    Return,
    /// Loads RFLAGS otherwise.
    Load,
    /// Writes DR6 from a general register.
    WriteDr6(u8),
}

/// A step under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    kind: Kind,
    dr6: u64,
}

/// What a finished step was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The instruction was not executed: the exit has another reason.
    Not,
    /// It was.
    Done,
    /// It was, and is an IRET.
    Returned,
}

impl Step {
    /// Sets the trap flag for the instruction in `bytes`. `None` if the instruction cannot be
    /// stepped: it raises a software interrupt or makes a system call, which the trap would not
    /// follow, or the guest steps by itself.
    pub fn begin(save: &mut Save, bytes: &[u8], long: bool) -> Option<Self> {
        let kind = classify(bytes, long)?;
        if save.rflags & bits::RFLAGS_TF != 0 {
            return None;
        }
        save.rflags |= bits::RFLAGS_TF;
        let dr6 = save.dr6;
        Some(Self { kind, dr6 })
    }

    /// Takes the flag away again. `trapped`: the exit is the #DB of the step. `register` reads a
    /// general register of the guest.
    pub fn end<M: GuestMemory>(
        self,
        save: &mut Save,
        linear: &Linear<'_, M>,
        register: impl Fn(u8) -> u64,
        trapped: bool,
    ) -> Stepped {
        if !trapped {
            save.rflags &= !bits::RFLAGS_TF;
            return Stepped::Not;
        }
        // What an instruction loaded is the guest's own.
        if !matches!(self.kind, Kind::Load | Kind::Return) {
            save.rflags &= !bits::RFLAGS_TF;
        }
        save.dr6 = match self.kind {
            Kind::WriteDr6(number) => save.dr6 & !DR6_BS | register(number) & DR6_BS,
            _ => self.dr6,
        };
        if self.kind == Kind::Push {
            // The instruction has just written there.
            let at = save.rsp.wrapping_add(1);
            let mut byte = [0];
            let who = if save.cpl == 3 {
                Who::User
            } else {
                Who::Supervisor
            };
            let high = linear.read(at, &mut byte, crate::paging::Want::Read, who);
            if high.is_ok() {
                byte[0] &= !((bits::RFLAGS_TF >> 8) as u8);
                let _ = linear.write(at, &byte, who);
            }
        }
        match self.kind {
            Kind::Return => Stepped::Returned,
            _ => Stepped::Done,
        }
    }
}

/// Finds out by its bytes what an instruction has to do with the flag.
fn classify(bytes: &[u8], long: bool) -> Option<Kind> {
    let mut at = 0;
    let mut rex = 0;
    loop {
        match *bytes.get(at)? {
            0xf0 | 0xf2 | 0xf3 | 0x66 | 0x67 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 => rex = 0,
            byte @ 0x40..=0x4f if long => rex = byte,
            _ => break,
        }
        at += 1;
    }
    let second = bytes.get(at + 1).copied();
    Some(match (bytes[at], second) {
        (0x9c, _) => Kind::Push,
        (0x9d, _) => Kind::Load,
        (0xcf, _) => Kind::Return,
        // INT3, INT, INTO, INT1; SYSCALL, SYSENTER.
        (0xcc..=0xce | 0xf1, _) | (0x0f, Some(0x05 | 0x34)) => return None,
        // SYSRET, SYSEXIT.
        (0x0f, Some(0x07 | 0x35)) => Kind::Load,
        (0x0f, Some(0x23)) => {
            let modrm = *bytes.get(at + 2)?;
            let high = if rex & 1 != 0 { 8 } else { 0 };
            match (modrm >> 3) & 7 {
                // DR4 is DR6 without CR4.DE.
                4 | 6 => Kind::WriteDr6(modrm & 7 | high),
                _ => Kind::Plain,
            }
        }
        _ => Kind::Plain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::model::Memory;
    use crate::paging::Backing;
    use crate::paging::Paging;
    use crate::reset;

    const STACK: u64 = 0x8000;

    /// A vCPU without paging, its flags and DR6 at known values.
    fn save() -> Save {
        let mut save = reset::vmcb().save;
        save.rflags = 0x246;
        save.rsp = STACK;
        save.dr6 = 0xffff_0ff1;
        save.cpl = 0;
        save
    }

    /// Steps over `bytes`, which `execute` carries out with what the processor adds to it.
    fn step(save: &mut Save, bytes: &[u8], execute: impl FnOnce(&mut Save, &Memory)) -> Memory {
        let memory = Memory::new(1 << 20);
        let step = Step::begin(save, bytes, true).unwrap();
        assert_ne!(save.rflags & bits::RFLAGS_TF, 0);
        execute(save, &memory);
        save.dr6 |= DR6_BS;
        let linear = Linear {
            memory: &memory,
            paging: Paging::of(save, 1 << 47),
        };
        let result = step.end(save, &linear, |_| 0, true);
        assert_ne!(result, Stepped::Not);
        memory
    }

    #[test]
    fn neither_flags_nor_dr6_keep_a_trace() {
        let mut save = save();
        step(&mut save, &[0x90], |_, _| ());
        assert_eq!((save.rflags, save.dr6), (0x246, 0xffff_0ff1));
    }

    #[test]
    fn pushed_flags_are_put_right() {
        for bytes in [&[0x9c][..], &[0x66, 0x9c], &[0x48, 0x9c]] {
            let mut save = save();
            let memory = step(&mut save, bytes, |save, memory| {
                save.rsp -= 8;
                let image = save.rflags.to_le_bytes();
                memory.write(save.rsp, Backing::Private, &image).unwrap();
            });
            let mut image = [0; 8];
            memory
                .read(STACK - 8, Backing::Private, &mut image)
                .unwrap();
            assert_eq!(u64::from_le_bytes(image), 0x246, "{bytes:02x?}");
            assert_eq!(save.rflags, 0x246);
        }
    }

    #[test]
    fn loaded_flags_are_the_guests() {
        for (bytes, loaded) in [(&[0x9d][..], 0x102), (&[0x48, 0xcf], 0x302), (&[0x9d], 2)] {
            let mut save = save();
            step(&mut save, bytes, |save, _| save.rflags = loaded);
            assert_eq!(save.rflags, loaded, "{bytes:02x?}");
        }
    }

    #[test]
    fn a_return_is_told_apart() {
        let memory = Memory::new(1 << 20);
        let mut save = save();
        let step = Step::begin(&mut save, &[0x48, 0xcf], true).unwrap();
        let linear = Linear {
            memory: &memory,
            paging: Paging::of(&save, 1 << 47),
        };
        assert_eq!(step.end(&mut save, &linear, |_| 0, true), Stepped::Returned);
    }

    #[test]
    fn written_dr6_keeps_what_was_written() {
        for (register, bs) in [(0, 0), (DR6_BS, DR6_BS)] {
            let memory = Memory::new(1 << 20);
            let mut save = save();
            let step = Step::begin(&mut save, &[0x41, 0x0f, 0x23, 0xf1], true).unwrap();
            save.dr6 = 0xffff_0ff2 | DR6_BS;
            let linear = Linear {
                memory: &memory,
                paging: Paging::of(&save, 1 << 47),
            };
            let get = |number| {
                assert_eq!(number, 9);
                register
            };
            step.end(&mut save, &linear, get, true);
            assert_eq!(save.dr6, 0xffff_0ff2 | bs);
        }
    }

    #[test]
    fn an_exit_before_the_instruction_changes_nothing() {
        let memory = Memory::new(1 << 20);
        let mut save = save();
        let before = save.clone();
        let step = Step::begin(&mut save, &[0x9c], true).unwrap();
        let linear = Linear {
            memory: &memory,
            paging: Paging::of(&save, 1 << 47),
        };
        assert_eq!(step.end(&mut save, &linear, |_| 0, false), Stepped::Not);
        assert_eq!((save.rflags, save.dr6), (before.rflags, before.dr6));
    }

    #[test]
    fn what_cannot_be_stepped_is_refused_untouched() {
        let codes: [&[u8]; 6] = [
            &[0xcc],
            &[0xcd, 0x80],
            &[0xf1],
            &[0x0f, 0x05],
            &[0x0f, 0x34],
            &[0xf3],
        ];
        for bytes in codes {
            let mut save = save();
            assert_eq!(Step::begin(&mut save, bytes, true), None, "{bytes:02x?}");
            assert_eq!(save.rflags, 0x246);
        }
        let mut save = save();
        save.rflags |= bits::RFLAGS_TF;
        assert_eq!(Step::begin(&mut save, &[0x90], true), None);
    }
}
