// SPDX-License-Identifier: GPL-2.0
/*
 * port.c - IN and OUT of every size and form, with and without permission.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <unistd.h>

#include "check.h"
#include "io.h"

#define RAX		0x1122334455667788

static struct user_regs_struct port_regs(const struct box *box, uint64_t rax, uint16_t port)
{
	struct user_regs_struct regs = io_regs(box, port);

	regs.rax = rax;
	return regs;
}

/* Vendor and device of the host bridge, as the kernel found them. */
static uint32_t host_bridge(void)
{
	char vendor[16], device[16];

	if (!read_text("/sys/bus/pci/devices/0000:00:00.0/vendor", vendor, sizeof(vendor)) ||
	    !read_text("/sys/bus/pci/devices/0000:00:00.0/device", device, sizeof(device)))
		skip("no PCI");
	return strtoul(vendor, NULL, 16) | strtoul(device, NULL, 16) << 16;
}

static void expect_rax(const char *what, const struct outcome *out, uint64_t want)
{
	CHECK(out->regs.rax == want, "%s: RAX %#llx instead of %#llx", what,
	      (unsigned long long)out->regs.rax, (unsigned long long)want);
}

/* OUT 8 bits by DX and by immediate, read back; nothing else may change. */
static void port_out_8(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	for (int value = 0x5a; value < 0x100; value += 0x4b) {
		regs = port_regs(&box, 0x1122334455667700 | value, SCRATCH);
		DONE("out dx, al", &box, &regs, 0, 0xee);
		regs.rax = 0;
		out = DONE("in al, dx", &box, &regs, R_AX, 0xec);
		CHECK((out.regs.rax & 0xff) == (unsigned int)value, "wrote %#x, read %#llx", value,
		      (unsigned long long)out.regs.rax);

		regs = port_regs(&box, 0x1122334455667700 | value, 0);
		DONE("out imm, al", &box, &regs, 0, 0xe6, DMA_PAGE);
		regs.rax = 0;
		out = DONE("in al, imm", &box, &regs, R_AX, 0xe4, DMA_PAGE);
		CHECK((out.regs.rax & 0xff) == (unsigned int)value,
		      "wrote %#x, read %#llx (immediate)", value, (unsigned long long)out.regs.rax);
	}
	box_close(&box);
}

/* OUT 16 and 32 bits, seen through PCI configuration and fw_cfg. */
static void port_out_16_32(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	/* 32 bits: the address register reads back. */
	regs = port_regs(&box, 0x1122334480000004, PCI_ADDRESS);
	DONE("out dx, eax", &box, &regs, 0, 0xef);
	regs.rax = 0;
	out = DONE("in eax, dx", &box, &regs, R_AX, 0xed);
	CHECK((uint32_t)out.regs.rax == 0x80000004, "wrote 0x80000004, read %#llx",
	      (unsigned long long)out.regs.rax);
	/* 16 bits: select fw_cfg's signature, its first byte is a Q. */
	regs = port_regs(&box, 0x1122334455660000, 0x510);
	DONE("out dx, ax", &box, &regs, 0, 0x66, 0xef);
	regs = port_regs(&box, 0, 0x511);
	out = DONE("in al, dx", &box, &regs, R_AX, 0xec);
	if ((out.regs.rax & 0xff) != 'Q')
		note("no fw_cfg here: 16 bits of OUT are not read back");
	/* 16 and 32 bits by immediate: the POST code port takes anything. */
	regs = port_regs(&box, RAX, 0);
	DONE("out imm, ax", &box, &regs, 0, 0x66, 0xe7, 0x80);
	DONE("out imm, eax", &box, &regs, 0, 0xe7, 0x80);
	box_close(&box);
}

/* IN changes exactly as much of RAX as it is wide; 32 bits clear the upper half. */
static void port_in_8_keeps_upper_bits(void)
{
	uint32_t bridge = host_bridge();
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	regs = port_regs(&box, HOST_BRIDGE, PCI_ADDRESS);
	RUN(&box, &regs, 0xef);
	for (int byte = 0; byte < 4; byte++) {
		regs = port_regs(&box, RAX, PCI_DATA + byte);
		out = DONE("in al, dx", &box, &regs, R_AX, 0xec);
		expect_rax("in al, dx", &out, (RAX & ~0xffUL) | (bridge >> 8 * byte & 0xff));
	}
	box_close(&box);
}

static void port_in_16_keeps_upper_bits(void)
{
	uint32_t bridge = host_bridge();
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	regs = port_regs(&box, HOST_BRIDGE, PCI_ADDRESS);
	RUN(&box, &regs, 0xef);
	for (int word = 0; word < 2; word++) {
		regs = port_regs(&box, RAX, PCI_DATA + 2 * word);
		out = DONE("in ax, dx", &box, &regs, R_AX, 0x66, 0xed);
		expect_rax("in ax, dx", &out, (RAX & ~0xffffUL) | (bridge >> 16 * word & 0xffff));
	}
	box_close(&box);
}

static void port_in_low_bits(void)
{
	uint32_t bridge = host_bridge();
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	regs = port_regs(&box, HOST_BRIDGE, PCI_ADDRESS);
	RUN(&box, &regs, 0xef);
	regs = port_regs(&box, RAX, PCI_DATA + 1);
	out = RUN(&box, &regs, 0xec);
	CHECK((out.regs.rax & 0xff) == (bridge >> 8 & 0xff), "in al: %#llx",
	      (unsigned long long)out.regs.rax);
	regs = port_regs(&box, RAX, PCI_DATA + 2);
	out = RUN(&box, &regs, 0x66, 0xed);
	CHECK((out.regs.rax & 0xffff) == bridge >> 16, "in ax: %#llx",
	      (unsigned long long)out.regs.rax);
	box_close(&box);
}

static void port_in_32_clears_upper_half(void)
{
	uint32_t bridge = host_bridge();
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	regs = port_regs(&box, HOST_BRIDGE, PCI_ADDRESS);
	RUN(&box, &regs, 0xef);
	regs = port_regs(&box, RAX, PCI_DATA);
	out = DONE("in eax, dx", &box, &regs, R_AX, 0xed);
	expect_rax("in eax, dx", &out, bridge);
	/* REX.W does not make it wider. */
	out = DONE("rex.w in eax, dx", &box, &regs, R_AX, 0x48, 0xed);
	expect_rax("rex.w in eax, dx", &out, bridge);
	/* A repeat prefix means nothing here. */
	regs.rcx = 5;
	out = DONE("rep in eax, dx", &box, &regs, R_AX, 0xf3, 0xed);
	expect_rax("rep in eax, dx", &out, bridge);
	box_close(&box);
}

/* Without permission: general protection, nothing done. */
static void port_refused(void)
{
	static const struct {
		const char *what;
		uint8_t code[3];
		size_t len;
	} forms[] = {
		{ "in al, dx", { 0xec }, 1 }, { "in ax, dx", { 0x66, 0xed }, 2 },
		{ "in eax, dx", { 0xed }, 1 }, { "out dx, al", { 0xee }, 1 },
		{ "out dx, ax", { 0x66, 0xef }, 2 }, { "out dx, eax", { 0xef }, 1 },
		{ "in al, imm", { 0xe4, 0x80 }, 2 }, { "in eax, imm", { 0xe5, 0x80 }, 2 },
		{ "out imm, al", { 0xe6, 0x80 }, 2 }, { "out imm, eax", { 0xe7, 0x80 }, 2 },
		{ "insb", { 0x6c }, 1 }, { "rep insb", { 0xf3, 0x6c }, 2 },
		{ "rep insd", { 0xf3, 0x6d }, 2 }, { "outsb", { 0x6e }, 1 },
		{ "rep outsb", { 0xf3, 0x6e }, 2 }, { "rep outsd", { 0xf3, 0x6f }, 2 },
	};
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	regs = port_regs(&box, RAX, 0x80);
	regs.rcx = 1;
	regs.rsi = BOX_DATA;
	regs.rdi = BOX_DATA;
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		out = box_run(&box, forms[i].code, forms[i].len, &regs);
		expect_signal(forms[i].what, &out, &box, SIGSEGV, SI_KERNEL, &regs, 0);
	}
	box_close(&box);
}

static void allow_some(void)
{
	ioperm(SCRATCH, 1, 1);
	ioperm(PCI_DATA, 3, 1);
	/* A permission that is taken back. */
	ioperm(0x80, 1, 1);
	ioperm(0x80, 1, 0);
}

/* A wide access needs permission for each of its ports. */
static void port_partly_refused(void)
{
	struct user_regs_struct regs;
	struct box box;

	box_open(&box, allow_some);
	regs = port_regs(&box, RAX, SCRATCH);
	DONE("in al from an allowed port", &box, &regs, R_AX, 0xec);
	SIGNALS("in ax over the last allowed port", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0x66, 0xed);
	regs = port_regs(&box, RAX, PCI_DATA);
	DONE("in ax from allowed ports", &box, &regs, R_AX, 0x66, 0xed);
	SIGNALS("in eax over the last allowed port", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0xed);
	SIGNALS("out eax over the last allowed port", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0xef);
	regs = port_regs(&box, RAX, 0x80);
	SIGNALS("out to a port that was allowed once", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0xee);
	box_close(&box);
}

static void allow_all(void)
{
	if (ioperm(0, 65536, 1))
		_exit(1);
}

/* The permission map ends with port 0xffff; what reaches beyond it is refused. */
static void port_end_of_space(void)
{
	struct user_regs_struct regs;
	struct box box;

	box_open(&box, allow_all);
	regs = port_regs(&box, RAX, 0xffff);
	DONE("in al from port 0xffff", &box, &regs, R_AX, 0xec);
	regs = port_regs(&box, RAX, 0xfffe);
	SIGNALS("in eax from port 0xfffe", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0xed);
	regs = port_regs(&box, RAX, 0xffff);
	SIGNALS("in ax from port 0xffff", &box, &regs, SIGSEGV, SI_KERNEL, 0, 0x66, 0xed);
	box_close(&box);
}

static void raise_iopl(void)
{
	if (iopl(3)) {
		perror("iopl");
		_exit(1);
	}
}

/* iopl(3) opens all ports, without any ioperm(). */
static void port_iopl_3(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	if (iopl(0))
		skip("no iopl()");
	box_open(&box, raise_iopl);
	regs = port_regs(&box, 0x77, SCRATCH);
	DONE("out dx, al", &box, &regs, 0, 0xee);
	regs.rax = 0;
	out = DONE("in al, dx", &box, &regs, R_AX, 0xec);
	CHECK((out.regs.rax & 0xff) == 0x77, "wrote 0x77, read %#llx",
	      (unsigned long long)out.regs.rax);
	box_close(&box);
}

const struct test port_tests[] = {
	{ "port_out_8", port_out_8 },
	{ "port_out_16_32", port_out_16_32 },
	{ "port_in_low_bits", port_in_low_bits },
	{ "port_in_8_keeps_upper_bits", port_in_8_keeps_upper_bits },
	{ "port_in_16_keeps_upper_bits", port_in_16_keeps_upper_bits },
	{ "port_in_32_clears_upper_half", port_in_32_clears_upper_half },
	{ "port_refused", port_refused },
	{ "port_partly_refused", port_partly_refused },
	{ "port_end_of_space", port_end_of_space },
	{ "port_iopl_3", port_iopl_3 },
	{ }
};
