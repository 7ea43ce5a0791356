// SPDX-License-Identifier: GPL-2.0
/*
 * nmi_sweep.c - NMIs at every instruction of the #VC handler, by sevsim's test port.
 *
 * Usage: nmi_sweep [-m MODULE] [-s STRIDE] [-w WORK] [-c CPU] [NAME...]
 *   -m MODULE  the module with the NMI handler (default: /lib/sev_es_nmi.ko)
 *   -s STRIDE  boundaries from one NMI to the next (default 8); 0: one NMI per exit
 *   -w WORK    what the NMI handler does (see sev_es_nmi.c)
 *   -c CPU     where (default 0)
 *   NAME       tests whose name begins with NAME (default: all)
 *
 * For each exit, from user and from kernel mode: the instruction is repeated until sevsim has put
 * an NMI before each instruction of its handler. Each result is checked, and each NMI must have
 * been handled. Prints KTAP.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exits.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define PARAMETERS	"/sys/module/sev_es_nmi/parameters/"

static unsigned int stride = 8;
/* Of the NMI handler, but for the plan of the NMI handler itself, which has to be short. */
static const char *work = "15";

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

static int run_rdtsc(void)
{
	return exit_rdtsc();
}

static int run_rdtscp(void)
{
	return exit_rdtscp();
}

static int run_vmmcall(void)
{
	return exit_vmmcall(-1);
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
	{ "user-cpuid", EXIT_CPUID, run_cpuid },
	{ "user-cpuid-xsave", EXIT_CPUID, run_cpuid_xsave },
	{ "user-out", EXIT_IOIO, run_out },
	{ "user-in", EXIT_IOIO, run_in },
	{ "user-outs", EXIT_IOIO, run_outs },
	{ "user-ins", EXIT_IOIO, run_ins },
	{ "user-rdtsc", EXIT_RDTSC, run_rdtsc },
	{ "user-rdtscp", EXIT_RDTSCP, run_rdtscp },
	{ "user-vmmcall", EXIT_VMMCALL, run_vmmcall },
	{ "user-nmi", EXIT_NMI, run_nmi },
};

static void die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(2);
}

static void read_parameter(const char *name, char *buf, size_t size)
{
	char path[128];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), PARAMETERS "%s", name);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	len = read(fd, buf, size - 1);
	if (len < 0)
		die(path);
	buf[len] = 0;
	close(fd);
}

static unsigned int counter(const char *name)
{
	char buf[32];

	read_parameter(name, buf, sizeof(buf));
	return strtoul(buf, NULL, 10);
}

/* 0, or the error of the write. */
static int write_parameter(const char *name, const char *text)
{
	char path[128];
	int fd, error;

	snprintf(path, sizeof(path), PARAMETERS "%s", name);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		die(path);
	error = write(fd, text, strlen(text)) < 0 ? errno : 0;
	close(fd);
	return error;
}

/*
 * An NMI handler that is executed step by step takes long. The kernel would say so once, and the
 * first execution be unlike the others.
 */
static void allow_long_handlers(void)
{
	int fd = open("/sys/kernel/debug/x86/nmi_longest_ns", O_WRONLY);

	if (fd < 0)
		return;
	if (write(fd, "1000000000000000", 16) != 16)
		die("nmi_longest_ns");
	close(fd);
}

static bool wanted(const char *name, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (!strncmp(name, *names, strlen(*names)))
			return true;
	return false;
}

struct before {
	unsigned int nmis, handled, wrong;
};

static struct before note(void)
{
	return (struct before) { test_in(TEST_NMIS), counter("handled"), counter("wrong") };
}

/* Ends a plan and tells what became of it. */
static bool report(int number, const char *name, const char *problem, struct before before)
{
	unsigned int boundaries = test_in(TEST_BOUNDARIES), seen = test_in(TEST_INSTRUCTIONS);
	unsigned int covered = test_in(TEST_COVERED), occurrences = test_in(TEST_OCCURRENCES);
	unsigned int nmis, handled, wrong;

	test_out(TEST_PLAN, PLAN_IDLE);
	nmis = test_in(TEST_NMIS) - before.nmis;
	handled = counter("handled") - before.handled;
	wrong = counter("wrong") - before.wrong;
	if (!occurrences && !nmis) {
		printf("ok %d %s # SKIP not intercepted\n", number, name);
		return true;
	}
	if (!problem && wrong)
		problem = "wrong result in the NMI handler";
	/*
	 * NMIs that come in the NMI handler are handled together, by one more execution of it. The
	 * first occurrence has none of them.
	 */
	if (strstr(name, "-nmi")) {
		if (!problem && handled < 2 * occurrences - 1)
			problem = "NMIs were lost";
	} else if (!problem && nmis > handled) {
		problem = "NMIs were lost";
	}
	if (!problem && nmis < handled)
		problem = "NMIs were handled twice";
	if (!problem && (!nmis || !boundaries))
		problem = "nothing was stepped";
	if (!problem && seen != covered)
		problem = "instructions without an NMI before them";
	printf("%sok %d %s # %u instructions, %u executed, %u exits; %u NMIs, %u handled%s%s\n",
	       problem ? "not " : "", number, name, seen, boundaries, occurrences, nmis, handled,
	       problem ? ": " : "", problem ?: "");
	return !problem;
}

/* Sets the work of the NMI handler. */
static void prepare(const char *name)
{
	if (write_parameter("work", strstr(name, "-nmi") ? "0" : work))
		die("work");
}

/*
 * A further NMI in the NMI handler: from user mode it is noted by C code, after NMI_COMPLETE, and
 * many of them can come in one execution. From kernel mode it is noted by the entry code, and NMIs
 * are masked from then on, so that one comes in each: at each instruction would take long.
 */
static unsigned int plan_stride(const char *name)
{
	return strstr(name, "-nmi") && !stride ? 1 : stride;
}

static bool user(int number, const char *name, unsigned int code, int (*run)(void))
{
	unsigned int status = PLAN_RUNNING;
	const char *problem = NULL;
	struct before before;

	prepare(name);
	exit_in_prepare();
	run();
	exit_in_prepare();
	before = note();
	test_out(TEST_PLAN, code | PLAN_USER | PLAN_STRIDE(plan_stride(name)));
	for (int tries = 0; status == PLAN_RUNNING && !problem; tries++) {
		if (run())
			problem = "wrong result";
		status = test_in(TEST_PLAN);
		if (tries > MAX_TRIES && !test_in(TEST_OCCURRENCES))
			break;
	}
	if (!problem && status == PLAN_FAILED)
		problem = "the handler could not be stepped";
	return report(number, name, problem, before);
}

static bool kernel(int number, const char *name, const char *exit)
{
	struct before before;
	char text[64];
	int error;

	prepare(name);
	snprintf(text, sizeof(text), "%s:%u", exit, plan_stride(name));
	before = note();
	error = write_parameter("run", text);
	return report(number, name, !error || error == ENODEV ? NULL : error == EIO ? "wrong result" :
		      error == ELOOP ? "the handler could not be stepped" : strerror(error), before);
}

static void load(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		die(path);
	if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
		die(path);
	close(fd);
}

int main(int argc, char **argv)
{
	const char *module = "/lib/sev_es_nmi.ko";
	int opt, number = 0, failed = 0;
	char list[1024], *exit_name;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	while ((opt = getopt(argc, argv, "m:s:w:c:")) != -1) {
		switch (opt) {
		case 'm':
			module = optarg;
			break;
		case 's':
			stride = strtoul(optarg, NULL, 10);
			break;
		case 'w':
			work = optarg;
			break;
		case 'c':
			CPU_ZERO(&cpus);
			CPU_SET(atoi(optarg), &cpus);
			break;
		default:
			return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	load(module);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	if (ioperm(TEST_PLAN, 0x20, 1) || ioperm(SCRATCH_PORT, 1, 1))
		die("ioperm");
	if (test_in(TEST_PLAN) != PLAN_IDLE) {
		printf("1..0 # SKIP sevsim has no test port: run it with nmi-test=on\n");
		return 0;
	}
	allow_long_handlers();
	printf("KTAP version 1\n");
	for (size_t i = 0; i < ARRAY_SIZE(exits); i++)
		if (wanted(exits[i].name, argv + optind))
			failed += !user(++number, exits[i].name, exits[i].code, exits[i].run);
	read_parameter("exits", list, sizeof(list));
	for (exit_name = strtok(list, "\n"); exit_name; exit_name = strtok(NULL, "\n")) {
		char name[64];

		snprintf(name, sizeof(name), "kernel-%s", exit_name);
		if (wanted(name, argv + optind))
			failed += !kernel(++number, name, exit_name);
	}
	printf("1..%d\n", number);
	printf("# %d passed, %d failed\n", number - failed, failed);
	return failed != 0;
}
