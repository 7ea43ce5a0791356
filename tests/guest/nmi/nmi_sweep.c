// SPDX-License-Identifier: GPL-2.0
/*
 * nmi_sweep.c - NMIs at every instruction of the #VC handler, by sevsim's test port.
 *
 * Usage: nmi_sweep [-m MODULE] [-s STRIDE] [-w WORK] [-c CPU] [-x COMMAND] [NAME...]
 *   -m MODULE  the module with the NMI handler (default: /lib/sev_es_nmi.ko)
 *   -s STRIDE  boundaries from one NMI to the next (default 8); 0: one NMI per exit
 *   -w WORK    what the NMI handler does (see sev_es_nmi.c)
 *   -c CPU     where (default 0)
 *   -x COMMAND what runs the code for the test "between" (default: a call of getppid())
 *   NAME       tests (default: all but "between")
 *
 * For each exit, from user and from kernel mode: the instruction is repeated until sevsim has put
 * an NMI before each instruction of its handler. Each result is checked, and each NMI must have
 * been handled. The test "between" does the same for the code between the two addresses of sevsim's
 * option nmi-between. Prints KTAP, and a line when a test begins.
 */
#include <signal.h>
#include <sys/prctl.h>

#include "guest.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

static unsigned int stride = 8;
/* Of the NMI handler, but for the plan of the NMI handler itself, which has to be short. */
static const char *work = "15";

/* What is to run the code between two addresses: a system call, or a command. */
static const char *command;

static int run_command(void)
{
	if (!command)
		return syscall(SYS_getppid) <= 0;
	return system(command) != 0;
}

static const struct {
	const char *name;
	unsigned int code;
	int (*run)(void);
} exits[] = {
	{ "user-cpuid", EXIT_CPUID, exit_cpuid },
	{ "user-cpuid-xsave", EXIT_CPUID, exit_cpuid_xsave },
	{ "user-out", EXIT_IOIO, exit_out },
	{ "user-in", EXIT_IOIO, exit_in },
	{ "user-outs", EXIT_IOIO, exit_outs },
	{ "user-ins", EXIT_IOIO, exit_ins },
	{ "user-rdtsc", EXIT_RDTSC, exit_rdtsc },
	{ "user-rdtscp", EXIT_RDTSCP, exit_rdtscp },
	{ "user-vmmcall", EXIT_VMMCALL, exit_vmmcall },
	{ "user-nmi", EXIT_NMI, exit_nmi },
	{ "user-nmi-vc", EXIT_NMI, exit_nmi },
};

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

/* Whether a test is wanted: then it begins. */
static bool begin(const char *name, char **names)
{
	bool wanted = !*names;

	for (; *names && !wanted; names++)
		wanted = !strcmp(name, *names);
	if (wanted)
		printf("# begin %s\n", name);
	return wanted;
}

#define FAILED	"the handler could not be stepped"

struct before {
	unsigned int nmis, handled, wrong;
};

static struct before note(void)
{
	return (struct before) { test_in(TEST_NMIS), counter("handled"), counter("wrong") };
}

static bool is_nmi(const char *name)
{
	return strstr(name, "-nmi") != NULL;
}

/*
 * A further NMI in the NMI handler: what interrupts user mode is handled on the task's stack, and
 * further ones are noted by C code behind NMI_COMPLETE, so that many can come in one execution.
 * What interrupts the kernel is handled on the NMI stack: the entry code notes the next one and
 * returns, without NMI_COMPLETE. So NMIs are masked until the repetition, and one execution can
 * have but one.
 */
static unsigned int plan_stride(const char *name)
{
	return is_nmi(name) && !strncmp(name, "kernel-", 7) ? 0 : stride;
}

/*
 * Whether a plan has to be repeated: its first execution, by which the others went, was an unusual
 * one, with boundaries that none of them came to.
 */
static bool again(void)
{
	static int times;

	if (test_in(TEST_PLAN) >> 8 && times++ < 2) {
		printf("# %u boundaries were met once only: repeated\n", test_in(TEST_PLAN) >> 8);
		return true;
	}
	times = 0;
	return false;
}

/* Ends a plan and tells what became of it. `mistakes`: wrong results of the exit itself. */
static bool report(int number, const char *name, const char *problem, unsigned int mistakes,
		   struct before before)
{
	unsigned int boundaries = test_in(TEST_BOUNDARIES), seen = test_in(TEST_INSTRUCTIONS);
	unsigned int covered = test_in(TEST_COVERED), occurrences = test_in(TEST_OCCURRENCES);
	unsigned int nmis, handled, wrong, due, lost, skipped = test_in(TEST_PLAN) >> 8;

	test_out(TEST_PLAN, PLAN_IDLE);
	nmis = test_in(TEST_NMIS) - before.nmis;
	handled = counter("handled") - before.handled;
	wrong = counter("wrong") - before.wrong + mistakes;
	if (!occurrences && !nmis) {
		printf("ok %d %s # SKIP not intercepted\n", number, name);
		return true;
	}
	/*
	 * If several come in one execution of the NMI handler, they are handled together, by one
	 * more. One execution has none: that which shows how long it is.
	 */
	due = is_nmi(name) && plan_stride(name) ? 2 * occurrences - 1 : nmis;
	lost = due > handled ? due - handled : 0;
	if (!problem && wrong)
		problem = "wrong results";
	if (!problem && lost)
		problem = "NMIs were lost";
	if (!problem && nmis < handled)
		problem = "NMIs were handled twice";
	if (!problem && (!nmis || !boundaries))
		problem = "nothing was stepped";
	if (!problem && skipped)
		problem = "boundaries that were met once only";
	if (!problem && seen != covered)
		problem = "instructions without an NMI before them";
	printf("%sok %d %s # %u instructions, %u executed, %u exits; %u NMIs, %u handled, "
	       "%u wrong, %u lost%s%s\n",
	       problem ? "not " : "", number, name, seen, boundaries, occurrences, nmis, handled,
	       wrong, lost, problem ? ": " : "", problem ?: "");
	return !problem;
}

/* Sets the work of the NMI handler. One that is stepped itself has none, or two exits. */
static void prepare(const char *name)
{
	const char *value = work;

	if (is_nmi(name))
		value = strstr(name, "-nmi-vc") ? "5" : "0";
	if (write_parameter("work", value))
		die("work");
}

static bool user(int number, const char *name, unsigned int code, int (*run)(void))
{
	unsigned int levels = code == BETWEEN ? PLAN_USER | PLAN_KERNEL : PLAN_USER;
	unsigned int status, mistakes = 0;
	struct before before;

	prepare(name);
	exit_in_prepare();
	run();
	exit_in_prepare();
	before = note();
	for (;;) {
		test_out(TEST_PLAN, code | levels | PLAN_STRIDE(plan_stride(name)));
		for (int tries = 1;; tries++) {
			mistakes += run() != 0;
			status = PLAN_STATUS(test_in(TEST_PLAN));
			if (status != PLAN_RUNNING)
				break;
			if (tries > MAX_TRIES && !test_in(TEST_OCCURRENCES))
				break;
		}
		if (!again())
			break;
		/*
		 * The kernel compares an NMI's address with the last one's, which came
		 * elsewhere.
		 */
		mistakes += run() != 0;
	}
	return report(number, name, status == PLAN_FAILED ? FAILED : NULL, mistakes, before);
}

static bool kernel(int number, const char *name, const char *exit)
{
	unsigned int mistakes = counter("failed");
	struct before before;
	char text[64];
	int error;

	prepare(name);
	snprintf(text, sizeof(text), "%s:%u", exit, plan_stride(name));
	before = note();
	do {
		error = write_parameter("run", text);
	} while (again());
	return report(number, name, !error || error == ENODEV ? NULL :
		      error == ELOOP ? FAILED : strerror(error), counter("failed") - mistakes,
		      before);
}

/* Shows that the guest is alive. A hang is told by silence. */
static void show_progress(void)
{
	switch (fork()) {
	case -1:
		die("fork");
	case 0:
		break;
	default:
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		sleep(10);
		printf("# %u exits so far\n", test_in(TEST_OCCURRENCES));
	}
}

int main(int argc, char **argv)
{
	const char *module = MODULE;
	int opt, number = 0, failed = 0;
	char list[1024], *exit_name;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	while ((opt = getopt(argc, argv, "m:s:w:c:x:")) != -1) {
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
		case 'x':
			command = optarg;
			break;
		default:
			return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	if (ioperm(SCRATCH_PORT, 1, 1))
		die("ioperm");
	if (!open_port(module)) {
		printf("1..0 # SKIP sevsim has no test port: run it with nmi-test=on\n");
		return 0;
	}
	allow_long_handlers();
	printf("KTAP version 1\n");
	show_progress();
	for (size_t i = 0; i < ARRAY_SIZE(exits); i++)
		if (begin(exits[i].name, argv + optind))
			failed += !user(++number, exits[i].name, exits[i].code, exits[i].run);
	/* Not by default: sevsim has to know the addresses. */
	if (*(argv + optind) && begin("between", argv + optind))
		failed += !user(++number, "between", BETWEEN, run_command);
	read_parameter("exits", list, sizeof(list));
	for (exit_name = strtok(list, "\n"); exit_name; exit_name = strtok(NULL, "\n")) {
		char name[64];

		snprintf(name, sizeof(name), "kernel-%s", exit_name);
		if (begin(name, argv + optind))
			failed += !kernel(++number, name, exit_name);
	}
	printf("1..%d\n", number);
	printf("# %d passed, %d failed\n", number - failed, failed);
	return failed != 0;
}
