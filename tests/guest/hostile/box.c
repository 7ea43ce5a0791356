// SPDX-License-Identifier: GPL-2.0
/*
 * box.c - runs single instructions with all registers known.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "box.h"

/* Used by the assembly below. */
struct box_regs box_in, box_out;
uint64_t box_code, box_own_stack;

static volatile int box_sig;
static volatile bool inside;
static uint64_t signal_ip;

void box_enter(void);
void box_leave(void);
void box_resume(void);

asm(".pushsection .text\n"
    ".globl box_enter, box_leave, box_resume\n"
    "box_enter:\n"
    "	pushq %rbx\n"
    "	pushq %rbp\n"
    "	pushq %r12\n"
    "	pushq %r13\n"
    "	pushq %r14\n"
    "	pushq %r15\n"
    "	movq %rsp, box_own_stack(%rip)\n"
    "	pushq box_in+128(%rip)\n"
    "	popfq\n"
    "	movq box_in+0(%rip), %rax\n"
    "	movq box_in+8(%rip), %rbx\n"
    "	movq box_in+16(%rip), %rcx\n"
    "	movq box_in+24(%rip), %rdx\n"
    "	movq box_in+32(%rip), %rsi\n"
    "	movq box_in+40(%rip), %rdi\n"
    "	movq box_in+48(%rip), %rbp\n"
    "	movq box_in+56(%rip), %rsp\n"
    "	movq box_in+64(%rip), %r8\n"
    "	movq box_in+72(%rip), %r9\n"
    "	movq box_in+80(%rip), %r10\n"
    "	movq box_in+88(%rip), %r11\n"
    "	movq box_in+96(%rip), %r12\n"
    "	movq box_in+104(%rip), %r13\n"
    "	movq box_in+112(%rip), %r14\n"
    "	movq box_in+120(%rip), %r15\n"
    "	jmp *box_code(%rip)\n"
    "box_leave:\n"
    "	movq %rax, box_out+0(%rip)\n"
    "	movq %rbx, box_out+8(%rip)\n"
    "	movq %rcx, box_out+16(%rip)\n"
    "	movq %rdx, box_out+24(%rip)\n"
    "	movq %rsi, box_out+32(%rip)\n"
    "	movq %rdi, box_out+40(%rip)\n"
    "	movq %rbp, box_out+48(%rip)\n"
    "	movq %rsp, box_out+56(%rip)\n"
    "	movq %r8, box_out+64(%rip)\n"
    "	movq %r9, box_out+72(%rip)\n"
    "	movq %r10, box_out+80(%rip)\n"
    "	movq %r11, box_out+88(%rip)\n"
    "	movq %r12, box_out+96(%rip)\n"
    "	movq %r13, box_out+104(%rip)\n"
    "	movq %r14, box_out+112(%rip)\n"
    "	movq %r15, box_out+120(%rip)\n"
    "	movq box_own_stack(%rip), %rsp\n"
    "	pushfq\n"
    "	popq box_out+128(%rip)\n"
    "box_resume:\n"
    "	cld\n"
    "	popq %r15\n"
    "	popq %r14\n"
    "	popq %r13\n"
    "	popq %r12\n"
    "	popq %rbp\n"
    "	popq %rbx\n"
    "	ret\n"
    ".popsection\n");

_Static_assert(offsetof(struct box_regs, r8) == 64, "the assembly knows the offsets");
_Static_assert(offsetof(struct box_regs, flags) == 128, "the assembly knows the offsets");

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;

	(void)info;
	if (!inside)
		_exit(100 + sig);
	inside = false;
	box_sig = sig;
	signal_ip = regs[REG_RIP];
	box_out = (struct box_regs) {
		.rax = regs[REG_RAX], .rbx = regs[REG_RBX], .rcx = regs[REG_RCX],
		.rdx = regs[REG_RDX], .rsi = regs[REG_RSI], .rdi = regs[REG_RDI],
		.rbp = regs[REG_RBP], .rsp = regs[REG_RSP], .r8 = regs[REG_R8],
		.r9 = regs[REG_R9], .r10 = regs[REG_R10], .r11 = regs[REG_R11],
		.r12 = regs[REG_R12], .r13 = regs[REG_R13], .r14 = regs[REG_R14],
		.r15 = regs[REG_R15], .flags = regs[REG_EFL],
	};
	/* Back out of box_enter(), with ordinary flags. */
	regs[REG_RIP] = (uint64_t)box_resume;
	regs[REG_RSP] = box_own_stack;
	regs[REG_EFL] = 0x202;
}

static void map_at(unsigned long address, size_t size, int prot)
{
	void *got = mmap((void *)address, size, prot,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (got != (void *)address) {
		perror("mmap");
		exit(2);
	}
	memset(got, 0, size);
}

void box_open(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
	struct sigaction action = {
		.sa_sigaction = on_signal,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
	};
	stack_t stack = { .ss_size = 1 << 16 };

	stack.ss_sp = malloc(stack.ss_size);
	memset(stack.ss_sp, 0, stack.ss_size);
	sigaltstack(&stack, NULL);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
	map_at(BOX_CODE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
	map_at(BOX_DATA, BOX_DATA_SIZE, PROT_READ | PROT_WRITE);
	map_at(BOX_STACK, BOX_STACK_SIZE, PROT_READ | PROT_WRITE);
}

void box_put(unsigned int slot, const uint8_t *code, size_t len)
{
	/* out $0xee, al: the host's time has come. */
	static const uint8_t trigger[] = { 0xe6, 0xee };
	/* jmp *0(%rip), and where to. */
	static const uint8_t jump[] = { 0xff, 0x25, 0, 0, 0, 0 };
	uint8_t *at = (uint8_t *)BOX_CODE + slot * BOX_SLOT;
	uint64_t leave = (uint64_t)box_leave;

	memcpy(at, trigger, sizeof(trigger));
	memcpy(at + sizeof(trigger), code, len);
	at += sizeof(trigger) + len;
	memcpy(at, jump, sizeof(jump));
	memcpy(at + sizeof(jump), &leave, sizeof(leave));
}

struct box_end box_run(unsigned int slot, const struct box_regs *regs)
{
	struct box_end end;

	box_in = *regs;
	box_code = BOX_CODE + slot * BOX_SLOT;
	box_sig = 0;
	inside = true;
	box_enter();
	inside = false;
	end.sig = box_sig;
	end.at_start = signal_ip == box_code + 2;
	end.regs = box_out;
	return end;
}
