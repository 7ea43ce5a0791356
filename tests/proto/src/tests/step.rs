// SPDX-License-Identifier: GPL-2.0

//! Single-stepping against the CPU that runs the tests: a child process executes an instruction on
//! memory with RFLAGS.TF set, and the core emulates it on a device with the same contents.
//!
//! At each trap of the CPU the core has to ask for one, with the same registers, the same RIP, the
//! same flags, TF and RF among them, and the same memory: after the instruction, and after each
//! iteration of a repeated one (APM vol. 2, 13.1.4). MOV to SS before the instruction holds the
//! trap back until that has ended.

use std::ptr;

use super::{
    native::{
        data_of, encode, forms, interesting, machine, state, state_of, Host, State, DATA_SIZE,
        FLAGS,
    },
    Random,
};
use crate::proto::Outcome;

const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;

/// A child process with the memory of a [`Host`], stopped but for the instructions that it is
/// told to execute. It sets TF itself, as Linux sees it, and not its debugger: TF and RF are as the
/// CPU left them.
struct Child {
    pid: libc::pid_t,
    /// Registers as they were when it stopped for the first time.
    regs: libc::user_regs_struct,
}

/// A request without arguments but data.
fn ptrace(request: libc::c_uint, pid: libc::pid_t, data: *mut libc::c_void) {
    // SAFETY: `data` is what the request wants: a number, or where registers are.
    let result = unsafe { libc::ptrace(request, pid, ptr::null_mut::<libc::c_void>(), data) };

    assert_eq!(
        result,
        0,
        "ptrace: {} (a container may forbid it)",
        std::io::Error::last_os_error()
    );
}

impl Child {
    fn new() -> Child {
        // SAFETY: The child calls only what may be called after a fork of a process with threads.
        let pid = unsafe { libc::fork() };

        assert!(pid >= 0, "no process for the test");
        if pid == 0 {
            // SAFETY: As above. What comes after the stop is what the debugger puts in RIP.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::raise(libc::SIGSTOP);
                libc::_exit(1);
            }
        }

        let mut child = Child {
            pid,
            // SAFETY: A structure of numbers.
            regs: unsafe { std::mem::zeroed() },
        };

        assert_eq!(child.wait(), libc::SIGSTOP);
        ptrace(
            libc::PTRACE_SETOPTIONS,
            pid,
            libc::PTRACE_O_EXITKILL as *mut _,
        );
        child.regs = child.get();
        child
    }

    /// Waits until it stops, and returns the signal.
    fn wait(&self) -> i32 {
        let mut status = 0;

        // SAFETY: The status is where the call writes it.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };

        assert_eq!(pid, self.pid);
        assert!(libc::WIFSTOPPED(status), "the child ended: {status:#x}");
        libc::WSTOPSIG(status)
    }

    fn get(&self) -> libc::user_regs_struct {
        let mut regs = self.regs;

        ptrace(
            libc::PTRACE_GETREGS,
            self.pid,
            ptr::from_mut(&mut regs).cast(),
        );
        regs
    }

    /// Puts registers in place.
    fn set(&self, ip: u64, state: &State) {
        let gpr = &state.gpr;
        let mut regs = libc::user_regs_struct {
            rax: gpr[0],
            rcx: gpr[1],
            rdx: gpr[2],
            rbx: gpr[3],
            rsp: gpr[4],
            rbp: gpr[5],
            rsi: gpr[6],
            rdi: gpr[7],
            r8: gpr[8],
            r9: gpr[9],
            r10: gpr[10],
            r11: gpr[11],
            r12: gpr[12],
            r13: gpr[13],
            r14: gpr[14],
            r15: gpr[15],
            rip: ip,
            eflags: state.flags,
            // In no system call that could be restarted.
            orig_rax: u64::MAX,
            ..self.regs
        };

        ptrace(
            libc::PTRACE_SETREGS,
            self.pid,
            ptr::from_mut(&mut regs).cast(),
        );
    }

    /// Runs to the next trap; returns RIP and registers there.
    fn run(&self) -> (u64, State) {
        ptrace(libc::PTRACE_CONT, self.pid, ptr::null_mut());
        assert_eq!(self.wait(), libc::SIGTRAP);

        let regs = self.get();
        let gpr = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ];

        (
            regs.rip,
            State {
                gpr,
                flags: regs.eflags,
            },
        )
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: It is this one's child, and nobody waited for its end.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, ptr::null_mut(), libc::__WALL);
        }
    }
}

/// What was compared.
#[derive(Debug, Default)]
struct Counts {
    traps: u64,
    /// Of these, between the iterations of an instruction.
    within: u64,
    /// Instructions behind MOV to SS.
    shadowed: u64,
}

/// Both machines.
struct Rig {
    host: Host,
    child: Child,
    random: Random,
    counts: Counts,
}

impl Rig {
    fn new(seed: u64) -> Rig {
        let host = Host::new();

        Rig {
            child: Child::new(),
            host,
            random: Random::new(seed),
            counts: Counts::default(),
        }
    }

    /// Writes the instruction to the code page, behind MOV to SS if `shadowed`. Returns where to
    /// begin, and where the instruction is.
    fn place(&mut self, insn: &[u8], shadowed: bool) -> (u64, u64) {
        const SELECTOR: usize = 1024;
        // mov ss, [rip + ...]
        const LEN: usize = 6;
        let mut code = vec![];

        if shadowed {
            code.extend([0x8e, 0x15]);
            code.extend(((SELECTOR - LEN) as u32).to_le_bytes());
        }
        code.extend(insn);
        // SAFETY: The page is writable, larger than the code, and the child is stopped.
        unsafe {
            ptr::copy_nonoverlapping(code.as_ptr(), self.host.code, code.len());
            self.host
                .code
                .add(SELECTOR)
                .cast::<u16>()
                .write(self.child.regs.ss as u16);
        }

        let start = self.host.code as u64;

        (start, start + if shadowed { LEN as u64 } else { 0 })
    }

    /// Steps through one instruction on both.
    fn compare(&mut self, insn: &[u8], mut state: State, undefined: u64) {
        let shadowed = self.random.below(4) == 0;
        let (start, ip) = self.place(insn, shadowed);
        let data: Vec<u8> = (0..DATA_SIZE / 8)
            .flat_map(|_| interesting(&mut self.random).to_le_bytes())
            .collect();

        state.flags |= TF | 2;

        let peek = self.random.below(4) != 0;
        let mut machine = machine(&self.host, insn, &state, &data, peek);
        let base = machine.regs.ip;

        // As a debugger goes on from a breakpoint.
        if self.random.below(2) == 0 {
            state.flags |= RF;
        }

        // MOV to SS clears it.
        let resumed = state.flags & RF != 0 && !shadowed;

        self.host.set_data(&data);
        self.child.set(start, &state);
        loop {
            let (at, mut native) = self.child.run();
            let outcome = machine.vc(0x400);
            let mut emulated = state_of(&machine);
            // Between iterations RF is what it was when the instruction began, or began anew: set
            // after a fault, such as #VC.
            let rf = if at != ip || resumed { RF } else { 0 };
            let mask = (FLAGS | TF | rf) & !undefined;

            native.flags &= mask;
            emulated.flags &= mask;
            assert_eq!(
                machine.regs.ip.wrapping_sub(base),
                at.wrapping_sub(ip),
                "{insn:02x?} RIP on {state:x?}: {outcome:x?}"
            );
            assert_eq!(emulated, native, "{insn:02x?} on {state:x?}: {outcome:x?}");
            assert!(
                data_of(&machine) == self.host.data(),
                "{insn:02x?}: memory differs"
            );
            self.counts.traps += 1;
            match outcome {
                Outcome::Retry { single_step: true } => self.counts.within += 1,
                Outcome::Done { single_step: true } => break,
                _ => panic!("{insn:02x?} on {state:x?}: {outcome:x?}"),
            }
        }
        self.counts.shadowed += u64::from(shadowed);
    }
}

#[test]
fn steps_over_memory_instructions_agree_with_the_cpu() {
    let mut rig = Rig::new(21);
    let forms = forms();

    for _ in 0..60 {
        for form in &forms {
            let offset = 4608 + rig.random.below(64);
            let disp = rig.random.next() as i8;
            let address = (rig.host.data as u64 + offset).wrapping_sub(i64::from(disp) as u64);
            let (mut state, base) = state(&mut rig.random, address);
            let insn = encode(&mut rig.random, form, base, disp);
            let decoded = iced_x86::Decoder::new(64, &insn, iced_x86::DecoderOptions::AMD).decode();

            assert!(!decoded.is_invalid(), "{insn:02x?}");
            if form.bit {
                // Bit numbers that stay in the data.
                let register = decoded.op_register(1).full_register() as usize
                    - iced_x86::Register::RAX as usize;

                if register == usize::from(base) {
                    continue;
                }
                state.gpr[register] = rig.random.below(16384).wrapping_sub(8192);
            }
            rig.compare(&insn, state, form.undefined);
        }
    }
    println!(
        "{:?} of {} forms agree with this CPU",
        rig.counts,
        forms.len()
    );
    assert!(rig.counts.traps > 4_000 && rig.counts.shadowed > 1_000);
}

#[test]
fn steps_into_string_instructions_agree_with_the_cpu() {
    let mut rig = Rig::new(22);

    for _ in 0..1_500 {
        let random = &mut rig.random;
        let mut insn = vec![];
        let opcode = random.pick(&[0xa4u8, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]);

        let short = random.below(3) == 0;

        if short {
            insn.push(0x67);
        }
        if random.below(3) == 0 {
            insn.push(0x66);
        }
        if random.below(4) != 0 {
            insn.push(random.pick(&[0xf2, 0xf3]));
        }
        if random.below(3) == 0 {
            insn.push(0x48);
        }
        insn.push(opcode);

        let (mut state, _) = state(random, 0);

        state.gpr[6] = rig.host.data as u64 + 4096 + random.below(4096);
        state.gpr[7] = rig.host.data as u64 + 4096 + random.below(4096);
        // Equal operands now and then, so that comparisons go on.
        if random.below(3) == 0 {
            state.gpr[7] = state.gpr[6];
        }
        state.gpr[1] = random.pick(&[0, 1, 2, 3, 7, 20]);
        if random.below(2) == 0 {
            state.flags |= 0x400;
        }
        // The upper halves mean nothing to 32-bit addresses.
        if short {
            for number in [1, 6, 7] {
                state.gpr[number] |= random.next() << 32;
            }
        }
        rig.compare(&insn, state, 0);
    }
    println!("{:?} agree with this CPU", rig.counts);
    assert!(rig.counts.within > 1_000);
}
