// SPDX-License-Identifier: GPL-2.0
//! The virtual machine control block (APM vol. 2, appendix B) and its bits.

use core::mem::offset_of;
use core::mem::size_of;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;

/// Default size of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// Real mode, and 16-bit segments.
    Bits16,
    /// 32-bit segments.
    Bits32,
    /// 64-bit segments.
    Bits64,
}

/// A segment register as the VMCB stores it.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Type, S, DPL, P in bits 7:0, AVL, L, D/B, G in bits 11:8.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

impl Segment {
    /// Long mode code.
    pub const LONG: u16 = 1 << 9;
    /// 32-bit code or stack.
    pub const BIG: u16 = 1 << 10;
    /// Present.
    pub const PRESENT: u16 = 1 << 7;

    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.attributes >> 5) as u8 & 3
    }
}

/// The control area.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Control {
    /// CR read intercepts, one bit a register.
    pub cr_reads: u16,
    /// CR write intercepts.
    pub cr_writes: u16,
    /// DR read intercepts.
    pub dr_reads: u16,
    /// DR write intercepts.
    pub dr_writes: u16,
    /// Exception intercepts, one bit a vector.
    pub exceptions: u32,
    /// Intercepts for exit codes 0x60..0x7f and 0x80..0x9f.
    pub intercepts: [u32; 2],
    reserved_14: [u8; 44],
    /// I/O permission map.
    pub iopm_pa: u64,
    /// MSR permission map.
    pub msrpm_pa: u64,
    /// Added to the TSC in the guest.
    pub tsc_offset: u64,
    /// Address space identifier, not 0.
    pub asid: u32,
    /// TLB control.
    pub tlb_control: u8,
    reserved_5d: [u8; 3],
    /// Virtual interrupt control.
    pub int_ctl: u32,
    /// Virtual interrupt vector.
    pub int_vector: u32,
    /// Bit 0: interrupt shadow.
    pub int_state: u32,
    reserved_6c: [u8; 4],
    /// Exit code.
    pub exit_code: u64,
    /// Exit information 1.
    pub exit_info1: u64,
    /// Exit information 2.
    pub exit_info2: u64,
    /// Event whose delivery the exit interrupted.
    pub exit_int_info: u32,
    /// Its error code.
    pub exit_int_error: u32,
    /// Bit 0: nested paging.
    pub nested_ctl: u64,
    reserved_98: [u8; 16],
    /// Event to inject.
    pub event_inj: u32,
    /// Its error code.
    pub event_inj_error: u32,
    /// Root of the nested page tables.
    pub nested_cr3: u64,
    /// Last-branch control.
    pub lbr_ctl: u64,
    reserved_c0: [u8; 72],
    /// The save area of a SEV-ES guest (APM vol. 2, 15.35.2). Hardware without SEV-ES ignores it.
    pub vmsa_pa: u64,
    reserved_110: [u8; 752],
}

/// The state save area.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Save {
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS (VMSAVE).
    pub fs: Segment,
    /// GS (VMSAVE).
    pub gs: Segment,
    /// GDTR.
    pub gdtr: Segment,
    /// LDTR (VMSAVE).
    pub ldtr: Segment,
    /// IDTR.
    pub idtr: Segment,
    /// TR (VMSAVE).
    pub tr: Segment,
    reserved_a0: [u8; 43],
    /// Current privilege level.
    pub cpl: u8,
    reserved_cc: [u8; 4],
    /// EFER.
    pub efer: u64,
    reserved_d8: [u8; 112],
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
    reserved_180: [u8; 88],
    /// RSP.
    pub rsp: u64,
    reserved_1e0: [u8; 24],
    /// RAX.
    pub rax: u64,
    /// STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, _ESP, _EIP (VMSAVE).
    pub syscall: [u64; 8],
    /// CR2.
    pub cr2: u64,
    reserved_248: [u8; 32],
    /// Guest PAT.
    pub g_pat: u64,
    reserved_270: [u8; 0x990],
}

/// A whole VMCB page.
#[repr(C, align(4096))]
#[derive(Clone, Debug)]
pub struct Vmcb {
    /// Control area.
    pub control: Control,
    /// Save area.
    pub save: Save,
}

const _: () = {
    assert!(offset_of!(Control, intercepts) == 0x0c);
    assert!(offset_of!(Control, iopm_pa) == 0x40);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, int_ctl) == 0x60);
    assert!(offset_of!(Control, int_state) == 0x68);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, exit_int_info) == 0x88);
    assert!(offset_of!(Control, nested_ctl) == 0x90);
    assert!(offset_of!(Control, event_inj) == 0xa8);
    assert!(offset_of!(Control, nested_cr3) == 0xb0);
    assert!(offset_of!(Control, vmsa_pa) == 0x108);
    assert!(size_of::<Control>() == 0x400);
    assert!(offset_of!(Save, tr) == 0x90);
    assert!(offset_of!(Save, cpl) == 0xcb);
    assert!(offset_of!(Save, efer) == 0xd0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, syscall) == 0x200);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, g_pat) == 0x268);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(size_of::<Vmcb>() == 4096);
};

impl Save {
    /// A save area of zeros.
    pub const fn zeroed() -> Self {
        const NONE: Segment = Segment {
            selector: 0,
            attributes: 0,
            limit: 0,
            base: 0,
        };
        Self {
            es: NONE,
            cs: NONE,
            ss: NONE,
            ds: NONE,
            fs: NONE,
            gs: NONE,
            gdtr: NONE,
            ldtr: NONE,
            idtr: NONE,
            tr: NONE,
            reserved_a0: [0; 43],
            cpl: 0,
            reserved_cc: [0; 4],
            efer: 0,
            reserved_d8: [0; 112],
            cr4: 0,
            cr3: 0,
            cr0: 0,
            dr7: 0,
            dr6: 0,
            rflags: 0,
            rip: 0,
            reserved_180: [0; 88],
            rsp: 0,
            reserved_1e0: [0; 24],
            rax: 0,
            syscall: [0; 8],
            cr2: 0,
            reserved_248: [0; 32],
            g_pat: 0,
            reserved_270: [0; 0x990],
        }
    }
}

impl Save {
    /// Whether the code segment is a 64-bit one.
    pub fn long_code(&self) -> bool {
        self.efer & bits::EFER_LMA != 0 && self.cs.attributes & Segment::LONG != 0
    }

    /// Default size of addresses in the code segment.
    pub fn code_size(&self) -> CodeSize {
        if self.long_code() {
            CodeSize::Bits64
        } else if self.cs.attributes & Segment::BIG != 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }
}

impl Vmcb {
    /// A VMCB of zeros.
    pub const fn zeroed() -> Self {
        Self {
            control: Control::zeroed(),
            save: Save::zeroed(),
        }
    }
}

/// RFLAGS, CR and EFER bits by name.
pub mod bits {
    /// RFLAGS bit that is always set.
    pub const RFLAGS_ONE: u64 = 1 << 1;
    /// Trap flag.
    pub const RFLAGS_TF: u64 = 1 << 8;
    /// Interrupt flag.
    pub const RFLAGS_IF: u64 = 1 << 9;
    /// Nested task.
    pub const RFLAGS_NT: u64 = 1 << 14;
    /// Resume flag.
    pub const RFLAGS_RF: u64 = 1 << 16;
    /// Virtual 8086 mode.
    pub const RFLAGS_VM: u64 = 1 << 17;
    /// Alignment check, access control with SMAP.
    pub const RFLAGS_AC: u64 = 1 << 18;
    /// Protection enable.
    pub const CR0_PE: u64 = 1 << 0;
    /// Extension type, always set.
    pub const CR0_ET: u64 = 1 << 4;
    /// Write protect.
    pub const CR0_WP: u64 = 1 << 16;
    /// Not write through.
    pub const CR0_NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CR0_CD: u64 = 1 << 30;
    /// Paging.
    pub const CR0_PG: u64 = 1 << 31;
    /// Page size extensions.
    pub const CR4_PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const CR4_PAE: u64 = 1 << 5;
    /// Machine check enable.
    pub const CR4_MCE: u64 = 1 << 6;
    /// Global pages.
    pub const CR4_PGE: u64 = 1 << 7;
    /// User-mode instruction prevention.
    pub const CR4_UMIP: u64 = 1 << 11;
    /// 57-bit linear addresses.
    pub const CR4_LA57: u64 = 1 << 12;
    /// RDFSBASE and so on.
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    /// Process context identifiers.
    pub const CR4_PCIDE: u64 = 1 << 17;
    /// XSAVE and XCR0.
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const CR4_SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const CR4_SMAP: u64 = 1 << 21;
    /// Protection keys.
    pub const CR4_PKE: u64 = 1 << 22;
    /// SYSCALL enable.
    pub const EFER_SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const EFER_LME: u64 = 1 << 8;
    /// Long mode active.
    pub const EFER_LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const EFER_NXE: u64 = 1 << 11;
    /// SVM enable.
    pub const EFER_SVME: u64 = 1 << 12;
    /// Fast FXSAVE.
    pub const EFER_FFXSR: u64 = 1 << 14;
}

impl Control {
    /// A control area of zeros.
    pub const fn zeroed() -> Self {
        Self {
            cr_reads: 0,
            cr_writes: 0,
            dr_reads: 0,
            dr_writes: 0,
            exceptions: 0,
            intercepts: [0; 2],
            reserved_14: [0; 44],
            iopm_pa: 0,
            msrpm_pa: 0,
            tsc_offset: 0,
            asid: 0,
            tlb_control: 0,
            reserved_5d: [0; 3],
            int_ctl: 0,
            int_vector: 0,
            int_state: 0,
            reserved_6c: [0; 4],
            exit_code: 0,
            exit_info1: 0,
            exit_info2: 0,
            exit_int_info: 0,
            exit_int_error: 0,
            nested_ctl: 0,
            reserved_98: [0; 16],
            event_inj: 0,
            event_inj_error: 0,
            nested_cr3: 0,
            lbr_ctl: 0,
            reserved_c0: [0; 72],
            vmsa_pa: 0,
            reserved_110: [0; 752],
        }
    }

    /// Sets or clears the intercept of an exit code in 0x60..0xa0.
    pub fn intercept(&mut self, code: u64, on: bool) {
        let index = (code - 0x60) as usize;
        let bit = 1 << (index % 32);
        if on {
            self.intercepts[index / 32] |= bit;
        } else {
            self.intercepts[index / 32] &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn intercept_bits_follow_the_exit_codes() {
        let mut control = crate::reset::vmcb().control;
        control.intercepts = [0, 0];
        control.intercept(crate::exit::CPUID, true);
        control.intercept(crate::exit::VMMCALL, true);
        assert_eq!(control.intercepts, [1 << 18, 1 << 1]);
        control.intercept(crate::exit::CPUID, false);
        assert_eq!(control.intercepts, [0, 1 << 1]);
    }
}
