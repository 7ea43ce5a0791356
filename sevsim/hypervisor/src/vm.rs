// SPDX-License-Identifier: GPL-2.0
//! The interface that the exit loop calls: one VM, its vCPUs, and what to do after each exit.

use core::fmt;
use core::ops::Range;

use crate::ap::{Hold, Wake};
use crate::atomic::Word;
use crate::clock::Clock;
use crate::dev::acpi_pm::PciPorts;
use crate::dev::cmos::Cmos;
use crate::dev::fw_cfg::FwCfg;
use crate::dev::ioapic::IoApic;
use crate::dev::power::Power;
use crate::ghcb::{Ghcb, GHCB_LEN};
use crate::leak::{Leaks, SEEN};
use crate::lies::{Lies, Stage};
use crate::msr_protocol;
use crate::options::{LeakCheck, Options, MAX_VCPUS};
use crate::outcome::{Next, SetupError};
use crate::platform::{Platform, Use};
use crate::ram::Ram;
use crate::registers;
use crate::registers::ShownRegisters;
use crate::storm::Storm;
use crate::vcpu::Vcpu;

/// How many complaints about one vCPU's requests are logged: a guest must not flood the log.
const MAX_COMPLAINTS: u64 = 16;

/// One VM. What each exit reads comes first, so that it shares a page.
#[repr(C)]
pub struct Vm<P: Platform> {
    platform: P,
    options: Options,
    ram: Ram,
    power: Power,
    pci_ports: PciPorts,
    storm: Storm,
    lies: Lies,
    leaks: Leaks,
    vcpus: [Vcpu; MAX_VCPUS],
    clock: Clock,
    ap_jump_table: Word,
    cmos: Cmos,
    ioapic: IoApic,
    fw_cfg: FwCfg,
}

impl<P: Platform> Vm<P> {
    /// Sets a VM up: filters what the firmware will read of the machine.
    pub fn new(platform: P, options: Options) -> Result<Self, SetupError> {
        let vcpus = platform.vcpus();
        if vcpus == 0 || vcpus > MAX_VCPUS {
            return Err(SetupError::BadVcpus);
        }
        let (low, high) = platform.guest_ram();
        let fw_cfg = FwCfg::new(&platform, low, high, vcpus)?;
        let ram = fw_cfg.ram();
        Ok(Self {
            clock: Clock::start(&platform),
            power: Power::find(&platform),
            platform,
            options,
            lies: Lies::new(options.lies),
            leaks: Leaks::default(),
            ram,
            ap_jump_table: Word::default(),
            vcpus: core::array::from_fn(Vcpu::new),
            cmos: Cmos::new(ram, vcpus),
            fw_cfg,
            ioapic: IoApic::default(),
            pci_ports: PciPorts::default(),
            storm: Storm::default(),
        })
    }

    /// The machine below.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The options of this run.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What the host lies about.
    pub fn lies(&self) -> &Lies {
        &self.lies
    }

    /// The guest's boot has come to a stage, as far as the machine can tell. Only lies care.
    pub fn enter_stage(&self, vcpu: usize, stage: Stage) {
        self.vcpus[vcpu].own.stage.set(stage as u64);
    }

    /// A vCPU's TSC.
    pub(crate) fn tsc(&self, vcpu: &Vcpu) -> u64 {
        self.platform.tsc().wrapping_sub(vcpu.own.tsc_back.get())
    }

    /// The machine put a vCPU's TSC back.
    pub fn tsc_went_back(&self, vcpu: usize, cycles: u64) {
        self.vcpus[vcpu].own.tsc_back.add(cycles);
    }

    /// What the GHCB MSR holds when a vCPU starts (GHCB specification 2.3.1: SEV_INFO response).
    pub fn ghcb_msr_at_reset(&self) -> u64 {
        let versions = (msr_protocol::VERSION_MIN, self.options.ghcb);
        msr_protocol::sev_info(versions, self.options.cbit)
    }

    /// Handles one VMGEXIT. `cr4` is what the guest's last CR4 write trap reported.
    ///
    /// Returns the new value of the GHCB MSR and what to do.
    pub fn vmgexit(&self, vcpu: usize, ghcb_msr: u64, cr4: u64) -> (u64, Next) {
        let vcpu = &self.vcpus[vcpu];
        if ghcb_msr & msr_protocol::INFO_MASK == 0 {
            self.event_of(vcpu, ghcb_msr, cr4)
        } else {
            self.msr_request(vcpu, ghcb_msr, cr4)
        }
    }

    /// Whether a vCPU may start running from its VMSA: the first one at once, APs once their first
    /// SIPI has come. Ask on the vCPU's own CPU, and again after each kick.
    pub fn may_start(&self, vcpu: usize) -> bool {
        let vcpu = &self.vcpus[vcpu];
        let (started, first) = vcpu.ap.lock().may_start();
        if first {
            self.apic_init(vcpu);
        }
        started
    }

    /// Ends an AP reset hold: the GHCB MSR value to resume with, or `None` to sleep on. Ask on the
    /// vCPU's own CPU.
    pub fn release(&self, vcpu: usize) -> Option<u64> {
        let vcpu = &self.vcpus[vcpu];
        let (hold, wake) = vcpu.ap.lock().release(vcpu.nmi.ready())?;
        let sipi = wake == Wake::Sipi;
        if sipi {
            self.apic_init(vcpu);
        }
        Some(match hold {
            Hold::Nae(gpa) => {
                if sipi {
                    self.platform.name(Use::Ghcb, gpa, GHCB_LEN);
                    Ghcb::amend(&self.platform, gpa, 1);
                }
                // The MSR holds the GHCB's address still.
                gpa
            }
            Hold::Msr => msr_protocol::ap_reset_hold_response(sipi),
        })
    }

    /// A vCPU's registers as the host sees them: the valid ones of the GHCB that `ghcb_msr` names,
    /// else zeros. The guest's own are out of reach.
    pub fn registers(&self, ghcb_msr: u64) -> ShownRegisters {
        registers::shown(&self.platform, ghcb_msr)
    }

    /// A physical NMI that is not a kick reached the CPU of this vCPU.
    pub fn nmi_arrived(&self, vcpu: usize) {
        let vcpu = &self.vcpus[vcpu];
        if !vcpu.nmi.arrive() {
            vcpu.merged_nmis.add(1);
        }
    }

    /// Whether the guest's NMI window is open.
    pub fn nmi_open(&self, vcpu: usize) -> bool {
        self.vcpus[vcpu].nmi.open()
    }

    /// NMIs given out for injection, and those that merged with one that waited.
    pub fn nmi_counts(&self, vcpu: usize) -> (u64, u64) {
        let vcpu = &self.vcpus[vcpu];
        (vcpu.own.stats.nmis.get(), vcpu.merged_nmis.get())
    }

    /// Begins or ends a storm of NMIs: bursts per second and vCPU in bits 15:0, further NMIs of
    /// each burst in bits 19:16, seed in bits 31:20.
    pub fn set_storm(&self, word: u32) {
        self.storm.set(word);
    }

    /// Raises the NMIs of the storm that are due. Ask at each exit of a vCPU, on its own CPU.
    pub fn storm(&self, vcpu: usize) {
        if self.storm.on() {
            self.storm_now(vcpu);
        }
    }

    #[cold]
    #[inline(never)]
    fn storm_now(&self, vcpu: usize) {
        let now = self.platform.tsc();
        for target in self.vcpus() {
            let count = self.storm.due(target.index, now, self.platform.tsc_khz());
            // A vCPU that waits for its first start has no handler.
            if count == 0 || !target.ap.lock().started() {
                continue;
            }
            (0..count).for_each(|_| self.nmi_arrived(target.index));
            if target.index != vcpu {
                self.platform.kick(target.index);
            }
        }
    }

    /// Whether an NMI waits and the guest's NMI window is open.
    pub fn nmi_ready(&self, vcpu: usize) -> bool {
        self.vcpus[vcpu].nmi.ready()
    }

    /// Takes an NMI to inject at the next VMRUN. `true` closes the guest's NMI window until
    /// NMI_COMPLETE, so ask only when the VMCB can carry the event.
    pub fn take_nmi(&self, vcpu: usize) -> bool {
        let vcpu = &self.vcpus[vcpu];
        let taken = vcpu.nmi.take();
        if taken {
            vcpu.own.stats.nmis.add(1);
        }
        taken
    }

    /// Logs the statistics, one line each.
    pub fn report(&self) {
        for (name, count) in self.lies.counts() {
            self.platform
                .log(format_args!("report lie name={name} count={count}"));
        }
        self.report_hostile();
        for vcpu in self.vcpus() {
            let (index, stats) = (vcpu.index, &vcpu.own.stats);
            for (name, count) in stats.nonzero() {
                self.platform.log(format_args!(
                    "report ghcb-exit vcpu={index} name={name} count={count}"
                ));
            }
            self.platform.log(format_args!(
                "report ghcb-data vcpu={index} string-io-bytes={} mmio-bytes={} nmis={}",
                stats.string_bytes.get(),
                stats.mmio_bytes.get(),
                stats.nmis.get(),
            ));
        }
    }

    /// What was found and done on purpose. The name of the line about leaks tells whether they are
    /// an error of the run.
    fn report_hostile(&self) {
        let name = match self.options.leak_check {
            LeakCheck::On => "leak",
            LeakCheck::Report | LeakCheck::Off => "leak-seen",
        };
        self.leaks.for_each(|leak, count| {
            self.platform.log(format_args!(
                "report {name} exit={:#x} offset={:#x} bits={:#x} count={count}",
                leak.code, leak.offset, leak.bits
            ));
        });
        if self.options.hostile.is_some() {
            for vcpu in self.vcpus() {
                let (acts, steps) = vcpu.own.hostile.counts();
                self.platform.log(format_args!(
                    "report hostile vcpu={} steps={steps} acts={acts}",
                    vcpu.index
                ));
            }
        }
    }

    /// What the leak check found.
    pub(crate) fn leaks(&self) -> &Leaks {
        &self.leaks
    }

    pub(crate) fn ram(&self) -> &Ram {
        &self.ram
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn cmos(&self) -> &Cmos {
        &self.cmos
    }

    pub(crate) fn pci_ports(&self) -> &PciPorts {
        &self.pci_ports
    }

    pub(crate) fn power(&self) -> Power {
        self.power
    }

    pub(crate) fn ioapic(&self) -> &IoApic {
        &self.ioapic
    }

    pub(crate) fn fw_cfg(&self) -> &FwCfg {
        &self.fw_cfg
    }

    pub(crate) fn ap_jump_table(&self) -> &Word {
        &self.ap_jump_table
    }

    /// Addresses of what belongs to one vCPU alone, in whole pages: nobody else touches it but for
    /// the report at the end.
    pub fn own_parts(&self, vcpu: usize) -> [Range<u64>; 2] {
        fn range<T>(part: &T) -> Range<u64> {
            let part = &raw const *part;
            part as u64..part.wrapping_add(1) as u64
        }
        [range(&self.vcpus[vcpu].own), range(&SEEN[vcpu])]
    }

    /// The vCPUs that exist.
    pub(crate) fn vcpus(&self) -> &[Vcpu] {
        &self.vcpus[..self.platform.vcpus()]
    }

    #[cfg(test)]
    pub(crate) fn vcpu(&self, index: usize) -> &Vcpu {
        &self.vcpus[index]
    }

    /// Logs what is wrong with a guest's request.
    pub(crate) fn complain(&self, vcpu: &Vcpu, what: fmt::Arguments<'_>) {
        let count = vcpu.own.complaints.get();
        if count < MAX_COMPLAINTS {
            vcpu.own.complaints.set(count + 1);
            self.platform
                .log(format_args!("vcpu {}: {what}", vcpu.index));
        }
    }
}

#[cfg(test)]
mod tests;
