// SPDX-License-Identifier: GPL-2.0

//! SEV-ES support of the startup code, which runs before the kernel's own mappings and relocation:
//! termination, and #VC exceptions while there is no GHCB.
//!
//! All symbols get the prefix `__pi_`; exports.h gives the kernel proper those that it may use.

#[path = "../../coco/sev/proto/mod.rs"]
mod proto;
#[path = "../../coco/sev/common/vmgexit.rs"]
mod vmgexit;

#[path = "sev_es/ghcb_msr.rs"]
mod ghcb_msr;
#[path = "sev_es/no_ghcb.rs"]
mod no_ghcb;
