/* SPDX-License-Identifier: GPL-2.0 */
/* From multiboot's 32-bit state to Rust in 5-level long mode; start of the other CPUs. */

.set IMAGE_VMA, 0xffffffff80000000
.set TRAMPOLINE, 0x8000
.set ISA_DEBUG_EXIT, 0xf4
.set EXIT_FATAL, 0x0c

.section .boot.header, "ax"
.balign 4
	.long 0x1badb002		/* multiboot magic */
	.long 2				/* memory map wanted */
	.long -(0x1badb002 + 2)

.section .boot.text, "ax"
.code32
/* Multiboot entry: EAX = magic, EBX = info, flat 32-bit segments, no paging, interrupts off. */
.globl boot_entry
boot_entry:
	cli
	cld
	movl	$(boot_stack_top - IMAGE_VMA), %esp
	movl	%eax, %edi		/* first argument of host_main */
	movl	%ebx, %esi		/* second argument */
	/* 64-bit mode, 1 GiB pages and SVM, else stop with a reason. */
	movl	$0x80000001, %eax
	cpuid
	movl	$(no_svm - IMAGE_VMA), %ebp
	testl	$(1 << 2), %ecx
	jz	boot_fail
	movl	$(no_gbpages - IMAGE_VMA), %ebp
	testl	$(1 << 26), %edx
	jz	boot_fail
	movl	$7, %eax
	xorl	%ecx, %ecx
	cpuid
	movl	$(no_la57 - IMAGE_VMA), %ebp
	testl	$(1 << 16), %ecx
	jz	boot_fail
	call	long_mode		/* returns in 64-bit mode, low addresses */
.code64
	movabsq	$boot_high, %rax
	jmpq	*%rax
boot_high:
	movq	$boot_stack_top, %rsp
	xorl	%ebp, %ebp
	call	host_main		/* does not return */
	ud2

.code32
/* Prints the string at EBP on the debug console and ends QEMU. */
boot_fail:
	movw	$0xe9, %dx
1:	movb	(%ebp), %al
	testb	%al, %al
	jz	2f
	outb	%al, %dx
	incl	%ebp
	jmp	1b
2:	movb	$EXIT_FATAL, %al
	outb	%al, $ISA_DEBUG_EXIT
3:	hlt
	jmp	3b

/* Switches to 64-bit mode with the boot tables and returns there. Keeps EDI, ESI; needs a stack. */
long_mode:
	movl	$0x1020, %eax		/* CR4: PAE, LA57 */
	movl	%eax, %cr4
	movl	$(boot_pml5 - IMAGE_VMA), %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER: SVME, NXE, LME */
	movl	$0x1900, %eax
	xorl	%edx, %edx
	wrmsr
	movl	$0x80010031, %eax	/* CR0: PG, WP, NE, ET, PE */
	movl	%eax, %cr0
	lgdt	(boot_gdt_pointer - IMAGE_VMA)
	ljmpl	$8, $(1f - IMAGE_VMA)
.code64
1:	movl	$16, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	(%rsp), %eax		/* the caller pushed 32 bits */
	addq	$4, %rsp
	jmpq	*%rax

/*
 * Where the other CPUs start: copied to TRAMPOLINE. Real mode, CS = TRAMPOLINE >> 4. They use the
 * image at its load address, which is left alone until all of them have moved on.
 */
.code16
.globl ap_trampoline
ap_trampoline:
	cli
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	(ap_gdt_pointer - ap_trampoline)
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmpl	$24, $(TRAMPOLINE + ap_protected - ap_trampoline)
.code32
ap_protected:
	movw	$16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	/*
	 * Each CPU borrows a little stack by its APIC ID: only CALL's return address lives
	 * there.
	 */
	movl	$1, %eax
	cpuid
	shrl	$24, %ebx
	leal	(TRAMPOLINE + 0xe00)(, %ebx, 8), %esp
	addl	$8, %esp
	movl	%ebx, %edi		/* first argument of host_ap */
	movl	$(long_mode - IMAGE_VMA), %eax
	call	*%eax
.code64
	movabsq	$ap_high, %rax
	jmpq	*%rax
.balign 8
ap_gdt_pointer:
	.word	31
	.long	TRAMPOLINE + ap_gdt - ap_trampoline
.balign 8
ap_gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* 8: 64-bit code */
	.quad	0x00cf93000000ffff	/* 16: data */
	.quad	0x00cf9b000000ffff	/* 24: 32-bit code */
.globl ap_trampoline_end
ap_trampoline_end:

/* High addresses, but still the tables of the image at its load address. EDI = APIC ID. */
ap_high:
	movq	(TRAMPOLINE + 0xff8), %rax	/* CR3 of the moved image, set by apic.rs */
	movq	%rax, %cr3
	movl	%edi, %eax
	incl	%eax
	shlq	$16, %rax		/* STACK_SIZE of main.rs */
	leaq	ap_stacks(%rax), %rsp
	xorl	%ebp, %ebp
	call	host_ap			/* does not return */
	ud2

.section .rodata.boot, "a"
no_svm:		.asciz "sevsim: event fatal text=the CPU has no SVM: use -cpu EPYC-Milan,+svm\n"
no_gbpages:	.asciz "sevsim: event fatal text=the CPU has no 1 GiB pages: use -cpu EPYC-Milan\n"
no_la57:	.asciz "sevsim: event fatal text=the CPU has no LA57: add +la57 to -cpu\n"

.section .boot.tables, "aw"
.balign 4096
/*
 * For the start: the direct map and the image (slot 511) share one PML4 and one page-directory-
 * pointer table of 1 GiB pages, whose slot 510 is the image. The identity map (slot 0) serves the
 * switch to long mode only. memory.rs replaces all this by a single table.
 */
.globl boot_pml5
boot_pml5:
	.quad	boot_pml4 - IMAGE_VMA + 0x23
	.fill	510, 8, 0
	.quad	boot_pml4 - IMAGE_VMA + 0x23
.globl boot_pml4
boot_pml4:
	.quad	boot_pdpt - IMAGE_VMA + 0x23
	.fill	510, 8, 0
	.quad	boot_pdpt - IMAGE_VMA + 0x23
.globl boot_pdpt
boot_pdpt:
	.set	page, 0
	.rept	510
	.quad	page + 0xe3
	.set	page, page + 0x40000000
	.endr
	.quad	0xe3		/* the image's first GiB: loaded at 2 MiB, linked at 2 MiB */
	.quad	0
.globl boot_pd_image
boot_pd_image:				/* for memory.rs, where 1 GiB pages do not fit */
	.fill	512, 8, 0
/* Not on a page of the tables, which are not mapped while an exit is handled (isolation.rs). */
.globl boot_gdt
boot_gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* 8: 64-bit code */
	.quad	0x00cf93000000ffff	/* 16: data */
	.word	0, 0, 0
boot_gdt_pointer:
	.word	23
	.long	boot_gdt - IMAGE_VMA
.balign 8
.globl host_gdt_pointer
	.word	0, 0, 0
host_gdt_pointer:
	.word	23
	.quad	boot_gdt

.section .bss.boot, "aw", @nobits
.balign 4096
.globl boot_stack
boot_stack:
	.skip	0x100000
.globl boot_stack_top
boot_stack_top:
