// SPDX-License-Identifier: GPL-2.0

//! An environment that has only what every environment must have, as the decompressor's: what it
//! cannot do is refused, and nothing is assumed to be allowed.

use std::ptr::NonNull;

use super::{
    hypervisor::{Hypervisor, SharedPage},
    machine::{CODE, GHCB_GPA, KERNEL_CS, USER_CS},
};
use crate::proto::{exit, Env, Fault, Ghcb, Outcome, Regs, Result};

/// The environment.
struct Minimal {
    regs: Regs,
    code: Vec<u8>,
    page: Box<SharedPage>,
    hypervisor: Hypervisor,
}

impl Minimal {
    fn new(code: &[u8], cs: u64) -> Minimal {
        Minimal {
            regs: Regs {
                ip: CODE,
                cs,
                ..Regs::default()
            },
            code: code.to_vec(),
            page: Box::new(SharedPage([0; 4096])),
            hypervisor: Hypervisor {
                version: 1,
                ..Hypervisor::default()
            },
        }
    }
}

impl Env for Minimal {
    fn regs(&self) -> &Regs {
        &self.regs
    }

    fn regs_mut(&mut self) -> &mut Regs {
        &mut self.regs
    }

    fn fetch(&mut self, bytes: &mut [u8; 15]) -> Result<usize> {
        bytes[..self.code.len()].copy_from_slice(&self.code);
        Ok(self.code.len())
    }

    fn ghcb(&mut self) -> Ghcb {
        // SAFETY: The page belongs to this environment.
        unsafe { Ghcb::new(NonNull::from(&mut *self.page).cast()) }
    }

    fn ghcb_gpa(&mut self) -> u64 {
        GHCB_GPA
    }

    fn ghcb_version(&self) -> u16 {
        1
    }

    fn vmgexit(&mut self) {
        self.hypervisor.vmgexit(&mut self.page, GHCB_GPA);
    }
}

#[test]
fn what_needs_no_more_works() {
    for (code, bytes) in [
        (0x72, vec![0x0f, 0xa2]),
        (0x6e, vec![0x0f, 0x31]),
        (0x87, vec![0x0f, 0x01, 0xf9]),
        (0x7b, vec![0xee]),
        (0x7b, vec![0xed]),
        (0x89, vec![0x0f, 0x09]),
        (0x27, vec![0x0f, 0x21, 0xf8]),
    ] {
        let mut env = Minimal::new(&bytes, KERNEL_CS);

        assert_eq!(
            exit::handle(&mut env, code),
            Outcome::Done { single_step: false },
            "{bytes:02x?}"
        );
        assert_eq!(env.regs.ip, CODE + bytes.len() as u64);
    }
}

#[test]
fn what_needs_more_is_refused() {
    for (code, bytes, cs, outcome) in [
        // No memory.
        (0x7b, vec![0x6e], KERNEL_CS, Outcome::Unsupported),
        (0x7b, vec![0x65, 0x6e], KERNEL_CS, Outcome::Unsupported),
        // No page tables.
        (0x400, vec![0x89, 0x07], KERNEL_CS, Outcome::Unsupported),
        (0x400, vec![0xaa], KERNEL_CS, Outcome::Unsupported),
        // No port is permitted to user mode.
        (0x7b, vec![0xee], USER_CS, Outcome::Exception(Fault::GP)),
    ] {
        let mut env = Minimal::new(&bytes, cs);
        let before = env.regs;

        assert_eq!(exit::handle(&mut env, code), outcome, "{bytes:02x?}");
        assert_eq!(env.regs, before);
        assert!(env.hypervisor.events.is_empty());
    }
}

#[test]
fn debug_register_without_a_shadow_keeps_its_value_at_reset() {
    let mut env = Minimal::new(&[0x0f, 0x23, 0xf8], KERNEL_CS);

    env.regs.ax = 1;
    assert_eq!(exit::handle(&mut env, 0x37), Outcome::Unsupported);
    env.regs.ax = 0x400;
    assert_eq!(
        exit::handle(&mut env, 0x37),
        Outcome::Done { single_step: false }
    );
}
