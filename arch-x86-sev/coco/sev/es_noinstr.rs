// SPDX-License-Identifier: GPL-2.0

//! SEV-ES code that runs where instrumentation is not allowed: entry of #VC exceptions, ownership
//! of the GHCB, NMI completion, and the IST adjustment for #VC.
//!
//! Everything here is in .noinstr.text and calls nothing outside of it but in marked regions;
//! objtool checks that. What is shared with other objects has to be inlined.
//!
//! The object is built without sanitizers and coverage: rustc cannot exempt a single function.

#[macro_use]
#[path = "common/percpu.rs"]
mod percpu;

#[path = "noinstr/entry.rs"]
mod entry;
#[path = "noinstr/ghcb.rs"]
mod ghcb;
#[path = "noinstr/instrumentation.rs"]
mod instrumentation;
#[path = "noinstr/ist.rs"]
mod ist;
#[path = "noinstr/nmi.rs"]
mod nmi;
#[path = "proto/mod.rs"]
mod proto;
#[path = "common/verdict.rs"]
mod verdict;
#[path = "common/vmgexit.rs"]
mod vmgexit;
