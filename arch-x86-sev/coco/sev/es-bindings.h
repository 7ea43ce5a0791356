/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C interfaces that the Rust implementation of the SEV-ES guest support
 * uses or provides. Included by rust/bindings/bindings_helper.h only.
 */
#ifndef __X86_COCO_SEV_ES_BINDINGS_H__
#define __X86_COCO_SEV_ES_BINDINGS_H__

#include <linux/cc_platform.h>
#include <linux/cpumask.h>
#include <linux/efi.h>
#include <linux/entry-common.h>
#include <linux/io.h>
#include <linux/memblock.h>
#include <linux/mm.h>
#include <linux/panic.h>
#include <linux/printk.h>
#include <linux/processor.h>
#include <linux/sched/debug.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/uaccess.h>

#include <asm/cpu.h>
#include <asm/cpu_entry_area.h>
#include <asm/e820/api.h>
#include <asm/init.h>
#include <asm/io_bitmap.h>
#include <asm/realmode.h>
#include <asm/set_memory.h>
#include <asm/setup.h>
#include <asm/sev.h>
#include <asm/svm.h>
#include <asm/traps.h>
#include <asm/x86_init.h>

/* bindgen does not understand BIT_ULL(). */
const u64 RUST_CONST_HELPER_GHCB_HV_FT_SNP = GHCB_HV_FT_SNP;

#include "internal.h"
#include "es-shims.h"

#endif /* __X86_COCO_SEV_ES_BINDINGS_H__ */
