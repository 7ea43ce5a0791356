// SPDX-License-Identifier: GPL-2.0
/*
 * hypercall.c - VMMCALL and VMGEXIT out of user space.
 */
#include "box.h"
#include "check.h"

/* What KVM answers: not permitted from user space, or no such call. */
static bool is_refusal(uint64_t rax)
{
	return rax == (uint64_t)-1 || rax == (uint64_t)-1000;
}

static void vmmcall_from_user(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct box box;

	box_open(&box, NULL);
	for (uint64_t call = 0; call < 12; call++) {
		regs = box_regs(&box);
		regs.rax = call;
		regs.rbx = 0;
		out = RUN(&box, &regs, 0x0f, 0x01, 0xd9);
		if (out.sig == SIGILL) {
			/* No hypervisor that takes calls, or none for user space. */
			expect_signal("vmmcall", &out, &box, SIGILL, ANY_CODE, &regs, 0);
			CHECK(!guest_is_sev_es, "VMMCALL raises #UD in a SEV-ES guest");
			continue;
		}
		expect_done("vmmcall", &out, &box, 3, &regs, R_AX);
		CHECK(is_refusal(out.regs.rax), "call %llu gives %#llx", (unsigned long long)call,
		      (unsigned long long)out.regs.rax);
	}
	note("VMMCALL: %s", out.sig == SIGILL ? "invalid opcode" : "refused by the hypervisor");
	box_close(&box);
}

/*
 * VMGEXIT is not privileged. With no valid request in the GHCB it must have no effect, neither on
 * this process nor on the kernel's next exit.
 */
static void vmgexit_from_user(void)
{
	struct user_regs_struct regs;
	struct outcome out;
	struct leaf before = cpuid(0x80000002, 0), after;
	struct box box;

	box_open(&box, NULL);
	for (int i = 0; i < 50; i++) {
		regs = box_regs(&box);
		regs.rax = i;
		out = RUN(&box, &regs, 0xf3, 0x0f, 0x01, 0xd9);
		if (guest_is_sev_es)
			expect_done("vmgexit", &out, &box, 4, &regs, 0);
		else if (out.sig == SIGILL)
			expect_signal("vmgexit", &out, &box, SIGILL, ANY_CODE, &regs, 0);
		else
			expect_done("vmgexit (vmmcall)", &out, &box, 4, &regs, R_AX);
		/* The kernel's own exits still work. */
		after = cpuid(0x80000002, 0);
		CHECK(after.a == before.a && after.b == before.b && after.c == before.c &&
		      after.d == before.d, "CPUID gives something else after VMGEXIT");
	}
	/* REPNE has the same meaning. */
	out = RUN(&box, &regs, 0xf2, 0x0f, 0x01, 0xd9);
	CHECK(!out.hung && !out.died, "f2 0f 01 d9 never ends");
	box_close(&box);
}

const struct test hypercall_tests[] = {
	{ "vmmcall_from_user", vmmcall_from_user },
	{ "vmgexit_from_user", vmgexit_from_user },
	{ }
};
