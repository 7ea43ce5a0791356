// SPDX-License-Identifier: GPL-2.0
//! The machine: what SEV-ES hardware and the secure processor do, as pure code.
//!
//! SVM hardware without SEV-ES (such as QEMU's) exits to its host where SEV-ES raises #VC, and has
//! no encrypted memory. This crate holds the rules that close the gap: layouts, the two backings of
//! guest memory, page walks, the delivery of #VC, the state at reset. It touches no hardware, and
//! so all of it is tested on any host.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod control;
pub mod delivery;
pub mod direct;
mod entry;
pub mod event;
pub mod exit;
pub mod firmware;
pub mod in_use;
pub mod insn;
pub mod isolation;
pub mod launch;
pub mod layout;
pub mod linear;
pub mod npt;
pub mod paging;
pub mod reset;
pub mod stage;
pub mod step;
pub mod sweep;
pub mod vmcb;
