#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Work for a guest's CPUs, in a Debian root with the source of bzip2 in /load/bzip2.
#
#   work.sh SECONDS   for so long: on each CPU the program is compiled, linked and executed, again
#                     and again, and what comes out has to be what /load/sums says; and stress-ng
#                     runs, which checks its own results
#   work.sh --sums    do it once, and print what has to be in /load/sums
set -u
cd /load || exit 1
units="blocksort huffman crctable randtable compress decompress bzlib bzip2"

seconds() {
	read -r now _ </proc/uptime
	echo "${now%.*}"
}

# thing NAME FILE: something that was made is what it has to be. Ends a worker whose time is over,
# but not in its first pass.
thing() {
	line="$1 $(sha256sum <"$2")"
	if [ -z "$end" ]; then
		echo "$line"
		return
	fi
	if ! grep -qxF "$line" sums; then
		echo "WRONG: $1 in pass $pass on CPU $cpu: $line"
		exit 1
	fi
	count=$((count + 1))
	if [ "$pass" -gt 1 ] && [ "$(seconds)" -ge "$end" ]; then
		finished $((pass - 1))
	fi
}

finished() {
	echo "load: cpu=$cpu passes=$1 files=$count"
	exit 0
}

failed() {
	echo "WRONG: $1 ended with status $2 in pass $pass on CPU $cpu"
	exit 1
}

# One pass, in the folder $1.
pass() {
	mkdir -p "$1" || exit 1
	for unit in $units; do
		gcc -O2 -D_FILE_OFFSET_BITS=64 -c -o "$1/$unit.o" "bzip2/$unit.c" || failed gcc $?
		thing "$unit.o" "$1/$unit.o"
	done
	gcc -o "$1/bzip2" "$1"/*.o || failed ld $?
	thing bzip2 "$1/bzip2"
	for sample in 1 2 3; do
		"$1/bzip2" "-$sample" <"bzip2/sample$sample.ref" >"$1/out" || failed bzip2 $?
		# The program's author says what it has to be, too.
		cmp "$1/out" "bzip2/sample$sample.bz2" || failed cmp $?
		thing "sample$sample.bz2" "$1/out"
		"$1/bzip2" -d <"bzip2/sample$sample.bz2" >"$1/out" || failed bzip2 $?
		cmp "$1/out" "bzip2/sample$sample.ref" || failed cmp $?
		thing "sample$sample.ref" "$1/out"
	done
	# The largest file that was read, from the disk once more.
	[ -z "$end" ] || echo 1 >/proc/sys/vm/drop_caches
	thing cc1 "$(gcc -print-prog-name=cc1)"
	rm -r "$1"
}

worker() {
	pass=0
	count=0
	while [ "$pass" = 0 ] || [ "$(seconds)" -lt "$end" ]; do
		pass=$((pass + 1))
		pass "work-$cpu"
		echo "CPU $cpu: pass $pass is right"
	done
	finished "$pass"
}

# Exits from user mode, memory, the disk, scheduling, timers, faults. With less priority than the
# workers have.
stress() {
	rounds=0
	while [ "$rounds" = 0 ] || [ "$(seconds)" -lt "$end" ]; do
		if ! nice -n 5 stress-ng --verify --timeout 20 --oomable --temp-path /load \
			--metrics-brief --x86cpuid 1 --ioport 1 --tsc 1 --cpu 1 --vm 1 \
			--vm-bytes 32M --hdd 1 --hdd-bytes 4M --fork 1 --pipe 1 --switch 1 \
			--timer 1 --mmap 1 --mmap-bytes 8M --sigsegv 1 --sigfpe 1 \
			>/tmp/stress.log 2>&1; then
			cat /tmp/stress.log
			echo "WRONG: stress-ng"
			exit 1
		fi
		rounds=$((rounds + 1))
		echo "stress-ng: round $rounds is right"
	done
	[ "$rounds" != 1 ] || cat /tmp/stress.log
	echo "load: rounds=$rounds"
}

if [ "${1:-}" = --sums ]; then
	end='' cpu=none pass=1
	pass sums-work
	exit
fi
began=$(seconds)
end=$((began + $1))
jobs=''
for cpu in $(seq 0 $(($(nproc) - 1))); do
	# The whole process moves, and its children with it.
	(taskset -cp "$cpu" "$(exec sh -c 'echo $PPID')" >/dev/null && worker) &
	jobs="$jobs $!"
done
cpu=all pass=0
stress &
jobs="$jobs $!"
status=0
for job in $jobs; do
	wait "$job" || status=1
done
echo "load: seconds=$(($(seconds) - began))"
exit "$status"
