// SPDX-License-Identifier: GPL-2.0
/*
 * insns.c - the instructions that steps execute, and what they may change.
 */
#include "insns.h"

#define CODE(...)	.code = { __VA_ARGS__ }, .len = sizeof((uint8_t[]){ __VA_ARGS__ })

/* Scratch register of the first serial port, POST code, DMA page register. */
#define SCRATCH		0x3ff
#define PAGE_REGISTER	0x84
#define NOT_ALLOWED	0x60

const struct insn insns[] = {
	/* These exit. */
	{ "cpuid", CODE(0x0f, 0xa2), .may = M_AX | M_BX | M_CX | M_DX, .low = true,
	  .is_cpuid = true },
	{ "rdtsc", CODE(0x0f, 0x31), .may = M_AX | M_DX, .low = true },
	{ "rdtscp", CODE(0x0f, 0x01, 0xf9), .may = M_AX | M_CX | M_DX, .low = true },
	{ "vmmcall", CODE(0x0f, 0x01, 0xd9), .may = M_AX },
	{ "out dx, al", CODE(0xee), .port = PAGE_REGISTER },
	{ "out dx, ax", CODE(0x66, 0xef), .port = PAGE_REGISTER },
	{ "out dx, eax", CODE(0xef), .port = PAGE_REGISTER },
	{ "in al, dx", CODE(0xec), .may = M_AX, .keep = ~0xffUL, .port = PAGE_REGISTER },
	{ "in ax, dx", CODE(0x66, 0xed), .may = M_AX, .keep = ~0xffffUL, .port = PAGE_REGISTER },
	{ "in eax, dx", CODE(0xed), .may = M_AX, .low = true, .port = PAGE_REGISTER },
	{ "insb", CODE(0x6c), .string_in = true, .size = 1, .port = SCRATCH, .pointers = true },
	{ "rep insb", CODE(0xf3, 0x6c), .string_in = true, .rep = true, .size = 1, .rcx = 300,
	  .port = SCRATCH, .pointers = true },
	{ "rep insw", CODE(0xf3, 0x66, 0x6d), .string_in = true, .rep = true, .size = 2, .rcx = 33,
	  .port = PAGE_REGISTER, .pointers = true },
	{ "rep insl", CODE(0xf3, 0x6d), .string_in = true, .rep = true, .size = 4, .rcx = 17,
	  .port = PAGE_REGISTER, .pointers = true },
	{ "outsb", CODE(0x6e), .string_out = true, .size = 1, .port = SCRATCH, .pointers = true },
	{ "rep outsb", CODE(0xf3, 0x6e), .string_out = true, .rep = true, .size = 1, .rcx = 300,
	  .port = SCRATCH, .pointers = true },
	{ "rep outsl", CODE(0xf3, 0x6f), .string_out = true, .rep = true, .size = 4, .rcx = 17,
	  .port = PAGE_REGISTER, .pointers = true },
	{ "out dx, al, not allowed", CODE(0xee), .port = NOT_ALLOWED, .refused = true },
	{ "in al, dx, not allowed", CODE(0xec), .port = NOT_ALLOWED, .refused = true },
	{ "rep insb, not allowed", CODE(0xf3, 0x6c), .string_in = true, .rep = true, .size = 1,
	  .rcx = 30, .port = NOT_ALLOWED, .refused = true, .pointers = true },
	/* And these do not, or are refused before they would. */
	{ "nop", CODE(0x90) },
	{ "mov eax, [rsi]", CODE(0x8b, 0x06), .pointers = true },
	{ "mov rax, [rsi]", CODE(0x48, 0x8b, 0x06), .pointers = true },
	{ "mov al, [rsi]", CODE(0x8a, 0x06), .pointers = true },
	{ "mov [rdi], eax", CODE(0x89, 0x07), .pointers = true },
	{ "mov [rdi], rax", CODE(0x48, 0x89, 0x07), .pointers = true },
	{ "mov byte [rdi], 1", CODE(0xc6, 0x07, 0x01), .pointers = true },
	{ "mov dword [rdi], 1", CODE(0xc7, 0x07, 0x01, 0, 0, 0), .pointers = true },
	{ "movzx eax, byte [rsi]", CODE(0x0f, 0xb6, 0x06), .pointers = true },
	{ "movsx rax, word [rsi]", CODE(0x48, 0x0f, 0xbf, 0x06), .pointers = true },
	{ "movsb", CODE(0xa4), .pointers = true },
	{ "movsq", CODE(0x48, 0xa5), .pointers = true },
	{ "rep movsb", CODE(0xf3, 0xa4), .rcx = 20, .pointers = true },
	{ "stosl", CODE(0xab), .pointers = true },
	{ "lodsl", CODE(0xad), .pointers = true },
	{ "rep stosb", CODE(0xf3, 0xaa), .rcx = 20, .pointers = true },
	{ "add [rdi], eax", CODE(0x01, 0x07), .pointers = true },
	{ "or dword [rdi], 5", CODE(0x83, 0x0f, 0x05), .pointers = true },
	{ "test [rsi], eax", CODE(0x85, 0x06), .pointers = true },
	{ "cmp [rsi], eax", CODE(0x39, 0x06), .pointers = true },
	{ "xchg [rdi], eax", CODE(0x87, 0x07), .pointers = true },
	{ "lock cmpxchg [rdi], ecx", CODE(0xf0, 0x0f, 0xb1, 0x0f), .pointers = true },
	{ "movups xmm0, [rsi]", CODE(0x0f, 0x10, 0x06), .pointers = true },
	{ "gs mov eax, [rsi]", CODE(0x65, 0x8b, 0x06), .pointers = true },
	{ "push rax", CODE(0x50) },
	{ "push [rsi]", CODE(0xff, 0x36), .pointers = true },
	{ "pushfq", CODE(0x9c) },
	{ "rdmsr", CODE(0x0f, 0x32), .rcx = 0xc0010015, .refused = true },
	{ "wrmsr", CODE(0x0f, 0x30), .rcx = 0xc0010015, .refused = true },
	{ "rdpmc", CODE(0x0f, 0x33), .rcx = 1, .may = M_AX | M_DX },
	{ "invd", CODE(0x0f, 0x08), .refused = true },
	{ "wbinvd", CODE(0x0f, 0x09), .refused = true },
	{ "monitor", CODE(0x0f, 0x01, 0xc8), .refused = true, .nothing = true },
	{ "mwait", CODE(0x0f, 0x01, 0xc9), .refused = true, .nothing = true },
	{ "mov rax, dr7", CODE(0x0f, 0x21, 0xf8), .refused = true },
	{ "mov dr7, rax", CODE(0x0f, 0x23, 0xf8), .refused = true },
	{ "hlt", CODE(0xf4), .refused = true },
	{ "cli", CODE(0xfa), .refused = true },
	{ "ud2", CODE(0x0f, 0x0b), .refused = true },
	{ "int3", CODE(0xcc), .refused = true },
};

const unsigned int insn_count = sizeof(insns) / sizeof(insns[0]);
const unsigned int insn_exits = 20;
