// SPDX-License-Identifier: GPL-2.0
//! What all CPUs share: the VM, the guest's memory, the tables that are the same for each vCPU.

use hypervisor::Vm;
use machine::layout::Layout;
use machine::layout::Place;
use machine::paging::Backing;
use machine::paging::GuestMemory;
use machine::paging::NotMemory;
use spin::Once;

use crate::isolation;
use crate::launch::Guest;
use crate::memory::direct;
use crate::platform;
use crate::platform::Host;
use crate::vcpu;

/// The shared state, set once before any guest code runs. What each exit reads comes first, so that
/// it shares a page.
#[repr(C)]
pub struct World {
    /// The machine's view of guest memory.
    pub memory: Memory,
    /// Mask of the C-bit.
    pub cbit: u64,
    /// Table of the private map.
    pub private_map: u64,
    /// I/O and MSR permission maps.
    pub iopm: u64,
    /// MSR permission map.
    pub msrpm: u64,
    /// Bits of CR4 that the guest may set.
    pub cr4_defined: u64,
    /// The guest as it was launched.
    pub guest: Guest,
    /// The untrusted host's half.
    pub vm: Vm<Host>,
}

static WORLD: Once<World> = Once::new();

/// Publishes the shared state and wakes the CPUs that wait for it.
pub fn set(world: World) {
    let vcpus = world.vm.options().vcpus;
    WORLD.call_once(|| world);
    for index in 1..vcpus {
        platform::kick(index);
    }
}

/// The shared state, if it is set.
pub fn get() -> Option<&'static World> {
    WORLD.get()
}

impl World {
    /// Logs the hypervisor's report and the machine's.
    pub fn report(&self) {
        self.vm.report();
        vcpu::report(self.vm.options().vcpus, self.memory.isolated);
    }
}

/// Copies `len` bytes of memory that may change meanwhile. Small ones without a call: descriptors,
/// instructions and the frame of #VC are copied at each exit.
///
/// # Safety
/// As for `copy_nonoverlapping`, except that others may write to either range.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len > 64 {
        // SAFETY: by the caller.
        return unsafe { core::ptr::copy_nonoverlapping(from, to, len) };
    }
    let mut at = 0;
    while at + 8 <= len {
        // SAFETY: within the ranges.
        unsafe {
            let quad = from.add(at).cast::<u64>().read_unaligned();
            // Volatile, or the compiler makes a call of the loop.
            to.add(at)
                .cast::<[u8; 8]>()
                .write_volatile(quad.to_ne_bytes());
        }
        at += 8;
    }
    while at < len {
        // SAFETY: as above.
        unsafe { to.add(at).write_volatile(from.add(at).read()) };
        at += 1;
    }
}

/// Guest memory as the processor reaches it.
pub struct Memory {
    /// The guest's address space.
    pub layout: Layout,
    /// Whether exits are handled isolated, and so memory is reached by a window.
    pub isolated: bool,
}

impl Memory {
    /// Physical memory as the processor reaches it, up to the end of the page.
    #[inline(always)]
    pub fn at(&self, pa: u64) -> *mut u8 {
        if self.isolated {
            isolation::processor(pa)
        } else {
            direct(pa)
        }
    }

    /// Host memory behind a guest-physical address, and whether it may be written.
    #[inline(always)]
    fn resolve(&self, gpa: u64, backing: Backing) -> Result<(*mut u8, bool), NotMemory> {
        match (self.layout.place(gpa), backing) {
            (Place::Ram { private }, Backing::Private) => Ok((self.at(private), true)),
            (Place::Ram { .. }, Backing::Shared) => Ok((self.at(gpa), true)),
            (Place::Flash { copy }, Backing::Private) => Ok((self.at(copy), false)),
            (Place::Flash { .. }, Backing::Shared) => {
                Ok((self.at(self.layout.flash_shared + (gpa & 0xfff)), false))
            }
            (Place::Device, _) => Err(NotMemory),
        }
    }
}

impl GuestMemory for Memory {
    #[inline(always)]
    fn read(&self, gpa: u64, backing: Backing, buf: &mut [u8]) -> Result<(), NotMemory> {
        let (at, _) = self.resolve(gpa, backing)?;
        // SAFETY: guest RAM; callers stay within a page. Other vCPUs may write it meanwhile, the
        // bytes read are then as undefined as on hardware, and nothing depends on them twice.
        unsafe { copy(at, buf.as_mut_ptr(), buf.len()) }
        Ok(())
    }

    fn write(&self, gpa: u64, backing: Backing, buf: &[u8]) -> Result<(), NotMemory> {
        let (at, writable) = self.resolve(gpa, backing)?;
        if writable {
            // SAFETY: as above.
            unsafe { copy(buf.as_ptr(), at, buf.len()) }
        }
        Ok(())
    }

    fn entry(&self, gpa: u64, bytes: usize) -> Result<u64, NotMemory> {
        let (at, _) = self.resolve(gpa, Backing::Private)?;
        // SAFETY: guest RAM, aligned as table entries are.
        Ok(unsafe {
            if bytes == 8 {
                at.cast::<u64>().read_volatile()
            } else {
                u64::from(at.cast::<u32>().read_volatile())
            }
        })
    }

    fn set_entry(&self, gpa: u64, old: u32, new: u32) -> bool {
        use core::sync::atomic::AtomicU32;
        use core::sync::atomic::Ordering;
        let Ok((at, true)) = self.resolve(gpa, Backing::Private) else {
            // A table in read-only memory keeps its bits: pretend, as there is nothing to retry.
            return true;
        };
        // SAFETY: guest RAM, aligned; all vCPUs update entries atomically.
        let entry = unsafe { AtomicU32::from_ptr(at.cast()) };
        entry
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}
