/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Everything that the Rust implementation of the SEV-ES guest support leaves
 * to C because a macro, a static inline or the exception table makes it
 * impossible, or pointless, to say it in Rust.
 */
#ifndef __X86_COCO_SEV_ES_SHIMS_H__
#define __X86_COCO_SEV_ES_SHIMS_H__

#include <linux/types.h>

struct pt_regs;

/* noinstr: callable from the entry code. */
bool sev_es_shim_in_syscall_gap(struct pt_regs *regs);
bool sev_es_shim_ghcbs_initialized(void);
unsigned long sev_es_shim_pa_nodebug(const void *addr);
void sev_es_shim_set_fault_address(struct pt_regs *regs, unsigned long addr);
void sev_es_shim_exit_to_user_mode(void);

/* Memory of the interrupted context, without string instructions. */
int sev_es_shim_get_mem(unsigned long src, unsigned int size, u64 *val);
int sev_es_shim_put_mem(unsigned long dst, unsigned int size, u64 val);
void sev_es_shim_pagefault_disable(void);
void sev_es_shim_pagefault_enable(void);

/* As many of the bytes at the interrupted instruction as can be read. */
size_t sev_es_shim_fetch(void *buf, unsigned long ip, size_t size);

/* Descriptor of a segment of the current task. Interrupts must be off. */
bool sev_es_shim_descriptor(u16 selector, u64 *desc);

/* Page table of the interrupted context. */
pgd_t *sev_es_shim_current_pgd(unsigned long vaddr);

/* True for memory that was added after boot, and is in use. */
bool sev_es_shim_is_added_memory(u64 pa);

/* Zeroed boot memory near a CPU, NULL if there is none. */
void *sev_es_shim_alloc(size_t size, int cpu);

/* One rate limit for all messages about a #VC exception that failed. */
bool sev_es_shim_ratelimit(void);

#endif /* __X86_COCO_SEV_ES_SHIMS_H__ */
