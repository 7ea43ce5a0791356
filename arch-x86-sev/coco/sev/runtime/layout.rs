// SPDX-License-Identifier: GPL-2.0

//! Compile-time checks: the protocol core's layouts and numbers are those of the kernel's headers.

use core::mem::{
    align_of,
    offset_of,
    size_of, //
};

use kernel::bindings::{
    self,
    ghcb,
    ghcb_save_area,
    pt_regs, //
};

use crate::proto::{
    ghcb::{PROTOCOL_MAX, PROTOCOL_MIN, SHARED_BUFFER_OFFSET, SHARED_BUFFER_SIZE},
    ExitCode,
    GhcbPage,
    Outcome,
    Regs, //
};

macro_rules! same_offsets {
    ($ours:ty, $theirs:ty: $($our:ident = $their:ident),* $(,)?) => {
        $(const _: () = assert!(offset_of!($ours, $our) == offset_of!($theirs, $their));)*
    };
}

same_offsets!(Regs, pt_regs:
    r15 = r15, r14 = r14, r13 = r13, r12 = r12, bp = bp, bx = bx, r11 = r11, r10 = r10, r9 = r9,
    r8 = r8, ax = ax, cx = cx, dx = dx, si = si, di = di, orig_ax = orig_ax, ip = ip,
    cs = __bindgen_anon_1, flags = flags, sp = sp, ss = __bindgen_anon_2);
const _: () = assert!(size_of::<Regs>() == size_of::<pt_regs>());
const _: () = assert!(align_of::<Regs>() == align_of::<pt_regs>());

const _: () = assert!(size_of::<GhcbPage>() == size_of::<ghcb>());
const _: () = assert!(offset_of!(ghcb, save) == 0);
const _: () = assert!(offset_of!(ghcb, shared_buffer) == SHARED_BUFFER_OFFSET as usize);
const _: () = assert!(bindings::GHCB_SHARED_BUF_SIZE as usize == SHARED_BUFFER_SIZE);
const _: () = assert!(bindings::GHCB_PROTOCOL_MIN == PROTOCOL_MIN as u32);
const _: () = assert!(bindings::GHCB_PROTOCOL_MAX == PROTOCOL_MAX as u32);

macro_rules! same_codes {
    ($($our:ident = $their:ident),* $(,)?) => {
        $(const _: () = assert!(ExitCode::$our as u64 == bindings::$their as u64);)*
    };
}

same_codes!(
    ReadDr7 = SVM_EXIT_READ_DR7,
    WriteDr7 = SVM_EXIT_WRITE_DR7,
    Rdtsc = SVM_EXIT_RDTSC,
    Rdpmc = SVM_EXIT_RDPMC,
    Cpuid = SVM_EXIT_CPUID,
    Invd = SVM_EXIT_INVD,
    Ioio = SVM_EXIT_IOIO,
    Msr = SVM_EXIT_MSR,
    Vmmcall = SVM_EXIT_VMMCALL,
    Rdtscp = SVM_EXIT_RDTSCP,
    Wbinvd = SVM_EXIT_WBINVD,
    Monitor = SVM_EXIT_MONITOR,
    Mwait = SVM_EXIT_MWAIT,
    NestedPageFault = SVM_EXIT_NPF,
    MmioRead = SVM_VMGEXIT_MMIO_READ,
    MmioWrite = SVM_VMGEXIT_MMIO_WRITE,
    NmiComplete = SVM_VMGEXIT_NMI_COMPLETE,
    ApResetHold = SVM_VMGEXIT_AP_HLT_LOOP,
    ApJumpTable = SVM_VMGEXIT_AP_JUMP_TABLE,
);

// The protocol core's results cross to C as `enum es_result`.
const _: () =
    assert!(Outcome::Done { single_step: false }.es_result() == bindings::es_result_ES_OK);
const _: () = assert!(Outcome::Unsupported.es_result() == bindings::es_result_ES_UNSUPPORTED);
const _: () = assert!(Outcome::VmmError.es_result() == bindings::es_result_ES_VMM_ERROR);
const _: () = assert!(Outcome::DecodeFailed.es_result() == bindings::es_result_ES_DECODE_FAILED);
const _: () =
    assert!(Outcome::Retry { single_step: false }.es_result() == bindings::es_result_ES_RETRY);

const _: () = assert!(offset_of!(ghcb_save_area, valid_bitmap) == 0x3f0);
