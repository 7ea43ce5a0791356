// SPDX-License-Identifier: GPL-2.0
/*
 * sev_es_nmi.c - an NMI handler that raises #VC itself, and exits of the kernel to try it on.
 *
 * For sevsim's test of NMIs at every instruction of the #VC handler. Works with each kernel,
 * whoever handles its exits. All is done by the module's parameters in sysfs:
 *
 *   work      what the NMI handler does, a sum of the WORK_ constants
 *   run       write NAME:STRIDE: executes the exit NAME in a loop, on the CPU of the writer, until
 *             sevsim's plan for it is complete
 *   failed    wrong results of that loop so far
 *   exits     the names
 *   alarm     write so many seconds: the clock's alarm comes then, and wakes a machine that sleeps
 *             (if the HPET does not emulate the clock's interrupts: hpet=disable)
 *   handled   NMIs handled so far
 *   wrong     wrong results in the NMI handler so far
 *   wrong_in  in which parts of its work, a sum as well
 */
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/kdebug.h>
#include <linux/module.h>
#include <linux/nmi.h>
#include <linux/percpu.h>
#include <linux/rtc.h>

#include <asm/debugreg.h>
#include <asm/msr.h>
#include <asm/nmi.h>
#include <asm/special_insns.h>

#include "exits.h"

#define HPET_BASE	0xfed00000
#define HPET_ID		0x000
#define HPET_TIMER2	0x148	/* comparator of a timer that is off: it keeps what is written */

#define RTC_IRQ		8

#define MASK_PORT	0x21	/* interrupt masks of the first PIC: nobody changes them now */

enum {
	WORK_CPUID = 1,
	WORK_MSR = 2,
	WORK_PORT = 4,
	WORK_MMIO = 8,
	WORK_STRING = 16,
	WORK_MOVS = 32,
	WORK_XSAVE = 64,
	WORK_DEBUG = 128,	/* a single step: #DB, whose handler does these: */
};

#define WORK_IN_DEBUG	(WORK_MSR | WORK_STRING | WORK_XSAVE)

static uint work = WORK_CPUID | WORK_MSR | WORK_PORT | WORK_MMIO;
module_param(work, uint, 0600);

static uint wrong_in;
module_param(wrong_in, uint, 0400);

static DEFINE_PER_CPU(unsigned int, handled);
static DEFINE_PER_CPU(unsigned int, wrong);
static DEFINE_PER_CPU(unsigned int, failed);
/* The step is under way; what was wrong in its handler. */
static DEFINE_PER_CPU(bool, in_step);
static DEFINE_PER_CPU(unsigned int, wrong_in_step);

static void __iomem *hpet;
static u32 hpet_id;
static u8 pic_masks;
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

static bool strings_wrong(void)
{
	u8 buf[STRING_BYTES];
	int i, bad = 0;

	insb(MASK_PORT, buf, sizeof(buf));
	for (i = 0; i < sizeof(buf); i++)
		bad |= buf[i] != pic_masks;
	return bad;
}

/* Which of these go wrong. */
static unsigned int exits_wrong(unsigned int these)
{
	unsigned int bad = 0;

	if (these & WORK_CPUID && exit_cpuid())
		bad |= WORK_CPUID;
	if (these & WORK_XSAVE && exit_cpuid_xsave())
		bad |= WORK_XSAVE;
	if (these & WORK_MSR && native_rdmsrq(MSR_K7_HWCR) != hwcr)
		bad |= WORK_MSR;
	if (these & WORK_PORT && inb(MASK_PORT) != pic_masks)
		bad |= WORK_PORT;
	if (these & WORK_STRING && strings_wrong())
		bad |= WORK_STRING;
	if (these & WORK_MMIO && mmio_read(HPET_ID) != hpet_id)
		bad |= WORK_MMIO;
	if (these & WORK_MOVS && mmio_movs())
		bad |= WORK_MOVS;
	return bad;
}

static int debug_handler(struct notifier_block *block, unsigned long event, void *data)
{
	struct die_args *args = data;
	unsigned long *dr6 = (unsigned long *)args->err;

	if (event != DIE_DEBUG || !(*dr6 & DR_STEP) || !this_cpu_read(in_step))
		return NOTIFY_DONE;
	*dr6 &= ~DR_STEP;
	args->regs->flags &= ~X86_EFLAGS_TF;
	this_cpu_write(wrong_in_step, exits_wrong(work & WORK_IN_DEBUG));
	this_cpu_write(in_step, false);
	return NOTIFY_STOP;
}

static struct notifier_block debug_block = { .notifier_call = debug_handler };

static unsigned int step_wrong(void)
{
	this_cpu_write(in_step, true);
	asm volatile("pushfq\n\t"
		     "orq %0, (%%rsp)\n\t"
		     "popfq\n\t"
		     "nop"
		     : : "i" (X86_EFLAGS_TF) : "cc", "memory");
	return this_cpu_read(wrong_in_step) | (this_cpu_read(in_step) ? WORK_DEBUG : 0);
}

static int nmi_handler(unsigned int type, struct pt_regs *regs)
{
	unsigned int bad = exits_wrong(work);

	if (work & WORK_DEBUG)
		bad |= step_wrong();
	if (bad) {
		this_cpu_inc(wrong);
		wrong_in |= bad;
	}
	this_cpu_inc(handled);
	return NMI_HANDLED;
}

/* The exits. Interrupts are off. */

static int exit_rdmsr(void)
{
	return native_rdmsrq(MSR_K7_HWCR) != hwcr;
}

static int exit_wrmsr(void)
{
	native_wrmsrq(MSR_K7_HWCR, hwcr);
	return 0;
}

static int exit_mmio_read(void)
{
	return mmio_read(HPET_ID) != hpet_id;
}

static int exit_mmio_write(void)
{
	u32 value = 0x100u + next_byte();

	mmio_write(HPET_TIMER2, value);
	return mmio_read(HPET_TIMER2) != value;
}

static int exit_movs(void)
{
	return mmio_movs();
}

static int exit_rdpmc(void)
{
	unsigned int low, high;

	asm volatile("rdpmc" : "=a" (low), "=d" (high) : "c" (0));
	return low || high;
}

static int exit_dr7_read(void)
{
	unsigned long value;

	asm volatile("mov %%db7, %0" : "=r" (value));
	return value != 0x400;
}

static int exit_dr7_write(void)
{
	asm volatile("mov %0, %%db7" : : "r" (0x400ul));
	return 0;
}

static int exit_wbinvd(void)
{
	asm volatile("wbinvd" : : : "memory");
	return 0;
}

static const struct {
	const char *name;
	unsigned int code;
	int (*run)(void);
} exits[] = {
	{ "cpuid", EXIT_CPUID, exit_cpuid },
	{ "cpuid-xsave", EXIT_CPUID, exit_cpuid_xsave },
	{ "rdmsr", EXIT_MSR, exit_rdmsr },
	{ "wrmsr", EXIT_MSR, exit_wrmsr },
	{ "out", EXIT_IOIO, exit_out },
	{ "in", EXIT_IOIO, exit_in },
	{ "outs", EXIT_IOIO, exit_outs },
	{ "ins", EXIT_IOIO, exit_ins },
	{ "mmio-read", EXIT_MMIO, exit_mmio_read },
	{ "mmio-write", EXIT_MMIO, exit_mmio_write },
	{ "movs", EXIT_MMIO, exit_movs },
	{ "rdtsc", EXIT_RDTSC, exit_rdtsc },
	{ "rdtscp", EXIT_RDTSCP, exit_rdtscp },
	{ "rdpmc", EXIT_RDPMC, exit_rdpmc },
	{ "dr7-read", EXIT_DR7_READ, exit_dr7_read },
	{ "dr7-write", EXIT_DR7_WRITE, exit_dr7_write },
	{ "wbinvd", EXIT_WBINVD, exit_wbinvd },
	{ "vmmcall", EXIT_VMMCALL, exit_vmmcall },
	{ "nmi", EXIT_NMI, exit_nmi },
	{ "nmi-vc", EXIT_NMI, exit_nmi },
};

static int run_set(const char *text, const struct kernel_param *kp)
{
	unsigned int stride, status, i, tries = 0;
	unsigned long flags;
	char name[16];

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
	exits[i].run();
	exit_in_prepare();
	/* No interrupt from here to the first exit: its handler may have the same one. */
	test_out(TEST_PLAN, exits[i].code | PLAN_KERNEL | PLAN_STRIDE(stride));
	for (;;) {
		if (exits[i].run())
			this_cpu_inc(failed);
		status = PLAN_STATUS(test_in(TEST_PLAN));
		local_irq_restore(flags);
		if (status != PLAN_RUNNING)
			return status == PLAN_DONE ? 0 : -ELOOP;
		if (++tries > MAX_TRIES && !test_in(TEST_OCCURRENCES))
			return -ENODEV;
		cond_resched();
		local_irq_save(flags);
	}
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

static int alarm_set(const char *text, const struct kernel_param *kp)
{
	struct rtc_device *rtc = rtc_class_open("rtc0");
	struct rtc_wkalrm alarm = { .enabled = 1 };
	unsigned int seconds;
	int error;

	if (!rtc)
		return -ENODEV;
	error = kstrtouint(text, 10, &seconds);
	if (!error)
		error = rtc_read_time(rtc, &alarm.time);
	if (!error) {
		rtc_time64_to_tm(rtc_tm_to_time64(&alarm.time) + seconds, &alarm.time);
		error = rtc_set_alarm(rtc, &alarm);
	}
	rtc_class_close(rtc);
	/* The driver leaves it to ACPI, which QEMU has no event for while the machine runs. */
	return error ?: enable_irq_wake(RTC_IRQ);
}

static const struct kernel_param_ops run_ops = { .set = run_set };
static const struct kernel_param_ops alarm_ops = { .set = alarm_set };
static const struct kernel_param_ops exits_ops = { .get = exits_get };
static const struct kernel_param_ops sum_ops = { .get = sum_get };

module_param_cb(run, &run_ops, NULL, 0200);
module_param_cb(alarm, &alarm_ops, NULL, 0200);
module_param_cb(exits, &exits_ops, NULL, 0400);
module_param_cb(handled, &sum_ops, (void __force *)&handled, 0400);
module_param_cb(wrong, &sum_ops, (void __force *)&wrong, 0400);
module_param_cb(failed, &sum_ops, (void __force *)&failed, 0400);

static int __init sev_es_nmi_init(void)
{
	int error;

	hpet = ioremap(HPET_BASE, PAGE_SIZE);
	if (!hpet)
		return -ENOMEM;
	hpet_id = mmio_read(HPET_ID);
	pic_masks = inb(MASK_PORT);
	rdmsrq(MSR_K7_HWCR, hwcr);
	exit_cpuid();
	exit_cpuid_xsave();
	error = register_die_notifier(&debug_block);
	if (error)
		goto unmap;
	error = register_nmi_handler(NMI_LOCAL, nmi_handler, NMI_FLAG_FIRST, "sev_es_nmi");
	if (error)
		goto no_debug;
	return 0;

no_debug:
	unregister_die_notifier(&debug_block);
unmap:
	iounmap(hpet);
	return error;
}

static void __exit sev_es_nmi_exit(void)
{
	unregister_nmi_handler(NMI_LOCAL, "sev_es_nmi");
	unregister_die_notifier(&debug_block);
	iounmap(hpet);
}

module_init(sev_es_nmi_init);
module_exit(sev_es_nmi_exit);
MODULE_DESCRIPTION("NMI handler that raises #VC, for sevsim's tests");
MODULE_LICENSE("GPL");
