// SPDX-License-Identifier: GPL-2.0

//! Exceptions of the decompressor: the IDT, NMIs, and #VC exceptions of SEV-ES guests.
//!
//! The decompressor runs identity-mapped at any address, on one CPU, with interrupts off. It has
//! two IDTs, one after the other in the same place. Stage 1 is for the time before the decompressor
//! has moved itself: only #VC, by the MSR protocol, with no state but what is in `.data` (`.bss` is
//! cleared later). Stage 2 adds page faults, from which the identity map is made, and #VC with a
//! GHCB. An EFI stub boot goes through neither: it jumps to the decompressed kernel from under the
//! firmware's IDT.
//!
//! The object is position-independent and has no core and no panic handler behind it; see
//! Makefile.rust.

#[path = "../../coco/sev/proto/mod.rs"]
mod proto;
#[path = "../../coco/sev/common/vmgexit.rs"]
mod vmgexit;

// Everybody uses a part of these.
#[path = "../startup/sev_es/c_bit.rs"]
mod c_bit;
#[allow(dead_code)]
#[path = "../../coco/sev/runtime/cpu.rs"]
mod cpu;
#[path = "../startup/sev_es/ghcb_msr.rs"]
mod ghcb_msr;
#[path = "../startup/sev_es/no_ghcb.rs"]
mod no_ghcb;

mod report;

#[path = "exceptions/c.rs"]
mod c;
#[path = "exceptions/env.rs"]
mod env;
#[path = "exceptions/ghcb.rs"]
mod ghcb;
#[path = "exceptions/idt.rs"]
mod idt;
#[path = "exceptions/nmi.rs"]
mod nmi;
#[path = "exceptions/vc.rs"]
mod vc;

/// An entry of the page tables that stage 1 runs on. They are a boot loader's, which need not have
/// mapped them, and page faults are handled from stage 2 on: `initialize_identity_maps()` looks.
fn page_table_entry(_address: u64) -> Option<u64> {
    None
}
