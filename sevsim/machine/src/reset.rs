// SPDX-License-Identifier: GPL-2.0
//! State of a virtual CPU at launch (APM vol. 2, 14.1.3 and 15.35).

use crate::firmware::ResetVector;
use crate::vmcb::bits;
use crate::vmcb::Segment;
use crate::vmcb::Vmcb;

/// EDX after reset: family 25, model 1, stepping 1, the processor that QEMU's EPYC-Milan names.
pub const SIGNATURE: u64 = 0x00a0_0f11;

/// A VMCB whose guest is as after power-on: real mode at 4 GiB - 16, caches off.
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
        attributes: 0x83,
        ..table
    };
    // SVME stays set underneath: without it VMRUN and VMMCALL would be refused.
    save.efer = bits::EFER_SVME;
    save.cr0 = bits::CR0_ET | bits::CR0_CD | bits::CR0_NW;
    save.dr6 = 0xffff_0ff0;
    save.dr7 = 0x400;
    save.rflags = bits::RFLAGS_ONE;
    save.rip = 0xfff0;
    save.g_pat = 0x0007_0406_0007_0406;
    vmcb
}

/// Lets the guest start at `vector` instead, as the firmware asks for its application processors.
pub fn start_at(vmcb: &mut Vmcb, vector: ResetVector) {
    vmcb.save.cs.base = u64::from(vector.cs_base);
    vmcb.save.cs.selector = (vector.cs_base >> 4) as u16;
    vmcb.save.rip = u64::from(vector.ip);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_fetches_below_four_gigabytes() {
        let save = vmcb().save;
        assert_eq!(save.cs.base + save.rip, 0xffff_fff0);
        assert_eq!(save.cr0 & bits::CR0_PG, 0);
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
