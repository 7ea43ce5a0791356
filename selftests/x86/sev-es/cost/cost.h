/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cost.h - how many cycles of the TSC one instruction takes. Used by user space and the kernel.
 *
 * Meant for a machine whose TSC counts instructions and stands still while the hypervisor runs.
 * Then the result is the number of instructions that the guest executes for the one measured, and
 * the same each time. An interrupt in between can only add to it, so the least of some counts.
 */
#ifndef SEV_ES_COST_H
#define SEV_ES_COST_H

#define COST_REPEAT	64

/* Registers before the instruction. R11 is a function to call, where that is what is measured. */
struct cost_regs {
	unsigned long ax;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long r11;
};

/* Cycles from one RDTSC to the next, which may themselves be intercepted, with @insn in between. */
#define COST_ONCE(insn, regs) ({					\
	struct cost_regs in = (regs);					\
	unsigned long ax, cx, dx, si, di;				\
	register unsigned long r11 asm("r11") = in.r11;			\
									\
	asm volatile("mov	%%rax, %%r8\n\t"			\
		     "mov	%%rcx, %%r9\n\t"			\
		     "mov	%%rdx, %%r10\n\t"			\
		     "rdtsc\n\t"					\
		     "shl	$32, %%rdx\n\t"				\
		     "or	%%rdx, %%rax\n\t"			\
		     "mov	%%rax, %%r12\n\t"			\
		     "mov	%%r8, %%rax\n\t"			\
		     "mov	%%r9, %%rcx\n\t"			\
		     "mov	%%r10, %%rdx\n\t"			\
		     insn "\n\t"					\
		     "rdtsc\n\t"					\
		     "shl	$32, %%rdx\n\t"				\
		     "or	%%rdx, %%rax\n\t"			\
		     "sub	%%r12, %%rax"				\
		     : "=a" (ax), "=c" (cx), "=d" (dx), "=S" (si),	\
		       "=D" (di), "+r" (r11)				\
		     : "0" (in.ax), "1" (in.cx), "2" (in.dx),		\
		       "3" (in.si), "4" (in.di)				\
		     : "rbx", "r8", "r9", "r10", "r12", "cc", "memory");\
	ax;								\
})

/* The least of some measurements; each between @enter and @leave. */
#define COST_LEAST(insn, regs, enter, leave) ({				\
	unsigned long least = ~0UL;					\
									\
	for (int i = 0; i < COST_REPEAT; i++) {				\
		unsigned long cost;					\
									\
		enter;							\
		cost = COST_ONCE(insn, regs);				\
		leave;							\
		if (cost < least)					\
			least = cost;					\
	}								\
	least;								\
})

#endif /* SEV_ES_COST_H */
