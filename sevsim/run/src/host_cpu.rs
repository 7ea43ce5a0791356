// SPDX-License-Identifier: GPL-2.0
//! Keeps QEMU on one CPU of the host, for guests with several vCPUs.
//!
//! FXRSTOR, XRSTOR and FLDENV on any CPU that QEMU emulates clear a flag of the first one
//! (`cpu_clear_ignne()`), in the word that also tells whether that CPU uses nested paging and has
//! its global interrupt flag set, and not atomically. What VMRUN or an exit on the first CPU writes
//! to that word at the same time is lost: the guest is entered without nested paging, or the host
//! goes on with it. On one CPU of the host QEMU's threads take turns, and as the flag is cleared by
//! one instruction nothing can come between. The selftest `exits_beside_fxrstor` shows it.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixListener;

use nix::sched::sched_getaffinity;
use nix::sched::sched_getcpu;
use nix::sched::sched_setaffinity;
use nix::sched::CpuSet;
use nix::unistd::Pid;

/// This thread.
const SELF: Pid = Pid::from_raw(0);

/// A CPU of the host, which no other guest takes as long as this lives.
#[derive(Debug)]
pub struct HostCpu {
    number: usize,
    /// The name in the abstract namespace goes with the process, however that ends.
    _claim: Option<UnixListener>,
}

impl HostCpu {
    /// Claims one of the CPUs that this process may use: where it runs, if no other guest with
    /// several vCPUs is there, or else the first such CPU. If there are more such guests than CPUs
    /// some share one.
    pub fn claim() -> io::Result<Self> {
        let allowed = sched_getaffinity(SELF)?;
        let here = sched_getcpu()?;
        let others = (0..CpuSet::count()).filter(|cpu| *cpu != here);
        for number in [here].into_iter().chain(others) {
            if !allowed.is_set(number).unwrap_or(false) {
                continue;
            }
            let name = SocketAddr::from_abstract_name(format!("sevsim-run/cpu/{number}"))?;
            if let Ok(claim) = UnixListener::bind_addr(&name) {
                let _claim = Some(claim);
                return Ok(Self { number, _claim });
            }
        }
        Ok(Self {
            number: here,
            _claim: None,
        })
    }

    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Calls `start` with this thread on the CPU; the processes that it starts stay there.
    pub fn keep<T>(&self, start: impl FnOnce() -> T) -> io::Result<T> {
        let before = sched_getaffinity(SELF)?;
        let mut one = CpuSet::new();
        one.set(self.number)?;
        sched_setaffinity(SELF, &one)?;
        let result = start();
        sched_setaffinity(SELF, &before)?;
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(SELF).unwrap();
        (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap())
            .collect()
    }

    #[test]
    fn no_two_guests_share_a_cpu_while_there_are_others() {
        let cpus = allowed();
        let claims: Vec<_> = cpus.iter().map(|_| HostCpu::claim().unwrap()).collect();
        let mut numbers: Vec<_> = claims
            .iter()
            .filter(|claim| claim._claim.is_some())
            .map(|claim| claim.number)
            .collect();
        numbers.sort_unstable();
        let claimed = numbers.len();
        numbers.dedup();
        // A guest that runs now has one of them perhaps.
        assert_eq!(numbers.len(), claimed);
        // One more than there are is not turned away.
        let shared = HostCpu::claim().unwrap();
        assert!(cpus.contains(&shared.number()));
        drop(claims);
    }

    #[test]
    fn what_is_started_stays_there_and_this_thread_does_not() {
        let before = allowed();
        let cpu = HostCpu::claim().unwrap();
        let inside = cpu.keep(allowed).unwrap();
        assert_eq!(inside, [cpu.number()]);
        assert_eq!(allowed(), before);
    }
}
