// SPDX-License-Identifier: GPL-2.0

//! Start of other CPUs through the AP jump table, and the end of a CPU that goes offline.
//!
//! The hypervisor cannot change the registers of a vCPU, so a startup IPI cannot make it run at an
//! address. Instead the vCPU continues where it waits, in firmware or here, and jumps to the
//! address in the jump table, a page that the firmware provides (GHCB specification, 4.3: AP Jump
//! Table and AP Reset Hold).

use kernel::{
    bindings,
    interrupt::local_interrupt_disable,
    prelude::*, //
};

use crate::{
    cpu::IrqsOff,
    guard::GhcbGuard,
    proto::{
        ghcb::{Field, Request},
        ExitCode,
        Ghcb,
        Reply, //
    },
    setup::is_snp,
    vmgexit::vmgexit,
};

/// Information word 1 of the AP jump table exit: get the address.
const GET_JUMP_TABLE: u64 = 1;

/// Performs an exit on a GHCB that the caller has taken.
fn exit(ghcb: Ghcb, code: ExitCode, info_1: u64) -> Reply {
    // SAFETY: The version is constant. The request is complete when VMGEXIT is executed with the
    // address of the GHCB.
    unsafe {
        let pending = Request::new(ghcb).commit(bindings::ghcb_version, code as u64, info_1, 0);

        vmgexit(bindings::sev_es_shim_pa_nodebug(ghcb.as_ptr().cast()) as u64);
        pending.reply()
    }
}

/// Address of the AP jump table; 0 if there is none.
#[link_section = ".init.text"]
fn jump_table_address() -> u64 {
    if is_snp() {
        // SAFETY: SEV-SNP keeps the address in the secrets page.
        return unsafe { bindings::get_snp_jump_table_addr() };
    }

    let interrupts_off = local_interrupt_disable();
    let mut guard = GhcbGuard::new(IrqsOff::from(&interrupts_off));
    let Some(ghcb) = guard.take() else {
        return 0;
    };
    let reply = exit(ghcb, ExitCode::ApJumpTable, GET_JUMP_TABLE);

    match (reply.get(Field::EXIT_INFO_1), reply.get(Field::EXIT_INFO_2)) {
        (Some(_), Some(address)) => address,
        _ => 0,
    }
}

/// Refuses to start a CPU: without a good jump table it would continue somewhere in the firmware.
///
/// # Safety
///
/// None; a hook of C is `unsafe` by its type.
#[cfg(CONFIG_SMP)]
unsafe extern "C" fn refuse_start(cpu: c_uint, _idle: *mut bindings::task_struct) -> c_int {
    pr_err!("CPU {cpu} cannot be started without a good AP jump table\n");
    ENODEV.to_errno()
}

/// Keeps all CPUs but this one from being started.
#[link_section = ".init.text"]
fn refuse_cpus() {
    // SAFETY: Written during boot only, before other CPUs are started.
    #[cfg(CONFIG_SMP)]
    unsafe {
        bindings::smp_ops.kick_ap_alive = Some(refuse_start);
    }
}

/// Whether `address` can be that of the table. What is written there must be a page, and if the
/// hypervisor gave the address, one that the firmware set apart: not memory that the kernel uses or
/// may use, nor what no memory map knows. An SEV-SNP guest has the address from a page that the
/// hypervisor cannot write.
#[link_section = ".init.text"]
fn is_plausible(address: u64) -> bool {
    const PAGE_SIZE: u64 = 1 << bindings::PAGE_SHIFT;
    /// The IP and the CS that CPUs start at.
    const TABLE_SIZE: u64 = 4;
    let Some(end) = address.checked_add(PAGE_SIZE) else {
        pr_err!("AP jump table at {address:#x}, beyond all memory\n");
        return false;
    };

    if address & (PAGE_SIZE - 1) != 0 {
        pr_err!("AP jump table at {address:#x}, which is not the start of a page\n");
        return false;
    }
    if is_snp() {
        return true;
    }

    // Both what the firmware said, of which memmap=exactmap leaves nothing in the kernel's own map,
    // and what was added to that (add_efi_memmap).
    // SAFETY: Reads the maps, which do not change any more.
    let overlaps = |end, kind| unsafe {
        bindings::e820__mapped_raw_any(address, end, kind)
            || bindings::e820__mapped_any(address, end, kind)
    };
    // What is written is at the beginning.
    let begins_with = |kind| overlaps(address + TABLE_SIZE, kind);
    let is_firmware = begins_with(bindings::e820_type_E820_TYPE_RESERVED)
        || begins_with(bindings::e820_type_E820_TYPE_NVS)
        || begins_with(bindings::e820_type_E820_TYPE_ACPI);
    let has_ram = overlaps(end, bindings::e820_type_E820_TYPE_RAM);

    if has_ram || !is_firmware {
        // Type 0 is any.
        let what = if has_ram || begins_with(0) {
            "not the firmware's"
        } else {
            "not memory"
        };

        pr_err!("AP jump table at {address:#x}, which is {what}\n");
        return false;
    }
    true
}

/// Writes the kernel's entry for other CPUs to the AP jump table.
///
/// Without a table, or with one that cannot be the firmware's, no other CPU is started; a guest
/// with one CPU has no table. An SEV-SNP guest starts CPUs by AP_CREATION, for which it needs none.
///
/// # Safety
///
/// `rmh` must be the header of the real-mode trampoline.
#[export]
#[link_section = ".init.text"]
pub(crate) unsafe extern "C" fn sev_es_setup_ap_jump_table(
    rmh: *mut bindings::real_mode_header,
) -> c_int {
    let address = jump_table_address();

    if address == 0 || !is_plausible(address) {
        if !is_snp() {
            refuse_cpus();
        }
        return 0;
    }

    // SAFETY: By the contract of the function. The page is the firmware's, made for this, as far as
    // the firmware's memory map tells.
    unsafe {
        let start = (*rmh).trampoline_start;
        let cs = (start >> 4) as u16;
        let ip = (*rmh).sev_es_trampoline_start.wrapping_sub(start) as u16;
        let table = bindings::ioremap_encrypted(address, 1 << bindings::PAGE_SHIFT).cast::<u16>();

        if table.is_null() {
            pr_err!("AP jump table at {address:#x}, which cannot be mapped\n");
            return EIO.to_errno();
        }
        table.write_volatile(ip);
        table.add(1).write_volatile(cs);
        bindings::iounmap(table.cast());
    }
    0
}

/// Waits for a startup IPI.
#[cfg(all(CONFIG_SMP, CONFIG_HOTPLUG_CPU))]
fn hold(irqs_off: IrqsOff<'_>) {
    let mut guard = GhcbGuard::new(irqs_off);
    let Some(ghcb) = guard.take() else {
        return;
    };

    // A second word that is valid and not zero means that the IPI came.
    while exit(ghcb, ExitCode::ApResetHold, 0)
        .get(Field::EXIT_INFO_2)
        .unwrap_or(0)
        == 0
    {}
}

/// Takes this CPU offline. The hypervisor cannot restart it, so it waits and restarts itself.
///
/// # Safety
///
/// Called as the last thing on a CPU that goes offline.
#[cfg(all(CONFIG_SMP, CONFIG_HOTPLUG_CPU))]
unsafe extern "C" fn sev_es_play_dead() {
    // SAFETY: Called as the last thing on a CPU that goes offline. The first call turns interrupts
    // off.
    unsafe {
        bindings::play_dead_common();
        hold(IrqsOff::assume());
        bindings::soft_restart_cpu();
    }
}

/// Installs the way to go offline.
#[link_section = ".init.text"]
pub(crate) fn setup_play_dead() {
    // SAFETY: Written during boot only.
    #[cfg(all(CONFIG_SMP, CONFIG_HOTPLUG_CPU))]
    unsafe {
        bindings::smp_ops.play_dead = Some(sev_es_play_dead);
    }
}
