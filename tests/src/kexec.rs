// SPDX-License-Identifier: GPL-2.0
//! An initramfs whose guest starts its kernel once more by kexec.
//!
//! It is the usual one, and behind it an archive with the program (`tests/guest/again.c`), the
//! kernel, and the usual one again for the second kernel.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::runner::Places;

/// Appends one entry of a cpio archive of format "newc" (Linux's
/// Documentation/driver-api/early-userspace/buffer-format.rst).
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let (links, size, name_size) = (1, data.len(), name.len() + 1);
    let inode = archive.len() + 1;
    archive.extend_from_slice(b"070701");
    for field in [
        inode,
        mode as usize,
        0,
        0,
        links,
        0,
        size,
        0,
        0,
        0,
        0,
        name_size,
        0,
    ] {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(data);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// An archive of a folder `kexec` with these files, all executable.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    const FOLDER: u32 = 0o040_755;
    const FILE: u32 = 0o100_755;
    let mut archive = Vec::new();
    entry(&mut archive, "kexec", FOLDER, &[]);
    for (name, data) in files {
        entry(&mut archive, &format!("kexec/{name}"), FILE, data);
    }
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

/// Compiles the guest's program.
fn program(places: &Places, to: &Path) -> io::Result<Vec<u8>> {
    let output = Command::new("cc")
        .args(["-static", "-Os", "-s", "-Wall", "-Werror", "-o"])
        .arg(to)
        .arg(places.top.join("tests/guest/again.c"))
        .output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("cc: {}", text.trim())));
    }
    fs::read(to)
}

/// Writes the initramfs for a guest that runs `kernel`, and is to run it again.
pub fn initramfs(places: &Places, kernel: &Path, to: &Path) -> io::Result<()> {
    let usual = fs::read(places.initramfs())?;
    let files = [
        ("again", program(places, &to.with_extension("again"))?),
        ("bzImage", fs::read(kernel)?),
        ("initrd", usual.clone()),
    ];
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, data)| (*name, &data[..]))
        .collect();
    let mut bytes = usual;
    // The kernel looks for the next archive at multiples of four.
    pad(&mut bytes);
    bytes.extend(archive(&files));
    fs::write(to, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_newc() {
        let archive = archive(&[("a", b"hello")]);
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive).into_owned();
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|at| at % 4 == 0));
        let second = &text[starts[1]..];
        assert_eq!(&second[14..22], "000081ed", "mode");
        assert_eq!(&second[54..62], "00000005", "size");
        assert_eq!(&second[94..102], "00000008", "length of the name");
        assert_eq!(&second[110..117], "kexec/a");
        assert_eq!(&second[120..125], "hello");
        assert!(text.contains("TRAILER!!!"));
    }
}
