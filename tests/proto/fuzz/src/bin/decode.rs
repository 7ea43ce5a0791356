// SPDX-License-Identifier: GPL-2.0

//! The instruction decoder, against iced-x86.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    proto_fuzz::decode_one(data);
});
