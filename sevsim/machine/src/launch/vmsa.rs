// SPDX-License-Identifier: GPL-2.0
//! The save area of a SEV-ES vCPU (APM vol. 2, appendix B, table B-4) as it is measured at launch.
//!
//! Hardware loads it at VMRUN and saves to it at VMEXIT, encrypted. The VMM fills it once, before
//! LAUNCH_UPDATE_VMSA; from then on nobody outside the guest reads or writes it.

use core::mem::offset_of;
use core::mem::size_of;

use zerocopy::FromBytes;
use zerocopy::FromZeros;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;

use crate::vmcb::Save;
use crate::vmcb::Segment;

/// Bytes of a save area: a page.
pub const LEN: usize = 4096;

/// The save area. Reserved fields are private and stay 0.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vmsa {
    /// ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR.
    pub segments: [Segment; 10],
    /// Shadow stack pointers of VMPL 0 to 3, U_CET.
    pub shadow_stacks: [u64; 5],
    reserved_0c8: [u8; 2],
    /// Virtual machine privilege level (SEV-SNP).
    pub vmpl: u8,
    /// Current privilege level.
    pub cpl: u8,
    reserved_0cc: [u8; 4],
    /// EFER.
    pub efer: u64,
    reserved_0d8: [u8; 104],
    /// XSS.
    pub xss: u64,
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// Their address masks.
    pub dr_masks: [u64; 4],
    reserved_1c0: [u8; 24],
    /// RSP.
    pub rsp: u64,
    /// S_CET, SSP, ISST_ADDR.
    pub supervisor_shadow: [u64; 3],
    /// RAX.
    pub rax: u64,
    /// STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, _ESP, _EIP.
    pub syscall: [u64; 8],
    /// CR2.
    pub cr2: u64,
    reserved_248: [u8; 32],
    /// PAT.
    pub g_pat: u64,
    /// DBGCTL and the four last-branch MSRs.
    pub last_branch: [u64; 5],
    reserved_298: [u8; 72],
    /// SPEC_CTRL.
    pub spec_ctrl: u32,
    reserved_2e4: [u8; 4],
    /// PKRU.
    pub pkru: u32,
    /// TSC_AUX.
    pub tsc_aux: u32,
    reserved_2f0: [u8; 24],
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RBX.
    pub rbx: u64,
    reserved_320: [u8; 8],
    /// RBP.
    pub rbp: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// R8 to R15.
    pub r: [u64; 8],
    reserved_380: [u8; 16],
    /// EXITINFO1, EXITINFO2, EXITINTINFO and next RIP, of the guest's last exit.
    pub exit: [u64; 4],
    /// SEV_FEATURES (SEV-SNP; 0 with KVM's SEV-ES guests unless asked for).
    pub sev_features: u64,
    /// VINTR_CTRL, EXITCODE, VIRTUAL_TOM, TLB_ID, PCPU_ID, EVENTINJ.
    pub virtual_machine: [u64; 6],
    /// XCR0.
    pub xcr0: u64,
    reserved_3f0: [u8; 16],
    /// x87 data pointer.
    pub x87_dp: u64,
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 tag word.
    pub x87_ftw: u16,
    /// x87 status word.
    pub x87_fsw: u16,
    /// x87 control word.
    pub x87_fcw: u16,
    /// x87 opcode.
    pub x87_fop: u16,
    /// x87 data and code segments.
    pub x87_segments: [u16; 2],
    /// x87 instruction pointer.
    pub x87_rip: u64,
    /// ST, XMM and the upper halves of YMM.
    pub registers: [u8; 80 + 256 + 256],
    reserved_670: [u8; 0x990],
}

// The manual's numbers.
const _: () = {
    assert!(offset_of!(Vmsa, shadow_stacks) == 0xa0);
    assert!(offset_of!(Vmsa, cpl) == 0xcb);
    assert!(offset_of!(Vmsa, efer) == 0xd0);
    assert!(offset_of!(Vmsa, xss) == 0x140);
    assert!(offset_of!(Vmsa, rip) == 0x178);
    assert!(offset_of!(Vmsa, dr) == 0x180);
    assert!(offset_of!(Vmsa, rsp) == 0x1d8);
    assert!(offset_of!(Vmsa, rax) == 0x1f8);
    assert!(offset_of!(Vmsa, cr2) == 0x240);
    assert!(offset_of!(Vmsa, g_pat) == 0x268);
    assert!(offset_of!(Vmsa, spec_ctrl) == 0x2e0);
    assert!(offset_of!(Vmsa, pkru) == 0x2e8);
    assert!(offset_of!(Vmsa, rcx) == 0x308);
    assert!(offset_of!(Vmsa, rbp) == 0x328);
    assert!(offset_of!(Vmsa, r) == 0x340);
    assert!(offset_of!(Vmsa, exit) == 0x390);
    assert!(offset_of!(Vmsa, sev_features) == 0x3b0);
    assert!(offset_of!(Vmsa, xcr0) == 0x3e8);
    assert!(offset_of!(Vmsa, mxcsr) == 0x408);
    assert!(offset_of!(Vmsa, x87_fcw) == 0x410);
    assert!(offset_of!(Vmsa, registers) == 0x420);
    assert!(size_of::<Vmsa>() == LEN);
};

/// FPU state at launch, in which KVM's two ways to create a SEV-ES guest differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fpu {
    /// As after reset (FCW 0x37f, MXCSR 0x1f80): KVM_SEV_INIT2.
    #[default]
    Reset,
    /// Zeros: KVM_SEV_ES_INIT, and every kernel before 6.10. Kept there so that measurements do not
    /// change.
    Zero,
}

impl Fpu {
    /// By its name in options.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "reset" => Some(Self::Reset),
            "zero" => Some(Self::Zero),
            _ => None,
        }
    }
}

/// General registers that a VMCB does not hold: RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
pub type Registers = [u64; 14];

impl Vmsa {
    /// The save area of a vCPU that is as `save` and `registers` tell: what KVM does in front of
    /// LAUNCH_UPDATE_VMSA (`sev_es_sync_vmsa()`), where the state was set like that of any guest.
    pub fn sync(save: &Save, registers: &Registers, fpu: Fpu) -> Self {
        let [rbx, rcx, rdx, rsi, rdi, rbp, r @ ..] = *registers;
        let mut vmsa = Self::new_zeroed();
        vmsa.segments = [
            save.es, save.cs, save.ss, save.ds, save.fs, save.gs, save.gdtr, save.ldtr, save.idtr,
            save.tr,
        ];
        vmsa.cpl = save.cpl;
        vmsa.efer = save.efer;
        vmsa.cr4 = save.cr4;
        vmsa.cr3 = save.cr3;
        vmsa.cr0 = save.cr0;
        vmsa.dr7 = save.dr7;
        vmsa.dr6 = save.dr6;
        vmsa.rflags = save.rflags;
        vmsa.rip = save.rip;
        vmsa.rsp = save.rsp;
        vmsa.rax = save.rax;
        vmsa.syscall = save.syscall;
        vmsa.cr2 = save.cr2;
        vmsa.g_pat = save.g_pat;
        (vmsa.rbx, vmsa.rcx, vmsa.rdx) = (rbx, rcx, rdx);
        (vmsa.rsi, vmsa.rdi, vmsa.rbp) = (rsi, rdi, rbp);
        vmsa.r = r;
        vmsa.xcr0 = 1;
        if fpu == Fpu::Reset {
            vmsa.mxcsr = 0x1f80;
            vmsa.x87_fcw = 0x37f;
        }
        vmsa
    }

    /// What VMRUN loads: the part that a plain VMCB holds goes to `save`, the registers besides it
    /// are returned. The rest (XCR0, FPU, debug registers, PKRU) VMRUN does not load here.
    pub fn load(&self, save: &mut Save) -> Registers {
        [
            save.es, save.cs, save.ss, save.ds, save.fs, save.gs, save.gdtr, save.ldtr, save.idtr,
            save.tr,
        ] = self.segments;
        save.cpl = self.cpl;
        save.efer = self.efer;
        save.cr4 = self.cr4;
        save.cr3 = self.cr3;
        save.cr0 = self.cr0;
        save.dr7 = self.dr7;
        save.dr6 = self.dr6;
        save.rflags = self.rflags;
        save.rip = self.rip;
        save.rsp = self.rsp;
        save.rax = self.rax;
        save.syscall = self.syscall;
        save.cr2 = self.cr2;
        save.g_pat = self.g_pat;
        let [r8, r9, r10, r11, r12, r13, r14, r15] = self.r;
        [
            self.rbx, self.rcx, self.rdx, self.rsi, self.rdi, self.rbp, r8, r9, r10, r11, r12, r13,
            r14, r15,
        ]
    }

    /// The page's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    /// The selector, attributes, limit and base of a segment, by its place in `segments`.
    #[cfg(test)]
    pub(crate) fn segment(&self, index: usize) -> Segment {
        self.segments[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::ResetVector;
    use crate::reset;

    #[test]
    fn what_is_measured_is_what_is_loaded() {
        let mut save = reset::vmcb().save;
        save.syscall = core::array::from_fn(|n| 0x100 + n as u64);
        (save.cr2, save.cr3, save.rsp, save.rax, save.cpl) = (1, 2, 3, 4, 5);
        let registers = core::array::from_fn(|n| 0x1000 + n as u64);
        let vmsa = Vmsa::sync(&save, &registers, Fpu::Reset);
        let mut loaded = Save::zeroed();
        assert_eq!(vmsa.load(&mut loaded), registers);
        assert_eq!(Vmsa::sync(&loaded, &registers, Fpu::Reset), vmsa);
        assert_eq!(format!("{loaded:x?}"), format!("{save:x?}"));
    }

    /// The bytes that are not 0, by their offsets in the manual: nothing else may be set, for
    /// whoever computes the measurement would not know of it.
    #[test]
    fn bytes_of_the_reset_state() {
        let vmsa = reset::vmsa(reset::SIGNATURE, None, Fpu::Reset);
        let mut want = [0u8; LEN];
        let mut put = |at: usize, bytes: &[u8]| want[at..at + bytes.len()].copy_from_slice(bytes);
        for (at, attributes) in [
            (0x00, 0x93u16),
            (0x10, 0x9b),
            (0x20, 0x93),
            (0x30, 0x93),
            (0x40, 0x93),
            (0x50, 0x93),
            (0x60, 0),
            (0x70, 0x82),
            (0x80, 0),
            (0x90, 0x8b),
        ] {
            put(at + 2, &attributes.to_le_bytes());
            put(at + 4, &0xffffu32.to_le_bytes());
        }
        put(0x10, &0xf000u16.to_le_bytes());
        put(0x18, &0xffff_0000u64.to_le_bytes());
        put(0x0d0, &0x1000u64.to_le_bytes());
        put(0x148, &0x40u64.to_le_bytes());
        put(0x158, &0x10u64.to_le_bytes());
        put(0x160, &0x400u64.to_le_bytes());
        put(0x168, &0xffff_0ff0u64.to_le_bytes());
        put(0x170, &2u64.to_le_bytes());
        put(0x178, &0xfff0u64.to_le_bytes());
        put(0x268, &0x0007_0406_0007_0406u64.to_le_bytes());
        put(0x310, &0x00a0_0f11u64.to_le_bytes());
        put(0x3e8, &1u64.to_le_bytes());
        put(0x408, &0x1f80u32.to_le_bytes());
        put(0x410, &0x37fu16.to_le_bytes());
        assert_eq!(vmsa.bytes(), want);
        // The older kernels' lacks the last two.
        want[0x408..0x40c].fill(0);
        want[0x410..0x412].fill(0);
        let vmsa = reset::vmsa(reset::SIGNATURE, None, Fpu::Zero);
        assert_eq!(vmsa.bytes(), want);
    }

    #[test]
    fn application_processors_differ_in_base_and_ip_only() {
        let vector = ResetVector {
            cs_base: 0x80_0000,
            ip: 0xb004,
        };
        let mut first = reset::vmsa(reset::SIGNATURE, None, Fpu::Reset);
        let other = reset::vmsa(reset::SIGNATURE, Some(vector), Fpu::Reset);
        assert_eq!(other.segment(1).selector, 0xf000);
        first.segments[1].base = 0x80_0000;
        first.rip = 0xb004;
        assert_eq!(first, other);
    }
}
