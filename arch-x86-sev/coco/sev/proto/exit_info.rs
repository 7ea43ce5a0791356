// SPDX-License-Identifier: GPL-2.0

//! The result that the hypervisor leaves in SW_EXITINFO1 and SW_EXITINFO2 (GHCB specification,
//! 4.1.4).

use super::{
    ghcb::{
        Field,
        Reply, //
    },
    result::{
        Error,
        Fault,
        Result,
        Vector, //
    }, //
};

/// SW_EXITINFO1\[31:0\]: the request was carried out.
const NO_ACTION: u32 = 0;
/// SW_EXITINFO1\[31:0\]: raise the exception that SW_EXITINFO2 describes.
const ISSUE_EXCEPTION: u32 = 1;

/// EVENTINJ (APM vol. 2, 15.20): the vector.
const EVENT_VECTOR_MASK: u64 = 0xff;
/// EVENTINJ: the type of the event.
const EVENT_TYPE_MASK: u64 = 7 << 8;
/// EVENTINJ: type of an exception.
const EVENT_TYPE_EXCEPTION: u64 = 3 << 8;
/// EVENTINJ: the upper half holds an error code.
const EVENT_ERROR_CODE: u64 = 1 << 11;
/// EVENTINJ: the event is valid.
const EVENT_VALID: u64 = 1 << 31;

/// Checks the result of an exit.
///
/// The hypervisor may only ask for exceptions that an intercepted instruction can cause by itself:
/// #GP and #UD. Anything else it says is refused.
#[inline(always)]
pub(crate) fn verify(reply: &Reply) -> Result {
    match reply.require(Field::EXIT_INFO_1)? as u32 {
        NO_ACTION => Ok(()),
        ISSUE_EXCEPTION => Err(requested_exception(reply)),
        _ => Err(Error::Vmm),
    }
}

/// The exception that the hypervisor asks for, if it may.
#[cold]
#[inline(never)]
fn requested_exception(reply: &Reply) -> Error {
    let Some(event) = reply.get(Field::EXIT_INFO_2) else {
        return Error::Vmm;
    };
    let vector = match event & EVENT_VECTOR_MASK {
        6 => Vector::InvalidOpcode,
        13 => Vector::GeneralProtection,
        _ => return Error::Vmm,
    };

    if event & EVENT_VALID == 0 || event & EVENT_TYPE_MASK != EVENT_TYPE_EXCEPTION {
        return Error::Vmm;
    }

    // #UD has no error code, whatever the hypervisor says.
    let has_code = event & EVENT_ERROR_CODE != 0 && vector == Vector::GeneralProtection;

    Error::Exception(Fault {
        cr2: 0,
        error_code: if has_code { (event >> 32) as u32 } else { 0 },
        vector,
    })
}
