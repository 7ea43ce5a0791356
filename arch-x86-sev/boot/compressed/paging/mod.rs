// SPDX-License-Identifier: GPL-2.0

//! The decompressor's identity map: page tables that grow as memory is used.
//!
//! The raw entry of the kernel image starts on page tables of a boot loader, or on those that
//! `startup_32` made for the first 4 GiB. The decompressor replaces or extends them by tables of
//! its own and maps everything else when a page fault asks for it, 2 MiB at a time. An SEV guest
//! has the C-bit in every entry; the page of its GHCB is shared with the hypervisor, so the
//! 2 MiB around it are split into 4 KiB pages.
//!
//! This module is the part that knows page tables (APM vol. 2, 5.3) and nothing else: no state of
//! its own, no allocation, no panics, no dependency but `core`. What a table's memory is, is
//! behind the trait [`Memory`], so that a host test can run it on memory of its own.

pub(crate) mod entry;
pub(crate) mod map;
pub(crate) mod pool;

#[allow(unused_imports)]
pub(crate) use self::{
    map::{
        Attribute,
        Error,
        IdentityMap,
        Memory,
        Paging, //
    },
    pool::Pool, //
};
