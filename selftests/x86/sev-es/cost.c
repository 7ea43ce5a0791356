// SPDX-License-Identifier: GPL-2.0
/*
 * cost.c - what exits of an SEV-ES guest cost, in instructions: those of user space, and with the
 * module cost/sev_es_cost.ko as argument those of the kernel. See cost/cost.h for what is measured.
 *
 * This is no test; it prints numbers, a line each: where, name, instructions.
 */
#include <fcntl.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cost/cost.h"

#define SCRATCH		0x3ff
#define DATA_SIZE	4096
#define RESULTS		"/sys/module/sev_es_cost/parameters/results"

static alignas(4096) uint8_t data[DATA_SIZE];
static unsigned long empty;

#define LEAST(insn, ...) ({						\
	const struct cost_regs regs = { __VA_ARGS__ };			\
									\
	COST_LEAST(insn, regs, (void)0, (void)0);			\
})

#define COST(name, insn, ...)						\
	printf("sev-es-cost: user %s %ld\n", name, (long)(LEAST(insn, __VA_ARGS__) - empty))

static void measure(void)
{
	const unsigned long address = (unsigned long)data;

	empty = LEAST("");
	COST("cpuid", "cpuid", .ax = 1);
	COST("rdtsc", "rdtsc");
	COST("rdtscp", "rdtscp");
	COST("vmmcall", "vmmcall", .ax = 1);
	if (ioperm(SCRATCH, 1, 1)) {
		perror("ioperm");
		exit(1);
	}
	/* With access to ports each return to user mode costs more. */
	empty = LEAST("");
	COST("in-1", "inb (%%dx), %%al", .dx = SCRATCH);
	COST("out-1", "outb %%al, (%%dx)", .dx = SCRATCH);
	COST("ins-1", "insb", .dx = SCRATCH, .di = address);
	COST("outs-1", "outsb", .dx = SCRATCH, .si = address);
	COST("rep-ins-4k", "rep insb", .dx = SCRATCH, .di = address, .cx = DATA_SIZE);
	COST("rep-outs-4k", "rep outsb", .dx = SCRATCH, .si = address, .cx = DATA_SIZE);
}

/* The kernel does not export it, and has no other use for it in a module. */
static unsigned long address_of(const char *wanted)
{
	char line[512], name[256];
	unsigned long address = 0;
	FILE *file = fopen("/proc/kallsyms", "r");

	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx %*c %255s", &address, name) == 2 && !strcmp(name, wanted))
			break;
		address = 0;
	}
	fclose(file);
	return address;
}

static void measure_kernel(const char *module)
{
	char words[64], line[128];
	FILE *results;
	int fd = open(module, O_RDONLY | O_CLOEXEC);

	snprintf(words, sizeof(words), "nmi_complete=%#lx", address_of("__sev_es_nmi_complete"));
	if (fd < 0 || syscall(SYS_finit_module, fd, words, 0)) {
		perror(module);
		exit(1);
	}
	close(fd);
	results = fopen(RESULTS, "r");
	if (!results) {
		perror(RESULTS);
		exit(1);
	}
	while (fgets(line, sizeof(line), results)) {
		if (line[0] != '\n')
			printf("sev-es-cost: kernel %s", line);
	}
	fclose(results);
}

int main(int argc, char **argv)
{
	measure();
	if (argc > 1)
		measure_kernel(argv[1]);
	printf("sev-es-cost: done\n");
	return 0;
}
