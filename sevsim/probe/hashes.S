/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that knows by which files it wants to be started: a firmware image with an area for the
 * hashes of kernel, initramfs and command line, as that of OvmfPkg/AmdSev. There the host put the
 * hashes of the files that it is going to hand out. The guest compares them with the table at the
 * head of the image, which whoever makes the image fills in. It ends by a termination request of
 * the MSR protocol: reason set 4, code 0 if they are the same, else 1.
 *
 * 16-bit code at the reset vector. Without paging all memory is private.
 */

.set AREA, 0x8000
.set TABLE_LEN, 176			/* table of hashes with its padding */
.set GHCB_MSR, 0xc0010130

.code16
.text
.globl start
image:
	.fill TABLE_LEN, 1, 0xff	/* what is expected */
start:
	cld
	xor %ax, %ax
	mov %ax, %es
	mov $AREA, %di
	mov $0xf000, %si		/* image */
	mov $TABLE_LEN, %cx
	mov $0x4100, %eax		/* termination request, set 4 */
	xor %edx, %edx
	repe cmpsb %es:(%di), %cs:(%si)
	je 1f
	or $1 << 16, %eax
1:	mov $GHCB_MSR, %ecx
	wrmsr
	.byte 0xf3, 0x0f, 0x01, 0xd9	/* VMGEXIT */
2:	hlt
	jmp 2b

/* Entries from the last one on: data, length, GUID. The footer's length is that of all. */
.org 0x1000 - 32 - (footer_end - entries)
entries:
	.long 0xfffff000 + (start - image)	/* where other vCPUs would start */
	.word 4 + 18
	.long 0x00f771de
	.word 0x1a7e, 0x4fcb
	.byte 0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e
	.long AREA, 0x400		/* the area for hashes */
	.word 8 + 18
	.long 0x7255371f
	.word 0x3a3b, 0x4b04
	.byte 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54
	.word footer_end - entries
	.long 0x96b582de
	.word 0x1fb2, 0x45f7
	.byte 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d
footer_end:

/* 16 bytes below 4 GiB: the reset vector. */
.org 0xff0
reset:
	.byte 0xe9			/* JMP */
	.word start - (reset + 3)
.org 0x1000
