// SPDX-License-Identifier: GPL-2.0
/*
 * bytes.c - where the bytes of an instruction that exits can lie, and how the kernel reads them.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "io.h"

static const uint8_t CPUID[] = { 0x0f, 0xa2 };

/* Part of the instruction on the one page, part on the next: each way to split it. */
static void insn_in_two_pages(void)
{
	/* 2e f3 66 insw, as long as an instruction can be; and out imm */
	static const uint8_t ins[] = {
		0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0xf3, 0x66,
		0x6d,
	};
	static const uint8_t out_imm[] = { 0xe6, DMA_PAGE };
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, allow_ports);
	box_out32(&box, PCI_ADDRESS, HOST_BRIDGE);
	for (size_t first = 1; first < sizeof(ins); first++) {
		box.code = BOX_CODE + BOX_PAGE - first;
		mark_data();
		regs = string_regs(&box, PCI_DATA, 3);
		out = box_run(&box, ins, sizeof(ins), &regs);
		expect_done("rep insw", &out, &box, sizeof(ins), &regs, R_DI | R_CX);
		CHECK(out.regs.rdi == BOX_DATA + 6 && !out.regs.rcx, "split at %zu: RDI + %lld",
		      first, (long long)(out.regs.rdi - BOX_DATA));
		expect_marks(6, 16);
	}
	for (size_t first = 1; first < sizeof(CPUID); first++) {
		box.code = BOX_CODE + BOX_PAGE - first;
		regs.rax = 0;
		out = box_run(&box, CPUID, sizeof(CPUID), &regs);
		expect_done("cpuid", &out, &box, sizeof(CPUID), &regs, R_AX | R_BX | R_CX | R_DX);
		out = box_run(&box, out_imm, sizeof(out_imm), &regs);
		expect_done("out imm", &out, &box, sizeof(out_imm), &regs, 0);
	}
	box_close(&box);
}

/* The last two bytes of a page, and nothing behind it: a fetch of 15 bytes runs into a hole. */
static void cpuid_at_page_end(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	box.code = BOX_CODE + BOX_CODE_SIZE - sizeof(CPUID);
	regs = box_regs(&box);
	regs.rax = 0;
	regs.rcx = 0;
	out = box_run(&box, CPUID, sizeof(CPUID), &regs);
	CHECK(!out.hung && !out.died, "CPUID at the end of a page never ends");
	/* The processor goes on behind the page, where nothing is. */
	CHECK(out.sig == SIGSEGV && out.info.si_code == SEGV_MAPERR &&
	      out.regs.rip == BOX_CODE + BOX_CODE_SIZE,
	      "signal %d, si_code %d, RIP at page end + %lld", out.sig, out.info.si_code,
	      (long long)(out.regs.rip - BOX_CODE - BOX_CODE_SIZE));
	CHECK(out.regs.rax >= 0xd && out.regs.rax < 0x1000, "leaf 0 gives EAX %#llx",
	      (unsigned long long)out.regs.rax);
	box_close(&box);
}

/*
 * The same before a page that is mapped, but not present yet: reading the instruction's bytes must
 * not try to bring it in from a context that cannot sleep.
 */
static void cpuid_before_absent_page(void)
{
	char *log = read_kernel_log();
	int before = count_complaints(log, false), after;
	void (*code)(void);
	uint8_t *area;

	free(log);
	area = mmap(NULL, 2 * BOX_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(area != MAP_FAILED, "mmap");
	for (int i = 0; i < 100; i++) {
		madvise(area, 2 * BOX_PAGE, MADV_DONTNEED);
		/* push rbx; xor eax, eax; xor ecx, ecx; 3 nops; cpuid; pop rbx; ret */
		memcpy(area + BOX_PAGE - 12,
		       "\x53\x31\xc0\x31\xc9\x90\x90\x90\x0f\xa2\x5b\xc3", 12);
		code = (void (*)(void))(area + BOX_PAGE - 12);
		code();
	}
	log = read_kernel_log();
	after = count_complaints(log, false);
	CHECK(after == before, "the kernel complains (%d lines, see its log)", after - before);
}

/* The last page of user space: the bytes behind it are nobody's. */
static void cpuid_at_end_of_user_space(void)
{
	const uint64_t page = 0x7fffffffe000;
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;
	void *got = mmap((void *)page, BOX_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (got != (void *)page)
		skip("the last page of user space is taken: %s", strerror(errno));
	memcpy(got + BOX_PAGE - sizeof(CPUID), CPUID, sizeof(CPUID));
	box_open(&box, NULL);
	regs = box_regs(&box);
	regs.rax = 0;
	regs.rcx = page + BOX_PAGE - sizeof(CPUID);
	out = RUN(&box, &regs, 0xff, 0xe1);
	CHECK(out.sig == SIGSEGV && out.regs.rip == page + BOX_PAGE && out.regs.rax >= 0xd,
	      "signal %d, RIP %#llx, RAX %#llx", out.sig, out.regs.rip, out.regs.rax);
	box_close(&box);
}

const struct test bytes_tests[] = {
	{ "insn_in_two_pages", insn_in_two_pages },
	{ "cpuid_at_page_end", cpuid_at_page_end },
	{ "cpuid_before_absent_page", cpuid_before_absent_page },
	{ "cpuid_at_end_of_user_space", cpuid_at_end_of_user_space },
	{ }
};
