// SPDX-License-Identifier: GPL-2.0
//! Addresses in the guest's kernel, by the symbols of its vmlinux.

use std::path::Path;

use object::Object;
use object::ObjectSymbol;

use crate::setup::SetupError;

/// Where an address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expression<'a> {
    symbol: Option<&'a str>,
    offset: u64,
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Reads `SYMBOL`, `SYMBOL+0xOFFSET` or `0xADDRESS`.
fn expression(text: &str) -> Option<Expression<'_>> {
    if let Some(offset) = hexadecimal(text) {
        return Some(Expression {
            symbol: None,
            offset,
        });
    }
    let (symbol, offset) = match text.split_once('+') {
        Some((symbol, offset)) => (symbol, hexadecimal(offset)?),
        None => (text, 0),
    };
    let first = symbol.chars().next()?;
    (!first.is_ascii_digit()).then_some(Expression {
        symbol: Some(symbol),
        offset,
    })
}

/// Reads `FROM,TO`; symbols are those of the ELF file `data`.
fn range(text: &str, data: Option<&[u8]>) -> Result<(u64, u64), String> {
    let wrong =
        || format!("takes FROM,TO, each a SYMBOL, SYMBOL+0xOFFSET or 0xADDRESS, not '{text}'");
    let (from, to) = text.split_once(',').ok_or_else(wrong)?;
    let mut addresses = [0; 2];
    for (address, text) in addresses.iter_mut().zip([from, to]) {
        let expression = expression(text).ok_or_else(wrong)?;
        let base = match expression.symbol {
            None => 0,
            Some(symbol) => {
                let data = data.ok_or("needs the kernel's vmlinux for its symbols (--vmlinux)")?;
                let file = object::File::parse(data).map_err(|error| error.to_string())?;
                let mut found = file
                    .symbols()
                    .filter(|known| !known.is_undefined() && known.name() == Ok(symbol));
                let base = found
                    .next()
                    .ok_or_else(|| format!("knows no symbol {symbol}: look into System.map"))?
                    .address();
                if found.any(|other| other.address() != base) {
                    return Err(format!("finds {symbol} more than once: give its address"));
                }
                base
            }
        };
        *address = base.wrapping_add(expression.offset);
    }
    Ok((addresses[0], addresses[1]))
}

/// sevsim's option for `--nmi-between`, with the symbols of `vmlinux`.
pub fn option(text: &str, vmlinux: Option<&Path>) -> Result<String, SetupError> {
    let data = match vmlinux {
        None => None,
        Some(path) => Some(
            std::fs::read(path)
                .map_err(|error| SetupError(format!("{}: {error}", path.display())))?,
        ),
    };
    let (from, to) = range(text, data.as_deref())
        .map_err(|error| SetupError(format!("--nmi-between {error}")))?;
    Ok(format!("nmi-between={from:#x},{to:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_symbols() {
        let address = Expression {
            symbol: None,
            offset: 0x1000,
        };
        assert_eq!(expression("0x1000"), Some(address));
        let symbol = |offset| Expression {
            symbol: Some("exc_nmi"),
            offset,
        };
        assert_eq!(expression("exc_nmi"), Some(symbol(0)));
        assert_eq!(expression("exc_nmi+0x10"), Some(symbol(0x10)));
        for wrong in ["", "12", "exc_nmi+16", "0x", "+0x10"] {
            assert_eq!(expression(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ranges() {
        let range = |text| super::range(text, None);
        assert_eq!(range("0x10,0x20"), Ok((0x10, 0x20)));
        assert!(range("0x10").unwrap_err().contains("FROM,TO"));
        assert!(range("exc_nmi,0x20").unwrap_err().contains("--vmlinux"));
        // This program has symbols as well.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (from, to) = super::range("main,main+0x4", Some(&own)).unwrap();
        assert_eq!(from + 4, to);
        let why = super::range("no_such_symbol,0x0", Some(&own)).unwrap_err();
        assert!(why.contains("no symbol no_such_symbol"), "{why}");
        assert!(super::range("main,0x0", Some(b"no ELF")).is_err());
    }
}
