// SPDX-License-Identifier: GPL-2.0
/*
 * privileged.c - instructions that user space may not execute: the right signal, nothing changed.
 *
 * The processor checks the privilege before it looks at intercepts, so none of them is an exit.
 */
#include "box.h"
#include "check.h"

enum { GP = 1, UD = 2 };

static const struct privileged {
	const char *what;
	int may;		/* general protection, invalid opcode, or either */
	size_t len;
	uint8_t code[8];
} instructions[] = {
	{ "hlt", GP, 1, { 0xf4 } },
	{ "cli", GP, 1, { 0xfa } },
	{ "sti", GP, 1, { 0xfb } },
	{ "clts", GP, 2, { 0x0f, 0x06 } },
	{ "rdmsr", GP, 2, { 0x0f, 0x32 } },
	{ "wrmsr", GP, 2, { 0x0f, 0x30 } },
	{ "xsetbv", GP, 3, { 0x0f, 0x01, 0xd1 } },
	{ "swapgs", GP, 3, { 0x0f, 0x01, 0xf8 } },
	{ "sysret", GP, 3, { 0x48, 0x0f, 0x07 } },
	{ "invlpg", GP, 3, { 0x0f, 0x01, 0x3f } },
	{ "lgdt", GP, 3, { 0x0f, 0x01, 0x17 } },
	{ "lidt", GP, 3, { 0x0f, 0x01, 0x1f } },
	{ "lldt", GP, 3, { 0x0f, 0x00, 0xd0 } },
	{ "ltr", GP, 3, { 0x0f, 0x00, 0xd8 } },
	{ "lmsw", GP, 3, { 0x0f, 0x01, 0xf0 } },
	{ "mov rax, cr0", GP, 3, { 0x0f, 0x20, 0xc0 } },
	{ "mov rax, cr3", GP, 3, { 0x0f, 0x20, 0xd8 } },
	{ "mov cr0, rax", GP, 3, { 0x0f, 0x22, 0xc0 } },
	{ "mov cr4, rax", GP, 3, { 0x0f, 0x22, 0xe0 } },
	{ "mov cr8, rax", GP, 4, { 0x44, 0x0f, 0x22, 0xc0 } },
	{ "mov rax, dr0", GP, 3, { 0x0f, 0x21, 0xc0 } },
	{ "mov rax, dr7", GP, 3, { 0x0f, 0x21, 0xf8 } },
	{ "mov dr0, rax", GP, 3, { 0x0f, 0x23, 0xc0 } },
	{ "mov dr7, rax", GP, 3, { 0x0f, 0x23, 0xf8 } },
	/* Invalid outside of kernel mode, or not there at all. */
	{ "monitor", UD, 3, { 0x0f, 0x01, 0xc8 } },
	{ "mwait", UD, 3, { 0x0f, 0x01, 0xc9 } },
	{ "ud2", UD, 2, { 0x0f, 0x0b } },
	{ "rsm", UD, 2, { 0x0f, 0xaa } },
	/* Which of the two depends on EFER.SVME, which is set in an encrypted guest. */
	{ "vmrun", GP | UD, 3, { 0x0f, 0x01, 0xd8 } },
	{ "vmload", GP | UD, 3, { 0x0f, 0x01, 0xda } },
	{ "vmsave", GP | UD, 3, { 0x0f, 0x01, 0xdb } },
	{ "stgi", GP | UD, 3, { 0x0f, 0x01, 0xdc } },
	{ "clgi", GP | UD, 3, { 0x0f, 0x01, 0xdd } },
	{ "invlpga", GP | UD, 3, { 0x0f, 0x01, 0xdf } },
};

static void privileged_instructions(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(instructions); i++) {
		const struct privileged *p = &instructions[i];
		int sig;

		regs = box_regs(&box);
		regs.rcx = 0x10;
		regs.rdi = BOX_DATA;
		out = box_run(&box, p->code, p->len, &regs);
		sig = p->may == GP ? SIGSEGV : p->may == UD ? SIGILL :
		      out.sig == SIGILL ? SIGILL : SIGSEGV;
		expect_signal(p->what, &out, &box, sig, sig == SIGSEGV ? SI_KERNEL : ANY_CODE,
			      &regs, 0);
	}
	box_close(&box);
}

/*
 * INVD and WBINVD, too, are for the kernel only. QEMU's TCG lets user space execute them, unless a
 * hypervisor below the guest sees to it.
 */
static void cache_instruction(struct box *box, const char *what, uint8_t opcode)
{
	struct user_regs_struct regs = box_regs(box);
	const uint8_t code[] = { 0x0f, opcode };
	struct outcome out = box_run(box, code, sizeof(code), &regs);

	if (out.sig == SIGTRAP && !guest_is_sev_es) {
		expect_done(what, &out, box, sizeof(code), &regs, 0);
		note("%s is not privileged here (an error of the emulator)", what);
	} else {
		expect_signal(what, &out, box, SIGSEGV, SI_KERNEL, &regs, 0);
	}
}

static void cache_instructions(void)
{
	struct box box;

	box_open(&box, NULL);
	cache_instruction(&box, "invd", 0x08);
	cache_instruction(&box, "wbinvd", 0x09);
	box_close(&box);
}

/* Other exceptions must come through as ever. */
static void ordinary_exceptions(void)
{
	struct user_regs_struct regs;
	struct box box;

	box_open(&box, NULL);
	regs = box_regs(&box);
	regs.rdx = 0;
	regs.rcx = 0;
	SIGNALS("div by zero", &box, &regs, SIGFPE, FPE_INTDIV, R_FLAGS, 0x48, 0xf7, 0xf1);
	SIGNALS("mov rax, [0]", &box, &regs, SIGSEGV, SEGV_MAPERR, 0, 0x48, 0x8b, 0x01);
	regs.rcx = 0x8888000000000000;
	SIGNALS("mov rax, [not canonical]", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0x48, 0x8b, 0x01);
	/* int 29: user space cannot call the #VC gate. */
	SIGNALS("int 29", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0xcd, 0x1d);
	SIGNALS("int 2", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0xcd, 0x02);
	box_close(&box);
}

/* Alignment check: the processor's own exception, or a forwarded one. */
static void alignment_check(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	regs = box_regs(&box);
	regs.rcx = BOX_DATA + 1;
	regs.eflags |= EFLAGS_AC;
	out = RUN(&box, &regs, 0x48, 0x8b, 0x01);
	if (out.sig == SIGTRAP)
		skip("this processor raises no alignment check");
	expect_signal("unaligned mov", &out, &box, SIGBUS, BUS_ADRALN, &regs, 0);
	box_close(&box);
}

const struct test privileged_tests[] = {
	{ "privileged_instructions", privileged_instructions },
	{ "cache_instructions", cache_instructions },
	{ "ordinary_exceptions", ordinary_exceptions },
	{ "alignment_check", alignment_check },
	{ }
};
