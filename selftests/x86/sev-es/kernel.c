// SPDX-License-Identifier: GPL-2.0
/*
 * kernel.c - exits that the kernel itself causes when user space asks it to.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static int open_cpu(const char *what, int cpu, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/cpu/%d/%s", cpu, what);
	return open(path, flags);
}

static bool read_msr(int fd, uint32_t msr, uint64_t *value)
{
	return pread(fd, value, sizeof(*value), msr) == sizeof(*value);
}

static void msr_read(void)
{
	uint64_t tsc, again, value;

	for (int cpu = 0; cpu < cpu_count(); cpu++) {
		int fd = open_cpu("msr", cpu, O_RDONLY);

		if (fd < 0)
			skip("no /dev/cpu/%d/msr", cpu);
		CHECK(read_msr(fd, 0x10, &tsc) && read_msr(fd, 0x10, &again), "TSC: no value");
		/* QEMU's TCG reads it as 0. */
		if (tsc || guest_is_sev_es)
			CHECK(again > tsc && again - tsc < 1UL << 36, "TSC: %llu, then %llu",
			      (unsigned long long)tsc, (unsigned long long)again);
		CHECK(read_msr(fd, 0x1b, &value), "APIC base: no value");
		CHECK((value & 0xfffffffff000) == 0xfee00000 && value & 0x800,
		      "APIC base is %#llx", (unsigned long long)value);
		CHECK(!!(value & 0x100) == !cpu, "processor %d: boot processor bit is %d", cpu,
		      !!(value & 0x100));
		CHECK(read_msr(fd, 0xc0000080, &value) && (value & 0x501) == 0x501, "EFER is %#llx",
		      (unsigned long long)value);
		CHECK(read_msr(fd, 0x277, &value) && value, "PAT is %#llx",
		      (unsigned long long)value);
		CHECK(read_msr(fd, 0x2ff, &value), "MTRR default type: no value");
		if (guest_is_sev) {
			CHECK(read_msr(fd, 0xc0010131, &value), "SEV status: no value");
			CHECK(value & 1 && !!(value & 2) == guest_is_sev_es, "SEV status is %#llx",
			      (unsigned long long)value);
		}
		/* A register that no processor has, but TCG. */
		if (guest_is_sev_es)
			CHECK(!read_msr(fd, 0xdeadbeef, &value) && errno == EIO,
			      "MSR 0xdeadbeef can be read: %#llx", (unsigned long long)value);
		close(fd);
	}
}

static void msr_write(void)
{
	uint64_t value, again;
	int fd;

	for (int cpu = 0; cpu < cpu_count(); cpu++) {
		fd = open_cpu("msr", cpu, O_RDWR);
		if (fd < 0)
			skip("no /dev/cpu/%d/msr", cpu);
		/* The same value: nothing changes, but the write goes its whole way. */
		CHECK(read_msr(fd, 0x277, &value), "PAT: no value");
		if (pwrite(fd, &value, sizeof(value), 0x277) != sizeof(value)) {
			CHECK(errno == EPERM, "PAT cannot be written: %s", strerror(errno));
			skip("the kernel does not let MSRs be written");
		}
		CHECK(read_msr(fd, 0x277, &again) && again == value, "PAT is %#llx after %#llx",
		      (unsigned long long)again, (unsigned long long)value);
		if (guest_is_sev_es)
			CHECK(pwrite(fd, &value, sizeof(value), 0xdeadbeef) < 0 && errno == EIO,
			      "MSR 0xdeadbeef can be written");
		close(fd);
	}
}

/* The kernel's CPUID on each processor gives what user space's does. */
static void cpuid_device(void)
{
	static const uint32_t leaves[] = { 0, 0x80000000, 0x80000001, 0x80000002, 0x8000001f };
	struct leaf mine, theirs;
	int fd;

	for (int cpu = 0; cpu < cpu_count(); cpu++) {
		fd = open_cpu("cpuid", cpu, O_RDONLY);
		if (fd < 0)
			skip("no /dev/cpu/%d/cpuid", cpu);
		for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
			mine = cpuid(leaves[i], 0);
			CHECK(pread(fd, &theirs, sizeof(theirs), leaves[i]) == sizeof(theirs),
			      "leaf %#x of processor %d: no value", leaves[i], cpu);
			CHECK(!memcmp(&mine, &theirs, sizeof(mine)),
			      "leaf %#x of processor %d differs", leaves[i], cpu);
		}
		close(fd);
	}
}

/* The TSC must be the clock: reading the HPET would be an exit each time. */
static void clock_source_is_tsc(void)
{
	char text[64], available[128] = "";

	read_text("/sys/devices/system/clocksource/clocksource0/available_clocksource", available,
		  sizeof(available));
	CHECK(read_text("/sys/devices/system/clocksource/clocksource0/current_clocksource", text,
			sizeof(text)), "no clock source");
	CHECK(!strcmp(text, "tsc"), "clock source is %s of: %s", text, available);
}

static void processors_are_online(void)
{
	int online = 0;

	for (int cpu = 0; cpu < cpu_count(); cpu++)
		online += cpu_online(cpu);
	CHECK(online == cpu_count(), "%d of %d processors are online", online, cpu_count());
}

/* Offline: the processor waits in the hypervisor (AP reset hold); online: it starts again. */
static void processor_hotplug(void)
{
	char path[80], text[8];
	int count = cpu_count();

	if (count < 2)
		skip("only one processor");
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu1/online");
	if (access(path, W_OK))
		skip("no CPU hotplug");
	for (int round = 0; round < 2; round++) {
		for (int cpu = 1; cpu < count; cpu++) {
			snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
			CHECK(write_text(path, "0"), "processor %d does not go offline: %s", cpu,
			      strerror(errno));
			CHECK(read_text(path, text, sizeof(text)) && text[0] == '0',
			      "processor %d is still online", cpu);
			/* In the last round all are off at the same time. */
			if (round)
				continue;
			CHECK(write_text(path, "1"), "processor %d does not come back: %s", cpu,
			      strerror(errno));
		}
		for (int cpu = 1; round && cpu < count; cpu++) {
			snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
			CHECK(write_text(path, "1"), "processor %d does not come back: %s", cpu,
			      strerror(errno));
		}
		for (int cpu = 1; cpu < count; cpu++) {
			CHECK(pin_to_cpu(cpu), "cannot run on processor %d", cpu);
			CHECK(cpuid(0, 0).a >= 0xd, "CPUID on processor %d", cpu);
		}
		pin_to_cpu(0);
	}
}

static void real_time_clock(void)
{
	struct rtc_time time;
	int fd = open("/dev/rtc0", O_RDONLY);

	if (fd < 0)
		skip("no /dev/rtc0");
	for (int i = 0; i < 20; i++) {
		CHECK(!ioctl(fd, RTC_RD_TIME, &time), "RTC_RD_TIME: %s", strerror(errno));
		CHECK(time.tm_year >= 120 && time.tm_mon < 12 && time.tm_hour < 24,
		      "year %d, month %d, hour %d", time.tm_year, time.tm_mon, time.tm_hour);
	}
	close(fd);
}

/* The firmware's runtime services run with the kernel's help: their exits come to its handler. */
static void firmware_variables(void)
{
	const char *dir = "/tmp/efivars";
	char path[400], data[256];
	struct dirent *entry;
	int count = 0, fd;
	DIR *list;

	if (access("/sys/firmware/efi", F_OK))
		skip("not started by UEFI");
	mkdir(dir, 0700);
	if (mount("efivarfs", dir, "efivarfs", MS_RDONLY, NULL))
		skip("no efivarfs");
	list = opendir(dir);
	CHECK(list, "opendir: %s", strerror(errno));
	while ((entry = readdir(list))) {
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		fd = open(path, O_RDONLY | O_NONBLOCK);
		if (entry->d_name[0] == '.' || fd < 0)
			continue;
		count += read(fd, data, sizeof(data)) > 4;
		close(fd);
	}
	closedir(list);
	umount(dir);
	note("%d variables of the firmware", count);
	CHECK(count, "no variable can be read");
}

/*
 * Device memory in user space. On bare metal it works; a SEV-ES guest must refuse, because the
 * emulation would act with the kernel's rights on an address that user space can change.
 */
static void device_memory_for_user(void)
{
	uint32_t *ioapic;
	int fd = open("/dev/mem", O_RDWR | O_SYNC);
	pid_t pid;
	int status;

	if (fd < 0)
		skip("no /dev/mem");
	ioapic = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0xfec00000);
	if (ioapic == MAP_FAILED)
		skip("/dev/mem does not show devices");
	fflush(stdout);
	pid = fork();
	if (!pid) {
		/* The select register keeps its index; the kernel writes it before each use. */
		uint32_t value = __atomic_load_n(ioapic, __ATOMIC_RELAXED);

		_exit(value == 0xffffffff);
	}
	CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
	if (guest_is_sev_es)
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS,
		      "device memory read by user space: status %#x instead of SIGBUS", status);
	else
		CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "status %#x", status);
}

static long count_nmis(void)
{
	char line[512];
	FILE *file = fopen("/proc/interrupts", "r");
	long count = -1;

	while (file && fgets(line, sizeof(line), file)) {
		char *at = strstr(line, "NMI:");

		if (!at)
			continue;
		count = 0;
		for (at += 4; *at; ) {
			char *end;
			long value = strtol(at, &end, 10);

			if (end == at)
				break;
			count += value;
			at = end;
		}
	}
	if (file)
		fclose(file);
	return count;
}

/* An NMI that a processor sends to itself: taken, completed, and the next one comes too. */
static void nmi_to_self(void)
{
	uint64_t base, icr = 0x40400;
	int fd = open_cpu("msr", 0, O_RDWR);
	long before = count_nmis(), after;

	if (fd < 0 || before < 0)
		skip("no /dev/cpu/0/msr or no NMI count");
	CHECK(read_msr(fd, 0x1b, &base), "APIC base");
	if (!(base & 0x400))
		skip("needs the APIC in x2APIC mode");
	for (int i = 0; i < 3; i++) {
		if (pwrite(fd, &icr, sizeof(icr), 0x830) != sizeof(icr)) {
			CHECK(errno == EPERM, "ICR: %s", strerror(errno));
			skip("the kernel does not let MSRs be written");
		}
		usleep(20000);
	}
	after = count_nmis();
	CHECK(after >= before + 3, "%ld of 3 NMIs arrived", after - before);
	close(fd);
}

/* Data of a disk comes by DMA into shared memory and is copied: twice the same. */
static void disk_reads_are_stable(void)
{
	static uint8_t first[1 << 20], second[1 << 20];
	int fd;

	for (int round = 0; round < 2; round++) {
		fd = open("/dev/sda", O_RDONLY);
		if (fd < 0)
			skip("no disk");
		CHECK(read(fd, round ? second : first, sizeof(first)) == sizeof(first), "read: %s",
		      strerror(errno));
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		close(fd);
		CHECK(write_text("/proc/sys/vm/drop_caches", "1"), "drop_caches");
	}
	CHECK(!memcmp(first, second, sizeof(first)), "two reads of the disk differ");
}

const struct test kernel_tests[] = {
	{ "processors_are_online", processors_are_online },
	{ "clock_source_is_tsc", clock_source_is_tsc },
	{ "msr_read", msr_read },
	{ "msr_write", msr_write },
	{ "cpuid_device", cpuid_device },
	{ "real_time_clock", real_time_clock },
	{ "firmware_variables", firmware_variables },
	{ "device_memory_for_user", device_memory_for_user },
	{ "nmi_to_self", nmi_to_self },
	{ "disk_reads_are_stable", disk_reads_are_stable },
	{ "processor_hotplug", processor_hotplug },
	{ }
};
