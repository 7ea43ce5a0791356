// SPDX-License-Identifier: GPL-2.0
//! What came of attempts: attacks on the guest's kernel, after which sevsim puts the guest back
//! (tests/guest/hostile/assault.c). Read from sevsim's log.

/// What is put into registers of user space, so that it tells where the kernel has it from. In the
/// upper bits; the lower ones are the register's.
const PATTERN: u64 = 0xffff_ffff_5ec2_0000;

/// #AC: a hypervisor that intercepts it may hand it on.
const ALIGNMENT_CHECK: u64 = 0x51;
/// #DB, likewise. The kernel finds no cause for it, and goes on.
const DEBUG: u64 = 0x41;
/// An access to memory.
const NESTED_PAGE_FAULT: u64 = 0x400;

/// #MC, as sevsim puts it. Without CONFIG_X86_MCE its gate still leads to the early handlers, whose
/// memory has been freed: always the same address, which is not mapped any more.
const MACHINE_CHECK: &str = "Exception { vector: 12,";

/// An NMI, as sevsim puts it, that a processor could have as well.
const NMI: &str = "Nmi";

/// An attempt, as sevsim logs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Number of the step.
    pub step: u32,
    /// The bytes at the event, empty if there was none.
    bytes: Vec<u8>,
    /// The event, as sevsim puts it.
    event: String,
    /// How it ended.
    end: String,
    /// The program's result.
    detail: u64,
    /// The last page fault's address, where the kernel had an oops.
    cr2: u64,
    /// The kernel was at that address, where no code is.
    jumped: bool,
    /// A warning was printed.
    warned: bool,
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// What is behind `key` in a line, up to `end`.
fn part<'a>(line: &'a str, key: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(key)?;
    Some(rest.split(end).next().unwrap_or(rest))
}

impl Attempt {
    fn parse(line: &str) -> Option<Self> {
        let rest = line.split_once("attempt ")?.1;
        let word = |key| part(rest, key, " ");
        let bytes = part(rest, "bytes=[", "]").unwrap_or_default();
        Some(Self {
            step: rest.split(' ').next()?.parse().ok()?,
            bytes: bytes
                .split(", ")
                .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
                .collect(),
            event: part(rest, "event=Some(", " end=")
                .and_then(|event| event.strip_suffix(')'))
                .unwrap_or_default()
                .into(),
            end: word(" end=")?.into(),
            detail: hex(word(" detail=")?),
            cr2: word(" cr2=").map_or(0, hex),
            jumped: word(" jumped=") == Some("true"),
            warned: word(" warned=") == Some("true"),
        })
    }

    /// Whether an event was injected.
    pub fn injected(&self) -> bool {
        !self.event.is_empty()
    }

    /// The error code, if the event is a #VC.
    fn vc(&self) -> Option<u64> {
        let code = self.event.strip_prefix("Vc(")?.strip_suffix(')')?;
        Some(hex(code))
    }

    /// Whether the guest has to find out that the event was made up: a #VC with a code that does
    /// not belong to the instruction.
    fn made_up(&self) -> bool {
        let Some(code) = self.vc() else {
            return false;
        };
        let mut bytes = self.bytes.iter().copied();
        let mut first = bytes.next().unwrap_or(0);
        while matches!(first, 0x66 | 0xf2 | 0xf3 | 0x40..=0x4f) {
            first = bytes.next().unwrap_or(0);
        }
        let [second, third] = [(); 2].map(|()| bytes.next().unwrap_or(0));
        let codes: &[u64] = match (first, second, third) {
            (0x0f, 0x21, _) => &[0x27],
            (0x0f, 0x23, _) => &[0x37],
            (0x0f, 0x31, _) => &[0x6e],
            (0x0f, 0x33, _) => &[0x6f],
            (0x0f, 0xa2, _) => &[0x72],
            (0x0f, 0x08, _) => &[0x76],
            (0x0f, 0x30 | 0x32, _) => &[0x7c],
            (0x0f, 0x01, 0xd9) => &[0x81],
            (0x0f, 0x01, 0xf9) => &[0x87],
            (0x0f, 0x09, _) => &[0x89],
            (0x0f, 0x01, 0xc8) => &[0x8a],
            (0x0f, 0x01, 0xc9) => &[0x8b],
            (0xec..=0xef | 0xe4..=0xe7 | 0x6c..=0x6f, _, _) => &[0x7b],
            _ => &[],
        };
        !codes.contains(&code) && ![ALIGNMENT_CHECK, DEBUG].contains(&code)
    }

    /// What is wrong, if anything.
    ///
    /// A host can inject exceptions and interrupts that the guest cannot know to be wrong: they may
    /// end it in any way, but not have it go where a task or the host says. A reply that is wrong
    /// may lead to a wrong result, an oops and a hang, but not to an end without a word.
    fn problem(&self) -> Option<&'static str> {
        let known_as_wrong = self.vc().is_some() || !self.injected();
        let told = self.detail != 0;
        if self.end == "Oops" && self.cr2 & 0xffff_ffff_ffff_0000 == PATTERN {
            return Some("the kernel follows a register of the task");
        }
        if self.end == "Oops" && self.jumped && !self.event.starts_with(MACHINE_CHECK) {
            return Some("the kernel goes to where no code is");
        }
        if self.event == NMI && self.end != "Returned" {
            return Some("an NMI, which can come at any time, ends it");
        }
        if !known_as_wrong {
            return None;
        }
        if !self.injected() {
            // A host that tells wrong times, or asks for #GP, has the kernel wait or give up.
            return ["TripleFault", "Reset"]
                .contains(&self.end.as_str())
                .then_some("end without a word");
        }
        match self.end.as_str() {
            "TripleFault" => Some("triple fault"),
            "Hang" => Some("hang"),
            "Reset" => Some("reset"),
            "Oops" if self.made_up() || self.vc() == Some(DEBUG) => Some("oops"),
            "Returned" if self.made_up() && self.vc() == Some(NESTED_PAGE_FAULT) => {
                Some("memory was accessed in the host's way")
            }
            "Returned" if self.made_up() => Some("executed as another instruction"),
            "Returned" if told && self.vc().is_some() => Some("wrong result"),
            _ if self.warned && self.made_up() => Some("warning"),
            _ => None,
        }
    }
}

/// All attempts of a log.
pub fn attempts(log: &str) -> Vec<Attempt> {
    log.lines().filter_map(Attempt::parse).collect()
}

/// Step and text of all problems.
pub fn problems(attempts: &[Attempt]) -> impl Iterator<Item = (u32, String)> + '_ {
    attempts.iter().filter_map(|attempt| {
        let what = attempt.problem()?;
        let event = match attempt.event.as_str() {
            "" => "reply",
            event => event,
        };
        Some((
            attempt.step,
            format!(
                "attempt: {what}, {event} at {:02x?}, end {}",
                attempt.bytes, attempt.end
            ),
        ))
    })
}

/// How attempts ended, in words.
pub fn summary(attempts: &[Attempt]) -> String {
    let of = |end: &str| attempts.iter().filter(|one| one.end == end).count();
    let vcs = attempts.iter().filter(|one| one.vc().is_some()).count();
    let events = attempts.iter().filter(|one| one.injected()).count();
    format!(
        "{} attempts, {vcs} made-up #VCs, {} other events: {} returned, {} terminated, {} panics, \
         {} oopses, {} without a word",
        attempts.len(),
        events - vcs,
        of("Returned"),
        of("Terminated"),
        of("Panic"),
        of("Oops"),
        of("TripleFault") + of("Hang") + of("Reset"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "sevsim: attempt 14 boundary=712 rip=0xffffffff9220abce cpl=0 \
        bytes=[31, c0, 31, c9, 48, 09, c8, 4c] event=Some(Vc(7c)) end=Terminated detail=0x0 \
        warned=false set=0 code=0";

    fn problem(from: &[(&str, &str)]) -> Option<&'static str> {
        let line = from
            .iter()
            .fold(LINE.to_string(), |line, (old, new)| line.replace(old, new));
        Attempt::parse(&line).unwrap().problem()
    }

    #[test]
    fn a_line_is_read() {
        let attempt = Attempt::parse(LINE).unwrap();
        assert_eq!((attempt.step, attempt.vc()), (14, Some(0x7c)));
        assert_eq!(attempt.bytes[0], 0x31);
        assert_eq!(attempt.end, "Terminated");
        assert!(attempt.made_up());
        let reply = Attempt::parse("sevsim: attempt 3 end=Returned detail=0x1 warned=false ");
        let reply = reply.unwrap();
        assert_eq!((reply.event.as_str(), reply.detail), ("", 1));
        assert_eq!(attempts("sevsim: alive exits=0\n"), []);
    }

    #[test]
    fn a_made_up_vc_ends_deliberately_or_is_the_instruction_itself() {
        assert_eq!(problem(&[]), None);
        assert_eq!(problem(&[("Terminated", "Panic")]), None);
        assert_eq!(problem(&[("Terminated", "Oops")]), Some("oops"));
        assert_eq!(problem(&[("Terminated", "Hang")]), Some("hang"));
        let returned = ("Terminated", "Returned");
        assert!(problem(&[returned]).unwrap().contains("executed"));
        assert!(problem(&[returned, ("7c", "400")])
            .unwrap()
            .contains("memory"));
        assert_eq!(problem(&[returned, ("31, c0", "0f, 32")]), None);
        assert_eq!(problem(&[returned, ("7c", "41")]), None);
        let oops = ("Terminated", "Oops");
        assert!(problem(&[oops, ("7c", "41")]).is_some());
        assert_eq!(problem(&[oops, ("7c", "51")]), None);
        assert!(problem(&[("warned=false", "warned=true")]).is_some());
    }

    #[test]
    fn an_nmi_does_no_harm() {
        let nmi = ("Vc(7c)", "Nmi");
        assert_eq!(problem(&[nmi, ("Terminated", "Returned")]), None);
        for end in ["Terminated", "Panic", "Oops", "Hang"] {
            assert!(problem(&[nmi, ("Terminated", end)]).is_some());
        }
    }

    #[test]
    fn what_cannot_be_known_may_end_the_guest_but_not_lead_it() {
        let fault = ("Vc(7c)", "Exception { vector: e, error: 2 }");
        for end in ["Oops", "TripleFault", "Hang", "Returned"] {
            assert_eq!(problem(&[fault, ("Terminated", end)]), None);
        }
        let oops = "Oops detail=0x0 cr2=0xffffffff5ec20b0b";
        let jump = ("Terminated detail=0x0", oops);
        assert!(problem(&[fault, jump]).unwrap().contains("register"));
        let oops = "Oops detail=0x0 cr2=0x2 jumped=true";
        let jump = ("Terminated detail=0x0", oops);
        assert!(problem(&[fault, jump]).unwrap().contains("no code"));
        let machine_check = ("Vc(7c)", "Exception { vector: 12, error: 0 }");
        assert_eq!(problem(&[machine_check, jump]), None);
    }
}
