// SPDX-License-Identifier: GPL-2.0
/*
 * sev_es_nmi.c - an NMI handler that raises #VC itself, and exits of the kernel to try it on.
 *
 * For sevsim's test of NMIs at every instruction of the #VC handler. Works with each kernel,
 * whoever handles its exits. All is done by the module's parameters in sysfs:
 *
 *   work      what the NMI handler does, a sum of the WORK_ constants
 *   run       write NAME:STRIDE: executes the exit NAME in a loop, on the CPU of the writer, until
 *             sevsim's plan for it is complete; fails if a result was wrong
 *   exits     the names
 *   handled   NMIs handled so far
 *   wrong     wrong results in the NMI handler so far
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/nmi.h>
#include <linux/percpu.h>

#include <asm/debugreg.h>
#include <asm/msr.h>
#include <asm/nmi.h>
#include <asm/special_insns.h>

#include "exits.h"

#define HPET_BASE	0xfed00000
#define HPET_ID		0x000
#define HPET_TIMER2	0x148	/* comparator of a timer that is off: it keeps what is written */

#define LINE_PORT	0x3fb	/* line control of the first serial port: nobody changes it now */

enum {
	WORK_CPUID = 1,
	WORK_MSR = 2,
	WORK_PORT = 4,
	WORK_MMIO = 8,
	WORK_STRING = 16,
	WORK_MOVS = 32,
	WORK_XSAVE = 64,
};

static uint work = WORK_CPUID | WORK_MSR | WORK_PORT | WORK_MMIO;
module_param(work, uint, 0600);

static DEFINE_PER_CPU(unsigned int, handled);
static DEFINE_PER_CPU(unsigned int, wrong);

static void __iomem *hpet;
static u32 hpet_id;
static u8 line_control;
static u64 hwcr;

/* Not readl(): the compiler may choose the instruction there. */
static inline u32 mmio_read(unsigned int offset)
{
	u64 value = ~0ull;

	asm volatile("movl %1, %k0" : "+r" (value) : "m" (*(u32 __force *)(hpet + offset)));
	/* The upper half is zeroed, as by any 32-bit instruction. */
	return value >> 32 ? ~(u32)value : value;
}

static inline void mmio_write(unsigned int offset, u32 value)
{
	asm volatile("movl %0, %1" : : "r" (value), "m" (*(u32 __force *)(hpet + offset))
				   : "memory");
}

static inline int mmio_movs(void)
{
	const void *from = (void __force *)(hpet + HPET_ID);
	u32 buf[2] = { 0, 0x12345678 }, *to = buf;

	asm volatile("movsl" : "+S" (from), "+D" (to) : : "memory");
	return buf[0] != hpet_id || buf[1] != 0x12345678 || to != buf + 1;
}

static int nmi_handler(unsigned int type, struct pt_regs *regs)
{
	unsigned int bad = 0;

	if (work & WORK_CPUID)
		bad += exit_cpuid();
	if (work & WORK_XSAVE)
		bad += exit_cpuid_xsave();
	if (work & WORK_MSR)
		bad += native_rdmsrq(MSR_K7_HWCR) != hwcr;
	if (work & WORK_PORT)
		bad += inb(LINE_PORT) != line_control;
	if (work & WORK_STRING) {
		u8 buf[STRING_BYTES];
		int i;

		insb(LINE_PORT, buf, sizeof(buf));
		for (i = 0; i < sizeof(buf); i++)
			bad += buf[i] != line_control;
	}
	if (work & WORK_MMIO)
		bad += mmio_read(HPET_ID) != hpet_id;
	if (work & WORK_MOVS)
		bad += mmio_movs();
	this_cpu_add(wrong, bad);
	this_cpu_inc(handled);
	return NMI_HANDLED;
}

/* The exits. Interrupts are off. */

static int run_rdmsr(void)
{
	return native_rdmsrq(MSR_K7_HWCR) != hwcr;
}

static int run_wrmsr(void)
{
	native_wrmsrq(MSR_K7_HWCR, hwcr);
	return 0;
}

static int run_cpuid(void)
{
	return exit_cpuid();
}

static int run_cpuid_xsave(void)
{
	return exit_cpuid_xsave();
}

static int run_out(void)
{
	return exit_out();
}

static int run_in(void)
{
	return exit_in();
}

static int run_outs(void)
{
	return exit_outs();
}

static int run_ins(void)
{
	return exit_ins();
}

static int run_mmio_read(void)
{
	return mmio_read(HPET_ID) != hpet_id;
}

static int run_mmio_write(void)
{
	u32 value = 0x100u + next_byte();

	mmio_write(HPET_TIMER2, value);
	return mmio_read(HPET_TIMER2) != value;
}

static int run_movs(void)
{
	return mmio_movs();
}

static int run_rdtsc(void)
{
	return exit_rdtsc();
}

static int run_rdtscp(void)
{
	return exit_rdtscp();
}

static int run_rdpmc(void)
{
	unsigned int low, high;

	asm volatile("rdpmc" : "=a" (low), "=d" (high) : "c" (0));
	return low || high;
}

static int run_dr7_read(void)
{
	unsigned long value;

	asm volatile("mov %%db7, %0" : "=r" (value));
	return value != 0x400;
}

static int run_dr7_write(void)
{
	asm volatile("mov %0, %%db7" : : "r" (0x400ul));
	return 0;
}

static int run_wbinvd(void)
{
	asm volatile("wbinvd" : : : "memory");
	return 0;
}

static int run_vmmcall(void)
{
	return exit_vmmcall(0);
}

static int run_nmi(void)
{
	test_out(TEST_BOUNDARIES, 1);
	return 0;
}

static const struct {
	const char *name;
	unsigned int code;
	int (*run)(void);
} exits[] = {
	{ "cpuid", EXIT_CPUID, run_cpuid },
	{ "cpuid-xsave", EXIT_CPUID, run_cpuid_xsave },
	{ "rdmsr", EXIT_MSR, run_rdmsr },
	{ "wrmsr", EXIT_MSR, run_wrmsr },
	{ "out", EXIT_IOIO, run_out },
	{ "in", EXIT_IOIO, run_in },
	{ "outs", EXIT_IOIO, run_outs },
	{ "ins", EXIT_IOIO, run_ins },
	{ "mmio-read", EXIT_MMIO, run_mmio_read },
	{ "mmio-write", EXIT_MMIO, run_mmio_write },
	{ "movs", EXIT_MMIO, run_movs },
	{ "rdtsc", EXIT_RDTSC, run_rdtsc },
	{ "rdtscp", EXIT_RDTSCP, run_rdtscp },
	{ "rdpmc", EXIT_RDPMC, run_rdpmc },
	{ "dr7-read", EXIT_DR7_READ, run_dr7_read },
	{ "dr7-write", EXIT_DR7_WRITE, run_dr7_write },
	{ "wbinvd", EXIT_WBINVD, run_wbinvd },
	{ "vmmcall", EXIT_VMMCALL, run_vmmcall },
	{ "nmi", EXIT_NMI, run_nmi },
};

static int run_set(const char *text, const struct kernel_param *kp)
{
	unsigned int stride, status, i, tries = 0;
	unsigned long flags;
	char name[16];
	int bad;

	if (sscanf(text, "%15[^:]:%u", name, &stride) != 2)
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(exits); i++)
		if (!strcmp(exits[i].name, name))
			break;
	if (i == ARRAY_SIZE(exits))
		return -ENOENT;

	/* For what is expected, and to have all pages and code in place. */
	local_irq_save(flags);
	exit_in_prepare();
	bad = exits[i].run();
	exit_in_prepare();
	local_irq_restore(flags);
	test_out(TEST_PLAN, exits[i].code | PLAN_KERNEL | PLAN_STRIDE(stride));
	do {
		local_irq_save(flags);
		bad |= exits[i].run();
		status = test_in(TEST_PLAN);
		local_irq_restore(flags);
		cond_resched();
		if (++tries > MAX_TRIES && !test_in(TEST_OCCURRENCES))
			return -ENODEV;
	} while (status == PLAN_RUNNING && !bad);
	return bad ? -EIO : status == PLAN_DONE ? 0 : -ELOOP;
}

static int exits_get(char *buf, const struct kernel_param *kp)
{
	int len = 0, i;

	for (i = 0; i < ARRAY_SIZE(exits); i++)
		len += sysfs_emit_at(buf, len, "%s\n", exits[i].name);
	return len;
}

static int sum_get(char *buf, const struct kernel_param *kp)
{
	unsigned int __percpu *counter = (unsigned int __percpu __force *)kp->arg;
	unsigned int sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += *per_cpu_ptr(counter, cpu);
	return sysfs_emit(buf, "%u\n", sum);
}

static const struct kernel_param_ops run_ops = { .set = run_set };
static const struct kernel_param_ops exits_ops = { .get = exits_get };
static const struct kernel_param_ops sum_ops = { .get = sum_get };

module_param_cb(run, &run_ops, NULL, 0200);
module_param_cb(exits, &exits_ops, NULL, 0400);
module_param_cb(handled, &sum_ops, (void __force *)&handled, 0400);
module_param_cb(wrong, &sum_ops, (void __force *)&wrong, 0400);

static int __init sev_es_nmi_init(void)
{
	hpet = ioremap(HPET_BASE, PAGE_SIZE);
	if (!hpet)
		return -ENOMEM;
	hpet_id = mmio_read(HPET_ID);
	line_control = inb(LINE_PORT);
	rdmsrq(MSR_K7_HWCR, hwcr);
	exit_cpuid();
	exit_cpuid_xsave();
	return register_nmi_handler(NMI_LOCAL, nmi_handler, NMI_FLAG_FIRST, "sev_es_nmi");
}

static void __exit sev_es_nmi_exit(void)
{
	unregister_nmi_handler(NMI_LOCAL, "sev_es_nmi");
	iounmap(hpet);
}

module_init(sev_es_nmi_init);
module_exit(sev_es_nmi_exit);
MODULE_DESCRIPTION("NMI handler that raises #VC, for sevsim's tests");
MODULE_LICENSE("GPL");
