/* SPDX-License-Identifier: GPL-2.0 */
/*
 * insns.h - the instructions that steps execute, and what they may change.
 */
#ifndef HOSTILE_INSNS_H
#define HOSTILE_INSNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Registers that an instruction writes. */
enum { M_AX = 1, M_BX = 2, M_CX = 4, M_DX = 8, M_SI = 16, M_DI = 32 };

struct insn {
	const char *name;
	uint8_t code[12];
	uint8_t len;
	uint8_t may;			/* registers that it writes, with a value of the host's */
	uint64_t keep;			/* bits of RAX that it keeps nevertheless */
	bool low;			/* upper halves of what it writes become 0 */
	uint16_t port;			/* in DX */
	bool refused;			/* raises an exception in user mode */
	bool nothing;			/* may be executed nevertheless, as a NOP */
	bool is_cpuid;			/* takes leaves */
	bool string_in, string_out, rep;
	uint8_t size;			/* of an element of a string */
	uint64_t rcx;			/* RCX, where it is a count */
	bool pointers;			/* RSI and RDI are pointers */
};

extern const struct insn insns[];
/* All, and those at the beginning that exit to the host by themselves. */
extern const unsigned int insn_count, insn_exits;

#endif
