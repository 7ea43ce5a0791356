// SPDX-License-Identifier: GPL-2.0
/*
 * step.c - single-stepping over instructions that exit: it stops where the processor stops.
 */
#include <string.h>
#include <sys/ptrace.h>

#include "check.h"
#include "io.h"

/* Steps once, with the string instructions' count and pointers set. */
static struct outcome step(const char *what, struct box *box, const uint8_t *code, size_t len,
			   struct user_regs_struct *regs)
{
	struct outcome out;

	box->step = true;
	out = box_run(box, code, len, regs);
	CHECK(!out.hung && !out.died && out.sig == SIGTRAP, "%s: signal %d", what, out.sig);
	CHECK(out.info.si_code == TRAP_TRACE || out.info.si_code == TRAP_BRKPT, "%s: si_code %d",
	      what, out.info.si_code);
	/* The end of an instruction clears RF; between the iterations of one it may be set. */
	CHECK(out.regs.rip == box->code || !(out.regs.eflags & EFLAGS_RF), "%s: RF is still set",
	      what);
	return out;
}

/* One single step must stop right behind the instruction, not one further. */
static void step_over(const char *what, const uint8_t *code, size_t len, uint64_t rax, uint64_t rdx,
		      int may)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	regs = string_regs(&box, rdx, 0);
	regs.rax = rax;
	/* As after a breakpoint that a debugger goes on from. */
	regs.eflags |= EFLAGS_RF;
	out = step(what, &box, code, len, &regs);
	expect_done(what, &out, &box, len, &regs, may);
	box_close(&box);
}

#define STEP_OVER(what, rax, rdx, may, ...) do {				\
	static const uint8_t code_[] = { __VA_ARGS__ };			\
										\
	step_over(what, code_, sizeof(code_), rax, rdx, may);			\
} while (0)

static void step_over_nop(void)
{
	STEP_OVER("nop", 0, 0, 0, 0x90);
}

static void step_over_cpuid(void)
{
	STEP_OVER("cpuid", 0, 0, R_AX | R_BX | R_CX | R_DX, 0x0f, 0xa2);
}

static void step_over_in(void)
{
	STEP_OVER("in al, dx", 0, SCRATCH, R_AX, 0xec);
	STEP_OVER("in al, imm", 0, 0, R_AX, 0xe4, DMA_PAGE);
}

static void step_over_out(void)
{
	STEP_OVER("out dx, al", 0x11, SCRATCH, 0, 0xee);
	STEP_OVER("out imm, al", 0x11, 0, 0, 0xe6, DMA_PAGE);
}

static void step_over_ins(void)
{
	STEP_OVER("insb", 0, SCRATCH, R_DI, 0x6c);
}

static void step_over_outs(void)
{
	STEP_OVER("outsb", 0, SCRATCH, R_SI, 0x6e);
}

/* No iteration at all is an instruction as well. */
static void step_over_rep_none(void)
{
	STEP_OVER("rep insb, RCX 0", 0, SCRATCH, 0, 0xf3, 0x6c);
	STEP_OVER("rep outsb, RCX 0", 0, SCRATCH, 0, 0xf3, 0x6e);
}

static void step_over_rdtsc(void)
{
	STEP_OVER("rdtsc", 0, 0, R_AX | R_DX, 0x0f, 0x31);
}

static void step_over_rdtscp(void)
{
	if (!(cpuid(0x80000001, 0).d & 1 << 27))
		skip("no RDTSCP");
	STEP_OVER("rdtscp", 0, 0, R_AX | R_DX | R_CX, 0x0f, 0x01, 0xf9);
}

static void step_over_vmmcall(void)
{
	if (!guest_is_sev_es)
		skip("VMMCALL may be an invalid opcode here");
	STEP_OVER("vmmcall", 0, 0, R_AX, 0x0f, 0x01, 0xd9);
}

/* A repeated string instruction stops after each iteration, and at itself but for the last. */
static void step_into_rep(const char *what, uint8_t opcode, int moves)
{
	const uint8_t code[] = { 0xf3, opcode };
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	mark_data();
	box_out8(&box, SCRATCH, 0x5c);
	regs = string_regs(&box, SCRATCH, 3);
	for (int left = 2; left >= 0; left--) {
		bool ins = opcode == 0x6c;
		uint64_t want = BOX_DATA + 3 - left;
		struct user_regs_struct before = regs;

		out = step(what, &box, code, sizeof(code), &regs);
		CHECK(out.regs.rcx == (uint64_t)left, "%s: RCX is %lld with %d to go", what,
		      (long long)out.regs.rcx, left);
		CHECK((ins ? out.regs.rdi : out.regs.rsi) == want, "%s: %d elements were moved",
		      what, (int)((ins ? out.regs.rdi : out.regs.rsi) - BOX_DATA));
		if (ins)
			expect_marks(3 - left, 16);
		/* QEMU without KVM comes back to find RCX 0; the emulation of a #VC must not. */
		if (!guest_is_sev_es && !left && out.regs.rip == box.code)
			skip("this processor stops once more after the last iteration");
		CHECK(out.regs.rip == box.code + (left ? 0 : sizeof(code)),
		      "%s: RIP is off by %lld with %d to go", what,
		      (long long)(out.regs.rip - box.code), left);
		regs = out.regs;
		before.rcx = regs.rcx;
		if (moves == R_DI)
			before.rdi = regs.rdi;
		else
			before.rsi = regs.rsi;
		CHECK(before.rdi == regs.rdi && before.rsi == regs.rsi &&
		      before.rax == regs.rax && before.rdx == regs.rdx, "%s: other registers",
		      what);
	}
	box_close(&box);
}

static void step_into_rep_ins(void)
{
	step_into_rep("rep insb", 0x6c, R_DI);
}

static void step_into_rep_outs(void)
{
	step_into_rep("rep outsb", 0x6e, R_SI);
}

/* MOV to SS holds the trap back for one instruction: the one that exits. */
static void step_behind_mov_ss(void)
{
	static const uint8_t code[] = { 0x8e, 0xd0, 0x0f, 0xa2, 0x90 };
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	regs = box_regs(&box);
	regs.rax = regs.ss;
	regs.rcx = 0;
	out = step("mov ss, cpuid", &box, code, sizeof(code), &regs);
	if (out.regs.rip == box.code + 2)
		skip("this processor does not hold traps back");
	CHECK(out.regs.rip == box.code + 4, "stopped %lld bytes further",
	      (long long)(out.regs.rip - box.code));
	box_close(&box);
}

/* By blocks it stops behind branches, and an instruction that exits is none. */
static void step_by_blocks(void)
{
	/* nop or cpuid, nop, jmp to the next instruction */
	static const uint8_t nop[] = { 0x66, 0x90, 0x90, 0xeb, 0x00, 0x90 };
	static const uint8_t exits[] = { 0x0f, 0xa2, 0x90, 0xeb, 0x00, 0x90 };
	struct user_regs_struct regs;
	struct outcome out;
	unsigned int stop;
	struct box box;

	box_open(&box, NULL);
	box.blocks = true;
	regs = box_regs(&box);
	out = step("nop", &box, nop, sizeof(nop), &regs);
	stop = out.regs.rip - box.code;
	if (stop != 5) {
		/* QEMU without KVM stops at each instruction that it runs itself. */
		if (!guest_is_sev_es)
			skip("this processor does not step by blocks");
		CHECK(stop == 2, "nop: stopped %u bytes further", stop);
		stop = 3;
	}
	regs = box_regs(&box);
	regs.rax = 0;
	regs.rcx = 0;
	out = step("cpuid", &box, exits, sizeof(exits), &regs);
	if (!guest_is_sev_es && out.regs.rip == box.code + 2)
		skip("the hypervisor stops at what it emulates");
	CHECK(out.regs.rip == box.code + stop, "cpuid: stopped %lld bytes further",
	      (long long)(out.regs.rip - box.code));
	box_close(&box);
}

/* A signal of the instruction comes before the trap, which does not come at all then. */
static void step_over_refused(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	box.step = true;
	regs = string_regs(&box, SCRATCH, 1);
	out = RUN(&box, &regs, 0xec);
	expect_signal("in al, dx", &out, &box, SIGSEGV, SI_KERNEL, &regs, 0);
	box_close(&box);
	box_open(&box, allow_ports);
	box.step = true;
	regs = string_regs(&box, SCRATCH, 1);
	regs.rdi = BOX_DATA + BOX_DATA_SIZE;
	out = RUN(&box, &regs, 0x6c);
	expect_signal("insb", &out, &box, SIGSEGV, SEGV_MAPERR, &regs, 0);
	CHECK(out.info.si_addr == (void *)regs.rdi, "fault at %p", out.info.si_addr);
	box_close(&box);
}

/* The trap flag is the program's own, too. */
static int traps;

static void on_trap(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	if (info->si_code == TRAP_TRACE)
		__atomic_add_fetch(&traps, 1, __ATOMIC_RELAXED);
}

static void step_by_itself(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	int count;

	sigaction(SIGTRAP, &action, NULL);
	/* One trap each after nop, xor, xor, cpuid, pushf, and; none after popf that sets TF. */
	asm volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\t"
		     "nop\n\txorl %%eax, %%eax\n\txorl %%ecx, %%ecx\n\tcpuid\n\t"
		     "pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq"
		     : : : "rax", "rbx", "rcx", "rdx", "cc", "memory");
	/* The last popf traps as well: TF was set when it began. */
	count = __atomic_load_n(&traps, __ATOMIC_RELAXED);
	CHECK(count == 7, "%d traps instead of 7", count);
}

const struct test step_tests[] = {
	{ "step_over_nop", step_over_nop },
	{ "step_over_cpuid", step_over_cpuid },
	{ "step_over_in", step_over_in },
	{ "step_over_out", step_over_out },
	{ "step_over_ins", step_over_ins },
	{ "step_over_outs", step_over_outs },
	{ "step_over_rep_none", step_over_rep_none },
	{ "step_over_rdtsc", step_over_rdtsc },
	{ "step_over_rdtscp", step_over_rdtscp },
	{ "step_over_vmmcall", step_over_vmmcall },
	{ "step_into_rep_ins", step_into_rep_ins },
	{ "step_into_rep_outs", step_into_rep_outs },
	{ "step_behind_mov_ss", step_behind_mov_ss },
	{ "step_by_blocks", step_by_blocks },
	{ "step_over_refused", step_over_refused },
	{ "step_by_itself", step_by_itself },
	{ }
};
