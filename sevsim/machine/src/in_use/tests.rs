// SPDX-License-Identifier: GPL-2.0
//! No in-use page is aligned, wherever the memory starts; and what happens if one is.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::rmp::Rmp;
use super::rmp::RmpViolation;
use super::rmp::Size;
use super::*;

const SIZES: [Size; 3] = [Size::Small, Size::Large, Size::Huge];

/// Each page of a 2 MiB region as the place where the next pair starts.
#[test]
fn never_aligned_for_any_start() {
    for offset in 0..2 * REGION / PAGE {
        let start = 0x4000_0000 + offset * PAGE;
        let mut pool = Pool::new(start, start + 4 * REGION);
        for _ in 0..3 {
            let page = pool.in_use().unwrap().address();
            assert_eq!(page % PAGE, 0);
            assert_ne!(page % REGION, 0, "{start:#x}");
        }
    }
}

/// Plain single pages meet the aligned one: what KVM did before.
#[test]
fn a_plain_allocator_does_hit_the_erratum() {
    let start = 0x4000_0000 - PAGE;
    let mut pool = Pool::new(start, start + REGION);
    pool.take(PAGE, PAGE).unwrap();
    let vmcb = pool.take(PAGE, PAGE).unwrap();
    let somebody_elses = pool.take(PAGE, PAGE).unwrap();
    let mut rmp = Rmp::default();
    rmp.vmrun(vmcb);
    // The thread's steps 1 to 4: another page of the region, through the direct map.
    assert_eq!(rmp.write(somebody_elses, Size::Small), Ok(()));
    assert_eq!(rmp.write(somebody_elses, Size::Large), Err(RmpViolation));
    assert_eq!(rmp.write(somebody_elses, Size::Huge), Err(RmpViolation));
    rmp.vmexit(vmcb);
    assert_eq!(rmp.write(somebody_elses, Size::Large), Ok(()));
}

#[test]
fn the_other_page_is_used_again() {
    for start in [0x4000_0000, 0x4000_1000, 0x4000_0000 - PAGE] {
        let mut pool = Pool::new(start, start + 4 * PAGE);
        let page = pool.in_use().unwrap().address();
        let other = pool.page().unwrap();
        assert_eq!((page - start) ^ (other - start), PAGE);
        assert_eq!(pool.left(), 2 * PAGE);
        assert!(pool.in_use().is_some() && pool.in_use().is_none());
        assert!(pool.page().is_some() && pool.page().is_none());
        assert_eq!(pool.left(), 0);
    }
}

#[test]
fn alignment_and_end_are_kept() {
    let mut pool = Pool::new(0x1234, 0x10000);
    assert_eq!(pool.take(1, 1), Some(0x1234));
    assert_eq!(pool.take(0x1000, 0x4000), Some(0x4000));
    assert_eq!(pool.take(0xb001, 0x1000), None);
    assert_eq!(pool.take(0xb000, 0x1000), Some(0x5000));
    assert_eq!(pool.take(1, 1), None);
    assert_eq!(Pool::new(u64::MAX - 4096, u64::MAX).take(u64::MAX, 1), None);
    assert_eq!(Pool::EMPTY.left(), 0);
}

#[derive(Clone, Debug)]
enum Request {
    InUse,
    Page,
    Other { len: u64, align: u64 },
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => Just(Request::InUse),
        2 => Just(Request::Page),
        1 => (1..64u64, 12..22u32).prop_map(|(pages, align)| Request::Other {
            len: pages * PAGE,
            align: 1 << align,
        }),
    ]
}

proptest! {
    /// Any mixture of requests: no page is given out twice, none of the in-use pages is aligned,
    /// and no write of the host to its own memory faults while all vCPUs run.
    #[test]
    fn mixtures(
        offset in 0..1024u64,
        requests in proptest::collection::vec(request(), 1..200),
    ) {
        let start = 0x1_0000_0000 + offset * PAGE;
        let mut pool = Pool::new(start, start + 64 * REGION);
        let mut rmp = Rmp::default();
        let mut own = BTreeSet::new();
        let mut guests = BTreeSet::new();
        for request in requests {
            match request {
                Request::InUse => {
                    let Some(page) = pool.in_use() else { break };
                    prop_assert_ne!(page.address() % REGION, 0);
                    rmp.vmrun(page.address());
                    prop_assert!(guests.insert(page.address()));
                }
                Request::Page => {
                    let Some(page) = pool.page() else { break };
                    prop_assert!(own.insert(page));
                }
                Request::Other { len, align } => {
                    let Some(at) = pool.take(len, align) else { break };
                    prop_assert_eq!(at % align, 0);
                    for page in (at..at + len).step_by(PAGE as usize) {
                        prop_assert!(own.insert(page));
                    }
                }
            }
        }
        prop_assert!(own.is_disjoint(&guests));
        for page in own {
            for size in SIZES {
                prop_assert_eq!(rmp.write(page, size), Ok(()));
            }
        }
        // The model is not blind: the processor's own pages are protected.
        for page in guests {
            prop_assert_eq!(rmp.write(page, Size::Small), Err(RmpViolation));
        }
    }
}
