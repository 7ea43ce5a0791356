// SPDX-License-Identifier: GPL-2.0

//! Exits whose data is in the shared buffer of the GHCB.

use super::super::{
    env::Env,
    exit_code::ExitCode,
    ghcb::{
        Field,
        Reply,
        Request,
        SHARED_BUFFER_OFFSET, //
    },
    result::Result, //
};

/// Performs the exit; the scratch area is the shared buffer.
#[inline(never)]
pub(super) fn exit<E: Env + ?Sized>(
    env: &mut E,
    code: ExitCode,
    info_1: u64,
    info_2: u64,
) -> Result<Reply> {
    let ghcb = env.ghcb();
    let scratch = env.ghcb_gpa().wrapping_add(SHARED_BUFFER_OFFSET);

    Request::new(ghcb)
        .set(Field::SCRATCH, scratch)
        .call(env, code, info_1, info_2)
}
