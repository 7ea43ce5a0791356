/* SPDX-License-Identifier: GPL-2.0 */
/*
 * check.h - the frame of the SEV-ES user space checks.
 *
 * The expected results are those of bare metal: a plain guest must pass every test. Where an
 * encrypted guest rightly differs (no hardware breakpoints, no 32-bit system calls, user MMIO
 * refused), the test says so and asks for the encrypted guest's behaviour.
 */
#ifndef SEV_ES_CHECK_H
#define SEV_ES_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kselftest.h"

struct test {
	const char *name;
	void (*run)(void);
};

/* What protects this guest, from the kernel's log. */
extern bool guest_is_sev;
extern bool guest_is_sev_es;
extern bool handler_is_rust;

/* The tests to run were chosen by name: also those that a kernel may not survive. */
extern bool chosen_by_name;

/* Ends of a test. A test that returns has passed. */
__noreturn __printf(1, 2) void fail(const char *fmt, ...);
__noreturn __printf(1, 2) void skip(const char *fmt, ...);
/* A remark for the reader of the log. */
__printf(1, 2) void note(const char *fmt, ...);

#define CHECK(cond, ...) do { if (!(cond)) fail(__VA_ARGS__); } while (0)

/* The kernel's log: read as a whole, and what speaks of trouble in it. */
char *read_kernel_log(void);
int count_complaints(const char *log, bool show);

/* Processors. */
int cpu_count(void);
bool cpu_online(int cpu);
bool pin_to_cpu(int cpu);

/* Small files, as in /proc and /sys. */
bool read_text(const char *path, char *buf, size_t size);
bool write_text(const char *path, const char *text);

double now(void);

struct leaf {
	uint32_t a, b, c, d;
};

static inline struct leaf cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct leaf l;

	asm volatile("cpuid" : "=a" (l.a), "=b" (l.b), "=c" (l.c), "=d" (l.d)
			     : "0" (leaf), "2" (subleaf));
	return l;
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	asm volatile("rdtsc" : "=a" (low), "=d" (high));
	return low | (uint64_t)high << 32;
}

static inline uint64_t rdtscp(uint32_t *aux)
{
	uint32_t low, high;

	asm volatile("rdtscp" : "=a" (low), "=d" (high), "=c" (*aux));
	return low | (uint64_t)high << 32;
}

extern const struct test cpuid_tests[], tsc_tests[], port_tests[], string_tests[],
			 string_fault_tests[], segment_tests[], compat_tests[], bytes_tests[],
			 pkey_tests[], privileged_tests[], trap_tests[], step_tests[],
			 hypercall_tests[], hostile_tests[], kernel_tests[], stress_tests[],
			 log_tests[];

#endif
