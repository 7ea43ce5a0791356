// SPDX-License-Identifier: GPL-2.0
//! Order of the launch commands, and their checks. That digest and measurement are those of other
//! programs is found out by `make test-launch`.

use super::vmsa::Fpu;
use super::*;
use crate::reset;

const DATA: [u8; 32] = [7; 32];
const TIK: Tik = Tik([3; 16]);

fn vmsa() -> Vmsa {
    reset::vmsa(reset::SIGNATURE, None, Fpu::Reset)
}

fn call(launch: &mut Launch, command: Command) -> Result<(), LaunchError> {
    match command {
        Command::Start => launch.start(Policy::DEFAULT, Some(TIK)),
        Command::UpdateData => launch.update_data(0xffff_0000, &DATA),
        Command::UpdateVmsa => launch.update_vmsa(0, &vmsa()),
        Command::Measure => launch.measure([0; 16]).map(drop),
        Command::Finish => launch.finish().map(drop),
    }
}

const COMMANDS: [Command; 5] = [
    Command::Start,
    Command::UpdateData,
    Command::UpdateVmsa,
    Command::Measure,
    Command::Finish,
];

/// A guest in each state, by the way that leads there.
fn guest_in(state: State) -> Launch {
    let mut launch = Launch::new(Firmware::default(), 1);
    let way = match state {
        State::Uninit => 0,
        State::Update => 3,
        State::Secret => 4,
        State::Running => 5,
    };
    for command in &COMMANDS[..way] {
        call(&mut launch, *command).unwrap();
    }
    assert_eq!(launch.state(), state);
    launch
}

#[test]
fn each_command_in_each_state() {
    use Command::*;
    for (state, good) in [
        (State::Uninit, &[Start][..]),
        (State::Update, &[UpdateData, Measure][..]),
        (State::Secret, &[Finish][..]),
        (State::Running, &[][..]),
    ] {
        for command in COMMANDS {
            let mut launch = guest_in(state);
            let result = call(&mut launch, command);
            if good.contains(&command) {
                assert_eq!(result, Ok(()), "{command:?} in {state:?}");
                continue;
            }
            // The one vCPU's save area is encrypted in state LUPDATE already.
            let want = if (state, command) == (State::Update, UpdateVmsa) {
                LaunchError::VcpuOrder(0)
            } else {
                LaunchError::OutOfOrder { command, state }
            };
            assert_eq!(result, Err(want), "{command:?} in {state:?}");
            assert_eq!(launch.state(), state, "a refused command changes nothing");
        }
    }
}

#[test]
fn a_refused_command_does_not_change_the_digest() {
    let digest = |mischief: &dyn Fn(&mut Launch)| {
        let mut launch = Launch::new(Firmware::default(), 2);
        launch.start(Policy::DEFAULT, Some(TIK)).unwrap();
        launch.update_data(0, &DATA).unwrap();
        mischief(&mut launch);
        launch.update_vmsa(0, &vmsa()).unwrap();
        launch.update_vmsa(1, &vmsa()).unwrap();
        launch.measure([1; 16]).unwrap().unwrap()
    };
    let good = digest(&|_| ());
    let bad = digest(&|launch| {
        assert_eq!(launch.update_data(8, &DATA), Err(LaunchError::Address(8)));
        assert_eq!(
            launch.update_data(16, &DATA[..24]),
            Err(LaunchError::Length(24))
        );
        assert_eq!(launch.update_data(16, &[]), Err(LaunchError::Length(0)));
        assert_eq!(
            launch.update_vmsa(1, &vmsa()),
            Err(LaunchError::VcpuOrder(1))
        );
        assert_eq!(launch.update_vmsa(2, &vmsa()), Err(LaunchError::NoVcpu(2)));
        let mut debugged = vmsa();
        debugged.dr7 |= 1;
        assert_eq!(
            launch.update_vmsa(0, &debugged),
            Err(LaunchError::Breakpoints)
        );
        assert_eq!(launch.measure([0; 16]), Err(LaunchError::NoVmsa(0)));
    });
    assert_eq!(good, bad);
}

#[test]
fn without_a_key_nothing_is_measured() {
    let mut launch = Launch::new(Firmware::default(), 1);
    launch.start(Policy::DEFAULT, None).unwrap();
    launch.update_data(0, &DATA).unwrap();
    assert_eq!(launch.measure([1; 16]), Err(LaunchError::NoVmsa(0)));
    launch.update_vmsa(0, &vmsa()).unwrap();
    assert_eq!(launch.measure([1; 16]), Ok(None));
    assert!(launch.finish().is_ok());
}

#[test]
fn policy_is_checked_at_start() {
    let mut launch = Launch::new(Firmware::default(), 1);
    let plain_sev = Policy::new(Policy::NODBG).unwrap();
    let error = launch.start(plain_sev, Some(TIK)).unwrap_err();
    assert_eq!(error, LaunchError::Policy(PolicyError::NotSevEs));
    assert_eq!((error.status(), launch.state()), (Some(7), State::Uninit));
    let late = Policy::new(0x3801_0004).unwrap();
    assert_eq!(launch.start(late, Some(TIK)).unwrap_err().status(), Some(7));
    assert_eq!(launch.start(Policy::DEFAULT, Some(TIK)), Ok(()));
}

#[test]
fn everything_counts_in_the_measurement() {
    let firmware = Firmware::default();
    let measure = |firmware, policy, digest: &LaunchDigest, nonce, tik| {
        Measurement::new(firmware, Policy::new(policy).unwrap(), digest, nonce, &tik).mac
    };
    let digest = [9; 32];
    let good = measure(firmware, 4, &digest, [1; 16], TIK);
    assert_eq!(good, measure(firmware, 4, &digest, [1; 16], TIK));
    let other_build = Firmware {
        build: 22,
        ..firmware
    };
    let other_api = Firmware {
        api: ApiVersion {
            major: 1,
            minor: 54,
        },
        ..firmware
    };
    for other in [
        measure(other_build, 4, &digest, [1; 16], TIK),
        measure(other_api, 4, &digest, [1; 16], TIK),
        measure(firmware, 5, &digest, [1; 16], TIK),
        measure(firmware, 4, &[8; 32], [1; 16], TIK),
        measure(firmware, 4, &digest, [2; 16], TIK),
        measure(firmware, 4, &digest, [1; 16], Tik([4; 16])),
    ] {
        assert_ne!(good, other);
    }
}

/// The message byte by byte, as the specification lists it, by the plain construction of HMAC.
#[test]
fn mac_by_its_definition() {
    let policy = Policy::new(0x0100_0005).unwrap();
    let digest: LaunchDigest = core::array::from_fn(|n| n as u8);
    let nonce = core::array::from_fn(|n| 0x80 + n as u8);
    let got = Measurement::new(Firmware::default(), policy, &digest, nonce, &TIK);
    let mut message = vec![4, 1, 55, 21, 5, 0, 0, 1];
    message.extend(digest);
    message.extend(nonce);
    let pad = |byte: u8| -> Vec<u8> {
        (0..64)
            .map(|n| byte ^ TIK.0.get(n).copied().unwrap_or(0))
            .collect()
    };
    let inner = Sha256::digest([pad(0x36), message].concat());
    let outer = Sha256::digest([pad(0x5c), inner.to_vec()].concat());
    assert_eq!(got.mac[..], outer[..]);
    assert_eq!(got.blob()[..32], outer[..]);
    assert_eq!(got.blob()[32..], nonce);
}

#[test]
fn the_key_is_not_shown() {
    assert_eq!(format!("{TIK:?}"), "Tik(..)");
}

#[test]
fn errors_say_what_is_wrong() {
    let error = LaunchError::OutOfOrder {
        command: Command::Finish,
        state: State::Update,
    };
    assert_eq!(
        error.to_string(),
        "LAUNCH_FINISH is out of order: the guest is in state LUPDATE"
    );
    assert_eq!(error.status(), Some(2));
    assert!(LaunchError::NoVmsa(3).to_string().contains("vCPU 3"));
}
