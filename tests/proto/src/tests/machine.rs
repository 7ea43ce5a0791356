// SPDX-License-Identifier: GPL-2.0

//! A model of the guest's side: registers, memory pages, segments, permissions, and the GHCB.

use std::{collections::BTreeMap, ptr::NonNull};

use super::hypervisor::{field, Event, Hypervisor, SharedPage};
use crate::proto::{
    exit,
    result::{PF_FETCH, PF_USER},
    Access, CodeSize, CpuidLeaf, Env, Error, Fault, Features, Ghcb, Mapping, Note, Outcome, Regs,
    Result, Segment, SnpCpuid, Width,
};

/// Where the tests put their code.
pub(crate) const CODE: u64 = 0x40_0000;
/// A page of private memory.
pub(crate) const DATA: u64 = 0x50_0000;
/// A page of a device, mapped shared.
pub(crate) const DEVICE: u64 = 0x60_0000;
/// Guest-physical address of [`DEVICE`].
pub(crate) const DEVICE_GPA: u64 = 0xfee0_0000;
/// Guest-physical address of the GHCB.
pub(crate) const GHCB_GPA: u64 = 0x1234_5000;

/// Where CPL 3 code runs.
pub(crate) const USER_CS: u64 = 0x33;
/// Where CPL 0 code runs.
pub(crate) const KERNEL_CS: u64 = 0x10;

/// A page of 4 KiB.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) gpa: u64,
    pub(crate) writable: bool,
    pub(crate) user: bool,
    pub(crate) encrypted: bool,
    /// Shared memory, not a device.
    pub(crate) memory: bool,
    pub(crate) data: Vec<u8>,
}

impl Page {
    pub(crate) fn private(gpa: u64) -> Page {
        Page {
            gpa,
            writable: true,
            user: true,
            encrypted: true,
            memory: false,
            data: vec![0; 4096],
        }
    }

    pub(crate) fn device(gpa: u64) -> Page {
        Page {
            encrypted: false,
            ..Page::private(gpa)
        }
    }
}

/// Base and limit of a segment in 16- and 32-bit mode, and bases of FS and GS.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) base: u64,
    pub(crate) limit: u64,
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) regs: Regs,
    pub(crate) code_size: CodeSize,
    pub(crate) pages: BTreeMap<u64, Page>,
    pub(crate) segments: [Descriptor; 6],
    pub(crate) hypervisor: Hypervisor,
    pub(crate) shared: Box<SharedPage>,
    pub(crate) features: Features,
    pub(crate) dr7: Option<u64>,
    pub(crate) cr4: u64,
    /// User mode may not execute CPUID.
    pub(crate) cpuid_faults: bool,
    /// DebugCtl.BTF is set.
    pub(crate) steps_blocks: bool,
    pub(crate) xcr0: u64,
    pub(crate) xss: Option<u64>,
    pub(crate) snp_cpuid: SnpCpuid,
    pub(crate) allowed_ports: Vec<u16>,
    pub(crate) notes: Vec<Note>,
    pub(crate) peek: bool,
    pub(crate) probes: bool,
    pub(crate) hypercall_rsi: Option<u64>,
    pub(crate) hypercall_accepted: bool,
    pub(crate) vmgexits: usize,
    /// Direct accesses to a device, which would cause a #VC of their own, are fine.
    pub(crate) nested: bool,
    ghcb_taken: bool,
    /// What `Env::buffer_size` answers.
    pub(crate) buffer_size: usize,
}

impl Machine {
    /// A machine in kernel mode that is about to execute `code`.
    pub(crate) fn new(code: &[u8]) -> Machine {
        let flat = Descriptor {
            base: 0,
            limit: 0xffff_ffff,
        };
        let mut machine = Machine {
            regs: Regs {
                ip: CODE,
                cs: KERNEL_CS,
                // Reserved bit 1, IF, and RF as hardware sets it for a fault.
                flags: 0x1_0202,
                ..Regs::default()
            },
            code_size: CodeSize::Bits64,
            pages: BTreeMap::new(),
            segments: [flat; 6],
            hypervisor: Hypervisor {
                version: 2,
                ..Hypervisor::default()
            },
            shared: Box::new(SharedPage([0xa5; 4096])),
            features: Features::default(),
            dr7: Some(0x400),
            cr4: 0,
            cpuid_faults: false,
            steps_blocks: false,
            xcr0: 7,
            xss: None,
            snp_cpuid: SnpCpuid::NoTable,
            allowed_ports: vec![],
            notes: vec![],
            peek: true,
            probes: true,
            hypercall_rsi: None,
            hypercall_accepted: true,
            vmgexits: 0,
            nested: false,
            ghcb_taken: false,
            buffer_size: 2032,
        };

        machine.pages.insert(CODE, Page::private(0x10_0000));
        machine.pages.insert(DATA, Page::private(0x20_0000));
        machine.pages.insert(DEVICE, Page::device(DEVICE_GPA));
        machine.poke(CODE, code);
        machine
    }

    /// The same in user mode.
    pub(crate) fn user(code: &[u8]) -> Machine {
        let mut machine = Machine::new(code);

        machine.regs.cs = USER_CS;
        machine
    }

    /// The same in 32-bit user mode.
    pub(crate) fn user32(code: &[u8]) -> Machine {
        let mut machine = Machine::user(code);

        machine.regs.cs = 0x23;
        machine.code_size = CodeSize::Bits32;
        machine
    }

    /// Raises a #VC with this exit code.
    pub(crate) fn vc(&mut self, code: u64) -> Outcome {
        self.ghcb_taken = false;
        exit::handle(self, code)
    }

    /// Raises a #VC that must complete the instruction.
    pub(crate) fn complete(&mut self, code: u64) {
        assert_eq!(self.vc(code), Outcome::Done { single_step: false });
    }

    /// Raises a #VC until the instruction is complete; returns how many it took.
    pub(crate) fn complete_all(&mut self, code: u64) -> usize {
        for count in 1.. {
            match self.vc(code) {
                Outcome::Done { .. } => return count,
                Outcome::Retry { .. } => assert!(count < 10_000, "no end"),
                outcome => panic!("{outcome:x?}"),
            }
        }
        unreachable!()
    }

    /// Writes bytes, whatever the permissions.
    pub(crate) fn poke(&mut self, address: u64, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            let address = address + n as u64;
            let page = self.pages.get_mut(&(address & !0xfff)).expect("mapped");

            page.data[(address & 0xfff) as usize] = *byte;
        }
    }

    /// Reads bytes, whatever the permissions.
    pub(crate) fn dump(&self, address: u64, len: usize) -> Vec<u8> {
        (address..address + len as u64)
            .map(|address| self.pages[&(address & !0xfff)].data[(address & 0xfff) as usize])
            .collect()
    }

    /// The only event.
    pub(crate) fn event(&self) -> Event {
        assert_eq!(
            self.hypervisor.events.len(),
            1,
            "{:?}",
            self.hypervisor.events
        );
        self.hypervisor.events[0].clone()
    }

    /// The page of an address, with the checks of an access.
    fn page(&self, address: u64, access: Access) -> Result<&Page> {
        let fault = |present| Error::from(self.page_fault(address, access, present));
        let page = self.pages.get(&(address & !0xfff)).ok_or(fault(false))?;

        if (access == Access::Write && !page.writable) || (self.regs.user_mode() && !page.user) {
            return Err(fault(true));
        }
        Ok(page)
    }
}

impl Env for Machine {
    fn regs(&self) -> &Regs {
        &self.regs
    }

    fn regs_mut(&mut self) -> &mut Regs {
        &mut self.regs
    }

    fn code_size(&mut self) -> Result<CodeSize> {
        Ok(self.code_size)
    }

    fn peek(&mut self) -> Option<u64> {
        if !self.peek || self.code_size != CodeSize::Bits64 || self.regs.ip & 0xfff > 0xff8 {
            return None;
        }
        self.pages.get(&(self.regs.ip & !0xfff)).map(|page| {
            let offset = (self.regs.ip & 0xfff) as usize;

            u64::from_le_bytes(page.data[offset..offset + 8].try_into().unwrap())
        })
    }

    fn fetch(&mut self, bytes: &mut [u8; 15]) -> Result<usize> {
        for (n, byte) in bytes.iter_mut().enumerate() {
            let address = self.regs.ip.wrapping_add(n as u64);

            match self.pages.get(&(address & !0xfff)) {
                Some(page) => *byte = page.data[(address & 0xfff) as usize],
                None if n == 0 => {
                    let user = if self.regs.user_mode() { PF_USER } else { 0 };

                    return Err(Fault::page(address, PF_FETCH | user).into());
                }
                None => return Ok(n),
            }
        }
        Ok(15)
    }

    fn ghcb(&mut self) -> Ghcb {
        self.ghcb_taken = true;
        // SAFETY: The page belongs to this machine, and only `vmgexit` makes a reference to it,
        // while the core is not running.
        unsafe { Ghcb::new(NonNull::from(&mut *self.shared).cast()) }
    }

    fn ghcb_gpa(&mut self) -> u64 {
        assert!(self.ghcb_taken, "the address of a GHCB that nobody took");
        GHCB_GPA
    }

    fn buffer_size(&mut self) -> usize {
        self.buffer_size
    }

    fn ghcb_version(&self) -> u16 {
        self.hypervisor.version
    }

    fn vmgexit(&mut self) {
        assert!(self.ghcb_taken, "an exit without a GHCB");
        self.vmgexits += 1;
        self.hypervisor.vmgexit(&mut self.shared, GHCB_GPA);
    }

    fn linear(&mut self, segment: Segment, offset: u64, len: u64, access: Access) -> Result<u64> {
        let _ = access;
        let descriptor = self.segments[segment as usize];

        if self.code_size == CodeSize::Bits64 {
            assert!(matches!(segment, Segment::Fs | Segment::Gs));
        } else if offset + (len - 1) > descriptor.limit {
            return Err(match segment {
                Segment::Ss => Fault::SS.into(),
                _ => Fault::GP.into(),
            });
        }
        Ok(descriptor.base.wrapping_add(offset))
    }

    fn read(&mut self, address: u64, width: Width) -> Result<u64> {
        let mut value = 0;

        for n in 0..width.bytes() {
            // The address space has an end that an access can reach across.
            let at = address.wrapping_add(n);
            let page = self.page(at, Access::Read)?;

            assert!(
                self.nested || page.encrypted || page.memory,
                "direct read of a device"
            );
            value |= u64::from(page.data[(at & 0xfff) as usize]) << (8 * n);
        }
        Ok(value)
    }

    fn write(&mut self, address: u64, value: u64, width: Width) -> Result {
        // All of it or nothing, as hardware does.
        for n in 0..width.bytes() {
            let page = self.page(address.wrapping_add(n), Access::Write)?;

            assert!(
                self.nested || page.encrypted || page.memory,
                "direct write to a device"
            );
        }
        self.poke(address, &value.to_le_bytes()[..width.bytes() as usize]);
        Ok(())
    }

    fn probe(&mut self, address: u64, len: u64, access: Access) -> Result {
        assert!(len != 0 && address & !0xfff == (address + (len - 1)) & !0xfff);
        if !self.probes {
            return Ok(());
        }
        match self.page(address, access) {
            Ok(page) if !page.encrypted && !page.memory => Err(Error::Unsupported),
            Err(error) if access == Access::Write => Err(error),
            _ => Ok(()),
        }
    }

    fn is_shared_memory(&mut self, gpa: u64) -> bool {
        let is_at = |page: &Page| page.gpa == gpa & !0xfff;

        self.pages.values().any(|page| is_at(page) && page.memory)
    }

    fn translate(&mut self, address: u64, access: Access) -> Result<Mapping> {
        assert!(!self.regs.user_mode());

        let page = self.page(address, access)?;

        Ok(Mapping {
            gpa: page.gpa + (address & 0xfff),
            encrypted: page.encrypted,
        })
    }

    fn io_permitted(&mut self, port: u16, width: Width) -> bool {
        assert!(self.regs.user_mode());
        (0..width.bytes()).all(|n| {
            u16::try_from(u64::from(port) + n).is_ok_and(|port| self.allowed_ports.contains(&port))
        })
    }

    fn features(&self) -> Features {
        self.features
    }

    fn dr7(&self) -> Option<u64> {
        self.dr7
    }

    fn set_dr7(&mut self, value: u64) {
        assert!(self.dr7.is_some());
        self.dr7 = Some(value);
    }

    fn cr4(&self) -> u64 {
        self.cr4
    }

    fn cpuid_faults(&self) -> bool {
        assert!(self.regs.user_mode());
        self.cpuid_faults
    }

    fn steps_blocks(&self) -> bool {
        self.steps_blocks
    }

    fn xcr0(&mut self) -> u64 {
        assert!(!self.ghcb_taken);
        self.xcr0
    }

    fn xss(&mut self) -> Option<u64> {
        assert!(!self.ghcb_taken);
        self.xss
    }

    fn snp_cpuid(&mut self, leaf: &mut CpuidLeaf) -> SnpCpuid {
        if self.snp_cpuid == SnpCpuid::Found {
            leaf.eax = !leaf.function;
            leaf.ebx = !leaf.index;
            leaf.ecx = 3;
            leaf.edx = 4;
        }
        self.snp_cpuid
    }

    fn rdtsc(&mut self) -> u64 {
        assert!(self.features.secure_tsc);
        0x1234_5678_9abc_def0
    }

    fn svsm_calling_area(&self) -> u64 {
        0xaaaa_bbbb_cccc_d000
    }

    fn hypercall_prepare(&mut self, ghcb: Ghcb) {
        assert_eq!(ghcb, self.ghcb());
        if let Some(rsi) = self.hypercall_rsi {
            self.shared.put(field::RSI, rsi, 8);
            self.shared.set_valid(field::RSI, true);
        }
    }

    fn hypercall_finish(&mut self, ghcb: Ghcb) -> bool {
        assert_eq!(ghcb, self.ghcb());
        if self.hypercall_rsi.is_some() {
            self.regs.si = 0x515;
        }
        self.hypercall_accepted
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }
}
