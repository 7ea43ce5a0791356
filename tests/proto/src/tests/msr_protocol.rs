// SPDX-License-Identifier: GPL-2.0

//! The GHCB MSR protocol.

use crate::proto::{
    msr_protocol::{
        ap_reset_hold, cpuid, cpuid_admits_sev, hv_features, negotiate, register_ghcb,
        termination_request, MsrExchange, SevInfo, Termination,
    },
    CpuidLeaf, Error,
};

/// An MSR with a hypervisor behind it that answers in turn.
struct Script {
    requests: Vec<u64>,
    responses: Vec<u64>,
}

impl Script {
    fn new(responses: &[u64]) -> Script {
        Script {
            requests: vec![],
            responses: responses.iter().rev().copied().collect(),
        }
    }
}

impl MsrExchange for Script {
    fn exchange(&mut self, request: u64) -> u64 {
        self.requests.push(request);
        self.responses.pop().expect("no more requests than answers")
    }
}

fn sev_info(max: u64, min: u64, c_bit: u64) -> u64 {
    (max << 48) | (min << 32) | (c_bit << 24) | 1
}

#[test]
fn negotiation_takes_the_highest_common_version() {
    for (max, min, version) in [
        (1, 1, Some(1)),
        (2, 1, Some(2)),
        (2, 2, Some(2)),
        (3, 1, Some(2)),
        (0xffff, 2, Some(2)),
        (3, 3, None),
        (0, 0, None),
        // A range upside down.
        (1, 2, None),
        (2, 0, Some(2)),
    ] {
        let mut script = Script::new(&[sev_info(max, min, 51)]);

        assert_eq!(negotiate(&mut script), version, "{max} {min}");
        assert_eq!(script.requests, [2]);
    }
    for wrong in [0, 2, 5, 0x101, sev_info(2, 1, 51) ^ 3] {
        assert_eq!(negotiate(&mut Script::new(&[wrong])), None);
    }
    assert_eq!(
        SevInfo::parse(sev_info(2, 1, 51)),
        Ok(SevInfo {
            min_version: 1,
            max_version: 2,
            c_bit: 51
        })
    );
}

#[test]
fn cpuid_asks_for_four_registers() {
    let mut script = Script::new(&[
        0x1111_1111_0000_0005,
        0x2222_2222_4000_0005,
        0x3333_3333_8000_0005,
        0xffff_ffff_c000_0005,
    ]);
    let mut leaf = CpuidLeaf {
        function: 0x8000_001f,
        index: 7,
        ..CpuidLeaf::default()
    };

    assert_eq!(cpuid(&mut script, &mut leaf), Ok(()));
    assert_eq!(
        script.requests,
        [
            0x8000_001f_0000_0004,
            0x8000_001f_4000_0004,
            0x8000_001f_8000_0004,
            0x8000_001f_c000_0004
        ]
    );
    assert_eq!(
        (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx),
        (0x1111_1111, 0x2222_2222, 0x3333_3333, 0xffff_ffff)
    );
}

#[test]
fn cpuid_refuses_subleaves_that_it_cannot_ask_for() {
    for function in [
        4,
        7,
        0xb,
        0xd,
        0xf,
        0x10,
        0x12,
        0x14,
        0x17,
        0x18,
        0x1d,
        0x1e,
        0x1f,
        0x23,
        0x24,
        0x8000_001d,
        0x8000_0020,
        0x8000_0026,
    ] {
        let mut leaf = CpuidLeaf {
            function,
            index: 1,
            ..CpuidLeaf::default()
        };

        assert_eq!(
            cpuid(&mut Script::new(&[]), &mut leaf),
            Err(Error::Unsupported)
        );
        leaf.index = 0;
        assert_eq!(cpuid(&mut Script::new(&[5, 5, 5, 5]), &mut leaf), Ok(()));
    }
}

#[test]
fn cpuid_needs_the_right_response_each_time() {
    for wrong in 0..4 {
        let mut responses = [5; 4];

        responses[wrong] = 4;

        let mut leaf = CpuidLeaf::default();

        assert_eq!(
            cpuid(&mut Script::new(&responses), &mut leaf),
            Err(Error::Vmm)
        );
    }
}

#[test]
fn cpuid_that_hides_sev_is_noticed() {
    for (function, eax, ok) in [
        (0x8000_0000, 0x8000_001f, true),
        (0x8000_0000, 0x8000_0023, true),
        (0x8000_0000, 0x8000_001e, false),
        (0x8000_0000, 0, false),
        (0x8000_001f, 0x2, true),
        (0x8000_001f, 0xf, true),
        (0x8000_001f, 0xd, false),
        (0, 0, true),
    ] {
        let leaf = CpuidLeaf {
            function,
            eax,
            ..CpuidLeaf::default()
        };

        assert_eq!(cpuid_admits_sev(&leaf), ok, "{function:#x} {eax:#x}");
    }
}

#[test]
fn features_need_version_2() {
    let mut script = Script::new(&[0x23_081]);

    assert_eq!(hv_features(&mut script, 2), 0x23);
    assert_eq!(script.requests, [0x80]);
    assert_eq!(hv_features(&mut Script::new(&[0x23_080]), 2), 0);
    assert_eq!(hv_features(&mut Script::new(&[]), 1), 0);
}

#[test]
fn registration_must_be_confirmed() {
    for (response, result) in [
        (0x1234_5013, Ok(())),
        (0x1234_6013, Err(Error::Vmm)),
        (0xffff_ffff_ffff_f013, Err(Error::Vmm)),
        (0x1234_5012, Err(Error::Vmm)),
    ] {
        let mut script = Script::new(&[response]);

        assert_eq!(register_ghcb(&mut script, 0x1234_5000), result);
        assert_eq!(script.requests, [0x1234_5012]);
    }
}

#[test]
fn reset_hold_says_whether_a_startup_ipi_came() {
    assert_eq!(ap_reset_hold(&mut Script::new(&[0x1007])), Ok(true));
    assert_eq!(ap_reset_hold(&mut Script::new(&[0x7])), Ok(false));
    assert_eq!(ap_reset_hold(&mut Script::new(&[0x1006])), Err(Error::Vmm));
}

#[test]
fn terminations_have_the_numbers_of_the_specification() {
    for (reason, request) in [
        (Termination::General, 0x100),
        (Termination::ProtocolUnsupported, 0x1_0100),
        (Termination::SnpUnsupported, 0x2_0100),
        (Termination::Register, 0x1100),
        (Termination::PageStateChange, 0x1_1100),
        (Termination::Pvalidate, 0x2_1100),
        (Termination::NotVmpl0, 0x3_1100),
        (Termination::CpuidTable, 0x4_1100),
        (Termination::CpuidHypervisor, 0x5_1100),
        (Termination::SecureTsc, 0xa_1100),
    ] {
        assert_eq!(reason.request(), request, "{reason:?}");
        assert!(!reason.text().is_empty());
    }
    assert_eq!(termination_request(0xff, 0xfff), 0xff_f100);
}
