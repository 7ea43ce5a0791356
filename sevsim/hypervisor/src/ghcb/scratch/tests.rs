// SPDX-License-Identifier: GPL-2.0
//! Bounds of scratch areas outside of the GHCB; those inside are tested by whole VMGEXITs.

use super::*;
use crate::ghcb::layout::VALID_BITMAP;
use crate::mock::Mock;

const RAM: Ram = Ram {
    low: 0x100_0000,
    high: 0,
    host_end: 1 << 32,
};

/// Asks for `len` bytes at `gpa` with a GHCB at 0x1000.
fn ask(version: u16, gpa: u64, len: u64) -> bool {
    let mock = Mock::new(1);
    mock.poke(0x1000 + SW_SCRATCH.offset(), &gpa.to_le_bytes());
    mock.poke(0x1000 + VALID_BITMAP, &[0xff; 16]);
    let ghcb = Ghcb::open(&mock, 0x1000).unwrap();
    Scratch::of(&ghcb, &RAM, version, len).is_ok()
}

#[test]
fn outside_of_the_ghcb() {
    assert!(ask(1, 0x8_0000, OUTSIDE_LIMIT));
    assert!(!ask(1, 0x8_0000, OUTSIDE_LIMIT + 1));
    assert!(!ask(2, 0x8_0000, 1));
    assert!(!ask(1, 0, 1), "0 means that none was given");
    assert!(ask(1, 1, 1));
    assert!(ask(1, RAM.low - 8, 8));
    assert!(!ask(1, RAM.low - 8, 9));
    assert!(!ask(1, u64::MAX, 1));
}
