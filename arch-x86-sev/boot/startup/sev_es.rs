// SPDX-License-Identifier: GPL-2.0

//! SEV-ES support of the startup code, which runs before the kernel's own mappings and relocation:
//! termination, and #VC exceptions while there is no GHCB.
//!
//! All symbols get the prefix `__pi_`; exports.h gives the kernel proper those that it may use.

#[path = "../../coco/sev/proto/mod.rs"]
mod proto;
#[path = "../../coco/sev/common/vmgexit.rs"]
mod vmgexit;

// Everybody uses a part of this.
#[allow(dead_code)]
#[path = "../../coco/sev/runtime/cpu.rs"]
mod cpu;

#[path = "sev_es/c_bit.rs"]
mod c_bit;
#[path = "sev_es/ghcb_msr.rs"]
mod ghcb_msr;
#[path = "sev_es/no_ghcb.rs"]
mod no_ghcb;

/// An entry of the page tables that the startup code runs on: those of the decompressor, of the
/// firmware, or of kexec. All of them map themselves.
fn page_table_entry(address: u64) -> Option<u64> {
    // SAFETY: `address` is in such a table. Volatile, for the processor may write to it.
    Some(unsafe { (address as *const u64).read_volatile() })
}
