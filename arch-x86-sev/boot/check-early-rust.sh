#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Check that an object made from Rust can run before the kernel is relocated:
#
#   - no absolute address, in code or data, and none that comes from a GOT;
#   - no call to core: it is not linked in, least of all its panics.
#
# The messages name the functions.
#
# check-early-rust.sh OBJDUMP OBJECT
set -e

objdump=$1
object=$2

code=$(LC_ALL=C $objdump -dr -C "$object")
relocations=$(LC_ALL=C $objdump -r -C "$object")

printf '%s\n' "$code" "$relocations" | ${AWK:-awk} -v object="$object" '
	function complain(what)
	{
		key = where what
		if (key in told)
			return
		told[key] = 1
		errors++
		printf "%s: error: %s %s\n", object, where, what | "cat 1>&2"
	}

	function target(	text)
	{
		text = $0
		sub(/.*R_X86_64_[A-Z0-9_]+[ \t]+/, "", text)
		sub(/[-+]0x[0-9a-f]+$/, "", text)
		return text
	}

	# A function in the disassembly.
	/^[0-9a-f]+ <.*>:$/ {
		where = $0
		sub(/^[0-9a-f]+ </, "", where)
		sub(/>:$/, "", where)
		where = "function " where
		data = 0
		code = 1
	}

	# A table of relocations. Those of code were in the disassembly; what is not
	# loaded does not matter.
	/^RELOCATION RECORDS FOR / {
		section = $4
		gsub(/[^.A-Za-z0-9_-]/, "", section)
		where = "section " section
		code = 0
		data = section ~ /^\.(init\.|head\.)?(data|rodata|bss|ro_after_init)/
	}

	/R_X86_64_/ && (code || data) {
		symbol = target()
		if (/R_X86_64_(8|16|32|32S|64)[ \t]/)
			complain("holds the absolute address of " symbol)
		else if (/R_X86_64_[A-Z_]*GOT/)
			complain("takes the address of " symbol " from a GOT")
	}

	/R_X86_64_/ && code {
		if (symbol ~ /^\.data\.rel\.ro/)
			complain("uses data that would have to be relocated (" symbol \
				 "), such as the location of a panic")
		else if (symbol ~ /core::panicking|rust_begin_unwind|core.*panic/)
			complain("can panic: it calls " symbol)
		else if (symbol ~ /^<?(core|alloc|kernel)::/)
			complain("calls " symbol ", which is not linked in")
	}

	END {
		close("cat 1>&2")
		exit errors != 0
	}
'
