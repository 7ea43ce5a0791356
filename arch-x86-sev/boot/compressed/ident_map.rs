// SPDX-License-Identifier: GPL-2.0

//! The decompressor's identity map and its page faults.
//!
//! What knows page tables is in `paging/`, which is pure. Here it is bound to the machine: to
//! memory that is mapped to itself, CR2, CR3 and CR4, the area `_pgtable`, the C code that asks for
//! mappings, and the exception stubs. All of it runs on every x86-64 machine that boots through the
//! raw entry, on one CPU with interrupts off, on the boot stack, after `load_stage2_idt()`.
//!
//! The object is position-independent and has no core and no panic handler behind it; see
//! Makefile.rust.

#[path = "../startup/sev_es/c_bit.rs"]
mod c_bit;
mod paging;
mod report;

#[path = "ident_map/attributes.rs"]
mod attributes;
#[path = "ident_map/c.rs"]
mod c;
#[path = "ident_map/cpu.rs"]
mod cpu;
#[path = "ident_map/failure.rs"]
mod failure;
#[path = "ident_map/fault.rs"]
mod fault;
#[path = "ident_map/grow.rs"]
mod grow;
#[path = "ident_map/memory.rs"]
mod memory;
#[path = "ident_map/probe.rs"]
mod probe;
#[path = "ident_map/setup.rs"]
mod setup;
#[path = "ident_map/state.rs"]
mod state;
