// SPDX-License-Identifier: GPL-2.0

//! The protocol core, built for no operating system, around an environment of unknown behaviour.
//!
//! Nothing here is ever executed. The program links only if no panic is reachable, and if no
//! function is called that early boot code does not have.

#![no_std]
#![no_main]

#[path = "../../../../arch-x86-sev/coco/sev/proto/mod.rs"]
mod proto;

use core::hint::black_box;
use core::ptr::NonNull;

use proto::exit_info;
use proto::ghcb::Field;
use proto::msr_protocol;
use proto::msr_protocol::MsrExchange;
use proto::msr_protocol::Termination;
use proto::Access;
use proto::CodeSize;
use proto::CpuidLeaf;
use proto::Env;
use proto::Error;
use proto::ExitCode;
use proto::Fault;
use proto::Features;
use proto::Ghcb;
use proto::GhcbPage;
use proto::Mapping;
use proto::Note;
use proto::Outcome;
use proto::Regs;
use proto::Reply;
use proto::Request;
use proto::Result;
use proto::Segment;
use proto::SnpCpuid;
use proto::Width;

extern "C" {
    /// Defined nowhere: the link fails if a panic is reachable.
    fn a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: Never reached, or the program would not link.
    unsafe { a_panic_is_reachable() }
}

/// An environment about which the compiler knows nothing.
struct Unknown {
    regs: Regs,
    page: NonNull<GhcbPage>,
}

fn any<T>(value: T) -> T {
    black_box(value)
}

fn any_result<T>(value: T) -> Result<T> {
    any(if any(true) {
        Ok(value)
    } else {
        Err(any(Error::Exception(any(Fault::GP))))
    })
}

impl Env for Unknown {
    fn regs(&self) -> &Regs {
        any(&self.regs)
    }

    fn regs_mut(&mut self) -> &mut Regs {
        any(&mut self.regs)
    }

    fn code_size(&mut self) -> Result<CodeSize> {
        any_result(any(CodeSize::Bits32))
    }

    fn peek(&mut self) -> Option<u64> {
        any(Some(any(0)))
    }

    fn fetch(&mut self, bytes: &mut [u8; 15]) -> Result<usize> {
        *bytes = any([0; 15]);
        any_result(any(15))
    }

    fn ghcb(&mut self) -> Ghcb {
        // SAFETY: Never executed.
        unsafe { Ghcb::new(any(self.page)) }
    }

    fn ghcb_gpa(&mut self) -> u64 {
        any(0)
    }

    fn ghcb_version(&self) -> u16 {
        any(1)
    }

    fn vmgexit(&mut self) {
        any(());
    }

    fn linear_bits(&self) -> u32 {
        any(48)
    }

    fn linear(&mut self, _: Segment, offset: u64, _: u64, _: Access) -> Result<u64> {
        any_result(any(offset))
    }

    fn read(&mut self, address: u64, _: Width) -> Result<u64> {
        any_result(any(address))
    }

    fn write(&mut self, address: u64, value: u64, _: Width) -> Result {
        any((address, value));
        any_result(())
    }

    fn probe(&mut self, address: u64, len: u64, _: Access) -> Result {
        any((address, len));
        any_result(())
    }

    fn is_shared_memory(&mut self, gpa: u64) -> bool {
        any(gpa);
        any(false)
    }

    fn translate(&mut self, address: u64, _: Access) -> Result<Mapping> {
        any_result(Mapping {
            gpa: any(address),
            encrypted: any(false),
        })
    }

    fn io_permitted(&mut self, port: u16, _: Width) -> bool {
        any(port);
        any(true)
    }

    fn features(&self) -> Features {
        Features {
            debug_swap: any(false),
            secure_tsc: any(false),
            secure_avic: any(false),
        }
    }

    fn dr7(&self) -> Option<u64> {
        any(Some(any(0)))
    }

    fn set_dr7(&mut self, value: u64) {
        any(value);
    }

    fn xcr0(&mut self) -> u64 {
        any(1)
    }

    fn xss(&mut self) -> Option<u64> {
        any(Some(any(0)))
    }

    fn snp_cpuid(&mut self, leaf: &mut CpuidLeaf) -> SnpCpuid {
        any(leaf);
        any(SnpCpuid::NoTable)
    }

    fn rdtsc(&mut self) -> u64 {
        any(0)
    }

    fn svsm_calling_area(&self) -> u64 {
        any(0)
    }

    fn hypercall_prepare(&mut self, ghcb: Ghcb) {
        any(ghcb);
    }

    fn hypercall_finish(&mut self, ghcb: Ghcb) -> bool {
        any(ghcb);
        any(true)
    }

    fn note(&mut self, note: Note) {
        any(note);
    }
}

impl MsrExchange for Unknown {
    fn exchange(&mut self, request: u64) -> u64 {
        any(request)
    }
}

/// All entries of the core.
fn everything(env: &mut Unknown) -> Outcome {
    let ghcb = env.ghcb();

    ghcb.invalidate();
    let _ = any(exit_info::verify(&Reply::current(ghcb)));
    let _ = any(Request::adopt(ghcb).call(env, any(ExitCode::MmioRead), any(0), any(0)));

    let saved = any(ghcb.save());
    let pending = Request::new(ghcb).commit(any(1), ExitCode::NmiComplete as u64, any(0), any(0));

    ghcb.restore(&saved);

    any(pending.reply().get(Field::EXIT_INFO_2));
    any(msr_protocol::negotiate(env));
    let _ = any(msr_protocol::cpuid(env, any(&mut CpuidLeaf::default())));
    any(msr_protocol::cpuid_admits_sev(&any(CpuidLeaf::default())));
    any(msr_protocol::hv_features(env, any(2)));
    let _ = any(msr_protocol::register_ghcb(env, any(0)));
    let _ = any(msr_protocol::ap_reset_hold(env));
    any(any(Termination::General).request());
    any(proto::exit::handle(env, any(0)))
}

/// What the test must notice.
fn provoke(array: &[u8; 32], other: &[u8; 32], index: usize) {
    let _ = (array, other, index);

    #[cfg(feature = "provoke-panic")]
    any(array[index]);

    #[cfg(feature = "provoke-compare")]
    any(array == other);

    #[cfg(feature = "provoke-relocation")]
    {
        static TABLE: [&u8; 2] = [&1, &2];

        any(TABLE.get(index));
    }
}

#[no_mangle]
extern "C" fn _start() {
    let mut env = Unknown {
        regs: any(Regs::default()),
        page: any(NonNull::dangling()),
    };

    any(everything(&mut env));
    provoke(any(&[0; 32]), any(&[0; 32]), any(0));
}
