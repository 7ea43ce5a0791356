// SPDX-License-Identifier: GPL-2.0
/*
 * Start the kernel in /kexec/bzImage by kexec, at its 64-bit entry, with the initramfs in
 * /kexec/initrd: in a SEV-ES guest without firmware its decompressor then runs once more.
 *
 * Small on purpose: it places everything between 256 and 512 MiB, where a guest of 1 GiB has plain
 * RAM, and takes the memory map and the ACPI root pointer over from the parameters that the
 * running kernel was booted with.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KERNEL_AT	0x10000000UL
#define PARAMS_AT	0x18000000UL
#define CMDLINE_AT	0x18001000UL
#define STUB_AT		0x18002000UL
#define INITRD_AT	0x19000000UL
#define PAGE		4096UL

/* Documentation/arch/x86/boot.rst */
#define HEADER		0x1f1
#define HEADER_LEN	0x201
#define HEADER_BASE	0x202
#define LOADER_TYPE	0x210
#define RAMDISK_IMAGE	0x218
#define RAMDISK_SIZE	0x21c
#define CMD_LINE_PTR	0x228
#define INIT_SIZE	0x260
#define ENTRY_64	0x200
/* Documentation/arch/x86/zero-page.rst */
#define EXT_FIRST	0x0c0
#define EXT_LEN		12

static const char cmdline[] =
	"console=ttyS0 panic=-1 sevsim.poweroff sevsim.second";

struct file {
	uint8_t *data;
	size_t len;
};

static struct file load(const char *path)
{
	struct file file = { .len = 0 };
	size_t room = 0;
	int fd = open(path, O_RDONLY);
	ssize_t got;

	if (fd < 0)
		err(1, "%s", path);
	do {
		if (file.len == room) {
			room = room ? 2 * room : 1 << 20;
			file.data = realloc(file.data, room);
			if (!file.data)
				err(1, "%s", path);
		}
		got = read(fd, file.data + file.len, room - file.len);
		if (got < 0)
			err(1, "%s", path);
		file.len += got;
	} while (got);
	close(fd);
	return file;
}

static void put32(uint8_t *params, size_t at, uint32_t value)
{
	memcpy(params + at, &value, sizeof(value));
}

static struct kexec_segment segment(unsigned long at, const void *data, size_t len, size_t room)
{
	struct kexec_segment segment = {
		.buf = data,
		.bufsz = len,
		.mem = (void *)at,
		.memsz = (room + PAGE - 1) & ~(PAGE - 1),
	};

	return segment;
}

int main(void)
{
	/* movq $PARAMS_AT, %rsi; movq $entry, %rax; jmp *%rax */
	uint8_t stub[22] = { 0x48, 0xbe, [10] = 0x48, 0xb8, [20] = 0xff, 0xe0 };
	const uint64_t params_at = PARAMS_AT, entry = KERNEL_AT + ENTRY_64;
	struct file kernel = load("/kexec/bzImage");
	struct file initrd = load("/kexec/initrd");
	struct file params = load("/sys/kernel/boot_params/data");
	struct kexec_segment segments[5];
	uint32_t init_size;
	size_t setup;

	if (kernel.len < 4096 || params.len != PAGE || memcmp(kernel.data + 0x202, "HdrS", 4))
		errx(1, "not a kernel, or no boot parameters");
	setup = (kernel.data[HEADER] + 1) * 512UL;
	memcpy(&init_size, kernel.data + INIT_SIZE, sizeof(init_size));

	memcpy(params.data + HEADER, kernel.data + HEADER,
	       HEADER_BASE + kernel.data[HEADER_LEN] - HEADER);
	memset(params.data + EXT_FIRST, 0, EXT_LEN);
	params.data[LOADER_TYPE] = 0xff;
	put32(params.data, RAMDISK_IMAGE, INITRD_AT);
	put32(params.data, RAMDISK_SIZE, initrd.len);
	put32(params.data, CMD_LINE_PTR, CMDLINE_AT);
	memcpy(stub + 2, &params_at, sizeof(params_at));
	memcpy(stub + 12, &entry, sizeof(entry));

	segments[0] = segment(KERNEL_AT, kernel.data + setup, kernel.len - setup, init_size);
	segments[1] = segment(PARAMS_AT, params.data, params.len, PAGE);
	segments[2] = segment(CMDLINE_AT, cmdline, sizeof(cmdline), PAGE);
	segments[3] = segment(STUB_AT, stub, sizeof(stub), PAGE);
	segments[4] = segment(INITRD_AT, initrd.data, initrd.len, initrd.len);
	if (syscall(SYS_kexec_load, STUB_AT, 5UL, segments, KEXEC_ARCH_X86_64))
		err(1, "kexec_load");
	sync();
	syscall(SYS_reboot, 0xfee1deadUL, 672274793UL, 0x45584543UL, NULL);
	err(1, "reboot");
}
