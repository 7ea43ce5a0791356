// SPDX-License-Identifier: GPL-2.0
/*
 * log.c - the kernel's log must not complain.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>

#include "check.h"

enum { SYSLOG_READ_ALL = 3, SYSLOG_SIZE = 10 };

char *read_kernel_log(void)
{
	int size = klogctl(SYSLOG_SIZE, NULL, 0);
	char *log = calloc(1, size > 0 ? size + 1 : 1);

	if (size > 0 && klogctl(SYSLOG_READ_ALL, log, size) < 0)
		log[0] = 0;
	return log;
}

int count_complaints(const char *log, bool show)
{
	static const char *const words[] = {
		"WARNING:", "BUG:", "Oops", "kernel BUG", "Call Trace", "unchecked MSR",
		"soft lockup", "rcu_preempt detected stalls", "unable to handle",
		"stack guard page", "ODEBUG", "Invalid relocation",
	};
	int count = 0;

	while (*log) {
		size_t len = strcspn(log, "\n");

		for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
			const char *at = strstr(log, words[i]);

			/* Advice on the processor's weaknesses warns as well. */
			if (at && at < log + len && strncmp(at, "WARNING: See ", 13)) {
				/* The first of the words is enough. */
				if (show)
					note("kernel: %.*s", (int)len, log);
				count++;
				break;
			}
		}
		log += len + !!log[len];
	}
	return count;
}

/* Last of all tests: nothing that ran before made the kernel complain. */
static void kernel_log_is_clean(void)
{
	char *log = read_kernel_log();
	int count;

	CHECK(log[0], "the kernel's log cannot be read");
	count = count_complaints(log, true);
	CHECK(!count, "%d lines of the kernel's log complain", count);
}

const struct test log_tests[] = {
	{ "kernel_log_is_clean", kernel_log_is_clean },
	{ }
};
