// SPDX-License-Identifier: GPL-2.0

//! The instruction decoder against others: iced-x86, and the kernel's own C decoder.

mod encodings;
mod iced;
mod kernel;

use std::{collections::BTreeMap, thread};

use self::{
    encodings::{Bytes, Share},
    kernel::Verdict,
};
use super::Random;
use crate::proto::{
    insn::{self, CodeSize, DecodeError, Insn, InsnBytes, MAX_INSN_LEN},
    regs::{Gpr, Regs},
};

/// Where the instructions are.
const IP: u64 = 0x12_3400;

/// The decoder under test, on as many bytes as there are.
fn decode(bytes: &[u8], code: CodeSize) -> Result<Insn, DecodeError> {
    let mut buffer = [0xcc; MAX_INSN_LEN];
    let len = bytes.len().min(MAX_INSN_LEN);

    buffer[..len].copy_from_slice(&bytes[..len]);
    insn::decode(InsnBytes::new(&buffer, bytes.len()), code)
}

/// Values of the registers that memory operands use.
fn registers() -> Regs {
    let mut random = Random::new(1);
    let mut regs = Regs {
        ip: IP,
        ..Regs::default()
    };

    for number in 0..16 {
        regs.set_gpr(Gpr::new(number), random.next());
    }
    regs
}

/// Checks that the decoder needs exactly the bytes of the instruction.
fn compare_truncated(bytes: &[u8], code: CodeSize) {
    let whole = decode(bytes, code).unwrap();

    for len in 0..usize::from(whole.len) {
        assert_eq!(
            decode(&bytes[..len], code),
            Err(DecodeError::Truncated),
            "{len} bytes of {bytes:02x?} in {code:?}"
        );
    }
    assert_eq!(decode(&bytes[..whole.len.into()], code), Ok(whole));
}

/// What was compared.
#[derive(Default)]
struct Counts {
    /// With iced-x86.
    iced: u64,
    /// Of these, instructions that are handled; the others are refused.
    handled: u64,
    /// Of these, also cut off after each byte.
    truncated: u64,
    /// With C's decoder.
    kernel: BTreeMap<Verdict, u64>,
}

impl Counts {
    /// Compares all decoders on one instruction.
    fn compare(&mut self, bytes: &Bytes, code: CodeSize, regs: &Regs) {
        let ours = insn::decode(InsnBytes::new(bytes, MAX_INSN_LEN), code);

        self.iced += 1;
        if iced::compare(bytes, code, &ours, regs) {
            self.handled += 1;
            if self.handled % 64 == 0 {
                self.truncated += 1;
                compare_truncated(bytes, code);
            }
        }
        if let Some(verdict) = kernel::compare(bytes, code, &ours, regs) {
            *self.kernel.entry(verdict).or_default() += 1;
        }
    }

    fn add(&mut self, other: Counts) {
        self.iced += other.iced;
        self.handled += other.handled;
        self.truncated += other.truncated;
        for (verdict, count) in other.kernel {
            *self.kernel.entry(verdict).or_default() += count;
        }
    }

    fn kernel_total(&self) -> u64 {
        self.kernel.values().sum()
    }

    fn verdict(&self, verdict: Verdict) -> u64 {
        self.kernel.get(&verdict).copied().unwrap_or(0)
    }

    fn print(&self, name: &str) {
        println!(
            "count: {name}: iced-x86: {} compared, {} of them handled, {} cut off at each byte",
            self.iced, self.handled, self.truncated
        );
        println!(
            "count: {name}: kernel's C decoder: {} compared: {:?}",
            self.kernel_total(),
            self.kernel
        );
    }
}

/// Compares a share of all encodings, one of `step`, with all processors.
fn compare_all(step: u64, random: u64) -> Counts {
    let workers = thread::available_parallelism().map_or(1, |number| number.get() as u64);
    let regs = registers();
    let mut total = Counts::default();

    for code in [CodeSize::Bits64, CodeSize::Bits32, CodeSize::Bits16] {
        let parts: Vec<Counts> = thread::scope(|scope| {
            let handles: Vec<_> = (0..workers)
                .map(|worker| {
                    scope.spawn(move || {
                        let mut counts = Counts::default();
                        let share = Share {
                            step: step * workers,
                            offset: step * worker,
                        };

                        encodings::exhaustive(code, share, &mut |bytes| {
                            counts.compare(bytes, code, &regs);
                        });
                        counts
                    })
                })
                .collect();

            handles
                .into_iter()
                .map(|handle| handle.join().unwrap())
                .collect()
        });
        let mut counts = Counts::default();

        parts.into_iter().for_each(|part| counts.add(part));
        counts.print(&format!("{code:?}"));
        assert!(
            counts.handled > counts.iced / 10,
            "the test no longer reaches what it is for"
        );
        total.add(counts);
    }

    let parts: Vec<Counts> = thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || {
                    let mut counts = Counts::default();

                    encodings::random(random / workers, worker, &mut |code, bytes| {
                        counts.compare(bytes, code, &regs);
                    });
                    counts
                })
            })
            .collect();

        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .collect()
    });
    let mut counts = Counts::default();

    parts.into_iter().for_each(|part| counts.add(part));
    counts.print("random bytes");
    total.add(counts);
    total.print("total");
    total
}

#[test]
fn agrees_with_iced_and_the_kernel() {
    let counts = compare_all(101, 1_000_000);

    assert!(counts.iced > 5_000_000);
    assert!(counts.kernel_total() > 4_000_000);
    assert!(counts.verdict(Verdict::SameMmio) > 50_000);
}

/// The same with all encodings: `make test-decode`.
#[test]
#[ignore = "takes minutes; make test-decode runs it"]
fn long_agrees_with_iced_and_the_kernel() {
    let counts = compare_all(1, 100_000_000);

    assert!(counts.iced > 500_000_000);
    assert!(counts.kernel_total() > 400_000_000);
    assert!(counts.verdict(Verdict::SameMmio) > 5_000_000);
}

#[test]
fn refuses_instructions_of_more_than_15_bytes() {
    // 14 prefixes and INSB are 15 bytes; one prefix more is too many.
    for (prefixes, expected) in [(14, true), (15, false)] {
        let mut bytes = vec![0x66; prefixes];

        bytes.push(0x6c);
        assert_eq!(decode(&bytes, CodeSize::Bits64).is_ok(), expected);
    }

    // The immediate would be the bytes 14 to 17.
    let mut bytes = vec![0x2e; 11];

    bytes.extend([0xc7, 0x00, 1, 2, 3, 4]);
    assert_eq!(decode(&bytes, CodeSize::Bits64), Err(DecodeError::Unknown));
}
