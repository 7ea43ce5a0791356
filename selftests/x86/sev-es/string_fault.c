// SPDX-License-Identifier: GPL-2.0
/*
 * string_fault.c - INS and OUTS whose memory is not there, not allowed, or the kernel's.
 */
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "io.h"

#define DATA_END	(BOX_DATA + BOX_DATA_SIZE)

static void expect_fault(const char *what, const struct outcome *out, const struct box *box,
			 int code, uint64_t address, const struct user_regs_struct *regs, int may)
{
	expect_signal(what, out, box, SIGSEGV, code, regs, may);
	if (code != SI_KERNEL)
		CHECK((uint64_t)out->info.si_addr == address, "%s: fault at %p instead of %#llx",
		      what, out->info.si_addr, (unsigned long long)address);
}

static void string_unmapped(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	regs = string_regs(&box, SCRATCH, 3);
	regs.rdi = DATA_END + 0x10;
	regs.rsi = DATA_END + 0x20;
	out = RUN(&box, &regs, 0xf3, 0x6c);
	expect_fault("rep insb", &out, &box, SEGV_MAPERR, DATA_END + 0x10, &regs, 0);
	out = RUN(&box, &regs, 0xf3, 0x6e);
	expect_fault("rep outsb", &out, &box, SEGV_MAPERR, DATA_END + 0x20, &regs, 0);
	regs.rcx = 0;
	out = RUN(&box, &regs, 0x6c);
	expect_fault("insb", &out, &box, SEGV_MAPERR, DATA_END + 0x10, &regs, 0);
	box_close(&box);
}

static void read_only(void)
{
	allow_ports();
	mprotect((void *)BOX_DATA, BOX_PAGE, PROT_READ);
	mprotect((void *)(BOX_DATA + 2 * BOX_PAGE), BOX_PAGE, PROT_NONE);
}

static void string_protected(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, read_only);
	regs = string_regs(&box, SCRATCH, 3);
	out = RUN(&box, &regs, 0xf3, 0x6c);
	expect_fault("rep insb to read-only memory", &out, &box, SEGV_ACCERR, BOX_DATA, &regs, 0);
	DONE("rep outsb from read-only memory", &box, &regs, R_SI | R_CX, 0xf3, 0x6e);
	regs.rsi = BOX_DATA + 2 * BOX_PAGE;
	out = RUN(&box, &regs, 0xf3, 0x6e);
	expect_fault("rep outsb from forbidden memory", &out, &box, SEGV_ACCERR,
		     BOX_DATA + 2 * BOX_PAGE, &regs, 0);
	box_close(&box);
}

/* The kernel's addresses are not for user space, least of all through its own hands. */
static void string_kernel_address(void)
{
	struct user_regs_struct regs;
	struct box box;

	box_open(&box, allow_ports);
	regs = string_regs(&box, SCRATCH, 3);
	regs.rdi = 0xffffffff81000000;
	regs.rsi = 0xffffffff81000000;
	SIGNALS("rep insb", &box, &regs, SIGSEGV, ANY_CODE, 0, 0xf3, 0x6c);
	SIGNALS("rep outsb", &box, &regs, SIGSEGV, ANY_CODE, 0, 0xf3, 0x6e);
	/* Not canonical: general protection. */
	regs.rdi = 0x8888000000000000;
	SIGNALS("rep insb, not canonical", &box, &regs, SIGSEGV, ANY_CODE, 0, 0xf3, 0x6c);
	box_close(&box);
}

/* An OUTS whose FS base is in the kernel: the sum counts. */
static void outs_kernel_segment(void)
{
	struct user_regs_struct regs;
	struct box box;

	box_open(&box, allow_ports);
	box_data[0] = 0x12;
	regs = string_regs(&box, SCRATCH, 1);
	regs.fs_base = BOX_DATA;
	regs.rsi = 0xffffffff81000000 - BOX_DATA;
	SIGNALS("outsb fs: in the kernel", &box, &regs, SIGSEGV, ANY_CODE, 0, 0x64, 0x6e);
	/* Each part is a user address, the sum is not. */
	regs.fs_base = 0x00007fffffffe000;
	regs.rsi = 0x00007fffffffe000;
	SIGNALS("outsb fs: beyond user space", &box, &regs, SIGSEGV, ANY_CODE, 0, 0x64, 0x6e);
	box_close(&box);
}

/* RFLAGS.AC: an operand that is not aligned is refused, before its page is looked for. */
static void string_alignment_check(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	mark_data();
	regs = box_regs(&box);
	regs.rcx = BOX_DATA + 1;
	regs.eflags |= EFLAGS_AC;
	out = RUN(&box, &regs, 0x48, 0x8b, 0x01);
	if (out.sig == SIGTRAP && !guest_is_sev_es)
		skip("this processor raises no alignment check");
	regs = string_regs(&box, PCI_ADDRESS, 2);
	regs.eflags |= EFLAGS_AC;
	regs.rdi = BOX_DATA + 2;
	regs.rsi = BOX_DATA + 2;
	SIGNALS("rep insl", &box, &regs, SIGBUS, BUS_ADRALN, 0, 0xf3, 0x6d);
	SIGNALS("outsl", &box, &regs, SIGBUS, BUS_ADRALN, 0, 0x6f);
	expect_marks(0, 64);
	DONE("insw", &box, &regs, R_DI, 0x66, 0x6d);
	DONE("outsw", &box, &regs, R_SI, 0x66, 0x6f);
	regs.rdi = BOX_DATA + 1;
	regs.rsi = BOX_DATA + 1;
	SIGNALS("insw", &box, &regs, SIGBUS, BUS_ADRALN, 0, 0x66, 0x6d);
	DONE("rep insb", &box, &regs, R_DI | R_CX, 0xf3, 0x6c);
	regs.rdi = DATA_END + 1;
	SIGNALS("insw without a page", &box, &regs, SIGBUS, BUS_ADRALN, 0, 0x66, 0x6d);
	/* Nothing is accessed. */
	regs.rcx = 0;
	DONE("rep insw, RCX 0", &box, &regs, 0, 0x66, 0xf3, 0x6d);
	/* Not canonical comes first. */
	regs.rdi = 0x8888000000000001;
	SIGNALS("insw, not canonical", &box, &regs, SIGSEGV, ANY_CODE, 0, 0x66, 0x6d);
	box_close(&box);
}

/* The fault comes in the middle: the signal names the first byte that is not there ... */
static struct outcome run_into_hole(struct box *box, struct user_regs_struct *regs)
{
	*regs = string_regs(box, SCRATCH, 16);
	regs->rdi = DATA_END - 8;
	memset(box_data + BOX_DATA_SIZE - 16, 0xee, 16);
	return RUN(box, regs, 0xf3, 0x6c);
}

static void ins_into_hole_signal(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	out = run_into_hole(&box, &regs);
	expect_fault("rep insb into a hole", &out, &box, SEGV_MAPERR, DATA_END, &regs, R_CX | R_DI);
	box_close(&box);
}

/* ... and the registers say how far it came, so that it can go on once the page is there. */
static void ins_into_hole_progress(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	out = run_into_hole(&box, &regs);
	expect_fault("rep insb into a hole", &out, &box, SEGV_MAPERR, DATA_END, &regs, R_CX | R_DI);
	CHECK(out.regs.rcx == 8 && out.regs.rdi == DATA_END, "RCX %lld, RDI end %+lld",
	      (long long)out.regs.rcx, (long long)(out.regs.rdi - DATA_END));
	CHECK(box_data[BOX_DATA_SIZE - 8] != 0xee && box_data[BOX_DATA_SIZE - 1] != 0xee,
	      "the part before the hole was not written");
	box_close(&box);
}

static void fresh_pages(void)
{
	allow_ports();
	munmap((void *)BOX_DATA, BOX_DATA_SIZE);
	mmap((void *)BOX_DATA, BOX_DATA_SIZE, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* Pages that come in on demand, copy-on-write included: no signal, the string goes on. */
static void string_demand_paging(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, fresh_pages);
	regs = string_regs(&box, SCRATCH, 3 * BOX_PAGE);
	regs.rdi = BOX_DATA + 0x123;
	out = DONE("rep insb to fresh pages", &box, &regs, R_DI | R_CX, 0xf3, 0x6c);
	CHECK(out.regs.rdi == BOX_DATA + 0x123 + 3 * BOX_PAGE, "RDI is wrong");
	regs = string_regs(&box, SCRATCH, 3 * BOX_PAGE);
	regs.rsi = BOX_DATA + 8 * BOX_PAGE + 0x123;
	DONE("rep outsb from fresh pages", &box, &regs, R_SI | R_CX, 0xf3, 0x6e);
	box_close(&box);
}

const struct test string_fault_tests[] = {
	{ "string_unmapped", string_unmapped },
	{ "string_protected", string_protected },
	{ "string_kernel_address", string_kernel_address },
	{ "outs_kernel_segment", outs_kernel_segment },
	{ "string_alignment_check", string_alignment_check },
	{ "ins_into_hole_signal", ins_into_hole_signal },
	{ "ins_into_hole_progress", ins_into_hole_progress },
	{ "string_demand_paging", string_demand_paging },
	{ }
};
