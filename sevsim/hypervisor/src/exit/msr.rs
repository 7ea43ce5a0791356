// SPDX-License-Identifier: GPL-2.0
//! RDMSR and WRMSR. The set of MSRs and their behaviour follow KVM's for a SEV-ES guest.
//!
//! What SEV-ES hardware swaps with the VMSA (EFER, the SYSCALL MSRs, FS and GS base, the GHCB MSR,
//! SEV_STATUS ...) never comes here; a guest that asks for it by GHCB gets #GP.

use crate::dev::apic::{MSR_APIC_BASE, MSR_X2APIC, MSR_X2APIC_LAST};
use crate::exit::Answer;
use crate::ghcb::layout::{RAX, RCX, RDX};
use crate::ghcb::{BadInput, Exception, Fault, Ghcb};
use crate::platform::{MsrFault, Platform};
use crate::vcpu::Vcpu;
use crate::vm::Vm;

const PLATFORM_ID: u32 = 0x17;
const TSC: u32 = 0x10;
const EBL_CR_POWERON: u32 = 0x2a;
const EBC_FREQUENCY_ID: u32 = 0x2c;
const SMI_COUNT: u32 = 0x34;
const TSC_ADJUST: u32 = 0x3b;
const UCODE_WRITE: u32 = 0x79;
const UCODE_REV: u32 = 0x8b;
const P6_PERFCTR0: u32 = 0xc1;
const P6_PERFCTR1: u32 = 0xc2;
const FSB_FREQUENCY: u32 = 0xcd;
const PLATFORM_INFO: u32 = 0xce;
const MTRR_CAP: u32 = 0xfe;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const P6_EVNTSEL0: u32 = 0x186;
const P6_EVNTSEL1: u32 = 0x187;
const PERF_STATUS: u32 = 0x198;
const PERF_CTL: u32 = 0x199;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUG_CONTROL: u32 = 0x1d9;
const LAST_BRANCH_FROM: u32 = 0x1db;
const LAST_EXCEPTION_TO: u32 = 0x1de;
const MTRR_VARIABLE: u32 = 0x200;
const MTRR_VARIABLE_LAST: u32 = 0x20f;
const MTRR_FIXED_64K: u32 = 0x250;
const MTRR_FIXED_16K: u32 = 0x258;
const MTRR_FIXED_16K_LAST: u32 = 0x259;
const MTRR_FIXED_4K: u32 = 0x268;
const MTRR_FIXED_4K_LAST: u32 = 0x26f;
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MC0_CTL: u32 = 0x400;
const MC_LAST: u32 = MC0_CTL + 4 * MC_BANKS as u32 - 1;
const TSC_DEADLINE: u32 = 0x6e0;
const XSS: u32 = 0xda0;
const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const TSC_AUX: u32 = 0xc000_0103;
const K7_EVNTSEL0: u32 = 0xc001_0000;
const K7_PERFCTR3: u32 = 0xc001_0007;
const SYSCFG: u32 = 0xc001_0010;
const HWCR: u32 = 0xc001_0015;
const NB_CFG: u32 = 0xc001_001f;
const PATCH_LOADER: u32 = 0xc001_0020;
const INT_PENDING: u32 = 0xc001_0055;
const MMIO_CONF_BASE: u32 = 0xc001_0058;
const AMD_PERF_CTL: u32 = 0xc001_0062;
const TSEG_ADDR: u32 = 0xc001_0112;
const TSEG_MASK: u32 = 0xc001_0113;
const VM_CR: u32 = 0xc001_0114;
const IGNNE: u32 = 0xc001_0115;
const VM_HSAVE_PA: u32 = 0xc001_0117;
/// Comes here only if the host lies about it.
const SEV_STATUS: u32 = 0xc001_0131;
const OSVW_ID_LENGTH: u32 = 0xc001_0140;
const OSVW_STATUS: u32 = 0xc001_0141;
const IC_CFG: u32 = 0xc001_1021;
const DC_CFG: u32 = 0xc001_1022;
const TW_CFG: u32 = 0xc001_1023;
const DE_CFG: u32 = 0xc001_1029;
const BU_CFG2: u32 = 0xc001_102a;
const EX_CFG: u32 = 0xc001_102c;

/// Machine check banks, QEMU's number.
const MC_BANKS: usize = 10;
/// MCG_CAP: the banks, and that MCG_CTL exists.
const MCG_CAP_VALUE: u64 = MC_BANKS as u64 | (1 << 8);
/// MTRRcap: 8 variable ranges, fixed ranges, write combining.
const MTRR_CAP_VALUE: u64 = 8 | (1 << 8) | (1 << 10);
/// The microcode revision that KVM gives to guests on AMD.
const UCODE_VALUE: u64 = 0x0100_0065;
/// PAT after reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// HWCR: writes to MCi_STATUS are allowed.
const HWCR_MC_STATUS_WRITE: u64 = 1 << 18;
/// HWCR: the TSC counts at the P0 frequency. Linux complains if it is clear.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// HWCR bits that a guest may clear or set to no effect.
const HWCR_IGNORED: u64 = (1 << 3) | (1 << 6) | (1 << 8);
/// DE_CFG: LFENCE serializes.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// Enables the clock at the address that the rest gives.
const KVM_ENABLED: u64 = 1;

/// MSRs whose only effect is to keep their value.
pub struct MsrFile {
    mtrr_variable: [u64; 16],
    /// 64K, two of 16K, eight of 4K.
    mtrr_fixed: [u64; 11],
    mtrr_def_type: u64,
    pat: u64,
    tsc_adjust: u64,
    misc_enable: u64,
    mcg_status: u64,
    mcg_ctl: u64,
    mc: [u64; 4 * MC_BANKS],
    hwcr: u64,
    de_cfg: u64,
    osvw: [u64; 2],
    system_time: u64,
}

impl Default for MsrFile {
    fn default() -> Self {
        Self {
            mtrr_variable: [0; 16],
            mtrr_fixed: [0; 11],
            mtrr_def_type: 0,
            pat: PAT_RESET,
            tsc_adjust: 0,
            misc_enable: 0,
            mcg_status: 0,
            mcg_ctl: 0,
            mc: [0; 4 * MC_BANKS],
            hwcr: HWCR_TSC_FREQ_SEL,
            de_cfg: DE_CFG_LFENCE,
            osvw: [0; 2],
            system_time: 0,
        }
    }
}

impl MsrFile {
    fn get(&self, msr: u32) -> Option<u64> {
        Some(match msr {
            MTRR_VARIABLE..=MTRR_VARIABLE_LAST => self.mtrr_variable[at(msr, MTRR_VARIABLE)],
            MTRR_FIXED_64K | MTRR_FIXED_16K..=MTRR_FIXED_4K_LAST => {
                self.mtrr_fixed[fixed_index(msr)?]
            }
            MTRR_DEF_TYPE => self.mtrr_def_type,
            MTRR_CAP => MTRR_CAP_VALUE,
            PAT => self.pat,
            TSC_ADJUST => self.tsc_adjust,
            MISC_ENABLE => self.misc_enable,
            MCG_CAP => MCG_CAP_VALUE,
            MCG_STATUS => self.mcg_status,
            MCG_CTL => self.mcg_ctl,
            MC0_CTL..=MC_LAST => self.mc[at(msr, MC0_CTL)],
            HWCR => self.hwcr,
            DE_CFG => self.de_cfg,
            OSVW_ID_LENGTH | OSVW_STATUS => self.osvw[at(msr, OSVW_ID_LENGTH)],
            KVM_SYSTEM_TIME_NEW => self.system_time,
            UCODE_REV => UCODE_VALUE,
            EBC_FREQUENCY_ID => 1 << 24,
            FSB_FREQUENCY => 3,
            PERF_STATUS => 1000 | (4 << 40),
            PLATFORM_ID
            | EBL_CR_POWERON
            | SMI_COUNT
            | P6_PERFCTR0
            | P6_PERFCTR1
            | PLATFORM_INFO
            | MISC_FEATURES_ENABLES
            | P6_EVNTSEL0
            | P6_EVNTSEL1
            | PERF_CTL
            | DEBUG_CONTROL
            | LAST_BRANCH_FROM..=LAST_EXCEPTION_TO
            | K7_EVNTSEL0..=K7_PERFCTR3
            | SYSCFG
            | NB_CFG
            | INT_PENDING
            | MMIO_CONF_BASE
            | AMD_PERF_CTL
            | TSEG_ADDR
            | TSEG_MASK
            | VM_CR
            | VM_HSAVE_PA
            | IC_CFG
            | DC_CFG
            | TW_CFG
            | BU_CFG2
            | EX_CFG => 0,
            _ => return None,
        })
    }

    /// `None` for an MSR that is not here, an inner error for a value that faults.
    fn set(&mut self, msr: u32, value: u64) -> Option<Result<(), MsrFault>> {
        let slot = match msr {
            MTRR_VARIABLE..=MTRR_VARIABLE_LAST => {
                if !variable_valid(msr, value) {
                    return Some(Err(MsrFault));
                }
                &mut self.mtrr_variable[at(msr, MTRR_VARIABLE)]
            }
            MTRR_FIXED_64K | MTRR_FIXED_16K..=MTRR_FIXED_4K_LAST => {
                if !value
                    .to_le_bytes()
                    .iter()
                    .all(|kind| mtrr_type_valid(*kind))
                {
                    return Some(Err(MsrFault));
                }
                &mut self.mtrr_fixed[fixed_index(msr)?]
            }
            MTRR_DEF_TYPE => {
                if value & !0xcff != 0 || !mtrr_type_valid(value as u8) {
                    return Some(Err(MsrFault));
                }
                &mut self.mtrr_def_type
            }
            PAT => {
                if !value
                    .to_le_bytes()
                    .iter()
                    .all(|kind| matches!(kind, 0 | 1 | 4..=7))
                {
                    return Some(Err(MsrFault));
                }
                &mut self.pat
            }
            TSC_ADJUST => &mut self.tsc_adjust,
            MISC_ENABLE => &mut self.misc_enable,
            MCG_STATUS => &mut self.mcg_status,
            MCG_CTL => {
                if value != 0 && value != u64::MAX {
                    return Some(Err(MsrFault));
                }
                &mut self.mcg_ctl
            }
            MC0_CTL..=MC_LAST => {
                let faults = match msr & 3 {
                    // MCi_CTL: all or nothing, but for two bits that old systems clear.
                    0 => value != 0 && value | (1 << 10) | 1 != u64::MAX,
                    1 => value != 0 && self.hwcr & HWCR_MC_STATUS_WRITE == 0,
                    _ => false,
                };
                if faults {
                    return Some(Err(MsrFault));
                }
                &mut self.mc[at(msr, MC0_CTL)]
            }
            HWCR => {
                let value = value & !HWCR_IGNORED;
                if value & !(HWCR_MC_STATUS_WRITE | HWCR_TSC_FREQ_SEL) != 0 {
                    return Some(Err(MsrFault));
                }
                self.hwcr = value;
                return Some(Ok(()));
            }
            DE_CFG => {
                if value & !DE_CFG_LFENCE != 0 {
                    return Some(Err(MsrFault));
                }
                &mut self.de_cfg
            }
            OSVW_ID_LENGTH | OSVW_STATUS => &mut self.osvw[at(msr, OSVW_ID_LENGTH)],
            MMIO_CONF_BASE | MISC_FEATURES_ENABLES => {
                return Some(if value == 0 { Ok(()) } else { Err(MsrFault) });
            }
            UCODE_REV
            | UCODE_WRITE
            | P6_PERFCTR0
            | P6_PERFCTR1
            | P6_EVNTSEL0
            | P6_EVNTSEL1
            | K7_EVNTSEL0..=K7_PERFCTR3
            | DEBUG_CONTROL
            | SYSCFG
            | NB_CFG
            | PATCH_LOADER
            | AMD_PERF_CTL
            | VM_HSAVE_PA
            | IGNNE
            | DC_CFG
            | TW_CFG
            | BU_CFG2
            | EX_CFG => {
                return Some(Ok(()));
            }
            _ => return None,
        };
        *slot = value;
        Some(Ok(()))
    }
}

fn at(msr: u32, first: u32) -> usize {
    (msr - first) as usize
}

fn fixed_index(msr: u32) -> Option<usize> {
    match msr {
        MTRR_FIXED_64K => Some(0),
        MTRR_FIXED_16K..=MTRR_FIXED_16K_LAST => Some(1 + at(msr, MTRR_FIXED_16K)),
        MTRR_FIXED_4K..=MTRR_FIXED_4K_LAST => Some(3 + at(msr, MTRR_FIXED_4K)),
        _ => None,
    }
}

fn mtrr_type_valid(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// Base (even): type and reserved bits; mask (odd): only the valid bit below the address.
fn variable_valid(msr: u32, value: u64) -> bool {
    const ABOVE: u64 = !((1 << 48) - 1);
    if msr & 1 == 0 {
        value & (ABOVE | 0xf00) == 0 && mtrr_type_valid(value as u8)
    } else {
        value & (ABOVE | 0x7ff) == 0
    }
}

impl<P: Platform> Vm<P> {
    #[inline(never)]
    pub(crate) fn exit_msr(&self, vcpu: &Vcpu, ghcb: &mut Ghcb<'_, P>) -> Result<Answer, Fault> {
        let msr = ghcb.field(RCX) as u32;
        let result = match ghcb.info1 {
            0 => self.rdmsr(vcpu, msr).map(|value| {
                ghcb.set(RAX, value & 0xffff_ffff);
                ghcb.set(RDX, value >> 32);
            }),
            1 => {
                let value = (ghcb.field(RDX) << 32) | ghcb.field(RAX) & 0xffff_ffff;
                self.wrmsr(vcpu, msr, value)
            }
            _ => return Err(Fault::Bad(BadInput::InvalidInput)),
        };
        match result {
            Ok(()) => Ok(Answer::DONE),
            Err(MsrFault) => Err(Fault::Exception(Exception::GeneralProtection)),
        }
    }

    fn rdmsr(&self, vcpu: &Vcpu, msr: u32) -> Result<u64, MsrFault> {
        match msr {
            MSR_X2APIC..=MSR_X2APIC_LAST => self.x2apic_read(vcpu, msr),
            // The physical CPU's own; those that it lacks fault.
            MSR_APIC_BASE | TSC_DEADLINE | TSC_AUX | XSS => self.platform().rdmsr(msr),
            TSC => Ok(self.tsc(vcpu)),
            SEV_STATUS => self.lies().sev_status(vcpu.stage()).ok_or(MsrFault),
            KVM_WALL_CLOCK_NEW => Ok(self.clock().wall_clock_msr.get()),
            _ => vcpu.own.msrs.lock().get(msr).ok_or(MsrFault),
        }
    }

    fn wrmsr(&self, vcpu: &Vcpu, msr: u32, value: u64) -> Result<(), MsrFault> {
        match msr {
            MSR_X2APIC..=MSR_X2APIC_LAST => self.x2apic_write(vcpu, msr, value),
            MSR_APIC_BASE => self.apic_base_write(vcpu, value),
            TSC_DEADLINE | TSC_AUX | XSS => self.platform().wrmsr(msr, value),
            TSC => {
                self.complain(vcpu, format_args!("write of the TSC ignored"));
                Ok(())
            }
            KVM_WALL_CLOCK_NEW => {
                self.clock().wall_clock_msr.set(value);
                let now = self.cmos().wall_clock(self.platform());
                // As KVM: an address that is not RAM is the guest's loss.
                let _ = self.clock().write_wall_clock(self.platform(), value, now);
                Ok(())
            }
            KVM_SYSTEM_TIME_NEW => {
                if value & KVM_ENABLED != 0 {
                    let gpa = value & !KVM_ENABLED;
                    let _ = self.clock().write_system_time(self.platform(), gpa);
                }
                vcpu.own.msrs.lock().system_time = value;
                Ok(())
            }
            _ => vcpu
                .own
                .msrs
                .lock()
                .set(msr, value)
                .unwrap_or(Err(MsrFault)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;
    use crate::options::Options;

    fn vm() -> Vm<Mock> {
        let mock = Mock::new(1);
        mock.msrs
            .lock()
            .unwrap()
            .extend([(0x1b, 0xfee0_0900), (0xc000_0103, 7)]);
        Vm::new(mock, Options::default()).unwrap()
    }

    fn get(vm: &Vm<Mock>, msr: u32) -> Result<u64, MsrFault> {
        vm.rdmsr(vm.vcpu(0), msr)
    }

    fn set(vm: &Vm<Mock>, msr: u32, value: u64) -> Result<(), MsrFault> {
        vm.wrmsr(vm.vcpu(0), msr, value)
    }

    #[test]
    fn kept_values_are_kept_apart() {
        let vm = vm();
        let kept: Vec<u32> = (0x200..=0x20f)
            .chain([0x250, 0x258, 0x259])
            .chain(0x268..=0x26f)
            .chain([0x277, 0x2ff, 0x17a, 0x3b, 0x1a0, 0xc001_0140, 0xc001_0141])
            .collect();
        let value = |msr: u32| match msr {
            0x2ff => 0xc06,
            0x200..=0x20f if msr & 1 == 1 => (u64::from(msr) << 12) | 0x800,
            0x200..=0x20f => (u64::from(msr) << 12) | 6,
            // Bytes that are memory types and tell the MSRs apart.
            _ => [0, 2, 4].into_iter().fold(0, |value, shift| {
                (value << 8) | [0, 1, 4, 5][(msr >> shift) as usize & 3]
            }),
        };
        kept.iter()
            .for_each(|msr| assert_eq!(set(&vm, *msr, value(*msr)), Ok(()), "{msr:#x}"));
        kept.iter()
            .for_each(|msr| assert_eq!(get(&vm, *msr), Ok(value(*msr)), "{msr:#x}"));
    }

    #[test]
    fn what_kvm_refuses_faults() {
        let vm = vm();
        for (msr, value) in [
            (0x200, 2),
            (0x200, 0x100),
            (0x201, 1),
            (0x201, 1 << 48),
            (0x250, 7),
            (0x2ff, 0x100),
            (0x2ff, 2),
            (0x277, 2),
            (0x277, 8),
            (0x17b, 1),
            (0x400, 1),
            (0x401, 1),
            (0xc001_0015, 1),
            (0xc001_1029, 4),
            (0xc001_0058, 1),
            (0x140, 1),
            (0xfe, 0),
            (0x179, 0),
            (0xc000_0080, 0),
            (0xc001_0130, 0),
            (0xc001_0131, 0),
            (0xc000_0082, 0),
            (0x4b56_4d02, 0),
            (0x11, 0),
            (0x12, 0),
            (0x1234, 0),
            (0x260, 0),
            (0x25a, 0),
            (0x428, 0),
            (0xce, 0),
            (0x831, 0),
            (0x1b, 0xfed0_0900),
        ] {
            assert_eq!(set(&vm, msr, value), Err(MsrFault), "{msr:#x} {value:#x}");
        }
        for msr in [
            0xc000_0080,
            0xc001_0130,
            0xc001_0131,
            0x1234,
            0x260,
            0x428,
            0x11,
            0x80b,
        ] {
            assert_eq!(get(&vm, msr), Err(MsrFault), "{msr:#x}");
        }
    }

    #[test]
    fn machine_check_banks() {
        let vm = vm();
        assert_eq!(get(&vm, 0x179), Ok(0x10a));
        for (msr, value) in [
            (0x400, u64::MAX),
            (0x410, !(1 << 10)),
            (0x401, 0),
            (0x402, 5),
        ] {
            assert_eq!(set(&vm, msr, value), Ok(()));
            assert_eq!(get(&vm, msr), Ok(value));
        }
        assert_eq!(set(&vm, 0xc001_0015, 1 << 18), Ok(()));
        assert_eq!(set(&vm, 0x401, 1), Ok(()));
        assert_eq!(set(&vm, 0x427, 1), Ok(()), "the last bank's last register");
    }

    #[test]
    fn ignored_bits_of_hwcr() {
        let vm = vm();
        assert_eq!(get(&vm, 0xc001_0015), Ok(1 << 24));
        assert_eq!(set(&vm, 0xc001_0015, (1 << 24) | 0x148), Ok(()));
        assert_eq!(get(&vm, 0xc001_0015), Ok(1 << 24));
    }

    #[test]
    fn physical_msrs() {
        let vm = vm();
        assert_eq!(get(&vm, 0x1b), Ok(0xfee0_0900));
        assert_eq!(get(&vm, 0xc000_0103), Ok(7));
        assert_eq!(set(&vm, 0xc000_0103, 9), Ok(()));
        assert_eq!(get(&vm, 0xc000_0103), Ok(9));
        assert_eq!(get(&vm, 0x6e0), Err(MsrFault), "not there");
        assert_eq!(set(&vm, 0xda0, 0), Err(MsrFault), "not there");
        vm.platform().tsc.set(77);
        assert_eq!(get(&vm, 0x10), Ok(77));
        assert_eq!(set(&vm, 0x10, 0), Ok(()));
        assert_eq!(get(&vm, 0x10), Ok(77));
    }

    #[test]
    fn clock_msrs_fill_in_the_structures() {
        let vm = vm();
        assert_eq!(set(&vm, 0x4b56_4d01, 0x3001), Ok(()));
        assert_eq!(get(&vm, 0x4b56_4d01), Ok(0x3001));
        assert_eq!(vm.platform().peek(0x3000 + 29, 1), [1], "TSC stable");
        let before = vm.platform().peek(0x4000, 32);
        assert_eq!(set(&vm, 0x4b56_4d01, 0x4000), Ok(()), "disabled");
        assert_eq!(vm.platform().peek(0x4000, 32), before);
        let cells = [
            (0, 0),
            (2, 0),
            (4, 0),
            (7, 1),
            (8, 1),
            (9, 0x70),
            (0x32, 0x19),
            (0xb, 2),
        ];
        vm.platform().cmos(&cells);
        vm.platform().cmos(&[(9, 0x71)]);
        assert_eq!(set(&vm, 0x4b56_4d00, 0x5000), Ok(()));
        assert_eq!(
            vm.platform().peek(0x5004, 4),
            (365 * 86_400_u32).to_le_bytes()
        );
        assert_eq!(get(&vm, 0x4b56_4d00), Ok(0x5000));
        assert_eq!(
            set(&vm, 0x4b56_4d01, 0xfee0_0001),
            Ok(()),
            "not RAM: ignored"
        );
    }
}
