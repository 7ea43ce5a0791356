// SPDX-License-Identifier: GPL-2.0
//! Port I/O: single accesses and strings, and the ports that the hypervisor answers itself.

use crate::dev::{acpi_pm, cmos, fw_cfg, power, smi};
use crate::exit::Answer;
use crate::ghcb::layout::RAX;
use crate::ghcb::scratch::Scratch;
use crate::ghcb::{BadInput, Fault, Ghcb};
use crate::outcome::{Next, Stop};
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// SW_EXITINFO1 of an IOIO event (APM volume 2, 15.10.2, figure 15-2).
#[derive(Clone, Copy)]
pub struct IoInfo(pub u64);

impl IoInfo {
    /// IN or INS.
    pub fn input(self) -> bool {
        self.0 & 1 != 0
    }

    /// INS or OUTS.
    pub fn string(self) -> bool {
        self.0 & 4 != 0
    }

    /// Operand size in bytes: one of SZ8, SZ16, SZ32. `None` for no size at all.
    pub fn size(self) -> Result<Option<u8>, BadInput> {
        match (self.0 >> 4) & 7 {
            0 => Ok(None),
            size @ (1 | 2 | 4) => Ok(Some(size as u8)),
            _ => Err(BadInput::InvalidInput),
        }
    }

    fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// The ports of the host's own devices: debug console, and QEMU's isa-debug-exit (4 ports). The
/// guest finds nothing there.
fn host_port(port: u16, size: u8) -> bool {
    let end = u32::from(port) + u32::from(size);
    let touches = |first: u16, last: u16| port <= last && end > u32::from(first);
    // One comparison settles nearly all accesses.
    (0xe6..=0xf7).contains(&port) && (touches(0xe9, 0xe9) || touches(0xf4, 0xf7))
}

/// Whether an access reaches a filtered port without being one that its filter knows: it begins
/// elsewhere or is of another size. On the bus such an access is one of each byte's port.
#[inline(never)]
fn straddles(port: u16, size: u8) -> bool {
    let end = u32::from(port) + u32::from(size);
    let touches = |first: u16, last: u16| port <= last && end > u32::from(first);
    match (port, size) {
        (fw_cfg::SELECTOR, 2) | (fw_cfg::DMA_HIGH | fw_cfg::DMA_LOW, 4) => false,
        // The address of configuration space lies over the reset register.
        (acpi_pm::PCI_ADDRESS, 4) => false,
        _ => {
            power::PORTS
                .iter()
                .any(|&filtered| touches(filtered, filtered))
                || touches(smi::COMMAND, smi::COMMAND)
                || touches(cmos::INDEX, cmos::DATA)
                || touches(fw_cfg::SELECTOR, fw_cfg::DATA)
                || touches(fw_cfg::DMA_HIGH, fw_cfg::DMA_LAST)
                || acpi_pm::straddles(port, size)
        }
    }
}

/// Bits of a value of `size` bytes.
pub fn mask(size: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(size))
}

impl<P: Platform> Vm<P> {
    pub(crate) fn exit_ioio(&self, vcpu: &Vcpu, ghcb: &mut Ghcb<'_, P>) -> Result<Answer, Fault> {
        let info = IoInfo(ghcb.info1);
        let Some(size) = info.size().map_err(Fault::Bad)? else {
            return Ok(Answer::DONE);
        };
        if info.string() {
            return self.string_io(vcpu, ghcb, info, size).map_err(Fault::Bad);
        }
        if info.input() {
            let value = u64::from(self.port_read(info.port(), size) & mask(size));
            // As IN does: the rest of RAX stays for short operands; a 32-bit one clears it.
            let old = if size < 4 {
                ghcb.field(RAX) & !u64::from(mask(size))
            } else {
                0
            };
            ghcb.set(RAX, old | value);
            return Ok(Answer::DONE);
        }
        let value = ghcb.field(RAX) as u32 & mask(size);
        Ok(done_or_stop(self.port_write(info.port(), size, value)))
    }

    /// INS and OUTS, with or without REP: SW_EXITINFO2 elements in the scratch area.
    #[inline(never)]
    fn string_io(
        &self,
        vcpu: &Vcpu,
        ghcb: &Ghcb<'_, P>,
        info: IoInfo,
        size: u8,
    ) -> Result<Answer, BadInput> {
        // KVM gives up on the VM when the product overflows an int; say so to the guest instead.
        let bytes = ghcb
            .info2
            .checked_mul(u64::from(size))
            .filter(|bytes| *bytes <= i32::MAX as u64)
            .ok_or(BadInput::InvalidInput)?;
        if bytes == 0 {
            return Ok(Answer::DONE);
        }
        let scratch = Scratch::of(ghcb, self.ram(), self.options().ghcb, bytes)?;
        vcpu.own.stats.string_bytes.add(bytes);

        let mut chunk = [0; 256];
        let mut offset = 0;
        while offset < bytes {
            let len = (bytes - offset).min(chunk.len() as u64) as usize;
            let part = &mut chunk[..len];
            if info.input() {
                self.port_read_string(info.port(), size, part);
                scratch.write(self.platform(), offset, part)?;
            } else {
                scratch.read(self.platform(), offset, part)?;
                for element in part.chunks_exact(size.into()) {
                    let mut value = [0; 4];
                    value[..element.len()].copy_from_slice(element);
                    let stop = self.port_write(info.port(), size, u32::from_le_bytes(value));
                    if stop.is_some() {
                        return Ok(done_or_stop(stop));
                    }
                }
            }
            offset += len as u64;
        }
        Ok(Answer::DONE)
    }

    /// Fills `part`, a whole number of elements, from a port.
    fn port_read_string(&self, port: u16, size: u8, part: &mut [u8]) {
        if size == 1 && fw_cfg::is_data(port) {
            return self.fw_cfg().read_string(self.platform(), part);
        }
        for element in part.chunks_exact_mut(size.into()) {
            let value = self.port_read(port, size).to_le_bytes();
            element.copy_from_slice(&value[..element.len()]);
        }
    }

    /// IN.
    fn port_read(&self, port: u16, size: u8) -> u32 {
        if size > 1 && straddles(port, size) {
            return (0..u16::from(size)).rev().fold(0, |value, i| {
                (value << 8) | (self.port_read(port.wrapping_add(i), 1) & 0xff)
            });
        }
        match port {
            cmos::INDEX | cmos::DATA => self.cmos().read(self.platform(), port, size),
            fw_cfg::SELECTOR | fw_cfg::DATA => self.fw_cfg().read(self.platform(), port, size),
            _ if host_port(port, size) => u32::MAX,
            _ => {
                let _pci = self.pci_ports().lock(port);
                self.platform().port_in(port, size)
            }
        }
    }

    /// OUT. `Some` if that ends the VM.
    fn port_write(&self, port: u16, size: u8, value: u32) -> Option<Stop> {
        if size > 1 && straddles(port, size) {
            return (0..u16::from(size)).find_map(|i| {
                let byte = (value >> (8 * i)) & 0xff;
                self.port_write(port.wrapping_add(i), 1, byte)
            });
        }
        match port {
            cmos::INDEX | cmos::DATA => self.cmos().write(self.platform(), port, size, value),
            fw_cfg::SELECTOR | fw_cfg::DATA | fw_cfg::DMA_HIGH..=fw_cfg::DMA_LAST => {
                self.fw_cfg()
                    .write(self.platform(), self.ram(), port, size, value);
            }
            _ if host_port(port, size) => {}
            _ => {
                let stop = self.power().reset_request(port, value).or_else(|| {
                    acpi_pm::sleep_request(self.platform(), self.pci_ports(), port, size, value)
                });
                if stop.is_some() {
                    return stop;
                }
                if smi::hold_back(self.platform(), self.pci_ports(), port, size, value) {
                    return None;
                }
                let _pci = self.pci_ports().lock(port);
                self.platform().port_out(port, size, value);
            }
        }
        None
    }
}

fn done_or_stop(stop: Option<Stop>) -> Answer {
    stop.map_or(Answer::DONE, |stop| Answer::next(Next::Stop(stop)))
}
