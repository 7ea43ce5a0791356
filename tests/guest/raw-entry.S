/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A boot loader in the place of firmware that enters a kernel image at startup_64 and does nothing
 * else. Page tables, boot parameters, command line and the image are in memory when the machine
 * starts; scripts/raw-entry has put them there, and tells by the block at 0x7000 where.
 *
 * Linked to 0xffff0000: the last 64 KiB below 4 GiB, with the reset vector at their end.
 */
	.set	BLOCK_CR3, 0x7000	/* below 4 GiB */
	.set	BLOCK_CR4, 0x7008
	.set	BLOCK_STACK, 0x7010
	.set	BLOCK_PARAMETERS, 0x7018
	.set	BLOCK_ENTRY, 0x7020

	.section .text
	.globl	_start
_start:
	.code16
enter:
	/* Real mode, CS base 0xffff0000 */
	cli
	lgdtl	%cs:(gdt_pointer - _start)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x08, $protected

	.code32
protected:
	/* Protected mode without paging */
	movl	$0x18, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss

	movl	BLOCK_CR4, %eax
	movl	%eax, %cr4
	movl	BLOCK_CR3, %eax
	movl	%eax, %cr3
	/* EFER.LME, and NXE, which loaders have on */
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x900, %eax
	wrmsr
	/* Paging with write protection */
	movl	$0x80010001, %eax
	movl	%eax, %cr0
	ljmpl	$0x10, $long_mode

	.code64
long_mode:
	movq	BLOCK_STACK, %rsp
	movq	BLOCK_PARAMETERS, %rsi
	movq	BLOCK_ENTRY, %rax
	jmp	*%rax

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9a000000ffff	/* 0x08: 32-bit code */
	.quad	0x00af9a000000ffff	/* 0x10: 64-bit code, __KERNEL_CS */
	.quad	0x00cf92000000ffff	/* 0x18: data */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt

	/* The reset vector: a jump that wraps around to the start of the 64 KiB */
	.org	0xfff0
	.byte	0xe9
	.word	0x10000 - 0xfff3
	.org	0x10000
