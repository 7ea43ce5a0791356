// SPDX-License-Identifier: GPL-2.0
/*
 * compat.c - instructions that exit in 32-bit code with the kernel's own flat segments, as in a
 * 32-bit process.
 */
#include <string.h>

#include "check.h"
#include "io.h"

/* __USER32_CS and __USER_DS. */
#define CODE_32		0x23
#define FLAT_DATA	0x2b

/* Registers for 32-bit code, which has no upper halves. */
static struct user_regs_struct compat_regs(const struct box *box, uint16_t port, uint32_t count)
{
	struct user_regs_struct regs = string_regs(box, port, count);

	regs.rax = 0xa1a1a1a1;
	regs.rbx = 0xb2b2b2b2;
	regs.rdx = 0xd4d40000 | port;
	regs.rbp = 0x17171717;
	regs.cs = CODE_32;
	regs.ss = FLAT_DATA;
	regs.ds = FLAT_DATA;
	regs.es = FLAT_DATA;
	return regs;
}

static void compat_cpuid(void)
{
	struct user_regs_struct regs;
	struct leaf want = cpuid(0, 0);
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	regs = compat_regs(&box, 0, 0);
	regs.rax = 0;
	out = DONE("cpuid", &box, &regs, R_AX | R_BX | R_CX | R_DX, 0x0f, 0xa2);
	CHECK(out.regs.rax == want.a && out.regs.rbx == want.b && out.regs.rcx == want.c &&
	      out.regs.rdx == want.d, "leaf 0 gives EAX %#llx", out.regs.rax);
	DONE("rdtsc", &box, &regs, R_AX | R_DX, 0x0f, 0x31);
	/* INC EAX and not a prefix. */
	regs.rax = -1U;
	out = DONE("inc eax; cpuid", &box, &regs, R_AX | R_BX | R_CX | R_DX | R_FLAGS,
		   0x40, 0x0f, 0xa2);
	CHECK(out.regs.rax == want.a, "leaf 0 gives EAX %#llx", out.regs.rax);
	box_close(&box);
}

static void compat_ports(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	regs = compat_regs(&box, PCI_ADDRESS, 0);
	regs.rax = 0x80000010;
	DONE("out dx, eax", &box, &regs, 0, 0xef);
	regs.rax = 0;
	out = DONE("in eax, dx", &box, &regs, R_AX, 0xed);
	CHECK(out.regs.rax == 0x80000010, "wrote 0x80000010, read %#llx", out.regs.rax);
	regs = compat_regs(&box, 0x21, 0);
	SIGNALS("in al, dx, not allowed", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0xec);
	box_close(&box);
}

static void compat_strings(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	mark_data();
	memcpy(box_data, "\x21\x22\x23", 3);
	regs = compat_regs(&box, SCRATCH, 3);
	out = DONE("rep outsb", &box, &regs, R_SI | R_CX, 0xf3, 0x6e);
	CHECK(out.regs.rsi == BOX_DATA + 3 && !out.regs.rcx, "ESI %#llx, ECX %#llx", out.regs.rsi,
	      out.regs.rcx);
	CHECK(box_in8(&box, SCRATCH) == 0x23, "wrote something else");
	regs = compat_regs(&box, SCRATCH, 4);
	regs.rdi = BOX_DATA + 0x20;
	out = DONE("rep insb", &box, &regs, R_DI | R_CX, 0xf3, 0x6c);
	CHECK(out.regs.rdi == BOX_DATA + 0x24 && !out.regs.rcx, "EDI %#llx, ECX %#llx",
	      out.regs.rdi, out.regs.rcx);
	for (int i = 0; i < 4; i++)
		CHECK(box_data[0x20 + i] == 0x23, "byte %d is %#x", i, box_data[0x20 + i]);
	expect_marks(0x24, 0x40);
	/* The address size prefix makes 16 bits of it: what is there is not mapped. */
	regs = compat_regs(&box, SCRATCH, 1);
	regs.rdi = BOX_DATA + 0x30;
	out = SIGNALS("a16 insb", &box, &regs, SIGSEGV, SEGV_MAPERR, 0, 0x67, 0x6c);
	CHECK(out.info.si_addr == (void *)0x30, "fault at %p", out.info.si_addr);
	box_close(&box);
}

/* What is not mapped, below 4 GiB and at its end: the signal has the address. */
static void compat_faults(void)
{
	static const uint32_t holes[] = { 0x10, BOX_DATA + BOX_DATA_SIZE + 5, 0xfffffff0 };
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	for (size_t i = 0; i < ARRAY_SIZE(holes); i++) {
		regs = compat_regs(&box, SCRATCH, 1);
		regs.rdi = holes[i];
		regs.rsi = holes[i];
		out = SIGNALS("insb", &box, &regs, SIGSEGV, SEGV_MAPERR, 0, 0x6c);
		CHECK(out.info.si_addr == (void *)(uint64_t)holes[i], "fault at %p",
		      out.info.si_addr);
		out = SIGNALS("rep outsb", &box, &regs, SIGSEGV, SEGV_MAPERR, 0, 0xf3, 0x6e);
		CHECK(out.info.si_addr == (void *)(uint64_t)holes[i], "fault at %p",
		      out.info.si_addr);
	}
	box_close(&box);
}

static void compat_step(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	box.step = true;
	regs = compat_regs(&box, SCRATCH, 2);
	regs.rax = 0;
	DONE("cpuid", &box, &regs, R_AX | R_BX | R_CX | R_DX, 0x0f, 0xa2);
	DONE("out dx, al", &box, &regs, 0, 0xee);
	out = RUN(&box, &regs, 0xf3, 0x6c);
	CHECK(out.sig == SIGTRAP && out.regs.rip == box.code && out.regs.rcx == 1,
	      "rep insb: signal %d, EIP + %lld, ECX %lld", out.sig,
	      (long long)(out.regs.rip - box.code), (long long)out.regs.rcx);
	box_close(&box);
}

const struct test compat_tests[] = {
	{ "compat_cpuid", compat_cpuid },
	{ "compat_ports", compat_ports },
	{ "compat_strings", compat_strings },
	{ "compat_faults", compat_faults },
	{ "compat_step", compat_step },
	{ }
};
