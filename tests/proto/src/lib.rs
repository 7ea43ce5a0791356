// SPDX-License-Identifier: GPL-2.0

//! Host tests of the protocol core of SEV-ES guest support.
//!
//! The core is included as the kernel includes it, by path; the tests are modules of this crate,
//! since everything in the core is `pub(crate)`.

#[path = "../../../arch-x86-sev/coco/sev/proto/mod.rs"]
mod proto;

#[cfg(test)]
mod tests;
