// SPDX-License-Identifier: GPL-2.0
/*
 * nmi_storm.c - runs a program in a storm of NMIs.
 *
 * Usage: nmi_storm [-f] [-m MODULE] [-r RATE] [-b BURST] [-s SEED] PROGRAM [ARGUMENT...]
 *   -f         the program makes #VC exceptions fail on purpose: their messages are no trouble
 *   -m MODULE  the module with the NMI handler (default: /lib/sev_es_nmi.ko)
 *   -r RATE    bursts per second and CPU (default 200)
 *   -b BURST   NMIs in a burst (default 2)
 *
 * The program's output becomes comments, and it has to end with status 0. Prints KTAP.
 */
#include <sys/wait.h>

#include "guest.h"

/* Runs the program; returns its status as wait() tells it. */
static int run(char **argv)
{
	char line[512];
	int fds[2], status;
	FILE *output;
	pid_t pid;

	if (pipe(fds))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		dup2(fds[1], 1);
		dup2(fds[1], 2);
		close(fds[0]);
		close(fds[1]);
		execv(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	close(fds[1]);
	output = fdopen(fds[0], "r");
	while (fgets(line, sizeof(line), output))
		printf("# %s%s", line, strchr(line, '\n') ? "" : "\n");
	fclose(output);
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return status;
}

int main(int argc, char **argv)
{
	int rate = 200, burst = 2, seed = 1, opt, cpus, status;
	const char *module = MODULE, *problem;
	unsigned int injected, handled;

	while ((opt = getopt(argc, argv, "+fm:r:b:s:")) != -1) {
		switch (opt) {
		case 'f':
			signals_on_purpose = true;
			break;
		case 'm':
			module = optarg;
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
	if (optind == argc || !rate)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	cpus = sysconf(_SC_NPROCESSORS_CONF);
	printf("KTAP version 1\n");
	if (!open_port(module)) {
		printf("1..0 # SKIP needs sevsim with nmi-test=on\n");
		return 0;
	}
	printf("1..1\n");
	begin_storm(rate, burst, seed);
	status = run(argv + optind);
	injected = end_storm(cpus);
	handled = counter("handled");
	problem = check_storm(injected, handled);
	if (status)
		problem = "the program failed";
	printf("%sok 1 storm # %s; %u NMIs, %u handled%s%s\n", problem ? "not " : "",
	       argv[optind], injected, handled, problem ? ": " : "", problem ?: "");
	return problem != NULL;
}
