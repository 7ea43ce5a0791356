// SPDX-License-Identifier: GPL-2.0
//! Lies about the AP jump table, the page in which the kernel leaves its entry for other CPUs: none
//! of them may be started anywhere else, and the boot goes on with one.

use super::case::Case;
use super::case::End;
use crate::cases::Kernel;

const REFUSED: &str = "CPU 1 cannot be started without a good AP jump table";
const ALONE: &str = "sevsim-init: processors: 1";

/// Name, address, what Rust says of it, and how C ends.
const LIES: [(&str, &str, Option<&str>, End); 5] = [
    ("none", "0", None, End::TripleFault),
    (
        "misaligned",
        "0x1000010",
        Some("AP jump table at 0x1000010, which is not the start of a page"),
        End::Panic,
    ),
    (
        "ram",
        "0x2000000",
        Some("AP jump table at 0x2000000, which is not the firmware's"),
        End::Panic,
    ),
    (
        "unmapped",
        "0x7000000000",
        Some("AP jump table at 0x7000000000, which is not memory"),
        End::Terminate(0, 0),
    ),
    (
        "device",
        "0xfe000000",
        Some("AP jump table at 0xfe000000, which is not memory"),
        End::Terminate(0, 0),
    ),
];

/// Each lie, with both handlers.
pub fn cases() -> Vec<Case> {
    let case = |kernel: Kernel,
                (name, address, text, c): &(&str, &str, Option<&'static str>, End)| {
        let options = format!("--vcpus 2 --option lie=runtime:jump-table:{address}");
        let case = Case::new(kernel, &format!("jump-table-{name}"), &options, "");
        match kernel {
            Kernel::C => case.end(*c),
            _ => case.texts(&[REFUSED, ALONE]).texts(text.as_slice()),
        }
    };
    let of = |kernel| LIES.iter().map(move |lie| case(kernel, lie));
    Kernel::BOTH.into_iter().flat_map(of).collect()
}
