/* SPDX-License-Identifier: GPL-2.0 */
/*
 * box.h - run single instructions with every register known.
 *
 * A box is a traced child process. An instruction is put into its memory, all registers are set,
 * it runs up to the int3 behind it or to a signal, and all registers are read back. Nothing else
 * runs in the box, so whatever changed was changed by the instruction (or by its emulation).
 */
#ifndef SEV_ES_BOX_H
#define SEV_ES_BOX_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/*
 * Below 4 GiB, so that 32-bit addresses reach it; below the program, because the heap is at a
 * random address of the GiB behind it. Each area lies between unmapped pages.
 */
#define BOX_PAGE	4096UL
#define BOX_CODE	0x20000UL
#define BOX_CODE_SIZE	(2 * BOX_PAGE)
#define BOX_DATA	0x40000UL
#define BOX_DATA_SIZE	(16 * BOX_PAGE)
#define BOX_STACK	0x80000UL
#define BOX_STACK_SIZE	(4 * BOX_PAGE)

#define EFLAGS_CF	0x1UL
#define EFLAGS_TF	0x100UL
#define EFLAGS_IF	0x200UL
#define EFLAGS_DF	0x400UL
#define EFLAGS_RF	0x10000UL
#define EFLAGS_AC	0x40000UL

struct box {
	pid_t pid;
	/* Registers as the child had them when it stopped, for segments and bases. */
	struct user_regs_struct start;
	/* Where the instruction is put; default BOX_CODE + 64. */
	uint64_t code;
	/* Base of the code segment, if it is not a flat one: the instruction is at that + code. */
	uint64_t code_base;
	/* Single-step instead of running up to the int3. */
	bool step;
	/* Up to the next branch, that is. */
	bool blocks;
};

struct outcome {
	int sig;			/* SIGTRAP: came to the int3 */
	siginfo_t info;
	bool hung;			/* ran without end */
	bool died;			/* the child is gone */
	bool fpu_same;			/* x87, SSE and AVX state is as before */
	struct user_regs_struct regs;
};

/* Memory of the box, shared with the test. */
extern uint8_t *const box_data;

/* Starts a box; prepare() runs in it first (ioperm and the like; may be NULL). */
void box_open(struct box *box, void (*prepare)(void));
void box_close(struct box *box);

/* Registers with a pattern in each, flags with only IF. */
struct user_regs_struct box_regs(const struct box *box);

/* Runs @len bytes of code with @regs (RIP is set here). */
struct outcome box_run(struct box *box, const void *code, size_t len,
		       const struct user_regs_struct *regs);

/* Names of registers that may differ, for expect_regs(). */
enum {
	R_AX = 1 << 0, R_BX = 1 << 1, R_CX = 1 << 2, R_DX = 1 << 3, R_SI = 1 << 4, R_DI = 1 << 5,
	R_SP = 1 << 6, R_FLAGS = 1 << 7,
};

/* The instruction came to its end: int3 behind it, nothing changed but @may. */
void expect_done(const char *what, const struct outcome *out, const struct box *box, size_t len,
		 const struct user_regs_struct *in, int may);

/* The instruction raised @sig with si_code @code (or ANY_CODE); nothing changed but @may. */
#define ANY_CODE (-99999)
void expect_signal(const char *what, const struct outcome *out, const struct box *box, int sig,
		   int code, const struct user_regs_struct *in, int may);

/* Runs the bytes of an instruction. */
#define RUN(box, regs, ...) ({						\
	static const uint8_t code_[] = { __VA_ARGS__ };			\
	box_run(box, code_, sizeof(code_), regs);			\
})

/* Runs the bytes of an instruction that has to come to its end. */
#define DONE(what, box, regs, may, ...) ({				\
	static const uint8_t code_[] = { __VA_ARGS__ };			\
	const struct user_regs_struct *regs_ = (regs);			\
	typeof(box) box_ = (box);					\
	struct outcome out_;						\
									\
	out_ = box_run(box_, code_, sizeof(code_), regs_);		\
	expect_done(what, &out_, box_, sizeof(code_), regs_, may);	\
	out_;								\
})

/* Runs the bytes of an instruction that has to raise a signal. */
#define SIGNALS(what, box, regs, signal, si, may, ...) ({		\
	static const uint8_t code_[] = { __VA_ARGS__ };			\
	const struct user_regs_struct *regs_ = (regs);			\
	typeof(box) box_ = (box);					\
	struct outcome out_;						\
									\
	out_ = box_run(box_, code_, sizeof(code_), regs_);		\
	expect_signal(what, &out_, box_, signal, si, regs_, may);	\
	out_;								\
})

#endif
