// SPDX-License-Identifier: GPL-2.0
/*
 * assault.c - attacks on the kernel, by sevsim's test port (option hostile=SEED): most of them end
 * the guest, so each one is an attempt, after which sevsim puts the guest back to where it began.
 *
 * Usage: assault [-n STEPS] [-f FIRST] [-s STEP.STEP...] [-c NUMBER] [-t TARGETS] [-o]
 *   -n STEPS    (default 300)
 *   -f FIRST    number of the first step (default 1)
 *   -s LIST     only these steps, with dots between them
 *   -c NUMBER   only this operation, by its number in the table below
 *   -t TARGETS  letters: e an event at an instruction of the kernel, d a spoiled reply to an exit
 *               of the kernel, r a reply that changes while the kernel reads it (default: edr)
 *   -o          an oops or a panic is printed and does not end the attempt, to look into one (the
 *               kernel needs a loglevel that shows it)
 *
 * Number and nature of a step do not depend on what happened before. Prints KTAP; what came of each
 * attempt is in sevsim's log as well, with what the host did.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEST_STEP	0x5c0
#define TEST_ATTEMPT	0x5c8
#define TEST_ADDRESS	0x5cc
#define TEST_TRIGGER	0xee
/* Scratch register of the first serial port. */
#define SCRATCH		0x3ff

#define RETURNED	0x80000000U
#define FROM_USER	0x10000U

/* pci-testdev's registers: which test; its name. */
#define MMIO_TEST	0
#define MMIO_NAME	16

/* Bits 31:28 of the word that arms. */
enum { TARGET_DEADLY = 3, TARGET_KERNEL_EVENT = 5, TARGET_KERNEL_REWRITE = 7 };

/* What the program says of an operation. */
enum { GOOD, WRONG, DIED, SIGNAL = 0x100 };

/* How an attempt ended, in bits 31:28 of the outcome. */
enum {
	END_RETURNED = 1, END_TERMINATED, END_PANIC, END_OOPS, END_TRIPLE, END_HANG, END_RESET, ENDS
};

#define TOLD_WARNING	(1U << 27)
#define TOLD_INJECTED	(1U << 26)

static struct shared {
	volatile unsigned int step;
	unsigned int attempts, injected, warned, ends[ENDS], good, wrong, signals, died, failed;
} *shared;

static unsigned int list[256], listed;
static int only = -1;
static int msr_fd, cpuid_fd, null_fd, pipes[2];
static volatile uint8_t *mmio;

static void test_out(unsigned int port, uint32_t value)
{
	asm volatile("outl %0, %w1" : : "a" (value), "d" (port) : "memory");
}

static uint32_t test_in(unsigned int port)
{
	uint32_t value;

	asm volatile("inl %w1, %0" : "=a" (value) : "d" (port) : "memory");
	return value;
}

static uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
	value = (value ^ value >> 27) * 0x94d049bb133111eb;
	return value ^ value >> 31;
}

/* Operations. The first time, nothing is attacked, and they note what is right. */

static bool do_getppid(void)
{
	static long expected;
	long value = syscall(SYS_getppid);

	if (!expected)
		expected = value;
	return value == expected;
}

/* Registers that tell where they come from, if the kernel follows one. */
static bool do_user_cpuid(void)
{
	static uint32_t expected[4];
	uint64_t b = 0xffffffff5ec20b0b, d = 0xffffffff5ec20d0d;
	uint64_t a = 0xffffffff40000000, c = 0xffffffff00000000;

	asm volatile("movq $0xffffffff5ec20808, %%r8\n\t"
		     "movq $0xffffffff5ec20909, %%r9\n\t"
		     "movq $0xffffffff5ec21010, %%r10\n\t"
		     "movq $0xffffffff5ec21111, %%r11\n\t"
		     "movq $0xffffffff5ec21212, %%r12\n\t"
		     "movq $0xffffffff5ec21313, %%r13\n\t"
		     "movq $0xffffffff5ec21414, %%r14\n\t"
		     "movq $0xffffffff5ec21515, %%r15\n\t"
		     "movq $0xffffffff5ec20606, %%rsi\n\t"
		     "movq $0xffffffff5ec20707, %%rdi\n\t"
		     "cpuid"
		     : "+a" (a), "+b" (b), "+c" (c), "+d" (d)
		     :: "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rsi", "rdi");
	if (!expected[0]) {
		memcpy(expected, (uint32_t[]){ a, b, c, d }, sizeof(expected));
		return true;
	}
	return a == expected[0] && b == expected[1] && c == expected[2] && d == expected[3];
}

static bool do_user_port(void)
{
	outb(0x5a, SCRATCH);
	return inb(SCRATCH) == 0x5a;
}

static bool do_msr(void)
{
	static uint64_t expected;
	uint64_t value;

	if (pread(msr_fd, &value, sizeof(value), 0xc0010015) != sizeof(value))
		return false;
	if (!expected)
		expected = value;
	return value == expected;
}

static bool do_cpuid(void)
{
	static uint32_t expected[4];
	uint32_t value[4];

	if (pread(cpuid_fd, value, sizeof(value), 0x40000000) != sizeof(value))
		return false;
	if (!expected[1])
		memcpy(expected, value, sizeof(value));
	return !memcmp(value, expected, sizeof(value));
}

/*
 * QEMU's pci-testdev tells the name of the test that was chosen by a write. The kernel accesses it
 * in our name, by a string instruction and by MOV.
 */
static bool mmio_name(char *name)
{
	return write(pipes[1], (char *)mmio + MMIO_NAME, 8) == 8 && read(pipes[0], name, 8) == 8;
}

static bool do_mmio_read(void)
{
	static char expected[8];
	char name[8];

	if (!mmio_name(name))
		return false;
	if (!expected[0])
		memcpy(expected, name, sizeof(name));
	return !memcmp(name, expected, sizeof(name));
}

static bool do_mmio_write(void)
{
	char name[8], byte, before[8];
	bool good;

	if (!mmio_name(before) || write(pipes[1], "x", 1) != 1)
		return false;
	/* Writes a 1. */
	good = !ioctl(pipes[0], FIONREAD, mmio + MMIO_TEST) && read(pipes[0], &byte, 1) == 1 &&
	       mmio_name(name);
	good = good && memcmp(name, before, sizeof(name));
	/* And a 0 again: the pipe is empty. */
	return !ioctl(pipes[0], FIONREAD, mmio + MMIO_TEST) && good;
}

static bool find_mmio(void)
{
	static const char devices[] = "/sys/bus/pci/devices";
	DIR *dir = opendir(devices);
	struct dirent *entry;
	char path[512], id[32];
	int fd;

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s/modalias", devices, entry->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		memset(id, 0, sizeof(id));
		if (read(fd, id, sizeof(id) - 1) < 0)
			id[0] = 0;
		close(fd);
		if (!strstr(id, "v00001B36d00000005"))
			continue;
		snprintf(path, sizeof(path), "%s/%s/enable", devices, entry->d_name);
		fd = open(path, O_WRONLY);
		if (write(fd, "1", 1) != 1)
			return false;
		snprintf(path, sizeof(path), "%s/%s/resource0", devices, entry->d_name);
		fd = open(path, O_RDWR);
		mmio = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		return mmio != MAP_FAILED && !pipe(pipes);
	}
	return false;
}

static bool do_fault(void)
{
	uint64_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool good;

	if (page == MAP_FAILED)
		return false;
	good = !page[7];
	page[7] = 7;
	good = good && page[7] == 7;
	return !munmap(page, 4096) && good;
}

static bool do_nmi(void)
{
	outb(0, TEST_TRIGGER);
	return do_getppid();
}

static bool do_timer(void)
{
	struct timespec time = { 0, 1000000 };

	return !nanosleep(&time, NULL) || errno == EINTR;
}

static bool do_write(void)
{
	return write(null_fd, "x", 1) == 1;
}

static const struct scenario {
	const char *name, *start;
	bool (*run)(void);
	unsigned int depth;
	bool exits;			/* exits of the kernel itself */
	bool user;			/* begins with an exception of user space */
} scenarios[] = {
	{ "syscall", "entry_SYSCALL_64", do_getppid, 250, false, false },
	{ "syscall, return", "entry_SYSRETQ_unsafe_stack", do_getppid, 12, false, false },
	{ "syscall, C", "do_syscall_64", do_write, 500, false, false },
	{ "cpuid of user space", "asm_exc_vmm_communication", do_user_cpuid, 900, false, true },
	{ "port of user space", "asm_exc_vmm_communication", do_user_port, 900, false, true },
	{ "RDMSR", "asm_exc_vmm_communication", do_msr, 900, true, false },
	{ "CPUID", "asm_exc_vmm_communication", do_cpuid, 900, true, false },
	{ "MMIO, read", "asm_exc_vmm_communication", do_mmio_read, 1500, true, false },
	{ "MMIO, write", "asm_exc_vmm_communication", do_mmio_write, 1500, true, false },
	{ "page fault", "asm_exc_page_fault", do_fault, 1500, false, false },
	{ "NMI", "asm_exc_nmi", do_nmi, 900, false, false },
	{ "timer", "asm_sysvec_apic_timer_interrupt", do_timer, 900, true, false },
};

#define SCENARIOS	(sizeof(scenarios) / sizeof(scenarios[0]))

/* Where sevsim stops: beginning of the attack, panic, oops, warning. */
static uint64_t starts[SCENARIOS], stops[3];

static void on_signal(int sig)
{
	test_out(TEST_ATTEMPT, RETURNED | SIGNAL | sig);
	_exit(100 + sig);
}

static void take_signals(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], on_signal);
}

static void find_symbols(void)
{
	static const char *const names[] = { "vpanic", "oops_begin", "__warn" };
	FILE *file = fopen("/proc/kallsyms", "r");
	char line[512], name[256];
	uint64_t address;

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx %*c %255s", &address, name) != 2)
			continue;
		for (size_t i = 0; i < SCENARIOS; i++)
			if (!strcmp(name, scenarios[i].start))
				starts[i] = address;
		for (size_t i = 0; i < 3; i++)
			if (!strcmp(name, names[i]))
				stops[i] = address;
	}
	if (file)
		fclose(file);
	for (size_t i = 0; i < SCENARIOS; i++)
		if (!starts[i])
			printf("# no symbol %s\n", scenarios[i].start);
	if (!stops[0] || !stops[1] || !stops[2]) {
		printf("Bail out! no symbols of the kernel\n");
		exit(2);
	}
}

static void tell_address(uint64_t address)
{
	test_out(TEST_ADDRESS, address);
	test_out(TEST_ADDRESS, address >> 32);
}

static void account(unsigned int step, const struct scenario *scenario, uint32_t outcome)
{
	static const char *const ends[ENDS] = {
		[END_TRIPLE] = "triple fault", [END_HANG] = "hang", [END_RESET] = "reset",
	};
	unsigned int end = outcome >> 28, result = outcome & 0xffff;

	shared->attempts++;
	shared->injected += !!(outcome & TOLD_INJECTED);
	shared->warned += !!(outcome & TOLD_WARNING);
	if (end < ENDS)
		shared->ends[end]++;
	if (end == END_RETURNED) {
		shared->good += result == GOOD;
		shared->signals += result >= SIGNAL;
		shared->wrong += result == WRONG;
		shared->died += result == DIED;
	}
	if (end < ENDS && ends[end])
		printf("# step %u: %s: %s\n", step, scenario->name, ends[end]);
	else if (end == END_RETURNED && (result == WRONG || result == DIED))
		printf("# step %u: %s: %s\n", step, scenario->name,
		       result == WRONG ? "wrong result" : "process died");
	if (outcome & TOLD_WARNING)
		printf("# step %u: %s: warning\n", step, scenario->name);
}

static void attempt(unsigned int step, char letter, uint64_t random)
{
	const struct scenario *scenario;
	unsigned int index = only < 0 ? random % SCENARIOS : (unsigned int)only, target;
	uint32_t outcome;

	switch (letter) {
	case 'e':
		target = TARGET_KERNEL_EVENT;
		break;
	case 'd':
		target = TARGET_DEADLY;
		break;
	default:
		target = TARGET_KERNEL_REWRITE;
		break;
	}
	while ((target != TARGET_KERNEL_EVENT && !scenarios[index].exits) || !starts[index])
		index = (index + 1) % SCENARIOS;
	scenario = &scenarios[index];
	tell_address(starts[index]);
	for (int i = 0; i < 3; i++)
		tell_address(stops[i]);
	test_out(TEST_ATTEMPT, scenario->depth | (scenario->user ? FROM_USER : 0));
	/* Here it goes on once more when the attempt is over, whatever has been done since. */
	outcome = test_in(TEST_ATTEMPT);
	if (!outcome) {
		bool good;

		test_out(TEST_STEP, target << 28 | step);
		good = scenario->run();
		test_out(TEST_ATTEMPT, RETURNED | (good ? GOOD : WRONG));
		/* Nothing leads here. */
		shared->failed++;
		_exit(3);
	}
	account(step, scenario, outcome);
}

static void worker(unsigned int end, const char *targets)
{
	take_signals();
	for (size_t i = 0; i < SCENARIOS; i++) {
		if (!scenarios[i].run() || !scenarios[i].run()) {
			printf("# %s: does not work\n", scenarios[i].name);
			_exit(4);
		}
	}
	while (shared->step < end) {
		unsigned int index = shared->step, step = listed ? list[index] : index;
		uint64_t random = mix(step * 0x9e3779b97f4a7c15);

		attempt(step, targets[(random >> 56) % strlen(targets)], random);
		shared->step = index + 1;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned int steps = 300, first = 1, tried, bad;
	const char *targets = "edr";
	bool oopses = false;
	int opt, status;
	pid_t pid;

	while ((opt = getopt(argc, argv, "n:f:s:t:c:o")) != -1) {
		switch (opt) {
		case 'n':
			steps = atoi(optarg);
			break;
		case 'f':
			first = atoi(optarg);
			break;
		case 's':
			for (char *at = optarg; *at && listed < 256; at += *at == '.')
				list[listed++] = strtoul(at, &at, 10);
			first = 0;
			steps = listed;
			break;
		case 'c':
			only = atoi(optarg) % SCENARIOS;
			break;
		case 't':
			targets = optarg;
			break;
		case 'o':
			oopses = true;
			break;
		default:
			return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	msr_fd = open("/dev/cpu/0/msr", O_RDONLY);
	cpuid_fd = open("/dev/cpu/0/cpuid", O_RDONLY);
	null_fd = open("/dev/null", O_RDWR);
	if (shared == MAP_FAILED || ioperm(TEST_STEP, 16, 1) || ioperm(TEST_TRIGGER, 1, 1) ||
	    ioperm(SCRATCH, 1, 1)) {
		perror("assault");
		return 2;
	}
	printf("KTAP version 1\n1..2\n");
	if (test_in(TEST_STEP) == 0xffffffff) {
		printf("Bail out! sevsim has no test port: run it with hostile=SEED\n");
		return 2;
	}
	find_symbols();
	if (oopses)
		stops[0] = stops[1] = 0;
	if (!find_mmio()) {
		printf("Bail out! no pci-testdev: run it with -device pci-testdev\n");
		return 2;
	}
	shared->step = first;
	pid = fork();
	if (!pid)
		worker(first + steps, targets);
	waitpid(pid, &status, 0);
	/* In an attempt the worker's death ends it, and the worker is alive again. */
	if (status)
		test_out(TEST_ATTEMPT, RETURNED | DIED);
	test_out(TEST_STEP, 0);
	tried = shared->attempts;
	bad = shared->wrong + shared->ends[END_TRIPLE] + shared->ends[END_HANG] +
	      shared->ends[END_RESET];
	printf("# %u attempts, %u events injected, %u warnings\n", tried, shared->injected,
	       shared->warned);
	printf("# %u returned (%u right, %u wrong, %u signals, %u deaths), "
	       "%u terminated, %u panics\n",
	       shared->ends[END_RETURNED], shared->good, shared->wrong, shared->signals,
	       shared->died, shared->ends[END_TERMINATED], shared->ends[END_PANIC]);
	printf("# %u oopses, %u triple faults, %u hangs, %u resets\n", shared->ends[END_OOPS],
	       shared->ends[END_TRIPLE], shared->ends[END_HANG], shared->ends[END_RESET]);
	printf("%sok 1 attempts # status %#x\n", status || tried != steps ? "not " : "", status);
	printf("%sok 2 ends # %u without a word\n", bad ? "not " : "", bad);
	return 0;
}
