// SPDX-License-Identifier: GPL-2.0
/*
 * trap.c - breakpoints, debug registers, signals of refused instructions, and the gate of 32-bit
 * system calls.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ptrace.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "box.h"
#include "check.h"

static void breakpoint(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	regs = box_regs(&box);
	out = RUN(&box, &regs, 0x90);
	expect_done("nop, int3", &out, &box, 1, &regs, 0);
	CHECK(out.info.si_code == SI_KERNEL, "int3: si_code %d", out.info.si_code);
	out = RUN(&box, &regs, 0xf1);
	CHECK(out.sig == SIGTRAP && out.regs.rip == box.code + 1, "int1: signal %d", out.sig);
	box_close(&box);
}

static void poke_debug(struct box *box, int reg, unsigned long value)
{
	CHECK(!ptrace(PTRACE_POKEUSER, box->pid, offsetof(struct user, u_debugreg[reg]), value),
	      "cannot set DR%d: %s", reg, strerror(errno));
}

/*
 * Hardware breakpoints. In a SEV-ES guest without DEBUG_SWAP the hypervisor does not switch the
 * debug registers: setting them must work, only that nothing stops.
 */
static void hardware_breakpoint(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;
	bool hit;

	box_open(&box, NULL);
	regs = box_regs(&box);
	regs.rcx = BOX_DATA + 0x40;
	/* Execution of the second of three NOPs. */
	poke_debug(&box, 0, box.code + 1);
	poke_debug(&box, 7, 0x1);
	out = RUN(&box, &regs, 0x90, 0x90, 0x90);
	hit = out.sig == SIGTRAP && out.info.si_code == TRAP_HWBKPT &&
	      out.regs.rip == box.code + 1;
	if (!hit)
		expect_done("nops", &out, &box, 3, &regs, 0);
	CHECK(hit || guest_is_sev_es, "execution breakpoint did not stop");
	/* A write of 4 bytes. */
	poke_debug(&box, 7, 0);
	poke_debug(&box, 1, BOX_DATA + 0x40);
	poke_debug(&box, 7, 0xd00004);
	out = RUN(&box, &regs, 0x89, 0x01, 0x90);
	hit = out.sig == SIGTRAP && out.info.si_code == TRAP_HWBKPT &&
	      out.regs.rip == box.code + 2;
	if (!hit)
		expect_done("mov", &out, &box, 3, &regs, 0);
	CHECK(hit || guest_is_sev_es, "write watchpoint did not stop");
	poke_debug(&box, 7, 0);
	note("hardware breakpoints %s", hit ? "stop" : "do not stop, as in SEV-ES");
	box_close(&box);
}

/* A debugger's registers keep their values over a context switch. */
static void debug_registers_keep(void)
{
	struct user_regs_struct regs;
	struct box box;
	long value;

	box_open(&box, NULL);
	regs = box_regs(&box);
	poke_debug(&box, 0, BOX_DATA + 0x40);
	poke_debug(&box, 7, 0x30001);
	for (int i = 0; i < 5; i++) {
		/* Not the watched address. */
		struct outcome out = RUN(&box, &regs, 0x90);

		expect_done("nop", &out, &box, 1, &regs, 0);
		errno = 0;
		value = ptrace(PTRACE_PEEKUSER, box.pid, offsetof(struct user, u_debugreg[0]), 0);
		CHECK(!errno && value == BOX_DATA + 0x40, "DR0 is %#lx", value);
		value = ptrace(PTRACE_PEEKUSER, box.pid, offsetof(struct user, u_debugreg[7]), 0);
		CHECK(!errno && (value & 0xff0003) == 0x30001, "DR7 is %#lx", value);
	}
	poke_debug(&box, 7, 0);
	box_close(&box);
}

/*
 * int $0x80: a hypervisor could inject that vector, so an encrypted guest does without 32-bit
 * system calls (CVE-2024-25744), unless its kernel was told to have them.
 */
static void int80_gate(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	regs = box_regs(&box);
	regs.rax = 20;	/* getpid */
	out = RUN(&box, &regs, 0xcd, 0x80);
	if (out.sig == SIGSEGV) {
		note("int 0x80 is refused");
		expect_signal("int 0x80", &out, &box, SIGSEGV, SI_KERNEL, &regs, 0);
	} else {
		char words[4096] = "";

		read_text("/proc/cmdline", words, sizeof(words));
		CHECK(!guest_is_sev || strstr(words, "ia32_emulation=1"),
		      "int 0x80 works in an encrypted guest");
		CHECK(out.sig == SIGTRAP && out.regs.rax == (unsigned long)box.pid,
		      "int 0x80: signal %d, getpid() gives %lld", out.sig,
		      (long long)out.regs.rax);
	}
	box_close(&box);
}

static struct {
	int count, code, trap;
	uint64_t rip, rax;
} caught;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	caught.count++;
	caught.code = info->si_code;
	caught.trap = uc->uc_mcontext.gregs[REG_TRAPNO];
	caught.rip = uc->uc_mcontext.gregs[REG_RIP];
	caught.rax = uc->uc_mcontext.gregs[REG_RAX];
	/* Go on behind the instruction. */
	uc->uc_mcontext.gregs[REG_RIP] += 1;
	uc->uc_mcontext.gregs[REG_RAX] = 0x1234;
}

/* The fault of a refused IN is the program's own to handle, as any other. */
static void refused_in_is_handled(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	uint64_t rax = 0x1122334455667788;
	void *rip;

	sigaction(SIGSEGV, &action, NULL);
	for (int i = 0; i < 10; i++) {
		rax = 0x1122334455667788;
		asm volatile("leaq 1f(%%rip), %1\n1:\tinb %%dx, %%al"
			     : "+a" (rax), "=&r" (rip) : "d" (0x80) : "memory");
		CHECK(caught.count == i + 1, "%d signals after %d faults", caught.count, i + 1);
		CHECK(caught.code == SI_KERNEL && caught.trap == 13, "si_code %d, trap %d",
		      caught.code, caught.trap);
		CHECK(caught.rip == (uint64_t)rip, "wrong RIP");
		CHECK(caught.rax == 0x1122334455667788, "RAX was %#llx",
		      (unsigned long long)caught.rax);
		CHECK(rax == 0x1234, "the handler's RAX is lost: %#llx", (unsigned long long)rax);
	}
}

/*
 * A fault of the memory operand comes out of the emulation. It is no system call that the signal
 * interrupts, even if RAX looks like the result of one that is to be restarted.
 */
static void fault_is_no_system_call(void)
{
	static const int restarts[] = { 512, 513, 514, 516 };
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_RESTART };
	uint64_t rax, rdi;
	void *rip;

	if (ioperm(0x3ff, 1, 1))
		skip("no ioperm()");
	sigaction(SIGSEGV, &action, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(restarts); i++) {
		rax = -restarts[i];
		/* Nothing is mapped there. */
		rdi = 0x10;
		asm volatile("leaq 1f(%%rip), %1\n1:\tinsb"
			     : "+a" (rax), "=&r" (rip), "+D" (rdi) : "d" (0x3ff) : "memory");
		CHECK(caught.count == (int)i + 1 && caught.trap == 14, "%d signals, trap %d",
		      caught.count, caught.trap);
		CHECK(caught.rip == (uint64_t)rip, "RAX %d: RIP is %lld bytes off", -restarts[i],
		      (long long)(caught.rip - (uint64_t)rip));
		CHECK(caught.rax == (uint64_t)-restarts[i], "RAX was %d, and became %lld",
		      -restarts[i], (long long)caught.rax);
	}
}

const struct test trap_tests[] = {
	{ "breakpoint", breakpoint },
	{ "hardware_breakpoint", hardware_breakpoint },
	{ "debug_registers_keep", debug_registers_keep },
	{ "int80_gate", int80_gate },
	{ "refused_in_is_handled", refused_in_is_handled },
	{ "fault_is_no_system_call", fault_is_no_system_call },
	{ }
};
