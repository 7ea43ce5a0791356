// SPDX-License-Identifier: GPL-2.0
//! A machine for unit tests: memory, ports and MSRs as plain tables.

use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::sync::Mutex;
use std::vec::Vec;

use crate::atomic::Word;
use crate::platform::{Blob, MsrFault, NotRam, Platform, Use};

/// 64 KiB of RAM at 0 stand for all of it.
pub const LOW: u64 = 0x1_0000;

/// The mock.
pub struct Mock {
    pub vcpus: usize,
    pub ram: (u64, u64),
    pub memory: Mutex<Vec<u8>>,
    /// Each write to memory, in order.
    pub writes: Mutex<Vec<(u64, Vec<u8>)>>,
    /// What the exit in hand named: the first one is its GHCB. Anything else must not be touched.
    pub named: Mutex<Vec<(u64, u64)>>,
    /// Each read of memory, in order.
    pub reads: Mutex<Vec<(u64, usize)>>,
    /// The value that a port gives and that was last written to it.
    pub ports: Mutex<BTreeMap<u16, u32>>,
    /// Each OUT, in order.
    pub outs: Mutex<Vec<(u16, u8, u32)>>,
    /// Values that a port gives one after the other, before the one in `ports`.
    pub queues: Mutex<BTreeMap<u16, Vec<u32>>>,
    pub cmos: Mutex<BTreeMap<u32, u32>>,
    pub fw_cfg: Mutex<BTreeMap<u16, Vec<u8>>>,
    pub fw_cfg_at: Mutex<(u16, usize)>,
    pub msrs: Mutex<BTreeMap<u32, u64>>,
    pub wrmsrs: Mutex<Vec<(u32, u64)>>,
    pub mmio: Mutex<BTreeMap<u64, u64>>,
    pub mmio_writes: Mutex<Vec<(u64, u8, u64)>>,
    pub cpuids: Mutex<BTreeMap<(u32, u32), [u32; 4]>>,
    pub kicks: Mutex<Vec<usize>>,
    pub lines: Mutex<Vec<String>>,
    pub tsc: Word,
    pub kernel: Option<Vec<u8>>,
    pub initrd: Option<Vec<u8>>,
    pub command_line: Option<Vec<u8>>,
}

impl Mock {
    pub fn new(vcpus: usize) -> Self {
        let mut e820 = Vec::new();
        for (base, len, kind) in [
            (0_u64, 0x8000_0000_u64, 1_u32),
            (1 << 32, 0x1_9000_0000, 1),
            (0xfd_0000_0000, 0x3_0000_0000, 2),
        ] {
            e820.extend(base.to_le_bytes());
            e820.extend(len.to_le_bytes());
            e820.extend(kind.to_le_bytes());
        }
        let mock = Self {
            vcpus,
            ram: (LOW, 0),
            memory: Mutex::new(vec![0; LOW as usize]),
            writes: Mutex::default(),
            named: Mutex::default(),
            reads: Mutex::default(),
            // A keyboard controller and port 0x92, as most boards have.
            ports: Mutex::new(BTreeMap::from([(0x64, 0x1c), (0x92, 0)])),
            outs: Mutex::default(),
            queues: Mutex::default(),
            cmos: Mutex::default(),
            fw_cfg: Mutex::default(),
            fw_cfg_at: Mutex::default(),
            msrs: Mutex::default(),
            wrmsrs: Mutex::default(),
            mmio: Mutex::default(),
            mmio_writes: Mutex::default(),
            cpuids: Mutex::default(),
            kicks: Mutex::default(),
            lines: Mutex::default(),
            tsc: Word::new(1_000),
            kernel: None,
            initrd: None,
            command_line: None,
        };
        mock.file(0, b"QEMU");
        mock.file(1, &[3, 0, 0, 0]);
        mock.directory(&[
            ("bootorder", 0x20, 5),
            ("etc/e820", 0x21, e820.len() as u32),
        ]);
        mock.file(0x20, b"boot\0");
        mock.file(0x21, &e820);
        mock
    }

    /// Sets the content of a fw_cfg item of the physical device.
    pub fn file(&self, key: u16, content: &[u8]) {
        self.fw_cfg.lock().unwrap().insert(key, content.to_vec());
    }

    /// Sets the physical device's file directory.
    pub fn directory(&self, files: &[(&str, u16, u32)]) {
        let mut bytes = (files.len() as u32).to_be_bytes().to_vec();
        for (name, key, size) in files {
            bytes.extend(size.to_be_bytes());
            bytes.extend(key.to_be_bytes());
            bytes.extend([0; 2]);
            let mut field = [0; 56];
            field[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(field);
        }
        self.file(0x19, &bytes);
    }

    /// Sets CMOS cells.
    pub fn cmos(&self, cells: &[(u32, u32)]) {
        self.cmos.lock().unwrap().extend(cells.iter().copied());
    }

    /// Fails the test if an access to memory was not named.
    fn check_named(&self, gpa: u64, len: usize) {
        let end = gpa.saturating_add(len as u64);
        let inside = |(from, len): &(u64, u64)| *from <= gpa && end <= from.saturating_add(*len);
        let named = self.named.lock().unwrap();
        assert!(named.iter().any(inside), "{gpa:#x}+{len:#x} was not named");
    }

    /// Reads memory unrecorded.
    pub fn peek(&self, gpa: u64, len: usize) -> Vec<u8> {
        self.memory.lock().unwrap()[gpa as usize..][..len].to_vec()
    }

    /// Reads a quadword unrecorded.
    pub fn peek_u64(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.peek(gpa, 8).try_into().unwrap())
    }

    /// Writes memory unrecorded.
    pub fn poke(&self, gpa: u64, bytes: &[u8]) {
        self.memory.lock().unwrap()[gpa as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Takes what was written to ports since the last time.
    pub fn take_outs(&self) -> Vec<(u16, u8, u32)> {
        core::mem::take(&mut self.outs.lock().unwrap())
    }

    /// Takes the device memory writes since the last time.
    pub fn take_mmio(&self) -> Vec<(u64, u8, u64)> {
        core::mem::take(&mut self.mmio_writes.lock().unwrap())
    }

    /// Takes the kicks since the last time.
    pub fn take_kicks(&self) -> Vec<usize> {
        core::mem::take(&mut self.kicks.lock().unwrap())
    }
}

impl Platform for Mock {
    fn vcpus(&self) -> usize {
        self.vcpus
    }

    fn guest_ram(&self) -> (u64, u64) {
        self.ram
    }

    fn name(&self, what: Use, gpa: u64, len: u64) {
        let mut named = self.named.lock().unwrap();
        if what == Use::Ghcb {
            named.clear();
        }
        named.push((gpa, len));
    }

    fn read_shared(&self, gpa: u64, buf: &mut [u8]) -> Result<(), NotRam> {
        self.check_named(gpa, buf.len());
        self.reads.lock().unwrap().push((gpa, buf.len()));
        let memory = self.memory.lock().unwrap();
        let at = usize::try_from(gpa).map_err(|_| NotRam)?;
        let end = at.checked_add(buf.len()).ok_or(NotRam)?;
        buf.copy_from_slice(memory.get(at..end).ok_or(NotRam)?);
        Ok(())
    }

    fn write_shared(&self, gpa: u64, buf: &[u8]) -> Result<(), NotRam> {
        self.check_named(gpa, buf.len());
        let mut memory = self.memory.lock().unwrap();
        let at = usize::try_from(gpa).map_err(|_| NotRam)?;
        let end = at.checked_add(buf.len()).ok_or(NotRam)?;
        memory.get_mut(at..end).ok_or(NotRam)?.copy_from_slice(buf);
        self.writes.lock().unwrap().push((gpa, buf.to_vec()));
        Ok(())
    }

    fn port_in(&self, port: u16, bytes: u8) -> u32 {
        if port == 0x511 && bytes == 1 {
            let mut at = self.fw_cfg_at.lock().unwrap();
            let items = self.fw_cfg.lock().unwrap();
            let value = items
                .get(&at.0)
                .and_then(|item| item.get(at.1))
                .copied()
                .unwrap_or(0);
            at.1 += 1;
            return value.into();
        }
        let index = self.ports.lock().unwrap().get(&0x70).copied().unwrap_or(0) & 0x7f;
        if let (0x71, Some(value)) = (port, self.cmos.lock().unwrap().get(&index)) {
            return *value;
        }
        if let Some(queue) = self.queues.lock().unwrap().get_mut(&port) {
            if !queue.is_empty() {
                return queue.remove(0);
            }
        }
        if port == 0xcfc && !self.ports.lock().unwrap().contains_key(&port) {
            return 0x601;
        }
        self.ports
            .lock()
            .unwrap()
            .get(&port)
            .copied()
            .unwrap_or(u32::MAX)
    }

    fn port_out(&self, port: u16, bytes: u8, value: u32) {
        if port == 0x510 && bytes == 2 {
            // As QEMU, which takes the write channel's bit off.
            *self.fw_cfg_at.lock().unwrap() = (value as u16 & !0x4000, 0);
        }
        self.outs.lock().unwrap().push((port, bytes, value));
        self.ports.lock().unwrap().insert(port, value);
    }

    fn mmio_read(&self, gpa: u64, bytes: u8) -> u64 {
        assert_eq!(gpa % u64::from(bytes), 0);
        let value = self
            .mmio
            .lock()
            .unwrap()
            .get(&gpa)
            .copied()
            .unwrap_or(u64::MAX);
        value & (u64::MAX >> (64 - 8 * u32::from(bytes)))
    }

    fn mmio_write(&self, gpa: u64, bytes: u8, value: u64) {
        assert_eq!(gpa % u64::from(bytes), 0);
        self.mmio_writes.lock().unwrap().push((gpa, bytes, value));
        self.mmio.lock().unwrap().insert(gpa, value);
    }

    fn rdmsr(&self, msr: u32) -> Result<u64, MsrFault> {
        self.msrs.lock().unwrap().get(&msr).copied().ok_or(MsrFault)
    }

    fn wrmsr(&self, msr: u32, value: u64) -> Result<(), MsrFault> {
        let mut msrs = self.msrs.lock().unwrap();
        *msrs.get_mut(&msr).ok_or(MsrFault)? = value;
        self.wrmsrs.lock().unwrap().push((msr, value));
        Ok(())
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.cpuids
            .lock()
            .unwrap()
            .get(&(leaf, subleaf))
            .copied()
            .unwrap_or_default()
    }

    fn tsc(&self) -> u64 {
        self.tsc.get()
    }

    fn tsc_khz(&self) -> u32 {
        2_300_000
    }

    fn kick(&self, vcpu: usize) {
        self.kicks.lock().unwrap().push(vcpu);
    }

    fn blob(&self, blob: Blob) -> Option<&[u8]> {
        match blob {
            Blob::Kernel => self.kernel.as_deref(),
            Blob::Initrd => self.initrd.as_deref(),
            Blob::CommandLine => self.command_line.as_deref(),
        }
    }

    fn log(&self, line: core::fmt::Arguments<'_>) {
        self.lines.lock().unwrap().push(format!("{line}"));
    }
}
