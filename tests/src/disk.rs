// SPDX-License-Identifier: GPL-2.0
//! A disk that the firmware boots: an EFI system partition with a kernel and a start-up script.
//!
//! The firmware's own shell runs `startup.nsh`, which starts the kernel with its command line and
//! its initramfs: no boot loader has to be trusted or built.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;
/// Size of the file system; FAT32 begins well below.
const SIZE: u64 = 64 * MIB;

fn mtools(program: &str, image: &Path, args: &[&str]) -> io::Result<()> {
    let output = Command::new(program)
        .arg("-i")
        .arg(image)
        .args(args)
        .output()
        .map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("{program}: {e}; install the package mtools"),
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}", text.trim())))
}

/// Writes the image: the whole disk is one FAT file system, which UEFI reads like a partition.
pub fn make(image: &Path, kernel: &Path, initrd: &Path, cmdline: &str) -> io::Result<()> {
    let _ = fs::remove_file(image);
    File::create(image)?.set_len(SIZE)?;
    let script = image.with_extension("nsh");
    let text = format!("@echo -off\r\nfs0:\r\n\\linux.efi initrd=\\initrd.gz {cmdline}\r\n");
    fs::write(&script, text)?;
    mtools("mformat", image, &["-F", "-v", "SEVSIM", "::"])?;
    mtools("mcopy", image, &[&kernel.to_string_lossy(), "::/linux.efi"])?;
    mtools("mcopy", image, &[&initrd.to_string_lossy(), "::/initrd.gz"])?;
    mtools(
        "mcopy",
        image,
        &[&script.to_string_lossy(), "::/startup.nsh"],
    )
}
