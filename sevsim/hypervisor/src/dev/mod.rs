// SPDX-License-Identifier: GPL-2.0
//! Devices that the hypervisor answers itself, or through which it looks at what passes.

pub mod acpi;
pub mod acpi_pm;
pub mod apic;
pub mod cmos;
pub mod fw_cfg;
pub mod ioapic;
pub mod power;
pub mod smi;
