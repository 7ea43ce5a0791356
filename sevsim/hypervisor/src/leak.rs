// SPDX-License-Identifier: GPL-2.0
//! The leak check: does a guest show its hypervisor more than each event needs?
//!
//! At each VMGEXIT the GHCB is compared with what it held when the guest resumed from the last one.
//! Bytes that changed and are not zero have to belong to the event: the fields that it needs (GHCB
//! specification 4.1, table 5 and 6), as wide as it needs them, and the shared buffer as far as
//! the event writes it. A byte that the page had there before its last changes counts as known,
//! since a user of a GHCB that was interrupted finds there again what it had. Eight former values
//! of each quadword are remembered, as the handler of an interrupt has several events, and each may
//! change a register twice. The firmware's GHCB is not looked at.

use spin::Mutex;

use crate::atomic::Word;
use crate::exit::code;
use crate::exit::ioio::IoInfo;
use crate::ghcb::layout::{self, Field, Valid};
use crate::options::MAX_VCPUS;

/// Quadwords of a page.
const WORDS: usize = 512;
/// Former values of a quadword that are remembered.
const PAST: usize = 8;
/// Different leaks that are counted one by one.
const ROWS: usize = 48;
/// CPL's byte in its quadword.
const CPL_BITS: u64 = 0xff << (8 * (layout::CPL.offset() & 7));

/// What a request is about: the fields that decide which others it needs.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// SW_EXITCODE.
    pub code: u64,
    /// SW_EXITINFO1.
    pub info1: u64,
    /// SW_EXITINFO2.
    pub info2: u64,
    /// RAX, for the leaf of CPUID.
    pub rax: u64,
    /// SW_SCRATCH.
    pub scratch: u64,
}

/// A field that the guest may show, and the bits of it.
type Shown = (Field, u64);

/// No field.
const NONE: Shown = (layout::SW_EXITCODE, u64::MAX);
/// Registers of which an instruction uses the lower half.
const LOW: u64 = 0xffff_ffff;

impl Request {
    /// What the event needs besides code and information.
    fn needs(&self) -> [Shown; 6] {
        use layout::{CPL, RAX, RBX, RCX, RDX, RSI, SW_SCRATCH, XCR0, XSS};
        let fields: &[Shown] = match self.code {
            code::DR7_WRITE => &[(RAX, u64::MAX)],
            code::RDPMC => &[(RCX, LOW)],
            code::CPUID if self.rax as u32 == 0xd => {
                &[(RAX, LOW), (RCX, LOW), (XCR0, u64::MAX), (XSS, u64::MAX)]
            }
            code::CPUID => &[(RAX, LOW), (RCX, LOW)],
            code::IOIO => match IoInfo(self.info1) {
                info if info.string() => &[(SW_SCRATCH, u64::MAX)],
                info if info.input() => &[(RAX, 0)],
                info => match info.size() {
                    Ok(Some(1)) => &[(RAX, 0xff)],
                    Ok(Some(2)) => &[(RAX, 0xffff)],
                    Ok(Some(4)) => &[(RAX, LOW)],
                    _ => &[(RAX, 0)],
                },
            },
            code::MSR if self.info1 == 0 => &[(RCX, LOW)],
            code::MSR => &[(RCX, LOW), (RAX, LOW), (RDX, LOW)],
            // The arguments of KVM's hypercalls.
            code::VMMCALL => &[
                (RAX, u64::MAX),
                (CPL, CPL_BITS),
                (RBX, u64::MAX),
                (RCX, u64::MAX),
                (RDX, u64::MAX),
                (RSI, u64::MAX),
            ],
            code::MONITOR => &[(RAX, u64::MAX), (RCX, LOW), (RDX, LOW)],
            code::MWAIT => &[(RAX, LOW), (RCX, LOW)],
            code::MMIO_READ | code::MMIO_WRITE => &[(SW_SCRATCH, u64::MAX)],
            _ => &[],
        };
        let mut needs = [NONE; 6];
        needs[..fields.len()].copy_from_slice(fields);
        needs
    }

    /// The part of the page that the event gives data in: start and end.
    fn data(&self) -> (u64, u64) {
        let len = match self.code {
            code::MMIO_WRITE => self.info2,
            code::IOIO => match IoInfo(self.info1) {
                info if info.string() && !info.input() => {
                    let size = info.size().ok().flatten().unwrap_or(0);
                    self.info2.saturating_mul(size.into())
                }
                _ => 0,
            },
            _ => 0,
        };
        let start = self.scratch & 0xfff;
        let inside = (layout::SHARED_BUFFER..layout::SHARED_BUFFER_END).contains(&start);
        if !inside {
            return (0, 0);
        }
        (
            start,
            start.saturating_add(len).min(layout::SHARED_BUFFER_END),
        )
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// SW_EXITCODE.
    pub code: u64,
    /// Offset in the page.
    pub offset: u64,
    /// The bits that are not the hypervisor's business; 0 for a field that is only marked valid.
    pub bits: u64,
}

/// Former values of a quadword, the last one first.
struct Past([Word; PAST]);

impl Past {
    /// Remembers one more, and forgets the oldest.
    fn push(&self, mut value: u64) {
        for place in &self.0 {
            let former = place.get();
            place.set(value);
            value = former;
        }
    }

    /// Mask of the bytes of `value` that none of them has.
    fn lacks(&self, value: u64) -> u64 {
        let masks = self.0.iter().map(|past| changed_bytes(value, past.get()));
        masks.fold(u64::MAX, |all, mask| all & mask)
    }
}

/// What the hypervisor knows of a vCPU's GHCB. In pages of its own, as `vcpu::Own`.
#[repr(align(4096))]
pub struct Seen {
    gpa: Word,
    now: [Word; WORDS],
    before: [Past; WORDS],
    /// A bit for each quadword: the hypervisor has written it since the last request.
    written: [Word; WORDS / 64],
}

impl Seen {
    /// Knows nothing.
    pub const fn new() -> Self {
        Self {
            gpa: Word::new(0),
            now: [const { Word::new(0) }; WORDS],
            before: [const { Past([const { Word::new(0) }; PAST]) }; WORDS],
            written: [const { Word::new(0) }; WORDS / 64],
        }
    }

    /// Looks at the page of a request, before it is answered. What a page holds that was never seen
    /// before says nothing: it is what the memory held before it was shared.
    pub fn request(
        &self,
        gpa: u64,
        valid: Valid,
        request: &Request,
        read: impl Fn(u64) -> u64,
        mut found: impl FnMut(Leak),
    ) {
        let needs = request.needs();
        let (start, end) = request.data();
        let basic = [
            layout::SW_EXITCODE,
            layout::SW_EXITINFO1,
            layout::SW_EXITINFO2,
        ];
        let mut extra = valid.words();
        for field in basic.into_iter().chain(needs.map(|(field, _)| field)) {
            let (low, high) = Valid::NONE.with(field).words();
            extra = (extra.0 & !low, extra.1 & !high);
        }
        for (word, bits) in [extra.0, extra.1].into_iter().enumerate() {
            (0..64)
                .filter(|bit| (bits >> bit) & 1 != 0)
                .for_each(|bit| {
                    found(Leak {
                        code: request.code,
                        offset: 8 * (64 * word as u64 + bit),
                        bits: 0,
                    });
                });
        }
        let known = self.gpa.get() == gpa;
        self.gpa.set(gpa);
        self.written.iter().for_each(|bits| bits.set(0));
        for (index, (now, before)) in self.now.iter().zip(&self.before).enumerate() {
            let offset = 8 * index as u64;
            let value = read(offset);
            if value == now.get() {
                continue;
            }
            let new = changed_bytes(value, now.get()) & before.lacks(value);
            before.push(now.get());
            now.set(value);
            if !known {
                continue;
            }
            let field = |field: Field| field.offset() & !7 == offset;
            let shown = if basic.into_iter().any(field)
                || offset == layout::VALID_BITMAP
                || offset == layout::VALID_BITMAP + 8
                || offset == layout::TRAILER
            {
                u64::MAX
            } else if offset >= layout::SHARED_BUFFER {
                bytes_within(offset, start, end)
            } else {
                let of = |(needed, bits): &Shown| if field(*needed) { *bits } else { 0 };
                needs.iter().map(of).fold(0, |all, bits| all | bits)
            };
            let bits = value & new & !shown;
            if bits != 0 {
                found(Leak {
                    code: request.code,
                    offset,
                    bits,
                });
            }
        }
    }

    /// Takes note of the page as the hypervisor leaves it.
    pub fn reply(&self, read: impl Fn(u64) -> u64) {
        for (index, now) in self.now.iter().enumerate() {
            let offset = 8 * index as u64;
            let value = read(offset);
            if value != now.get() {
                self.wrote(offset, value);
            }
        }
    }

    /// Takes note of a quadword that the hypervisor writes. What the guest had there stays known,
    /// however often it is written.
    pub fn wrote(&self, offset: u64, value: u64) {
        let index = (offset / 8) as usize;
        let (Some(now), Some(before)) = (self.now.get(index), self.before.get(index)) else {
            return;
        };
        let (bits, bit) = (&self.written[index / 64], 1 << (index % 64));
        if bits.get() & bit == 0 {
            before.push(now.get());
            bits.set(bits.get() | bit);
        }
        now.set(value);
    }
}

/// Mask of the bytes in which two quadwords differ.
fn changed_bytes(a: u64, b: u64) -> u64 {
    let differ = |byte: &u64| ((a ^ b) >> (8 * byte)) & 0xff != 0;
    (0..8)
        .filter(differ)
        .fold(0, |mask, byte| mask | (0xff << (8 * byte)))
}

/// Mask of the bytes of the quadword at `offset` that lie from `start` to before `end`.
fn bytes_within(offset: u64, start: u64, end: u64) -> u64 {
    let inside = |byte: &u64| (start..end).contains(&(offset + byte));
    (0..8)
        .filter(inside)
        .fold(0, |mask, byte| mask | (0xff << (8 * byte)))
}

/// The pages of all vCPUs. Not in the VM, which is built on a small stack.
pub static SEEN: [Seen; MAX_VCPUS] = [const { Seen::new() }; MAX_VCPUS];

/// Leaks of a kind, how many, and the bits of the first one.
type Row = (Leak, u64);

/// Counts leaks by exit code and offset.
pub struct Leaks(Mutex<[Option<Row>; ROWS]>);

impl Default for Leaks {
    fn default() -> Self {
        Self(Mutex::new([None; ROWS]))
    }
}

impl Leaks {
    /// Counts one; true if it is the first of its kind.
    pub fn add(&self, leak: Leak) -> bool {
        for row in self.0.lock().iter_mut() {
            match row {
                Some((known, count)) => {
                    let same = (known.code, known.offset, known.bits == 0);
                    if same == (leak.code, leak.offset, leak.bits == 0) {
                        *count += 1;
                        return false;
                    }
                }
                None => {
                    *row = Some((leak, 1));
                    return true;
                }
            }
        }
        false
    }

    /// All that were counted.
    pub fn for_each(&self, mut each: impl FnMut(Leak, u64)) {
        let rows = self.0.lock();
        let rows = rows.iter().flatten();
        rows.for_each(|(leak, count)| each(*leak, *count));
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        let mut total = 0;
        self.for_each(|_, count| total += count);
        total
    }
}

#[cfg(test)]
#[path = "leak_tests.rs"]
mod tests;
