// SPDX-License-Identifier: GPL-2.0
//! What sevsim told of address space isolation: the share of exits that were handled without
//! leaving it, and faults inside with the names of sevsim's functions.

use std::fmt::Write;

use object::Object;
use object::ObjectSymbol;
use object::SymbolKind;

use crate::simlog::Record;
use crate::simlog::SimLog;

/// sevsim's functions: address and name, in the order of addresses. The image is a container for 32
/// bits, so that of an address the lower half is known.
#[derive(Debug, Default)]
struct Functions(Vec<(u32, String)>);

impl Functions {
    /// Those of an image; none if it has no symbols.
    fn of(image: &[u8]) -> Self {
        let Ok(file) = object::File::parse(image) else {
            return Self::default();
        };
        let mut functions: Vec<_> = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && !symbol.is_undefined())
            .filter_map(|symbol| Some((symbol.address() as u32, plain(symbol.name().ok()?))))
            .collect();
        functions.sort();
        Self(functions)
    }

    /// An address as function and offset, or as it is.
    fn name(&self, address: u64) -> String {
        let low = address as u32;
        let behind = self.0.partition_point(|(start, _)| *start <= low);
        match behind.checked_sub(1).and_then(|index| self.0.get(index)) {
            Some((start, name)) => format!("{name}+{:#x}", low - start),
            None => format!("{address:#x}"),
        }
    }
}

/// A mangled name (`_ZN`, then each part behind its length, `E`) without the hash at its end.
fn plain(mangled: &str) -> String {
    let parts = || -> Option<Vec<&str>> {
        let mut rest = mangled.strip_prefix("_ZN")?;
        let mut parts = Vec::new();
        while rest != "E" && !rest.starts_with("E.") {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let len: usize = rest[..digits].parse().ok()?;
            parts.push(rest.get(digits..digits + len)?);
            rest = &rest[digits + len..];
        }
        let hash = parts.last()?;
        if parts.len() > 1 && hash.len() == 17 && hash.starts_with('h') {
            parts.pop();
        }
        Some(parts)
    };
    parts().map_or_else(|| mangled.to_string(), |parts| parts.join("::"))
}

/// A fault in the isolated address space, as a person would want it.
fn fault(record: &Record, functions: &Functions) -> String {
    let text = |key| record.get(key).unwrap_or("?");
    let at = record.number("rip").map(|rip| functions.name(rip));
    format!(
        "asi: page fault error={} at {} on {}, vCPU {}",
        text("error"),
        at.as_deref().unwrap_or("?"),
        text("address"),
        text("vcpu")
    )
}

/// The first fault, if there was one.
pub fn first_fault(log: &SimLog) -> Option<String> {
    let record = log.event("asi-fault")?;
    Some(fault(record, &Functions::default()))
}

/// Part of the whole in per cent, never rounded up to all of it.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    let share = 10_000.0 * part as f64 / whole as f64;
    share.floor() / 100.0
}

/// Lines about isolation, if there was any.
pub fn told(log: &SimLog, image: &[u8]) -> String {
    let mut text = String::new();
    let functions = Functions::of(image);
    for record in &log.events {
        match record.name.as_str() {
            "asi-fault" => {
                let _ = writeln!(text, "sevsim-run: {}", fault(record, &functions));
            }
            "asi-caller" => {
                let rip = record.number("rip").unwrap_or(0);
                let _ = writeln!(text, "sevsim-run: asi:   from {}", functions.name(rip));
            }
            _ => (),
        }
    }
    let rows = || log.report.iter().filter(|record| record.name == "asi");
    let sum = |key| rows().filter_map(|row| row.number(key)).sum::<u64>();
    if rows().next().is_some() {
        let (exits, requests) = (sum("exits"), sum("requests"));
        let _ = writeln!(
            text,
            "sevsim-run: asi: {:.2} % of {exits} exits, {:.2} % of {requests} VMGEXITs handled \
             without leaving the isolated address space; {} kicks of siblings",
            percent(exits.saturating_sub(sum("exits-left")), exits),
            percent(requests.saturating_sub(sum("requests-left")), requests),
            sum("kicks"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_readable() {
        for (mangled, want) in [
            (
                "_ZN6sevsim9isolation5fault5touch17h0123456789abcdefE",
                "sevsim::isolation::fault::touch",
            ),
            ("_ZN6sevsim3runE", "sevsim::run"),
            ("_ZN4core3fmt17h0123456789abcdefE.llvm.1", "core::fmt"),
            ("world_switch", "world_switch"),
            ("_ZN99shortE", "_ZN99shortE"),
            ("_ZN", "_ZN"),
        ] {
            assert_eq!(plain(mangled), want);
        }
    }

    #[test]
    fn addresses_get_the_function_before_them() {
        let functions = Functions(vec![
            (0x8020_0000, "first".into()),
            (0x8020_0100, "second".into()),
        ]);
        assert_eq!(functions.name(0xffff_ffff_8020_00ff), "first+0xff");
        assert_eq!(functions.name(0xffff_ffff_8020_0100), "second+0x0");
        assert_eq!(functions.name(0x1000), "0x1000");
        // This program has symbols as well.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!Functions::of(&own).0.is_empty());
        assert!(Functions::of(b"no ELF").0.is_empty());
    }

    #[test]
    fn a_fault_is_told_with_its_callers() {
        let mut log = SimLog::default();
        assert_eq!((told(&log, b""), first_fault(&log)), (String::new(), None));
        log.line("sevsim: event asi-fault vcpu=1 error=0x2 rip=0x80200010 address=0x5000");
        log.line("sevsim: event asi-caller vcpu=1 rip=0x80200110");
        let fault = "asi: page fault error=0x2 at 0x80200010 on 0x5000, vCPU 1";
        let want = format!("sevsim-run: {fault}\nsevsim-run: asi:   from 0x80200110\n");
        assert_eq!(told(&log, b""), want);
        assert_eq!(first_fault(&log).as_deref(), Some(fault));
    }

    #[test]
    fn the_share_is_that_of_all_vcpus_and_not_rounded_up() {
        let mut log = SimLog::default();
        for (left, kicks) in [(1, 2), (0, 3)] {
            log.line(&format!(
                "sevsim: report asi exits=100000 exits-left={left} requests=10 \
                 requests-left={left} kicks={kicks}"
            ));
        }
        let text = told(&log, b"");
        let want = "99.99 % of 200000 exits, 95.00 % of 20 VMGEXITs";
        assert!(text.contains(want) && text.contains("5 kicks"), "{text}");
        assert_eq!(percent(0, 0), 0.0);
    }
}
