// SPDX-License-Identifier: GPL-2.0

//! Emulated MMIO against the CPU that runs the tests: the same instruction on the same registers
//! and memory, once natively and once through the core.

use std::{ffi::c_void, ptr};

use super::{
    machine::{Machine, Page},
    Random,
};
use crate::proto::{regs::Gpr, Outcome};

/// Registers for and after a native run, in the order that the code below assumes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(super) struct State {
    pub(super) gpr: [u64; 16],
    pub(super) flags: u64,
}

const FLAGS_OFFSET: u8 = 0x80;

/// CF, PF, AF, ZF, SF, DF, OF.
pub(super) const FLAGS: u64 = 0xcd5;

/// Memory of the host: a page of code, and pages of data. Child processes share it.
pub(super) struct Host {
    pub(super) code: *mut u8,
    pub(super) data: *mut u8,
}

pub(super) const DATA_SIZE: usize = 3 * 4096;

fn map(len: usize, protection: i32) -> *mut u8 {
    // SAFETY: A new anonymous mapping.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            protection,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            -1,
            0,
        )
    };

    assert_ne!(address, libc::MAP_FAILED, "no memory for the test");
    address.cast()
}

impl Host {
    pub(super) fn new() -> Host {
        Host {
            code: map(4096, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC),
            data: map(DATA_SIZE, libc::PROT_READ | libc::PROT_WRITE),
        }
    }

    /// Runs an instruction with these registers; RSP is the host's. Returns the registers after.
    fn run(&self, insn: &[u8], mut state: State) -> State {
        let mut code = vec![
            0x53, 0x55, // push rbx; push rbp
            0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, // push r12 .. r15
            0x57, // push rdi: the state
        ];

        // push qword [rdi + flags]; popfq
        code.extend([0xff, 0xb7, FLAGS_OFFSET, 0, 0, 0, 0x9d]);
        for number in (0..16u8)
            .filter(|number| !matches!(number, 4 | 7))
            .chain([7])
        {
            // mov reg, [rdi + number * 8]
            code.extend([
                0x48 | (number >> 3 << 2),
                0x8b,
                0x47 | ((number & 7) << 3),
                number * 8,
            ]);
        }
        code.extend(insn);
        // push rdi; mov rdi, [rsp + 8]
        code.extend([0x57, 0x48, 0x8b, 0x7c, 0x24, 0x08]);
        for number in (0..16u8).filter(|number| !matches!(number, 4 | 7)) {
            code.extend([
                0x48 | (number >> 3 << 2),
                0x89,
                0x47 | ((number & 7) << 3),
                number * 8,
            ]);
        }
        // pop qword [rdi + 7 * 8]; pushfq; pop qword [rdi + flags]; cld
        code.extend([
            0x8f,
            0x47,
            56,
            0x9c,
            0x8f,
            0x87,
            FLAGS_OFFSET,
            0,
            0,
            0,
            0xfc,
        ]);
        code.extend([
            0x5f, // pop rdi
            0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, // pop r15 .. r12
            0x5d, 0x5b, 0xc3, // pop rbp; pop rbx; ret
        ]);

        // SAFETY: The code page is writable and executable and larger than the code. The code
        // saves what the ABI wants saved, and `insn` accesses only `data` (its registers are set
        // up that way) and no stack.
        unsafe {
            ptr::copy_nonoverlapping(code.as_ptr(), self.code, code.len());

            let run: extern "sysv64" fn(*mut State) = std::mem::transmute(self.code);

            run(&mut state);
        }
        state
    }

    pub(super) fn set_data(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), DATA_SIZE);
        // SAFETY: The mapping has this size.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.data, DATA_SIZE) }
    }

    pub(super) fn data(&self) -> Vec<u8> {
        // SAFETY: The mapping has this size, and nobody writes it now.
        unsafe { std::slice::from_raw_parts(self.data, DATA_SIZE) }.to_vec()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: Both were mapped with these sizes, and are not used any more.
        unsafe {
            libc::munmap(self.code.cast::<c_void>(), 4096);
            libc::munmap(self.data.cast::<c_void>(), DATA_SIZE);
        }
    }
}

/// Guest-physical address of the device that stands for the data.
const GPA: u64 = 0xfe00_0000;

/// A machine that is about to execute the instruction, with the data in a device.
pub(super) fn machine(host: &Host, insn: &[u8], state: &State, data: &[u8], peek: bool) -> Machine {
    let mut machine = Machine::new(insn);
    let base = host.data as u64;

    machine.peek = peek;

    for page in 0..3 {
        machine
            .pages
            .insert(base + page * 4096, Page::device(GPA + page * 4096));
    }
    machine.hypervisor.mmio = data
        .iter()
        .enumerate()
        .map(|(n, byte)| (GPA + n as u64, *byte))
        .collect();
    for (number, value) in state.gpr.iter().enumerate() {
        machine.regs.set_gpr(Gpr::new(number as u8), *value);
    }
    machine.regs.flags = state.flags | 0x1_0002;
    machine
}

/// The machine's registers.
pub(super) fn state_of(machine: &Machine) -> State {
    let mut state = State {
        flags: machine.regs.flags,
        ..State::default()
    };

    for (number, value) in state.gpr.iter_mut().enumerate() {
        *value = machine.regs.gpr(Gpr::new(number as u8));
    }
    state
}

/// What the device of [`machine`] holds.
pub(super) fn data_of(machine: &Machine) -> Vec<u8> {
    machine.hypervisor.mmio.values().copied().collect()
}

/// Runs the instruction through the core, with the data in a device.
fn emulate(host: &Host, insn: &[u8], state: &State, data: &[u8], peek: bool) -> (State, Vec<u8>) {
    let mut machine = machine(host, insn, state, data, peek);

    loop {
        match machine.vc(0x400) {
            Outcome::Done { .. } => break,
            Outcome::Retry { .. } => {}
            outcome => panic!("{insn:02x?}: {outcome:x?} {state:x?}"),
        }
    }
    (state_of(&machine), data_of(&machine))
}

/// An instruction under test.
#[derive(Clone, Copy)]
pub(super) struct Form {
    opcode: &'static [u8],
    /// ModRM.reg if it extends the opcode.
    extension: Option<u8>,
    /// Bytes of immediate: 0, 1, or 9 for the operand's width.
    immediate: usize,
    /// A LOCK prefix is allowed.
    lock: bool,
    /// Flags that the instruction leaves undefined.
    pub(super) undefined: u64,
    /// A bit number in a register moves the address.
    pub(super) bit: bool,
}

const fn form(opcode: &'static [u8]) -> Form {
    Form {
        opcode,
        extension: None,
        immediate: 0,
        lock: false,
        undefined: 0,
        bit: false,
    }
}

const AF: u64 = 1 << 4;
/// BT leaves OF, SF, AF and PF undefined.
const BT_UNDEFINED: u64 = (1 << 11) | (1 << 7) | AF | (1 << 2);

/// All forms with a ModRM operand in memory.
pub(super) fn forms() -> Vec<Form> {
    let mut forms = vec![];

    for alu in 0..8u8 {
        const OPCODES: [[&[u8]; 4]; 8] = [
            [&[0x00], &[0x01], &[0x02], &[0x03]],
            [&[0x08], &[0x09], &[0x0a], &[0x0b]],
            [&[0x10], &[0x11], &[0x12], &[0x13]],
            [&[0x18], &[0x19], &[0x1a], &[0x1b]],
            [&[0x20], &[0x21], &[0x22], &[0x23]],
            [&[0x28], &[0x29], &[0x2a], &[0x2b]],
            [&[0x30], &[0x31], &[0x32], &[0x33]],
            [&[0x38], &[0x39], &[0x3a], &[0x3b]],
        ];

        let undefined = if matches!(alu, 1 | 4 | 6) { AF } else { 0 };

        for (n, opcode) in OPCODES[usize::from(alu)].iter().enumerate() {
            forms.push(Form {
                lock: n < 2 && alu != 7,
                undefined,
                ..form(opcode)
            });
        }
        for (opcode, immediate) in [(&[0x80][..], 1), (&[0x81], 9), (&[0x83], 1)] {
            forms.push(Form {
                extension: Some(alu),
                immediate,
                lock: alu != 7,
                undefined,
                ..form(opcode)
            });
        }
    }
    for opcode in [&[0x84][..], &[0x85]] {
        forms.push(Form {
            undefined: AF,
            ..form(opcode)
        });
    }
    for (opcode, extension, immediate, undefined) in [
        (&[0xf6][..], 0, 9, AF),
        (&[0xf7], 0, 9, AF),
        (&[0xf6], 1, 9, AF),
        (&[0xf6], 2, 0, 0),
        (&[0xf7], 2, 0, 0),
        (&[0xf6], 3, 0, 0),
        (&[0xf7], 3, 0, 0),
        (&[0xfe], 0, 0, 0),
        (&[0xff], 0, 0, 0),
        (&[0xfe], 1, 0, 0),
        (&[0xff], 1, 0, 0),
        (&[0xc6], 0, 9, 0),
        (&[0xc7], 0, 9, 0),
    ] {
        forms.push(Form {
            extension: Some(extension),
            immediate,
            lock: immediate == 0,
            undefined,
            ..form(opcode)
        });
    }
    for extension in 4..8 {
        forms.push(Form {
            extension: Some(extension),
            immediate: 1,
            lock: extension != 4,
            undefined: BT_UNDEFINED,
            ..form(&[0x0f, 0xba])
        });
    }
    for opcode in [
        &[0x0f, 0xa3][..],
        &[0x0f, 0xab],
        &[0x0f, 0xb3],
        &[0x0f, 0xbb],
    ] {
        forms.push(Form {
            lock: opcode[1] != 0xa3,
            undefined: BT_UNDEFINED,
            bit: true,
            ..form(opcode)
        });
    }
    for opcode in [
        &[0x86][..],
        &[0x87],
        &[0x0f, 0xb0],
        &[0x0f, 0xb1],
        &[0x0f, 0xc0],
        &[0x0f, 0xc1],
    ] {
        forms.push(Form {
            lock: true,
            ..form(opcode)
        });
    }
    for opcode in [
        &[0x88][..],
        &[0x89],
        &[0x8a],
        &[0x8b],
        &[0x63],
        &[0x0f, 0xb6],
        &[0x0f, 0xb7],
        &[0x0f, 0xbe],
        &[0x0f, 0xbf],
    ] {
        forms.push(form(opcode));
    }
    forms
}

/// A value that is likely to carry, to overflow, or to be zero.
pub(super) fn interesting(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => (1u64 << random.below(64)).wrapping_sub(1),
        4 => random.pick(&[0x7f, 0x80, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, 1]),
        _ => random.next(),
    }
}

/// Registers, with the address of an operand in one of them. Returns its number, too.
pub(super) fn state(random: &mut Random, address: u64) -> (State, u8) {
    let mut state = State {
        flags: random.next() & FLAGS & !0x400 | 2,
        ..State::default()
    };
    let base = random.pick(&[0u8, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

    for value in &mut state.gpr {
        *value = interesting(random);
    }
    state.gpr[usize::from(base)] = address;
    (state, base)
}

/// Builds an instruction of a form that accesses memory at `[base + disp8]`.
pub(super) fn encode(random: &mut Random, form: &Form, base: u8, disp: i8) -> Vec<u8> {
    let mut rex = if base >= 8 { 0x41 } else { 0 };
    let mut bytes = vec![];
    let small = random.below(3) == 0;
    let wide = random.below(3) == 0;
    // RSP and SPL are the host's business; AH and its kind come up without REX.
    let mut reg = random.pick(&[0u8, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 20]);

    if reg == 20 {
        reg = 4;
        rex = 0;
    }
    if small {
        bytes.push(0x66);
    }
    if form.lock && random.below(4) == 0 {
        bytes.push(0xf0);
    }
    if reg >= 8 && form.extension.is_none() {
        rex |= 0x44;
    }
    if wide && reg != 4 {
        rex |= 0x48;
    }
    if rex == 0 && reg != 4 && random.below(4) == 0 {
        rex = 0x40;
    }
    if base >= 8 {
        rex |= 0x41;
    }
    if rex != 0 {
        bytes.push(rex);
    }
    bytes.extend(form.opcode);

    let reg = form.extension.unwrap_or(reg & 7);

    bytes.push(0x40 | (reg << 3) | (base & 7));
    if base & 7 == 4 {
        bytes.push(0x24);
    }
    bytes.push(disp as u8);

    let byte_form = form.opcode[form.opcode.len() - 1] & 1 == 0 && form.opcode.len() == 1;
    let immediate = match form.immediate {
        9 if byte_form => 1,
        9 if rex & 8 == 0 && small => 2,
        9 => 4,
        len => len,
    };

    bytes.extend(&interesting(random).to_le_bytes()[..immediate]);
    bytes
}

#[test]
fn memory_instructions_agree_with_the_cpu() {
    let host = Host::new();
    let mut random = Random::new(7);
    let forms = forms();
    let mut compared = 0;

    for round in 0..500 {
        for form in &forms {
            // In the middle of a page, or across its end.
            let offset = if round % 8 == 0 {
                4089 + random.below(8)
            } else {
                4608 + random.below(64)
            };
            let disp = random.next() as i8;
            let address = (host.data as u64 + offset).wrapping_sub(i64::from(disp) as u64);
            let (mut state, base) = state(&mut random, address);
            let insn = encode(&mut random, form, base, disp);
            // SPL, and RSP as a source: the host's stack pointer is not the guest's.
            let decoded = iced_x86::Decoder::new(64, &insn, iced_x86::DecoderOptions::AMD).decode();
            let uses_sp = (0..decoded.op_count()).any(|n| {
                decoded.op_kind(n) == iced_x86::OpKind::Register
                    && decoded.op_register(n).full_register() == iced_x86::Register::RSP
            });

            assert!(!decoded.is_invalid(), "{insn:02x?}");
            if uses_sp {
                continue;
            }
            if form.bit {
                // Bit numbers that stay in the data.
                let register = decoded.op_register(1).full_register() as usize
                    - iced_x86::Register::RAX as usize;

                if register == usize::from(base) {
                    continue;
                }
                state.gpr[register] = random.below(16384).wrapping_sub(8192);
            }

            let data: Vec<u8> = (0..DATA_SIZE / 8)
                .flat_map(|_| interesting(&mut random).to_le_bytes())
                .collect();

            // CMPXCHG should find what it looks for now and then.
            if random.below(2) == 0
                && decoded.mnemonic() == iced_x86::Mnemonic::Cmpxchg
                && base != 0
            {
                let at = offset as usize;

                state.gpr[0] = u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
            }

            host.set_data(&data);

            let mut native = host.run(&insn, state);
            let (mut emulated, memory) = emulate(&host, &insn, &state, &data, random.below(4) != 0);
            let mask = FLAGS & !form.undefined;

            native.flags &= mask;
            emulated.flags &= mask;
            native.gpr[4] = 0;
            emulated.gpr[4] = 0;
            assert_eq!(emulated, native, "{insn:02x?} {decoded} on {state:x?}");
            assert!(
                memory == host.data(),
                "{insn:02x?} {decoded}: memory differs"
            );
            compared += 1;
        }
    }
    println!(
        "{compared} instructions of {} forms agree with this CPU",
        forms.len()
    );
    assert!(compared > 30_000);
}

#[test]
fn string_instructions_agree_with_the_cpu() {
    let host = Host::new();
    let mut random = Random::new(8);

    for _ in 0..5_000 {
        let mut insn = vec![];
        let rep = random.below(3) != 0;
        let opcode = random.pick(&[0xa4u8, 0xa5, 0xaa, 0xab, 0xac, 0xad]);

        if random.below(3) == 0 {
            insn.push(0x66);
        }
        if rep {
            insn.push(random.pick(&[0xf2, 0xf3]));
        }
        if random.below(3) == 0 {
            insn.push(0x48);
        }
        insn.push(opcode);

        let (mut state, _) = state(&mut random, 0);

        state.gpr[6] = host.data as u64 + 4096 + random.below(4096);
        state.gpr[7] = host.data as u64 + 4096 + random.below(4096);
        state.gpr[1] = random.pick(&[0, 1, 2, 7, 63, 64, 65, 200]);
        if random.below(2) == 0 {
            state.flags |= 0x400;
        }

        let data: Vec<u8> = (0..DATA_SIZE).map(|_| random.next() as u8).collect();

        host.set_data(&data);

        let mut native = host.run(&insn, state);
        let (mut emulated, memory) = emulate(&host, &insn, &state, &data, random.below(4) != 0);

        native.flags &= FLAGS;
        emulated.flags &= FLAGS;
        native.gpr[4] = 0;
        emulated.gpr[4] = 0;
        assert_eq!(emulated, native, "{insn:02x?} on {state:x?}");
        assert!(memory == host.data(), "{insn:02x?}: memory differs");
    }
}
