// SPDX-License-Identifier: GPL-2.0
/*
 * tsc.c - RDTSC, RDTSCP and RDPMC.
 */
#include <sys/io.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "box.h"
#include "check.h"

static void rdtsc_registers(void)
{
	struct user_regs_struct regs;
	uint64_t before, at, after;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	regs = box_regs(&box);
	before = rdtsc();
	out = RUN(&box, &regs, 0x0f, 0x31);
	after = rdtsc();
	expect_done("RDTSC", &out, &box, 2, &regs, R_AX | R_DX);
	CHECK(!((out.regs.rax | out.regs.rdx) >> 32), "upper halves are not cleared");
	at = out.regs.rax | out.regs.rdx << 32;
	CHECK(before < at && at < after, "%llu is not between %llu and %llu",
	      (unsigned long long)at, (unsigned long long)before, (unsigned long long)after);
	box_close(&box);
}

static void rdtscp_registers(void)
{
	struct user_regs_struct regs;
	uint64_t before, at, after;
	struct outcome out;
	struct box box;

	if (!(cpuid(0x80000001, 0).d & 1 << 27))
		skip("no RDTSCP");
	for (int cpu = 0; cpu < cpu_count(); cpu++) {
		if (!pin_to_cpu(cpu))
			continue;
		box_open(&box, NULL);
		regs = box_regs(&box);
		before = rdtsc();
		out = RUN(&box, &regs, 0x0f, 0x01, 0xf9);
		after = rdtsc();
		expect_done("RDTSCP", &out, &box, 3, &regs, R_AX | R_DX | R_CX);
		CHECK(!((out.regs.rax | out.regs.rdx | out.regs.rcx) >> 32),
		      "upper halves are not cleared");
		at = out.regs.rax | out.regs.rdx << 32;
		CHECK(before < at && at < after, "processor %d: not between two RDTSC", cpu);
		/* Linux: processor in bits 11-0, node above. */
		CHECK((out.regs.rcx & 0xfff) == (unsigned int)cpu,
		      "processor %d: TSC_AUX is %#llx", cpu, (unsigned long long)out.regs.rcx);
		box_close(&box);
	}
}

/* Time does not run backwards, on one processor and from one to the next. */
static void tsc_monotonic(void)
{
	uint64_t last = rdtsc(), at;
	int backwards = 0;

	for (int round = 0; round < 20; round++) {
		for (int cpu = 0; cpu < cpu_count(); cpu++) {
			if (!pin_to_cpu(cpu))
				continue;
			for (int i = 0; i < 20; i++) {
				at = rdtsc();
				backwards += at <= last;
				last = at;
			}
		}
	}
	CHECK(!backwards, "%d steps backwards", backwards);
}

static int rtc_seconds(void)
{
	outb(0, 0x70);
	return inb(0x71);
}

/* Waits for the next second of the real-time clock. */
static double rtc_edge(void)
{
	struct timespec pause = { 0, 2000000 };
	int first = rtc_seconds();
	double start = now();

	while (rtc_seconds() == first) {
		CHECK(now() - start < 20, "the real-time clock stands still");
		nanosleep(&pause, NULL);
	}
	return now();
}

/*
 * The kernel's clock runs on the TSC; the machine's real-time clock is the witness for its rate. A
 * guest that does not run when the second ends sees that too late, so it gets further attempts.
 */
static void tsc_rate_is_right(void)
{
	double begin, took = 0;

	if (ioperm(0x70, 2, 1))
		skip("no ioperm()");
	for (int attempt = 0; attempt < 4; attempt++) {
		begin = rtc_edge();
		rtc_edge();
		took = rtc_edge() - begin;
		note("two seconds of the real-time clock are %.3f s of the kernel's", took);
		if (took > 1.8 && took < 2.2)
			return;
	}
	fail("the kernel's clock is %.1f %% off", (took - 2) * 50);
}

/* For the box only: the C library itself reads the counter. */
static void disable_tsc(void)
{
	prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
}

/* CR4.TSD: the processor refuses before any intercept. */
static void rdtsc_disabled(void)
{
	struct user_regs_struct regs;
	struct box box;

	box_open(&box, disable_tsc);
	regs = box_regs(&box);
	SIGNALS("RDTSC", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0x0f, 0x31);
	SIGNALS("RDTSCP", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0x0f, 0x01, 0xf9);
	box_close(&box);
}

/* User space may read counters only if the kernel set CR4.PCE, which needs a PMU and perf. */
static void rdpmc_refused(void)
{
	struct user_regs_struct regs;
	struct box box;

	if (!access("/sys/bus/event_source/devices/cpu/rdpmc", F_OK))
		skip("perf may allow RDPMC here");
	box_open(&box, NULL);
	regs = box_regs(&box);
	regs.rcx = 0;
	SIGNALS("RDPMC", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0x0f, 0x33);
	box_close(&box);
}

const struct test tsc_tests[] = {
	{ "rdtsc_registers", rdtsc_registers },
	{ "rdtscp_registers", rdtscp_registers },
	{ "tsc_monotonic", tsc_monotonic },
	{ "tsc_rate_is_right", tsc_rate_is_right },
	{ "rdtsc_disabled", rdtsc_disabled },
	{ "rdpmc_refused", rdpmc_refused },
	{ }
};
