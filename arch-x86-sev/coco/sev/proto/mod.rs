// SPDX-License-Identifier: GPL-2.0

//! The protocol core of SEV-ES guest support: what a #VC handler does, without where it runs.
//!
//! When an SEV-ES guest executes an instruction that the hypervisor intercepts, hardware raises a
//! #VC exception in the guest (APM vol. 2, 15.35.5). The handler decides what to tell the
//! hypervisor, puts it in the GHCB, a page shared with the hypervisor, executes VMGEXIT, checks
//! the reply and updates the interrupted registers. This module holds all of that as pure code:
//! no allocation, no panics, no dependency but `core`, no state of its own.
//!
//! The source is included with `#[path]` by the decompressor, the startup code, the noinstr object
//! and the runtime object of the kernel, and by a crate of host tests. What differs between them is
//! behind the trait [`Env`]; [`exit::handle`] is the entry. Rules that follow from the four
//! homes: no static data that needs relocation, no indexing, no `dyn`, no formatting; code that
//! noinstr sections use is `#[inline(always)]`.

// Every environment uses its own part of the core.
#![allow(dead_code)]

pub(crate) mod env;
pub(crate) mod exit;
pub(crate) mod exit_code;
pub(crate) mod exit_info;
pub(crate) mod ghcb;
pub(crate) mod insn;
pub(crate) mod msr_protocol;
pub(crate) mod regs;
pub(crate) mod result;

// The names that an environment needs to implement the trait and to call the core. Not every
// environment needs all of them.
#[allow(unused_imports)]
pub(crate) use self::{
    env::{
        CpuidLeaf,
        Env,
        Features,
        Mapping,
        Note,
        SnpCpuid, //
    },
    exit_code::ExitCode,
    ghcb::{
        Ghcb,
        GhcbPage,
        Reply,
        Request, //
    },
    insn::{
        CodeSize,
        Segment, //
    },
    regs::{
        Gpr,
        Regs, //
    },
    result::{
        Access,
        Error,
        Fault,
        Outcome,
        Result,
        Vector,
        Width, //
    }, //
};
