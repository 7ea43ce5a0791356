/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that checks the machine: a firmware image that goes from the reset vector to 64-bit mode
 * and looks at what sevsim makes of single instructions and events, where that depends on QEMU and
 * so escapes the unit tests. Each check has a number. The guest ends by a termination request of
 * the MSR protocol: reason set 2, code 0 if all is well, else the number of the check that failed.
 * Where it finds the test port for NMIs it checks their window as well, and if all is well then the
 * reason set is 3.
 *
 * All tables and stacks lie below 64 KiB, in private memory. Linear addresses are physical ones,
 * with the C-bit (bit 51) in their table entries, and 8 GiB further up the same without it.
 */

.set IMAGE, 0xffff0000			/* 64 KiB that end at 4 GiB */
.set CBIT_HIGH, 1 << (51 - 32)		/* in the upper half of an entry */
.set SHARED, 8 << 30

.set PML4, 0x1000
.set PDPT, 0x2000
.set PD, 0x3000				/* four tables: 4 GiB, private */
.set PD_SHARED, 0x7000			/* 1 GiB, shared */
.set GDT, 0x8000
.set TSS, 0x8100
.set IDT, 0x9000
.set STACK, 0xb000			/* its top */
.set STACK_FROM_USER, 0xc000		/* RSP0 */
.set STATE, 0xc000			/* what the handlers saw */
.set GHCB, 0x200000			/* in shared memory */
.set ROLES, 0x220000
.set FRESH, 0x230000			/* shared pages that nobody has touched */

.set CODE64, 8
.set TASK, 16
.set USER_DATA, 32 | 3
.set USER_CODE, 40 | 3

.set EFER, 0xc0000080
.set EFER_SVME, 1 << 12
.set GHCB_MSR, 0xc0010130
.set TEST_NMIS, 0x5e4			/* written: so many NMIs; read: a number */
.set NMI_COMPLETE, 0x80000003

/* Offsets in STATE; RBX points to it. */
.set COUNT, 0				/* exceptions and interrupts since `forget` */
.set VECTOR, 8				/* of the last one */
.set ERROR, 16
.set RIP, 24
.set FLAGS, 32
.set RESUME, 40				/* where to continue, with RSP = R14; */
					/* 0: where it came from */

.set DB, 1
.set NMI, 2
.set DF, 8
.set GP, 13
.set VC, 29

/* Fails as check `number` if the condition holds. */
.macro fail_if condition, number
	mov $\number, %r12d
	j\condition fail
.endm

/* Executes an instruction; an exception continues behind it. */
.macro try instruction:vararg
	call forget
	mov %rsp, %r14
	lea 9f(%rip), %r15
	mov %r15, RESUME(%rbx)
	\instruction
9:
.endm

/* Fails unless exactly this was raised since `forget`. */
.macro expect vector, number
	cmpl $1, COUNT(%rbx)
	fail_if ne, \number
	cmpl $\vector, VECTOR(%rbx)
	fail_if ne, \number
.endm

.macro expect_error vector, error, number
	expect \vector, \number
	cmpl $\error, ERROR(%rbx)
	fail_if ne, \number
.endm

/* An entry of a page table, from 32-bit code. */
.macro entry at, low, high
	movl $(\low), \at
	movl $(\high), \at + 4
.endm

.section .text, "ax"
.globl start
.code16
start:
	cli
	mov %edx, %ebp			/* state at launch, looked at later */
	mov %cr0, %esi
	mov %cr4, %edi
	lgdtl %cs:(gdt32_pointer - start)
	mov $0x11, %eax
	mov %eax, %cr0
	ljmpl $8, $(IMAGE + protected - start)

.code32
protected:
	mov $STACK, %esp
	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	entry PML4, PDPT + 7, CBIT_HIGH
	entry PDPT, PD + 7, CBIT_HIGH
	entry PDPT + 8, PD + 0x1007, CBIT_HIGH
	entry PDPT + 16, PD + 0x2007, CBIT_HIGH
	entry PDPT + 24, PD + 0x3007, CBIT_HIGH
	entry PDPT + 64, PD_SHARED + 7, CBIT_HIGH
	xor %ecx, %ecx
1:	mov %ecx, %eax
	shl $21, %eax
	or $0x87, %eax
	mov %eax, PD(, %ecx, 8)
	movl $CBIT_HIGH, PD + 4(, %ecx, 8)
	cmp $512, %ecx
	jae 2f
	mov %eax, PD_SHARED(, %ecx, 8)
2:	inc %ecx
	cmp $2048, %ecx
	jb 1b
	mov %edi, %eax
	or $0x20, %eax			/* PAE */
	mov %eax, %cr4
	mov $PML4, %eax
	mov %eax, %cr3
	mov $EFER, %ecx
	rdmsr
	mov %eax, %edx
	shr $12, %edx			/* SVME, for check 2 */
	and $1, %edx
	push %edx
	xor %edx, %edx
	or $0x901, %eax			/* NXE, LME, SCE */
	wrmsr
	pop %edx
	mov $0x80000011, %eax
	mov %eax, %cr0
	ljmpl $24, $(IMAGE + long_mode - start)

.code64
long_mode:
	/* 1: state at launch: signature, CR0, CR4. */
	cmp $0x00a00f11, %ebp
	fail_if ne, 1
	cmp $0x10, %esi
	fail_if ne, 1
	cmp $0x40, %edi
	fail_if ne, 1
	/* 2: EFER.SVME is set, as VMRUN wants it. */
	test %edx, %edx
	fail_if z, 2

	mov $CBIT_HIGH, %eax
	shl $32, %rax
	or $PML4, %rax
	mov %rax, %cr3
	mov $STACK, %esp
	lea gdt(%rip), %rsi
	mov $GDT, %edi
	mov $(gdt_end - gdt), %ecx
	rep movsb
	lgdt ram_gdt_pointer(%rip)
	pushq $CODE64
	lea 1f(%rip), %rax
	push %rax
	lretq
1:	xor %eax, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	movq $STACK_FROM_USER, TSS + 4
	mov $TASK, %eax
	ltr %ax
	/* Each vector has a stub of 16 bytes. */
	lea stubs(%rip), %rsi
	mov $IDT, %edi
	mov $64, %ecx
2:	mov %esi, (%rdi)
	mov %esi, 4(%rdi)
	movw $CODE64, 2(%rdi)
	movw $0x8e00, 4(%rdi)
	add $16, %rsi
	add $16, %rdi
	loop 2b
	lidt idt_pointer(%rip)
	/* The events of checks 14 to 16 take the stack of IST 1. */
	movb $1, IDT + DB * 16 + 4
	movb $1, IDT + 0x30 * 16 + 4
	movb $1, IDT + 0x31 * 16 + 4
	mov $STATE, %ebx

	/* 3: CPUID is a #VC with its exit code, a fault. */
	mov $1, %eax
	try cpuid
	expect_error VC, 0x72, 3
	lea -2 + 9b(%rip), %rax
	cmp %rax, RIP(%rbx)
	fail_if ne, 3
	/* 4: and as for any fault the flags that it pushes have RF set. */
	testl $0x10000, FLAGS(%rbx)
	fail_if z, 4

	/* 5: INVD and WBINVD are #VC at CPL 0. 6, 7: #GP in user space. */
	try invd
	expect_error VC, 0x76, 5
	try wbinvd
	expect_error VC, 0x89, 5
	lea user_invd(%rip), %rax
	try jmp user
	expect_error GP, 0, 6
	lea user_wbinvd(%rip), %rax
	try jmp user
	expect_error GP, 0, 7
	/* 8: so is SKINIT. 9: at CPL 0 the instructions of SVM are #VC. */
	lea user_skinit(%rip), %rax
	try jmp user
	expect_error GP, 0, 8
	xor %eax, %eax
	try .byte 0x0f, 0x01, 0xd8	/* VMRUN */
	expect_error VC, 0x80, 9

	/* 10 to 12: reserved bits of CR4, CR3 and DR6 are #GP. */
	mov %cr4, %rax
	bts $31, %rax
	try mov %rax, %cr4
	expect_error GP, 0, 10
	mov %cr3, %rax
	bts $63, %rax
	try mov %rax, %cr3
	expect_error GP, 0, 11
	mov $1, %eax
	shl $40, %rax
	try mov %rax, %dr6
	expect_error GP, 0, 12

	/* 13: #NP in the delivery of a #GP that the host injects makes #DF. */
	mov $EFER, %ecx
	mov $-1, %eax
	mov $-1, %edx
	andb $0x7f, IDT + GP * 16 + 5
	try wrmsr
	orb $0x80, IDT + GP * 16 + 5
	expect_error DF, 0, 13

	/*
	 * 14 to 16: a trap, a software and an external interrupt meet a nested fault on their
	 * way.
	 */
	mov $FRESH + 0x1000, %eax
	call take_stack
	call forget
	pushf
	orl $0x100, (%rsp)
	popf
	nop				/* traps behind this one */
at_trap:
	nop
	expect DB, 14
	lea at_trap(%rip), %rax
	cmp %rax, RIP(%rbx)
	fail_if ne, 14

	mov $FRESH + 0x2000, %eax
	call take_stack
	call forget
	int $0x31
at_int:
	expect 0x31, 15
	lea at_int(%rip), %rax
	cmp %rax, RIP(%rbx)
	fail_if ne, 15

	mov $0x1b, %ecx			/* x2APIC mode */
	mov $0xfee00d00, %eax
	call write_msr
	mov $0x80f, %ecx		/* APIC on, spurious vector */
	mov $0x13f, %eax
	call write_msr
	mov $FRESH + 0x3000, %eax
	call take_stack
	call forget
	mov $0x83f, %ecx		/* interrupt to itself */
	mov $0x30, %eax
	call write_msr
	sti
	nop
	nop
	cli
	expect 0x30, 16
	mov $0x80b, %ecx		/* EOI */
	xor %eax, %eax
	call write_msr

	/*
	 * 17, 18: a page that was a table - by an entry without C-bit; walks are private all the
	 * same - is shared data after INVLPG, and after the next exit with a new CR3.
	 */
	mov $ROLES, %edx
	call walk_roles
	invlpg ROLES(%rsi)
	movl $0x1234, ROLES(%rsi)
	cmpl $0x1234, ROLES
	fail_if e, 17
	mov $ROLES + 0x1000, %edx
	call walk_roles
	mov %cr3, %rax
	xor $0x8, %rax			/* PWT: another value, the same tables */
	mov %rax, %cr3
	mov $1, %eax
	try cpuid
	movl $0x4321, ROLES + 0x1000(%rsi)
	cmpl $0x4321, ROLES + 0x1000
	fail_if e, 18

	/* 19: the port of QEMU's system management interrupt is no way below the host. */
	mov $0xb20010, %ecx		/* OUT, 8 bits */
	xor %eax, %eax
	call write_port
	mov $1, %eax
	try cpuid
	expect VC, 19

	/* 20: an instruction that the host carries out is one step, and ends with the trap. */
	call forget
	mov $EFER, %ecx
	rdmsr
	pushf
	orl $0x100, (%rsp)
	popf
	wrmsr
at_step:
	nop
	expect DB, 20
	lea at_step(%rip), %rax
	cmp %rax, RIP(%rbx)
	fail_if ne, 20

	/* 21: and it is the one that STI still shields from interrupts. */
	call forget
	mov $0x83f, %ecx
	mov $0x30, %eax
	call write_msr
	mov $EFER, %ecx
	sti
	rdmsr
at_interrupt:
	cli
	expect 0x30, 21
	lea at_interrupt(%rip), %rax
	cmp %rax, RIP(%rbx)
	fail_if ne, 21

	/* 22: state that VMRUN does not load is as after reset, whatever ran on the CPU before. */
	mov %cr4, %rax
	or $0x40200, %eax		/* OSXSAVE, OSFXSR */
	mov %rax, %cr4
	xor %ecx, %ecx
	xgetbv
	cmp $1, %eax
	fail_if ne, 22
	push $0
	fnstcw (%rsp)
	stmxcsr 4(%rsp)
	pop %rax
	mov $0x1f80, %ecx
	shl $32, %rcx
	or $0x37f, %rcx
	cmp %rcx, %rax
	fail_if ne, 22
	mov %dr0, %rax
	mov %dr1, %rcx
	or %rcx, %rax
	mov %dr2, %rcx
	or %rcx, %rax
	mov %dr3, %rcx
	or %rcx, %rax
	mov %cr8, %rcx
	or %rcx, %rax
	fail_if nz, 22
	lea reset_to_zero(%rip), %rdi
1:	mov (%rdi), %ecx
	jecxz 2f
	rdmsr
	or %edx, %eax
	fail_if nz, 22
	add $4, %rdi
	jmp 1b
2:
	/* 23: EFER.SVME is the hardware's, and a guest that clears it is not heard. */
	call forget
	mov $EFER, %ecx
	rdmsr
	and $~EFER_SVME, %eax
	wrmsr
	rdmsr
	test $EFER_SVME, %eax
	fail_if z, 23
	cmpl $0, COUNT(%rbx)
	fail_if ne, 23

	mov $TEST_NMIS, %edx
	try in %dx, %eax
	cmpl $0, COUNT(%rbx)
	jne done

	/* 24: of two NMIs one comes. The other waits, whatever IRETs and exits there are. */
	call forget
	mov $TEST_NMIS, %edx
	mov $2, %eax
	out %eax, %dx
	nop
	expect NMI, 24
	mov $EFER, %ecx
	rdmsr
	int $0x31
	rdmsr
	cmpl $2, COUNT(%rbx)
	fail_if ne, 24
	cmpl $0x31, VECTOR(%rbx)
	fail_if ne, 24

	/*
	 * 25, 26: NMI_COMPLETE lets it in at once: in front of the first instruction behind
	 * VMGEXIT. There is no further exit that the host could wait for.
	 */
	call forget
	xor %edx, %edx
	mov $NMI_COMPLETE, %r8d
	call vmgexit
	mov $1 << 24, %ecx
1:	cmpl $0, COUNT(%rbx)
	jne 2f
	dec %ecx
	jnz 1b
2:	expect NMI, 25
	lea behind_vmgexit(%rip), %rax
	cmp %rax, RIP(%rbx)
	fail_if ne, 26
	mov $0x3100, %eax		/* termination request, set 3 */
	jmp end

done:
	xor %r12d, %r12d
fail:
	mov %r12d, %eax
	shl $16, %eax
	or $0x2100, %eax		/* termination request, set 2 */
end:
	xor %edx, %edx
	mov $GHCB_MSR, %ecx
	wrmsr
	.byte 0xf3, 0x0f, 0x01, 0xd9	/* VMGEXIT */
1:	hlt
	jmp 1b

forget:
	movq $0, COUNT(%rbx)
	movq $0, VECTOR(%rbx)
	movq $0, ERROR(%rbx)
	movq $0, RESUME(%rbx)
	ret

/* Has IST 1 end at shared memory EAX. */
take_stack:
	mov %eax, TSS + 36
	movl $SHARED >> 32, TSS + 40
	ret

/* Uses the page EDX as a table for 10 GiB. RSI: the linear address of shared memory. */
walk_roles:
	movq $0x87, (%rdx)
	add $7, %edx
	mov %rdx, PDPT + 80
	mov $10, %esi
	shl $30, %rsi
	invlpg (%rsi)
	mov (%rsi), %al
	mov $SHARED >> 30, %esi
	shl $30, %rsi
	ret

/* Continues at RAX with CPL 3. */
user:
	pushq $USER_DATA
	pushq $0
	pushq $2
	pushq $USER_CODE
	push %rax
	iretq
user_invd:
	invd
user_wbinvd:
	wbinvd
user_skinit:
	.byte 0x0f, 0x01, 0xde

/* Writes EAX to the port that the exit information ECX names, by a VMGEXIT. */
write_port:
	mov %ecx, %edx
	mov $0x7b, %r8d
	jmp vmgexit

/* Writes EAX to the MSR in ECX, by a VMGEXIT. */
write_msr:
	mov $1, %edx
	mov $0x7c, %r8d

/* SW_EXITCODE is R8, SW_EXITINFO1 RDX. */
vmgexit:
	mov $SHARED >> 30, %edi
	shl $30, %rdi
	add $GHCB, %rdi
	mov %r8, 0x390(%rdi)
	mov %rdx, 0x398(%rdi)
	movq $0, 0x3a0(%rdi)
	mov %rcx, 0x308(%rdi)
	mov %rax, 0x1f8(%rdi)
	movq $0, 0x310(%rdi)
	movl $0, 0x3f0(%rdi)		/* valid: RAX, RCX, RDX, the exit's three */
	movl $(1 << 31), 0x3f4(%rdi)
	movl $0, 0x3f8(%rdi)
	movl $(3 << 1 | 7 << 18), 0x3fc(%rdi)
	mov $GHCB_MSR, %ecx
	mov $GHCB, %eax
	xor %edx, %edx
	wrmsr
	.byte 0xf3, 0x0f, 0x01, 0xd9
behind_vmgexit:
	cmpl $0, 0x398(%rdi)
	fail_if ne, 63
	ret

common:
	push %rax
	incq COUNT(%rbx)
	mov 8(%rsp), %rax
	mov %rax, VECTOR(%rbx)
	mov 16(%rsp), %rax
	mov %rax, ERROR(%rbx)
	mov 24(%rsp), %rax
	mov %rax, RIP(%rbx)
	mov 40(%rsp), %rax
	mov %rax, FLAGS(%rbx)
	mov RESUME(%rbx), %rax
	test %rax, %rax
	jz 1f
	mov %r14, %rsp
	jmp *%rax
1:	mov VECTOR(%rbx), %r12d		/* an exception that nobody awaits: 64 and its vector */
	add $64, %r12d
	cmp $64 + 32, %r12d
	jae 2f
	cmp $64 + NMI, %r12d
	je 2f
	cmp $64 + DB, %r12d
	jne fail
2:	andl $~0x100, 40(%rsp)
	pop %rax
	add $16, %rsp
	iretq

.balign 16
stubs:
.set vector, 0
.rept 64
	.if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 29)
	.else
	pushq $0
	.endif
	pushq $vector
	jmp common
	.balign 16
	.set vector, vector + 1
.endr

.balign 4
reset_to_zero:				/* SYSENTER_CS to _EIP, STAR to SFMASK, bases, TSC_AUX */
	.long 0x174, 0x175, 0x176, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084
	.long 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0

.balign 8
gdt32:					/* flat, with 64-bit code at 24 */
	.quad 0
	.quad 0x00cf9b000000ffff
	.quad 0x00cf93000000ffff
	.quad 0x00af9b000000ffff
gdt32_pointer:
	.word 31
	.long IMAGE + gdt32 - start
.balign 8
gdt:
	.quad 0
	.quad 0x00af9b000000ffff	/* 64-bit code */
	.quad 0x0000890000000067 | (TSS & 0xffffff) << 16
	.quad 0
	.quad 0x00cff3000000ffff	/* user data */
	.quad 0x00affb000000ffff	/* user code */
gdt_end:
ram_gdt_pointer:
	.word gdt_end - gdt - 1
	.quad GDT
idt_pointer:
	.word 64 * 16 - 1
	.quad IDT

/* 16 bytes below 4 GiB: the reset vector. */
.org 0xfff0
.code16
	.byte 0xe9			/* JMP, with IP wrapping at 64 KiB */
	.word 0x10000 - 0xfff3
.org 0x10000
