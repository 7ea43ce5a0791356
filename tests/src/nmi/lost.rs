// SPDX-License-Identifier: GPL-2.0
//! NMIs that a guest was given, and those whose end it told the host.
//!
//! The handler's first act is NMI_COMPLETE, so that the two numbers differ if an NMI did not reach
//! its handler, or never came to an end for the host. The kernel's own count is another thing: two
//! NMIs that come while one is handled are one for it.

use std::fs;

use crate::runner::Places;

/// What sevsim's report says of all vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    injected: u64,
    complete: u64,
}

/// The number behind `key=`.
fn number(line: &str, key: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// The counts of each vCPU, as far as there are any.
fn counts(log: &str) -> Vec<Counts> {
    let mut counts: Vec<Counts> = Vec::new();
    for line in log.lines() {
        let Some(vcpu) = number(line, "vcpu").and_then(|vcpu| usize::try_from(vcpu).ok()) else {
            continue;
        };
        let (injected, complete) = if line.contains("report ghcb-data ") {
            (number(line, "nmis"), None)
        } else if line.contains("report ghcb-exit ") && line.contains(" name=nmi-complete ") {
            (None, number(line, "count"))
        } else {
            continue;
        };
        if counts.len() <= vcpu {
            counts.resize(vcpu + 1, Counts::default());
        }
        counts[vcpu].injected += injected.unwrap_or(0);
        counts[vcpu].complete += complete.unwrap_or(0);
    }
    counts
}

/// A line that says so if no NMI was lost on any vCPU, and there were some.
fn verdict(log: &str) -> Result<String, String> {
    let counts = counts(log);
    for (vcpu, of) in counts.iter().enumerate() {
        if of.injected != of.complete {
            return Err(format!(
                "vCPU {vcpu} was given {} NMIs, and completed {}",
                of.injected, of.complete
            ));
        }
    }
    match counts.iter().map(|of| of.injected).sum::<u64>() {
        0 => Err("sevsim's log tells of no NMI".into()),
        sum => Ok(format!("0 of {sum} lost")),
    }
}

/// The same of the run whose logs are kept by this name.
pub fn none(places: &Places, name: &str) -> Result<String, String> {
    let path = places.logs(name).join("sevsim.log");
    let log = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    verdict(&String::from_utf8_lossy(&log))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "sevsim: report ghcb-exit vcpu=0 name=nmi-complete count=410\n\
        sevsim: report ghcb-exit vcpu=0 name=msr-protocol count=39\n\
        sevsim: report ghcb-data vcpu=0 string-io-bytes=4832 mmio-bytes=10644 nmis=410\n\
        sevsim: report ghcb-exit vcpu=1 name=nmi-complete count=20\n\
        sevsim: report ghcb-data vcpu=1 string-io-bytes=0 mmio-bytes=0 nmis=20\n";

    #[test]
    fn all_that_came_were_completed() {
        assert_eq!(verdict(LOG), Ok("0 of 430 lost".into()));
    }

    #[test]
    fn a_lost_one_is_seen_even_if_the_sums_agree() {
        let bad = LOG
            .replace("count=20", "count=19")
            .replace("count=410", "count=411");
        assert!(verdict(&bad).is_err());
        let bad = LOG.replace("name=nmi-complete count=20", "name=other count=20");
        let why = verdict(&bad).unwrap_err();
        assert_eq!(why, "vCPU 1 was given 20 NMIs, and completed 0");
    }

    #[test]
    fn no_nmi_is_no_proof() {
        assert!(verdict("").is_err());
        assert!(verdict("sevsim: report ghcb-data vcpu=0 nmis=0").is_err());
    }
}
