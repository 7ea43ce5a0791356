// SPDX-License-Identifier: GPL-2.0

//! How an instruction that was emulated ends.

use super::super::{
    env::Env,
    insn::CodeSize,
    regs::{
        FLAGS_RF,
        FLAGS_TF, //
    },
    result::{
        Outcome,
        Progress, //
    }, //
};

/// What was done for an instruction.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Length of the instruction.
    pub(super) len: u8,
    /// The code segment that it is in.
    pub(super) code: CodeSize,
    /// Whether it is complete.
    pub(super) progress: Progress,
}

impl Step {
    /// A complete instruction in 64-bit mode.
    #[inline(always)]
    pub(super) const fn long(len: u8) -> Step {
        Step {
            len,
            code: CodeSize::Bits64,
            progress: Progress::Complete,
        }
    }

    /// Brings RIP and RFLAGS to where hardware would have them after the instruction.
    #[inline(always)]
    pub(super) fn finish<E: Env + ?Sized>(self, env: &mut E) -> Outcome {
        // No instruction that exits is a branch.
        let single_step = env.regs().flags & FLAGS_TF != 0 && !env.steps_blocks();
        let regs = env.regs_mut();

        if let Progress::Partial = self.progress {
            return Outcome::Retry { single_step };
        }

        let next = regs.ip.wrapping_add(self.len.into());

        regs.ip = match self.code {
            CodeSize::Bits64 => next,
            CodeSize::Bits32 => next & 0xffff_ffff,
            CodeSize::Bits16 => next & 0xffff,
        };
        // Completing an instruction clears RF (APM vol. 2, 3.1.6). An interrupt shadow of STI or
        // MOV SS ended with the instruction, too; it is not in the saved registers.
        regs.flags &= !FLAGS_RF;
        Outcome::Done { single_step }
    }
}
