// SPDX-License-Identifier: GPL-2.0

//! The Unicorn engine as a machine with memory, a device, and ports that tell what was asked of
//! them.

use std::{
    ffi::{c_int, c_void},
    ptr,
};

use super::super::Random;
use crate::proto::CodeSize;

/// Made by the build script from Unicorn's header.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
mod c {
    include!(concat!(env!("OUT_DIR"), "/unicorn.rs"));
}

/// Where the instruction is: a page.
pub(super) const CODE: u64 = 0x1000;
/// Memory, with holes before and after it.
pub(super) const DATA: u64 = 0x4000;
/// A device, with holes before and after it.
pub(super) const DEVICE: u64 = 0x8000;
/// Size of [`DATA`] and [`DEVICE`].
pub(super) const SIZE: u64 = 0x3000;

/// The registers, by their numbers in instructions.
const GPRS: [c::uc_x86_reg; 16] = [
    c::UC_X86_REG_RAX,
    c::UC_X86_REG_RCX,
    c::UC_X86_REG_RDX,
    c::UC_X86_REG_RBX,
    c::UC_X86_REG_RSP,
    c::UC_X86_REG_RBP,
    c::UC_X86_REG_RSI,
    c::UC_X86_REG_RDI,
    c::UC_X86_REG_R8,
    c::UC_X86_REG_R9,
    c::UC_X86_REG_R10,
    c::UC_X86_REG_R11,
    c::UC_X86_REG_R12,
    c::UC_X86_REG_R13,
    c::UC_X86_REG_R14,
    c::UC_X86_REG_R15,
];

/// The same in 32- and 16-bit mode.
const GPRS_32: [c::uc_x86_reg; 8] = [
    c::UC_X86_REG_EAX,
    c::UC_X86_REG_ECX,
    c::UC_X86_REG_EDX,
    c::UC_X86_REG_EBX,
    c::UC_X86_REG_ESP,
    c::UC_X86_REG_EBP,
    c::UC_X86_REG_ESI,
    c::UC_X86_REG_EDI,
];

/// Segment registers in the core's order.
const SEGMENTS: [c::uc_x86_reg; 6] = [
    c::UC_X86_REG_ES,
    c::UC_X86_REG_CS,
    c::UC_X86_REG_SS,
    c::UC_X86_REG_DS,
    c::UC_X86_REG_FS,
    c::UC_X86_REG_GS,
];

/// What the device or a port was asked for. `at` is an offset in the device, or the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read { at: u64, len: u64 },
    Write { at: u64, len: u64, value: u64 },
    In { at: u64, len: u64, value: u64 },
    Out { at: u64, len: u64, value: u64 },
}

/// What is behind the CPU.
pub(super) struct Bus {
    pub(super) device: Vec<u8>,
    pub(super) log: Vec<Access>,
    /// RIP at each single-step trap.
    pub(super) traps: Vec<u64>,
    /// The register that RIP is read from in this mode.
    ip: c::uc_x86_reg,
    input: Random,
}

impl Bus {
    fn read(&mut self, at: u64, len: u64) -> u64 {
        self.log.push(Access::Read { at, len });
        (0..len).rev().fold(0, |value, n| {
            (value << 8) | u64::from(self.device[(at + n) as usize])
        })
    }

    fn write(&mut self, at: u64, len: u64, value: u64) {
        let value = if len < 8 {
            value & ((1 << (8 * len)) - 1)
        } else {
            value
        };

        self.log.push(Access::Write { at, len, value });
        for n in 0..len {
            self.device[(at + n) as usize] = (value >> (8 * n)) as u8;
        }
    }
}

/// The general-purpose registers, and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) gpr: [u64; 16],
    pub(super) ip: u64,
    pub(super) flags: u64,
}

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is complete.
    Complete,
    /// It accessed a hole.
    Fault { write: bool },
}

/// The engine in one mode.
pub(super) struct Engine {
    uc: *mut c::uc_engine,
    code: CodeSize,
    bus: *mut Bus,
    data: *mut [u8],
    /// What was allocated for `data`.
    allocated: *mut [u8],
    /// Where the next instruction is put.
    slot: u64,
}

extern "C" fn mmio_read(_: *mut c::uc_engine, at: u64, len: u32, bus: *mut c_void) -> u64 {
    // SAFETY: The engine calls this with the pointer that it was given, which is to a bus that
    // outlives it, and that nobody uses while the engine runs.
    unsafe { &mut *bus.cast::<Bus>() }.read(at, len.into())
}

extern "C" fn mmio_write(_: *mut c::uc_engine, at: u64, len: u32, value: u64, bus: *mut c_void) {
    // SAFETY: As in `mmio_read`.
    unsafe { &mut *bus.cast::<Bus>() }.write(at, len.into(), value);
}

extern "C" fn port_in(_: *mut c::uc_engine, port: u32, len: c_int, bus: *mut c_void) -> u32 {
    // SAFETY: As in `mmio_read`.
    let bus = unsafe { &mut *bus.cast::<Bus>() };
    let value = bus.input.next() & (u64::MAX >> (64 - 8 * len));

    bus.log.push(Access::In {
        at: port.into(),
        len: len as u64,
        value,
    });
    value as u32
}

extern "C" fn port_out(_: *mut c::uc_engine, port: u32, len: c_int, value: u32, bus: *mut c_void) {
    // SAFETY: As in `mmio_read`.
    unsafe { &mut *bus.cast::<Bus>() }.log.push(Access::Out {
        at: port.into(),
        len: len as u64,
        value: u64::from(value) & (u64::MAX >> (64 - 8 * len)),
    });
}

extern "C" fn exception(uc: *mut c::uc_engine, vector: u32, bus: *mut c_void) {
    const DEBUG: u32 = 1;
    let mut ip = 0u64;

    assert_eq!(vector, DEBUG, "an exception that is no trap");
    // SAFETY: As in `mmio_read`.
    let bus = unsafe { &mut *bus.cast::<Bus>() };

    // SAFETY: The register has at most eight bytes.
    check(unsafe { c::uc_reg_read(uc, bus.ip as c_int, ptr::from_mut(&mut ip).cast()) });
    bus.traps.push(ip);
}

fn check(error: c::uc_err) {
    assert_eq!(error, c::UC_ERR_OK, "Unicorn refuses what it is asked for");
}

impl Engine {
    pub(super) fn new(code: CodeSize, seed: u64) -> Engine {
        let mode = match code {
            CodeSize::Bits16 => c::UC_MODE_16,
            CodeSize::Bits32 => c::UC_MODE_32,
            CodeSize::Bits64 => c::UC_MODE_64,
        };
        let mut uc = ptr::null_mut();
        let bus = Box::into_raw(Box::new(Bus {
            device: vec![0; SIZE as usize],
            log: vec![],
            traps: vec![],
            ip: match code {
                CodeSize::Bits64 => c::UC_X86_REG_RIP,
                _ => c::UC_X86_REG_EIP,
            },
            input: Random::new(seed),
        }));
        let allocated = Box::into_raw(vec![0; SIZE as usize + 4096].into_boxed_slice());
        // Whole pages of the host.
        // SAFETY: The offset is below 4096, by which the memory is longer.
        let aligned = unsafe {
            let start = allocated.cast::<u8>();

            start.add(start.align_offset(4096))
        };

        // SAFETY: The engine is open until it is dropped; the bus and the memory are freed after
        // that. The types of the callbacks are those that the header gives for their hooks.
        unsafe {
            check(c::uc_open(c::UC_ARCH_X86, mode, &mut uc));
            check(c::uc_mem_map(uc, CODE, 4096, c::UC_PROT_ALL));
            check(c::uc_mem_map_ptr(
                uc,
                DATA,
                SIZE as usize,
                c::UC_PROT_READ | c::UC_PROT_WRITE,
                aligned.cast(),
            ));
            check(c::uc_mmio_map(
                uc,
                DEVICE,
                SIZE as usize,
                Some(mmio_read),
                bus.cast(),
                Some(mmio_write),
                bus.cast(),
            ));
            for (hook, instruction) in [
                (port_in as *mut c_void, c::UC_X86_INS_IN),
                (port_out as *mut c_void, c::UC_X86_INS_OUT),
            ] {
                let mut handle = 0;

                check(c::uc_hook_add(
                    uc,
                    &mut handle,
                    c::UC_HOOK_INSN as c_int,
                    hook,
                    bus.cast(),
                    1u64,
                    0u64,
                    instruction as c_int,
                ));
            }

            let mut handle = 0;

            check(c::uc_hook_add(
                uc,
                &mut handle,
                c::UC_HOOK_INTR as c_int,
                exception as *mut c_void,
                bus.cast(),
                1u64,
                0u64,
            ));
        }
        Engine {
            uc,
            code,
            bus,
            data: ptr::slice_from_raw_parts_mut(aligned, SIZE as usize),
            allocated,
            slot: 0,
        }
    }

    pub(super) fn bus(&mut self) -> &mut Bus {
        // SAFETY: Only the callbacks use it otherwise, while the engine runs.
        unsafe { &mut *self.bus }
    }

    /// The memory at [`DATA`].
    pub(super) fn data(&mut self) -> &mut [u8] {
        // SAFETY: Only the engine uses it otherwise, while it runs.
        unsafe { &mut *self.data }
    }

    fn set(&mut self, register: c::uc_x86_reg, value: u64) {
        // SAFETY: Registers have at most eight bytes.
        check(unsafe { c::uc_reg_write(self.uc, register as c_int, ptr::from_ref(&value).cast()) });
    }

    fn get(&mut self, register: c::uc_x86_reg) -> u64 {
        let mut value = 0u64;

        // SAFETY: As in `set`.
        check(unsafe {
            c::uc_reg_read(self.uc, register as c_int, ptr::from_mut(&mut value).cast())
        });
        value
    }

    fn gprs(&self) -> &'static [c::uc_x86_reg] {
        match self.code {
            CodeSize::Bits64 => &GPRS,
            _ => &GPRS_32,
        }
    }

    /// Sets the base of FS or GS in 64-bit mode; the value of any segment register in 16-bit mode.
    pub(super) fn set_segment(&mut self, number: usize, base: u64) {
        match (self.code, number) {
            (CodeSize::Bits16, _) => self.set(SEGMENTS[number], base >> 4),
            (CodeSize::Bits64, 4) => self.set(c::UC_X86_REG_FS_BASE, base),
            (CodeSize::Bits64, 5) => self.set(c::UC_X86_REG_GS_BASE, base),
            _ => panic!("flat segments have no base"),
        }
    }

    /// Where the next instruction will be.
    pub(super) fn next_ip(&self) -> u64 {
        CODE + self.slot * 16
    }

    /// Runs an instruction at [`Engine::next_ip`], to its end or to a fault.
    pub(super) fn run(&mut self, insn: &[u8], state: &State) -> (End, State) {
        let ip = self.next_ip();

        assert_eq!(ip, state.ip);
        self.bus().log.clear();
        self.bus().traps.clear();
        // SAFETY: The code page is mapped, and the slot is in it.
        unsafe {
            check(c::uc_mem_write(
                self.uc,
                ip,
                insn.as_ptr().cast(),
                insn.len(),
            ));
        }
        for (register, value) in self.gprs().iter().zip(state.gpr) {
            self.set(*register, value);
        }
        self.set(c::UC_X86_REG_EFLAGS, state.flags | 2);

        // SAFETY: Nobody uses the bus and the memory in the meantime.
        let error = unsafe { c::uc_emu_start(self.uc, ip, ip + insn.len() as u64, 0, 0) };
        let end = match error {
            c::UC_ERR_OK => End::Complete,
            c::UC_ERR_READ_UNMAPPED => End::Fault { write: false },
            c::UC_ERR_WRITE_UNMAPPED => End::Fault { write: true },
            error => panic!("Unicorn: error {error} from {insn:02x?} with {state:x?}"),
        };
        let register = self.bus().ip;
        let mut after = State {
            ip: self.get(register),
            flags: self.get(c::UC_X86_REG_EFLAGS),
            ..State::default()
        };

        for (n, register) in self.gprs().iter().enumerate() {
            after.gpr[n] = self.get(*register);
        }
        // The engine translates anew what is written over.
        self.slot = (self.slot + 1) % (4096 / 16);
        (end, after)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: Opened and allocated by `new`; the engine uses the memory and the bus no longer.
        unsafe {
            check(c::uc_close(self.uc));
            drop(Box::from_raw(self.bus));
            drop(Box::from_raw(self.allocated));
        }
    }
}
