// SPDX-License-Identifier: GPL-2.0
//! The table of hashes by which measured firmware trusts a kernel that it gets from the host.
//!
//! With direct boot the kernel comes through fw_cfg, that is: from the host. Firmware that was
//! built for it (OvmfPkg/AmdSev) reserves an area and names it in its table of GUIDed entries. The
//! VMM puts the hashes of kernel, initramfs and command line there before the launch is measured,
//! and the firmware refuses files with other hashes. The layout is QEMU's (target/i386/sev.c) and
//! edk2's (BlobVerifierLibSevHashes).

use sha2::Digest;
use sha2::Sha256;
use uuid::uuid;
use uuid::Uuid;

/// The table.
const TABLE: Uuid = uuid!("9438d606-4f22-4cc9-b479-a793d411fd21");
/// Its entries.
const COMMAND_LINE: Uuid = uuid!("97d02dd8-bd20-4c94-aa78-e7714d36ab2a");
const INITRD: Uuid = uuid!("44baf731-3a2f-4bd7-9af1-41e29169781d");
const KERNEL: Uuid = uuid!("4de79437-abd2-427f-b835-d5b172d2045b");

/// GUID and length.
const HEADER: usize = 18;
/// Header and hash.
const ENTRY: usize = HEADER + 32;
/// Header and three entries.
const TABLE_LEN: usize = HEADER + 3 * ENTRY;
/// With zeros up to the 16 bytes that LAUNCH_UPDATE_DATA takes at a time.
pub const LEN: usize = TABLE_LEN.next_multiple_of(16);

/// The table's bytes. The command line comes without its NUL, which is hashed with it; no initramfs
/// is an empty one.
pub fn table(kernel: &[u8], initrd: &[u8], command_line: &[u8]) -> [u8; LEN] {
    let mut line = Sha256::new_with_prefix(command_line);
    line.update([0]);
    let entries = [
        (COMMAND_LINE, line.finalize()),
        (INITRD, Sha256::digest(initrd)),
        (KERNEL, Sha256::digest(kernel)),
    ];
    let mut table = [0; LEN];
    header(&mut table, TABLE, TABLE_LEN);
    for (entry, (guid, hash)) in table[HEADER..].chunks_exact_mut(ENTRY).zip(entries) {
        header(entry, guid, ENTRY);
        entry[HEADER..].copy_from_slice(&hash);
    }
    table
}

fn header(entry: &mut [u8], guid: Uuid, len: usize) {
    entry[..16].copy_from_slice(&guid.to_bytes_le());
    entry[16..HEADER].copy_from_slice(&(len as u16).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let table = table(b"k", b"", b"");
        assert_eq!((LEN, TABLE_LEN), (176, 168));
        assert_eq!(table[..4], 0x9438_d606u32.to_le_bytes());
        assert_eq!(table[16..18], [168, 0]);
        for (at, guid) in [(18, 0x97d0_2dd8u32), (68, 0x44ba_f731), (118, 0x4de7_9437)] {
            assert_eq!(table[at..at + 4], guid.to_le_bytes());
            assert_eq!(table[at + 16..at + 18], [50, 0]);
        }
        // SHA-256 of one zero, and of nothing.
        assert_eq!(table[36..40], [0x6e, 0x34, 0x0b, 0x9c]);
        assert_eq!(table[86..90], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_eq!(table[168..], [0; 8]);
    }

    #[test]
    fn every_file_counts() {
        let all = table(b"kernel", b"initrd", b"line");
        assert_ne!(all, table(b"kerneL", b"initrd", b"line"));
        assert_ne!(all, table(b"kernel", b"initrD", b"line"));
        assert_ne!(all, table(b"kernel", b"initrd", b"linE"));
    }
}
