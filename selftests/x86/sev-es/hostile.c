// SPDX-License-Identifier: GPL-2.0
/*
 * hostile.c - exit codes that a hypervisor made up at an instruction of user space. They come only
 * if it was told to: sevsim makes them up for the CPUID leaves below.
 */
#include "box.h"
#include "check.h"

/* The exit code is in the low bits. */
#define MADE_UP		0x5e500000
#define ALIGNMENT	0x51
#define MSR		0x7c

static struct outcome run_leaf(struct box *box, struct user_regs_struct *regs, uint32_t code)
{
	struct outcome out;

	*regs = box_regs(box);
	regs->rax = MADE_UP | code;
	out = RUN(box, regs, 0x0f, 0xa2);
	if (out.sig == SIGTRAP)
		skip("the hypervisor makes up no exit code");
	return out;
}

/* An intercepted alignment check is one of the program's. */
static void made_up_alignment_check(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	out = run_leaf(&box, &regs, ALIGNMENT);
	expect_signal("#AC", &out, &box, SIGBUS, BUS_ADRALN, &regs, 0);
	box_close(&box);
}

/* An exit that does not belong to the instruction is not carried out. */
static void made_up_exit(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	out = run_leaf(&box, &regs, MSR);
	expect_signal("RDMSR", &out, &box, SIGBUS, BUS_OBJERR, &regs, 0);
	CHECK(!out.info.si_addr, "address %p", out.info.si_addr);
	box_close(&box);
}

const struct test hostile_tests[] = {
	{ "made_up_alignment_check", made_up_alignment_check },
	{ "made_up_exit", made_up_exit },
	{ }
};
