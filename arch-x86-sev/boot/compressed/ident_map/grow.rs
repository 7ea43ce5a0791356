// SPDX-License-Identifier: GPL-2.0

//! Adding to the identity map.

use super::{
    failure::{
        self,
        Report, //
    },
    memory::Ram,
    paging::{
        Error,
        IdentityMap, //
    },
    report::print,
    state, //
};

/// `BOOT_PGT_SIZE` of asm/boot.h has so many tables more than should be needed.
const SPARE_TABLES: u64 = 4;

/// Changes the map by `work`, and tells a developer about tables running out.
#[inline(always)]
pub(crate) fn grow<R>(
    work: impl FnOnce(&mut IdentityMap, &mut Ram) -> Result<R, Error>,
) -> Result<R, Error> {
    let (result, before, left) = state::with(|map, ram| {
        let before = map.tables_left();

        (work(map, ram), before, map.tables_left())
    });

    if cfg!(CONFIG_X86_VERBOSE_BOOTUP) && before >= SPARE_TABLES && left < SPARE_TABLES {
        print(c"Page tables running low, need to raise BOOT_PGT_SIZE?\n");
    }
    result
}

/// Maps from `start` to `end`, rounded outwards to 2 MiB. What is mapped stays as it is. Ends the
/// boot if that cannot be.
///
/// # Safety
///
/// Called after `initialize_identity_maps()` has begun. The range need not be memory: accessing it
/// is another matter.
#[no_mangle]
pub(crate) unsafe extern "C" fn kernel_add_identity_map(start: u64, end: u64) {
    if let Err(error) = grow(|map, ram| map.map(ram, start, end)) {
        Report::new(failure::reason(error))
            .value(c"\nStart: 0x", start)
            .value(c"\nEnd: 0x", end)
            .stop();
    }
}
