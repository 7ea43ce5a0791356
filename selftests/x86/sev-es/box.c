// SPDX-License-Identifier: GPL-2.0
/*
 * box.c - run single instructions with every register known.
 */
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "box.h"
#include "check.h"

/* An emulated instruction takes microseconds; a lost one runs for ever. */
#define BOX_SECONDS	4.0

uint8_t *const box_data = (uint8_t *)BOX_DATA;

struct xsave {
	uint8_t bytes[4096];
	size_t size;
};

static void map_at(unsigned long address, size_t size, int prot)
{
	void *got = mmap((void *)address, size, prot,
			 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	CHECK(got == (void *)address, "mmap at %#lx: %s", address, strerror(errno));
}

/* All boxes of a test share the memory, one after the other. */
static void map_memory(void)
{
	static bool mapped;

	if (!mapped) {
		map_at(BOX_CODE, BOX_CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC);
		map_at(BOX_DATA, BOX_DATA_SIZE, PROT_READ | PROT_WRITE);
		map_at(BOX_STACK, BOX_STACK_SIZE, PROT_READ | PROT_WRITE);
		mapped = true;
	}
	/* Present from the start, so that no page fault comes in between. */
	memset((void *)BOX_CODE, 0, BOX_CODE_SIZE);
	memset((void *)BOX_DATA, 0, BOX_DATA_SIZE);
	memset((void *)BOX_STACK, 0, BOX_STACK_SIZE);
}

void box_open(struct box *box, void (*prepare)(void))
{
	int status;

	map_memory();
	memset(box, 0, sizeof(*box));
	box->code = BOX_CODE + 64;

	box->pid = fork();
	CHECK(box->pid >= 0, "fork: %s", strerror(errno));
	if (!box->pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		/* Touch the pages here as well: shared mappings are not copied by fork. */
		for (unsigned long at = BOX_CODE; at < BOX_CODE + BOX_CODE_SIZE; at += BOX_PAGE)
			__atomic_load_n((uint8_t *)at, __ATOMIC_RELAXED);
		for (unsigned long at = BOX_DATA; at < BOX_DATA + BOX_DATA_SIZE; at += BOX_PAGE)
			__atomic_store_n((uint8_t *)at, 0, __ATOMIC_RELAXED);
		if (prepare)
			prepare();
		raise(SIGSTOP);
		_exit(1);
	}
	CHECK(waitpid(box->pid, &status, 0) == box->pid && WIFSTOPPED(status) &&
	      WSTOPSIG(status) == SIGSTOP, "box did not start: status %#x", status);
	ptrace(PTRACE_SETOPTIONS, box->pid, 0, PTRACE_O_EXITKILL);
	CHECK(!ptrace(PTRACE_GETREGS, box->pid, 0, &box->start), "PTRACE_GETREGS");
}

void box_close(struct box *box)
{
	kill(box->pid, SIGKILL);
	waitpid(box->pid, NULL, 0);
	box->pid = 0;
}

struct user_regs_struct box_regs(const struct box *box)
{
	struct user_regs_struct regs = box->start;

	regs.rax = 0xa1a1a1a1a1a1a1a1;
	regs.rbx = 0xb2b2b2b2b2b2b2b2;
	regs.rcx = 0xc3c3c3c3c3c3c3c3;
	regs.rdx = 0xd4d4d4d4d4d4d4d4;
	regs.rsi = 0xe5e5e5e5e5e5e5e5;
	regs.rdi = 0xf6f6f6f6f6f6f6f6;
	regs.rbp = 0x1717171717171717;
	regs.rsp = BOX_STACK + BOX_STACK_SIZE / 2;
	regs.r8 = 0x0808080808080808;
	regs.r9 = 0x0909090909090909;
	regs.r10 = 0x1010101010101010;
	regs.r11 = 0x1111111111111111;
	regs.r12 = 0x1212121212121212;
	regs.r13 = 0x1313131313131313;
	regs.r14 = 0x1414141414141414;
	regs.r15 = 0x1515151515151515;
	regs.eflags = 0x2 | EFLAGS_IF;
	/* No system call is to be restarted. */
	regs.orig_rax = -1;
	return regs;
}

static void fpu_get(struct box *box, struct xsave *xsave)
{
	struct iovec iov = { xsave->bytes, sizeof(xsave->bytes) };

	CHECK(!ptrace(PTRACE_GETREGSET, box->pid, NT_X86_XSTATE, &iov), "PTRACE_GETREGSET");
	xsave->size = iov.iov_len;
}

/* Puts a pattern into XMM0-15, and into the upper halves of YMM0-15 if there are any. */
static void fpu_fill(struct box *box, struct xsave *xsave)
{
	static int has_avx = -1;
	struct iovec iov = { xsave->bytes, 0 };
	uint64_t *features = (uint64_t *)(xsave->bytes + 512);

	fpu_get(box, xsave);
	iov.iov_len = xsave->size;
	for (int i = 0; i < 256; i++)
		xsave->bytes[160 + i] = 0x40 + i;
	*features |= 3;
	if (has_avx < 0)
		has_avx = !!(cpuid(0xd, 0).a & 4);
	if (xsave->size >= 832 && has_avx) {
		for (int i = 0; i < 256; i++)
			xsave->bytes[576 + i] = 0x80 ^ i;
		*features |= 4;
	}
	CHECK(!ptrace(PTRACE_SETREGSET, box->pid, NT_X86_XSTATE, &iov), "PTRACE_SETREGSET");
	fpu_get(box, xsave);
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* Waits for the box to stop; ends it if it runs without end. */
static void box_wait(struct box *box, struct outcome *out)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval timer = { { 0, 200000 }, { 0, 200000 } };
	struct itimerval off = { 0 };
	double start = now();
	int status = 0;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	while (waitpid(box->pid, &status, 0) < 0) {
		CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
		if (now() - start < BOX_SECONDS)
			continue;
		out->hung = true;
		/* Stop it, to see where it is. */
		kill(box->pid, SIGSTOP);
		if (waitpid(box->pid, &status, 0) >= 0 || errno != EINTR)
			break;
	}
	setitimer(ITIMER_REAL, &off, NULL);
	if (WIFSTOPPED(status))
		out->sig = WSTOPSIG(status);
	else
		out->died = true;
}

struct outcome box_run(struct box *box, const void *code, size_t len,
		       const struct user_regs_struct *regs)
{
	struct outcome out = { 0 };
	struct user_regs_struct set = *regs;
	uint64_t at = box->code_base + box->code;
	struct xsave before, after;
	int go_on = PTRACE_CONT;

	memcpy((void *)at, code, len);
	/* No room for the int3 at the end of the code area: the caller expects a fault there. */
	if (at + len < BOX_CODE + BOX_CODE_SIZE)
		*(uint8_t *)(at + len) = 0xcc;
	set.rip = box->code;
	fpu_fill(box, &before);
	CHECK(!ptrace(PTRACE_SETREGS, box->pid, 0, &set), "PTRACE_SETREGS: %s", strerror(errno));
	if (box->step)
		go_on = box->blocks ? PTRACE_SINGLEBLOCK : PTRACE_SINGLESTEP;
	CHECK(!ptrace(go_on, box->pid, 0, 0), "PTRACE_CONT: %s", strerror(errno));
	box_wait(box, &out);
	if (out.died)
		return out;
	CHECK(!ptrace(PTRACE_GETREGS, box->pid, 0, &out.regs), "PTRACE_GETREGS");
	if (ptrace(PTRACE_GETSIGINFO, box->pid, 0, &out.info))
		memset(&out.info, 0, sizeof(out.info));
	fpu_get(box, &after);
	out.fpu_same = before.size == after.size && !memcmp(before.bytes, after.bytes, before.size);
	return out;
}

static void expect_regs(const char *what, const struct outcome *out,
			const struct user_regs_struct *in, int may)
{
	const struct {
		const char *name;
		size_t offset;
		int may;
	} regs[] = {
#define REG(field, bit) { #field, offsetof(struct user_regs_struct, field), bit }
		REG(rax, R_AX), REG(rbx, R_BX), REG(rcx, R_CX), REG(rdx, R_DX), REG(rsi, R_SI),
		REG(rdi, R_DI), REG(rbp, 0), REG(rsp, R_SP), REG(r8, 0), REG(r9, 0), REG(r10, 0),
		REG(r11, 0), REG(r12, 0), REG(r13, 0), REG(r14, 0), REG(r15, 0), REG(cs, 0),
		REG(ss, 0), REG(ds, 0), REG(es, 0), REG(fs, 0), REG(gs, 0), REG(fs_base, 0),
		REG(gs_base, 0),
#undef REG
	};
	/* RF is the processor's note to itself: ptrace shows it after some faults. */
	unsigned long long flags = (in->eflags ^ out->regs.eflags) & ~EFLAGS_RF;

	for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
		unsigned long long before, after;

		before = *(unsigned long long *)((char *)in + regs[i].offset);
		after = *(unsigned long long *)((char *)&out->regs + regs[i].offset);
		if (!(regs[i].may & may) && before != after)
			fail("%s: %s changed from %#llx to %#llx", what, regs[i].name, before,
			     after);
	}
	if (!(may & R_FLAGS) && flags)
		fail("%s: flags changed from %#llx to %#llx", what,
		     (unsigned long long)in->eflags, (unsigned long long)out->regs.eflags);
	CHECK(out->fpu_same, "%s: x87, SSE or AVX registers changed", what);
}

static void expect_alive(const char *what, const struct outcome *out)
{
	CHECK(!out->hung, "%s: never ends (RIP %#llx, RCX %#llx)", what,
	      (unsigned long long)out->regs.rip, (unsigned long long)out->regs.rcx);
	CHECK(!out->died, "%s: the process is gone", what);
}

void expect_done(const char *what, const struct outcome *out, const struct box *box, size_t len,
		 const struct user_regs_struct *in, int may)
{
	unsigned long long end = box->code + len + (box->step ? 0 : 1);

	expect_alive(what, out);
	CHECK(out->sig == SIGTRAP, "%s: signal %d (%s), si_code %d, address %p, RIP + %lld", what,
	      out->sig, strsignal(out->sig), out->info.si_code, out->info.si_addr,
	      (long long)(out->regs.rip - box->code));
	CHECK(out->regs.rip == end, "%s: RIP is %lld bytes off", what,
	      (long long)(out->regs.rip - end));
	expect_regs(what, out, in, may);
}

void expect_signal(const char *what, const struct outcome *out, const struct box *box, int sig,
		   int code, const struct user_regs_struct *in, int may)
{
	expect_alive(what, out);
	CHECK(out->sig == sig, "%s: signal %d (%s), si_code %d instead of signal %d, RIP + %lld",
	      what, out->sig, strsignal(out->sig), out->info.si_code, sig,
	      (long long)(out->regs.rip - box->code));
	CHECK(code == ANY_CODE || out->info.si_code == code, "%s: si_code %d instead of %d", what,
	      out->info.si_code, code);
	CHECK(out->regs.rip == box->code, "%s: RIP is %lld bytes off", what,
	      (long long)(out->regs.rip - box->code));
	expect_regs(what, out, in, may);
}
