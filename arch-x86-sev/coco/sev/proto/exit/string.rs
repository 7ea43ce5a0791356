// SPDX-License-Identifier: GPL-2.0

//! What all string instructions share: address registers, count, direction.

use super::super::{
    env::Env,
    insn::Insn,
    regs::{
        Gpr,
        Regs,
        FLAGS_DF,
        FLAGS_TF, //
    },
    result::{
        Progress,
        Width, //
    }, //
};

/// The state of a string instruction.
#[derive(Clone, Copy)]
pub(crate) struct Strings {
    address_size: Width,
    width: Width,
    /// A repeat prefix is there.
    pub(crate) rep: bool,
    /// RFLAGS.DF: from high addresses to low ones.
    pub(crate) backwards: bool,
    /// Iterations that are left.
    count: u64,
    /// RFLAGS.TF: every iteration traps.
    single_step: bool,
}

impl Strings {
    #[inline(always)]
    pub(crate) fn new(regs: &Regs, insn: &Insn) -> Strings {
        Strings {
            address_size: insn.address_size,
            width: insn.width,
            rep: insn.rep,
            backwards: regs.flags & FLAGS_DF != 0,
            count: if insn.rep {
                insn.address_size.truncate(regs.cx)
            } else {
                1
            },
            single_step: regs.flags & FLAGS_TF != 0,
        }
    }

    /// Iterations to perform now, at most `limit`. With single-stepping each traps, so one.
    #[inline(always)]
    pub(crate) const fn batch(&self, limit: u64) -> u64 {
        let limit = if self.single_step { 1 } else { limit };

        if self.count < limit {
            self.count
        } else {
            limit
        }
    }

    /// The offset in rSI or rDI.
    #[inline(always)]
    pub(crate) const fn offset(&self, regs: &Regs, register: Gpr) -> u64 {
        self.address_size.truncate(regs.gpr(register))
    }

    /// How many of `count` iterations keep the offset from wrapping around.
    #[inline(always)]
    pub(crate) fn before_wrap(&self, offset: u64, count: u64) -> u64 {
        let distance = if self.backwards {
            offset
        } else {
            self.address_size.mask().wrapping_sub(offset)
        };
        // The element at `offset` itself is always one of them.
        let elements = (distance >> self.width.shift()).wrapping_add(1);

        if count < elements || elements == 0 {
            count
        } else {
            elements
        }
    }

    /// Moves rSI or rDI past `done` elements.
    #[inline(always)]
    pub(crate) fn advance(&self, regs: &mut Regs, register: Gpr, done: u64) {
        let old = regs.gpr(register);
        let distance = done.wrapping_shl(self.width.shift());
        let new = if self.backwards {
            old.wrapping_sub(distance)
        } else {
            old.wrapping_add(distance)
        };

        regs.set_gpr(register, Regs::merge(old, new, self.address_size));
    }

    /// Counts `done` iterations, and tells whether that was all.
    #[inline(always)]
    pub(crate) fn complete<E: Env + ?Sized>(&self, env: &mut E, done: u64) -> Progress {
        if !self.rep {
            return Progress::Complete;
        }

        let left = self.count.wrapping_sub(done);

        if done != 0 {
            let regs = env.regs_mut();

            regs.cx = Regs::merge(regs.cx, left, self.address_size);
        }
        if left == 0 {
            Progress::Complete
        } else {
            Progress::Partial
        }
    }
}
