// SPDX-License-Identifier: GPL-2.0
//! The local APIC: the physical one, except that INIT, SIPI and NMI are sent in software.
//!
//! A physical INIT would end the host on that CPU and a physical NMI would not respect the guest's
//! NMI window. Everything else - timer, EOI, fixed interrupts - is the physical APIC's business
//! (APM volume 2, chapter 16).

use crate::platform::{MsrFault, Platform};
use crate::vcpu::{ApicShadow, Vcpu};
use crate::vm::Vm;

/// Where the registers are, always: APIC_BASE may not move them.
pub const BASE: u64 = 0xfee0_0000;
/// End of the range in which writes are message signalled interrupts.
const WINDOW_END: u64 = 0xfef0_0000;

/// APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// First x2APIC MSR; an xAPIC register's offset divided by 16 is its distance.
pub const MSR_X2APIC: u32 = 0x800;
/// Last x2APIC MSR.
pub const MSR_X2APIC_LAST: u32 = 0x8ff;

/// APIC_BASE: x2APIC mode.
const EXTD: u64 = 1 << 10;
/// APIC_BASE: the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const ID: u64 = 0x20;
const TPR: u64 = 0x80;
const LDR: u64 = 0xd0;
const DFR: u64 = 0xe0;
const SPURIOUS: u64 = 0xf0;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_CMCI: u64 = 0x2f0;
const LVT_FIRST: u64 = 0x320;
const LVT_LAST: u64 = 0x370;
const TIMER_INITIAL_COUNT: u64 = 0x380;

/// LVT: masked.
const LVT_MASKED: u64 = 1 << 16;

/// ICR delivery modes.
mod mode {
    pub const FIXED: u64 = 0;
    pub const LOWEST: u64 = 1;
    pub const NMI: u64 = 4;
    pub const INIT: u64 = 5;
    pub const SIPI: u64 = 6;
}

/// The 64-bit form of an ICR write: x2APIC's layout, destination in bits 63:32.
#[derive(Clone, Copy, Debug)]
struct Icr(u64);

impl Icr {
    fn mode(self) -> u64 {
        (self.0 >> 8) & 7
    }

    fn logical(self) -> bool {
        self.0 & (1 << 11) != 0
    }

    /// INIT with level 0 and level-triggered is the "de-assert" that only synchronizes arbitration.
    fn deassert(self) -> bool {
        self.0 & (1 << 14) == 0 && self.0 & (1 << 15) != 0
    }

    fn shorthand(self) -> u64 {
        (self.0 >> 18) & 3
    }

    fn destination(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Whether an APIC with this state and ID is addressed by a destination (APM volume 2, 16.6.1 and
/// 16.14). `x2` tells which mode the sender is in, and so how wide the destination is.
fn addressed(target: &ApicShadow, id: u32, destination: u32, logical: bool, x2: bool) -> bool {
    let broadcast = if x2 { u32::MAX } else { 0xff };
    if !logical {
        return destination == broadcast || destination == id;
    }
    if target.x2apic.get() {
        let ldr = ((id >> 4) << 16) | (1 << (id & 15));
        return destination == broadcast
            || (destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0);
    }
    let ldr = (target.ldr.get() >> 24) as u32;
    if (target.dfr.get() >> 28) & 0xf == 0xf {
        // Flat model: one bit each.
        destination & 0xff & ldr != 0
    } else {
        // Cluster model: 15 addresses all clusters.
        let cluster = (destination >> 4) & 0xf;
        (cluster == 0xf || cluster == ldr >> 4) && destination & ldr & 0xf != 0
    }
}

/// What may be written to a register: local interrupts of mode SMI or INIT, and of the reserved
/// modes, stay masked. They would hit the physical CPU.
fn filter(register: u64, value: u64) -> u64 {
    let local = register == LVT_CMCI || (LVT_FIRST..=LVT_LAST).contains(&register);
    match (value >> 8) & 7 {
        2 | 3 | 5 | 6 if local => value | LVT_MASKED,
        _ => value,
    }
}

/// Whether an address is in the APIC's register page.
pub fn in_page(gpa: u64) -> bool {
    gpa & !0xfff == BASE
}

/// Whether an address is in the page, or a write there is a message signalled interrupt.
pub fn in_window(gpa: u64) -> bool {
    (BASE..WINDOW_END).contains(&gpa)
}

impl<P: Platform> Vm<P> {
    /// Read of the register page. As in QEMU a register takes up 16 bytes.
    pub(crate) fn apic_read(&self, vcpu: &Vcpu, gpa: u64, bytes: u8) -> u64 {
        match gpa & 0xff0 {
            // Delivery is never pending: IPIs are sent before the write returns.
            ICR_LOW => vcpu.apic.icr.get() & 0xffff_ffff,
            ICR_HIGH => vcpu.apic.icr.get() >> 32,
            register if bytes >= 4 => self.platform().mmio_read(BASE + register, 4),
            _ => self.platform().mmio_read(gpa, bytes),
        }
    }

    /// Write of the register page or of a message signalled interrupt.
    pub(crate) fn apic_write(&self, vcpu: &Vcpu, gpa: u64, bytes: u8, value: u64) {
        if bytes < 4 {
            // No register; QEMU ignores it too.
            return;
        }
        let value = value & 0xffff_ffff;
        let register = gpa & 0xff0;
        if !in_page(gpa) || register == 0 {
            // QEMU takes this as a message. Only ordinary interrupts may pass.
            if matches!((value >> 8) & 7, mode::FIXED | mode::LOWEST) {
                self.platform().mmio_write(gpa & !3, 4, value);
            }
            return;
        }
        let shadow = &vcpu.apic;
        match register {
            // The CPU is woken by its ID.
            ID => return,
            ICR_HIGH => {
                shadow
                    .icr
                    .set(shadow.icr.get() & 0xffff_ffff | ((value & 0xff00_0000) << 32));
                return;
            }
            ICR_LOW => {
                let high = shadow.icr.get() & !0xffff_ffff;
                // Delivery status is read-only.
                shadow.icr.set(high | value & !(1 << 12));
                let icr = Icr(value | ((high >> 56) << 32));
                if !self.send_in_software(vcpu, icr, false) {
                    self.platform().mmio_write(BASE + ICR_HIGH, 4, high >> 32);
                    self.platform().mmio_write(BASE + ICR_LOW, 4, value);
                }
                return;
            }
            LDR => shadow.ldr.set(value),
            DFR => shadow.dfr.set(value | 0x0fff_ffff),
            _ => {}
        }
        let value = filter(register, value);
        self.platform().mmio_write(BASE + register, 4, value);
    }

    /// RDMSR of an x2APIC register. The physical APIC faults where the guest is to get #GP.
    pub(crate) fn x2apic_read(&self, vcpu: &Vcpu, msr: u32) -> Result<u64, MsrFault> {
        if u64::from(msr - MSR_X2APIC) << 4 == ICR_LOW && vcpu.apic.x2apic.get() {
            return Ok(vcpu.apic.icr.get());
        }
        self.platform().rdmsr(msr)
    }

    /// WRMSR of an x2APIC register.
    pub(crate) fn x2apic_write(&self, vcpu: &Vcpu, msr: u32, value: u64) -> Result<(), MsrFault> {
        let register = u64::from(msr - MSR_X2APIC) << 4;
        if register == ICR_LOW {
            if !vcpu.apic.x2apic.get() {
                return Err(MsrFault);
            }
            vcpu.apic.icr.set(value);
            if self.send_in_software(vcpu, Icr(value), true) {
                return Ok(());
            }
        }
        self.platform().wrmsr(msr, filter(register, value))
    }

    /// WRMSR of APIC_BASE: the mode may change, the address may not.
    pub(crate) fn apic_base_write(&self, vcpu: &Vcpu, value: u64) -> Result<(), MsrFault> {
        if value & ADDRESS != BASE {
            return Err(MsrFault);
        }
        self.platform().wrmsr(MSR_APIC_BASE, value)?;
        vcpu.apic.x2apic.set(value & EXTD != 0);
        Ok(())
    }

    /// Sends INIT, SIPI or NMI. `false` if the physical APIC is to send this one.
    fn send_in_software(&self, sender: &Vcpu, icr: Icr, x2: bool) -> bool {
        match icr.mode() {
            mode::FIXED | mode::LOWEST => return false,
            mode::NMI | mode::INIT | mode::SIPI => {}
            // SMI, remote read, ExtINT: nothing that a SEV-ES guest could be sent.
            _ => return true,
        }
        for target in self.vcpus() {
            let own = target.index == sender.index;
            let hit = match icr.shorthand() {
                0 => addressed(
                    &target.apic,
                    target.index as u32,
                    icr.destination(),
                    icr.logical(),
                    x2,
                ),
                1 => own,
                2 => true,
                _ => !own,
            };
            if hit {
                self.deliver(sender, target, icr);
            }
        }
        true
    }

    fn deliver(&self, sender: &Vcpu, target: &Vcpu, icr: Icr) {
        let kick = match icr.mode() {
            mode::NMI => {
                target.nmi.arrive();
                true
            }
            mode::INIT => {
                if !icr.deassert() && target.ap.lock().init() {
                    target.nmi.reset();
                }
                false
            }
            _ => target.ap.lock().sipi(),
        };
        // A vCPU that is here looks at its own state before it runs again.
        if kick && target.index != sender.index {
            self.platform().kick(target.index);
        }
    }

    /// Puts this CPU's physical APIC into the state that INIT leaves, but for the mode, which INIT
    /// keeps, and pending interrupts, which cannot be taken back.
    pub(crate) fn apic_init(&self, vcpu: &Vcpu) {
        let x2 = vcpu.apic.x2apic.get();
        let write = |register: u64, value| {
            if x2 {
                // A register that this APIC lacks faults, and has nothing to reset.
                let _ = self
                    .platform()
                    .wrmsr(MSR_X2APIC + (register >> 4) as u32, value);
            } else {
                self.platform().mmio_write(BASE + register, 4, value);
            }
        };
        for register in (LVT_FIRST..=LVT_LAST).step_by(0x10) {
            write(register, LVT_MASKED);
        }
        write(TIMER_INITIAL_COUNT, 0);
        write(TPR, 0);
        if !x2 {
            write(LDR, 0);
            write(DFR, 0xffff_ffff);
        }
        write(SPURIOUS, 0xff);
        vcpu.apic.ldr.set(0);
        vcpu.apic.dfr.set(0xffff_ffff);
        vcpu.apic.icr.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;
    use crate::options::Options;

    const LOW: u64 = BASE + ICR_LOW;
    const HIGH: u64 = BASE + ICR_HIGH;

    fn vm(vcpus: usize) -> Vm<Mock> {
        let mock = Mock::new(vcpus);
        mock.msrs
            .lock()
            .unwrap()
            .extend([(0x1b, BASE | 0x900), (0x830, 0), (0x80d, 5)]);
        let vm = Vm::new(
            mock,
            Options {
                vcpus,
                ..Options::default()
            },
        )
        .unwrap();
        vm.platform().take_outs();
        vm
    }

    /// Sends an IPI from vCPU 0 by xAPIC; returns who got an NMI.
    fn nmis(vm: &Vm<Mock>, high: u64, low: u64) -> Vec<usize> {
        vm.apic_write(vm.vcpu(0), HIGH, 4, high);
        vm.apic_write(vm.vcpu(0), LOW, 4, low);
        let got = (0..8)
            .filter(|i| *i < vm.vcpus().len() && vm.take_nmi(*i))
            .collect();
        vm.vcpus().iter().for_each(|vcpu| vcpu.nmi.reset());
        got
    }

    #[test]
    fn local_interrupts_are_no_smi_nor_init() {
        let vm = vm(1);
        for (register, value, want) in [
            (0x350, 0x231, 0x1_0231),
            (0x360, 0x531, 0x1_0531),
            (0x370, 0x331, 0x1_0331),
            (0x330, 0x631, 0x1_0631),
            (0x2f0, 0x231, 0x1_0231),
            (0x350, 0x700, 0x700),
            (0x360, 0x400, 0x400),
            (0x320, 0x2_00ec, 0x2_00ec),
            (0xf0, 0x2ff, 0x2ff),
        ] {
            vm.apic_write(vm.vcpu(0), BASE + register, 4, value);
            assert_eq!(vm.platform().take_mmio(), [(BASE + register, 4, want)]);
            let msr = MSR_X2APIC + (register >> 4) as u32;
            vm.platform().msrs.lock().unwrap().insert(msr, 0);
            assert_eq!(vm.x2apic_write(vm.vcpu(0), msr, value), Ok(()));
            assert_eq!(vm.platform().msrs.lock().unwrap()[&msr], want, "{msr:#x}");
        }
    }

    #[test]
    fn the_id_stays() {
        let vm = vm(2);
        vm.apic_write(vm.vcpu(1), BASE + 0x20, 4, 7 << 24);
        assert_eq!(vm.platform().take_mmio(), []);
        assert_eq!(nmis(&vm, 1 << 24, 0x400), [1]);
    }

    #[test]
    fn shorthands() {
        let vm = vm(4);
        assert_eq!(nmis(&vm, 0, 0x4_0400), [0], "self");
        assert_eq!(vm.platform().take_kicks(), [0; 0], "no kick for oneself");
        assert_eq!(nmis(&vm, 0, 0x8_0400), [0, 1, 2, 3], "all");
        assert_eq!(vm.platform().take_kicks(), [1, 2, 3]);
        assert_eq!(nmis(&vm, 0, 0xc_0400), [1, 2, 3], "all but self");
        assert_eq!(
            vm.platform().take_mmio(),
            [],
            "nothing reaches the physical APIC"
        );
    }

    #[test]
    fn physical_destinations() {
        let vm = vm(4);
        assert_eq!(nmis(&vm, 2 << 24, 0x400), [2]);
        assert_eq!(nmis(&vm, 0xff << 24, 0x400), [0, 1, 2, 3]);
        assert_eq!(nmis(&vm, 9 << 24, 0x400), [0; 0]);
    }

    #[test]
    fn logical_flat_and_cluster() {
        let vm = vm(4);
        for i in 0..4 {
            vm.apic_write(vm.vcpu(i), BASE + LDR, 4, 1 << (24 + i));
        }
        assert_eq!(nmis(&vm, 0b1010 << 24, 0xc00), [1, 3]);
        assert_eq!(nmis(&vm, 0xff << 24, 0xc00), [0, 1, 2, 3]);
        assert_eq!(nmis(&vm, 0b1_0000 << 24, 0xc00), [0; 0]);
        for (i, ldr) in [0x01_u64, 0x02, 0x11, 0x12].into_iter().enumerate() {
            vm.apic_write(vm.vcpu(i), BASE + LDR, 4, ldr << 24);
            vm.apic_write(vm.vcpu(i), BASE + DFR, 4, 0x0fff_ffff);
        }
        assert_eq!(nmis(&vm, 0x13 << 24, 0xc00), [2, 3]);
        assert_eq!(nmis(&vm, 0x01 << 24, 0xc00), [0]);
        assert_eq!(nmis(&vm, 0xf2 << 24, 0xc00), [1, 3]);
        let mmio = vm.platform().take_mmio();
        assert_eq!(mmio.len(), 12, "LDR and DFR also reach the physical APIC");
    }

    #[test]
    fn x2apic_destinations() {
        let vm = vm(4);
        for vcpu in vm.vcpus() {
            vm.apic_base_write(vcpu, BASE | 0xd00).unwrap();
        }
        let nmis = |value: u64| -> Vec<usize> {
            vm.x2apic_write(vm.vcpu(0), 0x830, value).unwrap();
            let got = (0..4).filter(|i| vm.take_nmi(*i)).collect();
            vm.vcpus().iter().for_each(|vcpu| vcpu.nmi.reset());
            got
        };
        assert_eq!(nmis((3 << 32) | 0x400), [3]);
        assert_eq!(
            nmis((0xff << 32) | 0x400),
            [0; 0],
            "no broadcast in x2APIC mode"
        );
        assert_eq!(nmis((0xffff_ffff << 32) | 0x400), [0, 1, 2, 3]);
        assert_eq!(nmis((0b101 << 32) | 0xc00), [0, 2]);
        assert_eq!(nmis((0x1_0001 << 32) | 0xc00), [0; 0], "another cluster");
        assert_eq!(nmis(0xc_0400), [1, 2, 3]);
        assert_eq!(vm.x2apic_read(vm.vcpu(0), 0x830), Ok(0xc_0400));
        assert_eq!(
            vm.x2apic_read(vm.vcpu(0), 0x80d),
            Ok(5),
            "the physical one's"
        );
        assert!(vm
            .platform()
            .wrmsrs
            .lock()
            .unwrap()
            .iter()
            .all(|(msr, _)| *msr == 0x1b));
        vm.x2apic_write(vm.vcpu(0), 0x830, (1 << 32) | 0x40f0)
            .unwrap();
        assert_eq!(
            *vm.platform().wrmsrs.lock().unwrap().last().unwrap(),
            (0x830, (1 << 32) | 0x40f0)
        );
    }

    #[test]
    fn fixed_interrupts_go_to_the_physical_apic_with_both_halves() {
        let vm = vm(2);
        vm.apic_write(vm.vcpu(0), HIGH, 4, 1 << 24);
        assert_eq!(vm.platform().take_mmio(), [], "kept until it is sent");
        vm.apic_write(vm.vcpu(0), LOW, 4, 0x40f1);
        assert_eq!(
            vm.platform().take_mmio(),
            [(HIGH, 4, 1 << 24), (LOW, 4, 0x40f1)]
        );
        assert_eq!(vm.apic_read(vm.vcpu(0), LOW, 4), 0x40f1);
        assert_eq!(vm.apic_read(vm.vcpu(0), HIGH, 4), 1 << 24);
        // The register repeats within its 16 bytes.
        assert_eq!(vm.apic_read(vm.vcpu(0), LOW + 4, 4), 0x40f1);
        vm.apic_write(vm.vcpu(0), LOW + 4, 4, 0x400);
        assert!(vm.take_nmi(1));
    }

    #[test]
    fn dangerous_modes_and_messages_stay_here() {
        let vm = vm(2);
        for low in [0xc_0200, 0xc_0300, 0xc_0700] {
            vm.apic_write(vm.vcpu(0), LOW, 4, low);
        }
        vm.apic_write(vm.vcpu(0), BASE + 0x1000, 4, 0x500);
        vm.apic_write(vm.vcpu(0), BASE, 4, 0x400);
        vm.apic_write(vm.vcpu(0), LOW, 1, 0xf0);
        assert_eq!(vm.platform().take_mmio(), []);
        vm.apic_write(vm.vcpu(0), BASE + 0x1000, 4, 0x0f0);
        assert_eq!(vm.platform().take_mmio(), [(BASE + 0x1000, 4, 0xf0)]);
    }

    #[test]
    fn init_sipi_sipi_starts_the_others() {
        let vm = vm(3);
        let send = |low| vm.apic_write(vm.vcpu(0), LOW, 4, low);
        send(0xc_4500);
        assert!(!vm.may_start(1));
        send(0xc_4610);
        assert_eq!(vm.platform().take_kicks(), [1, 2]);
        send(0xc_4610);
        assert_eq!(vm.platform().take_kicks(), [0; 0]);
        assert!(vm.may_start(0) && vm.may_start(1) && vm.may_start(2));
    }

    #[test]
    fn init_deassert_is_no_init() {
        let vm = vm(2);
        vm.apic_write(vm.vcpu(0), LOW, 4, 0xc_8500);
        vm.apic_write(vm.vcpu(0), LOW, 4, 0xc_4610);
        assert!(!vm.may_start(1));
    }

    #[test]
    fn start_resets_the_physical_apic_once() {
        let vm = vm(2);
        vm.apic_write(vm.vcpu(0), LOW, 4, 0xc_4500);
        vm.apic_write(vm.vcpu(0), LOW, 4, 0xc_4610);
        assert!(vm.may_start(1));
        let mmio = vm.platform().take_mmio();
        assert!(mmio.contains(&(BASE + 0x350, 4, LVT_MASKED)));
        assert!(mmio.contains(&(BASE + SPURIOUS, 4, 0xff)));
        assert!(vm.may_start(1));
        assert_eq!(vm.platform().take_mmio(), []);
    }

    #[test]
    fn apic_base_cannot_move() {
        let vm = vm(1);
        assert_eq!(vm.apic_base_write(vm.vcpu(0), 0xfed0_0900), Err(MsrFault));
        assert_eq!(vm.apic_base_write(vm.vcpu(0), BASE | 0x900), Ok(()));
        assert_eq!(
            vm.x2apic_write(vm.vcpu(0), 0x830, 0x400),
            Err(MsrFault),
            "xAPIC mode"
        );
    }
}
