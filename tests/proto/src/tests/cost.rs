// SPDX-License-Identifier: GPL-2.0

//! How many instructions the core needs for the exits that are most frequent.
//!
//! A child process handles each exit once with an environment that does nothing; its instructions
//! are counted by single-stepping it. The numbers depend on the compiler, so that the limits leave
//! room; they are there to notice when a hot path grows by accident.

use std::{hint::black_box, ptr::NonNull};

use super::hypervisor::{field, SharedPage};
use crate::proto::{
    exit, insn::MAX_INSN_LEN, Access, Env, Ghcb, Mapping, Outcome, Regs, Result, Width,
};

/// An environment whose methods cost next to nothing.
struct Idle {
    regs: Regs,
    page: Box<SharedPage>,
    code: u64,
}

impl Env for Idle {
    #[inline(always)]
    fn regs(&self) -> &Regs {
        &self.regs
    }

    #[inline(always)]
    fn regs_mut(&mut self) -> &mut Regs {
        &mut self.regs
    }

    #[inline(always)]
    fn peek(&mut self) -> Option<u64> {
        Some(self.code)
    }

    fn fetch(&mut self, _: &mut [u8; MAX_INSN_LEN]) -> Result<usize> {
        Ok(0)
    }

    #[inline(always)]
    fn ghcb(&mut self) -> Ghcb {
        // SAFETY: The page belongs to this environment.
        unsafe { Ghcb::new(NonNull::from(&mut *self.page).cast()) }
    }

    #[inline(always)]
    fn ghcb_gpa(&mut self) -> u64 {
        0x1000
    }

    #[inline(always)]
    fn ghcb_version(&self) -> u16 {
        2
    }

    /// All fields become valid; the result is success.
    #[inline(always)]
    fn vmgexit(&mut self) {
        let page = black_box(&mut *self.page);

        page.0[field::VALID..field::VALID + 16].fill(0xff);
        page.0[field::INFO_1..field::INFO_1 + 8].fill(0);
    }

    #[inline(always)]
    fn read(&mut self, _: u64, _: Width) -> Result<u64> {
        Ok(7)
    }

    #[inline(always)]
    fn translate(&mut self, address: u64, _: Access) -> Result<Mapping> {
        Ok(Mapping {
            gpa: address,
            encrypted: false,
        })
    }
}

/// Name, exit code, bytes, and the limit.
const EXITS: [(&str, u64, u64, u64); 9] = [
    ("wrmsr", 0x7c, 0x300f, 200),
    ("rdmsr", 0x7c, 0x320f, 230),
    ("cpuid", 0x72, 0xa20f, 250),
    ("out %al,(%dx)", 0x7b, 0xee, 230),
    ("in (%dx),%al", 0x7b, 0xec, 240),
    ("outsb", 0x7b, 0x6e, 700),
    // mov %esi,-0xa03d00(%rdi): how the kernel writes a register of the APIC.
    ("mov %esi,mmio", 0x400, 0xff5f_c300_b789, 460),
    // mov -0xa03d00(%rdi),%eax
    ("mov mmio,%eax", 0x400, 0xff5f_c300_878b, 480),
    ("rdtsc", 0x6e, 0x310f, 220),
];

/// Reached before and after each exit.
#[inline(never)]
extern "C" fn marker() {
    black_box(());
}

/// Handles each exit once, between two markers.
fn child() {
    for (_, code, bytes, _) in EXITS {
        let mut env = Idle {
            regs: Regs {
                ip: 0xffff_ffff_8100_0000,
                di: 0xffff_ffff_ff60_3d00,
                si: 0xffff_8880_0000_1000,
                cx: 0x1b,
                cs: 0x10,
                ..Regs::default()
            },
            page: Box::new(SharedPage([0; 4096])),
            code: bytes,
        };

        // Once for the caches of the C library's dynamic linker and the like.
        assert!(matches!(exit::handle(&mut env, code), Outcome::Done { .. }));
        marker();
        let outcome = exit::handle(&mut env, black_box(code));
        marker();
        assert!(matches!(outcome, Outcome::Done { .. }));
    }
}

/// Runs `child` in a process of its own and counts its instructions between markers. `None` if this
/// system does not let processes be traced.
fn count() -> Option<Vec<u64>> {
    // SAFETY: The child calls only what may be called in a copy of a process with several threads,
    // apart from allocations, which it does not share a lock with: it ends by `_exit`.
    let pid = unsafe { libc::fork() };

    assert!(pid >= 0, "fork");
    if pid == 0 {
        // SAFETY: As above.
        unsafe {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                libc::_exit(77);
            }
            libc::raise(libc::SIGSTOP);
            child();
            libc::_exit(0);
        }
    }

    let wait = || {
        let mut status = 0;

        // SAFETY: `pid` is a child of this process.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        status
    };
    let mut status = wait();

    if libc::WIFEXITED(status) {
        assert_eq!(libc::WEXITSTATUS(status), 77);
        return None;
    }

    let mut counts = vec![];
    let mut running = None;

    while libc::WIFSTOPPED(status) {
        // SAFETY: The child is stopped; `regs` is what the request fills in.
        let regs = unsafe {
            let mut regs: libc::user_regs_struct = std::mem::zeroed();

            libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &mut regs);
            regs
        };

        if regs.rip == marker as usize as u64 {
            running = match running {
                None => Some(0),
                Some(count) => {
                    counts.push(count);
                    None
                }
            };
        } else if let Some(count) = &mut running {
            *count += 1;
        }
        // SAFETY: The child is stopped.
        unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, pid, 0, 0) };
        status = wait();
    }
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "{status:#x}"
    );
    Some(counts)
}

#[test]
fn hot_paths_are_short() {
    let Some(counts) = count() else {
        println!("processes cannot be traced here: nothing counted");
        return;
    };

    let mut within = true;

    assert_eq!(counts.len(), EXITS.len());
    for ((name, _, _, limit), count) in EXITS.into_iter().zip(counts) {
        println!("{name:16} {count:4} instructions (limit {limit})");
        within &= count > 20 && count <= limit;
    }
    assert!(within, "a count is not what it should be");
}
