// SPDX-License-Identifier: GPL-2.0

//! A model of the hypervisor's side: validates requests as KVM does, and more strictly.
//!
//! It knows the GHCB by its own constants, so that an error in the guest's cannot cancel out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Offsets of the fields in the GHCB.
pub(crate) mod field {
    pub(crate) const CPL: usize = 0x0cb;
    pub(crate) const XSS: usize = 0x140;
    pub(crate) const RAX: usize = 0x1f8;
    pub(crate) const RCX: usize = 0x308;
    pub(crate) const RDX: usize = 0x310;
    pub(crate) const RBX: usize = 0x318;
    pub(crate) const RSI: usize = 0x330;
    pub(crate) const EXIT_CODE: usize = 0x390;
    pub(crate) const INFO_1: usize = 0x398;
    pub(crate) const INFO_2: usize = 0x3a0;
    pub(crate) const SCRATCH: usize = 0x3a8;
    pub(crate) const XCR0: usize = 0x3e8;
    pub(crate) const VALID: usize = 0x3f0;
    pub(crate) const BUFFER: usize = 0x800;
    pub(crate) const VERSION: usize = 0xffa;
    pub(crate) const USAGE: usize = 0xffc;
}

/// The page as the hypervisor sees it: bytes.
#[repr(C, align(4096))]
pub(crate) struct SharedPage(pub(crate) [u8; 4096]);

impl SharedPage {
    pub(crate) fn get(&self, offset: usize, len: usize) -> u64 {
        self.0[offset..offset + len]
            .iter()
            .rev()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }

    pub(crate) fn put(&mut self, offset: usize, value: u64, len: usize) {
        self.0[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    pub(crate) fn is_valid(&self, offset: usize) -> bool {
        self.0[field::VALID + offset / 64] & (1 << (offset / 8 % 8)) != 0
    }

    pub(crate) fn set_valid(&mut self, offset: usize, valid: bool) {
        let byte = &mut self.0[field::VALID + offset / 64];
        let bit = 1 << (offset / 8 % 8);

        *byte = if valid { *byte | bit } else { *byte & !bit };
    }

    /// Writes a field and marks it valid.
    pub(crate) fn reply(&mut self, offset: usize, value: u64) {
        self.put(offset, value, 8);
        self.set_valid(offset, true);
    }

    /// Writes the result of the exit.
    pub(crate) fn result(&mut self, info_1: u64, info_2: u64) {
        self.reply(field::INFO_1, info_1);
        self.reply(field::INFO_2, info_2);
    }

    /// Offsets, rounded down to eight, of the fields that are marked valid.
    fn valid_fields(&self) -> BTreeSet<usize> {
        (0..128)
            .map(|bit| bit * 8)
            .filter(|offset| self.is_valid(*offset))
            .collect()
    }
}

/// A request that the hypervisor saw.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// IN or OUT of a width; the value for OUT.
    Port { info: u64, value: Option<u64> },
    /// String I/O: info, number of elements, and the bytes of OUTS.
    String {
        info: u64,
        count: u64,
        data: Vec<u8>,
    },
    /// Read of MMIO.
    MmioRead { gpa: u64, len: u64 },
    /// Write to MMIO.
    MmioWrite { gpa: u64, len: u64, value: u64 },
    /// RDMSR.
    ReadMsr(u32),
    /// WRMSR.
    WriteMsr(u32, u64),
    /// CPUID: leaf, subleaf, XCR0 and XSS if given.
    Cpuid(u64, u64, Option<u64>, Option<u64>),
    /// RDTSC, RDTSCP: the exit code.
    Tsc(u64),
    /// RDPMC of a counter.
    Pmc(u64),
    /// VMMCALL: RAX, CPL.
    Hypercall(u64, u64),
    /// Write to DR7.
    Dr7(u64),
    /// WBINVD.
    Wbinvd,
}

/// Changes a reply after the model made it.
pub(crate) type Tamper = Box<dyn FnMut(&mut SharedPage)>;

/// The model.
#[derive(Default)]
pub(crate) struct Hypervisor {
    /// What was requested.
    pub(crate) events: Vec<Event>,
    /// Bytes that ports deliver.
    pub(crate) input: VecDeque<u8>,
    /// Contents of MMIO, by guest-physical address.
    pub(crate) mmio: BTreeMap<u64, u8>,
    /// MSRs; accesses to others are #GP.
    pub(crate) msrs: BTreeMap<u32, u64>,
    /// The lie of the day.
    pub(crate) tamper: Option<Tamper>,
    /// Version that the guest has to use.
    pub(crate) version: u16,
}

/// SW_EXITINFO2 that asks for #GP with error code 0.
pub(crate) const INJECT_GP: u64 = 13 | (3 << 8) | (1 << 11) | (1 << 31);

/// Upper halves of 32-bit results: not to reach the guest's registers.
const JUNK: u64 = 0xdead_beef_0000_0000;

impl Hypervisor {
    /// Handles VMGEXIT. `gpa` is the address of the page.
    pub(crate) fn vmgexit(&mut self, page: &mut SharedPage, gpa: u64) {
        let request = SharedPage(page.0);

        assert_eq!(
            request.get(field::VERSION, 2),
            self.version.into(),
            "version"
        );
        assert_eq!(request.get(field::USAGE, 4), 0, "usage");
        check_valid_fields(&request);
        page.0[field::VALID..field::VALID + 16].fill(0);
        page.result(0, 0);
        self.handle(&request, page, gpa);
        if let Some(tamper) = &mut self.tamper {
            tamper(page);
        }
    }

    /// Carries a request out.
    fn handle(&mut self, request: &SharedPage, page: &mut SharedPage, gpa: u64) {
        let code = request.get(field::EXIT_CODE, 8);
        let info_1 = request.get(field::INFO_1, 8);
        let info_2 = request.get(field::INFO_2, 8);
        let rax = request.get(field::RAX, 8);
        let rcx = request.get(field::RCX, 8);
        let rdx = request.get(field::RDX, 8);

        if request.is_valid(field::SCRATCH) {
            let scratch = request.get(field::SCRATCH, 8);

            assert_eq!(scratch, gpa + field::BUFFER as u64, "scratch area");
        }
        // KVM marks all four valid, whatever the exit.
        for register in [field::RAX, field::RBX, field::RCX, field::RDX] {
            page.reply(register, JUNK | 0x5555);
        }

        match code {
            0x37 => {
                assert_eq!((info_1, info_2), (0, 0));
                self.events.push(Event::Dr7(rax));
            }
            0x6e | 0x87 => {
                self.events.push(Event::Tsc(code));
                page.reply(field::RAX, JUNK | 0x1111_2222);
                page.reply(field::RDX, JUNK | 0x3333_4444);
                page.reply(field::RCX, JUNK | 0x7);
            }
            0x6f => {
                self.events.push(Event::Pmc(rcx));
                page.reply(field::RAX, JUNK | 0x9abc);
                page.reply(field::RDX, JUNK | 0x12);
            }
            0x72 => {
                let given = |field| request.is_valid(field).then(|| request.get(field, 8));

                self.events.push(Event::Cpuid(
                    rax,
                    rcx,
                    given(field::XCR0),
                    given(field::XSS),
                ));
                page.reply(field::RAX, JUNK | ((rax << 4) & 0xffff_ffff));
                page.reply(field::RBX, JUNK | 0x6874_7541);
                page.reply(field::RCX, JUNK | 0x444d_4163);
                page.reply(field::RDX, JUNK | 0x6974_6e65);
            }
            0x7b => self.port(info_1, info_2, rax, request, page),
            0x7c if info_1 == 1 => {
                assert_eq!((rax | rdx | rcx) >> 32, 0, "32-bit registers");
                self.events
                    .push(Event::WriteMsr(rcx as u32, (rdx << 32) | rax));
                match self.msrs.get_mut(&(rcx as u32)) {
                    Some(msr) => *msr = (rdx << 32) | rax,
                    None => page.result(1, INJECT_GP),
                }
            }
            0x7c => {
                assert_eq!(info_1, 0);
                self.events.push(Event::ReadMsr(rcx as u32));
                match self.msrs.get(&(rcx as u32)) {
                    Some(value) => {
                        page.reply(field::RAX, JUNK | (value & 0xffff_ffff));
                        page.reply(field::RDX, JUNK | (value >> 32));
                    }
                    None => page.result(1, INJECT_GP),
                }
            }
            0x81 => {
                self.events
                    .push(Event::Hypercall(rax, request.get(field::CPL, 1)));
                page.reply(field::RAX, !rax);
            }
            0x89 => self.events.push(Event::Wbinvd),
            0x8000_0001 => {
                assert!(matches!(info_2, 1 | 2 | 4 | 8), "length {info_2}");
                self.events.push(Event::MmioRead {
                    gpa: info_1,
                    len: info_2,
                });
                for n in 0..info_2 {
                    page.0[field::BUFFER + n as usize] =
                        self.mmio.get(&(info_1 + n)).copied().unwrap_or(0xff);
                }
            }
            0x8000_0002 => {
                assert!(matches!(info_2, 1 | 2 | 4 | 8), "length {info_2}");
                self.events.push(Event::MmioWrite {
                    gpa: info_1,
                    len: info_2,
                    value: request.get(field::BUFFER, info_2 as usize),
                });
                for n in 0..info_2 {
                    self.mmio
                        .insert(info_1 + n, request.0[field::BUFFER + n as usize]);
                }
            }
            _ => panic!("exit {code:#x} is not one that a handler makes"),
        }
    }

    /// Port I/O.
    fn port(
        &mut self,
        info: u64,
        count: u64,
        rax: u64,
        request: &SharedPage,
        page: &mut SharedPage,
    ) {
        let width = ((info >> 4) & 7) as usize;
        let input = info & 1 != 0;

        assert!(matches!(width, 1 | 2 | 4), "width {width}");
        if info & 4 == 0 {
            assert_eq!(count, 0);
            self.events.push(Event::Port {
                info,
                value: (!input).then_some(rax),
            });
            if input {
                let mut value = JUNK | 0x7777_7777;

                for n in 0..width {
                    value &= !(0xff << (8 * n));
                    value |= u64::from(self.input.pop_front().unwrap_or(0xff)) << (8 * n);
                }
                page.reply(field::RAX, value);
            }
            return;
        }

        let bytes = count as usize * width;

        assert!(count != 0 && bytes <= 2032, "count {count}");

        let buffer = field::BUFFER..field::BUFFER + bytes;
        let data = if input {
            for at in buffer {
                page.0[at] = self.input.pop_front().unwrap_or(0xff);
            }
            vec![]
        } else {
            request.0[buffer].to_vec()
        };

        self.events.push(Event::String { info, count, data });
    }
}

/// The fields that are marked valid must be those that the exit needs, and no others.
fn check_valid_fields(request: &SharedPage) {
    let code = request.get(field::EXIT_CODE, 8);
    let info_1 = request.get(field::INFO_1, 8);
    let leaf = request.get(field::RAX, 8);
    let subleaf = request.get(field::RCX, 8);
    let mut fields = vec![field::EXIT_CODE, field::INFO_1, field::INFO_2];
    let mut optional = vec![];

    match code {
        0x37 => fields.push(field::RAX),
        0x6f => fields.push(field::RCX),
        0x72 => {
            fields.extend([field::RAX, field::RCX]);
            if leaf == 0xd {
                fields.push(field::XCR0);
                if subleaf == 1 {
                    optional.push(field::XSS);
                }
            }
        }
        0x7b if info_1 & 4 != 0 => fields.push(field::SCRATCH),
        0x7b if info_1 & 1 == 0 => fields.push(field::RAX),
        0x7c if info_1 == 1 => fields.extend([field::RCX, field::RAX, field::RDX]),
        0x7c => fields.push(field::RCX),
        0x81 => {
            fields.extend([field::RAX, field::CPL / 8 * 8]);
            optional.push(field::RSI);
        }
        0x8000_0001 | 0x8000_0002 => fields.push(field::SCRATCH),
        _ => {}
    }

    let mut valid = request.valid_fields();

    for field in optional {
        valid.remove(&field);
    }
    assert_eq!(
        valid,
        fields.into_iter().collect::<BTreeSet<_>>(),
        "fields valid for exit {code:#x}"
    );
}
