// SPDX-License-Identifier: GPL-2.0
//! Keeps QEMU on one CPU of the host, for guests with several vCPUs.
//!
//! FXRSTOR, XRSTOR and FLDENV on any CPU that QEMU emulates clear a flag of the first one
//! (`cpu_clear_ignne()`), in the word that also tells whether that CPU uses nested paging and has
//! its global interrupt flag set, and not atomically. What VMRUN or an exit on the first CPU writes
//! to that word at the same time is lost: the guest is entered without nested paging, or the host
//! goes on with it. On one CPU of the host QEMU's threads take turns, and as x86 compilers clear
//! the flag by one instruction nothing can come between. The selftest `exits_beside_fxrstor` shows
//! it.

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

/// How many guests share a CPU at most, before it is not counted any more.
const ROUNDS: usize = 64;

/// A CPU of the host, claimed for a guest with several vCPUs as long as this lives.
#[derive(Debug)]
pub struct HostCpu {
    number: usize,
    /// The name in the abstract namespace goes with the process, however that ends.
    _claim: Option<UnixListener>,
}

impl HostCpu {
    /// Claims one of the CPUs that this process may use, of those that have the fewest claims the
    /// one where it runs, or else the first. Claims under different names do not count.
    pub fn claim(name: &str) -> io::Result<Self> {
        let allowed = sched_getaffinity(SELF)?;
        let here = sched_getcpu()?;
        let others = (0..CpuSet::count()).filter(|cpu| *cpu != here);
        let cpus: Vec<usize> = [here]
            .into_iter()
            .chain(others)
            .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .collect();
        for round in 0..ROUNDS {
            for &number in &cpus {
                let name = format!("{name}/cpu/{number}/{round}");
                let name = SocketAddr::from_abstract_name(name)?;
                if let Ok(claim) = UnixListener::bind_addr(&name) {
                    let _claim = Some(claim);
                    return Ok(Self { number, _claim });
                }
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
        // What was started must not be lost for this; this program needs no second CPU.
        let _ = sched_setaffinity(SELF, &before);
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
    fn guests_are_spread_evenly() {
        let name = format!("sevsim-test-{}", std::process::id());
        let cpus = allowed();
        let claims: Vec<_> = (0..3 * cpus.len())
            .map(|_| HostCpu::claim(&name).unwrap())
            .collect();
        for round in claims.chunks(cpus.len()) {
            let mut numbers: Vec<_> = round.iter().map(HostCpu::number).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, cpus);
        }
        let freed = claims[0].number();
        let mut claims = claims;
        claims.remove(0);
        assert_eq!(HostCpu::claim(&name).unwrap().number(), freed);
    }

    #[test]
    fn what_is_started_stays_there_and_this_thread_does_not() {
        let before = allowed();
        let cpu = HostCpu::claim("sevsim-test-keep").unwrap();
        let inside = cpu.keep(allowed).unwrap();
        assert_eq!(inside, [cpu.number()]);
        assert_eq!(allowed(), before);
    }
}
