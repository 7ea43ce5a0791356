// SPDX-License-Identifier: GPL-2.0

//! Marks for objtool: regions of noinstr code that may call instrumented code.
//!
//! C header: [`include/linux/instrumentation.h`](srctree/include/linux/instrumentation.h)

use kernel::bindings;

/// Emits an objtool annotation of the given type, at a NOP so that it stays in its basic block.
#[inline(always)]
fn annotate<const KIND: u32>() {
    // SAFETY: A NOP, and data for objtool in a section that the final link drops.
    #[cfg(CONFIG_NOINSTR_VALIDATION)]
    unsafe {
        core::arch::asm!(
            "2: nop",
            ".pushsection .discard.annotate_insn, \"M\", @progbits, 8",
            ".long 2b - ., {kind}",
            ".popsection",
            kind = const KIND,
        );
    }
}

/// Begins a region that may be instrumented.
#[inline(always)]
pub(crate) fn instrumentation_begin() {
    annotate::<{ bindings::ANNOTYPE_INSTR_BEGIN }>();
}

/// Ends a region that may be instrumented.
#[inline(always)]
pub(crate) fn instrumentation_end() {
    annotate::<{ bindings::ANNOTYPE_INSTR_END }>();
}
