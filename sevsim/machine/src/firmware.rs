// SPDX-License-Identifier: GPL-2.0
//! The table of GUIDed entries at the end of a SEV firmware image (OVMF).
//!
//! The table ends 32 bytes before the image does and is read backwards: each entry is data, a
//! 16-bit length of the whole entry, and a GUID. The footer's length is that of the whole table
//! (edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm).

use core::fmt;
use core::ops::Range;

use uuid::uuid;
use uuid::Uuid;

use crate::launch::hashes;

/// Where the firmware wants application processors to start (APM vol. 2, 15.35.4 names the VMSA
/// as the reset state; the values come from this block).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetVector {
    /// Base of CS.
    pub cs_base: u32,
    /// IP.
    pub ip: u16,
}

/// Why an image does not tell what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareError {
    /// There is no table.
    NoTable,
    /// An entry's length does not fit into the table, or the table not into the image.
    Damaged,
    /// The table has no SEV-ES reset block.
    NoResetBlock,
    /// The SEV-ES reset block has another length than 4, or names address 0.
    BadResetBlock,
    /// The table has no area for the hashes of kernel, initramfs and command line.
    NoHashesArea,
    /// That area is empty or too small: the firmware knows of hashes, and was built without.
    BadHashesArea,
}

impl fmt::Display for FirmwareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTable => "the firmware has no table of GUIDed entries: it is not made for SEV",
            Self::Damaged => "the firmware's table of GUIDed entries is damaged",
            Self::NoResetBlock => {
                "the firmware has no SEV-ES reset block: it cannot start a second vCPU"
            }
            Self::BadResetBlock => "the firmware's SEV-ES reset block is damaged",
            Self::NoHashesArea => {
                "the firmware has no area for hashes of the kernel: it cannot measure a direct \
                 boot (OvmfPkg/AmdSev can)"
            }
            Self::BadHashesArea => {
                "the firmware's area for hashes of the kernel is empty or too small: it cannot \
                 measure a direct boot (OvmfPkg/AmdSev can)"
            }
        })
    }
}

/// The footer.
const FOOTER: Uuid = uuid!("96b582de-1fb2-45f7-baea-a366c55a082d");
/// The SEV-ES reset block: 32-bit address.
const RESET_BLOCK: Uuid = uuid!("00f771de-1a7e-4fcb-890e-68c77e2fb44e");
/// The area for the table of hashes: 32-bit address and length.
const HASHES_AREA: Uuid = uuid!("7255371f-3a3b-4b04-927b-1da6efa8d454");

/// Bytes of the image behind the table.
const TAIL: usize = 32;
/// Length and GUID of an entry.
const HEADER: usize = 18;

/// Splits the last entry off `table`: the rest, its data, its GUID.
fn last_entry(table: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let header = table.len().checked_sub(HEADER)?;
    let length = usize::from(u16::from_le_bytes([table[header], table[header + 1]]));
    let start = table.len().checked_sub(length)?;
    let data = table.get(start..header)?;
    Some((&table[..start], data, &table[header + 2..]))
}

/// The data of an entry of an image's table.
fn entry(image: &[u8], wanted: Uuid) -> Result<Option<&[u8]>, FirmwareError> {
    let end = image.len().checked_sub(TAIL);
    let table = &image[..end.ok_or(FirmwareError::NoTable)?];
    if !table.ends_with(&FOOTER.to_bytes_le()) {
        return Err(FirmwareError::NoTable);
    }
    // The footer's length covers the table, so its "data" are all other entries.
    let (_, mut table, _) = last_entry(table).ok_or(FirmwareError::Damaged)?;
    while !table.is_empty() {
        let (rest, data, guid) = last_entry(table).ok_or(FirmwareError::Damaged)?;
        if guid == wanted.to_bytes_le() {
            return Ok(Some(data));
        }
        table = rest;
    }
    Ok(None)
}

/// The SEV-ES reset block of a firmware image.
///
/// # Errors
/// All but those about hashes.
pub fn reset_vector(image: &[u8]) -> Result<ResetVector, FirmwareError> {
    let data = entry(image, RESET_BLOCK)?.ok_or(FirmwareError::NoResetBlock)?;
    match data.try_into().map(u32::from_le_bytes) {
        Ok(0) | Err(_) => Err(FirmwareError::BadResetBlock),
        Ok(address) => Ok(ResetVector {
            cs_base: address & 0xffff_0000,
            ip: address as u16,
        }),
    }
}

/// Where a firmware image looks for the table of hashes.
///
/// # Errors
/// All but those about the reset block.
pub fn hashes_area(image: &[u8]) -> Result<Range<u64>, FirmwareError> {
    let data = entry(image, HASHES_AREA)?.ok_or(FirmwareError::NoHashesArea)?;
    let Some((address, length)) = data.split_first_chunk() else {
        return Err(FirmwareError::BadHashesArea);
    };
    let Some(length) = length.first_chunk() else {
        return Err(FirmwareError::BadHashesArea);
    };
    let start = u64::from(u32::from_le_bytes(*address));
    let length = u64::from(u32::from_le_bytes(*length));
    if start == 0 || length < hashes::LEN as u64 {
        return Err(FirmwareError::BadHashesArea);
    }
    Ok(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(entries: &[(&[u8], Uuid)]) -> Vec<u8> {
        let mut table = Vec::new();
        for (data, guid) in entries {
            table.extend_from_slice(data);
            table.extend_from_slice(&((data.len() + HEADER) as u16).to_le_bytes());
            table.extend_from_slice(&guid.to_bytes_le());
        }
        let length = (table.len() + HEADER) as u16;
        table.extend_from_slice(&length.to_le_bytes());
        table.extend_from_slice(&FOOTER.to_bytes_le());
        let mut image = vec![0xaa; 100];
        image.extend_from_slice(&table);
        image.extend_from_slice(&[0; TAIL]);
        image
    }

    const OTHER: Uuid = Uuid::from_u128(7);

    #[test]
    fn guid_bytes_are_in_mixed_order() {
        let bytes = [
            0xde, 0x71, 0xf7, 0, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68,
        ];
        assert_eq!(RESET_BLOCK.to_bytes_le()[..11], bytes);
    }

    #[test]
    fn finds_the_block_among_others() {
        let data = 0x0080_b004u32.to_le_bytes();
        let image = image(&[(&[1, 2, 3], OTHER), (&data, RESET_BLOCK), (&[], OTHER)]);
        let expected = ResetVector {
            cs_base: 0x80_0000,
            ip: 0xb004,
        };
        assert_eq!(reset_vector(&image), Ok(expected));
        assert_eq!(hashes_area(&image), Err(FirmwareError::NoHashesArea));
    }

    #[test]
    fn finds_the_area_for_hashes() {
        let area = |start: u32, length: u32| {
            let data = [start.to_le_bytes(), length.to_le_bytes()].concat();
            hashes_area(&image(&[(&data, HASHES_AREA)]))
        };
        assert_eq!(area(0x80_d800, 0x400), Ok(0x80_d800..0x80_dc00));
        assert_eq!(area(0x80_d800, 176), Ok(0x80_d800..0x80_d8b0));
        assert_eq!(area(0xffff_fff0, 0x400), Ok(0xffff_fff0..0x1_0000_03f0));
        // As in OVMF without AmdSev.
        assert_eq!(area(0, 0), Err(FirmwareError::BadHashesArea));
        assert_eq!(area(0, 0x400), Err(FirmwareError::BadHashesArea));
        assert_eq!(area(0x80_d800, 175), Err(FirmwareError::BadHashesArea));
        for short in 0..8 {
            let image = image(&[(&[1; 8][..short], HASHES_AREA)]);
            assert_eq!(hashes_area(&image), Err(FirmwareError::BadHashesArea));
        }
    }

    #[test]
    fn absent_things_are_told_apart_from_damaged_ones() {
        let data = 0x0080_b004u32.to_le_bytes();
        let good = image(&[(&data, RESET_BLOCK)]);
        let cut = |len: usize| reset_vector(&good[good.len() - len..]);
        for len in 0..TAIL + 16 {
            assert_eq!(cut(len), Err(FirmwareError::NoTable), "{len}");
        }
        for len in TAIL + 16..TAIL + HEADER + HEADER + 4 {
            assert_eq!(cut(len), Err(FirmwareError::Damaged), "{len}");
        }
        assert!(cut(TAIL + HEADER + HEADER + 4).is_ok());
        let block = |data: &[u8]| reset_vector(&image(&[(data, RESET_BLOCK)]));
        assert_eq!(block(&data[..3]), Err(FirmwareError::BadResetBlock));
        assert_eq!(block(&[1; 5]), Err(FirmwareError::BadResetBlock));
        assert_eq!(block(&[0; 4]), Err(FirmwareError::BadResetBlock));
        let other = image(&[(&data, OTHER)]);
        assert_eq!(reset_vector(&other), Err(FirmwareError::NoResetBlock));
        let empty = image(&[]);
        assert_eq!(reset_vector(&empty), Err(FirmwareError::NoResetBlock));
    }

    /// Whatever one byte of the table is changed to: an answer, and no panic.
    #[test]
    fn any_byte_may_be_damaged() {
        let data = 0x0080_b004u32.to_le_bytes();
        let good = image(&[(&[1, 2, 3], OTHER), (&data, RESET_BLOCK)]);
        let mut damaged = 0;
        for at in 100..good.len() - TAIL {
            for value in 0..=255 {
                let mut bad = good.clone();
                bad[at] = value;
                damaged += usize::from(reset_vector(&bad) == Err(FirmwareError::Damaged));
            }
        }
        // The three lengths have two bytes each, most values of which cannot be right.
        assert!(damaged > 4 * 200, "{damaged}");
    }
}
