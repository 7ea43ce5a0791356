// SPDX-License-Identifier: GPL-2.0
//! Launch of the guest: what the VMM, KVM and the secure processor do before it runs.
//!
//! The commands are those of QEMU and KVM, in their order: firmware, hashes of the kernel if the
//! user wants them, save areas of all vCPUs, measurement.

use hypervisor::MAX_VCPUS;
use machine::direct;
use machine::direct::Plan;
use machine::firmware;
use machine::firmware::ResetVector;
use machine::in_use;
use machine::launch::hashes;
use machine::launch::options::Hex;
use machine::launch::options::Options;
use machine::launch::vmsa::Vmsa;
use machine::launch::Launch;
use machine::launch::LaunchError;
use machine::launch::Launched;
use machine::layout::FOUR_GIB;
use machine::paging::Backing;
use machine::paging::GuestMemory;
use machine::reset;

use crate::cpu;
use crate::fatal;
use crate::log;
use crate::pages;
use crate::pages::InUse;
use crate::pages::PageSized;
use crate::platform::Host;
use crate::world::Memory;

// SAFETY: integers and arrays of them, of 4096 bytes by an assertion next to the type.
unsafe impl PageSized for Vmsa {}

/// A guest that was launched.
pub struct Guest {
    /// Its policy.
    pub launched: Launched,
    vmsas: [Option<InUse<Vmsa>>; MAX_VCPUS],
}

impl Guest {
    /// The save area of a vCPU, with its physical address.
    pub fn vmsa(&self, vcpu: usize) -> &InUse<Vmsa> {
        match &self.vmsas[vcpu] {
            Some(vmsa) => vmsa,
            None => fatal!("vCPU {vcpu} was not launched"),
        }
    }
}

/// What is launched: firmware, or without it the plan of a kernel that lies in memory already.
pub enum Start<'a> {
    /// The firmware's image.
    Firmware(&'a [u8]),
    /// The kernel's place, and the mask of the C-bit.
    Kernel(&'a Plan, u64),
}

/// Launches, or ends with a message.
pub fn launch(host: &Host, memory: &Memory, start: &Start<'_>, options: &Options) -> Guest {
    let vector = reset_vector(start, host.vcpus);
    let mut launch = Launch::new(options.firmware, host.vcpus);
    check(launch.start(options.policy, options.tik));
    if let Start::Firmware(image) = start {
        check(launch.update_data(FOUR_GIB - image.len() as u64, image));
        if options.hashes {
            add_hashes(&mut launch, host, memory, image);
        }
    } else if options.hashes {
        fatal!("without firmware nobody compares hashes: leave launch-hashes=on out");
    }
    let [signature, ..] = cpu::cpuid(1, 0);
    // The next page is where none may be that is in use: so each run shows that the allocator keeps
    // clear of it.
    pages::take(0, in_use::REGION);
    let mut vmsas = [const { None }; MAX_VCPUS];
    for (index, slot) in vmsas.iter_mut().enumerate().take(host.vcpus) {
        let mut page = InUse::<Vmsa>::new();
        *page = match start {
            Start::Firmware(_) if index == 0 => reset::vmsa(signature, None, options.fpu),
            Start::Firmware(_) => reset::vmsa(signature, vector, options.fpu),
            Start::Kernel(plan, cbit) => direct::vmsa(signature, plan, *cbit, options.fpu),
        };
        check(launch.update_vmsa(index, &page));
        *slot = Some(page);
    }
    let measured = check(launch.measure(options.nonce));
    let launched = check(launch.finish());
    if let Some((digest, measurement)) = measured {
        log!(
            "event measured digest={} policy={:#x} api={} build={}",
            Hex(&digest),
            options.policy.bits(),
            options.firmware.api,
            options.firmware.build
        );
        log!("event measurement blob={}", Hex(&measurement.blob()));
    }
    Guest { launched, vmsas }
}

fn check<T>(result: Result<T, LaunchError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => fatal!("launch: {error}"),
    }
}

/// Where other vCPUs than the first start. One alone needs none, and no firmware made for SEV-ES.
fn reset_vector(start: &Start<'_>, vcpus: usize) -> Option<ResetVector> {
    match start {
        Start::Firmware(_) | Start::Kernel(..) if vcpus == 1 => None,
        Start::Kernel(..) => fatal!("without firmware the guest can have one vCPU only"),
        Start::Firmware(image) => match firmware::reset_vector(image) {
            Ok(vector) => Some(vector),
            Err(error) => fatal!("{error}; with one vCPU it could be started"),
        },
    }
}

/// Puts the hashes of kernel, initramfs and command line where the firmware looks for them.
fn add_hashes(launch: &mut Launch, host: &Host, memory: &Memory, image: &[u8]) {
    let area = match firmware::hashes_area(image) {
        Ok(area) => area,
        Err(error) => fatal!("{error}; leave launch-hashes=on out to boot unmeasured"),
    };
    let Some(kernel) = host.kernel else {
        fatal!("launch-hashes=on needs a kernel");
    };
    let initrd = host.initrd.unwrap_or(&[]);
    let table = hashes::table(kernel, initrd, host.command_line.unwrap_or(&[]));
    let in_ram = host.layout.is_ram(area.start, hashes::LEN as u64);
    let one_page = area.start % 4096 + hashes::LEN as u64 <= 4096;
    if !in_ram || !one_page {
        fatal!(
            "the firmware wants hashes of the kernel at {:#x}, no place in RAM",
            area.start
        );
    }
    if memory.write(area.start, Backing::Private, &table).is_err() {
        fatal!("no RAM at {:#x}", area.start);
    }
    check(launch.update_data(area.start, &table));
}
