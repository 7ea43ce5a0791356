// SPDX-License-Identifier: GPL-2.0
//! The table of GUIDed entries at the end of a SEV firmware image (OVMF).
//!
//! The table ends 32 bytes before the image does and is read backwards: each entry is data, a
//! 16-bit length of the whole entry, and a GUID. The footer's length is that of the whole table.

/// Where the firmware wants application processors to start (APM vol. 2, 15.35.4 names the VMSA
/// as the reset state; the values come from this block).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetVector {
    /// Base of CS.
    pub cs_base: u32,
    /// IP.
    pub ip: u16,
}

type Guid = [u8; 16];

/// 96b582de-1fb2-45f7-baea-a366c55a082d, the footer.
const FOOTER: Guid = guid(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
/// 00f771de-1a7e-4fcb-890e-68c77e2fb44e, the SEV-ES reset block.
const RESET_BLOCK: Guid = guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);

/// Bytes of the image behind the table.
const TAIL: usize = 32;
/// Length and GUID of an entry.
const HEADER: usize = 18;

/// A GUID in memory: three little-endian fields, then eight bytes in order.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> Guid {
    let (a, b, c, d) = (
        a.to_le_bytes(),
        b.to_le_bytes(),
        c.to_le_bytes(),
        d.to_be_bytes(),
    );
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ]
}

/// Splits the last entry off `table`: the rest, its data, its GUID.
fn last_entry(table: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let header = table.len().checked_sub(HEADER)?;
    let length = usize::from(u16::from_le_bytes([table[header], table[header + 1]]));
    let start = table.len().checked_sub(length)?;
    let data = table.get(start..header)?;
    Some((&table[..start], data, &table[header + 2..]))
}

/// The SEV-ES reset block of a firmware image.
pub fn reset_vector(image: &[u8]) -> Option<ResetVector> {
    let table = &image[..image.len().checked_sub(TAIL)?];
    // The footer's length covers the table, so its "data" are all other entries.
    let (_, mut table, footer) = last_entry(table)?;
    if footer != FOOTER {
        return None;
    }
    while !table.is_empty() {
        let (rest, data, guid) = last_entry(table)?;
        if guid == RESET_BLOCK {
            let data: [u8; 4] = data.try_into().ok()?;
            return Some(ResetVector {
                cs_base: u32::from_le_bytes(data) & 0xffff_0000,
                ip: u16::from_le_bytes([data[0], data[1]]),
            });
        }
        table = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(entries: &[(&[u8], Guid)]) -> Vec<u8> {
        let mut table = Vec::new();
        for (data, guid) in entries {
            table.extend_from_slice(data);
            table.extend_from_slice(&((data.len() + HEADER) as u16).to_le_bytes());
            table.extend_from_slice(guid);
        }
        let length = (table.len() + HEADER) as u16;
        table.extend_from_slice(&length.to_le_bytes());
        table.extend_from_slice(&FOOTER);
        let mut image = vec![0xaa; 100];
        image.extend_from_slice(&table);
        image.extend_from_slice(&[0; TAIL]);
        image
    }

    #[test]
    fn guid_bytes_are_in_mixed_order() {
        let bytes = [
            0xde, 0x71, 0xf7, 0, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68,
        ];
        assert_eq!(RESET_BLOCK[..11], bytes);
    }

    #[test]
    fn finds_the_block_among_others() {
        let data = 0x0080_b004u32.to_le_bytes();
        let image = image(&[(&[1, 2, 3], [7; 16]), (&data, RESET_BLOCK), (&[], [9; 16])]);
        let expected = ResetVector {
            cs_base: 0x80_0000,
            ip: 0xb004,
        };
        assert_eq!(reset_vector(&image), Some(expected));
    }

    #[test]
    fn damaged_tables_are_refused() {
        let data = 0x0080_b004u32.to_le_bytes();
        let good = image(&[(&data, RESET_BLOCK)]);
        assert_eq!(reset_vector(&good[..20]), None);
        assert_eq!(reset_vector(&image(&[(&data[..3], RESET_BLOCK)])), None);
        assert_eq!(reset_vector(&image(&[(&data, [0; 16])])), None);
        let mut bad = good.clone();
        let length = bad.len() - TAIL - HEADER;
        bad[length] = 0xff;
        bad[length + 1] = 0xff;
        assert_eq!(reset_vector(&bad), None);
    }
}
