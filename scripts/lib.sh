# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Sourced by the project's shell scripts: where things are, messages, and steps with progress and a
# kept log.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck disable=SC2034
{
	build=$top/build
	logs=$top/build/logs
	# The Debian release that the toolchain comes from, and the package with the kernel's source
	# (from its backports).
	suite=trixie
	source_package=linux-source-7.3
	kernel_series=7.3
}

# A message for a person, and the end.
die() {
	printf '%s: error: %s\n' "$(basename "$0")" "$1" >&2
	shift
	[ $# = 0 ] || printf '    %s\n' "$@" >&2
	exit 1
}

# Refuse paths that the kernel's build takes apart (make, the shell, gcc's -Wp,...) before minutes
# of building. What is refused is in the message.
check_path() { # PATH WHAT REMEDY
	local bad
	bad=$(printf %s "$1" | LC_ALL=C tr -d 'A-Za-z0-9/._+@~=\200-\377-')
	[ -z "$bad" ] ||
		die "$2 has characters in its path that the kernel's build cannot take: '$bad'" \
			"it is $1" "$3"
}

# Take a lock that the rest of the script holds: two commands at once in the same folder wait for
# one another.
take_lock() { # FILE WHAT
	exec 9>"$1"
	flock --nonblock 9 || {
		echo "waiting for another command that makes $2 ..." >&2
		flock 9
	}
}

# step NAME LOG COMMAND...: run a command with its output in build/logs/LOG and one line about it on
# the screen. A terminal sees the seconds go by and the log's last line; on failure everybody sees
# the log's end.
step() {
	local name=$1 log=$logs/$2 begin=$SECONDS ticker='' rc=0
	shift 2
	mkdir -p "$logs"
	printf '  %s ... ' "$name"
	if [ -t 1 ]; then
		(
			trap 'exit 0' TERM
			width=$(($(tput cols 2>/dev/null || echo 80) - ${#name} - 20))
			while sleep 1; do
				last=$(tail -n 1 "$log" 2>/dev/null | tr -cd '[:print:]')
				printf '\r\033[K  %s ... %d s  %s' "$name" $((SECONDS - begin)) \
					"${last:0:$((width > 0 ? width : 0))}"
			done
		) &
		ticker=$!
		# shellcheck disable=SC2064
		trap "kill $ticker 2>/dev/null" EXIT
	fi
	"$@" >"$log" 2>&1 </dev/null || rc=$?
	if [ -n "$ticker" ]; then
		kill "$ticker" 2>/dev/null
		wait "$ticker" 2>/dev/null || true
		trap - EXIT
		printf '\r\033[K  %s ... ' "$name"
	fi
	if [ "$rc" = 0 ]; then
		printf 'done (%d s)\n' $((SECONDS - begin))
		return 0
	fi
	printf 'FAILED (%d s)\n' $((SECONDS - begin))
	tail -n 15 "$log" | sed 's/^/    | /' >&2
	printf '%s: error: %s failed with status %d\n    the whole log: %s\n' "$(basename "$0")" \
		"$name" "$rc" "$log" >&2
	[ -z "${STEP_HINT:-}" ] || printf '    %s\n' "$STEP_HINT" >&2
	return "$rc"
}

# Packages come from the Debian root's apt; not when the host's tools suffice.
need_debian_root() {
	[ -x "$build/toolchain/usr/bin/apt-get" ] ||
		die "there is no Debian root to take packages for" "make it by TOOLCHAIN=root"
}

# Unpack packages of Debian's backports to a folder, without installing them: what the toolchain's
# root has in an older version, or not at all.
unpack_backports() { # FOLDER PACKAGE...
	# shellcheck disable=SC2016
	"$top/scripts/in-toolchain" sh -ec '
		cd "$1"
		suite=$2
		shift 2
		for package; do
			apt-get -o APT::Sandbox::User=root -t "$suite-backports" download "$package"
		done
		for file in *.deb; do
			dpkg-deb --fsys-tarfile "$file" >package.tar
			tar -x --no-same-owner --exclude ./usr/share -f package.tar
		done
		rm -f package.tar ./*.deb
	' sh "$1" "$suite" "${@:2}"
}

# The host's Debian mirror, so that nothing here has to name one; empty on other distributions.
host_mirror() {
	local files=(/etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources})
	{ grep -hE '^(deb|URIs:) ' "${files[@]}" 2>/dev/null || true; } |
		grep -oE '[a-z+]+://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}
