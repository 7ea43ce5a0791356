/* SPDX-License-Identifier: GPL-2.0 */
/*
 * io.h - ports that the tests use, and what all tests of port I/O need.
 */
#ifndef SEV_ES_IO_H
#define SEV_ES_IO_H

#include "box.h"

#define SCRATCH		0x3ff	/* of the first serial port: 8 bits, reads back what was written */
#define DMA_PAGE	0x83	/* the same, and reached by an immediate */
#define PCI_ADDRESS	0xcf8	/* 32 bits, reads back what was written */
#define PCI_DATA	0xcfc	/* a constant, if the address is that of the host bridge */
#define HOST_BRIDGE	0x80000000
#define FW_CFG_SELECT	0x510
#define FW_CFG_DATA	0x511	/* a stream of bytes */

/* What memory that must not be written is filled with. */
#define MARK		0xee

/* Lets the box use these ports; for prepare(). */
void allow_ports(void);

/* Registers for port I/O: the port in DX, the upper bits of which mean nothing. */
struct user_regs_struct io_regs(const struct box *box, uint16_t port);

/* The same for INS and OUTS: the count in RCX, and the data of the box in RSI and RDI. */
struct user_regs_struct string_regs(const struct box *box, uint16_t port, uint64_t count);

/* IN and OUT, executed in the box. */
void box_out8(struct box *box, uint16_t port, uint8_t value);
void box_out32(struct box *box, uint16_t port, uint32_t value);
uint8_t box_in8(struct box *box, uint16_t port);
uint32_t box_in32(struct box *box, uint16_t port);

/* Fills the data of the box with marks; nothing but the wanted bytes may change. */
void mark_data(void);
void expect_marks(size_t from, size_t to);

#endif
