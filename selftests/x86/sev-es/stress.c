// SPDX-License-Identifier: GPL-2.0
/*
 * stress.c - exits on all processors at the same time, interrupted by signals and timers.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"

#define SECONDS		1.5
#define MAX_THREADS	64

static atomic_int errors;
static atomic_ulong rounds, restores, ticks;
static atomic_bool done;

static void *worker(void *arg)
{
	int cpu = (int)(long)arg;
	struct leaf want, got;
	uint64_t last, at;
	double end = now() + SECONDS;
	uint16_t page = 0x81 + cpu % 3;
	uint64_t rax;

	pin_to_cpu(cpu);
	want = cpuid(0x80000002, 0);
	last = rdtsc();
	ioperm(page, 1, 1);
	while (now() < end) {
		for (unsigned int i = 0; i < 16; i++) {
			got = cpuid(0x80000002, 0);
			if (memcmp(&got, &want, sizeof(got)))
				errors++;
			at = rdtsc();
			if (at <= last)
				errors++;
			last = at;
			/* All of RAX but AL is the program's. */
			rax = 0x1234567800000000UL | i;
			asm volatile("outb %%al, %%dx" : "+a" (rax) : "d" (page));
			if (rax != (0x1234567800000000UL | i))
				errors++;
		}
		rounds++;
	}
	return NULL;
}

/* Starts a thread for each processor from the one with this number on. Gives their count. */
static int start(int first, void *(*work)(void *), pthread_t *threads)
{
	int count = 0;

	for (int cpu = first; cpu < cpu_count() && cpu < MAX_THREADS; cpu++) {
		if (!cpu_online(cpu))
			continue;
		CHECK(!pthread_create(&threads[count], NULL, work, (void *)(long)cpu),
		      "pthread_create");
		count++;
	}
	return count;
}

static void exits_on_all_processors(void)
{
	pthread_t threads[MAX_THREADS];
	int count = start(0, worker, threads);

	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	note("%lu rounds on %d processors", rounds, count);
	CHECK(!errors, "%d errors", errors);
	CHECK(rounds > 0, "no processor got anywhere");
}

#define ALL_FX_STATE	"st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)",	\
			"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",		\
			"xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* What FXSAVE writes, to a multiple of 16. */
union fx_state {
	uint8_t bytes[512];
	max_align_t aligned;
};

/* FXRSTOR of what was saved, with a pattern in XMM1 that has to come back. */
static void *restorer(void *arg)
{
	static const uint64_t pattern = 0x0123456789abcdef;
	union fx_state state = { { 0 } };
	uint64_t got;

	pin_to_cpu((int)(long)arg);
	asm volatile("movq %1, %%xmm1\n\tfxsave %0" : "=m" (state) : "r" (pattern) : "xmm1");
	while (!done) {
		for (unsigned int i = 0; i < 1000; i++) {
			asm volatile("pxor %%xmm1, %%xmm1\n\tfxrstor %1\n\tmovq %%xmm1, %0"
				     : "=r" (got) : "m" (state) : ALL_FX_STATE);
			if (got != pattern)
				errors++;
		}
		restores += 1000;
	}
	return NULL;
}

/*
 * Exits on the first processor while the others do nothing but restore their floating point state.
 * An emulated host may keep flags of several processors in one word.
 */
static void exits_beside_fxrstor(void)
{
	struct leaf want = cpuid(0x80000002, 0), got;
	double end = now() + 2 * SECONDS;
	pthread_t threads[MAX_THREADS];
	int count = start(1, restorer, threads);

	if (!count)
		skip("one processor only");
	CHECK(pin_to_cpu(0), "the first processor may not be used");
	for (; now() < end; rounds++) {
		got = cpuid(0x80000002, 0);
		if (memcmp(&got, &want, sizeof(got)))
			errors++;
	}
	done = true;
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	note("%lu exits beside %lu restores on %d processors", rounds, restores, count);
	CHECK(!errors, "%d errors", errors);
	CHECK(rounds > 0 && restores > 0, "no processor got anywhere");
}

static void on_tick(int sig)
{
	(void)sig;
	ticks++;
	/* An exit inside the handler, too. */
	cpuid(0, 0);
}

/* Signals arrive between and during exits; neither may see the other. */
static void exits_under_signals(void)
{
	struct sigaction action = { .sa_handler = on_tick };
	struct itimerval timer = { { 0, 2000 }, { 0, 2000 } }, off = { 0 };
	struct leaf want = cpuid(0x80000002, 0), got;
	uint64_t rbx, mark = 0x0123456789abcdef;
	double end = now() + SECONDS;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	while (now() < end) {
		got = cpuid(0x80000002, 0);
		CHECK(!memcmp(&got, &want, sizeof(got)), "CPUID gives something else");
		asm volatile("movq %1, %%r12\n\tmovq %1, %%r13\n\tcpuid\n\tsubq %%r13, %%r12\n\t"
			     "movq %%r12, %0"
			     : "=&S" (rbx) : "D" (mark), "a" (0), "c" (0)
			     : "rbx", "rdx", "r12", "r13", "memory");
		CHECK(!rbx, "registers changed");
	}
	setitimer(ITIMER_REAL, &off, NULL);
	note("%lu signals", ticks);
	CHECK(ticks > 10, "only %lu signals", ticks);
}

const struct test stress_tests[] = {
	{ "exits_on_all_processors", exits_on_all_processors },
	{ "exits_beside_fxrstor", exits_beside_fxrstor },
	{ "exits_under_signals", exits_under_signals },
	{ }
};
