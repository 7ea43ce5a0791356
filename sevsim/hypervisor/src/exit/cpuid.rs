// SPDX-License-Identifier: GPL-2.0
//! CPUID as the guest sees it (APM volume 3, appendix E): the physical CPU's, with what belongs to
//! the VM put in and what belongs to the host taken out.

use crate::exit::Answer;
use crate::ghcb::layout::{RAX, RBX, RCX, RDX, XSS};
use crate::ghcb::{Fault, Ghcb};
use crate::options::{Apic, MAX_VCPUS};
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// The last extended leaf that must exist: encrypted memory.
const ENCRYPTED_MEMORY: u32 = 0x8000_001f;
/// The last of KVM's leaves.
const KVM_FEATURES: u32 = 0x4000_0001;

/// KVM_FEATURE_NOP_IO_DELAY, _CLOCKSOURCE2 and _CLOCKSOURCE_STABLE_BIT.
const KVM_FEATURE_BITS: u32 = (1 << 1) | (1 << 3) | (1 << 24);

/// Physical address bits as on Milan.
const PHYSICAL_BITS: u32 = 48;

/// CR4.OSXSAVE and CR4.PKE, which CPUID shows.
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

impl<P: Platform> Vm<P> {
    pub(crate) fn exit_cpuid(
        &self,
        vcpu: &Vcpu,
        ghcb: &mut Ghcb<'_, P>,
        cr4: u64,
    ) -> Result<Answer, Fault> {
        let (leaf, subleaf, xcr0) = ghcb.cpuid_inputs().map_err(Fault::Bad)?;
        let xss = if leaf == 0xd { ghcb.field(XSS) } else { 0 };
        let registers = self.cpuid(vcpu, leaf, subleaf, cr4, xcr0, xss);
        for (field, value) in [RAX, RBX, RCX, RDX].into_iter().zip(registers) {
            ghcb.set(field, value.into());
        }
        Ok(Answer::DONE)
    }

    /// EAX, EBX, ECX, EDX of a leaf as the guest gets them.
    pub(crate) fn cpuid(
        &self,
        vcpu: &Vcpu,
        leaf: u32,
        subleaf: u32,
        cr4: u64,
        xcr0: u64,
        xss: u64,
    ) -> [u32; 4] {
        let mut registers = self.true_cpuid(vcpu, leaf, subleaf, cr4, xcr0, xss);
        self.lies().cpuid(vcpu.stage(), leaf, &mut registers);
        registers
    }

    fn true_cpuid(
        &self,
        vcpu: &Vcpu,
        leaf: u32,
        subleaf: u32,
        cr4: u64,
        xcr0: u64,
        xss: u64,
    ) -> [u32; 4] {
        let id = vcpu.index as u32;
        let count = self.vcpus().len() as u32;
        let physical = || self.platform().cpuid(leaf, subleaf);
        match leaf {
            1 => {
                let mut r = physical();
                r[EBX] = r[EBX] & 0xffff | (count << 16) | (id << 24);
                r[EDX] = with(r[EDX], 28, count > 1); // HTT: the count above is valid
                r[ECX] = with(r[ECX], 3, self.options().monitor && bit(r[ECX], 3));
                r[ECX] = with(
                    r[ECX],
                    21,
                    self.options().apic == Apic::X2apic && bit(r[ECX], 21),
                );
                r[ECX] = with(r[ECX], 27, bit(r[ECX], 26) && cr4 & CR4_OSXSAVE != 0);
                r[ECX] = with(r[ECX], 31, true); // hypervisor
                r
            }
            // MONITOR/MWAIT.
            5 if !self.options().monitor => [0; 4],
            7 if subleaf == 0 => {
                let mut r = physical();
                // TSC_ADJUST, as KVM emulates it: with it Linux trusts the invariant TSC, without
                // it a busy host is enough for Linux to fall back to the HPET.
                r[EBX] = with(r[EBX], 1, true);
                r[ECX] = with(r[ECX], 16, false); // LA57 is the host's
                r[ECX] = with(r[ECX], 4, bit(r[ECX], 3) && cr4 & CR4_PKE != 0); // OSPKE
                r
            }
            0xb => topology(subleaf, id, count),
            0xd => self.extended_state(subleaf, xcr0, xss),
            0x4000_0000 => {
                let name = |at: usize| {
                    let text = b"KVMKVMKVM\0\0\0";
                    u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]])
                };
                [KVM_FEATURES, name(0), name(4), name(8)]
            }
            KVM_FEATURES => [KVM_FEATURE_BITS, 0, 0, 0],
            0x4000_0002..=0x4fff_ffff => [0; 4],
            0x8000_0000 => {
                let mut r = physical();
                r[EAX] = r[EAX].max(ENCRYPTED_MEMORY);
                r
            }
            0x8000_0001 => {
                let mut r = physical();
                r[ECX] = with(r[ECX], 1, count > 1); // CmpLegacy: the threads of leaf 1 are cores
                r[ECX] = with(r[ECX], 2, false); // SVM is the host's
                r
            }
            0x8000_0007 => {
                let mut r = physical();
                r[EDX] = with(r[EDX], 8, true); // TSC invariant
                r
            }
            0x8000_0008 => {
                let mut r = physical();
                // The C-bit must not look like an address bit that is in use.
                let bits = PHYSICAL_BITS.min(self.options().cbit.into());
                r[EAX] = r[EAX] & !0xff | bits;
                // The linear address size must not show LA57 either.
                r[EAX] = r[EAX] & !0xff00 | (48 << 8);
                r[ECX] = r[ECX] & !0xf0ff | (log2_ceil(count) << 12) | (count - 1);
                r
            }
            // SVM features.
            0x8000_000a => [0; 4],
            0x8000_001d => {
                let mut r = physical();
                // One package: the last-level cache is everybody's, the others are a core's own.
                let sharers = if (r[EAX] >> 5) & 7 >= 3 { count - 1 } else { 0 };
                if r[EAX] & 0x1f != 0 {
                    r[EAX] = r[EAX] & !(0xfff << 14) | (sharers << 14);
                }
                r
            }
            // Extended APIC ID, one thread per core, one node.
            0x8000_001e => [id, id, 0, 0],
            ENCRYPTED_MEMORY => {
                let options = self.options();
                let position = u32::from(options.cbit) | (u32::from(options.reduction) << 6);
                // SEV and SEV-ES, as QEMU shows to a SEV-ES guest.
                [(1 << 1) | (1 << 3), position, 0, 0]
            }
            _ => physical(),
        }
    }

    /// Leaf 0xd: sizes follow what the guest has enabled, not the host.
    fn extended_state(&self, subleaf: u32, xcr0: u64, xss: u64) -> [u32; 4] {
        let mut r = self.platform().cpuid(0xd, subleaf);
        let components = || {
            (2..63)
                .map(move |i| (i, self.platform().cpuid(0xd, i)))
                .filter(|(_, r)| r[EAX] != 0)
        };
        // The legacy area and the header.
        const FIXED: u32 = 512 + 64;
        match subleaf {
            0 => {
                let end = |(_, r): (u32, [u32; 4])| r[EAX] + r[EBX];
                let enabled = components().filter(|(i, _)| (xcr0 >> i) & 1 != 0);
                r[EBX] = enabled.map(end).fold(FIXED, u32::max);
            }
            // Compacted format, if XSAVEC or XSAVES exist.
            1 if r[EAX] & ((1 << 1) | (1 << 3)) != 0 => {
                let enabled = components().filter(|(i, _)| ((xcr0 | xss) >> i) & 1 != 0);
                r[EBX] = enabled.fold(FIXED, |at, (_, r)| {
                    let start = if bit(r[ECX], 1) {
                        at.next_multiple_of(64)
                    } else {
                        at
                    };
                    start + r[EAX]
                });
            }
            _ => {}
        }
        r
    }
}

/// Extended topology: one package of cores of one thread each.
fn topology(subleaf: u32, id: u32, count: u32) -> [u32; 4] {
    match subleaf {
        0 => [0, 1, 1 << 8, id],
        1 => [log2_ceil(count), count, (2 << 8) | 1, id],
        _ => [0, 0, subleaf & 0xff, id],
    }
}

/// Bits that number `count` things.
fn log2_ceil(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn bit(value: u32, n: u32) -> bool {
    (value >> n) & 1 != 0
}

fn with(value: u32, n: u32, on: bool) -> u32 {
    value & !(1 << n) | (u32::from(on) << n)
}

const _: () = assert!(MAX_VCPUS <= 256, "APIC IDs fit into leaf 1");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;
    use crate::options::Options;

    const ALL: [u32; 4] = [u32::MAX; 4];

    fn vm(options: Options, leaves: &[((u32, u32), [u32; 4])]) -> Vm<Mock> {
        let mock = Mock::new(options.vcpus);
        mock.cpuids.lock().unwrap().extend(leaves.iter().copied());
        Vm::new(mock, options).unwrap()
    }

    fn options(vcpus: usize) -> Options {
        Options {
            vcpus,
            ..Options::default()
        }
    }

    fn leaf(vm: &Vm<Mock>, vcpu: usize, leaf: u32, subleaf: u32, cr4: u64) -> [u32; 4] {
        vm.cpuid(vm.vcpu(vcpu), leaf, subleaf, cr4, 0, 0)
    }

    #[test]
    fn leaf_1_is_the_vcpus() {
        let vm_off = vm(options(4), &[((1, 0), ALL)]);
        let r = leaf(&vm_off, 3, 1, 0, 0);
        assert_eq!(r[EBX], (3 << 24) | (4 << 16) | 0xffff);
        assert!(bit(r[EDX], 28) && bit(r[ECX], 31));
        assert!(!bit(r[ECX], 3) && !bit(r[ECX], 21) && !bit(r[ECX], 27));
        assert!(bit(leaf(&vm_off, 0, 1, 0, CR4_OSXSAVE)[ECX], 27));
        let on = Options {
            apic: Apic::X2apic,
            monitor: true,
            ..options(1)
        };
        let r = leaf(&vm(on, &[((1, 0), ALL)]), 0, 1, 0, 0);
        assert!(bit(r[ECX], 3) && bit(r[ECX], 21) && !bit(r[EDX], 28));
        let r = leaf(&vm(on, &[]), 0, 1, 0, CR4_OSXSAVE);
        assert!(
            !bit(r[ECX], 3) && !bit(r[ECX], 21) && !bit(r[ECX], 27),
            "not made up"
        );
    }

    #[test]
    fn host_features_are_hidden() {
        let vm = vm(
            options(1),
            &[
                ((7, 0), ALL),
                ((0x8000_0001, 0), ALL),
                ((0x8000_000a, 0), ALL),
                ((5, 0), ALL),
            ],
        );
        let r = leaf(&vm, 0, 7, 0, 0);
        assert_eq!(r, [u32::MAX, u32::MAX, !((1 << 16) | (1 << 4)), u32::MAX]);
        assert!(bit(leaf(&vm, 0, 7, 0, CR4_PKE)[ECX], 4));
        assert!(!bit(leaf(&vm, 0, 7, 1, 0)[EBX], 1), "subleaf 0 only");
        assert_eq!(leaf(&vm, 0, 0x8000_0001, 0, 0)[ECX], !((1 << 1) | (1 << 2)));
        assert_eq!(leaf(&vm, 0, 0x8000_000a, 0, 0), [0; 4]);
        assert_eq!(leaf(&vm, 0, 5, 0, 0), [0; 4]);
    }

    #[test]
    fn topology_leaves() {
        let vm = vm(
            options(6),
            &[
                ((0x8000_0008, 0), [0x3934, 0, 0xffff, 0]),
                ((0x8000_001d, 0), [0x3fff_c121, 1, 2, 3]),
                ((0x8000_001d, 3), [0x3fff_c163, 1, 2, 3]),
                ((0x8000_001d, 4), [0; 4]),
            ],
        );
        assert_eq!(leaf(&vm, 5, 0xb, 0, 0), [0, 1, 0x100, 5]);
        assert_eq!(leaf(&vm, 5, 0xb, 1, 0), [3, 6, 0x201, 5]);
        assert_eq!(leaf(&vm, 5, 0xb, 2, 0), [0, 0, 2, 5]);
        let r = leaf(&vm, 5, 0x8000_0008, 0, 0);
        assert_eq!((r[EAX], r[ECX]), ((48 << 8) | 48, 0x3f05));
        assert_eq!((leaf(&vm, 5, 0x8000_001d, 0, 0)[EAX] >> 14) & 0xfff, 0);
        assert_eq!((leaf(&vm, 5, 0x8000_001d, 3, 0)[EAX] >> 14) & 0xfff, 5);
        assert_eq!(leaf(&vm, 5, 0x8000_001d, 4, 0), [0; 4]);
        assert_eq!(leaf(&vm, 5, 0x8000_001e, 0, 0), [5, 5, 0, 0]);
    }

    #[test]
    fn encrypted_memory() {
        let milan = vm(options(1), &[((0x8000_0000, 0), [0x8000_001e, 1, 2, 3])]);
        assert_eq!(leaf(&milan, 0, 0x8000_0000, 0, 0), [0x8000_001f, 1, 2, 3]);
        assert_eq!(
            leaf(&milan, 0, 0x8000_001f, 0, 0),
            [0xa, 51 | (5 << 6), 0, 0]
        );
        let rome = vm(
            Options {
                cbit: 47,
                reduction: 1,
                ..options(1)
            },
            &[],
        );
        assert_eq!(
            leaf(&rome, 0, 0x8000_001f, 0, 0),
            [0xa, 47 | (1 << 6), 0, 0]
        );
        assert_eq!(leaf(&rome, 0, 0x8000_0008, 0, 0)[EAX] & 0xff, 47);
        let newer = vm(options(1), &[((0x8000_0000, 0), [0x8000_0021, 0, 0, 0])]);
        assert_eq!(leaf(&newer, 0, 0x8000_0000, 0, 0)[EAX], 0x8000_0021);
    }

    #[test]
    fn kvm_is_announced_with_its_clock() {
        let vm = vm(
            options(1),
            &[((0x4000_0000, 0), ALL), ((0x4000_0002, 0), ALL)],
        );
        let r = leaf(&vm, 0, 0x4000_0000, 0, 0);
        let text: Vec<u8> = r[1..].iter().flat_map(|r| r.to_le_bytes()).collect();
        assert_eq!((r[0], &text[..]), (0x4000_0001, &b"KVMKVMKVM\0\0\0"[..]));
        assert_eq!(leaf(&vm, 0, 0x4000_0001, 0, 0), [0x100_000a, 0, 0, 0]);
        assert_eq!(leaf(&vm, 0, 0x4000_0002, 0, 0), [0; 4]);
        assert!(bit(leaf(&vm, 0, 0x8000_0007, 0, 0)[EDX], 8));
        assert_eq!(leaf(&vm, 0, 7, 0, 0)[EBX], 1 << 1, "TSC_ADJUST");
    }

    #[test]
    fn extended_state_follows_the_guest() {
        let vm = vm(
            options(1),
            &[
                ((0xd, 0), [0x207, 9999, 2440, 0]),
                ((0xd, 1), [0xf, 9999, 0, 0]),
                ((0xd, 2), [256, 576, 0, 0]),
                ((0xd, 9), [8, 2432, 0, 0]),
                ((0xd, 11), [16, 0, 3, 0]),
            ],
        );
        let get = |subleaf, xcr0, xss| vm.cpuid(vm.vcpu(0), 0xd, subleaf, 0, xcr0, xss);
        assert_eq!(get(0, 1, 0), [0x207, 576, 2440, 0]);
        assert_eq!(get(0, 7, 0)[EBX], 832);
        assert_eq!(get(0, 0x207, 0)[EBX], 2440);
        assert_eq!(get(1, 0x203, 0)[EBX], 584);
        assert_eq!(get(1, 0x207, 0)[EBX], 840);
        assert_eq!(get(1, 0x207, 1 << 11)[EBX], 896 + 16, "aligned to 64");
        assert_eq!(get(2, 7, 0), [256, 576, 0, 0]);
    }
}
