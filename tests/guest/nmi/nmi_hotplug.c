// SPDX-License-Identifier: GPL-2.0
/*
 * nmi_hotplug.c - takes all secondary CPUs offline and online again, under a storm of NMIs.
 *
 * Usage: nmi_hotplug [-m MODULE] [-n ROUNDS] [-r RATE] [-b BURST] [-s SEED]
 *   -m MODULE  the module with the NMI handler (default: /lib/sev_es_nmi.ko)
 *   -n ROUNDS  (default 200)
 *   -r RATE    bursts per second and CPU (default 200; 0: no storm)
 *   -b BURST   NMIs in a burst (default 2)
 *
 * Each CPU that came back has to execute an exit. Prints KTAP.
 */
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

static void die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(2);
}

static unsigned int counter(const char *name)
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

/* 0, or the error. */
static int set_online(int cpu, bool online)
{
	char path[64];
	int fd, error;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		die(path);
	error = write(fd, online ? "1" : "0", 1) < 0 ? errno : 0;
	close(fd);
	return error;
}

static bool go_to(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	return !sched_setaffinity(0, sizeof(cpus), &cpus);
}

/* What speaks of trouble in the kernel's log. */
static const char *trouble(void)
{
	static const char *const signs[] = {
		"BUG:", "WARNING:", "rcu: INFO", "soft lockup", "nobody cared", "Call Trace",
		"SEV-ES: #VC exception", "possible circular",
	};
	static char log[1 << 20];
	int len = klogctl(3, log, sizeof(log) - 1);

	if (len < 0)
		die("klogctl");
	log[len] = 0;
	for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++)
		if (strstr(log, signs[i]))
			return signs[i];
	return NULL;
}

int main(int argc, char **argv)
{
	int rounds = 200, rate = 200, burst = 2, seed = 1, opt, cpus, round, cpu, fd;
	unsigned int injected = 0, handled;
	const char *module = "/lib/sev_es_nmi.ko";
	char problem[128] = "";
	const char *sign;

	while ((opt = getopt(argc, argv, "m:n:r:b:s:")) != -1) {
		switch (opt) {
		case 'm':
			module = optarg;
			break;
		case 'n':
			rounds = atoi(optarg);
			break;
		case 'r':
			rate = atoi(optarg);
			break;
		case 'b':
			burst = atoi(optarg);
			break;
		case 's':
			seed = atoi(optarg);
			break;
		default:
			return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	cpus = sysconf(_SC_NPROCESSORS_CONF);
	fd = open(module, O_RDONLY);
	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
		die(module);
	if (ioperm(TEST_PLAN, 0x20, 1))
		die("ioperm");
	printf("KTAP version 1\n");
	if (test_in(TEST_PLAN) != PLAN_IDLE || cpus < 2) {
		printf("1..0 # SKIP needs sevsim with nmi-test=on, and two vCPUs\n");
		return 0;
	}
	printf("1..1\n");
	exit_cpuid();
	go_to(0);
	if (rate)
		test_out(TEST_STORM, rate | (burst - 1) << 16 | (unsigned int)seed << 20);
	for (round = 1; round <= rounds && !*problem; round++) {
		for (cpu = 1; cpu < cpus && !*problem; cpu++) {
			int error = set_online(cpu, false);

			if (error)
				snprintf(problem, sizeof(problem), "CPU %d stays online: %s", cpu,
					 strerror(error));
		}
		for (cpu = 1; cpu < cpus && !*problem; cpu++) {
			int error = set_online(cpu, true);

			if (error)
				snprintf(problem, sizeof(problem), "CPU %d stays offline: %s", cpu,
					 strerror(error));
			else if (!go_to(cpu) || exit_cpuid())
				snprintf(problem, sizeof(problem), "CPU %d does not work", cpu);
			go_to(0);
		}
		if (round % 20 == 0)
			printf("# %d rounds, %u NMIs handled\n", round, counter("handled"));
	}
	test_out(TEST_STORM, 0);
	for (cpu = 0; cpu < cpus; cpu++)
		if (go_to(cpu))
			injected += test_in(TEST_NMIS);
	handled = counter("handled");
	sign = trouble();
	if (!*problem && counter("wrong"))
		snprintf(problem, sizeof(problem), "wrong result in the NMI handler");
	if (!*problem && rate && !handled)
		snprintf(problem, sizeof(problem), "no NMI came");
	/* Two that come while one is handled are one for the kernel, but none is made up. */
	if (!*problem && handled > injected)
		snprintf(problem, sizeof(problem), "more NMIs than there were");
	if (!*problem && sign)
		snprintf(problem, sizeof(problem), "the kernel's log says \"%s\"", sign);
	printf("%sok 1 hotplug # %d rounds of %d CPUs; %u NMIs, %u handled%s%s\n",
	       *problem ? "not " : "", round - 1, cpus - 1, injected, handled,
	       *problem ? ": " : "", problem);
	return *problem != 0;
}
