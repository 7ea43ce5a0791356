// SPDX-License-Identifier: GPL-2.0
/*
 * main.c - runs the checks, each in a process of its own and with a time limit.
 *
 * Usage: sev_es_check [-l] [NAME...]
 *   -l      list the tests
 *   NAME    run the tests whose name begins with NAME (default: all)
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"

#define TEST_SECONDS	40

enum { ENDED_PASS = 0, ENDED_FAIL = 77, ENDED_SKIP = 78 };

static const struct test *const groups[] = {
	cpuid_tests, tsc_tests, port_tests, string_tests, string_fault_tests, segment_tests,
	compat_tests, bytes_tests, pkey_tests, privileged_tests, trap_tests, step_tests,
	hypercall_tests, hostile_tests, kernel_tests, stress_tests, log_tests,
};

/* Shared with the tests' processes. */
static char *reason;
static const size_t reason_size = 1024;

bool guest_is_sev;
bool guest_is_sev_es;
bool handler_is_rust;
bool chosen_by_name;

static void end_with(int status, const char *fmt, va_list args)
{
	vsnprintf(reason, reason_size, fmt, args);
	fflush(stdout);
	_exit(status);
}

void fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	end_with(ENDED_FAIL, fmt, args);
	__builtin_unreachable();
}

void skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	end_with(ENDED_SKIP, fmt, args);
	__builtin_unreachable();
}

void note(const char *fmt, ...)
{
	va_list args;

	printf("# ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
}

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

bool read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t count;

	if (fd < 0)
		return false;
	count = read(fd, buf, size - 1);
	close(fd);
	if (count < 0)
		return false;
	buf[count] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return true;
}

bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool good;

	if (fd < 0)
		return false;
	good = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return good;
}

int cpu_count(void)
{
	return sysconf(_SC_NPROCESSORS_CONF);
}

bool cpu_online(int cpu)
{
	char path[80], text[16];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	/* The boot processor has no such file. */
	return !read_text(path, text, sizeof(text)) || text[0] == '1';
}

bool pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static int complaints(void)
{
	char *log = read_kernel_log();
	int count = count_complaints(log, false);

	free(log);
	return count;
}

static void run_test(const struct test *test)
{
	static int complained;
	struct sigaction action = { .sa_handler = on_alarm };
	double start = now();
	int status = 0;
	pid_t pid;

	reason[0] = 0;
	fflush(stdout);
	pid = fork();
	if (!pid) {
		/* A group of its own, so that nothing of it stays. */
		setpgid(0, 0);
		test->run();
		fflush(stdout);
		_exit(ENDED_PASS);
	}
	setpgid(pid, pid);
	sigaction(SIGALRM, &action, NULL);
	alarm(TEST_SECONDS);
	if (waitpid(pid, &status, 0) < 0) {
		kill(-pid, SIGKILL);
		waitpid(pid, &status, 0);
		snprintf(reason, reason_size, "did not end within %d s", TEST_SECONDS);
	}
	alarm(0);
	kill(-pid, SIGKILL);

	/* The last test fails for these; here is told where they came from. */
	if (complaints() > complained) {
		complained = complaints();
		ksft_print_msg("the kernel complained during or before %s\n", test->name);
	}
	if (now() - start > 2)
		ksft_print_msg("%s took %.1f s\n", test->name, now() - start);
	if (WIFEXITED(status) && WEXITSTATUS(status) == ENDED_PASS)
		ksft_test_result_pass("%s\n", test->name);
	else if (WIFEXITED(status) && WEXITSTATUS(status) == ENDED_SKIP)
		ksft_test_result_skip("%s %s\n", test->name, reason);
	else if (WIFEXITED(status) && WEXITSTATUS(status) == ENDED_FAIL)
		ksft_test_result_fail("%s %s\n", test->name, reason);
	else
		ksft_test_result_fail("%s ended with status %#x %s\n", test->name, status, reason);
}

static bool wanted(const struct test *test, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strncmp(test->name, argv[i], strlen(argv[i])))
			return true;
	}
	return !argc;
}

int main(int argc, char **argv)
{
	bool list = argc > 1 && !strcmp(argv[1], "-l");
	unsigned int count = 0;
	char *log;

	if (argc > 1 && argv[1][0] == '-' && !list) {
		printf("Usage: sev_es_check [-l] [NAME...]\n"
		       "Check what user space sees of the exits of a SEV-ES guest, as KTAP.\n"
		       "  -l      list the tests\n"
		       "  NAME    run the tests whose name begins with NAME (default: all)\n");
		return strcmp(argv[1], "-h") ? 2 : 0;
	}
	reason = mmap(NULL, reason_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	log = read_kernel_log();
	guest_is_sev = strstr(log, "Memory Encryption Features active: AMD SEV");
	guest_is_sev_es = strstr(log, "Memory Encryption Features active: AMD SEV SEV-ES");
	handler_is_rust = strstr(log, "SEV-ES: #VC handler: Rust");
	free(log);
	chosen_by_name = argc > 1;

	for (size_t g = 0; g < ARRAY_SIZE(groups); g++) {
		for (const struct test *test = groups[g]; test->name; test++) {
			if (list)
				printf("%s\n", test->name);
			else
				count += wanted(test, argc - 1, argv + 1);
		}
	}
	if (list)
		return 0;
	ksft_print_header();
	ksft_print_msg("guest: %s, %d processors\n", guest_is_sev_es ? "SEV-ES" :
		       guest_is_sev ? "SEV" : "not encrypted", cpu_count());
	ksft_set_plan(count);
	for (size_t g = 0; g < ARRAY_SIZE(groups); g++) {
		for (const struct test *test = groups[g]; test->name; test++) {
			if (wanted(test, argc - 1, argv + 1))
				run_test(test);
		}
	}
	ksft_finished();
}
