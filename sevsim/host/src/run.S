/* SPDX-License-Identifier: GPL-2.0 */
/* World switch and exception entry points of the host. */

/* General registers that VMRUN does not switch; offsets as in vcpu.rs. */
.set RBX, 0x00
.set RCX, 0x08
.set RDX, 0x10
.set RSI, 0x18
.set RDI, 0x20
.set RBP, 0x28
.set R8,  0x30
.set R9,  0x38
.set R10, 0x40
.set R11, 0x48
.set R12, 0x50
.set R13, 0x58
.set R14, 0x60
.set R15, 0x68

.text
/*
 * void world_switch(struct regs *rdi, u64 vmcb_pa rsi): runs the guest until its next exit. Called
 * and returns with GIF = 0. FS, GS, TR, LDTR, system call MSRs, FPU and XCR0 are the guest's all
 * the time: the host uses none of them.
 */
.globl world_switch
world_switch:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushq	%rdi
	movq	%rsi, %rax
	movq	RBX(%rdi), %rbx
	movq	RCX(%rdi), %rcx
	movq	RDX(%rdi), %rdx
	movq	RSI(%rdi), %rsi
	movq	RBP(%rdi), %rbp
	movq	R8(%rdi), %r8
	movq	R9(%rdi), %r9
	movq	R10(%rdi), %r10
	movq	R11(%rdi), %r11
	movq	R12(%rdi), %r12
	movq	R13(%rdi), %r13
	movq	R14(%rdi), %r14
	movq	R15(%rdi), %r15
	movq	RDI(%rdi), %rdi
	vmrun	%rax
	/* RAX and RSP are the host's again, everything else is the guest's. */
	xchgq	%rdi, (%rsp)
	movq	%rbx, RBX(%rdi)
	movq	%rcx, RCX(%rdi)
	movq	%rdx, RDX(%rdi)
	movq	%rsi, RSI(%rdi)
	movq	%rbp, RBP(%rdi)
	movq	%r8, R8(%rdi)
	movq	%r9, R9(%rdi)
	movq	%r10, R10(%rdi)
	movq	%r11, R11(%rdi)
	movq	%r12, R12(%rdi)
	movq	%r13, R13(%rdi)
	movq	%r14, R14(%rdi)
	movq	%r15, R15(%rdi)
	popq	%rax
	movq	%rax, RDI(%rdi)
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

/* void nmi_window(void): takes an NMI that is pending, if any. */
.globl nmi_window
nmi_window:
	stgi
	nop
	clgi
	ret

/*
 * void nmi_wait(void): sleeps until an NMI comes. An NMI between STGI and HLT must not be slept
 * over: its handler moves RIP from the HLT to the instruction behind it.
 */
.globl nmi_wait
nmi_wait:
	stgi
nmi_wait_hlt:
	hlt
	clgi
	ret

/* NMI: counts as a wake-up only; the cause is in the hypervisor's or the mailbox's state. */
.globl nmi_entry
nmi_entry:
	pushq	%rax
	leaq	nmi_wait_hlt(%rip), %rax
	cmpq	%rax, 8(%rsp)
	jne	1f
	incq	8(%rsp)
1:	popq	%rax
	iretq

/* Exceptions of the host: vector on the stack, then the report. */
.balign 16
.globl exception_entries
exception_entries:
	.set	vector, 0
	.rept	32
	.if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
	pushq	$vector
	jmp	exception_common
	.else
	pushq	$0
	pushq	$vector
	jmp	exception_common
	.endif
	.balign 16
	.set	vector, vector + 1
	.endr

exception_common:
	/* RDMSR and WRMSR that fault are tried on purpose: continue at the label behind them. */
	cmpq	$13, (%rsp)
	jne	1f
	pushq	%rax
	leaq	msr_read_insn(%rip), %rax
	cmpq	%rax, 0x18(%rsp)
	je	2f
	leaq	msr_write_insn(%rip), %rax
	cmpq	%rax, 0x18(%rsp)
	je	2f
	popq	%rax
1:	cmpq	$14, (%rsp)
	je	page_fault
report:	movq	%rsp, %rdi
	movq	%cr2, %rsi
	andq	$~15, %rsp
	call	host_exception
	ud2
2:	popq	%rax
	addq	$16, %rsp		/* vector and error code */
	addq	$2, (%rsp)		/* over the two-byte instruction */
	movl	$1, %r8d
	iretq

/*
 * A page fault in the isolated address space may be one to go on after (isolation.rs): the
 * instruction is then executed again, with all its registers.
 */
page_fault:
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%rbx
	leaq	80(%rsp), %rdi
	movq	%cr2, %rsi
	movq	%rsp, %rbx
	andq	$~15, %rsp
	call	host_page_fault
	movq	%rbx, %rsp
	testb	%al, %al
	popq	%rbx
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rax
	jz	report
	addq	$16, %rsp		/* vector and error code */
	iretq

/* u64 msr_read(u32 msr, u64 *value): 0, or 1 if it faulted. */
.globl msr_read
msr_read:
	movl	%edi, %ecx
	xorl	%r8d, %r8d
	xorl	%eax, %eax
	xorl	%edx, %edx
msr_read_insn:
	rdmsr
	shlq	$32, %rdx
	orq	%rdx, %rax
	movq	%rax, (%rsi)
	movl	%r8d, %eax
	ret

/* u64 msr_write(u32 msr, u64 value): 0, or 1 if it faulted. */
.globl msr_write
msr_write:
	movl	%edi, %ecx
	xorl	%r8d, %r8d
	movl	%esi, %eax
	movq	%rsi, %rdx
	shrq	$32, %rdx
msr_write_insn:
	wrmsr
	movl	%r8d, %eax
	ret
