#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Check that an object made from Rust can run before the kernel is relocated:
#
#   - no absolute address, in code or data, and none that comes from a GOT;
#   - no call to core or another crate: none is linked in, least of all their panics;
#   - no indirect branch: there are no thunks that would make it safe from speculation.
#
# The messages name the functions.
#
# check-early-rust.sh OBJDUMP OBJECT
set -e

objdump=$1
object=$2

# Symbols as the linker knows them decide; those for people are in the messages.
symbols=$(LC_ALL=C $objdump -t "$object")
readable=$(LC_ALL=C $objdump -t -C "$object")
code=$(LC_ALL=C $objdump -dr "$object")
relocations=$(LC_ALL=C $objdump -r "$object")

printf '%s\n' "$symbols" "SYMBOLS FOR PEOPLE" "$readable" "END OF SYMBOLS" "$code" \
	"$relocations" | ${AWK:-awk} -v object="$object" '
	function complain(what)
	{
		key = where what
		if (key in told)
			return
		told[key] = 1
		errors++
		printf "%s: error: %s %s\n", object, where, what | "cat 1>&2"
	}

	# A symbol as people read it.
	function name(symbol)
	{
		return symbol in names ? names[symbol] : symbol
	}

	function target(	text)
	{
		text = $0
		sub(/.*R_X86_64_[A-Z0-9_]+[ \t]+/, "", text)
		sub(/[-+]0x[0-9a-f]+$/, "", text)
		return text
	}

	BEGIN {
		part = 1
	}

	/^SYMBOLS FOR PEOPLE$/ {
		part = 2
		next
	}
	/^END OF SYMBOLS$/ {
		part = 3
		next
	}

	# Two tables of symbols, in the same order: address, flags, section, a tab, size, name.
	part < 3 && /^[0-9a-f]+ .*\t[0-9a-f]+ / {
		symbol = $0
		sub(/^[^\t]*\t[0-9a-f]+ +/, "", symbol)
		sub(/^\.(hidden|protected|internal) /, "", symbol)
		count[part]++
		if (part == 1)
			listed[count[1]] = symbol
		else
			names[listed[count[2]]] = symbol
		if (part == 1 && / \*UND\*\t/)
			undefined[symbol] = 1
	}
	part < 3 {
		next
	}

	# A function in the disassembly.
	/^[0-9a-f]+ <.*>:$/ {
		where = $0
		sub(/^[0-9a-f]+ </, "", where)
		sub(/>:$/, "", where)
		where = "function " name(where)
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

	# Address and bytes, then the instruction.
	code && /^ *[0-9a-f]+:.*[ \t](call|jmp)q?[ \t]+\*/ {
		complain("has an indirect branch: a call by pointer, or a jump table")
	}

	/R_X86_64_/ && (code || data) {
		symbol = target()
		if (/R_X86_64_(8|16|32|32S|64)[ \t]/)
			complain("holds the absolute address of " name(symbol))
		else if (/R_X86_64_[A-Z_]*GOT/)
			complain("takes the address of " name(symbol) " from a GOT")
	}

	/R_X86_64_/ && code {
		if (symbol ~ /^\.data\.rel\.ro/)
			complain("uses data that would have to be relocated (" symbol \
				 "), such as the location of a panic")
		else if (symbol ~ /^__x86_indirect_/)
			complain("has an indirect branch: a call by pointer, or a jump table")
		else if (name(symbol) ~ /core::panicking|core.*panic/ || \
			 symbol == "rust_begin_unwind")
			complain("can panic: it calls " name(symbol))
		else if (symbol in undefined && symbol ~ /^(_R|_ZN)/)
			complain("calls " name(symbol) ", which is not linked in")
	}

	END {
		close("cat 1>&2")
		exit errors != 0
	}
'
