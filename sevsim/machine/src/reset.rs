// SPDX-License-Identifier: GPL-2.0
//! State of a virtual CPU at launch (APM vol. 2, 14.1.3 and 15.35).
//!
//! SEV-ES hardware takes it from the VMSA, as the VMM had it measured. The values are those of KVM
//! and QEMU, which differ from the processor's own after reset in three: caches are on, CR4.MCE is
//! the host's, and EFER.SVME is set. What the VMSA holds besides - FPU, XCR0, PKRU, XSS, TSC_AUX,
//! DR0 to DR3 - VMRUN does not load here: it is the physical CPU's, which no firmware and no host
//! has changed since reset (FCW 0x37f, MXCSR 0x1f80, XCR0 1, else 0).

use crate::firmware::ResetVector;
use crate::launch::vmsa::Fpu;
use crate::launch::vmsa::Vmsa;
use crate::vmcb::bits;
use crate::vmcb::Segment;
use crate::vmcb::Vmcb;

/// EAX of CPUID leaf 1, which a processor has in EDX after reset: family 25, model 1, stepping 1,
/// those of QEMU's EPYC-Milan.
pub const SIGNATURE: u32 = 0x00a0_0f11;

/// A VMCB whose guest is as after power-on: real mode at 4 GiB - 16.
pub fn vmcb() -> Vmcb {
    let mut vmcb = Vmcb::zeroed();
    let save = &mut vmcb.save;
    let data = Segment {
        selector: 0,
        attributes: 0x93,
        limit: 0xffff,
        base: 0,
    };
    let table = Segment {
        selector: 0,
        attributes: 0x82,
        limit: 0xffff,
        base: 0,
    };
    for segment in [
        &mut save.es,
        &mut save.ss,
        &mut save.ds,
        &mut save.fs,
        &mut save.gs,
    ] {
        *segment = data;
    }
    save.cs = Segment {
        selector: 0xf000,
        attributes: 0x9b,
        limit: 0xffff,
        base: 0xffff_0000,
    };
    save.gdtr = Segment {
        limit: 0xffff,
        ..Segment::default()
    };
    save.idtr = Segment {
        limit: 0xffff,
        ..Segment::default()
    };
    save.ldtr = table;
    save.tr = Segment {
        attributes: 0x8b,
        ..table
    };
    // VMRUN refuses a guest without SVME.
    save.efer = bits::EFER_SVME;
    save.cr0 = bits::CR0_ET;
    save.cr4 = bits::CR4_MCE;
    save.dr6 = 0xffff_0ff0;
    save.dr7 = 0x400;
    save.rflags = bits::RFLAGS_ONE;
    save.rip = 0xfff0;
    save.g_pat = 0x0007_0406_0007_0406;
    vmcb
}

/// Lets the guest start at `vector` instead, as the firmware asks for its application processors.
/// The selector stays that of the reset state, as in QEMU, and does not belong to the base.
fn start_at(vmcb: &mut Vmcb, vector: ResetVector) {
    vmcb.save.cs.base = u64::from(vector.cs_base);
    vmcb.save.rip = u64::from(vector.ip);
}

/// The save area at launch of a vCPU with processor `signature`: the first one, or with a `vector`
/// an application processor.
pub fn vmsa(signature: u32, vector: Option<ResetVector>, fpu: Fpu) -> Vmsa {
    let mut vmcb = vmcb();
    if let Some(vector) = vector {
        start_at(&mut vmcb, vector);
    }
    let mut registers = [0; 14];
    registers[2] = u64::from(signature);
    Vmsa::sync(&vmcb.save, &registers, fpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tools that compute a launch measurement for QEMU put into the VMSA.
    #[test]
    fn state_is_what_is_measured() {
        let save = vmcb().save;
        for (name, value, want) in [
            ("efer", save.efer, 0x1000),
            ("cr0", save.cr0, 0x10),
            ("cr2", save.cr2, 0),
            ("cr3", save.cr3, 0),
            ("cr4", save.cr4, 0x40),
            ("dr6", save.dr6, 0xffff_0ff0),
            ("dr7", save.dr7, 0x400),
            ("rflags", save.rflags, 2),
            ("rip", save.rip, 0xfff0),
            ("rsp", save.rsp, 0),
            ("rax", save.rax, 0),
            ("g_pat", save.g_pat, 0x0007_0406_0007_0406),
            ("cpl", save.cpl.into(), 0),
        ] {
            assert_eq!(value, want, "{name}");
        }
        assert_eq!(save.syscall, [0; 8]);
        for (name, got, selector, attributes, base) in [
            ("cs", save.cs, 0xf000, 0x9b, 0xffff_0000),
            ("ds", save.ds, 0, 0x93, 0),
            ("es", save.es, 0, 0x93, 0),
            ("fs", save.fs, 0, 0x93, 0),
            ("gs", save.gs, 0, 0x93, 0),
            ("ss", save.ss, 0, 0x93, 0),
            ("ldtr", save.ldtr, 0, 0x82, 0),
            ("tr", save.tr, 0, 0x8b, 0),
            ("gdtr", save.gdtr, 0, 0, 0),
            ("idtr", save.idtr, 0, 0, 0),
        ] {
            let want = Segment {
                selector,
                attributes,
                limit: 0xffff,
                base,
            };
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn application_processors_start_where_the_firmware_says() {
        let mut vmcb = vmcb();
        start_at(
            &mut vmcb,
            ResetVector {
                cs_base: 0x80_0000,
                ip: 0xb004,
            },
        );
        assert_eq!(vmcb.save.cs.base + vmcb.save.rip, 0x80_b004);
    }
}
