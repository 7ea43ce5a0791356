// SPDX-License-Identifier: GPL-2.0

//! Host tests of what is pure in the early boot code.
//!
//! The code is included as the kernel includes it, by path; the tests are modules of this crate,
//! since everything there is `pub(crate)`.

#[path = "../../../arch-x86-sev/boot/compressed/paging/mod.rs"]
#[allow(dead_code)]
mod paging;

#[path = "../../../arch-x86-sev/boot/startup/sev_es/c_bit.rs"]
#[allow(dead_code)]
mod c_bit;

#[cfg(test)]
mod c_bit_tests;
#[cfg(test)]
mod identity_map;
