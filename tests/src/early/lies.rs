// SPDX-License-Identifier: GPL-2.0
//! Boots that a hostile host must not get through: the guest has to ask for its termination, for
//! the right reason, and to say why where it has a console.

use super::case::Case;
use super::case::End;
use crate::cases::Kernel;

/// The general request (GHCB specification, reason set 0), and the one about protocol versions.
const GENERAL: End = End::Terminate(0, 0);
const PROTOCOL: End = End::Terminate(0, 1);

/// To Rust an instruction that does not fit the exit code is one that it cannot decode.
const NOT_INVD: &str = "PANIC: Failed to decode instruction (exit-code 0x76";

/// A lie, and what has to come of it.
#[derive(Clone, Copy)]
struct Failure {
    name: &'static str,
    lie: &'static str,
    end: End,
    /// Whether the firmware runs; else the kernel is started at its 64-bit entry.
    firmware: bool,
    /// What the guest says: Rust, C.
    texts: [Option<&'static str>; 2],
    /// What C does instead, if it does.
    c: Option<End>,
}

const fn failure(name: &'static str, lie: &'static str, end: End) -> Failure {
    Failure {
        name,
        lie,
        end,
        firmware: false,
        texts: [None; 2],
        c: None,
    }
}

impl Failure {
    const fn says(mut self, text: &'static str) -> Self {
        self.texts = [Some(text); 2];
        self
    }

    /// C ends without a word.
    const fn rust_says(mut self, text: &'static str) -> Self {
        self.texts[0] = Some(text);
        self
    }

    const fn c_says(mut self, text: &'static str) -> Self {
        self.texts[1] = Some(text);
        self
    }

    const fn but_c(mut self, end: End) -> Self {
        self.c = Some(end);
        self
    }

    const fn firmware(mut self) -> Self {
        self.firmware = true;
        self
    }
}

const FAILURES: [Failure; 35] = [
    // ---- Stage 1: CPUID by the MSR protocol, and nothing else.
    failure("stage1-msr", "stage1:vc:0x7c", GENERAL),
    failure("stage1-mmio", "stage1:vc:0x400:3", GENERAL),
    failure(
        "stage1-no-sev",
        "stage1:cpuid:0x8000001f:eax:clear:0x2",
        GENERAL,
    ),
    failure(
        "stage1-leaf-limit",
        "stage1:cpuid:0x80000000:eax:put:0x8000001e",
        GENERAL,
    ),
    failure("stage1-reply", "stage1:msr-reply:0x7", GENERAL),
    failure("stage1-versions-high", "stage1:versions:3:4", PROTOCOL),
    failure("stage1-versions-none", "stage1:versions:0:0", PROTOCOL),
    failure("stage1-versions-crossed", "stage1:versions:2:1", PROTOCOL).but_c(End::PowerOff),
    // With another C-bit than that of the tables in use, new ones lead nowhere: the processor of a
    // guest that does not look shuts down in its first walk.
    failure(
        "stage1-cbit",
        "stage1:cpuid:0x8000001f:ebx:put:0x16f",
        GENERAL,
    )
    .but_c(End::TripleFault),
    failure(
        "stage1-cbit-high",
        "stage1:cpuid:0x8000001f:ebx:put:0x173 --cbit 47",
        GENERAL,
    )
    .but_c(End::TripleFault),
    // ---- Stage 2: RDTSC, CPUID and ports by the GHCB.
    failure("stage2-msr", "stage2:vc:0x7c", GENERAL),
    // The same with a console: the first #VCs set it up.
    failure("stage2-mmio", "stage2:vc:0x400:60", GENERAL)
        .rust_says("#VC exception, exit code 0x0000000000000400"),
    failure("stage2-wbinvd", "stage2:vc:0x89:60", GENERAL)
        .rust_says("#VC exception, exit code 0x0000000000000089"),
    // A CPUID where there is none.
    failure("stage2-opcode", "stage2:vc:0x72:60", GENERAL)
        .rust_says("#VC exception, exit code 0x0000000000000072"),
    failure("stage2-response-bad", "stage2:response:0x2", GENERAL),
    failure("stage2-response-unknown", "stage2:response:0x80", GENERAL),
    failure(
        "stage2-leaf-limit",
        "stage2:cpuid:0x80000000:eax:put:0x8000001e",
        GENERAL,
    )
    .but_c(End::PowerOff),
    failure(
        "stage2-no-rdrand",
        "stage2:cpuid:0x1:ecx:clear:0x40000000",
        GENERAL,
    )
    .says("RDRAND instruction not supported")
    .but_c(End::Hang),
    failure("stage2-late-vc", "stage2:late-vc:0x6e", GENERAL).but_c(End::Overflow),
    failure("stage2-late-fault", "stage2:late-fault", GENERAL).but_c(End::Overflow),
    // ---- Before relocation: as stage 1.
    failure("startup-msr", "startup:vc:0x7c", GENERAL),
    failure(
        "startup-no-sev",
        "startup:cpuid:0x8000001f:eax:clear:0x2",
        GENERAL,
    ),
    failure(
        "startup-leaf-limit",
        "startup:cpuid:0x80000000:eax:put:0x8000001e",
        GENERAL,
    ),
    failure(
        "startup-cbit",
        "startup:cpuid:0x8000001f:ebx:put:0x16f",
        GENERAL,
    )
    .but_c(End::TripleFault),
    failure(
        "startup-cbit-high",
        "startup:cpuid:0x8000001f:ebx:put:0x173 --cbit 47",
        GENERAL,
    )
    .but_c(End::TripleFault),
    failure("startup-versions", "startup:versions:3:4", PROTOCOL).but_c(GENERAL),
    // ---- The early kernel: at its first #VC, and once it has a console.
    failure("early-first", "early:vc:0x76", GENERAL),
    failure("early-invd", "early:vc:0x76:3000", GENERAL)
        .rust_says(NOT_INVD)
        .c_says("Unsupported exit-code 0x76 in early #VC exception"),
    failure("early-unknown", "early:vc:0x55:3000", GENERAL)
        .says("Unsupported exit-code 0x55 in early #VC exception"),
    failure("early-response", "early:response:0x2", GENERAL),
    // From then on nothing is answered, also not to the console that would report it.
    // C reports each refusal, to a console that raises the next one: how that ends depends on what
    // lies below the stack.
    failure("early-refused", "early:response:0x2:3000", GENERAL).but_c(End::Overflow),
    failure(
        "early-no-rdrand",
        "early:cpuid:0x1:ecx:clear:0x40000000",
        End::Panic,
    )
    .says("Kernel panic - not syncing: RDRAND is defective"),
    // ---- By firmware and EFI stub the first two stages are the firmware's; what follows is not.
    failure(
        "efi-no-sev",
        "startup:cpuid:0x8000001f:eax:clear:0x2",
        GENERAL,
    )
    .firmware(),
    failure(
        "efi-cbit",
        "startup:cpuid:0x8000001f:ebx:put:0x16f",
        GENERAL,
    )
    .firmware()
    .but_c(End::TripleFault),
    failure("efi-invd", "early:vc:0x76:3000", GENERAL)
        .rust_says(NOT_INVD)
        .c_says("Unsupported exit-code 0x76 in early #VC exception")
        .firmware(),
];

/// All failures, with both handlers.
pub fn cases() -> Vec<Case> {
    let case = |kernel: Kernel, failure: &Failure| {
        let (text, end) = match (kernel, failure.c) {
            (Kernel::C, Some(end)) => (failure.texts[1], end),
            (Kernel::C, None) => (failure.texts[1], failure.end),
            _ => (failure.texts[0], failure.end),
        };
        let entry = if failure.firmware { "firmware" } else { "raw" };
        Case::new(
            kernel,
            &format!("lie-{}", failure.name),
            &format!("--entry {entry} --vcpus 1 --option lie={}", failure.lie),
            "nokaslr earlyprintk=ttyS0",
        )
        .end(end)
        .texts(text.as_slice())
    };
    let of = |kernel| FAILURES.iter().map(move |failure| case(kernel, failure));
    Kernel::BOTH.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_says_why_it_ends() {
        for failure in &FAILURES {
            assert!(matches!(failure.end, End::Terminate(..) | End::Panic));
        }
    }
}
