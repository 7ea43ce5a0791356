/* SPDX-License-Identifier: GPL-2.0 */
/*
 * box.h - runs single instructions with all registers known, and sees every end that they can come
 * to: the next instruction, or a signal.
 */
#ifndef HOSTILE_BOX_H
#define HOSTILE_BOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Below the program, because the heap is at a random address of the GiB behind it; each between
 * unmapped pages.
 */
#define BOX_CODE	0x20000UL
#define BOX_DATA	0x40000UL
#define BOX_DATA_SIZE	0x2000UL
#define BOX_STACK	0x60000UL
#define BOX_STACK_SIZE	0x2000UL

/* Bytes of code for an instruction, what surrounds it included. */
#define BOX_SLOT	64

struct box_regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t flags;
};

struct box_end {
	int sig;			/* 0: the instruction was executed */
	bool at_start;			/* RIP of the signal is the instruction */
	struct box_regs regs;
};

/* Maps memory, and takes the signals. */
void box_open(void);

/* Puts an instruction into a slot. */
void box_put(unsigned int slot, const uint8_t *code, size_t len);

/* Runs the instruction in a slot. Right before it the host gets the word that it armed for. */
struct box_end box_run(unsigned int slot, const struct box_regs *regs);

#endif
