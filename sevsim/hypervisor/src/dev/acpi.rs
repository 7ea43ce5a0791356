// SPDX-License-Identifier: GPL-2.0
//! ACPI tables for a guest that has no firmware to fetch them.
//!
//! QEMU offers the tables as fw_cfg files, with a script of how to put them together: which file
//! goes to memory, where one file points into another, which sums to correct (QEMU's
//! hw/acpi/bios-linker-loader.c). Firmware carries the script out; here the launch does.

use core::fmt;

use super::fw_cfg;
use crate::platform::Platform;

/// The tables but for the root pointer.
pub const TABLES: &[u8] = b"etc/acpi/tables";
/// The root pointer.
pub const RSDP: &[u8] = b"etc/acpi/rsdp";
/// The script.
pub const SCRIPT: &[u8] = b"etc/table-loader";

/// A command: its number, and 124 bytes of arguments.
const COMMAND: usize = 128;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// Tells the host an address; no device of sevsim's machine asks for one.
const WRITE_POINTER: u32 = 4;
/// File names have this many bytes, NUL included.
const NAME: usize = 56;

/// Why the tables cannot be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// QEMU has no such file.
    NoFile,
    /// The script names a file that is not known here.
    UnknownFile,
    /// The script has a command that is not known here.
    UnknownCommand(u32),
    /// A command reaches beyond a file's end.
    OutOfFile,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str("QEMU offers no ACPI tables"),
            Self::UnknownFile => f.write_str("QEMU's ACPI script names an unknown file"),
            Self::UnknownCommand(number) => {
                write!(f, "QEMU's ACPI script has an unknown command, {number}")
            }
            Self::OutOfFile => f.write_str("QEMU's ACPI script reaches beyond a file"),
        }
    }
}

/// A file in the making.
pub struct File<'a> {
    /// Its name in the script.
    pub name: &'static [u8],
    /// Where the guest will have it.
    pub gpa: u64,
    /// Its bytes.
    pub data: &'a mut [u8],
}

/// Bytes of a file of QEMU's.
pub fn size<P: Platform>(platform: &P, name: &[u8]) -> Result<usize, AcpiError> {
    let file = fw_cfg::find(platform, name).ok_or(AcpiError::NoFile)?;
    Ok(file.size)
}

/// Reads a file of QEMU's, as much as `buf` holds.
pub fn read<P: Platform>(platform: &P, name: &[u8], buf: &mut [u8]) -> Result<(), AcpiError> {
    let file = fw_cfg::find(platform, name).ok_or(AcpiError::NoFile)?;
    let len = file.size.min(buf.len());
    fw_cfg::read_file(platform, &file, &mut buf[..len]);
    Ok(())
}

/// Carries the script out on `files`.
pub fn link(script: &[u8], files: &mut [File<'_>]) -> Result<(), AcpiError> {
    for command in script.chunks_exact(COMMAND) {
        let number = word(command, 0);
        let arguments = &command[4..];
        match number {
            // Whoever calls has placed the files; an unknown one must not go unnoticed.
            ALLOCATE => {
                find(files, arguments)?;
            }
            ADD_POINTER => add_pointer(files, arguments)?,
            ADD_CHECKSUM => add_checksum(files, arguments)?,
            WRITE_POINTER => {}
            // The script's file is longer than the script.
            0 => break,
            other => return Err(AcpiError::UnknownCommand(other)),
        }
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The file whose name stands at the start of `arguments`.
fn find(files: &[File<'_>], arguments: &[u8]) -> Result<usize, AcpiError> {
    let name = arguments[..NAME].split(|byte| *byte == 0).next();
    let known = files.iter().position(|file| Some(file.name) == name);
    known.ok_or(AcpiError::UnknownFile)
}

/// The value at an offset is one into another file: makes it an address.
fn add_pointer(files: &mut [File<'_>], arguments: &[u8]) -> Result<(), AcpiError> {
    let to = find(files, &arguments[NAME..])?;
    let address = files[to].gpa;
    let from = find(files, arguments)?;
    let at = word(arguments, 2 * NAME) as usize;
    let size = usize::from(arguments[2 * NAME + 4]).min(8);
    let place = files[from].data.get_mut(at..at.saturating_add(size));
    let place = place.ok_or(AcpiError::OutOfFile)?;
    let mut value = [0; 8];
    value[..size].copy_from_slice(place);
    let value = u64::from_le_bytes(value).wrapping_add(address);
    place.copy_from_slice(&value.to_le_bytes()[..size]);
    Ok(())
}

/// A byte makes the sum of a range zero.
fn add_checksum(files: &mut [File<'_>], arguments: &[u8]) -> Result<(), AcpiError> {
    let file = find(files, arguments)?;
    let data = &mut files[file].data;
    let [at, start, len] = [0, 4, 8].map(|offset| word(arguments, NAME + offset) as usize);
    let range = data.get(start..start.saturating_add(len));
    let sum = range
        .ok_or(AcpiError::OutOfFile)?
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    let place = data.get_mut(at).ok_or(AcpiError::OutOfFile)?;
    *place = place.wrapping_sub(sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(number: u32, first: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend_from_slice(first);
        bytes.resize(4 + NAME, 0);
        bytes.extend_from_slice(rest);
        bytes.resize(COMMAND, 0);
        bytes
    }

    fn pointer(from: &[u8], to: &[u8], at: u32, size: u8) -> Vec<u8> {
        let mut rest = to.to_vec();
        rest.resize(NAME, 0);
        rest.extend_from_slice(&at.to_le_bytes());
        rest.push(size);
        command(ADD_POINTER, from, &rest)
    }

    fn checksum(file: &[u8], at: u32, start: u32, len: u32) -> Vec<u8> {
        let words = [at, start, len].map(u32::to_le_bytes);
        command(ADD_CHECKSUM, file, &words.concat())
    }

    fn run(script: &[u8], tables: &mut [u8], rsdp: &mut [u8]) -> Result<(), AcpiError> {
        let mut files = [
            File {
                name: TABLES,
                gpa: 0x7fff_0000,
                data: tables,
            },
            File {
                name: RSDP,
                gpa: 0xe_0000,
                data: rsdp,
            },
        ];
        link(script, &mut files)
    }

    #[test]
    fn pointers_and_sums() {
        let mut tables = [0; 64];
        let mut rsdp = [1; 24];
        rsdp[16..20].copy_from_slice(&0x20_u32.to_le_bytes());
        let script = [
            command(ALLOCATE, TABLES, &64_u32.to_le_bytes()),
            command(ALLOCATE, RSDP, &16_u32.to_le_bytes()),
            pointer(RSDP, TABLES, 16, 4),
            checksum(RSDP, 8, 0, 20),
            vec![0; COMMAND],
            vec![0xff; COMMAND],
        ]
        .concat();
        run(&script, &mut tables, &mut rsdp).unwrap();
        assert_eq!(rsdp[16..20], 0x7fff_0020_u32.to_le_bytes());
        let sum = rsdp[..20].iter().fold(0, |a: u8, b| a.wrapping_add(*b));
        // The byte itself was 1 and counted.
        assert_eq!(sum, 0);
        assert_eq!(rsdp[20..], [1; 4]);
    }

    #[test]
    fn bad_scripts_are_refused() {
        let try_it = |script: &[u8]| run(script, &mut [0; 16], &mut [0; 16]);
        let cases = [
            (pointer(RSDP, TABLES, 13, 4), AcpiError::OutOfFile),
            (pointer(RSDP, TABLES, u32::MAX, 4), AcpiError::OutOfFile),
            (pointer(RSDP, b"etc/else", 0, 4), AcpiError::UnknownFile),
            (checksum(TABLES, 0, 1, 16), AcpiError::OutOfFile),
            (checksum(TABLES, 16, 0, 16), AcpiError::OutOfFile),
            (command(ALLOCATE, b"etc/else", &[]), AcpiError::UnknownFile),
            (command(9, b"", &[]), AcpiError::UnknownCommand(9)),
        ];
        for (script, error) in cases {
            assert_eq!(try_it(&script), Err(error));
        }
    }
}
