// SPDX-License-Identifier: GPL-2.0
//! Makes the two spaces of a vCPU's CPU.

use core::ops::Range;

use hypervisor::MAX_VCPUS;
use machine::in_use::PAGE;
use machine::isolation::carve;
use machine::isolation::map;
use machine::isolation::Access;
use machine::isolation::MapError;
use machine::isolation::Owner;
use machine::isolation::Part;
use machine::isolation::Region;
use machine::npt::Frames;

use super::window::TABLE;
use super::Local;
use crate::cpu;
use crate::fatal;
use crate::memory;
use crate::memory::direct;
use crate::memory::LOCAL;
use crate::pages::Tables;
use crate::vcpu::stats::Stats;
use crate::world::World;

extern "C" {
    static image_start: u8;
    static image_end: u8;
    static text_end: u8;
    static rodata_end: u8;
    static host_only_start: u8;
    static host_only_end: u8;
    static boot_pml5: u8;
    static boot_gdt: u8;
    static boot_stack: u8;
    static boot_stack_top: u8;
}

fn address<T>(symbol: *const T) -> u64 {
    symbol as u64
}

/// The code, in linear addresses.
pub fn code() -> Range<u64> {
    address(&raw const image_start)..address(&raw const text_end)
}

/// Something of the host that is not mapped.
pub fn host_only() -> *mut u8 {
    (&raw const host_only_start).cast_mut()
}

/// The stack of a vCPU's CPU.
pub fn stack(vcpu: usize) -> Range<u64> {
    let (stacks, size) = (
        address(&raw const crate::ap_stacks),
        crate::STACK_SIZE as u64,
    );
    match vcpu as u64 {
        // boot.S gives the first CPU one apart.
        0 => address(&raw const boot_stack)..address(&raw const boot_stack_top),
        n => stacks + n * size..stacks + (n + 1) * size,
    }
}

/// Parts of the image that are not for all.
fn parts(world: &World) -> [Part; 3 + 4 * MAX_VCPUS] {
    let (stacks, size) = (
        address(&raw const crate::ap_stacks),
        crate::STACK_SIZE as u64,
    );
    core::array::from_fn(|index| {
        let (owner, range) = match index {
            // The first CPU's stack is another one.
            0 => (Owner::Host, stacks..stacks + size),
            1 => (
                Owner::Host,
                address(&raw const host_only_start)..address(&raw const host_only_end),
            ),
            2 => (
                Owner::Host,
                address(&raw const boot_pml5)..address(&raw const boot_gdt),
            ),
            _ => {
                let (vcpu, kind) = ((index - 3) / 4, (index - 3) % 4);
                let [own, seen] = world.vm.own_parts(vcpu);
                let stats = &raw const *Stats::of(vcpu);
                let stats = address(stats)..address(stats.wrapping_add(1));
                let ranges = [stack(vcpu), own, seen, stats];
                (Owner::Vcpu(vcpu), ranges[kind].clone())
            }
        };
        Part { owner, range }
    })
}

fn refused(error: MapError) -> ! {
    match error {
        MapError::Exhausted => {
            fatal!("not enough hidden memory for page tables: give QEMU more -m")
        }
        other => fatal!("isolation: the map of a vCPU is wrong: {other:x?}"),
    }
}

/// Maps all that the isolated space of a vCPU has for good, below `root`. `own` is its page at
/// [`LOCAL`]; the rest as for [`start`].
fn fill(
    root: u64,
    own: u64,
    vcpu: usize,
    world: &World,
    pages: &[(u64, u64)],
) -> Result<(), MapError> {
    let put = |at: u64, pa: u64, len: u64, access| {
        let region = Region {
            at,
            pa,
            len,
            access,
        };
        map(&mut Tables, root, &region)
    };
    let parts = parts(world);
    let [code_end, constants_end] = [&raw const text_end, &raw const rodata_end].map(address);
    for (range, access) in [
        (code(), Access::Code),
        (code_end..constants_end, Access::Constants),
        (constants_end..address(&raw const image_end), Access::Data),
    ] {
        let segment = Region {
            at: range.start,
            pa: memory::image_pa(range.start as *const u8),
            len: range.end - range.start,
            access,
        };
        carve(segment, &parts, vcpu, |region| {
            map(&mut Tables, root, &region).map(|_| ())
        })?;
    }
    for (pa, len) in pages {
        let len = len.next_multiple_of(PAGE);
        put(address(direct(*pa)), *pa, len, Access::Data)?;
    }
    // What the firmware reads of kernel, initramfs and command line: large, and no secret.
    for blob in world.vm.platform().blobs() {
        let (at, len) = (blob.as_ptr(), blob.len() as u64);
        let len = len.next_multiple_of(PAGE);
        put(address(at), memory::physical(at), len, Access::Constants)?;
    }
    let table = put(LOCAL, own, PAGE, Access::Data)?;
    put(TABLE, table, PAGE, Access::Data)?;
    Ok(())
}

/// Makes the spaces of this CPU's vCPU and goes into the isolated one. `pages` are the physical
/// addresses and lengths of what belongs to the vCPU outside of the image.
#[cold]
#[inline(never)]
pub fn start(vcpu: usize, world: &World, pages: &[(u64, u64)]) {
    let new = || match Tables.alloc() {
        Some(page) => page,
        None => refused(MapError::Exhausted),
    };
    let (root, full, own) = (new(), new(), new());
    if let Err(error) = fill(root, own, vcpu, world, pages) {
        refused(error);
    }
    memory::full_root(full, directory(root, LOCAL));
    // SAFETY: a fresh page of zeros that nobody else knows; then the space is complete: it maps
    // the code, the stack and whatever the exit loop has in hand.
    unsafe {
        let local = direct(own).cast::<Local>();
        (*local).vcpu = vcpu;
        (*local).isolated = root;
        (*local).full = full;
        (*local).touch = vcpu == 0;
        cpu::set_cr3(root);
    }
}

/// The page directory that maps an address, in tables of [`map`].
fn directory(root: u64, at: u64) -> u64 {
    [48, 39, 30].iter().fold(root, |table, shift| {
        Tables.get(table, (at >> shift) as usize % 512) & !(PAGE - 1) & !(1 << 63)
    })
}
