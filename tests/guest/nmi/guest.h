/* SPDX-License-Identifier: GPL-2.0 */
/*
 * guest.h - what the programs that run in a storm of NMIs share: the module, the test port, the
 * kernel's log.
 */
#ifndef GUEST_H
#define GUEST_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/klog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exits.h"

#define PARAMETERS	"/sys/module/sev_es_nmi/parameters/"
#define MODULE		"/lib/sev_es_nmi.ko"

static inline void die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(2);
}

static inline unsigned int counter(const char *name)
{
	char path[128], buf[32];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), PARAMETERS "%s", name);
	fd = open(path, O_RDONLY);
	len = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (len < 0)
		die(path);
	buf[len] = 0;
	close(fd);
	return strtoul(buf, NULL, 10);
}

static inline bool go_to(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	return !sched_setaffinity(0, sizeof(cpus), &cpus);
}

/* Loads the module and opens the test port; false if there is none. */
static inline bool open_port(const char *module)
{
	int fd = open(module, O_RDONLY);

	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
		die(module);
	close(fd);
	if (ioperm(TEST_PLAN, 0x20, 1))
		die("ioperm");
	return test_in(TEST_PLAN) == PLAN_IDLE;
}

/* Bursts per second and CPU, NMIs in each, and a seed. */
static inline void begin_storm(unsigned int rate, unsigned int burst, unsigned int seed)
{
	test_out(TEST_STORM, rate | (burst - 1) << 16 | seed << 20);
}

/* Ends the storm; returns how many NMIs there were. */
static inline unsigned int end_storm(int cpus)
{
	unsigned int injected = 0;

	test_out(TEST_STORM, 0);
	for (int cpu = 0; cpu < cpus; cpu++)
		if (go_to(cpu))
			injected += test_in(TEST_NMIS);
	return injected;
}

/* The program makes #VC exceptions on purpose that are answered with a signal, and a message. */
static bool signals_on_purpose;

/* What speaks of trouble in the kernel's log. */
static inline const char *trouble(void)
{
	static const char *const signs[] = {
		"BUG:", "WARNING:", "rcu: INFO", "soft lockup", "nobody cared", "Call Trace",
		"SEV-ES: #VC exception", "possible circular", "Oops", "blocked for more than",
	};
	static char log[8 << 20];
	int len = klogctl(3, log, sizeof(log) - 1);

	if (len < 0)
		die("klogctl");
	log[len] = 0;
	/* The kernel's first words. */
	if (!strstr(log, "Linux version"))
		return "nothing about its beginning: it is not complete";
	for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++)
		if (strstr(log, signs[i]) &&
		    !(signals_on_purpose && !strncmp(signs[i], "SEV-ES:", 7)))
			return signs[i];
	return NULL;
}

/* What is wrong after a storm, NULL if nothing. */
static inline const char *check_storm(unsigned int injected, unsigned int handled)
{
	static char text[128];
	const char *sign = trouble();

	if (counter("wrong")) {
		snprintf(text, sizeof(text), "%u wrong results in the NMI handler, in %#x",
			 counter("wrong"), counter("wrong_in"));
		return text;
	}
	if (!handled)
		return "no NMI came";
	/* Two that come while one is handled are one for the kernel, but none is made up. */
	if (handled > injected)
		return "more NMIs than there were";
	if (!sign)
		return NULL;
	snprintf(text, sizeof(text), "the kernel's log says \"%s\"", sign);
	return text;
}

#endif
