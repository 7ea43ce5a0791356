// SPDX-License-Identifier: GPL-2.0
/*
 * sev_es_cost.c - what the exits of an SEV-ES guest's kernel cost, in instructions.
 *
 * Measures when it is loaded; the results are in its parameter "results", a line each. See cost.h
 * for what they mean.
 */
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>

#include <asm/msr.h>

#include "cost.h"

/* Scratch register of the first serial port: keeps what is written and has no effect. */
#define SCRATCH		0x3ff
/* The I/O APIC's index register: the same. */
#define IOAPIC		0xfec00000
#define DATA_SIZE	PAGE_SIZE

static unsigned long nmi_complete;
module_param(nmi_complete, ulong, 0400);
MODULE_PARM_DESC(nmi_complete, "Address of __sev_es_nmi_complete(), which is not exported");

static char results[PAGE_SIZE];
module_param_string(results, results, sizeof(results), 0444);
MODULE_PARM_DESC(results, "Results, a line each: name, instructions");

static unsigned long empty;

static void report(const char *name, unsigned long least)
{
	size_t len = strlen(results);

	snprintf(results + len, sizeof(results) - len, "%s %ld\n", name, (long)(least - empty));
}

#define LEAST(insn, ...) ({						\
	const struct cost_regs regs = { __VA_ARGS__ };			\
	unsigned long flags;						\
									\
	COST_LEAST(insn, regs, local_irq_save(flags), local_irq_restore(flags)); \
})

#define COST(name, insn, ...)	report(name, LEAST(insn, __VA_ARGS__))

static void instructions(void)
{
	/* The switch to the hypervisor alone: no exception, nothing for the guest to do. */
	COST("ghcb-msr", "wrmsr", .cx = MSR_AMD64_SEV_ES_GHCB,
	     .ax = native_rdmsrq(MSR_AMD64_SEV_ES_GHCB) & 0xffffffff,
	     .dx = native_rdmsrq(MSR_AMD64_SEV_ES_GHCB) >> 32);
	COST("cpuid", "cpuid", .ax = 1);
	COST("rdmsr", "rdmsr", .cx = MSR_IA32_APICBASE);
	COST("wrmsr", "wrmsr", .cx = MSR_IA32_TSC_ADJUST);
	COST("rdtsc", "rdtsc");
	COST("rdtscp", "rdtscp");
	COST("rdpmc", "rdpmc");
	COST("read-dr7", "mov %%db7, %%rax");
	COST("write-dr7", "mov %%rax, %%db7", .ax = 0x400);
	COST("wbinvd", "wbinvd");
	/* KVM_HC_VAPIC_POLL_IRQ: nothing to do. */
	COST("vmmcall", "vmmcall", .ax = 1);
	COST("monitor", "monitor", .ax = (unsigned long)results);
	COST("mwait", "mwait");
	if (nmi_complete)
		COST("nmi-complete", "call *%%r11", .r11 = nmi_complete);
}

static void ports(void *data)
{
	const unsigned long address = (unsigned long)data;

	COST("in-1", "inb (%%dx), %%al", .dx = SCRATCH);
	COST("in-4", "inl (%%dx), %%eax", .dx = 0xcf8);
	COST("out-1", "outb %%al, (%%dx)", .dx = SCRATCH);
	COST("out-1-imm", "outb %%al, $0x80");
	COST("out-4", "outl %%eax, (%%dx)", .dx = 0xcf8);
	COST("ins-1", "insb", .dx = SCRATCH, .di = address);
	COST("outs-1", "outsb", .dx = SCRATCH, .si = address);
	COST("rep-ins-4k", "rep insb", .dx = SCRATCH, .di = address, .cx = DATA_SIZE);
	COST("rep-outs-4k", "rep outsb", .dx = SCRATCH, .si = address, .cx = DATA_SIZE);
}

static void memory(void __iomem *registers, void *data)
{
	const unsigned long mmio = (unsigned long)registers;
	const unsigned long address = (unsigned long)data;

	COST("mmio-read-4", "movl (%%rsi), %%eax", .si = mmio);
	COST("mmio-write-4", "movl %%eax, (%%rdi)", .di = mmio);
	COST("mmio-write-4-imm", "movl $0, (%%rdi)", .di = mmio);
	COST("mmio-read-1", "movb (%%rsi), %%al", .si = mmio);
	COST("mmio-movzx-1", "movzbl (%%rsi), %%eax", .si = mmio);
	COST("mmio-movs-read", "movsl", .si = mmio, .di = address);
	COST("mmio-movs-write", "movsl", .si = address, .di = mmio);
}

static int __init sev_es_cost_init(void)
{
	void *data __free(kfree) = kzalloc(DATA_SIZE, GFP_KERNEL);
	void __iomem *registers;

	if (!data)
		return -ENOMEM;
	registers = ioremap(IOAPIC, PAGE_SIZE);
	if (!registers)
		return -ENOMEM;

	empty = LEAST("");
	instructions();
	ports(data);
	memory(registers, data);

	iounmap(registers);
	return 0;
}

static void __exit sev_es_cost_exit(void)
{
}

module_init(sev_es_cost_init);
module_exit(sev_es_cost_exit);
MODULE_DESCRIPTION("What the exits of an SEV-ES guest's kernel cost");
MODULE_LICENSE("GPL");
