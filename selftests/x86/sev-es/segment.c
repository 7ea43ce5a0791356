// SPDX-License-Identifier: GPL-2.0
/*
 * segment.c - instructions that exit in 32-bit and 16-bit code, with segments of a program's own
 * making (the LDT): bases, limits and rights count, and finding them out must not sleep.
 */
#include <asm/ldt.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "io.h"

#define FLAT_DATA	0x2b

/* Entries of the box's LDT. */
enum { CODE_32 = 1, CODE_16, DATA, READ_ONLY, DOWN };

#define SELECTOR(entry)	((entry) << 3 | 7)

/* Offset and size of the segment DATA in the data of the box. */
#define DATA_START	0x100
#define DATA_SIZE	0x80

static int set_entry(int entry, unsigned long base, unsigned int limit, unsigned int contents,
		     bool big, bool read_only)
{
	struct user_desc desc = {
		.entry_number = entry,
		.base_addr = base,
		.limit = limit,
		.seg_32bit = big,
		.contents = contents,
		.read_exec_only = read_only,
	};

	return syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc));
}

static int set_entries(void)
{
	return set_entry(CODE_32, BOX_CODE, BOX_CODE_SIZE - 1, MODIFY_LDT_CONTENTS_CODE, true,
			 false) ||
	       set_entry(CODE_16, BOX_CODE, BOX_CODE_SIZE - 1, MODIFY_LDT_CONTENTS_CODE, false,
			 false) ||
	       set_entry(DATA, BOX_DATA + DATA_START, DATA_SIZE - 1, MODIFY_LDT_CONTENTS_DATA,
			 true, false) ||
	       set_entry(READ_ONLY, BOX_DATA + DATA_START, DATA_SIZE - 1,
			 MODIFY_LDT_CONTENTS_DATA, true, true) ||
	       set_entry(DOWN, BOX_DATA, DATA_START - 1, MODIFY_LDT_CONTENTS_STACK, true, false);
}

static void prepare(void)
{
	allow_ports();
	if (set_entries()) {
		perror("modify_ldt");
		_exit(1);
	}
}

static void open_with(struct box *box, void (*how)(void))
{
	char none;

	/* Reads nothing. */
	if (syscall(SYS_modify_ldt, 0, &none, 0) < 0)
		skip("no modify_ldt()");
	box_open(box, how);
	box->code_base = BOX_CODE;
	box->code = 64;
	mark_data();
}

/* Registers for code in a segment of the LDT. The upper halves mean nothing there. */
static struct user_regs_struct segment_regs(const struct box *box, int entry, uint16_t port)
{
	struct user_regs_struct regs = box_regs(box);

	regs.rax = 0xa1a1a1a1;
	regs.rbx = 0xb2b2b2b2;
	regs.rcx = 0;
	regs.rdx = 0xd4d40000 | port;
	regs.rsi = 0;
	regs.rdi = 0;
	regs.rbp = 0x17171717;
	regs.cs = SELECTOR(entry);
	regs.ds = FLAT_DATA;
	regs.es = FLAT_DATA;
	return regs;
}

static void set_scratch(struct box *box, uint8_t value)
{
	struct user_regs_struct regs = segment_regs(box, CODE_32, SCRATCH);

	regs.rax = value;
	DONE("out dx, al", box, &regs, 0, 0xee);
}

static void expect_scratch(struct box *box, uint8_t value)
{
	struct user_regs_struct regs = segment_regs(box, CODE_32, SCRATCH);
	struct outcome out;

	out = DONE("in al, dx", box, &regs, R_AX, 0xec);
	CHECK((out.regs.rax & 0xff) == value, "scratch register is %#x instead of %#x",
	      (uint8_t)out.regs.rax, value);
}

static void check_cpuid(struct box *box, int entry)
{
	struct user_regs_struct regs = segment_regs(box, entry, 0);
	struct leaf want = cpuid(0, 0);
	struct outcome out;

	regs.rax = 0;
	out = DONE("cpuid", box, &regs, R_AX | R_BX | R_CX | R_DX, 0x0f, 0xa2);
	CHECK(out.regs.rax == want.a && out.regs.rbx == want.b && out.regs.rcx == want.c &&
	      out.regs.rdx == want.d, "leaf 0 is %#llx %#llx %#llx %#llx",
	      out.regs.rax, out.regs.rbx, out.regs.rcx, out.regs.rdx);
	DONE("rdtsc", box, &regs, R_AX | R_DX, 0x0f, 0x31);
}

static void ldt_code_32(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	open_with(&box, prepare);
	check_cpuid(&box, CODE_32);
	set_scratch(&box, 0x5a);
	expect_scratch(&box, 0x5a);
	/* INC in 32-bit code is a REX prefix in 64-bit code: the code segment tells. */
	regs = segment_regs(&box, CODE_32, SCRATCH);
	out = DONE("inc eax; in al, dx", &box, &regs, R_AX | R_FLAGS, 0x40, 0xec);
	CHECK((out.regs.rax & 0xff) == 0x5a, "read %#x", (uint8_t)out.regs.rax);
	regs = segment_regs(&box, CODE_32, PCI_ADDRESS);
	regs.rax = 0x80000004;
	DONE("out dx, eax", &box, &regs, 0, 0xef);
	regs.rax = 0;
	out = DONE("in eax, dx", &box, &regs, R_AX, 0xed);
	CHECK(out.regs.rax == 0x80000004, "wrote 0x80000004, read %#llx", out.regs.rax);
	box_close(&box);
}

/* Without a prefix operands are 16 bits wide, with it 32. */
static void ldt_code_16(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	open_with(&box, prepare);
	check_cpuid(&box, CODE_16);
	regs = segment_regs(&box, CODE_16, PCI_ADDRESS);
	regs.rax = 0x80000008;
	DONE("out dx, eax", &box, &regs, 0, 0x66, 0xef);
	regs.rax = 0;
	out = DONE("in eax, dx", &box, &regs, R_AX, 0x66, 0xed);
	CHECK(out.regs.rax == 0x80000008, "wrote 0x80000008, read %#llx", out.regs.rax);
	out = DONE("in ax, dx", &box, &regs, R_AX, 0xed);
	CHECK(out.regs.rax == (out.regs.rax & 0xffff), "in ax wrote more than 16 bits: %#llx",
	      out.regs.rax);
	box_close(&box);
}

/* INS writes at the base of ES, OUTS reads at that of DS, or of the segment in the prefix. */
static void ldt_ins(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	open_with(&box, prepare);
	set_scratch(&box, 0x42);
	regs = segment_regs(&box, CODE_32, SCRATCH);
	regs.es = SELECTOR(DATA);
	regs.rdi = DATA_SIZE - 4;
	regs.rcx = 4;
	out = DONE("rep insb", &box, &regs, R_CX | R_DI, 0xf3, 0x6c);
	CHECK(out.regs.rcx == 0 && out.regs.rdi == DATA_SIZE, "RCX %#llx, RDI %#llx",
	      out.regs.rcx, out.regs.rdi);
	for (int i = 1; i <= 4; i++)
		CHECK(box_data[DATA_START + DATA_SIZE - i] == 0x42, "byte %d from the end", i);
	expect_marks(0, DATA_START + DATA_SIZE - 4);
	expect_marks(DATA_START + DATA_SIZE, 2 * BOX_PAGE);
	box_close(&box);
}

static void ldt_outs(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	open_with(&box, prepare);
	regs = segment_regs(&box, CODE_32, SCRATCH);
	regs.ds = SELECTOR(READ_ONLY);
	regs.rcx = 3;
	regs.rsi = 0x10;
	memcpy(box_data + DATA_START + 0x10, "\x11\x22\x33", 3);
	out = DONE("rep outsb", &box, &regs, R_CX | R_SI, 0xf3, 0x6e);
	CHECK(out.regs.rcx == 0 && out.regs.rsi == 0x13, "RCX %#llx, RSI %#llx", out.regs.rcx,
	      out.regs.rsi);
	expect_scratch(&box, 0x33);
	/* The code segment is readable: its own first byte, the prefix. */
	regs.rsi = box.code;
	DONE("cs outsb", &box, &regs, R_SI, 0x2e, 0x6e);
	expect_scratch(&box, 0x2e);
	box_close(&box);
}

/* 16-bit code counts and addresses by the lower 16 bits, the rest of the registers stays. */
static void ldt_string_16(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	open_with(&box, prepare);
	set_scratch(&box, 0x77);
	regs = segment_regs(&box, CODE_16, SCRATCH);
	regs.es = SELECTOR(DATA);
	regs.rdi = 0x55550020;
	regs.rcx = 0x66660002;
	out = DONE("rep insb", &box, &regs, R_CX | R_DI, 0xf3, 0x6c);
	CHECK(out.regs.rcx == 0x66660000 && out.regs.rdi == 0x55550022, "RCX %#llx, RDI %#llx",
	      out.regs.rcx, out.regs.rdi);
	CHECK(box_data[DATA_START + 0x20] == 0x77 && box_data[DATA_START + 0x21] == 0x77,
	      "nothing was read");
	expect_marks(0, DATA_START + 0x20);
	expect_marks(DATA_START + 0x22, BOX_PAGE);
	box_close(&box);
}

static void refused(struct box *box, const char *what, const struct user_regs_struct *regs,
		    uint8_t opcode)
{
	struct outcome out = box_run(box, &opcode, 1, regs);

	expect_signal(what, &out, box, SIGSEGV, SI_KERNEL, regs, 0);
	expect_marks(0, BOX_PAGE);
}

/* Limits and rights of segments hold for the operands of INS and OUTS. */
static void ldt_limits(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	open_with(&box, prepare);
	if (!guest_is_sev_es) {
		/* mov al, [edi] does not exit. QEMU knows no limits. */
		regs = segment_regs(&box, CODE_32, SCRATCH);
		regs.ds = SELECTOR(DATA);
		regs.rdi = DATA_SIZE;
		out = RUN(&box, &regs, 0x8a, 0x07);
		if (out.sig == SIGTRAP)
			skip("the processor does not check limits");
	}
	regs = segment_regs(&box, CODE_32, SCRATCH);
	regs.ds = SELECTOR(DATA);
	regs.es = SELECTOR(DATA);
	regs.rsi = DATA_SIZE;
	regs.rdi = DATA_SIZE;
	refused(&box, "insb behind the limit", &regs, 0x6c);
	refused(&box, "outsb behind the limit", &regs, 0x6e);
	regs.rsi = -1U;
	regs.rdi = -1U;
	refused(&box, "insb before the base", &regs, 0x6c);
	refused(&box, "outsb before the base", &regs, 0x6e);
	regs.rdi = 0;
	regs.es = SELECTOR(READ_ONLY);
	refused(&box, "insb to a read-only segment", &regs, 0x6c);
	regs.es = SELECTOR(DOWN);
	regs.rdi = DATA_START - 1;
	refused(&box, "insb below the limit of an expand-down segment", &regs, 0x6c);
	regs.rdi = DATA_START;
	DONE("insb above the limit", &box, &regs, R_DI, 0x6c);
	expect_marks(0, DATA_START);
	expect_marks(DATA_START + 1, BOX_PAGE);
	box_close(&box);
}

static void *change_ldt(void *unused)
{
	(void)unused;
	for (;;)
		set_entries();
	return NULL;
}

static void prepare_changes(void)
{
	pthread_t thread;

	prepare();
	if (pthread_create(&thread, NULL, change_ldt, NULL))
		_exit(1);
}

/*
 * Another thread of the program replaces its LDT all the time, by the same one. It holds the lock
 * of the LDT while it waits for the other processors to take an interrupt: a handler that waits for
 * the lock with interrupts off never ends, and takes the whole guest with it.
 */
static void ldt_changes(void)
{
	/* again: xor eax, eax; xor ecx, ecx; cpuid; insb; dec edi; dec esi; jnz again */
	static const uint8_t code[] = {
		0x31, 0xc0, 0x31, 0xc9, 0x0f, 0xa2, 0x66, 0xba, SCRATCH & 0xff, SCRATCH >> 8,
		0x6c, 0x4f, 0x4e, 0x75, 0xf1,
	};
	struct user_regs_struct regs;
	struct leaf want = cpuid(0, 0);
	struct outcome out;
	struct box box;

	if (guest_is_sev_es && !handler_is_rust && !chosen_by_name)
		skip("hangs a guest whose exits are handled in C");
	open_with(&box, prepare_changes);
	set_scratch(&box, 0x33);
	for (int i = 0; i < 10; i++) {
		regs = segment_regs(&box, CODE_32, SCRATCH);
		regs.es = SELECTOR(DATA);
		regs.rdi = i;
		regs.rsi = 200;
		out = box_run(&box, code, sizeof(code), &regs);
		expect_done("the loop", &out, &box, sizeof(code), &regs,
			    R_AX | R_BX | R_CX | R_DX | R_SI | R_FLAGS);
		CHECK(out.regs.rax == want.a && out.regs.rbx == want.b &&
		      out.regs.rcx == want.c && out.regs.rsi == 0, "wrong results");
		CHECK(box_data[DATA_START + i] == 0x33, "nothing was read");
	}
	expect_marks(0, DATA_START);
	expect_marks(DATA_START + 10, BOX_PAGE);
	box_close(&box);
}

/*
 * The handler of an exit runs with interrupts off, so it must not take the lock of the LDT, a
 * mutex. A kernel with DEBUG_ATOMIC_SLEEP tells.
 */
static void ldt_does_not_sleep(void)
{
	struct user_regs_struct regs;
	struct box box;
	char *log;
	int before;

	open_with(&box, prepare);
	/* The kernel complains once a second at most. */
	sleep(2);
	log = read_kernel_log();
	before = count_complaints(log, false);
	regs = segment_regs(&box, CODE_32, SCRATCH);
	regs.rax = 0;
	RUN(&box, &regs, 0x0f, 0xa2);
	regs.ds = SELECTOR(DATA);
	regs.es = SELECTOR(DATA);
	RUN(&box, &regs, 0x6c);
	RUN(&box, &regs, 0x6e);
	log = read_kernel_log();
	CHECK(count_complaints(log, false) == before, "the kernel complains");
	box_close(&box);
}

const struct test segment_tests[] = {
	{ "ldt_code_32", ldt_code_32 },
	{ "ldt_code_16", ldt_code_16 },
	{ "ldt_ins", ldt_ins },
	{ "ldt_outs", ldt_outs },
	{ "ldt_string_16", ldt_string_16 },
	{ "ldt_limits", ldt_limits },
	{ "ldt_changes", ldt_changes },
	{ "ldt_does_not_sleep", ldt_does_not_sleep },
	{ }
};
