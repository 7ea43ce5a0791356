// SPDX-License-Identifier: GPL-2.0
/*
 * nmi_hotplug.c - takes all secondary CPUs offline and online again, under a storm of NMIs.
 *
 * Usage: nmi_hotplug [-m MODULE] [-n ROUNDS] [-r RATE] [-b BURST] [-s SEED]
 *   -m MODULE  the module with the NMI handler (default: /lib/sev_es_nmi.ko)
 *   -n ROUNDS  (default 200)
 *   -r RATE    bursts per second and CPU (default 200; 0: no storm)
 *   -b BURST   NMIs in a burst (default 2)
 *
 * Each CPU that came back has to execute an exit. Prints KTAP.
 */
#include "guest.h"

/* 0, or the error. */
static int set_online(int cpu, bool online)
{
	char path[64];
	int fd, error;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		die(path);
	error = write(fd, online ? "1" : "0", 1) < 0 ? errno : 0;
	close(fd);
	return error;
}

int main(int argc, char **argv)
{
	int rounds = 200, rate = 200, burst = 2, seed = 1, opt, cpus, round, cpu;
	const char *module = MODULE, *why;
	unsigned int injected, handled;
	char problem[128] = "";

	while ((opt = getopt(argc, argv, "m:n:r:b:s:")) != -1) {
		switch (opt) {
		case 'm':
			module = optarg;
			break;
		case 'n':
			rounds = atoi(optarg);
			break;
		case 'r':
			rate = atoi(optarg);
			break;
		case 'b':
			burst = atoi(optarg);
			break;
		case 's':
			seed = atoi(optarg);
			break;
		default:
			return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	cpus = sysconf(_SC_NPROCESSORS_CONF);
	printf("KTAP version 1\n");
	if (!open_port(module) || cpus < 2) {
		printf("1..0 # SKIP needs sevsim with nmi-test=on, and two vCPUs\n");
		return 0;
	}
	printf("1..1\n");
	exit_cpuid();
	go_to(0);
	if (rate)
		begin_storm(rate, burst, seed);
	for (round = 1; round <= rounds && !*problem; round++) {
		for (cpu = 1; cpu < cpus && !*problem; cpu++) {
			int error = set_online(cpu, false);

			if (error)
				snprintf(problem, sizeof(problem), "CPU %d stays online: %s", cpu,
					 strerror(error));
		}
		for (cpu = 1; cpu < cpus && !*problem; cpu++) {
			int error = set_online(cpu, true);

			if (error)
				snprintf(problem, sizeof(problem), "CPU %d stays offline: %s", cpu,
					 strerror(error));
			else if (!go_to(cpu) || exit_cpuid())
				snprintf(problem, sizeof(problem), "CPU %d does not work", cpu);
			go_to(0);
		}
		if (round % 20 == 0)
			printf("# %d rounds, %u NMIs handled\n", round, counter("handled"));
	}
	injected = end_storm(cpus);
	handled = counter("handled");
	why = rate ? check_storm(injected, handled) : trouble();
	if (!*problem && why)
		snprintf(problem, sizeof(problem), "%s", why);
	printf("%sok 1 hotplug # %d rounds of %d CPUs; %u NMIs, %u handled%s%s\n",
	       *problem ? "not " : "", round - 1, cpus - 1, injected, handled,
	       *problem ? ": " : "", problem);
	return *problem != 0;
}
