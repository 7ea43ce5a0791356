// SPDX-License-Identifier: GPL-2.0
/*
 * io.c - what all tests of port I/O need.
 */
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <unistd.h>

#include "check.h"
#include "io.h"

void allow_ports(void)
{
	static const struct {
		unsigned short first, count;
	} ports[] = {
		{ 0x00, 0x10 },		/* DMA controller: two-byte registers */
		{ 0x61, 1 },		/* speaker and NMI status */
		{ 0x80, 0x10 },		/* POST code, DMA page registers */
		{ SCRATCH, 1 },		/* scratch register of the first serial port */
		{ FW_CFG_SELECT, 2 },	/* QEMU's fw_cfg */
		{ PCI_ADDRESS, 8 },	/* PCI configuration */
	};

	for (size_t i = 0; i < ARRAY_SIZE(ports); i++) {
		if (ioperm(ports[i].first, ports[i].count, 1)) {
			perror("ioperm");
			_exit(1);
		}
	}
}

struct user_regs_struct io_regs(const struct box *box, uint16_t port)
{
	struct user_regs_struct regs = box_regs(box);

	regs.rdx = 0xd4d4d4d4d4d40000 | port;
	return regs;
}

struct user_regs_struct string_regs(const struct box *box, uint16_t port, uint64_t count)
{
	struct user_regs_struct regs = io_regs(box, port);

	regs.rcx = count;
	regs.rsi = BOX_DATA;
	regs.rdi = BOX_DATA;
	return regs;
}

void box_out8(struct box *box, uint16_t port, uint8_t value)
{
	struct user_regs_struct regs = io_regs(box, port);

	regs.rax = value;
	DONE("out dx, al", box, &regs, 0, 0xee);
}

void box_out32(struct box *box, uint16_t port, uint32_t value)
{
	struct user_regs_struct regs = io_regs(box, port);

	regs.rax = value;
	DONE("out dx, eax", box, &regs, 0, 0xef);
}

uint8_t box_in8(struct box *box, uint16_t port)
{
	struct user_regs_struct regs = io_regs(box, port);

	return DONE("in al, dx", box, &regs, R_AX, 0xec).regs.rax;
}

uint32_t box_in32(struct box *box, uint16_t port)
{
	struct user_regs_struct regs = io_regs(box, port);

	return DONE("in eax, dx", box, &regs, R_AX, 0xed).regs.rax;
}

void mark_data(void)
{
	memset(box_data, MARK, BOX_DATA_SIZE);
}

void expect_marks(size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		CHECK(box_data[i] == MARK, "byte at +%#zx was written", i);
}
