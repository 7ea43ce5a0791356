// SPDX-License-Identifier: GPL-2.0
/*
 * string.c - INS and OUTS: sizes, counts, directions, prefixes, addresses.
 *
 * Sources: QEMU's fw_cfg gives a byte stream of known content; the scratch register and PCI
 * configuration give a constant. Sinks: the scratch register and the PCI address register keep the
 * last element, a DMA address register takes two bytes in order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>

#include "check.h"
#include "io.h"

#define FW_CFG_DIR	0x19
#define STREAM		4096
#define HIGH		0x5555555500000000

static uint8_t stream[STREAM];

/* Reads fw_cfg's directory byte by byte, as reference; selects it again in the box. */
static void open_stream(struct box *box)
{
	struct user_regs_struct regs = string_regs(box, FW_CFG_SELECT, 0);

	if (ioperm(FW_CFG_SELECT, 2, 1))
		skip("no ioperm()");
	outw(0, FW_CFG_SELECT);
	if (inb(FW_CFG_DATA) != 'Q' || inb(FW_CFG_DATA) != 'E')
		skip("no fw_cfg");
	outw(FW_CFG_DIR, FW_CFG_SELECT);
	for (int i = 0; i < STREAM; i++)
		stream[i] = inb(FW_CFG_DATA);
	regs.rax = FW_CFG_DIR;
	DONE("out dx, ax", box, &regs, 0, 0x66, 0xef);
}

static void expect_pointer(const char *what, unsigned long long got, unsigned long long want)
{
	CHECK(got == want, "%s is %#llx instead of %#llx", what, got, want);
}

static void expect_bytes(const char *what, const uint8_t *got, const uint8_t *want, size_t len)
{
	for (size_t i = 0; i < len; i++)
		CHECK(got[i] == want[i], "%s: byte %zu is %#x instead of %#x", what, i, got[i],
		      want[i]);
}

/* One element, without repeat prefix; RCX is 0. */
static void ins_single(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	mark_data();
	box_out8(&box, SCRATCH, 0x42);
	regs = string_regs(&box, SCRATCH, 0);
	out = DONE("insb", &box, &regs, R_DI, 0x6c);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 1);
	CHECK(box_data[0] == 0x42, "read %#x", box_data[0]);
	expect_marks(1, 64);
	box_close(&box);
}

/* RCX is no operand without a repeat prefix, whatever is in it. */
static void ins_single_ignores_rcx(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	mark_data();
	box_out8(&box, SCRATCH, 0x43);
	regs = string_regs(&box, SCRATCH, 7);
	out = DONE("insb with RCX 7", &box, &regs, R_DI, 0x6c);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 1);
	CHECK(box_data[0] == 0x43, "read %#x", box_data[0]);
	expect_marks(1, 64);
	box_close(&box);
}

static void outs_single_ignores_rcx(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	memcpy(box_data, "\x31\x32\x33", 3);
	regs = string_regs(&box, SCRATCH, 7);
	out = DONE("outsb with RCX 7", &box, &regs, R_SI, 0x6e);
	expect_pointer("RSI", out.regs.rsi, BOX_DATA + 1);
	CHECK(box_in8(&box, SCRATCH) == 0x31, "wrote something else");
	box_close(&box);
}

/* A repeat count of 0 does nothing at all. */
static void string_count_zero(void)
{
	struct user_regs_struct regs;
	struct box box;

	box_open(&box, allow_ports);
	mark_data();
	box_out8(&box, SCRATCH, 0x44);
	regs = string_regs(&box, SCRATCH, 0);
	DONE("rep insb, RCX 0", &box, &regs, 0, 0xf3, 0x6c);
	DONE("rep outsb, RCX 0", &box, &regs, 0, 0xf3, 0x6e);
	expect_marks(0, 64);
	CHECK(box_in8(&box, SCRATCH) == 0x44, "something was written");
	/* No access to memory either: an address without page does no harm. */
	regs.rdi = BOX_DATA + BOX_DATA_SIZE + 16;
	DONE("rep insb, RCX 0, no page", &box, &regs, 0, 0xf3, 0x6c);
	box_close(&box);
}

/* Each size, with the repeat count in all of RCX and the pointer moving by the size. */
static void ins_sizes(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;
	uint32_t dword;

	box_open(&box, allow_ports);
	box_out32(&box, PCI_ADDRESS, 0x80000000);
	dword = box_in32(&box, PCI_DATA);

	mark_data();
	regs = string_regs(&box, PCI_DATA, 5);
	out = DONE("rep insd", &box, &regs, R_DI | R_CX, 0xf3, 0x6d);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 20);
	expect_pointer("RCX", out.regs.rcx, 0);
	for (int i = 0; i < 5; i++)
		CHECK(!memcmp(box_data + 4 * i, &dword, 4), "element %d is wrong", i);
	expect_marks(20, 64);

	mark_data();
	regs = string_regs(&box, PCI_DATA, 3);
	out = DONE("rep insw", &box, &regs, R_DI | R_CX, 0x66, 0xf3, 0x6d);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 6);
	for (int i = 0; i < 3; i++)
		CHECK(!memcmp(box_data + 2 * i, &dword, 2), "element %d is wrong", i);
	expect_marks(6, 64);

	/* REX.W does not make it wider. */
	mark_data();
	regs = string_regs(&box, PCI_DATA, 2);
	out = DONE("rep rex.w insd", &box, &regs, R_DI | R_CX, 0xf3, 0x48, 0x6d);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 8);
	expect_marks(8, 64);

	/* REPNE repeats as REP does. */
	mark_data();
	regs = string_regs(&box, PCI_DATA, 2);
	out = DONE("repne insd", &box, &regs, R_DI | R_CX, 0xf2, 0x6d);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 8);
	box_close(&box);
}

/* A stream longer than the GHCB's buffer, over page borders: every byte once, in order. */
static void ins_long_stream(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	open_stream(&box);
	mark_data();
	regs = string_regs(&box, FW_CFG_DATA, STREAM - 1);
	regs.rdi = BOX_DATA + 0x7f1;
	out = DONE("rep insb", &box, &regs, R_DI | R_CX, 0xf3, 0x6c);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 0x7f1 + STREAM - 1);
	expect_pointer("RCX", out.regs.rcx, 0);
	expect_bytes("stream", box_data + 0x7f1, stream, STREAM - 1);
	expect_marks(0, 0x7f1);
	expect_marks(0x7f1 + STREAM - 1, 0x7f1 + STREAM + 64);
	box_close(&box);
}

/* Many 32-bit elements, each 4-byte boundary of the buffer and elements across page borders. */
static void ins_long_unaligned(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;
	uint32_t dword;

	box_open(&box, allow_ports);
	box_out32(&box, PCI_ADDRESS, 0x80000000);
	dword = box_in32(&box, PCI_DATA);
	mark_data();
	regs = string_regs(&box, PCI_DATA, 3001);
	regs.rdi = BOX_DATA + 0xffe;
	out = DONE("rep insd", &box, &regs, R_DI | R_CX, 0xf3, 0x6d);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 0xffe + 3001 * 4);
	for (int i = 0; i < 3001; i++)
		CHECK(!memcmp(box_data + 0xffe + 4 * i, &dword, 4), "element %d is wrong", i);
	expect_marks(0, 0xffe);
	expect_marks(0xffe + 3001 * 4, 0xffe + 3001 * 4 + 64);
	box_close(&box);
}

/* Direction flag set: the pointer moves down, the stream lies backwards in memory. */
static void ins_down(void)
{
	static const int sizes[] = { 1, 2, 4 };
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;
	uint32_t dword;
	uint8_t code[4];
	size_t len;

	box_open(&box, allow_ports);
	open_stream(&box);
	mark_data();
	regs = string_regs(&box, FW_CFG_DATA, 100);
	regs.rdi = BOX_DATA + 0x1000 + 20;
	regs.eflags |= EFLAGS_DF;
	out = DONE("rep insb down", &box, &regs, R_DI | R_CX, 0xf3, 0x6c);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 0x1000 + 20 - 100);
	expect_pointer("RCX", out.regs.rcx, 0);
	for (int i = 0; i < 100; i++)
		CHECK(box_data[0x1000 + 20 - i] == stream[i], "element %d is %#x instead of %#x", i,
		      box_data[0x1000 + 20 - i], stream[i]);
	expect_marks(0x1000 + 21, 0x1000 + 128);
	expect_marks(0x1000 - 200, 0x1000 + 20 - 99);

	box_out32(&box, PCI_ADDRESS, 0x80000000);
	dword = box_in32(&box, PCI_DATA);
	for (int s = 1; s < 3; s++) {
		len = 0;
		if (sizes[s] == 2)
			code[len++] = 0x66;
		code[len++] = 0xf3;
		code[len++] = 0x6d;
		mark_data();
		regs = string_regs(&box, PCI_DATA, 3);
		regs.rdi = BOX_DATA + 0x100;
		regs.eflags |= EFLAGS_DF;
		out = box_run(&box, code, len, &regs);
		expect_done("rep ins down", &out, &box, len, &regs, R_DI | R_CX);
		expect_pointer("RDI", out.regs.rdi, BOX_DATA + 0x100 - 3 * sizes[s]);
		for (int i = 0; i < 3; i++)
			CHECK(!memcmp(box_data + 0x100 - i * sizes[s], &dword, sizes[s]),
			      "size %d, element %d is wrong", sizes[s], i);
		expect_marks(0x100 + sizes[s], 0x200);
		expect_marks(0, 0x100 - 2 * sizes[s]);
	}
	box_close(&box);
}

/* A single element needs no stride: the direction shows in the pointer only. */
static void string_single_down(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	mark_data();
	box_data[0x20] = 0x39;
	regs = string_regs(&box, SCRATCH, 0);
	regs.rsi = BOX_DATA + 0x20;
	regs.eflags |= EFLAGS_DF;
	out = DONE("outsb down", &box, &regs, R_SI, 0x6e);
	expect_pointer("RSI", out.regs.rsi, BOX_DATA + 0x1f);
	CHECK(box_in8(&box, SCRATCH) == 0x39, "wrote something else");
	box_close(&box);
}

static void outs_down(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	for (int i = 0; i < 0x100; i++)
		box_data[i] = i;
	regs = string_regs(&box, SCRATCH, 9);
	regs.rsi = BOX_DATA + 0x80;
	regs.eflags |= EFLAGS_DF;
	out = DONE("rep outsb down", &box, &regs, R_SI | R_CX, 0xf3, 0x6e);
	expect_pointer("RSI", out.regs.rsi, BOX_DATA + 0x80 - 9);
	CHECK(box_in8(&box, SCRATCH) == 0x80 - 8, "the last element was not that at -8");
	box_close(&box);
}

/* A count of more than 32 bits is one: the transfer goes on to the end of memory. */
static void string_count_above_32_bits(void)
{
	const uint64_t count = 1UL << 32 | 3;
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	regs = string_regs(&box, SCRATCH, count);
	regs.rsi = BOX_DATA + BOX_DATA_SIZE - 100;
	regs.rdi = regs.rsi;
	out = SIGNALS("rep outsb", &box, &regs, SIGSEGV, SEGV_MAPERR, R_SI | R_CX, 0xf3, 0x6e);
	expect_pointer("RSI", out.regs.rsi, BOX_DATA + BOX_DATA_SIZE);
	expect_pointer("RCX", out.regs.rcx, count - 100);
	out = SIGNALS("rep insb", &box, &regs, SIGSEGV, SEGV_MAPERR, R_DI | R_CX, 0xf3, 0x6c);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + BOX_DATA_SIZE);
	expect_pointer("RCX", out.regs.rcx, count - 100);
	box_close(&box);
}

/* Sizes, long counts, page borders; the sink keeps the last element. */
static void outs_sizes_and_counts(void)
{
	struct user_regs_struct regs;
	uint32_t *dwords = (uint32_t *)box_data;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	for (size_t i = 0; i < BOX_DATA_SIZE; i++)
		box_data[i] = i * 7 + (i >> 8);
	regs = string_regs(&box, SCRATCH, 5000);
	regs.rsi = BOX_DATA + 0x555;
	out = DONE("rep outsb", &box, &regs, R_SI | R_CX, 0xf3, 0x6e);
	expect_pointer("RSI", out.regs.rsi, BOX_DATA + 0x555 + 5000);
	expect_pointer("RCX", out.regs.rcx, 0);
	CHECK(box_in8(&box, SCRATCH) == box_data[0x555 + 4999], "the last byte is wrong");

	for (size_t i = 0; i < BOX_DATA_SIZE / 4; i++)
		dwords[i] = 0x80000000 | i << 2;
	regs = string_regs(&box, PCI_ADDRESS, 1500);
	regs.rsi = BOX_DATA + 0xf00;
	out = DONE("rep outsd", &box, &regs, R_SI | R_CX, 0xf3, 0x6f);
	expect_pointer("RSI", out.regs.rsi, BOX_DATA + 0xf00 + 6000);
	CHECK(box_in32(&box, PCI_ADDRESS) == dwords[0xf00 / 4 + 1499], "the last dword is %#llx",
	      (unsigned long long)box_in32(&box, PCI_ADDRESS));

	regs = string_regs(&box, 0x80, 700);
	out = DONE("rep outsw", &box, &regs, R_SI | R_CX, 0x66, 0xf3, 0x6f);
	expect_pointer("RSI", out.regs.rsi, BOX_DATA + 1400);
	box_close(&box);
}

/* Two bytes in order, to a register that is written and read in two halves. */
static void outs_order(void)
{
	struct user_regs_struct regs;
	struct box box;
	uint8_t low, high;

	box_open(&box, allow_ports);
	mark_data();
	memcpy(box_data, "\x34\x12", 2);
	box_out8(&box, 0x0c, 0);
	regs = string_regs(&box, 0x02, 2);
	DONE("rep outsb", &box, &regs, R_SI | R_CX, 0xf3, 0x6e);
	box_out8(&box, 0x0c, 0);
	low = box_in8(&box, 0x02);
	high = box_in8(&box, 0x02);
	if (low == 0xff && high == 0xff)
		skip("no DMA controller");
	CHECK(low == 0x34 && high == 0x12, "read back %#x %#x", low, high);
	box_out8(&box, 0x0c, 0);
	regs = string_regs(&box, 0x02, 2);
	regs.rdi = BOX_DATA + 0x40;
	DONE("rep insb", &box, &regs, R_DI | R_CX, 0xf3, 0x6c);
	expect_bytes("read by insb", box_data + 0x40, (uint8_t *)"\x34\x12", 2);
	expect_marks(0x42, 0x80);
	box_close(&box);
}

/* OUTS takes a segment override: FS and GS have a base in 64-bit mode. INS takes none. */
static void outs_segment_override(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	for (int i = 0; i < 64; i++)
		box_data[i] = 0x10 + i;
	regs = string_regs(&box, SCRATCH, 0);
	regs.fs_base = BOX_DATA + 0x10;
	regs.gs_base = BOX_DATA + 0x20;
	regs.rsi = 3;
	out = DONE("outsb fs:", &box, &regs, R_SI, 0x64, 0x6e);
	expect_pointer("RSI", out.regs.rsi, 4);
	CHECK(box_in8(&box, SCRATCH) == 0x23, "fs: wrote something else");
	DONE("outsb gs:", &box, &regs, R_SI, 0x65, 0x6e);
	CHECK(box_in8(&box, SCRATCH) == 0x33, "gs: wrote something else");
	/* ES, DS and the others have no base. */
	regs.rsi = BOX_DATA + 5;
	DONE("outsb es:", &box, &regs, R_SI, 0x26, 0x6e);
	CHECK(box_in8(&box, SCRATCH) == 0x15, "es: wrote something else");
	/* The destination of INS is ES:RDI, with or without an override. */
	box_out8(&box, SCRATCH, 0x66);
	regs.rdi = BOX_DATA + 0x38;
	DONE("insb with fs:", &box, &regs, R_DI, 0x64, 0x6c);
	CHECK(box_data[0x38] == 0x66, "insb with fs: wrote elsewhere");
	box_close(&box);
}

/* A 32-bit address size: EDI/ESI and ECX count, the upper halves are ignored and then cleared. */
static void string_address_size(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	mark_data();
	box_out8(&box, SCRATCH, 0x47);
	regs = string_regs(&box, SCRATCH, HIGH | 3);
	regs.rdi = HIGH | (BOX_DATA + 8);
	out = DONE("a32 rep insb", &box, &regs, R_DI | R_CX, 0x67, 0xf3, 0x6c);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 11);
	expect_pointer("RCX", out.regs.rcx, 0);
	expect_bytes("read", box_data + 8, (uint8_t *)"\x47\x47\x47", 3);
	expect_marks(11, 64);

	memcpy(box_data, "\x51\x52\x53", 3);
	regs = string_regs(&box, SCRATCH, HIGH | 3);
	regs.rsi = HIGH | BOX_DATA;
	out = DONE("a32 rep outsb", &box, &regs, R_SI | R_CX, 0x67, 0xf3, 0x6e);
	expect_pointer("RSI", out.regs.rsi, BOX_DATA + 3);
	CHECK(box_in8(&box, SCRATCH) == 0x53, "wrote something else");
	box_close(&box);
}

/* Prefixes in any order, and the longest possible instruction. */
static void string_prefixes(void)
{
	static const uint8_t longest[] = {
		0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x66, 0xf3, 0x6d,
	};
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;
	uint32_t dword;

	box_open(&box, allow_ports);
	box_out32(&box, PCI_ADDRESS, 0x80000000);
	dword = box_in32(&box, PCI_DATA);
	mark_data();
	regs = string_regs(&box, PCI_DATA, 2);
	out = DONE("rep 66 2e insw", &box, &regs, R_DI | R_CX, 0xf3, 0x66, 0x2e, 0x6d);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 4);
	CHECK(!memcmp(box_data + 2, &dword, 2), "element 1 is wrong");
	mark_data();
	out = box_run(&box, longest, sizeof(longest), &regs);
	expect_done("insw of 14 bytes", &out, &box, sizeof(longest), &regs, R_DI | R_CX);
	expect_pointer("RDI", out.regs.rdi, BOX_DATA + 4);
	box_close(&box);
}

const struct test string_tests[] = {
	{ "ins_single", ins_single },
	{ "ins_single_ignores_rcx", ins_single_ignores_rcx },
	{ "outs_single_ignores_rcx", outs_single_ignores_rcx },
	{ "string_count_zero", string_count_zero },
	{ "ins_sizes", ins_sizes },
	{ "ins_long_stream", ins_long_stream },
	{ "ins_long_unaligned", ins_long_unaligned },
	{ "ins_down", ins_down },
	{ "string_single_down", string_single_down },
	{ "outs_down", outs_down },
	{ "string_count_above_32_bits", string_count_above_32_bits },
	{ "outs_sizes_and_counts", outs_sizes_and_counts },
	{ "outs_order", outs_order },
	{ "outs_segment_override", outs_segment_override },
	{ "string_address_size", string_address_size },
	{ "string_prefixes", string_prefixes },
	{ }
};
