// SPDX-License-Identifier: GPL-2.0
/*
 * C shims of the Rust implementation of the SEV-ES guest support, see
 * es-shims.h.
 */

#define pr_fmt(fmt)	"SEV: " fmt

#include <linux/entry-common.h>
#include <linux/io.h>
#include <linux/lockdep.h>
#include <linux/memblock.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmu_context.h>
#include <linux/nospec.h>
#include <linux/ratelimit.h>
#include <linux/topology.h>
#include <linux/uaccess.h>

#include <asm/desc.h>
#include <asm/fred.h>
#include <asm/ptrace.h>
#include <asm/segment.h>
#include <asm/sev.h>

#include "es-shims.h"

bool noinstr sev_es_shim_in_syscall_gap(struct pt_regs *regs)
{
	return ip_within_syscall_gap(regs);
}

bool noinstr sev_es_shim_ghcbs_initialized(void)
{
	return sev_cfg.ghcbs_initialized;
}

unsigned long noinstr sev_es_shim_pa_nodebug(const void *addr)
{
	return __pa_nodebug(addr);
}

/*
 * Put the address of a page fault where exc_page_fault() looks for it: CR2, but
 * with FRED the event data of the stack frame, which #VC leaves 0.
 */
void noinstr sev_es_shim_set_fault_address(struct pt_regs *regs,
					   unsigned long addr)
{
	write_cr2(addr);
#ifdef CONFIG_X86_FRED
	if (cpu_feature_enabled(X86_FEATURE_FRED))
		fred_info(regs)->edata = addr;
#endif
}

/*
 * Leave the context of an entry from user mode, but without the work that comes
 * before the return to user mode.
 */
void noinstr sev_es_shim_exit_to_user_mode(void)
{
	exit_to_user_mode();
}

/*
 * The accessors use __get_user() and __put_user() no matter whether the memory
 * is the kernel's or the user's: they do not check the address, they only
 * report that an access failed. The caller decides what may be accessed.
 *
 * They must not use string instructions. MOVS to or from MMIO is emulated by
 * splitting it into a read and a write, one of which raises a nested #VC
 * exception; a string instruction here would nest without end.
 */
int sev_es_shim_get_mem(unsigned long src, unsigned int size, u64 *val)
{
	switch (size) {
	case 1: {
		u8 d;

		if (__get_user(d, (u8 __user *)src))
			return -EFAULT;
		*val = d;
		return 0;
	}
	case 2: {
		u16 d;

		if (__get_user(d, (u16 __user *)src))
			return -EFAULT;
		*val = d;
		return 0;
	}
	case 4: {
		u32 d;

		if (__get_user(d, (u32 __user *)src))
			return -EFAULT;
		*val = d;
		return 0;
	}
	case 8: {
		u64 d;

		if (__get_user(d, (u64 __user *)src))
			return -EFAULT;
		*val = d;
		return 0;
	}
	}

	return -EINVAL;
}

int sev_es_shim_put_mem(unsigned long dst, unsigned int size, u64 val)
{
	switch (size) {
	case 1:
		return __put_user((u8)val, (u8 __user *)dst);
	case 2:
		return __put_user((u16)val, (u16 __user *)dst);
	case 4:
		return __put_user((u32)val, (u32 __user *)dst);
	case 8:
		return __put_user(val, (u64 __user *)dst);
	}

	return -EINVAL;
}

size_t sev_es_shim_fetch(void *buf, unsigned long ip, size_t size)
{
	return size - __copy_from_user_inatomic(buf, (void __user *)ip, size);
}

/*
 * Not get_desc(): it takes the lock of the LDT, a mutex. That is not needed to
 * read what the CPU itself uses. An LDT is not changed, but replaced, and freed
 * only after all CPUs that use it have taken an IPI. See load_mm_ldt().
 */
bool sev_es_shim_descriptor(u16 selector, u64 *desc)
{
	const struct desc_struct *table = get_current_gdt_ro();
	unsigned int entries = GDT_ENTRIES;
	unsigned int index = selector >> 3;

	lockdep_assert_irqs_disabled();

	if (selector & SEGMENT_TI_MASK) {
#ifdef CONFIG_MODIFY_LDT_SYSCALL
		struct ldt_struct *ldt = NULL;

		/* Synchronizes with smp_store_release() in install_ldt(). */
		if (current->mm)
			ldt = READ_ONCE(current->mm->context.ldt);
		if (!ldt)
			return false;
		table = ldt->entries;
		entries = ldt->nr_entries;
#else
		return false;
#endif
	}

	if (index >= entries)
		return false;
	index = array_index_nospec(index, entries);

	static_assert(sizeof(*desc) == sizeof(*table));
	memcpy(desc, &table[index], sizeof(*desc));
	return true;
}

void sev_es_shim_pagefault_disable(void)
{
	pagefault_disable();
}

void sev_es_shim_pagefault_enable(void)
{
	pagefault_enable();
}

pgd_t *sev_es_shim_current_pgd(unsigned long vaddr)
{
	return (pgd_t *)__va(read_cr3_pa()) + pgd_index(vaddr);
}

/*
 * Sections that existed at boot are valid as a whole, with devices behind the
 * end of memory in them. For these the firmware's map tells more.
 */
bool sev_es_shim_is_added_memory(u64 pa)
{
#ifdef CONFIG_MEMORY_HOTPLUG
	unsigned long pfn = PHYS_PFN(pa);
	struct mem_section *section;

	if (pfn_to_section_nr(pfn) >= NR_MEM_SECTIONS)
		return false;
	section = __pfn_to_section(pfn);
	return section && !early_section(section) && pfn_to_online_page(pfn);
#else
	return false;
#endif
}

void * __init sev_es_shim_alloc(size_t size, int cpu)
{
	return memblock_alloc_node(size, PAGE_SIZE, cpu_to_node(cpu));
}

bool sev_es_shim_ratelimit(void)
{
	static DEFINE_RATELIMIT_STATE(rs, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&rs);
}
