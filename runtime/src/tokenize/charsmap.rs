//! SentencePiece's compiled normalisation: a double-array trie from character sequences to their replacements.
//!
//! Layout (`Normalizer::DecodePrecompiledCharsMap` of SentencePiece): the byte length of the trie as u32, the trie as u32
//! units, then the replacements, each ended by a zero byte; all little-endian. A unit holds, as in Darts-clone: bits 0 to 7
//! the label (with bit 31 it is no label), bit 8 that a value follows, bit 9 that the offset is scaled by 256, bits 10 to 30
//! the offset to the children. A value is the unit's lower 31 bits: where in the replacements its text begins.

use super::error::TokenizeError;

/// Longest sequence that is looked for, in bytes. Those of the published tables are below 32; the bound keeps a table that
/// was made to loop from walking through the whole text at every character.
const LONGEST: usize = 128;

/// A normalisation table, checked as far as its sizes go.
#[derive(Debug)]
pub(super) struct Charsmap {
    bytes: usize,
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// Reads a table. None if it is empty.
    pub(super) fn read(table: &[u8]) -> Result<Option<Self>, TokenizeError> {
        let damaged = |why| TokenizeError::MalformedCharsmap {
            bytes: table.len(),
            why,
        };
        if table.is_empty() {
            return Ok(None);
        }
        let Some((length, rest)) = table.split_first_chunk::<4>() else {
            return Err(damaged("the length of its trie is cut off"));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((trie, replacements)) = rest.split_at_checked(length) else {
            return Err(damaged("its trie is longer than itself"));
        };
        let (units, left) = trie.as_chunks::<4>();
        if !left.is_empty() {
            return Err(damaged("its trie is not made of 4-byte units"));
        }
        if replacements.last().is_some_and(|last| *last != 0) {
            return Err(damaged("its last replacement has no end"));
        }
        let replacements = std::str::from_utf8(replacements)
            .map_err(|_| damaged("its replacements are not UTF-8"))?;
        Ok(Some(Charsmap {
            bytes: table.len(),
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_owned(),
        }))
    }

    /// The longest sequence at the beginning of `text` that is replaced: its length in bytes, and the replacement.
    pub(super) fn longest<'c>(
        &'c self,
        text: &str,
    ) -> Result<Option<(usize, &'c str)>, TokenizeError> {
        let mut found = None;
        let mut node = self.children(0, self.unit(0)?);
        for (at, &byte) in text.as_bytes().iter().take(LONGEST).enumerate() {
            if byte == 0 {
                break;
            }
            node ^= u32::from(byte);
            // Past the end there is no child, as a table may be cut where the rest is empty.
            let Some(&unit) = self.units.get(node as usize) else {
                break;
            };
            if unit & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            node = self.children(node, unit);
            if unit & 1 << 8 != 0 {
                found = Some((at + 1, self.unit(node)? & !(1 << 31)));
            }
        }
        let Some((length, start)) = found else {
            return Ok(None);
        };
        let rest = self.replacements.get(start as usize..);
        let replacement = rest.and_then(|rest| Some(rest.split_once('\0')?.0));
        match replacement {
            Some(replacement) if text.is_char_boundary(length) => Ok(Some((length, replacement))),
            Some(_) => Err(self.damaged("a sequence ends within a character")),
            None => Err(self.damaged("a replacement begins outside of the table")),
        }
    }

    fn unit(&self, node: u32) -> Result<u32, TokenizeError> {
        let unit = self.units.get(node as usize).copied();
        unit.ok_or_else(|| self.damaged("its trie points outside of itself"))
    }

    /// Where the children of a unit begin, to be combined with their labels.
    fn children(&self, node: u32, unit: u32) -> u32 {
        node ^ (unit >> 10) << ((unit & 1 << 9) >> 6)
    }

    fn damaged(&self, why: &'static str) -> TokenizeError {
        TokenizeError::MalformedCharsmap {
            bytes: self.bytes,
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie of one-byte keys: `a` to the replacement at 0, `b` to that at 2.
    fn table(units: &[(usize, u32)], replacements: &[u8]) -> Vec<u8> {
        let mut trie = vec![1 << 31; 512];
        for &(at, unit) in units {
            trie[at] = unit;
        }
        let mut bytes = (trie.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(trie.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend_from_slice(replacements);
        bytes
    }

    const ROOT: (usize, u32) = (0, 256 << 10);

    fn leaf(label: u8, offset: u32) -> (usize, u32) {
        (
            256 ^ label as usize,
            u32::from(label) | 1 << 8 | offset << 10,
        )
    }

    #[test]
    fn sequences_are_replaced_and_others_left_alone() {
        let node = 256 ^ u32::from(b'a');
        let units = [ROOT, leaf(b'a', 1), ((node ^ 1) as usize, 1 << 31 | 2)];
        let map = Charsmap::read(&table(&units, b"x\0yz\0")).unwrap().unwrap();
        assert_eq!(map.longest("ab").unwrap(), Some((1, "yz")));
        assert_eq!(map.longest("ba").unwrap(), None);
        assert_eq!(map.longest("").unwrap(), None);
        assert_eq!(map.longest("\0a").unwrap(), None);
        assert!(Charsmap::read(b"").unwrap().is_none());
    }

    #[test]
    fn a_damaged_table_is_refused_when_read_or_when_met() {
        for bad in [
            &b"\x01\0"[..],
            b"\x08\0\0\0abcd",
            b"\x02\0\0\0ab",
            b"\0\0\0\0x",
            b"\0\0\0\0\xFF\0",
        ] {
            assert!(Charsmap::read(bad).is_err(), "{bad:?}");
        }
        let empty = Charsmap::read(b"\0\0\0\0").unwrap().unwrap();
        assert!(empty.longest("a").is_err());

        let node = 256 ^ u32::from(b'a');
        let value = |at: u32| [ROOT, leaf(b'a', 1), ((node ^ 1) as usize, 1 << 31 | at)];
        let map = Charsmap::read(&table(&value(99), b"x\0")).unwrap().unwrap();
        assert!(
            map.longest("a")
                .unwrap_err()
                .to_string()
                .contains("outside of the table")
        );
        let map = Charsmap::read(&table(&[ROOT, leaf(b'a', 0x1F_FFFF)], b"x\0"));
        assert!(
            map.unwrap()
                .unwrap()
                .longest("a")
                .unwrap_err()
                .to_string()
                .contains("outside of itself")
        );
        let cut = 256 ^ 0xC3;
        let units = [ROOT, leaf(0xC3, 1), (cut ^ 1, 1 << 31)];
        let map = Charsmap::read(&table(&units, b"x\0")).unwrap().unwrap();
        assert!(
            map.longest("é")
                .unwrap_err()
                .to_string()
                .contains("within a character")
        );
    }
}
