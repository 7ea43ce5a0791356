// SPDX-License-Identifier: GPL-2.0
//! Writes of CR0, CR4 and EFER that the machine carries out (APM vol. 2, 3.1 and 14.6.1).
//!
//! They are the ones that change paging, so the nested tables may have to change with them.

use crate::vmcb::bits;
use crate::vmcb::Save;
use crate::vmcb::Segment;

/// The write raises #GP and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

fn check(good: bool) -> Result<(), GeneralProtection> {
    if good {
        Ok(())
    } else {
        Err(GeneralProtection)
    }
}

/// Writes CR0, and with it EFER.LMA.
pub fn write_cr0(save: &mut Save, value: u64) -> Result<(), GeneralProtection> {
    let set = |bit| value & bit != 0;
    check(value >> 32 == 0)?;
    check(!set(bits::CR0_PG) || set(bits::CR0_PE))?;
    check(!set(bits::CR0_NW) || set(bits::CR0_CD))?;
    let (pg, was) = (set(bits::CR0_PG), save.cr0 & bits::CR0_PG != 0);
    let lme = save.efer & bits::EFER_LME != 0;
    let long_code = save.cs.attributes & Segment::LONG != 0;
    if pg && !was && lme {
        check(save.cr4 & bits::CR4_PAE != 0 && !long_code)?;
    }
    if !pg && was {
        check(save.efer & bits::EFER_LMA == 0 || !long_code)?;
        check(save.cr4 & bits::CR4_PCIDE == 0)?;
    }
    save.cr0 = value | bits::CR0_ET;
    if pg && lme {
        save.efer |= bits::EFER_LMA;
    } else if !pg {
        save.efer &= !bits::EFER_LMA;
    }
    Ok(())
}

/// The bits of CR4 that a guest may set, by ECX of CPUID leaf 1, EBX and ECX of leaf 7. LA57 is
/// the host's alone.
pub fn cr4_defined(leaf_1_ecx: u32, leaf_7_ebx: u32, leaf_7_ecx: u32) -> u64 {
    const ALWAYS: u64 = 0x7ff;
    [
        (bits::CR4_UMIP, leaf_7_ecx, 2),
        (bits::CR4_FSGSBASE, leaf_7_ebx, 0),
        (bits::CR4_PCIDE, leaf_1_ecx, 17),
        (bits::CR4_OSXSAVE, leaf_1_ecx, 26),
        (bits::CR4_SMEP, leaf_7_ebx, 7),
        (bits::CR4_SMAP, leaf_7_ebx, 20),
        (bits::CR4_PKE, leaf_7_ecx, 3),
    ]
    .into_iter()
    .filter(|(_, register, bit)| (register >> bit) & 1 != 0)
    .fold(ALWAYS, |defined, (bit, ..)| defined | bit)
}

/// Writes CR4, of which only the bits in `defined` exist.
pub fn write_cr4(save: &mut Save, value: u64, defined: u64) -> Result<(), GeneralProtection> {
    let long = save.efer & bits::EFER_LMA != 0;
    check(value & !defined == 0)?;
    check(!long || value & bits::CR4_PAE != 0)?;
    let pcide = value & !save.cr4 & bits::CR4_PCIDE != 0;
    check(!pcide || long && save.cr3 & 0xfff == 0)?;
    save.cr4 = value;
    Ok(())
}

/// Writes EFER. LMA follows CR0. SVME stays set, as VMRUN wants it, whatever the guest writes.
pub fn write_efer(save: &mut Save, value: u64) -> Result<(), GeneralProtection> {
    const WRITABLE: u64 = bits::EFER_SCE | bits::EFER_LME | bits::EFER_NXE | bits::EFER_FFXSR;
    const KEPT: u64 = bits::EFER_LMA | bits::EFER_SVME;
    check(value & !(WRITABLE | KEPT) == 0)?;
    let lme_changes = (value ^ save.efer) & bits::EFER_LME != 0;
    check(!lme_changes || save.cr0 & bits::CR0_PG == 0)?;
    save.efer = value & WRITABLE | save.efer & KEPT;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reset;

    const PE: u64 = bits::CR0_PE;
    const PG: u64 = bits::CR0_PG | PE;
    const ET: u64 = bits::CR0_ET;
    const REFUSED: Result<(), GeneralProtection> = Err(GeneralProtection);
    const ALL: u64 = 0x0077_0fff;

    /// About to enter long mode.
    fn ready() -> Save {
        let mut save = reset::vmcb().save;
        save.cr4 = bits::CR4_PAE;
        save.efer |= bits::EFER_LME;
        save.cr0 = PE | ET;
        save
    }

    fn long() -> Save {
        let mut save = ready();
        assert_eq!(write_cr0(&mut save, PG), Ok(()));
        save.cs.attributes = 0xa9b;
        save
    }

    #[test]
    fn paging_with_lme_enters_and_leaves_long_mode() {
        let mut save = ready();
        assert_eq!(write_cr0(&mut save, PG), Ok(()));
        let long = bits::EFER_LMA | bits::EFER_LME | bits::EFER_SVME;
        assert_eq!((save.cr0, save.efer), (PG | ET, long));
        assert_eq!(write_cr0(&mut save, PE), Ok(()));
        assert_eq!((save.cr0, save.efer), (PE | ET, long & !bits::EFER_LMA));
        let mut legacy = reset::vmcb().save;
        assert_eq!(write_cr0(&mut legacy, PG), Ok(()));
        assert_eq!(legacy.efer, bits::EFER_SVME);
    }

    #[test]
    fn cr0_is_checked() {
        type Case = (fn() -> Save, fn(&mut Save), u64);
        let cases: [Case; 8] = [
            (ready, |_| (), PG | (1 << 32)),
            (ready, |_| (), bits::CR0_PG),
            (ready, |_| (), PE | bits::CR0_NW),
            (ready, |save| save.cr4 = 0, PG),
            (ready, |save| save.cs.attributes |= Segment::LONG, PG),
            (long, |_| (), PE),
            (long, |save| save.cr4 |= bits::CR4_PCIDE, PE),
            (long, |_| (), bits::CR0_PG),
        ];
        for (index, (start, change, value)) in cases.into_iter().enumerate() {
            let mut save = start();
            change(&mut save);
            let before = (save.cr0, save.efer);
            assert_eq!(write_cr0(&mut save, value), REFUSED, "case {index}");
            assert_eq!((save.cr0, save.efer), before, "case {index}");
        }
        let mut save = long();
        save.cs.attributes = 0xc9b;
        save.cr4 |= bits::CR4_PCIDE;
        assert_eq!(write_cr0(&mut save, PE), REFUSED, "PCIDE needs paging");
    }

    #[test]
    fn cr4_is_checked() {
        let mut save = long();
        assert_eq!(write_cr4(&mut save, 0x6a0, ALL), Ok(()));
        assert_eq!(save.cr4, 0x6a0);
        assert_eq!(write_cr4(&mut save, 0x680, ALL), REFUSED, "PAE");
        assert_eq!(
            write_cr4(&mut save, 0x6a0 | (1 << 12), ALL & !(1 << 12)),
            REFUSED
        );
        assert_eq!(write_cr4(&mut save, 0x6a0 | bits::CR4_PCIDE, ALL), Ok(()));
        let mut save = ready();
        assert_eq!(write_cr4(&mut save, 0x80, ALL), Ok(()));
        assert_eq!(
            write_cr4(&mut save, bits::CR4_PCIDE, ALL),
            REFUSED,
            "long mode only"
        );
        let mut save = long();
        save.cr3 |= 1;
        assert_eq!(write_cr4(&mut save, 0x20 | bits::CR4_PCIDE, ALL), REFUSED);
    }

    #[test]
    fn cr4_follows_cpuid() {
        assert_eq!(cr4_defined(0, 0, 0), 0x7ff);
        for (registers, bit) in [
            ((1 << 17, 0, 0), 17),
            ((1 << 26, 0, 0), 18),
            ((0, 1 << 0, 0), 16),
            ((0, 1 << 7, 0), 20),
            ((0, 1 << 20, 0), 21),
            ((0, 0, 1 << 2), 11),
            ((0, 0, 1 << 3), 22),
        ] {
            let (a, b, c) = registers;
            assert_eq!(cr4_defined(a, b, c), 0x7ff | (1 << bit), "{bit}");
        }
        assert_eq!(cr4_defined(!0, !0, !0) & bits::CR4_LA57, 0);
    }

    #[test]
    fn efer_keeps_what_the_guest_does_not_decide() {
        let mut save = long();
        let kept = bits::EFER_LMA | bits::EFER_SVME | bits::EFER_LME;
        assert_eq!(write_efer(&mut save, bits::EFER_LME | 1), Ok(()));
        assert_eq!(save.efer, kept | 1);
        assert_eq!(write_efer(&mut save, kept | bits::EFER_NXE), Ok(()));
        assert_eq!(save.efer, kept | bits::EFER_NXE);
        assert_eq!(write_efer(&mut save, 0), REFUSED, "LME with paging");
        assert_eq!(write_efer(&mut save, kept | (1 << 13)), REFUSED);
        assert_eq!(write_efer(&mut save, kept | (1 << 63)), REFUSED);
        let mut save = ready();
        assert_eq!(write_efer(&mut save, bits::EFER_LMA), Ok(()));
        assert_eq!(save.efer, bits::EFER_SVME, "LMA is read-only");
    }
}
