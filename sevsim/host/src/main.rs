// SPDX-License-Identifier: GPL-2.0
//! sevsim's bare-metal binary: takes a machine over, moves out of the guest's way and runs it.
//!
//! Order of things: multiboot -> (boot.S) -> [`host_main`] -> copy image and modules into hidden
//! memory -> start the other CPUs -> set the VM up -> each CPU runs its vCPU ([`vcpu::run`]).

#![no_std]
#![no_main]

mod apic;
mod clock;
mod console;
mod cpu;
mod direct;
mod exceptions;
mod isolation;
mod launch;
mod memory;
mod multiboot;
mod pages;
mod platform;
mod setup;
mod stop;
mod vcpu;
mod world;

use core::arch::global_asm;
use core::panic::PanicInfo;

global_asm!(include_str!("boot.S"), options(att_syntax));
global_asm!(include_str!("run.S"), options(att_syntax));

/// Bytes of each AP's stack; boot.S shifts by 16.
const STACK_SIZE: usize = 0x1_0000;

#[repr(C, align(4096))]
struct Stacks([[u8; STACK_SIZE]; hypervisor::MAX_VCPUS]);

#[no_mangle]
static mut ap_stacks: Stacks = Stacks([[0; STACK_SIZE]; hypervisor::MAX_VCPUS]);

/// First Rust code of the first CPU. `info` is multiboot's information structure.
#[no_mangle]
extern "C" fn host_main(magic: u32, info: u32) -> ! {
    exceptions::load();
    if magic != multiboot::MAGIC {
        fatal!("not started by a multiboot loader: use QEMU's -kernel");
    }
    setup::take_over(u64::from(info));
    vcpu::run(0)
}

/// First Rust code of the other CPUs.
#[no_mangle]
extern "C" fn host_ap(apic_id: u32) -> ! {
    exceptions::load();
    apic::ap_arrived();
    vcpu::run(apic_id as usize)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => fatal!("panic at {}:{}: {}", at.file(), at.line(), info.message()),
        None => fatal!("panic: {}", info.message()),
    }
}
