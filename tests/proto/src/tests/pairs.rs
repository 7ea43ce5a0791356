// SPDX-License-Identifier: GPL-2.0

//! Exit codes against instructions: only pairs that belong together are handled.

use super::{
    machine::{Machine, CODE, DATA, DEVICE},
    Random,
};
use crate::proto::{
    exit_code::ExitCode,
    regs::Gpr,
    result::{PF_FETCH, PF_USER},
    CodeSize, Fault, Note, Outcome, Vector,
};

/// All instructions that cause exits, with the code that they cause.
const PAIRS: [(&[u8], u64); 48] = [
    (&[0x0f, 0x21, 0xf8], 0x27),
    (&[0x0f, 0x23, 0xf8], 0x37),
    (&[0x0f, 0x31], 0x6e),
    (&[0x0f, 0x33], 0x6f),
    (&[0x0f, 0xa2], 0x72),
    (&[0x66, 0x0f, 0xa2], 0x72),
    (&[0x0f, 0x08], 0x76),
    (&[0xe4, 0x80], 0x7b),
    (&[0xe5, 0x80], 0x7b),
    (&[0xe6, 0x80], 0x7b),
    (&[0xe7, 0x80], 0x7b),
    (&[0xec], 0x7b),
    (&[0xed], 0x7b),
    (&[0xee], 0x7b),
    (&[0xef], 0x7b),
    (&[0x6c], 0x7b),
    (&[0x6d], 0x7b),
    (&[0x6e], 0x7b),
    (&[0x6f], 0x7b),
    (&[0xf3, 0x6c], 0x7b),
    (&[0xf3, 0x6e], 0x7b),
    (&[0x0f, 0x32], 0x7c),
    (&[0x0f, 0x30], 0x7c),
    (&[0x0f, 0x01, 0xd9], 0x81),
    (&[0x0f, 0x01, 0xf9], 0x87),
    (&[0x0f, 0x09], 0x89),
    (&[0xf3, 0x0f, 0x09], 0x89),
    (&[0x0f, 0x01, 0xc8], 0x8a),
    (&[0x0f, 0x01, 0xfa], 0x8a),
    (&[0x0f, 0x01, 0xc9], 0x8b),
    (&[0x0f, 0x01, 0xfb], 0x8b),
    (&[0x88, 0x07], 0x400),
    (&[0x89, 0x07], 0x400),
    (&[0x8a, 0x07], 0x400),
    (&[0x8b, 0x07], 0x400),
    (&[0xc6, 0x07, 0x01], 0x400),
    (&[0xc7, 0x07, 1, 2, 3, 4], 0x400),
    (&[0x0f, 0xb6, 0x07], 0x400),
    (&[0x0f, 0xbf, 0x07], 0x400),
    (&[0x63, 0x07], 0x400),
    (&[0x0f, 0xc3, 0x07], 0x400),
    (&[0xa4], 0x400),
    (&[0xa5], 0x400),
    (&[0xaa], 0x400),
    (&[0xac], 0x400),
    (&[0x01, 0x07], 0x400),
    (&[0x87, 0x07], 0x400),
    (&[0x81, 0x07, 1, 2, 3, 4], 0x400),
];

/// A machine on which all of them work.
fn machine(bytes: &[u8]) -> Machine {
    let mut machine = Machine::new(bytes);

    machine.regs.di = DEVICE;
    machine.regs.si = DATA;
    machine.regs.cx = 1;
    machine.hypervisor.msrs.insert(1, 2);
    // MOVS, LODS and the port instructions need different kinds of memory.
    if matches!(bytes, [0xac]) {
        machine.regs.si = DEVICE;
    }
    if matches!(bytes, [.., 0x6c | 0x6d]) {
        machine.regs.di = DATA;
    }
    machine
}

#[test]
fn pairs_that_belong_together_are_handled() {
    for (bytes, code) in PAIRS {
        for peek in [true, false] {
            let mut machine = machine(bytes);

            machine.peek = peek;

            let outcome = machine.vc(code);

            if code == 0x76 {
                assert_eq!(outcome, Outcome::Unsupported);
            } else {
                assert_eq!(
                    outcome,
                    Outcome::Done { single_step: false },
                    "{bytes:02x?} {code:#x}"
                );
                assert_eq!(machine.regs.ip, CODE + bytes.len() as u64);
            }
            assert!(machine.notes.len() < 2);
        }
    }
}

#[test]
fn all_other_pairs_are_refused() {
    let mut refused = 0;

    for (bytes, right) in PAIRS {
        for code in (0..0x500)
            .chain(0x8000_0000..0x8000_0020)
            .chain(0x8000_fffc..0x8001_0000)
        {
            if code == right {
                continue;
            }
            for peek in [true, false] {
                let mut machine = machine(bytes);

                machine.peek = peek;

                let before = machine.regs;
                let outcome = machine.vc(code);

                let expected = if code == 0x51 {
                    Outcome::Exception(Fault::AC)
                } else if PAIRS.iter().any(|pair| pair.1 == code) {
                    Outcome::DecodeFailed
                } else {
                    Outcome::Unsupported
                };

                assert_eq!(outcome, expected, "{bytes:02x?} {code:#x}");
                assert_eq!((machine.regs, machine.vmgexits), (before, 0));
                if outcome == Outcome::DecodeFailed {
                    let [Note::WrongInstruction {
                        code: noted,
                        bytes: head,
                    }] = machine.notes[..]
                    else {
                        panic!("{:?}", machine.notes);
                    };

                    assert_eq!(noted, code);
                    assert_eq!(head.to_le_bytes()[..bytes.len()], *bytes);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 1000);
}

#[test]
fn other_debug_registers_are_refused() {
    for register in 0..7 {
        for (code, opcode) in [(0x27, 0x21), (0x37, 0x23)] {
            let mut machine = Machine::new(&[0x0f, opcode, 0xc0 | (register << 3)]);

            assert_eq!(machine.vc(code), Outcome::DecodeFailed);
            assert_eq!(machine.vmgexits, 0);
        }
    }
}

/// Whatever the bytes and the code: either nothing happens, or the instruction is one that causes
/// this exit according to an independent decoder.
#[test]
fn random_bytes_never_make_an_exit_of_another_kind() {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    let codes = [
        0x27, 0x37, 0x6e, 0x6f, 0x72, 0x76, 0x7b, 0x7c, 0x81, 0x87, 0x89, 0x8a, 0x8b, 0x400,
    ];
    let mut random = Random::new(6);
    let mut done = 0;

    for _ in 0..500_000 {
        let mut bytes = [random.next().to_le_bytes(), random.next().to_le_bytes()].concat();

        // Get near to instructions that matter.
        if random.below(2) == 0 {
            let (known, _) = random.pick(&PAIRS);
            let at = random.below(3) as usize;

            bytes[at..at + known.len()].copy_from_slice(known);
            for prefix in &mut bytes[..at] {
                *prefix = random.pick(&[0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x65, 0x48, 0x41]);
            }
        }

        let code = random.pick(&codes);
        let mut machine = machine(&bytes);

        machine.peek = random.below(2) == 0;
        machine.nested = true;

        let before = machine.regs;

        match machine.vc(code) {
            Outcome::Done { .. } | Outcome::Retry { .. } => {}
            Outcome::Exception(_) if machine.vmgexits != 0 => {}
            _ => {
                assert_eq!(
                    (machine.regs, machine.vmgexits),
                    (before, 0),
                    "{bytes:02x?}"
                );
                continue;
            }
        }

        let insn = Decoder::with_ip(64, &bytes, CODE, DecoderOptions::AMD).decode();
        let mnemonic = insn.mnemonic();
        let fits = match code {
            0x27 | 0x37 => mnemonic == Mnemonic::Mov,
            0x6e => mnemonic == Mnemonic::Rdtsc,
            0x6f => mnemonic == Mnemonic::Rdpmc,
            0x72 => mnemonic == Mnemonic::Cpuid,
            0x7b => matches!(
                mnemonic,
                Mnemonic::In
                    | Mnemonic::Out
                    | Mnemonic::Insb
                    | Mnemonic::Insw
                    | Mnemonic::Insd
                    | Mnemonic::Outsb
                    | Mnemonic::Outsw
                    | Mnemonic::Outsd
            ),
            0x7c => matches!(mnemonic, Mnemonic::Rdmsr | Mnemonic::Wrmsr),
            0x81 => mnemonic == Mnemonic::Vmmcall,
            0x87 => mnemonic == Mnemonic::Rdtscp,
            0x89 => matches!(mnemonic, Mnemonic::Wbinvd | Mnemonic::Wbnoinvd),
            0x8a => matches!(mnemonic, Mnemonic::Monitor | Mnemonic::Monitorx),
            0x8b => matches!(mnemonic, Mnemonic::Mwait | Mnemonic::Mwaitx),
            0x400 => (0..insn.op_count()).any(|n| insn.op_kind(n) >= iced_x86::OpKind::MemorySegSI),
            _ => false,
        };

        assert!(fits, "{bytes:02x?} {code:#x} {insn}");
        done += 1;
    }
    println!("{done} of 500000 were emulated");
    assert!(done > 10_000);
}

#[test]
fn instruction_at_the_end_of_a_page_needs_no_next_page() {
    for (bytes, code) in PAIRS {
        let mut machine = machine(bytes);
        let start = CODE + 4096 - bytes.len() as u64;

        machine.poke(start, bytes);
        machine.regs.ip = start;
        if code != 0x76 {
            machine.complete(code);
            assert_eq!(machine.regs.ip, CODE + 4096);
        }
    }
}

#[test]
fn instruction_that_reaches_into_an_absent_page_faults_there() {
    let bytes = [0xc7, 0x07, 1, 2, 3, 4];

    for split in 1..6 {
        for user in [false, true] {
            let mut machine = machine(&[]);
            let start = CODE + 4096 - split;

            machine.poke(start, &bytes[..split as usize]);
            machine.regs.ip = start;
            if user {
                machine.regs.cs = super::machine::USER_CS;
            }
            assert_eq!(
                machine.vc(0x400),
                Outcome::Exception(Fault::page(
                    CODE + 4096,
                    PF_FETCH | if user { PF_USER } else { 0 }
                ))
            );
            assert_eq!(machine.vmgexits, 0);
        }
    }
}

#[test]
fn absent_code_is_a_fetch_fault() {
    let mut machine = Machine::user(&[]);

    machine.regs.ip = 0x1000;
    assert_eq!(
        machine.vc(0x72),
        Outcome::Exception(Fault {
            cr2: 0x1000,
            error_code: PF_FETCH | PF_USER,
            vector: Vector::PageFault
        })
    );
}

#[test]
fn lock_is_refused_where_it_is_undefined() {
    for (bytes, code) in PAIRS {
        let locked = [&[0xf0], bytes].concat();
        let mut machine = machine(&locked);
        let expected = if matches!(bytes, [0x01 | 0x81 | 0x87, ..]) {
            Outcome::Done { single_step: false }
        } else {
            Outcome::DecodeFailed
        };

        assert_eq!(machine.vc(code), expected, "{bytes:02x?}");
    }
}

#[test]
fn code_size_decides_about_rex() {
    // In 32-bit code 48h is DEC EAX.
    let mut machine = Machine::user32(&[0x48, 0xee]);

    machine.allowed_ports = vec![0];
    assert_eq!(machine.vc(0x7b), Outcome::DecodeFailed);
    machine.regs.cs = super::machine::USER_CS;
    machine.code_size = CodeSize::Bits64;
    machine.complete(0x7b);
}

#[test]
fn exit_codes_convert() {
    let mut known = 0;

    for code in (0..0x1000).chain(0x8000_0000..0x8001_0000) {
        match ExitCode::try_from(code) {
            Ok(exit) => {
                assert_eq!(exit as u64, code);
                known += 1;
            }
            Err(number) => assert_eq!(number, code),
        }
    }
    // 0x27, 0x37, #DB, #AC, 11 instructions, two page faults, 17 software events.
    assert_eq!(known, 4 + 11 + 2 + 17);
    assert!(ExitCode::try_from(u64::MAX).is_err());
    assert!(ExitCode::try_from(0x1_0000_0072).is_err());
}

#[test]
fn results_have_the_numbers_of_c() {
    for (outcome, number) in [
        (Outcome::Done { single_step: true }, 0),
        (Outcome::Unsupported, 1),
        (Outcome::VmmError, 2),
        (Outcome::DecodeFailed, 3),
        (Outcome::Exception(Fault::GP), 4),
        (Outcome::Retry { single_step: false }, 5),
    ] {
        assert_eq!(outcome.es_result(), number);
    }
}

/// The short cuts give what the decoder gives: registers, exits, faults.
#[test]
fn short_cuts_agree_with_the_decoder() {
    let mut random = Random::new(9);
    let mut done = 0;
    let run = |bytes: &[u8], code, peek| {
        let mut machine = Machine::new(bytes);

        for number in 0..16 {
            let address = DEVICE + 0x800 + 16 * u64::from(number);

            machine.regs.set_gpr(Gpr::new(number), address);
        }
        machine.regs.dx = 0x1122_0000_0080;
        machine
            .hypervisor
            .msrs
            .insert((DEVICE + 0x810) as u32, 0x1_0000_0002);
        machine.nested = true;
        machine.peek = peek;

        let outcome = machine.vc(code);

        (outcome, machine.regs, machine.hypervisor.events)
    };

    for prefix in [0x90u8, 0x66, 0x67, 0xf2, 0xf3, 0x65]
        .into_iter()
        .chain(0x40..=0x4f)
    {
        for opcode in 0..=255u8 {
            for modrm in 0..=255u8 {
                if !matches!(opcode, 0x0f | 0x6c..=0x6f | 0x88..=0x8b | 0xec..=0xef) {
                    continue;
                }

                let mut bytes = vec![];

                if prefix != 0x90 {
                    bytes.push(prefix);
                }
                bytes.extend([opcode, modrm]);

                // Relative to RIP, or a small displacement of either width.
                let displacement = if modrm & 0xc7 == 5 {
                    DEVICE - CODE
                } else {
                    random.pick(&[5, 0x70, 0xffff_fff0, 0xffff_ff80])
                };

                bytes.extend(&displacement.to_le_bytes()[..4]);
                bytes.extend([0; 3]);

                for code in [0x400, 0x7b, 0x7c, 0x72, 0x6e] {
                    let quick = run(&bytes, code, true);
                    let decoded = run(&bytes, code, false);

                    assert_eq!(quick, decoded, "{bytes:02x?} {code:#x}");
                    done += u64::from(matches!(quick.0, Outcome::Done { .. }));
                }
            }
        }
    }
    println!("{done} instructions emulated both ways");
    assert!(done > 10_000);
}
