// SPDX-License-Identifier: GPL-2.0
//! A guest without firmware: gets the ACPI tables of QEMU and puts everything into the guest's
//! private memory, as the VMM and the secure processor do before such a guest starts.

use hypervisor::acpi;
use hypervisor::acpi::AcpiError;
use hypervisor::Options;
use machine::direct;
use machine::direct::bzimage::Image;
use machine::direct::Files;
use machine::direct::LaunchError;
use machine::direct::Placement;
use machine::direct::Plan;

use crate::fatal;
use crate::log;
use crate::memory;
use crate::pages;
use crate::platform::Host;
use crate::world::Memory;

/// Loads, or ends with a message.
pub fn load(host: &Host, memory: &Memory, options: &Options) -> Plan {
    let plan = place(host, options).unwrap_or_else(|error| fatal!("{error}"));
    let acpi = tables(host, &plan).unwrap_or_else(|error| fatal!("{error}"));
    let (image, files) = image(host, 0, 0).unwrap_or_else(|error| fatal!("{error}"));
    let layout = &host.layout;
    let cbit = 1 << options.cbit;
    if let Err(error) = direct::launch(memory, layout, cbit, &plan, &image, &files, acpi) {
        fatal!("{error}");
    }
    log!(
        "event launch kernel={:#x} params={:#x} cmdline={:#x} initrd={:#x} acpi={:#x} rsdp={:#x}",
        plan.kernel.start,
        plan.params.start,
        plan.command_line.start,
        plan.initrd.start,
        plan.acpi.start,
        plan.rsdp.start
    );
    plan
}

fn image(
    host: &Host,
    acpi_len: u64,
    rsdp_len: u64,
) -> Result<(Image<'static>, Files<'static>), LaunchError> {
    let files = Files {
        kernel: host.kernel.unwrap_or(&[]),
        initrd: host.initrd.unwrap_or(&[]),
        command_line: host.command_line.unwrap_or(&[]),
        acpi_len,
        rsdp_len,
    };
    Ok((Image::new(files.kernel)?, files))
}

fn place(host: &Host, options: &Options) -> Result<Plan, LaunchError> {
    let size = |name| match acpi::size(host, name) {
        Ok(size) => size as u64,
        Err(error) => fatal!("{error}"),
    };
    let (image, files) = image(host, size(acpi::TABLES), size(acpi::RSDP))?;
    let wish = Placement {
        kernel: options.place.kernel,
        params: options.place.params,
        command_line: options.place.command_line,
        initrd: options.place.initrd,
        rsdp: options.place.rsdp,
    };
    Plan::new(&host.layout, &image, &files, &wish)
}

/// The ACPI tables and their root pointer, made for the plan's addresses.
fn tables(host: &Host, plan: &Plan) -> Result<(&'static [u8], &'static [u8]), AcpiError> {
    let script = fetch(host, acpi::SCRIPT)?;
    let tables = fetch(host, acpi::TABLES)?;
    let rsdp = fetch(host, acpi::RSDP)?;
    let mut files = [
        acpi::File {
            name: acpi::TABLES,
            gpa: plan.acpi.start,
            data: tables,
        },
        acpi::File {
            name: acpi::RSDP,
            gpa: plan.rsdp.start,
            data: rsdp,
        },
    ];
    acpi::link(script, &mut files)?;
    let [tables, rsdp] = files;
    Ok((tables.data, rsdp.data))
}

/// A file of QEMU's in hidden memory.
fn fetch(host: &Host, name: &[u8]) -> Result<&'static mut [u8], AcpiError> {
    let len = acpi::size(host, name)?;
    let at = pages::take(len as u64, 4096);
    // SAFETY: hidden memory that nobody else has; it lives as long as the machine.
    let buf = unsafe { core::slice::from_raw_parts_mut(memory::direct(at), len) };
    acpi::read(host, name, buf)?;
    Ok(buf)
}
