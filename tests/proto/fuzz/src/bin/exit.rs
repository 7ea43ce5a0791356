// SPDX-License-Identifier: GPL-2.0

//! The handling of exits, with a hypervisor that replies what it likes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    proto_fuzz::handle_exits(data);
});
