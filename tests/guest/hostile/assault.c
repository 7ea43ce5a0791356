// SPDX-License-Identifier: GPL-2.0
/*
 * assault.c - attacks on the kernel, by sevsim's test port (option hostile=SEED): most of them end
 * the guest, so each one is an attempt, after which sevsim puts the guest back to where it began.
 *
 * Usage: assault [-n STEPS] [-f FIRST] [-s STEP.STEP...] [-c NUMBER] [-t TARGETS] [-o]
 *        assault -x [-s STEP.STEP...] [-c NUMBER] [-o]
 *   -n STEPS    (default 300)
 *   -x          a sweep: each event of a table at each instruction of the kernel's entry code (a
 *               step's number says which); with -s those steps of it, with -c one operation
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
	unsigned int attempts, injected, missed, warned, ends[ENDS];
	unsigned int good, wrong, signals, died, failed;
} *shared;

static unsigned int list[256], listed;
static int only = -1;
static bool sweep;
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

static const char vc_entry[] = "asm_exc_vmm_communication";

static const struct scenario {
	const char *name, *start;
	bool (*run)(void);
	unsigned int depth;
	bool exits;			/* exits of the kernel itself */
	bool user;			/* begins with an exception of user space */
	unsigned int entry;		/* instructions that are swept */
	unsigned int before;		/* after so many an NMI comes, whose entry is swept */
} scenarios[] = {
	{ "syscall", "entry_SYSCALL_64", do_getppid, 250, .entry = 60 },
	{ "syscall, return", "entry_SYSRETQ_unsafe_stack", do_getppid, 12, .entry = 12 },
	{ "syscall, C", "do_syscall_64", do_write, 500, .entry = 0 },
	{ "cpuid of user space", vc_entry, do_user_cpuid, 900, .user = true, .entry = 100 },
	{ "port of user space", vc_entry, do_user_port, 900, .user = true },
	{ "RDMSR", vc_entry, do_msr, 900, .exits = true, .entry = 120 },
	{ "CPUID", vc_entry, do_cpuid, 900, .exits = true },
	{ "MMIO, read", vc_entry, do_mmio_read, 1500, .exits = true },
	{ "MMIO, write", vc_entry, do_mmio_write, 1500, .exits = true },
	{ "page fault", "asm_exc_page_fault", do_fault, 1500, .entry = 60 },
	{ "NMI", "asm_exc_nmi", do_nmi, 900, .entry = 240 },
	{ "timer", "asm_sysvec_apic_timer_interrupt", do_timer, 900, .exits = true, .entry = 60 },
	{ "NMI in #VC", vc_entry, do_msr, 900, .exits = true, .entry = 100, .before = 10 },
};

#define SCENARIOS	(sizeof(scenarios) / sizeof(scenarios[0]))
/* Those without an NMI, for attacks at random. */
#define RANDOM		(SCENARIOS - 1)

/*
 * Events of a sweep, as the test port takes them: those that the kernel may return from. The last
 * one, an NMI, is not for the entry of an NMI that came out of turn.
 */
#define VC(code)		(0x101d0000U | (code))
#define INTERRUPT(vector)	(0x20000000U | (vector) << 16)
#define EXCEPTION(vector, error) (0x30000000U | (vector) << 16 | (error))
#define NMI			0x40020000U
#define RAW_NMI			0x50020000U

static const uint32_t events[] = {
	VC(0x72), VC(0x400), VC(0x41), EXCEPTION(1, 0), EXCEPTION(14, 0), INTERRUPT(0x80),
	INTERRUPT(0xec), NMI,
};

#define EVENTS		(sizeof(events) / sizeof(events[0]))

/* A step's number in a sweep: operation, instruction, event. */
#define SWEEP_STEP(operation, boundary, event)	((operation) << 20 | (boundary) << 8 | (event))
#define OPERATION(step)	((step) >> 20)
#define BOUNDARY(step)	((step) >> 8 & 0xfff)
#define EVENT(step)	((step) & 0xff)

/* Where sevsim stops: beginning of the attack, panic, oops, warning. */
static uint64_t starts[SCENARIOS], stops[3], nmi_entry;

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
		if (!strcmp(name, "asm_exc_nmi"))
			nmi_entry = address;
	}
	if (file)
		fclose(file);
	for (size_t i = 0; i < SCENARIOS; i++)
		if (!starts[i])
			printf("# no symbol %s\n", scenarios[i].start);
	if (!stops[0] || !stops[1] || !stops[2] || !nmi_entry) {
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

/* False if the operation was over before the event was due. */
static bool attempt(unsigned int step, char letter, uint64_t random)
{
	const struct scenario *scenario;
	unsigned int index = only < 0 ? random % RANDOM : (unsigned int)only, target, depth;
	uint32_t outcome;

	if (sweep) {
		index = OPERATION(step);
		letter = 'e';
		if (!starts[index]) {
			printf("# %s: no symbol\n", scenarios[index].name);
			_exit(5);
		}
	}
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
		index = (index + 1) % RANDOM;
	scenario = &scenarios[index];
	tell_address(starts[index]);
	for (int i = 0; i < 3; i++)
		tell_address(stops[i]);
	depth = scenario->depth;
	if (sweep && scenario->before) {
		test_out(TEST_ADDRESS, RAW_NMI);
		tell_address(nmi_entry);
		test_out(TEST_ADDRESS, BOUNDARY(step));
		test_out(TEST_ADDRESS, events[EVENT(step)]);
		depth = scenario->before;
	} else if (sweep) {
		test_out(TEST_ADDRESS, events[EVENT(step)]);
		depth = BOUNDARY(step);
	}
	test_out(TEST_ATTEMPT, depth | (scenario->user ? FROM_USER : 0));
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
	return outcome & TOLD_INJECTED;
}

/*
 * Steps of a sweep: the next one. An operation is over where no event finds its instruction any
 * more; a single one may have come too late, as an interrupt does that arrives in an idle CPU.
 */
static unsigned int next_step(unsigned int step, bool injected)
{
	unsigned int operation = OPERATION(step), boundary = BOUNDARY(step);
	unsigned int event = EVENT(step) + 1;
	bool over = false;

	shared->missed = injected ? 0 : shared->missed + 1;
	if (event >= EVENTS - !!scenarios[operation].before) {
		over = shared->missed >= event;
		event = 0;
		boundary++;
	}
	if (over || boundary >= scenarios[operation].entry) {
		boundary = event = shared->missed = 0;
		do
			operation = only < 0 ? operation + 1 : SCENARIOS;
		while (operation < SCENARIOS && !scenarios[operation].entry);
	}
	return SWEEP_STEP(operation, boundary, event);
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
	if (sweep && !listed) {
		while (OPERATION(shared->step) < SCENARIOS) {
			unsigned int step = shared->step;

			shared->step = next_step(step, attempt(step, 'e', 0));
		}
		_exit(0);
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

	while ((opt = getopt(argc, argv, "n:xf:s:t:c:o")) != -1) {
		switch (opt) {
		case 'n':
			steps = atoi(optarg);
			break;
		case 'x':
			sweep = true;
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
	for (unsigned int i = 0; sweep && i < listed; i++) {
		if (OPERATION(list[i]) >= SCENARIOS || EVENT(list[i]) >= EVENTS) {
			fprintf(stderr, "assault: no step %u in a sweep\n", list[i]);
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
	if (sweep && !listed) {
		first = only < 0 ? 0 : SWEEP_STEP((unsigned int)only, 0, 0);
		steps = 0;
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
	if (!steps)
		steps = tried;
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
