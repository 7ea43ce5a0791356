// SPDX-License-Identifier: GPL-2.0
//! One hostile act in a stage of the boot, at random: too early for a program in the guest that
//! could say when.

use super::event;
use super::random::Random;
use crate::lies::Stage;

/// Sequences of random numbers of a stage: of [`act`], of [`cpuid`], and of what a reply becomes.
const ACT: u64 = 0;
const CPUID: u64 = 1;
const REPLY: u64 = 2;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A #VC has this error code.
    Vc(u32),
    /// An NMI comes right behind a #VC.
    Nmi,
    /// A reply is spoiled.
    Reply,
}

/// What is to be done at the `nth` #VC or reply of a stage, if anything, and the random numbers to
/// do it with. It is due at one of the first `within`.
pub fn act(seed: u64, stage: Stage, within: u64, nth: u64) -> Option<(Act, Random)> {
    let mut random = Random::new(seed, stage as u64, ACT);
    if nth != random.below(within) + 1 {
        return None;
    }
    let act = match random.below(16) {
        0 => Act::Nmi,
        1 => Act::Vc(random.value() as u32),
        2..=6 => Act::Vc(event::code(&mut random)),
        _ => Act::Reply,
    };
    Some((act, Random::new(seed, stage as u64, REPLY)))
}

/// The register of the `nth` CPUID of a stage that is wrong, and what it holds, if this is the one
/// of the first `within`.
pub fn cpuid(seed: u64, stage: Stage, within: u64, nth: u64) -> Option<(usize, u32)> {
    let mut random = Random::new(seed, stage as u64, CPUID);
    let due = nth == random.below(within) + 1;
    due.then(|| (random.below(4) as usize, random.value() as u32))
}

/// What a reply by the MSR protocol becomes: the right function with wrong data, or anything.
pub fn msr_reply(random: &mut Random, honest: u64) -> u64 {
    match random.below(4) {
        0 => honest & !0xfff,
        1 => random.value(),
        2 => random.value() & !0xfff | random.below(0x1000),
        _ => random.value() & !0xfff | honest & 0xfff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_act_within_bounds() {
        let mut acts = Vec::new();
        for seed in 0..200 {
            let of_seed = (1..100).filter_map(|nth| act(seed, Stage::Early, 40, nth));
            let of_seed: Vec<_> = of_seed.map(|(act, _)| act).collect();
            assert_eq!(of_seed.len(), 1);
            acts.extend(of_seed);
        }
        assert!(acts.contains(&Act::Nmi) && acts.contains(&Act::Reply));
        assert!(acts.iter().any(|act| matches!(act, Act::Vc(0x400))));
        let first = |stage| (1..41).find(|nth| act(7, stage, 40, *nth).is_some());
        assert_ne!(first(Stage::Early), first(Stage::Stage2), "by stage");
    }

    #[test]
    fn replies_and_registers_are_wrong() {
        let mut random = Random::new(1, 2, 3);
        let replies: Vec<_> = (0..100).map(|_| msr_reply(&mut random, 0x5005)).collect();
        assert!(replies.contains(&0x5000));
        assert!(replies.iter().any(|reply| reply & 0xfff == 5));
        assert!(replies.iter().any(|reply| reply & 0xfff > 5));
        let wrong = (1..100).filter_map(|nth| cpuid(3, Stage::Stage1, 8, nth));
        assert_eq!(wrong.count(), 1);
    }
}
