# SPDX-License-Identifier: GPL-2.0
# What a person types. Goals that are not listed in `make help` are the kernel's and go to the
# kernel's own make.

.SUFFIXES:
.DELETE_ON_ERROR:
# The goals here build on one another's folders; each runs its own tools in parallel.
.NOTPARALLEL:
MAKEFLAGS += -rR

override empty :=
override space := $(empty) $(empty)
# Quote for the shell.
override quote = '$(subst ','\'',$(1))'

# ---- What can be set on the command line (make help explains)
SEV_ES ?= rust
own-variables := KERNEL_SRC O SEV SEV_ES VCPUS MEM APPEND INITRD DISK KERNEL CBIT APIC ENTRY BATCH \
		 ARGS FROM TRAILERS URL TOOLCHAIN CONFIGS SEEDS STEPS FUZZ_TIME LOAD_SECONDS \
		 LOAD_HANDLERS
export $(own-variables)

test-parts := test-scripts test-unit test-build test-check test-boot test-early test-nmi \
	      test-nmi-short test-load test-selftests test-tools test-configs test-launch \
	      test-decode test-hostile test-hostile-short test-asi test-docs
own-goals := help kernel kernel-rust kernel-c kernel-help tree toolchain sevsim boot \
	     test $(test-parts) bench check fuzz series series-check clean mrproper distclean

# ---- Handing over to the kernel's make
# Its variables: what the user gave on the command line, less our own. Its flags: the letters that
# mean the same there, and -j; without -j all cores are used.
kernel-variables = $(foreach v,$(filter-out $(own-variables) MAKEFLAGS,$(.VARIABLES)),$(if \
	$(filter command,$(firstword $(origin $(v)))),$(call quote,$(v)=$($(v)))))
flag-letters = $(firstword $(filter-out -%,$(firstword $(MAKEFLAGS))))
kernel-flags = $(foreach f,k s n i B,$(if $(findstring $(f),$(flag-letters)),-$(f))) \
	$(or $(filter -j%,$(MAKEFLAGS)),-j$(shell nproc))
kernel-arguments = $(strip $(kernel-flags) $(kernel-variables))
output-option = $(if $(O),-o $(call quote,$(O)))
variant = $(if $(filter c,$(SEV_ES)),c,rust)

kernel-goals := $(filter-out $(own-goals),$(MAKECMDGOALS))

.PHONY: $(own-goals) $(kernel-goals) kernel-pass

kernel: tree
	@scripts/kernel $(variant) $(output-option) -- $(kernel-arguments)

kernel-rust kernel-c: kernel-%: tree
	@scripts/kernel $* -- $(kernel-arguments) $(if $(filter undefined,$(origin LLVM)),LLVM=1)

# All kernel goals of one command line in one run of its make.
$(kernel-goals): kernel-pass
	@:

kernel-pass: tree
	@scripts/kernel $(variant) $(output-option) -- $(kernel-arguments) $(kernel-goals)

kernel-help: tree
	@scripts/kernel $(variant) -- -s help

# ---- What everything is made from
toolchain:
	@scripts/toolchain

tree: toolchain
	@scripts/kernel-source
	@scripts/in-toolchain scripts/assemble $(if $(findstring s,$(flag-letters)),--silent)

sevsim: toolchain
	@scripts/sevsim

# ---- Running and checking
boot:
	@scripts/boot

test $(test-parts) bench: toolchain
	@scripts/run-tests $@

check: toolchain
	@scripts/check

fuzz: toolchain
	@scripts/fuzz

series: toolchain
	@scripts/kernel-source
	@scripts/in-toolchain scripts/series --trailers "$$TRAILERS" --url "$$URL" \
		--from "$${FROM:-$$(git config user.name) <$$(git config user.email)>}" \
		$(if $(FROM),--maintainer)

series-check: toolchain
	@scripts/series-check

# ---- Away with it
clean:
	@scripts/clean $(if $(O),$(call quote,$(O)))

mrproper distclean:
	@scripts/clean --all

help:
	@sed -n 's/^#H\( \|$$\)//p' Makefile
#H The two that matter:
#H   make boot        build everything, boot it in sevsim, and sit at a shell of the SEV-ES guest
#H   make test        build and test everything; the last line is "N passed, N failed"
#H
#H Building
#H   make LLVM=1      the kernel, configured by scripts/config unless its output folder has a
#H                    .config; in build/kernel-rust (SEV_ES=c: build/kernel-c), or O=
#H   make GOAL        any goal of the kernel's: menuconfig, bzImage, modules, arch/x86/coco/sev/,
#H                    ... with LLVM=, O=, V=, W=, -j, CLIPPY=1 as usual (without -j: all cores);
#H                    make kernel-help lists them
#H   make kernel-rust kernel-c   both kernels, by LLVM
#H   make tree        assemble the kernel source in build/linux from patches/ and overlay folders
#H   make sevsim      the hypervisor and its runner, in build/sevsim
#H   make toolchain   look for the tools on the host, else make a Debian root in build/toolchain
#H   make series      mails for `git am` in build/series
#H       FROM='Name <mail>'   author of the mails, and maintainer of what they add (else git's
#H                            user, and MAINTAINERS names nobody)
#H       TRAILERS='Signed-off-by: ...'   lines to add to each message, separated by '|'; nothing
#H                            is signed off by itself
#H       URL=https://...      where this project can be had, for the cover letter
#H
#H Running: make boot, with
#H       VCPUS=2      vCPUs, 1 to 8                   MEM=1024    MiB of memory
#H       APPEND='...' added to the kernel's command line
#H       INITRD=FILE  another initramfs               DISK=FILE   a disk image (AHCI)
#H       KERNEL=FILE  another kernel image (KERNEL=none: boot what is on DISK=)
#H       O=DIR        the kernel built there
#H       SEV_ES=rust|c|none   who handles #VC; none: a plain guest, on QEMU without sevsim
#H       CBIT=51      the C-bit's position, 39 to 51  APIC=xapic|x2apic
#H       SEV=auto|sim|kvm   auto: this machine's SEV-ES by KVM if it has it, else sevsim; a line
#H                    says which (Documentation/hardware.md)
#H       ENTRY=raw    no firmware: start the kernel at its 64-bit entry, with one vCPU
#H       BATCH=1      no terminal: run the user-space check, power off, and tell by the exit status
#H       ARGS='...'   further options of sevsim-run (ARGS=--help lists them)
#H
#H Checking: make test, or its parts, in this order:
#H   make test-scripts     tests of the scripts; shellcheck
#H   make test-unit        cargo test in sevsim, the protocol core, the early code, the runner
#H   make test-build       both kernels build without warnings; git am takes the series
#H   make test-check       rustfmt, clippy, checkpatch, length of lines
#H   make test-tools       mistakes in what is given to make end with a clear message
#H   make test-boot        boots in a covering set of configurations, with the check in each guest
#H   make test-early       each way into the kernel, and hosts that lie in each stage of the boot
#H   make test-nmi-short   NMIs before each instruction of the #VC handler, for some exits
#H   make test-hostile-short   a host that spoils replies and injects events at random, more than
#H                    20000 times, and what was found before, with Rust and with C
#H and what is no part of make test:
#H   make test-launch the launch in sevsim: digest and measurement are those that sev-snp-measure
#H                    and virt-qemu-sev-validate compute (both are installed into the Debian root)
#H   make test-nmi    the same for each exit, in Rust and C side by side; all secondary CPUs offline
#H                    and online 200 times in a storm of NMIs, suspend-to-idle in it, and so on
#H   make test-load   a Debian root on a disk: gcc compiles a program on each vCPU, it is executed,
#H                    stress-ng runs, all in a storm of NMIs; what comes out has to be what came
#H                    out on the host, no NMI may be lost, and the kernel may not complain
#H       LOAD_SECONDS=600   VCPUS=2   LOAD_HANDLERS='rust c'   (default: rust)
#H   make test-hostile   a host that spoils replies and injects events at random: more than 20000
#H                    times for each seed, in Rust and C; boots under one that lies; what was
#H                    found before (tests/hostile)
#H       SEEDS='1 2 ...'  (default: 1)   STEPS=N   of a boot, two hostile acts or more each (12000)
#H   make test-asi    sevsim with exits handled in an address space of their own: boots, a load,
#H                    attacks on the guest and NMIs (more than 99 % of exits inside), its cost,
#H                    faults on purpose, wrong options
#H   make test-selftests   the kernel's own selftests and the check, in three columns: a guest
#H                    without SEV, with C, and with Rust
#H   make test-configs   build and boot the Rust kernel by gcc, by the newest rustc, and with the
#H                    options of tests/configs: mitigations, KASAN and lockdep, KCSAN, LTO (about 15
#H                    minutes each on two cores); Debian's own (half an hour); one without SEV; for
#H                    32 bits what the series touches. With mitigations the entry code is attacked
#H       CONFIGS='gcc ...'           only these
#H   make test-decode the protocol core's instruction decoder against two others, on all encodings,
#H                    and its emulation against Unicorn's (some minutes)
#H   make test-docs   kernel-doc and sphinx (htmldocs) have nothing to say about the files of the
#H                    series (python3-sphinx is installed into the Debian root)
#H   make fuzz        the decoder, and all exits under a hostile hypervisor, by libFuzzer, with
#H       FUZZ_TIME=60                seconds for each
#H   make bench       C and Rust side by side: size, instructions per exit, the decompressor,
#H                    VMGEXITs per boot; what sevsim costs (README.md explains the tables)
#H   make check       rustfmt, clippy, checkpatch --strict, shellcheck, syntax of Python,
#H                    length of lines
#H   make series-check   each patch of the series alone: applies, passes checkpatch, builds with the
#H                    option on and off (linked where it touches the early boot); with it off, the
#H                    machine code of the C handler stays the same (hours; it goes on where it was
#H                    interrupted, and scripts/series-check --quick links nothing)
#H
#H For all of them
#H       KERNEL_SRC=PATH    a Linux 7.3 tree or tarball instead of Debian's source (it is
#H                          remembered; KERNEL_SRC=debian goes back)
#H       TOOLCHAIN=host|root   insist on the host's tools, or on the Debian root
#H
#H   make clean       remove the kernels' object files (O=: those there)
#H   make distclean   remove build/ (also: mrproper)
