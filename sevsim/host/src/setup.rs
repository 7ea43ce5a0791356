// SPDX-License-Identifier: GPL-2.0
//! Taking the machine over: options, memory, modules, the other CPUs, the VM.

use hypervisor::Entry;
use hypervisor::Isolation;
use hypervisor::Options;
use hypervisor::Vm;
use machine::control;
use machine::layout::Layout;
use machine::layout::FOUR_GIB;
use machine::npt;

use crate::apic;
use crate::clock;
use crate::cpu;
use crate::direct;
use crate::fatal;
use crate::isolation;
use crate::launch;
use crate::log;
use crate::memory;
use crate::memory::LARGE;
use crate::multiboot::Info;
use crate::multiboot::Module;
use crate::pages;
use crate::platform::Host;
use crate::vcpu;
use crate::world;
use crate::world::Memory;
use crate::world::World;

/// Most RAM that a guest gets below 4 GiB.
const LOW_MAX: u64 = 2 << 30;
/// Most bytes of firmware: the local APIC is 18 MiB below 4 GiB.
const FLASH_MAX: u64 = 16 << 20;
/// Upper part of low RAM that SeaBIOS writes to.
const BIOS_TOP: u64 = 16 << 20;

/// The modules by tag.
#[derive(Default)]
struct Modules {
    firmware: Option<Module>,
    kernel: Option<Module>,
    initrd: Option<Module>,
    command_line: Option<Module>,
}

impl Modules {
    fn find(info: Info) -> Self {
        let mut found = Self::default();
        for module in info.modules() {
            let slot = match module.tag {
                "firmware" => &mut found.firmware,
                "kernel" => &mut found.kernel,
                "initrd" => &mut found.initrd,
                "cmdline" => &mut found.command_line,
                tag => fatal!(
                    "module with tag `{tag}`: expected firmware, kernel, initrd or cmdline \
                     behind the file's name in QEMU's -initrd"
                ),
            };
            *slot = Some(module);
        }
        found
    }

    fn end(&self) -> u64 {
        [self.firmware, self.kernel, self.initrd, self.command_line]
            .into_iter()
            .flatten()
            .map(|module| module.start + module.len)
            .max()
            .unwrap_or(0)
    }
}

/// Hidden memory: what QEMU has above the guest's RAM.
fn hidden(info: Info, low: u64, high: u64) -> (u64, u64) {
    let mut low_end = 0;
    let mut top = 0;
    for (start, len) in info.ram() {
        if start >= FOUR_GIB {
            top = top.max(start + len);
        } else {
            low_end = low_end.max(start + len);
        }
    }
    // SeaBIOS keeps a little at the top of low RAM for itself.
    if low_end > low || low_end + BIOS_TOP < low {
        fatal!(
            "QEMU has {} MiB of RAM below 4 GiB, the guest wants {}: use \
             -machine q35,max-ram-below-4g={}M",
            low_end >> 20,
            low >> 20,
            low >> 20
        );
    }
    let start = FOUR_GIB + high;
    if top <= start {
        fatal!("no memory above the guest's for sevsim: -m must be 2 * mem + 256 MiB or more");
    }
    // Of a larger machine the rest stays unused.
    (start, memory::end(top))
}

/// Copies a module into hidden memory.
fn keep(module: Module) -> &'static [u8] {
    let copy = pages::take(module.len, 4096);
    memory::copy(module.start, copy, module.len);
    // SAFETY: hidden memory that nobody else has; it lives as long as the machine.
    unsafe { core::slice::from_raw_parts(memory::direct(copy), module.len as usize) }
}

/// Takes the machine over from the loader and sets the VM up.
pub fn take_over(info: u64) {
    let info = Info::new(info);
    let options = match Options::parse(info.options()) {
        Ok(options) => options,
        Err(error) => fatal!("{error}"),
    };
    let launch_options = match machine::launch::options::Options::parse(info.options()) {
        Ok(options) => options,
        Err(error) => fatal!("{error}"),
    };
    let modules = Modules::find(info);
    let raw = options.entry == Entry::Raw;
    let Some(boots) = (if raw {
        modules.kernel
    } else {
        modules.firmware
    }) else {
        let tag = if raw {
            "bzImage kernel"
        } else {
            "OVMF.fd firmware"
        };
        fatal!("nothing to start: QEMU's -initrd needs a module `{tag}`");
    };
    let mem = options.mem_mib << 20;
    let low = mem.min(LOW_MAX);
    let high = mem - low;
    let (start, end) = hidden(info, low, high);
    let image = memory::image_target(start);
    pages::init(image, end);

    let cr3 = memory::relocate(pages::take(memory::image_len(), LARGE));
    apic::start_others(options.vcpus, cr3);
    // The PIC's interrupts belong to SeaBIOS's set-up; the guest starts with all of them masked.
    cpu::out8(0x21, 0xff);
    cpu::out8(0xa1, 0xff);

    let firmware = if raw { &[] } else { keep(boots) };
    let layout = Layout {
        low,
        high,
        flash: firmware.len() as u64,
        private_low: pages::take(low, LARGE),
        private_high: pages::take(high, LARGE),
        flash_copy: memory::physical(firmware.as_ptr()),
        flash_shared: pages::take(4096, 4096),
    };
    if firmware.len() % 4096 != 0 {
        fatal!("the firmware image is no whole number of 4 KiB pages");
    }
    if layout.flash > FLASH_MAX {
        fatal!("the firmware image has more than 16 MiB, and so would lie over the APIC");
    }
    let host = Host {
        layout,
        vcpus: options.vcpus,
        tsc_khz: clock::measure_tsc_khz(),
        guest_tsc: options.guest_tsc,
        isolated: options.isolation != Isolation::Off,
        kernel: modules.kernel.map(keep),
        initrd: modules.initrd.map(keep),
        command_line: modules.command_line.map(keep).map(strip_end),
    };
    memory::wipe(0, 0xa_0000);
    memory::wipe(LARGE, (LARGE + memory::image_len()).max(modules.end()));
    memory::wipe(low - BIOS_TOP, low);

    let Ok(private_map) = npt::private_map(&mut pages::Tables, &layout) else {
        fatal!("not enough hidden memory for page tables: give QEMU a larger -m");
    };
    log!(
        "event start mem={} vcpus={} cbit={} tsc-khz={}",
        options.mem_mib,
        options.vcpus,
        options.cbit,
        host.tsc_khz
    );
    // The launch comes before any guest runs, with everything mapped.
    let mut memory = Memory {
        layout,
        isolated: false,
    };
    let plan = raw.then(|| direct::load(&host, &memory, &options));
    let start = match &plan {
        Some(plan) => launch::Start::Kernel(plan, 1 << options.cbit),
        None => launch::Start::Firmware(firmware),
    };
    let guest = launch::launch(&host, &memory, &start, &launch_options);
    let vm = match Vm::new(host, options) {
        Ok(vm) => vm,
        Err(error) => fatal!("{error}"),
    };
    memory.isolated = vm.options().isolation != Isolation::Off;
    isolation::choose(vm.options().isolation);
    let (iopm, msrpm) = vcpu::permission_maps();
    world::set(World {
        vm,
        memory,
        cbit: 1 << options.cbit,
        private_map,
        iopm,
        msrpm,
        cr4_defined: {
            let ([_, _, ecx, _], [_, ebx7, ecx7, _]) = (cpu::cpuid(1, 0), cpu::cpuid(7, 0));
            control::cr4_defined(ecx, ebx7, ecx7)
        },
        guest,
    });
}

/// A command line without the newline or NUL at its end.
fn strip_end(text: &'static [u8]) -> &'static [u8] {
    let end = text
        .iter()
        .rposition(|byte| !b"\n\r\0 ".contains(byte))
        .map_or(0, |last| last + 1);
    &text[..end]
}
