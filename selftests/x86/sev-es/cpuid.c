// SPDX-License-Identifier: GPL-2.0
/*
 * cpuid.c - CPUID: results, registers, prefixes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "box.h"
#include "check.h"

static const uint8_t CPUID[] = { 0x0f, 0xa2 };

static const struct {
	uint32_t leaf, subleaf;
} leaves[] = {
	{ 0x0, 0 }, { 0x1, 0 }, { 0x2, 0 }, { 0x4, 0 }, { 0x4, 1 }, { 0x5, 0 }, { 0x6, 0 },
	{ 0x7, 0 }, { 0x7, 1 }, { 0xa, 0 }, { 0xb, 0 }, { 0xb, 1 }, { 0xd, 0 }, { 0xd, 1 },
	{ 0xd, 2 }, { 0xd, 9 }, { 0xf, 0 }, { 0x10, 0 }, { 0x14, 0 }, { 0x15, 0 }, { 0x1f, 0 },
	{ 0x40000000, 0 }, { 0x40000001, 0 }, { 0x40000010, 0 }, { 0x80000000, 0 },
	{ 0x80000001, 0 }, { 0x80000002, 0 }, { 0x80000004, 0 }, { 0x80000005, 0 },
	{ 0x80000008, 0 }, { 0x8000000a, 0 }, { 0x8000001d, 0 }, { 0x8000001d, 3 },
	{ 0x8000001e, 0 }, { 0x8000001f, 0 }, { 0x80000020, 0 }, { 0x7fffffff, 0 },
	{ 0xffffffff, 0xffffffff }, { 0xc0000000, 0 },
};

#define CPUID_MAY (R_AX | R_BX | R_CX | R_DX)

static void run_leaf(struct box *box, uint64_t rax, uint64_t rcx, struct outcome *out)
{
	struct user_regs_struct regs = box_regs(box);
	char what[60];

	regs.rax = rax;
	regs.rcx = rcx;
	snprintf(what, sizeof(what), "CPUID %#llx/%#llx", (unsigned long long)rax,
		 (unsigned long long)rcx);
	*out = box_run(box, CPUID, sizeof(CPUID), &regs);
	expect_done(what, out, box, sizeof(CPUID), &regs, CPUID_MAY);
	CHECK(!((out->regs.rax | out->regs.rbx | out->regs.rcx | out->regs.rdx) >> 32),
	      "%s: upper halves are not cleared", what);
}

/* Leaves with the time or the processor's state in them may differ from call to call. */
static bool same_results(const struct outcome *a, const struct outcome *b)
{
	return a->regs.rax == b->regs.rax && a->regs.rbx == b->regs.rbx &&
	       a->regs.rcx == b->regs.rcx && a->regs.rdx == b->regs.rdx;
}

static void cpuid_registers(void)
{
	struct box box;
	struct outcome plain, high;

	pin_to_cpu(0);
	box_open(&box, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
		run_leaf(&box, leaves[i].leaf, leaves[i].subleaf, &plain);
		/* The upper halves of RAX and RCX are no input. */
		run_leaf(&box, leaves[i].leaf | 0xdead000000000000, leaves[i].subleaf | 1UL << 40,
			 &high);
		CHECK(same_results(&plain, &high), "leaf %#x depends on upper halves",
		      leaves[i].leaf);
	}
	box_close(&box);
}

static void cpuid_vendor(void)
{
	struct leaf l = cpuid(0, 0);
	char vendor[13] = "";

	memcpy(vendor, &l.b, 4);
	memcpy(vendor + 4, &l.d, 4);
	memcpy(vendor + 8, &l.c, 4);
	note("vendor %s, leaves up to %#x and %#x", vendor, l.a, cpuid(0x80000000, 0).a);
	CHECK(l.a >= 0xd, "highest leaf is %#x", l.a);
	for (int i = 0; i < 12; i++)
		CHECK(vendor[i] >= ' ' && vendor[i] <= '~', "vendor is not text");
	if (guest_is_sev)
		CHECK(!strcmp(vendor, "AuthenticAMD"), "vendor of a SEV guest is %s", vendor);
}

/* 0x8000001f: bits for SEV and SEV-ES, position of the C-bit. */
static void cpuid_encryption_leaf(void)
{
	struct leaf l = cpuid(0x8000001f, 0);
	bool sev = l.a & 2, sev_es = l.a & 8;
	unsigned int cbit = l.b & 0x3f, reduction = l.b >> 6 & 0x3f;

	if (cpuid(0x80000000, 0).a < 0x8000001f) {
		CHECK(!guest_is_sev, "a SEV guest without leaf 0x8000001f");
		skip("no leaf 0x8000001f");
	}
	note("leaf 0x8000001f: EAX %#x, C-bit %u, reduction %u", l.a, cbit, reduction);
	if (guest_is_sev)
		CHECK(sev && cbit >= 32 && cbit <= 63, "SEV guest: EAX %#x EBX %#x", l.a, l.b);
	if (guest_is_sev_es)
		CHECK(sev_es, "SEV-ES guest: EAX %#x", l.a);
}

static uint64_t xgetbv0(void)
{
	uint32_t low, high;

	asm volatile("xgetbv" : "=a" (low), "=d" (high) : "c" (0));
	return low | (uint64_t)high << 32;
}

/* Leaf 0xd depends on XCR0, which only the guest knows. */
static void cpuid_xsave_size(void)
{
	uint64_t xcr0;
	uint32_t size = 576;
	struct leaf l;

	if (!(cpuid(1, 0).c & 1 << 26))
		skip("no XSAVE");
	CHECK(cpuid(1, 0).c & 1 << 27, "OSXSAVE is not shown though the kernel uses XSAVE");
	xcr0 = xgetbv0();
	for (int bit = 2; bit < 63; bit++) {
		l = cpuid(0xd, bit);
		if (xcr0 >> bit & 1 && l.a + l.b > size)
			size = l.a + l.b;
	}
	l = cpuid(0xd, 0);
	note("XCR0 %#llx, size %u of at most %u", (unsigned long long)xcr0, l.b, l.c);
	CHECK(l.b == size, "size for XCR0 %#llx is %u, not %u", (unsigned long long)xcr0, l.b,
	      size);
	CHECK(l.c >= l.b, "largest size %u is less than the current %u", l.c, l.b);
	CHECK(!(xcr0 & ~(l.a | (uint64_t)l.d << 32)), "XCR0 has bits that leaf 0xd lacks");
}

/* Each processor shows its own APIC identifier, all else is alike. */
static void cpuid_each_processor(void)
{
	struct leaf first = cpuid(0x80000001, 0), first1, l;
	int seen = 0, ids[256] = { 0 };

	CHECK(pin_to_cpu(0), "cannot run on processor 0");
	first1 = cpuid(1, 0);
	for (int cpu = 0; cpu < cpu_count(); cpu++) {
		if (!pin_to_cpu(cpu))
			continue;
		l = cpuid(1, 0);
		CHECK(!ids[l.b >> 24]++, "two processors have APIC identifier %u", l.b >> 24);
		CHECK(l.a == first1.a && l.d == first1.d, "leaf 1 of processor %d differs", cpu);
		l = cpuid(0x80000001, 0);
		CHECK(!memcmp(&l, &first, sizeof(l)), "leaf 0x80000001 of processor %d differs",
		      cpu);
		l = cpuid(0xb, 0);
		CHECK(!l.b || l.d == cpuid(1, 0).b >> 24,
		      "x2APIC identifier %u, APIC identifier %u", l.d, cpuid(1, 0).b >> 24);
		seen++;
	}
	note("%d processors looked at", seen);
}

/* Prefixes do not change what CPUID does, only its length. LOCK is invalid. */
static void cpuid_prefixes(void)
{
	static const struct {
		const char *what;
		uint8_t code[8];
		size_t len;
	} forms[] = {
		{ "66 CPUID", { 0x66, 0x0f, 0xa2 }, 3 },
		{ "F3 CPUID", { 0xf3, 0x0f, 0xa2 }, 3 },
		{ "F2 CPUID", { 0xf2, 0x0f, 0xa2 }, 3 },
		{ "REX.W CPUID", { 0x48, 0x0f, 0xa2 }, 3 },
		{ "GS CPUID", { 0x65, 0x0f, 0xa2 }, 3 },
		{ "67 CPUID", { 0x67, 0x0f, 0xa2 }, 3 },
		{ "2E 66 REX CPUID", { 0x2e, 0x66, 0x41, 0x0f, 0xa2 }, 5 },
	};
	static const uint8_t lock[] = { 0xf0, 0x0f, 0xa2 };
	struct user_regs_struct regs;
	struct outcome out, want;
	struct box box;

	pin_to_cpu(0);
	box_open(&box, NULL);
	run_leaf(&box, 0x80000002, 0, &want);
	regs = box_regs(&box);
	regs.rax = 0x80000002;
	regs.rcx = 0;
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		out = box_run(&box, forms[i].code, forms[i].len, &regs);
		expect_done(forms[i].what, &out, &box, forms[i].len, &regs, CPUID_MAY);
		CHECK(same_results(&out, &want), "%s: other results", forms[i].what);
	}
	out = box_run(&box, lock, sizeof(lock), &regs);
	expect_signal("LOCK CPUID", &out, &box, SIGILL, ANY_CODE, &regs, 0);
	box_close(&box);
}

const struct test cpuid_tests[] = {
	{ "cpuid_registers", cpuid_registers },
	{ "cpuid_vendor", cpuid_vendor },
	{ "cpuid_encryption_leaf", cpuid_encryption_leaf },
	{ "cpuid_xsave_size", cpuid_xsave_size },
	{ "cpuid_each_processor", cpuid_each_processor },
	{ "cpuid_prefixes", cpuid_prefixes },
	{ }
};
