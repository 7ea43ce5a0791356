// SPDX-License-Identifier: GPL-2.0

//! The GHCB: its layout, and requests and replies that go through it (GHCB specification, 2.6 and
//! 4).
//!
//! An exit is a [`Request`] that collects the fields it sets, and a [`Reply`] that hands out only
//! fields which the hypervisor marked valid. Nothing else reads or writes the page, so a field that
//! an exit does not need never reaches the hypervisor as valid. The hypervisor can change the page
//! at any time: each field, and the bitmap of valid fields, is read exactly once.

mod layout;
mod page;
mod request;

// Not every environment needs all of them.
#[allow(unused_imports)]
pub(crate) use self::{
    layout::{
        Field,
        GhcbPage,
        PROTOCOL_MAX,
        PROTOCOL_MIN,
        SHARED_BUFFER_OFFSET,
        SHARED_BUFFER_SIZE, //
    },
    page::{
        Ghcb,
        InUse,
        Saved, //
    },
    request::{
        Pending,
        Reply,
        Request, //
    }, //
};
