//! The bytes of every token in one block, and an index that finds the token with given bytes.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::byte_level;
use super::error::TokenizeError;
use super::vocabulary::{TokenKind, Vocabulary, VocabularyKind, parse_byte_token};

/// How all but byte-level vocabularies write a space.
pub(super) const SPACE_MARK: char = '\u{2581}';

/// What each token renders as: its bytes, with the notation of the vocabulary (byte alphabet, `▁`, `<0xHH>`) undone.
/// Texts that steer the model (control, unknown) are kept as they are.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
}

impl Pieces {
    /// The pieces of all tokens of `vocabulary`, by id.
    pub(super) fn of(vocabulary: &Vocabulary) -> Result<Self, TokenizeError> {
        let mut pieces = Pieces::default();
        let mut piece = Vec::new();
        for token in &vocabulary.tokens {
            piece.clear();
            match token.kind {
                TokenKind::Byte => piece.extend(parse_byte_token(&token.text)),
                TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                    piece.extend_from_slice(&token.text);
                }
                TokenKind::Normal | TokenKind::Unused => {
                    decode_text(vocabulary.kind, &token.text, &mut piece)
                }
            }
            pieces.push(&piece, token.kind)?;
        }
        Ok(pieces)
    }

    /// Appends a piece; its id is the number of pieces before.
    pub(super) fn push(&mut self, piece: &[u8], kind: TokenKind) -> Result<u32, TokenizeError> {
        let id = self.ends.len() as u32;
        let total = self.bytes.len() + piece.len();
        let end = u32::try_from(total).map_err(|_| TokenizeError::VocabularyTooLarge {
            what: "bytes of token text",
            found: total,
            limit: u32::MAX as usize,
        })?;
        self.bytes.extend_from_slice(piece);
        self.ends.push(end);
        self.kinds.push(kind);
        Ok(id)
    }

    /// Number of pieces.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of piece `id`.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)?;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start as usize..end as usize])
    }

    /// The kind of piece `id`.
    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Each id with its bytes and kind.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[u8], TokenKind)> {
        (0u32..)
            .zip(&self.kinds)
            .map(|(id, &kind)| (id, self.get(id).unwrap_or_default(), kind))
    }
}

/// Undoes the notation of an ordinary token's text. What is not UTF-8 stays as it is.
pub(super) fn decode_text(kind: VocabularyKind, text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        match kind {
            VocabularyKind::Bpe => byte_level::decode_into(chunk.valid(), out),
            _ => {
                for (position, part) in chunk.valid().split(SPACE_MARK).enumerate() {
                    out.extend(b" ".iter().take(position.min(1)));
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
}

/// Whether a text is made of the characters with which the vocabulary writes text. Some vocabularies have tokens beside
/// these, which text never becomes where a token in the notation has the same bytes.
fn in_notation(kind: VocabularyKind, text: &[u8]) -> bool {
    let written = |text: &str| match kind {
        VocabularyKind::Bpe => text.chars().all(|c| byte_level::byte_of(c).is_some()),
        _ => !text.contains(' '),
    };
    std::str::from_utf8(text).is_ok_and(written)
}

/// Finds a piece by its bytes. The hash is keyed at random, so that a vocabulary can't be made to collide.
#[derive(Debug)]
pub(super) struct PieceIndex {
    slots: Vec<u32>,
    used: usize,
    longest: usize,
    hasher: RandomState,
}

/// A slot without a piece.
const EMPTY: u32 = u32::MAX;

impl PieceIndex {
    /// An index of the pieces that text may become: ordinary and user-defined ones that are not empty.
    /// Of equal pieces the first that is written in the notation of the vocabulary is kept, then the first.
    pub(super) fn of(pieces: &Pieces, vocabulary: &Vocabulary) -> Self {
        let mut index = PieceIndex {
            slots: vec![EMPTY; 16],
            used: 0,
            longest: 0,
            hasher: RandomState::new(),
        };
        for proper in [true, false] {
            for ((id, piece, kind), token) in pieces.iter().zip(&vocabulary.tokens) {
                if matches!(kind, TokenKind::Normal | TokenKind::UserDefined)
                    && !piece.is_empty()
                    && in_notation(vocabulary.kind, &token.text) == proper
                {
                    index.insert(pieces, id, piece);
                }
            }
        }
        index
    }

    /// Number of bytes of the longest piece.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The piece with these bytes.
    pub(super) fn find(&self, pieces: &Pieces, bytes: &[u8]) -> Option<u32> {
        let id = self.slots[self.slot(pieces, bytes)];
        (id != EMPTY).then_some(id)
    }

    /// The piece with these bytes, appended to `pieces` if there is none.
    pub(super) fn intern(
        &mut self,
        pieces: &mut Pieces,
        bytes: &[u8],
    ) -> Result<u32, TokenizeError> {
        if let Some(id) = self.find(pieces, bytes) {
            return Ok(id);
        }
        let id = pieces.push(bytes, TokenKind::Unused)?;
        self.insert(pieces, id, bytes);
        Ok(id)
    }

    fn insert(&mut self, pieces: &Pieces, id: u32, bytes: &[u8]) {
        if (self.used + 1) * 2 > self.slots.len() {
            let larger = vec![EMPTY; self.slots.len() * 2];
            for old in std::mem::replace(&mut self.slots, larger) {
                if let Some(bytes) = pieces.get(old).filter(|_| old != EMPTY) {
                    let slot = self.slot(pieces, bytes);
                    self.slots[slot] = old;
                }
            }
        }
        let slot = self.slot(pieces, bytes);
        if self.slots[slot] == EMPTY {
            self.slots[slot] = id;
            self.used += 1;
            self.longest = self.longest.max(bytes.len());
        }
    }

    /// Where these bytes are or would be. There is always an empty slot, as at most half of them are used.
    fn slot(&self, pieces: &Pieces, bytes: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(bytes) as usize & mask;
        while self.slots[slot] != EMPTY && pieces.get(self.slots[slot]) != Some(bytes) {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

/// The token for each byte, for text that has no longer token.
#[derive(Debug)]
pub(super) struct ByteTokens {
    ids: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
}

impl ByteTokens {
    /// The tokens of kind byte; where one is missing, the ordinary token of that byte if `or_ordinary`, else `unknown`.
    pub(super) fn of(
        pieces: &Pieces,
        index: &PieceIndex,
        or_ordinary: bool,
        unknown: Option<u32>,
    ) -> Self {
        let mut ids = Box::new([None; 256]);
        for (id, piece, kind) in pieces.iter() {
            if let (TokenKind::Byte, [byte]) = (kind, piece) {
                ids[*byte as usize].get_or_insert(id);
            }
        }
        if or_ordinary {
            for byte in 0..=u8::MAX {
                let ordinary = index.find(pieces, &[byte]);
                ids[byte as usize] = ordinary.or(ids[byte as usize]);
            }
        }
        ByteTokens { ids, unknown }
    }

    /// Writes `bytes` one token each.
    pub(super) fn write(&self, bytes: &[u8], out: &mut Vec<u32>) -> Result<(), TokenizeError> {
        for &byte in bytes {
            let id = self.ids[byte as usize].or(self.unknown);
            out.push(id.ok_or(TokenizeError::ByteWithoutToken { byte })?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::TokenEntry;

    fn vocabulary(kind: VocabularyKind, tokens: &[(&str, TokenKind)]) -> Vocabulary {
        let entry = |&(text, kind): &(&str, TokenKind)| TokenEntry {
            text: text.into(),
            score: 0.0,
            kind,
        };
        Vocabulary::new(kind, tokens.iter().map(entry).collect())
    }

    #[test]
    fn pieces_undo_the_notation_of_ordinary_tokens_only() {
        let tokens = [
            ("▁a▁", TokenKind::Normal),
            ("<0x0A>", TokenKind::Byte),
            ("<▁s>", TokenKind::Control),
            ("", TokenKind::Normal),
        ];
        let pieces = Pieces::of(&vocabulary(VocabularyKind::Spm, &tokens)).unwrap();
        let all: Vec<&[u8]> = pieces.iter().map(|(_, piece, _)| piece).collect();
        assert_eq!(all, [b" a ".as_slice(), b"\n", "<▁s>".as_bytes(), b""]);
        assert_eq!(pieces.get(4), None);

        let tokens = [("Ġa", TokenKind::Normal), ("Ġb", TokenKind::Control)];
        let pieces = Pieces::of(&vocabulary(VocabularyKind::Bpe, &tokens)).unwrap();
        assert_eq!(pieces.get(0), Some(b" a".as_slice()));
        assert_eq!(pieces.get(1), Some("Ġb".as_bytes()));
    }

    #[test]
    fn the_index_finds_ordinary_pieces_and_the_first_of_equal_ones() {
        let mut tokens: Vec<(String, TokenKind)> = (0..1000)
            .map(|n| (format!("t{}", n % 900), TokenKind::Normal))
            .collect();
        tokens.push(("<s>".into(), TokenKind::Control));
        tokens.push((String::new(), TokenKind::Normal));
        let tokens: Vec<(&str, TokenKind)> = tokens
            .iter()
            .map(|(text, kind)| (text.as_str(), *kind))
            .collect();
        let vocabulary = vocabulary(VocabularyKind::Spm, &tokens);
        let mut pieces = Pieces::of(&vocabulary).unwrap();
        let mut index = PieceIndex::of(&pieces, &vocabulary);
        for n in 0..900 {
            assert_eq!(index.find(&pieces, format!("t{n}").as_bytes()), Some(n));
        }
        for absent in ["<s>", "", "t900"] {
            assert_eq!(index.find(&pieces, absent.as_bytes()), None, "{absent:?}");
        }
        assert_eq!(index.longest(), 4);
        assert_eq!(index.intern(&mut pieces, b"t5").unwrap(), 5);
        assert_eq!(index.intern(&mut pieces, b"new").unwrap(), 1002);
        assert_eq!(index.find(&pieces, b"new"), Some(1002));
    }

    #[test]
    fn of_equal_pieces_the_one_in_the_notation_is_found() {
        let normal = TokenKind::Normal;
        for (kind, tokens) in [
            (VocabularyKind::Bpe, [("™", normal), ("âĦ¢", normal)]),
            (VocabularyKind::Spm, [("a ", normal), ("a▁", normal)]),
        ] {
            let vocabulary = vocabulary(kind, &tokens);
            let pieces = Pieces::of(&vocabulary).unwrap();
            assert_eq!(pieces.get(0), pieces.get(1));
            let index = PieceIndex::of(&pieces, &vocabulary);
            assert_eq!(index.find(&pieces, pieces.get(0).unwrap()), Some(1));
        }
    }
}
