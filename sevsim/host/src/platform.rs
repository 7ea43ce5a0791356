// SPDX-License-Identifier: GPL-2.0
//! What the hypervisor crate gets of the machine: shared memory, devices, other CPUs.

use core::fmt;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;

use hypervisor::Blob;
use hypervisor::MsrFault;
use hypervisor::NotRam;
use hypervisor::Platform;
use hypervisor::Use;
use hypervisor::MAX_VCPUS;
use machine::in_use::PAGE;
use machine::layout::Layout;
use machine::npt::Frames;

use crate::apic;
use crate::console;
use crate::cpu;
use crate::isolation;
use crate::memory;
use crate::memory::direct;
use crate::pages;
use crate::vcpu;

/// The hardware below the hypervisor.
pub struct Host {
    /// The guest's address space.
    pub layout: Layout,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Measured TSC frequency.
    pub tsc_khz: u32,
    /// The guest's TSC is that of its only vCPU.
    pub guest_tsc: bool,
    /// Exits are handled in an address space of their own.
    pub isolated: bool,
    /// Copies of the loader's modules.
    pub kernel: Option<&'static [u8]>,
    /// Initial RAM disk.
    pub initrd: Option<&'static [u8]>,
    /// Kernel command line.
    pub command_line: Option<&'static [u8]>,
}

/// NMIs sent to wake each CPU, and those that arrived and were taken for such. Pending NMIs merge,
/// so fewer may arrive than were sent: then an NMI of the machine may be taken for a kick. The
/// other way round, a kick is never taken for an NMI of the machine.
static SENT: [AtomicUsize; MAX_VCPUS] = [const { AtomicUsize::new(0) }; MAX_VCPUS];
static TAKEN: [AtomicUsize; MAX_VCPUS] = [const { AtomicUsize::new(0) }; MAX_VCPUS];

/// Wakes a CPU.
pub fn kick(vcpu: usize) {
    SENT[vcpu].fetch_add(1, Ordering::AcqRel);
    apic::kick(vcpu);
}

/// Whether the NMI that just arrived on this CPU counts as a kick.
pub fn take_kick(vcpu: usize) -> bool {
    let taken = TAKEN[vcpu].load(Ordering::Relaxed);
    let kicked = taken != SENT[vcpu].load(Ordering::Acquire);
    if kicked {
        TAKEN[vcpu].store(taken.wrapping_add(1), Ordering::Relaxed);
    }
    kicked
}

impl Host {
    /// The loader's modules.
    pub fn blobs(&self) -> impl Iterator<Item = &'static [u8]> {
        let blobs = [self.kernel, self.initrd, self.command_line];
        blobs.into_iter().flatten().filter(|blob| !blob.is_empty())
    }

    /// Where shared memory is reached, up to the end of the page.
    #[inline(always)]
    fn shared(&self, gpa: u64) -> *mut u8 {
        if self.isolated {
            isolation::shared(gpa)
        } else {
            direct(gpa)
        }
    }

    /// The same, with the bytes of `len` that lie together there.
    fn shared_part(&self, gpa: u64, len: usize) -> (*mut u8, usize) {
        let len = if self.isolated {
            len.min((PAGE - gpa % PAGE) as usize)
        } else {
            len
        };
        (self.shared(gpa), len)
    }
}

/// A device's register; `None` for addresses that the host cannot map, where QEMU has no device.
fn device(pa: u64) -> Option<*mut u8> {
    if isolation::started() {
        return memory::mappable(pa).then(|| isolation::device(pa));
    }
    if memory::reachable(pa) {
        return Some(direct(pa));
    }
    let new_table = || match pages::Tables.alloc() {
        Some(page) => page,
        None => crate::fatal!("no page for the map of a device at {pa:#x}"),
    };
    memory::mappable(pa).then(|| memory::map_device(pa, new_table))
}

impl Platform for Host {
    fn vcpus(&self) -> usize {
        self.vcpus
    }

    fn guest_ram(&self) -> (u64, u64) {
        (self.layout.low, self.layout.high)
    }

    fn name(&self, what: Use, gpa: u64, len: u64) {
        if self.isolated && self.layout.is_ram(gpa, len) {
            isolation::name(what, gpa, len);
        }
    }

    fn read_shared(&self, gpa: u64, buf: &mut [u8]) -> Result<(), NotRam> {
        if !self.layout.is_ram(gpa, buf.len() as u64) {
            return Err(NotRam);
        }
        let mut done = 0;
        while done < buf.len() {
            let (at, len) = self.shared_part(gpa + done as u64, buf.len() - done);
            // SAFETY: guest RAM. The guest may write it meanwhile: the bytes are untrusted in any
            // case, and the copy is read once.
            unsafe { core::ptr::copy_nonoverlapping(at, buf[done..].as_mut_ptr(), len) }
            done += len;
        }
        Ok(())
    }

    fn write_shared(&self, gpa: u64, buf: &[u8]) -> Result<(), NotRam> {
        if !self.layout.is_ram(gpa, buf.len() as u64) {
            return Err(NotRam);
        }
        let mut done = 0;
        while done < buf.len() {
            let (at, len) = self.shared_part(gpa + done as u64, buf.len() - done);
            // SAFETY: as above; the host's own memory is never guest RAM.
            unsafe { core::ptr::copy_nonoverlapping(buf[done..].as_ptr(), at, len) }
            done += len;
        }
        Ok(())
    }

    fn read_shared_u64(&self, gpa: u64) -> Result<u64, NotRam> {
        if gpa % 8 != 0 || !self.layout.is_ram(gpa, 8) {
            return Err(NotRam);
        }
        // SAFETY: as above, aligned; one access, so that the guest cannot change it in between.
        Ok(unsafe { self.shared(gpa).cast::<u64>().read_volatile() })
    }

    fn write_shared_u64(&self, gpa: u64, value: u64) -> Result<(), NotRam> {
        if gpa % 8 != 0 || !self.layout.is_ram(gpa, 8) {
            return Err(NotRam);
        }
        // SAFETY: as above.
        unsafe { self.shared(gpa).cast::<u64>().write_volatile(value) };
        Ok(())
    }

    fn port_in(&self, port: u16, bytes: u8) -> u32 {
        match bytes {
            1 => u32::from(cpu::in8(port)),
            2 => u32::from(cpu::in16(port)),
            _ => cpu::in32(port),
        }
    }

    fn port_out(&self, port: u16, bytes: u8, value: u32) {
        match bytes {
            1 => cpu::out8(port, value as u8),
            2 => cpu::out16(port, value as u16),
            _ => cpu::out32(port, value),
        }
    }

    fn mmio_read(&self, gpa: u64, bytes: u8) -> u64 {
        let Some(at) = device(gpa) else {
            return u64::MAX;
        };
        // SAFETY: device registers; the hypervisor never asks for RAM.
        unsafe {
            match bytes {
                1 => u64::from(at.read_volatile()),
                2 => u64::from(at.cast::<u16>().read_volatile()),
                4 => u64::from(at.cast::<u32>().read_volatile()),
                _ => at.cast::<u64>().read_volatile(),
            }
        }
    }

    fn mmio_write(&self, gpa: u64, bytes: u8, value: u64) {
        let Some(at) = device(gpa) else {
            return;
        };
        // SAFETY: as above.
        unsafe {
            match bytes {
                1 => at.write_volatile(value as u8),
                2 => at.cast::<u16>().write_volatile(value as u16),
                4 => at.cast::<u32>().write_volatile(value as u32),
                _ => at.cast::<u64>().write_volatile(value),
            }
        }
    }

    fn rdmsr(&self, msr: u32) -> Result<u64, MsrFault> {
        cpu::rdmsr(msr).ok_or(MsrFault)
    }

    fn wrmsr(&self, msr: u32, value: u64) -> Result<(), MsrFault> {
        if cpu::wrmsr(msr, value) {
            Ok(())
        } else {
            Err(MsrFault)
        }
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        cpu::cpuid(leaf, subleaf)
    }

    fn tsc(&self) -> u64 {
        if self.guest_tsc {
            vcpu::guest_cycles(0)
        } else {
            cpu::rdtsc()
        }
    }

    fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    fn kick(&self, vcpu: usize) {
        kick(vcpu);
    }

    fn blob(&self, blob: Blob) -> Option<&[u8]> {
        match blob {
            Blob::Kernel => self.kernel,
            Blob::Initrd => self.initrd,
            Blob::CommandLine => self.command_line,
        }
    }

    fn log(&self, line: fmt::Arguments<'_>) {
        console::line(line);
    }
}
