// SPDX-License-Identifier: GPL-2.0
/*
 * hostile.c - exits under a hostile host, by sevsim's test port (option hostile=SEED).
 *
 * Usage: hostile [-n STEPS] [-f FIRST] [-s STEP.STEP...] [-t TARGETS] [-d] [-j CPUS]
 *   -n STEPS    (default 3000)
 *   -f FIRST    number of the first step (default 1)
 *   -s LIST     only these steps, with dots between them
 *   -t TARGETS  letters: u replies to exits of user space, r such replies that change while they
 *               are read, e events in user space, k replies to exits of the kernel that must make
 *               no difference (default: uek)
 *   -d          the host spoils replies to the kernel as well: usually its end
 *   -j CPUS     on so many CPUs at the same time, so many steps on each (default 1); those of each
 *               further CPU begin a million later
 *
 * Each step executes one instruction, or makes the kernel execute some. Number and nature of a
 * step do not depend on what happened before, so that one step can be repeated alone. Prints KTAP.
 *
 * What the host must not reach, whatever it does: registers that the instruction does not write,
 * bits that it does not write, memory, and the instruction behind it. What may happen: the
 * instruction is executed, or a signal says that it was not, with everything as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/rtc.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "box.h"
#include "insns.h"

#define TEST_STEP	0x5c0
#define TEST_LEAKS	0x5c4
#define TEST_TRIGGER	0xee

#define DATA_SOURCE	(BOX_DATA + 0x800)
#define DATA_TARGET	(BOX_DATA + 0x1400)

#define FLAGS_FIXED	0x202UL
#define FLAGS_STATUS	0x8d5UL
#define FLAGS_RF	0x10000UL

/* Bits 31:28 of the word that arms, and of the one that says what was done. */
enum {
	TARGET_OFF, TARGET_USER, TARGET_KERNEL, TARGET_DEADLY, TARGET_EVENT,
	TARGET_REWRITE = 6, TARGETS
};
enum { EVENT_NONE, EVENT_VC, EVENT_INTERRUPT, EVENT_EXCEPTION, EVENT_NMI };

/* Replies: what may make the instruction fail or change its result. */
#define DID_HARMFUL	0x1f

#define MAX_PROBLEMS	64
#define MAX_CPUS	8
#define STEPS_OF_CPU	1000000

struct counts {
	unsigned int steps, hostile, done, signals, exits;
};

static struct shared {
	volatile unsigned int step;
	struct counts counts[TARGETS];
	unsigned int problems, deaths, hangs;
	/* One row for each kind of problem and instruction: how many, and the first one. */
	struct {
		const char *fmt, *name;
		unsigned int count;
		char first[160];
	} problem[MAX_PROBLEMS];
} *shared, *all;

/* The steps to do: those in a list, or all. */
static unsigned int list[256], listed;

static uint8_t pattern[BOX_DATA_SIZE], reference[BOX_DATA_SIZE];

static void test_out(unsigned int port, uint32_t value)
{
	asm volatile("outl %0, %w1" : : "a" (value), "d" (port));
}

static uint32_t test_in(unsigned int port)
{
	uint32_t value;

	asm volatile("inl %w1, %0" : "=a" (value) : "d" (port));
	return value;
}

static uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
	value = (value ^ value >> 27) * 0x94d049bb133111eb;
	return value ^ value >> 31;
}

/* What a port holds is everybody's: one CPU at a time compares it. */
static int ports_fd;

static void lock_ports(const struct insn *insn)
{
	if (insn->port && flock(ports_fd, LOCK_EX)) {
		perror("flock");
		exit(2);
	}
}

static __attribute__((format(printf, 3, 4)))
void problem(unsigned int step, const char *name, const char *fmt, ...)
{
	va_list args;
	int row, len;

	shared->problems++;
	for (row = 0; row < MAX_PROBLEMS && shared->problem[row].count; row++) {
		if (shared->problem[row].fmt != fmt || shared->problem[row].name != name)
			continue;
		shared->problem[row].count++;
		return;
	}
	if (row == MAX_PROBLEMS)
		return;
	shared->problem[row].fmt = fmt;
	shared->problem[row].name = name;
	shared->problem[row].count = 1;
	len = snprintf(shared->problem[row].first, sizeof(shared->problem[row].first),
		       "step %u: %s: ", step, name);
	va_start(args, fmt);
	vsnprintf(shared->problem[row].first + len, sizeof(shared->problem[row].first) - len, fmt,
		  args);
	va_end(args);
}

/* Patterns that tell where they come from if they turn up where they should not. */
static struct box_regs start_regs(const struct insn *insn, uint64_t random)
{
	struct box_regs regs = {
		.rax = 0x5ec2e75ea1a1a100 | (random & 0xff), .rbx = 0x5ec2e75eb2b2b2b2,
		.rcx = 0x5ec2e75ec3c3c3c3, .rdx = 0x5ec2e75ed4d4d4d4,
		.rsi = DATA_SOURCE, .rdi = DATA_TARGET, .rbp = 0x5ec2e75e17171717,
		.rsp = BOX_STACK + BOX_STACK_SIZE / 2, .r8 = 0x5ec2e75e08080808,
		.r9 = 0x5ec2e75e09090909, .r10 = 0x5ec2e75e10101010, .r11 = 0x5ec2e75e11111111,
		.r12 = 0x5ec2e75e12121212, .r13 = 0x5ec2e75e13131313,
		.r14 = 0x5ec2e75e14141414, .r15 = 0x5ec2e75e15151515,
		.flags = FLAGS_FIXED | (random >> 8 & FLAGS_STATUS),
	};
	/* Where a pointer leads that must not be followed in anybody's name. */
	static const uint64_t pointers[] = {
		0xffffffff81000000, 0xffff888000001000, 0xffffffffff5fd000, 0, 0x7000,
		0x5ec2e75e00000000, 0xfffffffffffffff8, BOX_DATA + BOX_DATA_SIZE - 1,
	};
	static const uint32_t leaves[] = { 0, 1, 7, 0xb, 0xd, 0x40000000, 0x80000008, 0x8000001f };

	random >>= 24;
	if (insn->port)
		regs.rdx = 0x5ec2e75ed4d40000 | insn->port;
	if (insn->rcx)
		regs.rcx = insn->rcx;
	if (insn->is_cpuid) {
		regs.rax = 0x5ec2e75e00000000 | leaves[random % 8];
		regs.rcx = 0x5ec2e75e00000000 | (random >> 4) % 3;
	}
	if (insn->pointers && (random >> 8) % 3 == 0) {
		uint64_t pointer = pointers[(random >> 12) % 8];

		if (random >> 16 & 1)
			regs.rsi = pointer;
		else
			regs.rdi = pointer;
	}
	return regs;
}

static const struct {
	const char *name;
	size_t offset;
	unsigned int bit;
} names[] = {
#define REG(name, bit) { #name, offsetof(struct box_regs, name), bit }
	REG(rax, M_AX), REG(rbx, M_BX), REG(rcx, M_CX), REG(rdx, M_DX), REG(rsi, M_SI),
	REG(rdi, M_DI), REG(rbp, 0), REG(rsp, 0), REG(r8, 0), REG(r9, 0), REG(r10, 0), REG(r11, 0),
	REG(r12, 0), REG(r13, 0), REG(r14, 0), REG(r15, 0), REG(flags, 0),
#undef REG
};

/* The first register that differs, but for those in @may; or NULL. */
static const char *differs(const struct box_regs *a, const struct box_regs *b, unsigned int may)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		uint64_t mine = *(const uint64_t *)((const char *)a + names[i].offset);
		uint64_t other = *(const uint64_t *)((const char *)b + names[i].offset);
		uint64_t ignore = names[i].offset == offsetof(struct box_regs, flags) ?
				  FLAGS_RF : 0;

		if (!(names[i].bit & may) && (mine ^ other) & ~ignore)
			return names[i].name;
	}
	return NULL;
}

/* What an executed instruction wrote is as wide as it should be. */
static const char *too_wide(const struct insn *insn, const struct box_regs *in,
			    const struct box_regs *out)
{
	if (insn->keep && (in->rax ^ out->rax) & insn->keep)
		return "bits of RAX that it does not write";
	if (insn->low && (((insn->may & M_AX) && out->rax >> 32) ||
			  ((insn->may & M_BX) && out->rbx >> 32) ||
			  ((insn->may & M_CX) && out->rcx >> 32) ||
			  ((insn->may & M_DX) && out->rdx >> 32)))
		return "upper half of a register";
	return NULL;
}

static bool data_is(const uint8_t *want, uint64_t from, uint64_t to)
{
	const uint8_t *data = (const uint8_t *)BOX_DATA;
	size_t start = from - BOX_DATA, end = to - BOX_DATA;

	return !memcmp(data, want, start) && !memcmp(data + end, want + end, BOX_DATA_SIZE - end);
}

/* String instructions: how far they came, in bytes; -1 if the registers do not agree. */
static long progress(const struct insn *insn, const struct box_regs *in,
		     const struct box_regs *out)
{
	uint64_t count = insn->rep ? in->rcx - out->rcx : 0, bytes;

	if (insn->string_out)
		bytes = out->rsi - in->rsi;
	else
		bytes = out->rdi - in->rdi;
	if (!insn->rep)
		return bytes == 0 || bytes == insn->size ? (long)bytes : -1;
	if (count > in->rcx || count * insn->size != bytes)
		return -1;
	return bytes;
}

/* Replies to an exit of user space; with TARGET_REWRITE they change while they are read. */
static void step_user(unsigned int step, uint64_t random, unsigned int target)
{
	unsigned int number = random % insn_exits;
	const struct insn *insn = &insns[number];
	struct box_regs in = start_regs(insn, random >> 8);
	struct counts *counts = &shared->counts[target];
	bool string = insn->string_out || insn->string_in;
	unsigned int may = insn->may;
	uint64_t from = DATA_TARGET, to = DATA_TARGET;
	const char *bad;
	struct box_end end;
	uint32_t done;

	/* Strings have pointers of their own; here they are good. */
	in.rsi = DATA_SOURCE;
	in.rdi = DATA_TARGET;
	test_out(TEST_STEP, target << 28 | step);
	end = box_run(number, &in);
	done = test_in(TEST_STEP);
	test_out(TEST_STEP, 0);

	counts->steps++;
	counts->hostile += !!done;
	counts->exits++;
	if (end.sig)
		counts->signals++;
	else
		counts->done++;
	if (string) {
		long bytes = progress(insn, &in, &end.regs);

		if (bytes < 0 || (!end.sig && insn->rep && end.regs.rcx))
			problem(step, insn->name,
				"RCX %#lx RSI %#lx RDI %#lx, signal %d, did %#x",
				end.regs.rcx, end.regs.rsi, end.regs.rdi, end.sig, done);
		else if (insn->string_in)
			to += bytes;
		may |= insn->string_out ? M_SI : M_DI;
		if (insn->rep)
			may |= M_CX;
	}
	if (!data_is(pattern, from, to)) {
		problem(step, insn->name, "memory changed, signal %d, did %#x", end.sig, done);
		memcpy((void *)BOX_DATA, pattern, BOX_DATA_SIZE);
	}
	if (to != from)
		memcpy((void *)from, pattern + (from - BOX_DATA), to - from);
	if (end.sig) {
		bad = differs(&in, &end.regs, string ? may : 0);
		if (!end.at_start)
			problem(step, insn->name, "signal %d somewhere else, did %#x", end.sig,
				done);
		else if (bad)
			problem(step, insn->name, "signal %d, but %s changed, did %#x", end.sig,
				bad, done);
		else if (!(done & DID_HARMFUL) && !insn->refused)
			problem(step, insn->name, "signal %d for nothing, did %#x", end.sig,
				done);
		else if (end.sig != SIGBUS && end.sig != SIGSEGV && end.sig != SIGILL)
			problem(step, insn->name, "signal %d, did %#x", end.sig, done);
		return;
	}
	if (insn->refused) {
		problem(step, insn->name, "executed, did %#x", done);
		return;
	}
	bad = differs(&in, &end.regs, may);
	if (bad)
		problem(step, insn->name, "%s changed, did %#x", bad, done);
	bad = too_wide(insn, &in, &end.regs);
	if (bad)
		problem(step, insn->name, "wrote %s, did %#x", bad, done);
}

static bool signal_fits(uint32_t done, int sig)
{
	switch (done >> 28) {
	case EVENT_VC:
		if ((done & 0xffff) == 0x41 && sig == SIGTRAP)
			return true;
		return sig == SIGBUS || sig == SIGSEGV || sig == SIGILL;
	case EVENT_EXCEPTION:
		return true;
	default:
		return false;
	}
}

/* An event before an instruction. */
static void step_event(unsigned int step, uint64_t random)
{
	unsigned int number = random % insn_count;
	const struct insn *insn = &insns[number];
	struct box_regs in = start_regs(insn, random >> 8);
	struct counts *counts = &shared->counts[TARGET_EVENT];
	struct box_end honest, end;
	bool same_data, old_data;
	const char *bad;
	uint32_t done;

	test_out(TEST_STEP, 0);
	honest = box_run(number, &in);
	memcpy(reference, (void *)BOX_DATA, BOX_DATA_SIZE);
	memcpy((void *)BOX_DATA, pattern, BOX_DATA_SIZE);
	test_out(TEST_STEP, (uint32_t)TARGET_EVENT << 28 | step);
	end = box_run(number, &in);
	done = test_in(TEST_STEP);
	test_out(TEST_STEP, 0);

	counts->steps++;
	counts->hostile += !!done;
	if (end.sig)
		counts->signals++;
	else
		counts->done++;
	same_data = !memcmp((void *)BOX_DATA, reference, BOX_DATA_SIZE);
	old_data = !memcmp((void *)BOX_DATA, pattern, BOX_DATA_SIZE);
	memcpy((void *)BOX_DATA, pattern, BOX_DATA_SIZE);
	/* As without the event. */
	if (end.sig == honest.sig && end.at_start == honest.at_start && same_data) {
		bad = differs(&honest.regs, &end.regs, insn->may);
		if (bad && end.sig)
			bad = differs(&in, &end.regs, 0);
		if (bad)
			problem(step, insn->name, "%s is another, event %#x", bad, done);
		return;
	}
	/* Harmless, and allowed to user space by some processors' settings. */
	if (!end.sig && insn->nothing && old_data && !differs(&in, &end.regs, 0))
		return;
	if (!end.sig) {
		problem(step, insn->name, "%s, event %#x",
			honest.sig ? "executed" : "memory differs", done);
		return;
	}
	/* A signal, and nothing done. */
	bad = differs(&in, &end.regs, 0);
	if (!signal_fits(done, end.sig))
		problem(step, insn->name, "signal %d, event %#x", end.sig, done);
	else if (!end.at_start)
		problem(step, insn->name, "signal %d somewhere else, event %#x", end.sig, done);
	else if (bad || !old_data)
		problem(step, insn->name, "signal %d, but %s changed, event %#x", end.sig,
			bad ?: "memory", done);
}

/* Exits of the kernel. */
static int msr_fd, cpuid_fd, rtc_fd;

/* One read is one exit, and the host attacks up to 16 exits of a step. */
#define KERNEL_READS	4

static bool read_msr(void)
{
	static uint64_t expected;
	uint64_t value;

	if (pread(msr_fd, &value, sizeof(value), 0xc0010015) != sizeof(value))
		return false;
	if (!expected)
		expected = value;
	return value == expected;
}

static bool read_cpuid(void)
{
	static uint32_t expected[4];
	uint32_t value[4];

	if (pread(cpuid_fd, value, sizeof(value), 0x40000000) != sizeof(value))
		return false;
	if (!expected[1])
		memcpy(expected, value, sizeof(value));
	return value[1] && !memcmp(value, expected, sizeof(value));
}

static bool several(bool (*one)(void))
{
	bool good = true;

	for (unsigned int i = 0; i < KERNEL_READS; i++)
		good &= one();
	return good;
}

static bool kernel_msr(void)
{
	return several(read_msr);
}

static bool kernel_cpuid(void)
{
	return several(read_cpuid);
}

static bool kernel_rtc(void)
{
	struct rtc_time time;

	return rtc_fd < 0 || (!ioctl(rtc_fd, RTC_RD_TIME, &time) && time.tm_year >= 120 &&
			      time.tm_mon < 12 && time.tm_hour < 24);
}

static bool kernel_timer(void)
{
	struct timespec time = { 0, 1000 };

	return !nanosleep(&time, NULL) || errno == EINTR;
}

static void step_kernel(unsigned int step, uint64_t random, unsigned int target)
{
	static bool (*const work[])(void) = {
		kernel_msr, kernel_cpuid, kernel_msr, kernel_cpuid, kernel_timer, kernel_rtc,
	};
	static const char *const what[] = { "MSR", "CPUID", "MSR", "CPUID", "timer", "RTC" };
	unsigned int number = random % 6;
	struct counts *counts = &shared->counts[TARGET_KERNEL];
	uint32_t done;
	bool good;

	test_out(TEST_STEP, target << 28 | step);
	good = work[number]();
	done = test_in(TEST_STEP);
	test_out(TEST_STEP, 0);
	counts->steps++;
	counts->hostile += !!done;
	counts->done += good;
	if (!good && target == TARGET_KERNEL)
		problem(step, what[number], "wrong result, did %#x", done);
}

static void allow_port(unsigned int port, unsigned int count)
{
	if (ioperm(port, count, 1)) {
		perror("ioperm");
		exit(2);
	}
}

static void worker(unsigned int end, const char *targets, bool deadly)
{
	box_open();
	ports_fd = open("/dev/null", O_RDWR);
	for (unsigned int i = 0; i < insn_count; i++)
		box_put(i, insns[i].code, insns[i].len);
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = 0xb7 + i * 13;
	memcpy((void *)BOX_DATA, pattern, sizeof(pattern));
	/* The first reads give what later ones are compared with. */
	kernel_msr();
	kernel_cpuid();
	while (shared->step < end) {
		unsigned int index = shared->step, step = listed ? list[index] : index;
		uint64_t random = mix(step * 0x9e3779b97f4a7c15);
		char target = targets[(random >> 56) % strlen(targets)];

		/* A lock goes with its process, which an attack may kill. */
		if (target != 'k')
			lock_ports(&insns[random % (target == 'e' ? insn_count : insn_exits)]);
		if (target == 'u')
			step_user(step, random, TARGET_USER);
		else if (target == 'r')
			step_user(step, random, TARGET_REWRITE);
		else if (target == 'e')
			step_event(step, random);
		else
			step_kernel(step, random, deadly ? TARGET_DEADLY : TARGET_KERNEL);
		flock(ports_fd, LOCK_UN);
		shared->step = index + 1;
	}
	_exit(0);
}

/* Runs workers until all steps are done. One that dies or hangs is replaced. */
static void run_all(unsigned int end, const char *targets, bool deadly)
{
	while (shared->step < end) {
		unsigned int last = shared->step, quiet = 0;
		bool hung = false;
		int status;
		pid_t pid = fork();

		if (!pid)
			worker(end, targets, deadly);
		while (!waitpid(pid, &status, WNOHANG)) {
			usleep(100000);
			quiet = shared->step == last ? quiet + 1 : 0;
			last = shared->step;
			if (quiet < 100)
				continue;
			hung = true;
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			break;
		}
		/* Whatever it was armed for is not meant for others. */
		test_out(TEST_STEP, 0);
		if (!hung && WIFEXITED(status) && !WEXITSTATUS(status))
			continue;
		if (hung)
			shared->hangs++;
		else
			shared->deaths++;
		problem(listed ? list[shared->step] : shared->step, "process",
			hung ? "hangs, %#x" : "died, status %#x", status);
		shared->step++;
		if (shared->deaths + shared->hangs > 20)
			return;
	}
}

/* Goes to a CPU for good: its steps, and what is read of its MSRs and CPUID. */
static void take_cpu(unsigned int cpu)
{
	char path[64];
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		perror("sched_setaffinity");
		exit(2);
	}
	shared = &all[cpu];
	snprintf(path, sizeof(path), "/dev/cpu/%u/msr", cpu);
	msr_fd = open(path, O_RDONLY);
	snprintf(path, sizeof(path), "/dev/cpu/%u/cpuid", cpu);
	cpuid_fd = open(path, O_RDONLY);
}

/* All steps on all CPUs at the same time. */
static void run_cpus(unsigned int cpus, unsigned int first, unsigned int steps,
		     const char *targets, bool deadly)
{
	int status;

	for (unsigned int cpu = cpus; cpu--; ) {
		if (cpu && fork())
			continue;
		take_cpu(cpu);
		first += cpu * STEPS_OF_CPU;
		shared->step = first;
		run_all(first + steps, targets, deadly);
		if (cpu)
			_exit(0);
	}
	while (wait(&status) > 0)
		if (status)
			problem(0, "runner", "died, status %#x", status);
}

/* What the kernel's log says of trouble; NULL if nothing. */
static const char *trouble(void)
{
	static const char *const signs[] = {
		"BUG:", "WARNING:", "Oops", "Call Trace", "general protection", "rcu: INFO",
		"soft lockup", "unable to handle", "stack guard", "double fault",
	};
	static char log[1 << 20];
	int len = klogctl(3, log, sizeof(log) - 1);

	log[len < 0 ? 0 : len] = 0;
	for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++) {
		char *at = strstr(log, signs[i]), *end;

		if (!at)
			continue;
		while (at > log && at[-1] != '\n')
			at--;
		end = strchrnul(at, '\n');
		for (int lines = 0; lines < 30 && *end; lines++)
			end = strchrnul(end + 1, '\n');
		*end = 0;
		return at;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct {
		unsigned int target;
		char letter;
		const char *name;
	} parts[] = {
		{ TARGET_USER, 'u', "user-replies" }, { TARGET_EVENT, 'e', "user-events" },
		{ TARGET_KERNEL, 'k', "kernel-replies" },
		{ TARGET_REWRITE, 'r', "user-rewrites" },
	};
	unsigned int steps = 3000, first = 1, number = 0, cpus = 1, leaks;
	unsigned int problems = 0, deaths = 0, hangs = 0;
	const char *targets = "uek", *log;
	bool deadly = false;
	int opt;

	while ((opt = getopt(argc, argv, "n:f:s:t:dj:")) != -1) {
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
		case 't':
			targets = optarg;
			break;
		case 'd':
			deadly = true;
			break;
		case 'j':
			cpus = atoi(optarg);
			break;
		default:
			return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	all = mmap(NULL, MAX_CPUS * sizeof(*all), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED || !cpus || cpus > MAX_CPUS)
		return 2;
	rtc_fd = open("/dev/rtc0", O_RDONLY);
	allow_port(TEST_STEP, 8);
	allow_port(TEST_TRIGGER, 1);
	for (unsigned int i = 0; i < insn_count; i++)
		if (insns[i].port && !insns[i].refused)
			allow_port(insns[i].port, 4);
	printf("KTAP version 1\n1..6\n");
	if (test_in(TEST_STEP) == 0xffffffff) {
		printf("Bail out! sevsim has no test port: run it with hostile=SEED\n");
		return 2;
	}
	run_cpus(cpus, first, steps, targets, deadly);
	leaks = test_in(TEST_LEAKS);
	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		const struct shared *one = &all[cpu];

		problems += one->problems;
		deaths += one->deaths;
		hangs += one->hangs;
		for (unsigned int i = 0; i < MAX_PROBLEMS && one->problem[i].count; i++)
			printf("# %u times: %s\n", one->problem[i].count, one->problem[i].first);
	}
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct counts sum = {}, *c = &sum;
		bool tried = true;

		for (unsigned int cpu = 0; cpu < cpus; cpu++) {
			const struct counts *one = &all[cpu].counts[parts[i].target];

			sum.steps += one->steps;
			sum.hostile += one->hostile;
			sum.done += one->done;
			sum.signals += one->signals;
			tried = tried && (one->hostile || deadly || listed);
		}

		if (!strchr(targets, parts[i].letter))
			printf("ok %u %s # SKIP not asked for\n", ++number, parts[i].name);
		else
			printf("%sok %u %s # %u steps, %u hostile, %u executed, %u signals\n",
			       tried ? "" : "not ", ++number, parts[i].name, c->steps, c->hostile,
			       c->done, c->signals);
	}
	printf("%sok %u results # %u wrong, %u processes died, %u hung, %u leaks seen\n",
	       problems ? "not " : "", ++number, problems, deaths, hangs, leaks);
	log = trouble();
	if (log)
		printf("# %s\n", log);
	printf("%sok %u kernel-log\n", log ? "not " : "", ++number);
	return problems || log;
}
