// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of NMIs in an SEV-ES guest: a handler that raises #VC exceptions
 * itself, while the interrupted code is in the middle of one.
 *
 * An NMI to self shows it best: the write to the APIC that sends the NMI is a
 * #VC exception, and the NMI comes when the hypervisor returns from its exit,
 * with the GHCB in use.
 *
 * The tests also run in other kinds of machines, where nothing exits, or all of
 * it silently.
 */
#include <kunit/test.h>

#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/nmi.h>
#include <linux/sched.h>
#include <linux/smp.h>

#include <asm/apic.h>
#include <asm/cpuid/api.h>
#include <asm/hpet.h>
#include <asm/i8259.h>
#include <asm/msr.h>

#define ROUNDS 500

/* What the exits must give, as the task saw it before there were NMIs. */
struct results {
	u32 cpuid[4];
	u64 msr;
	u8 port;
	u32 mmio;
};

static struct {
	int cpu;		/* which gets the NMIs, -1: none */
	atomic_t due;		/* NMIs sent and not handled; several can be one */
	unsigned int nested;	/* NMIs to be sent by the handler */
	unsigned int handled;
	unsigned int wrong;
	struct results results;
	void __iomem *hpet;	/* NULL if there is none */
} state = { .cpu = -1 };

/* Each reads something that does not change, by an instruction that exits. */
static struct results read_all(void)
{
	struct results now = { };

	cpuid_count(0, 0, &now.cpuid[0], &now.cpuid[1], &now.cpuid[2], &now.cpuid[3]);
	now.msr = native_rdmsrq(MSR_IA32_APICBASE);
	now.port = inb(PIC_MASTER_IMR);
	if (state.hpet)
		now.mmio = readl(state.hpet + HPET_ID);
	return now;
}

static bool results_wrong(void)
{
	struct results now = read_all();

	return memcmp(now.cpuid, state.results.cpuid, sizeof(now.cpuid)) ||
	       now.msr != state.results.msr || now.port != state.results.port ||
	       now.mmio != state.results.mmio;
}

static void send_nmi(void)
{
	atomic_inc(&state.due);
	__apic_send_IPI(state.cpu, NMI_VECTOR);
}

static int nmi_handler(unsigned int type, struct pt_regs *regs)
{
	if (raw_smp_processor_id() != state.cpu || !atomic_xchg(&state.due, 0))
		return NMI_DONE;

	if (state.nested) {
		state.nested--;
		send_nmi();
	}
	state.wrong += results_wrong();
	state.handled++;
	return NMI_HANDLED;
}

/* An NMI of another CPU can be late: it came with the one before it. */
static int late_nmi_handler(unsigned int type, struct pt_regs *regs)
{
	return raw_smp_processor_id() == state.cpu ? NMI_HANDLED : NMI_DONE;
}

/* Waits for the handler, for a second at most. */
static bool wait_handled(unsigned int handled)
{
	unsigned int timeout = USEC_PER_SEC;

	while (READ_ONCE(state.handled) < handled && --timeout)
		udelay(1);
	return timeout;
}

static int nmi_test_init(struct kunit *test)
{
	/* The thread that runs the test ends with it. */
	KUNIT_ASSERT_EQ(test, 0, set_cpus_allowed_ptr(current,
						      cpumask_of(raw_smp_processor_id())));
	if (IS_ENABLED(CONFIG_HPET_TIMER) && is_hpet_enabled())
		state.hpet = ioremap(hpet_address, PAGE_SIZE);
	state.results = read_all();
	state.handled = 0;
	state.wrong = 0;
	state.nested = 0;
	atomic_set(&state.due, 0);
	state.cpu = raw_smp_processor_id();
	KUNIT_ASSERT_EQ(test, 0, register_nmi_handler(NMI_LOCAL, nmi_handler, NMI_FLAG_FIRST,
						      "amd_sev_nmi"));
	KUNIT_ASSERT_EQ(test, 0, register_nmi_handler(NMI_UNKNOWN, late_nmi_handler, 0,
						      "amd_sev_nmi"));
	return 0;
}

static void nmi_test_exit(struct kunit *test)
{
	unregister_nmi_handler(NMI_UNKNOWN, "amd_sev_nmi");
	unregister_nmi_handler(NMI_LOCAL, "amd_sev_nmi");
	state.cpu = -1;
	if (state.hpet)
		iounmap(state.hpet);
	state.hpet = NULL;
}

/* The exit that sends the NMI, and those behind it, are interrupted by it. */
static void nmi_to_self(struct kunit *test)
{
	unsigned int round, wrong = 0;
	unsigned long flags;

	for (round = 1; round <= ROUNDS; round++) {
		local_irq_save(flags);
		send_nmi();
		wrong += results_wrong();
		local_irq_restore(flags);
		if (!wait_handled(round))
			break;
		cond_resched();
	}

	KUNIT_EXPECT_EQ(test, ROUNDS, state.handled);
	KUNIT_EXPECT_EQ(test, 0, state.wrong);
	KUNIT_EXPECT_EQ(test, 0, wrong);
}

/* The handler sends a further one, in the same way. */
static void nmi_in_nmi(struct kunit *test)
{
	unsigned int round, wrong = 0;
	unsigned long flags;

	for (round = 1; round <= ROUNDS; round++) {
		local_irq_save(flags);
		state.nested = 1;
		send_nmi();
		wrong += results_wrong();
		local_irq_restore(flags);
		if (!wait_handled(2 * round))
			break;
		cond_resched();
	}

	KUNIT_EXPECT_EQ(test, 2 * ROUNDS, state.handled);
	KUNIT_EXPECT_EQ(test, 0, state.wrong);
	KUNIT_EXPECT_EQ(test, 0, wrong);
}

static int send_nmis(void *unused)
{
	while (!kthread_should_stop()) {
		/* One at a time, or this would be all that the other CPU does. */
		if (!atomic_read(&state.due))
			send_nmi();
		usleep_range(50, 100);
	}
	return 0;
}

/* Another CPU sends NMIs, so that they come anywhere in the exits. */
static void nmi_from_another_cpu(struct kunit *test)
{
	unsigned int other, wrong = 0;
	struct task_struct *sender;
	unsigned long end;

	other = cpumask_any_but(cpu_online_mask, state.cpu);
	if (other >= nr_cpu_ids)
		kunit_skip(test, "needs two CPUs");

	sender = kthread_create_on_cpu(send_nmis, NULL, other, "amd_sev_nmi/%u");
	KUNIT_ASSERT_FALSE(test, IS_ERR(sender));
	wake_up_process(sender);

	/* Until there were enough, but not for ever: vCPUs may have to share a CPU. */
	end = jiffies + 60 * HZ;
	while (READ_ONCE(state.handled) < ROUNDS && time_before(jiffies, end)) {
		wrong += results_wrong();
		cond_resched();
	}
	kthread_stop(sender);
	/* The last one may still be under way. */
	end = jiffies + HZ;
	while (atomic_read(&state.due) && time_before(jiffies, end))
		msleep(20);

	KUNIT_EXPECT_GE(test, state.handled, ROUNDS);
	KUNIT_EXPECT_EQ(test, 0, state.wrong);
	KUNIT_EXPECT_EQ(test, 0, wrong);
}

static struct kunit_case nmi_test_cases[] = {
	KUNIT_CASE(nmi_to_self),
	KUNIT_CASE(nmi_in_nmi),
	KUNIT_CASE(nmi_from_another_cpu),
	{ }
};

static struct kunit_suite nmi_test_suite = {
	.name = "amd_sev_nmi",
	.init = nmi_test_init,
	.exit = nmi_test_exit,
	.test_cases = nmi_test_cases,
};

kunit_test_suite(nmi_test_suite);
