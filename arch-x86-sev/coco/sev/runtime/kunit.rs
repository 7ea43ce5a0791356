// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of what only exists in the kernel: segments, page tables, accesses that may fault.

use kernel::prelude::*;

#[kunit_tests(amd_sev_es_rust)]
mod tests {
    use core::ptr::from_ref;

    use kernel::{
        bindings,
        interrupt::local_interrupt_disable, //
    };

    use crate::{
        memory::{self, in_words},
        proto::{
            result::{PF_PRESENT, PF_WRITE},
            Access,
            Error,
            Fault,
            Regs,
            Width, //
        },
        segment::{self, Descriptor}, //
    };

    const DATA: u32 = segment::PRESENT | segment::NOT_SYSTEM;
    const CODE: u32 = DATA | segment::CODE;

    /// A descriptor with these rights, and with a limit of less than 64 KiB units.
    fn with(rights: u32, limit: u16) -> Descriptor {
        Descriptor(u64::from(rights) << 32 | u64::from(limit))
    }

    /// A page of its own in .rodata, and one in .data.
    #[repr(align(4096))]
    struct Page([u64; 512]);

    static READ_ONLY: Page = Page([0x0123_4567_89ab_cdef; 512]);
    static mut WRITABLE: Page = Page([0x11; 512]);

    /// In user space's half, where no thread of the kernel has anything mapped.
    const UNMAPPED: u64 = 0x1000;

    fn read_only() -> u64 {
        from_ref(&READ_ONLY.0) as u64
    }

    fn writable() -> u64 {
        (&raw mut WRITABLE).cast::<u64>() as u64
    }

    #[test]
    fn segment_rights() {
        // Rights, read, write.
        for (rights, read, write) in [
            (DATA, true, false),
            (DATA | segment::WRITABLE, true, true),
            (CODE, false, false),
            (CODE | segment::READABLE, true, false),
            (segment::NOT_SYSTEM | segment::WRITABLE, false, false),
            (segment::PRESENT | segment::WRITABLE, false, false),
        ] {
            assert_eq!(with(rights, 0).allows(Access::Read), read);
            assert_eq!(with(rights, 0).allows(Access::Write), write);
        }
    }

    #[test]
    fn segment_limits() {
        const DOWN: u32 = DATA | segment::EXPAND_DOWN;
        const BIG_DOWN: u32 = DOWN | segment::BIG;
        /// The limit's upper bits, and its unit.
        const ALL: u32 = DATA | 0xf_0000 | segment::PAGES;

        // Rights, limit, first byte, last byte.
        for (rights, limit, first, last, ok) in [
            (DATA, 0xfff, 0xffc, 0xfff, true),
            (DATA, 0xfff, 0xffd, 0x1000, false),
            (DATA | 0x1_0000, 0xfff, 0x1_0ffc, 0x1_0fff, true),
            (DATA | 0x1_0000, 0xfff, 0x1_0ffd, 0x1_1000, false),
            (DATA | segment::PAGES, 0, 0xffc, 0xfff, true),
            (DATA | segment::PAGES, 0, 0xffd, 0x1000, false),
            (ALL, 0xffff, 0xffff_fffc, 0xffff_ffff, true),
            (ALL, 0xffff, 0xffff_fffd, 0x1_0000_0000, false),
            (DOWN, 0xfff, 0xfff, 0x1002, false),
            (DOWN, 0xfff, 0x1000, 0x1003, true),
            (DOWN, 0xfff, 0xfffc, 0xffff, true),
            (DOWN, 0xfff, 0xfffd, 0x1_0000, false),
            (BIG_DOWN, 0xfff, 0xfffd, 0x1_0000, true),
            // The bit is "conforming" in a code segment.
            (CODE | segment::EXPAND_DOWN, 0xfff, 0, 0xfff, true),
        ] {
            assert_eq!(with(rights, limit).contains(first, last), ok);
        }
    }

    #[test]
    fn segment_bases() {
        assert_eq!(Descriptor(0x1200_f334_5678_ffff).base(), 0x1234_5678);
        assert_eq!(
            Descriptor(!0x1200_0034_5678_0000).base(),
            !0x1234_5678 & 0xffff_ffff
        );
    }

    #[test]
    fn segment_code_sizes() {
        use crate::proto::CodeSize::{Bits16, Bits32, Bits64};

        for (rights, size) in [
            (CODE, Ok(Bits16)),
            (CODE | segment::BIG, Ok(Bits32)),
            (CODE | segment::LONG, Ok(Bits64)),
            (
                CODE | segment::LONG | segment::BIG,
                Err(Error::DecodeFailed),
            ),
            (DATA | segment::BIG, Err(Error::DecodeFailed)),
            (segment::PRESENT | segment::CODE, Err(Error::DecodeFailed)),
        ] {
            assert_eq!(with(rights, 0).code_size(), size);
        }
    }

    #[test]
    fn segment_descriptors() {
        let _interrupts = local_interrupt_disable();

        // Behind the end of the GDT, and in an LDT that a thread of the kernel does not have.
        assert_eq!(Descriptor::of(0xfff8), None);
        assert_eq!(Descriptor::of(7), None);

        let data = Descriptor::of(bindings::__USER_DS as u16);

        assert!(data.is_some_and(|data| data.allows(Access::Write) && data.base() == 0));
        assert_eq!(data.map(Descriptor::limit), Some(u32::MAX));

        let code = Descriptor::of(bindings::__USER_CS as u16);

        assert!(code.is_some_and(|code| code.allows(Access::Read) && !code.allows(Access::Write)));
        assert_eq!(
            code.map(Descriptor::code_size),
            Some(Ok(crate::proto::CodeSize::Bits64))
        );
    }

    #[test]
    fn memory_reads() {
        for (width, value) in [
            (Width::B1, 0xef),
            (Width::B2, 0xcdef),
            (Width::B4, 0x89ab_cdef),
            (Width::B8, 0x0123_4567_89ab_cdef),
        ] {
            assert_eq!(memory::get(read_only(), width), Ok(value));
            assert_eq!(memory::get(UNMAPPED, width), Err(()));
        }
    }

    #[test]
    fn memory_writes() {
        let address = writable() + 8;

        // SAFETY: The page is used by this test only.
        unsafe {
            assert_eq!(memory::put(address, u64::MAX, Width::B8), Ok(()));
            assert_eq!(memory::put(address, 0, Width::B4), Ok(()));
            assert_eq!(memory::put(address, 0x5555, Width::B2), Ok(()));
            assert_eq!(memory::put(address, 0xaa, Width::B1), Ok(()));
            assert_eq!(memory::put(UNMAPPED, 0, Width::B8), Err(()));
        }
        assert_eq!(memory::get(address, Width::B8), Ok(0xffff_ffff_0000_55aa));
    }

    #[test]
    fn page_walks() {
        let regs = Regs::default();
        let address = writable() + 0x123;
        // SAFETY: Computes an address.
        let gpa = unsafe { bindings::sev_es_shim_pa_nodebug(address as *const _) } as u64;

        for access in [Access::Read, Access::Write] {
            let mapping = memory::translate(&regs, address, access);

            assert!(mapping.is_ok_and(|mapping| mapping.gpa == gpa));
            assert_eq!(
                memory::translate(&regs, UNMAPPED, access).err(),
                Some(memory::page_fault(&regs, UNMAPPED, access, 0))
            );
        }
        assert!(memory::translate(&regs, read_only(), Access::Read).is_ok());
        assert!(memory::is_ram(gpa));
    }

    #[test]
    fn page_faults() {
        let kernel = Regs::default();
        let user = Regs {
            cs: bindings::__USER_CS.into(),
            ..kernel
        };
        let fault = |address, code| Error::Exception(Fault::page(address, code));

        assert_eq!(
            memory::access_fault(&kernel, UNMAPPED, 8, Access::Write),
            fault(UNMAPPED, PF_WRITE)
        );
        // User code faults on memory of the kernel, which is there.
        assert_eq!(
            memory::access_fault(&user, writable(), 8, Access::Read),
            memory::page_fault(&user, writable(), Access::Read, PF_PRESENT)
        );
        assert_eq!(
            memory::page_fault(&kernel, 1, Access::Write, PF_PRESENT),
            fault(1, PF_PRESENT | PF_WRITE)
        );
        assert!(memory::probe(&kernel, writable(), Access::Write).is_ok());
        assert!(memory::probe(&kernel, writable(), Access::Read).is_ok());
        assert!(memory::probe(&user, writable(), Access::Write).is_err());
        assert!(memory::probe(&kernel, UNMAPPED, Access::Write).is_err());
        assert!(memory::probe(&kernel, UNMAPPED, Access::Read).is_ok());
    }

    #[test]
    fn bulk_copies() {
        // Eight bytes at a time, then elements.
        let mut units = 0;
        let result = in_words(20, Width::B2, |_, _| {
            units += 1;
            Ok(())
        });

        assert_eq!(result, (20, Ok(())));
        assert_eq!(units, 4);

        // What fails in one piece is retried in elements, up to the one that fails.
        let result = in_words(32, Width::B4, |done, width| {
            if done as u64 + width.bytes() > 13 {
                Err(Error::Unsupported)
            } else {
                Ok(())
            }
        });

        assert_eq!(result, (12, Err(Error::Unsupported)));
    }
}
