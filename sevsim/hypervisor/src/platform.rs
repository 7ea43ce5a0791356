// SPDX-License-Identifier: GPL-2.0
//! What the machine offers the hypervisor: shared memory, devices and other vCPUs - nothing else.
//!
//! SEV-ES hides a guest's registers and private memory from its hypervisor. This trait is the whole
//! of what crosses from the machine to the hypervisor, so the hiding is a property of the types: no
//! method reaches private memory or a register.
//!
//! ```compile_fail,E0599
//! fn peek<P: hypervisor::Platform>(machine: &P) {
//!     machine.read_private(0x1000, &mut [0; 8]);
//! }
//! ```
//! ```compile_fail,E0599
//! fn registers<P: hypervisor::Platform>(machine: &P) -> u64 {
//!     machine.vmcb(0).save.rip
//! }
//! ```

/// An access that does not lie wholly in the guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam;

/// The physical MSR does not exist or refused the value (#GP on the host).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFault;

/// Blobs that the loader handed over for direct kernel boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blob {
    /// The kernel image (bzImage).
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// The kernel's command line, without terminating NUL.
    CommandLine,
}

/// What named shared memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The GHCB: this exit's, and the next one's if it names the same.
    Ghcb,
    /// This exit.
    Exit,
}

/// The machine as the hypervisor sees it. Methods take `&self`: every vCPU calls in concurrently.
///
/// "This CPU" is the one that runs the vCPU for which `Vm` was called. vCPU `n` always runs on the
/// physical CPU with APIC ID `n`.
pub trait Platform: Sync {
    /// Number of vCPUs, 1 to 8. A vCPU's index is its APIC ID.
    fn vcpus(&self) -> usize;

    /// Bytes of guest RAM below 4 GiB (from 0) and above (from 4 GiB).
    fn guest_ram(&self) -> (u64, u64);

    /// Tells which shared memory the exit in hand is going to use, once its place was checked. The
    /// machine may have nothing mapped but this (`machine::isolation`): whoever reads or writes
    /// shared memory names it before.
    fn name(&self, _use: Use, _gpa: u64, _len: u64) {}

    /// Copies from shared memory. GPAs carry no C-bit.
    fn read_shared(&self, gpa: u64, buf: &mut [u8]) -> Result<(), NotRam>;

    /// Copies to shared memory.
    fn write_shared(&self, gpa: u64, buf: &[u8]) -> Result<(), NotRam>;

    /// Reads a naturally aligned quadword of shared memory in one access (the guest may change the
    /// memory at any time). Worth a direct implementation: GHCB fields are read by this.
    fn read_shared_u64(&self, gpa: u64) -> Result<u64, NotRam> {
        let mut bytes = [0; 8];
        self.read_shared(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a naturally aligned quadword of shared memory in one access.
    fn write_shared_u64(&self, gpa: u64, value: u64) -> Result<(), NotRam> {
        self.write_shared(gpa, &value.to_le_bytes())
    }

    /// Physical port read of 1, 2 or 4 bytes.
    fn port_in(&self, port: u16, bytes: u8) -> u32;

    /// Physical port write of 1, 2 or 4 bytes.
    fn port_out(&self, port: u16, bytes: u8, value: u32);

    /// Physical device memory read of 1, 2, 4 or 8 bytes, naturally aligned (never RAM).
    fn mmio_read(&self, gpa: u64, bytes: u8) -> u64;

    /// Physical device memory write of 1, 2, 4 or 8 bytes, naturally aligned (never RAM).
    fn mmio_write(&self, gpa: u64, bytes: u8, value: u64);

    /// Reads a physical MSR of this CPU.
    fn rdmsr(&self, msr: u32) -> Result<u64, MsrFault>;

    /// Writes a physical MSR of this CPU.
    fn wrmsr(&self, msr: u32, value: u64) -> Result<(), MsrFault>;

    /// Physical CPUID: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];

    /// Time-stamp counter, the same for host and guest.
    fn tsc(&self) -> u64;

    /// Frequency of the time-stamp counter in kHz, as measured at start.
    fn tsc_khz(&self) -> u32;

    /// Makes the vCPU's CPU leave the guest or its HLT, so that it looks at the hypervisor's state.
    ///
    /// May use this CPU's local APIC in whichever mode (xAPIC, x2APIC) the guest has put it; the
    /// hypervisor expects the ICR to be overwritten.
    fn kick(&self, vcpu: usize);

    /// A blob for direct boot; `None` where the user gave none.
    fn blob(&self, blob: Blob) -> Option<&[u8]>;

    /// Writes one line to the host's log. The machine puts `sevsim: ` in front.
    fn log(&self, line: core::fmt::Arguments<'_>);
}
