/* SPDX-License-Identifier: GPL-2.0 */
/*
 * exits.h - instructions whose exits are tried with NMIs, for kernel and user mode.
 *
 * Each function executes one instruction that exits, checks its result, and returns 0 if that is
 * right. The serial port's scratch register is the device: what is written to it can be read back,
 * and nothing else uses it.
 */
#ifndef EXITS_H
#define EXITS_H

/* sevsim's test port (sevsim/host/src/vcpu/sweep.rs); its registers are four bytes wide. */
#define TEST_PLAN		0x5e0
#define TEST_BOUNDARIES		0x5e4
#define TEST_NMIS		0x5e8
#define TEST_INSTRUCTIONS	0x5ec
#define TEST_COVERED		0x5f0
#define TEST_OCCURRENCES	0x5f4
#define TEST_STORM		0x5f8
#define TEST_MERGED		0x5fc

#define PLAN_USER		(1u << 16)
#define PLAN_KERNEL		(1u << 17)
#define PLAN_STRIDE(n)		((unsigned int)(n) << 20)

#define PLAN_STATUS(word)	((word) & 0xff)	/* above it: boundaries that were skipped */

enum { PLAN_IDLE, PLAN_RUNNING, PLAN_DONE, PLAN_FAILED };

/* Exit codes. The NMI's stands for its handler. */
#define EXIT_DR7_READ		0x27
#define EXIT_DR7_WRITE		0x37
#define EXIT_NMI		0x61
#define EXIT_RDTSC		0x6e
#define EXIT_RDPMC		0x6f
#define EXIT_CPUID		0x72
#define EXIT_IOIO		0x7b
#define EXIT_MSR		0x7c
#define EXIT_VMMCALL		0x81
#define EXIT_RDTSCP		0x87
#define EXIT_WBINVD		0x89
#define EXIT_MMIO		0x400
#define BETWEEN			0xffff	/* no exit, but code between two addresses */

/* Executions after which an exit that did not come is not intercepted. */
#define MAX_TRIES		1000

#define SCRATCH_PORT		0x3ff	/* of the first serial port */
#define STRING_BYTES		100	/* more than a nested user of the GHCB moves at once */

static inline void test_out(unsigned short port, unsigned int value)
{
	asm volatile("outl %0, %1" : : "a" (value), "Nd" (port) : "memory");
}

static inline unsigned int test_in(unsigned short port)
{
	unsigned int value;

	asm volatile("inl %1, %0" : "=a" (value) : "Nd" (port) : "memory");
	return value;
}

/* The count of calls makes each value another one. */
static inline unsigned char next_byte(void)
{
	static unsigned char byte;

	return ++byte;
}

static inline void cpuid_regs(unsigned int leaf, unsigned int subleaf, unsigned int regs[4])
{
	asm volatile("cpuid" : "=a" (regs[0]), "=b" (regs[1]), "=c" (regs[2]), "=d" (regs[3])
			     : "0" (leaf), "2" (subleaf));
}

/* The hypervisor's signature: three registers that are not 0. */
static inline int exit_cpuid(void)
{
	static unsigned int expected[4];
	unsigned int regs[4];

	cpuid_regs(0x40000000, 0, regs);
	if (!expected[1])
		__builtin_memcpy(expected, regs, sizeof(regs));
	return !regs[1] || __builtin_memcmp(expected, regs, sizeof(regs));
}

/* The leaf whose handler reads XSS. */
static inline int exit_cpuid_xsave(void)
{
	static unsigned int expected[4];
	unsigned int regs[4];

	cpuid_regs(0xd, 1, regs);
	if (!expected[0])
		__builtin_memcpy(expected, regs, sizeof(regs));
	return !regs[0] || __builtin_memcmp(expected, regs, sizeof(regs));
}

static __attribute__((__noinline__)) void scratch_write(unsigned char byte)
{
	asm volatile("outb %0, %1" : : "a" (byte), "d" ((unsigned short)SCRATCH_PORT));
}

static __attribute__((__noinline__)) unsigned char scratch_read(void)
{
	unsigned char byte;

	asm volatile("inb %1, %0" : "=a" (byte) : "d" ((unsigned short)SCRATCH_PORT));
	return byte;
}

/* What IN and INS expect. They come first in their functions, and a plan counts the first exit. */
static unsigned char in_scratch;

static inline void exit_in_prepare(void)
{
	in_scratch = next_byte();
	scratch_write(in_scratch);
}

static inline int exit_in(void)
{
	int wrong = scratch_read() != in_scratch;

	exit_in_prepare();
	return wrong;
}

static inline int exit_out(void)
{
	unsigned char byte = next_byte();

	scratch_write(byte);
	return scratch_read() != byte;
}

static inline int exit_outs(void)
{
	unsigned char data[STRING_BYTES];
	unsigned long count = sizeof(data);
	const unsigned char *from = data;

	__builtin_memset(data, ~next_byte(), sizeof(data) - 1);
	data[sizeof(data) - 1] = next_byte();
	asm volatile("rep outsb" : "+S" (from), "+c" (count)
				 : "d" ((unsigned short)SCRATCH_PORT) : "memory");
	return count || from != data + sizeof(data) ||
	       scratch_read() != data[sizeof(data) - 1];
}

static inline int exit_ins(void)
{
	unsigned char data[STRING_BYTES + 1], byte = in_scratch;
	unsigned long count = STRING_BYTES;
	unsigned char *to = data;
	int wrong = 0, i;

	__builtin_memset(data, ~byte, sizeof(data));
	asm volatile("rep insb" : "+D" (to), "+c" (count)
				: "d" ((unsigned short)SCRATCH_PORT) : "memory");
	for (i = 0; i < STRING_BYTES; i++)
		wrong |= data[i] != byte;
	exit_in_prepare();
	return wrong || count || to != data + STRING_BYTES ||
	       data[STRING_BYTES] != (unsigned char)~byte;
}

static inline unsigned long long exit_tsc(void)
{
	unsigned int low, high;

	asm volatile("rdtsc" : "=a" (low), "=d" (high));
	return low | (unsigned long long)high << 32;
}

/* Time goes forward, and not by years. */
static inline int tsc_wrong(unsigned long long value)
{
	static unsigned long long last;
	int wrong = last && (value <= last || value - last > 1ull << 44);

	last = value;
	return wrong;
}

static inline int exit_rdtsc(void)
{
	return tsc_wrong(exit_tsc());
}

static inline int exit_rdtscp(void)
{
	static unsigned int expected;
	unsigned int low, high, aux;

	asm volatile("rdtscp" : "=a" (low), "=d" (high), "=c" (aux));
	if (!expected)
		expected = aux + 1;
	return tsc_wrong(low | (unsigned long long)high << 32) || aux + 1 != expected;
}

/* VMMCALL: KVM's number for a call that user mode may not make, and that the kernel may make. */
#ifdef __KERNEL__
#define VMMCALL_RESULT		0
#else
#define VMMCALL_RESULT		(-1)
#endif

static inline int exit_vmmcall(void)
{
	long result = 1;

	asm volatile("vmmcall" : "+a" (result) : "b" (0), "c" (0), "d" (0), "S" (0) : "memory");
	return result != VMMCALL_RESULT;
}

/* One NMI, here and now. */
static inline int exit_nmi(void)
{
	test_out(TEST_BOUNDARIES, 1);
	return 0;
}

#endif
