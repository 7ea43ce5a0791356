// SPDX-License-Identifier: GPL-2.0
/*
 * pkey.c - protection keys: code that can be executed and not read, and data that PKRU takes away
 * from user space, and from a kernel that acts for it.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "check.h"
#include "io.h"

#define NO_ACCESS	1
#define NO_WRITE	2

/* Error code of a page fault. */
#define PF_PRESENT	0x01
#define PF_WRITE	0x02
#define PF_USER		0x04
#define PF_KEY		0x20

/* A test of what never ends takes no longer. */
#define SECONDS		4

static uint32_t rdpkru(void)
{
	uint32_t value;

	asm volatile("rdpkru" : "=a" (value) : "c" (0) : "rdx");
	return value;
}

static void wrpkru(uint32_t value)
{
	asm volatile("wrpkru" : : "a" (value), "c" (0), "d" (0) : "memory");
}

static void set_rights(int key, uint32_t rights)
{
	wrpkru((rdpkru() & ~(3U << 2 * key)) | rights << 2 * key);
}

static bool have_keys(void)
{
	/* OSPKE */
	return cpuid(7, 0).c & 1 << 4;
}

static int new_key(void)
{
	int key = syscall(SYS_pkey_alloc, 0, 0);

	if (key < 0)
		skip("no protection keys: %s", strerror(errno));
	return key;
}

static void set_key(void *page, int prot, int key)
{
	CHECK(!syscall(SYS_pkey_mprotect, page, BOX_PAGE, prot, key), "pkey_mprotect: %s",
	      strerror(errno));
}

static uint8_t *new_pages(size_t count)
{
	uint8_t *pages = mmap(NULL, count * BOX_PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	CHECK(pages != MAP_FAILED, "mmap: %s", strerror(errno));
	return pages;
}

/* What a signal said, and where to go on after it. */
static struct {
	int count, sig, code, key;
	uint64_t address, error, trap, rip, rcx, rsi, rdi;
} caught;
static uint64_t resume;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	caught.count++;
	caught.sig = sig;
	caught.code = info->si_code;
	caught.key = info->si_pkey;
	caught.address = (uint64_t)info->si_addr;
	caught.error = regs[REG_ERR];
	caught.trap = regs[REG_TRAPNO];
	caught.rip = regs[REG_RIP];
	caught.rcx = regs[REG_RCX];
	caught.rsi = regs[REG_RSI];
	caught.rdi = regs[REG_RDI];
	regs[REG_RIP] = resume;
	regs[REG_EFL] &= ~EFLAGS_DF;
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGILL, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	/* Ends the process, whatever it inherited. */
	signal(SIGALRM, SIG_DFL);
	alarm(SECONDS);
}

struct string {
	uint64_t rcx, rsi, rdi;
	/* Of the instruction. */
	uint64_t rip;
};

#define STRING(name, insn)							\
static void name(struct string *regs, uint16_t port)				\
{										\
	asm volatile("leaq 1f(%%rip), %%rax\n\t"				\
		     "movq %%rax, %[rip]\n\t"					\
		     "leaq 2f(%%rip), %%rax\n\t"				\
		     "movq %%rax, %[resume]\n"					\
		     "1:\t" insn "\n"						\
		     "2:"							\
		     : "+c" (regs->rcx), "+S" (regs->rsi), "+D" (regs->rdi),	\
		       [rip] "=m" (regs->rip), [resume] "=m" (resume)		\
		     : "d" (port) : "rax", "memory");				\
}

STRING(run_insb, "insb")
STRING(run_rep_insb, "rep insb")
STRING(run_outsb, "outsb")
STRING(run_rep_outsb, "rep outsb")
STRING(run_rep_insd_down, "std\n1:\trep insl\n\tcld")

static const struct {
	const char *name;
	void (*run)(struct string *regs, uint16_t port);
	bool in, rep;
} strings[] = {
	{ "insb", run_insb, .in = true },
	{ "rep insb", run_rep_insb, .in = true, .rep = true },
	{ "outsb", run_outsb, .in = false },
	{ "rep outsb", run_rep_outsb, .rep = true },
};

/* Runs each form on a page with these rights; compares what is the same for every handler. */
static void try_rights(uint8_t *page, int key, uint32_t rights, bool error_too)
{
	uint32_t pkru;

	for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
		struct string regs = { strings[i].rep ? 3 : 0, (uint64_t)page + 16,
				       (uint64_t)page + 16, 0 };
		struct string before = regs;
		uint64_t moved = strings[i].rep ? 3 : 1;
		const char *name = strings[i].name;
		bool fault = strings[i].in ? rights : rights & NO_ACCESS;
		uint64_t error = PF_PRESENT | PF_USER | PF_KEY | (strings[i].in ? PF_WRITE : 0);

		memset(&caught, 0, sizeof(caught));
		set_rights(key, rights);
		pkru = rdpkru();
		strings[i].run(&regs, SCRATCH);
		CHECK(rdpkru() == pkru, "%s: PKRU was %#x and is %#x", name, pkru, rdpkru());
		if (!fault) {
			CHECK(!caught.count, "%s with rights %u: signal %d", name, rights,
			      caught.sig);
			CHECK(regs.rdi == before.rdi + (strings[i].in ? moved : 0) &&
			      regs.rsi == before.rsi + (strings[i].in ? 0 : moved),
			      "%s with rights %u: moved something else", name, rights);
			continue;
		}
		CHECK(caught.count == 1 && caught.sig == SIGSEGV && caught.code == SEGV_PKUERR,
		      "%s with rights %u: signal %d, si_code %d", name, rights, caught.sig,
		      caught.code);
		CHECK(caught.key == key, "%s: si_pkey %d instead of %d", name, caught.key, key);
		CHECK(caught.address == (uint64_t)page + 16, "%s: si_addr is %lld bytes off", name,
		      (long long)(caught.address - (uint64_t)page - 16));
		CHECK(caught.rip == regs.rip && caught.rcx == before.rcx &&
		      caught.rsi == before.rsi && caught.rdi == before.rdi,
		      "%s: registers changed", name);
		CHECK(caught.trap == 14, "%s: trap %d", name, (int)caught.trap);
		CHECK(!error_too || caught.error == error, "%s: error code %#llx instead of %#llx",
		      name, (unsigned long long)caught.error, (unsigned long long)error);
	}
}

static void try_all_rights(bool error_too)
{
	int key = new_key();
	uint8_t *page = new_pages(1);

	if (ioperm(SCRATCH, 1, 1))
		skip("no ioperm()");
	set_key(page, PROT_READ | PROT_WRITE, key);
	catch_signals();
	for (int i = 0; i < 20; i++)
		try_rights(page, key, i & 3, error_too);
}

/* INS and OUTS respect the keys as any access to memory does, as PKRU is at the time. */
static void string_protection_key(void)
{
	try_all_rights(false);
}

/* A signal handler sees the error code, too. */
static void string_protection_key_error(void)
{
	try_all_rights(true);
}

/*
 * The second page is read-only by its key. What the device was asked for must not be lost: the rest
 * comes when the page can be written.
 */
static void string_protection_key_progress(void)
{
	static const uint8_t signature[] = "QEMU";
	uint8_t *pages = new_pages(2);
	struct string regs = { 4, 0, (uint64_t)pages + BOX_PAGE - 2, 0 };
	int key = new_key();

	if (ioperm(FW_CFG_SELECT, 2, 1))
		skip("no ioperm()");
	outw(0, FW_CFG_SELECT);
	if (inb(FW_CFG_DATA) != 'Q')
		skip("no fw_cfg");
	outw(0, FW_CFG_SELECT);
	set_key(pages + BOX_PAGE, PROT_READ | PROT_WRITE, key);
	catch_signals();
	set_rights(key, NO_WRITE);
	run_rep_insb(&regs, FW_CFG_DATA);
	CHECK(caught.count == 1 && caught.sig == SIGSEGV && caught.code == SEGV_PKUERR &&
	      caught.key == key, "%d signals, the last %d, si_code %d, si_pkey %d", caught.count,
	      caught.sig, caught.code, caught.key);
	CHECK(caught.address == (uint64_t)pages + BOX_PAGE, "si_addr is %lld bytes off",
	      (long long)(caught.address - (uint64_t)pages - BOX_PAGE));
	CHECK(caught.rcx == 2 && caught.rdi == (uint64_t)pages + BOX_PAGE,
	      "RCX %llu, RDI end %+lld", (unsigned long long)caught.rcx,
	      (long long)(caught.rdi - (uint64_t)pages - BOX_PAGE));
	set_rights(key, 0);
	run_rep_insb(&regs, FW_CFG_DATA);
	CHECK(caught.count == 1 && !memcmp(pages + BOX_PAGE - 2, signature, 4),
	      "%d signals, read %.4s", caught.count, pages + BOX_PAGE - 2);
}

/* An element that crosses into a page that is taken away: nothing of it is written. */
static void string_protection_key_crossing(void)
{
	uint8_t *pages = new_pages(2);
	struct string regs = { 2, 0, (uint64_t)pages + BOX_PAGE + 2, 0 };
	int key = new_key();

	if (ioperm(PCI_DATA, 4, 1))
		skip("no ioperm()");
	memset(pages, MARK, 2 * BOX_PAGE);
	set_key(pages, PROT_READ | PROT_WRITE, key);
	catch_signals();
	set_rights(key, NO_WRITE);
	/* Downwards: the first element is behind the boundary, the second one across it. */
	run_rep_insd_down(&regs, PCI_DATA);
	CHECK(caught.count == 1 && caught.code == SEGV_PKUERR && caught.key == key,
	      "%d signals, si_code %d, si_pkey %d", caught.count, caught.code, caught.key);
	CHECK(caught.address == (uint64_t)pages + BOX_PAGE - 2, "si_addr is %lld bytes off",
	      (long long)(caught.address - (uint64_t)pages - BOX_PAGE + 2));
	CHECK(caught.rcx == 1 && caught.rdi == (uint64_t)pages + BOX_PAGE - 2,
	      "RCX %llu, RDI boundary %+lld", (unsigned long long)caught.rcx,
	      (long long)(caught.rdi - (uint64_t)pages - BOX_PAGE));
	for (int i = -8; i < 2; i++)
		CHECK(pages[BOX_PAGE + i] == MARK, "the byte at %d was written", i);
}

struct call {
	uint64_t rax, rbx, rcx, rdx, rdi;
};

static void call(const uint8_t *code, struct call *regs)
{
	/* The return address must not overwrite the red zone. */
	asm volatile("subq $128, %%rsp\n\tcall *%[code]\n\taddq $128, %%rsp"
		     : "+a" (regs->rax), "+b" (regs->rbx), "+c" (regs->rcx), "+d" (regs->rdx),
		       "+D" (regs->rdi)
		     : [code] "r" (code) : "memory", "cc");
}

/*
 * Puts an instruction, and a RET behind it, into pages that can be executed and not read: at the
 * end of the second one, or across the boundary. The process is to end if it comes no further.
 */
static const uint8_t *execute_only(const uint8_t *insn, size_t len, size_t in_first_page)
{
	uint8_t *pages = new_pages(2);
	uint8_t *at = in_first_page ? pages + BOX_PAGE - in_first_page :
				      pages + 2 * BOX_PAGE - len - 1;

	memcpy(at, insn, len);
	at[len] = 0xc3;
	CHECK(!mprotect(pages, 2 * BOX_PAGE, PROT_EXEC), "mprotect: %s", strerror(errno));
	catch_signals();
	memset(&caught, 0, sizeof(caught));
	resume = (uint64_t)at + len;
	return at;
}

/* The page is what it was before: not readable. */
static void expect_unreadable(const uint8_t *at, uint32_t pkru)
{
	int before = caught.count;
	uint8_t byte;

	CHECK(rdpkru() == pkru, "PKRU was %#x and is %#x", pkru, rdpkru());
	asm volatile("leaq 1f(%%rip), %%rax\n\t"
		     "movq %%rax, %[resume]\n\t"
		     "movb (%[at]), %[byte]\n"
		     "1:"
		     : [byte] "=&q" (byte), [resume] "=m" (resume)
		     : [at] "r" (at) : "rax", "memory");
	CHECK(caught.count == before + 1 && caught.code == SEGV_PKUERR,
	      "the code can be read afterwards");
}

static void cpuid_execute_only(void)
{
	static const uint8_t insn[] = { 0x0f, 0xa2 };
	struct leaf want = cpuid(0, 0);

	note("protection keys are %sin use", have_keys() ? "" : "not ");
	for (size_t split = 0; split < sizeof(insn); split++) {
		const uint8_t *at = execute_only(insn, sizeof(insn), split);
		uint32_t pkru = have_keys() ? rdpkru() : 0;

		for (int i = 0; i < 10; i++) {
			struct call regs = { 0 };

			call(at, &regs);
			CHECK(regs.rax == want.a && regs.rbx == want.b && regs.rcx == want.c &&
			      regs.rdx == want.d, "leaf 0 gives something else");
		}
		CHECK(!caught.count, "signal %d", caught.sig);
		if (have_keys())
			expect_unreadable(at, pkru);
	}
}

/* In keys of the program's own, too: execution is not what they forbid. */
static void cpuid_in_denied_page(void)
{
	static const uint8_t insn[] = { 0x0f, 0xa2 };
	struct leaf want = cpuid(0, 0);
	uint8_t *page = new_pages(1);
	int key = new_key();

	memcpy(page + BOX_PAGE - 3, insn, sizeof(insn));
	page[BOX_PAGE - 1] = 0xc3;
	set_key(page, PROT_READ | PROT_EXEC, key);
	catch_signals();
	for (int i = 0; i < 20; i++) {
		struct call regs = { 0 };

		set_rights(key, i & 3);
		resume = (uint64_t)page + BOX_PAGE - 1;
		call(page + BOX_PAGE - 3, &regs);
		CHECK(!caught.count && regs.rax == want.a && regs.rbx == want.b,
		      "rights %d: %d signals, EAX %#llx", i & 3, caught.count,
		      (unsigned long long)regs.rax);
	}
}

static void port_execute_only(void)
{
	static const uint8_t out[] = { 0xee }, in[] = { 0xec };
	/* As long as an instruction can be, so that all of its bytes have to be read. */
	static const uint8_t ins[] = {
		0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0xf3,
		0x6c,
	};
	struct call regs = { .rax = 0x5a, .rdx = SCRATCH };
	uint8_t buffer[4] = { MARK, MARK, MARK, MARK };

	if (ioperm(SCRATCH, 1, 1))
		skip("no ioperm()");
	call(execute_only(out, sizeof(out), 0), &regs);
	regs.rax = 0x1122334455667700;
	call(execute_only(in, sizeof(in), 0), &regs);
	CHECK(!caught.count && regs.rax == 0x112233445566775a, "%d signals, RAX %#llx",
	      caught.count, (unsigned long long)regs.rax);
	for (size_t split = 0; split < sizeof(ins); split++) {
		memset(buffer, MARK, sizeof(buffer));
		regs.rcx = 3;
		regs.rdi = (uint64_t)buffer;
		call(execute_only(ins, sizeof(ins), split), &regs);
		CHECK(!caught.count && !regs.rcx && !memcmp(buffer, "ZZZ\xee", 4),
		      "split at %zu: %d signals, RCX %lld", split, caught.count,
		      (long long)regs.rcx);
	}
}

static void vmmcall_execute_only(void)
{
	static const uint8_t insn[] = { 0x0f, 0x01, 0xd9 };

	for (size_t split = 0; split < sizeof(insn); split++) {
		struct call regs = { .rax = 1 };

		call(execute_only(insn, sizeof(insn), split), &regs);
		/* Without a hypervisor that takes calls there is no such instruction. */
		if (caught.count == 1 && caught.sig == SIGILL && !guest_is_sev_es)
			continue;
		CHECK(!caught.count && (int64_t)regs.rax < 0, "%d signals, RAX %#llx", caught.count,
		      (unsigned long long)regs.rax);
	}
}

/*
 * When a thread with restartable sequences was preempted, the kernel writes to the thread's memory,
 * and ends it if that cannot be done.
 */
static bool end_sequences(void)
{
	void *area = (char *)__builtin_thread_pointer() + __rseq_offset;

	/* There need not be any. The size has to be that of the registration, whatever that was. */
	for (int size = 0; __rseq_size && size <= 256; size++) {
		if (!syscall(SYS_rseq, area, size, 1 /* unregister */, RSEQ_SIG))
			return true;
	}
	return !__rseq_size;
}

/*
 * With all keys taken away, that of the program's code and stack as well, the kernel has to do
 * without the program's memory. A system call and interrupts make it cause exits itself.
 */
static void all_keys_denied(void)
{
	struct leaf want = cpuid(0, 0);
	uint32_t pkru = 0;

	new_key();
	if (ioperm(SCRATCH, 1, 1))
		skip("no ioperm()");
	if (!end_sequences())
		skip("the C library's restartable sequences cannot be ended");
	catch_signals();
	pkru = rdpkru();
	for (int i = 0; i < 50; i++) {
		uint64_t rax, rbx = 0, rcx = 0, rdx = 0;

		/*
		 * Leaf 0 of CPUID, and alarm(), which starts a timer and tells what was left of the
		 * previous one; in registers until the rights are back.
		 */
		asm volatile("xorl %%ecx, %%ecx\n\t"
			     "xorl %%edx, %%edx\n\t"
			     "movl $-1, %%eax\n\t"
			     "wrpkru\n\t"
			     "xorl %%eax, %%eax\n\t"
			     "cpuid\n\t"
			     "movl %%eax, %%r8d\n\t"
			     "movl %%ebx, %%r9d\n\t"
			     "movl %[port], %%edx\n\t"
			     "movb $0x33, %%al\n\t"
			     "outb %%al, %%dx\n\t"
			     "xorl %%eax, %%eax\n\t"
			     "inb %%dx, %%al\n\t"
			     "movl %%eax, %%r10d\n\t"
			     "movl %[alarm], %%eax\n\t"
			     "movl %[seconds], %%edi\n\t"
			     "syscall\n\t"
			     "movl $20000, %%ecx\n"
			     "1:\tloop 1b\n\t"
			     "movl %[pkru], %%eax\n\t"
			     "xorl %%edx, %%edx\n\t"
			     "wrpkru\n\t"
			     "movl %%r8d, %%eax\n\t"
			     "movl %%r9d, %%ebx\n\t"
			     "movl %%r10d, %%edx"
			     : "=a" (rax), "+b" (rbx), "+c" (rcx), "+d" (rdx)
			     : [port] "i" (SCRATCH), [alarm] "i" (SYS_alarm),
			       [seconds] "i" (SECONDS), [pkru] "r" (pkru)
			     : "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
		CHECK((uint32_t)rax == want.a && (uint32_t)rbx == want.b && rdx == 0x33,
		      "EAX %#x, EBX %#x, the port gives %#x", (uint32_t)rax, (uint32_t)rbx,
		      (uint32_t)rdx);
	}
	CHECK(rdpkru() == pkru, "PKRU was %#x and is %#x", pkru, rdpkru());
}

const struct test pkey_tests[] = {
	{ "cpuid_execute_only", cpuid_execute_only },
	{ "cpuid_in_denied_page", cpuid_in_denied_page },
	{ "port_execute_only", port_execute_only },
	{ "vmmcall_execute_only", vmmcall_execute_only },
	{ "all_keys_denied", all_keys_denied },
	{ "string_protection_key", string_protection_key },
	{ "string_protection_key_error", string_protection_key_error },
	{ "string_protection_key_progress", string_protection_key_progress },
	{ "string_protection_key_crossing", string_protection_key_crossing },
	{ }
};
