//! SentencePiece by scores: of all neighbours that together are a token, the pair whose token has the highest score is
//! merged first, of equal scores the leftmost. What is no token in the end is written byte by byte.

use std::cmp::Ordering;

use super::error::TokenizeError;
use super::merge::Merger;
use super::pieces::{ByteTokens, PieceIndex, Pieces, SPACE_MARK};
use super::vocabulary::Vocabulary;

/// What merging by scores needs beyond the pieces.
#[derive(Debug)]
pub(super) struct Spm {
    scores: Vec<f32>,
    bytes: ByteTokens,
    add_space_prefix: bool,
}

/// A symbol that is no token.
const NO_TOKEN: u32 = u32::MAX;

/// A score that is not NaN, in order of size.
#[derive(Clone, Copy, Debug)]
struct Score(f32);

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        // Adding zero makes the two zeros equal.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Score {}

impl Spm {
    /// From a checked vocabulary.
    pub(super) fn new(vocabulary: &Vocabulary, pieces: &Pieces, index: &PieceIndex) -> Self {
        Spm {
            scores: vocabulary.tokens.iter().map(|token| token.score).collect(),
            bytes: ByteTokens::of(pieces, index, false, vocabulary.special.unknown),
            add_space_prefix: vocabulary.add_space_prefix,
        }
    }

    /// A space is put before the first text and after every special token.
    pub(super) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Appends the tokens of `text`; `after_special` says that it begins the whole text or follows a special token.
    pub(super) fn encode(
        &self,
        pieces: &Pieces,
        index: &PieceIndex,
        text: &str,
        after_special: bool,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        let mut spaced = String::with_capacity(text.len() + 1);
        if self.add_space_prefix && after_special {
            spaced.push(' ');
        }
        for (position, part) in text.split(SPACE_MARK).enumerate() {
            if position > 0 {
                spaced.push(' ');
            }
            spaced.push_str(part);
        }
        let bytes = spaced.as_bytes();
        let mut merger = Merger::new();
        for character in spaced.chars() {
            let token = index.find(pieces, character.encode_utf8(&mut [0; 4]).as_bytes());
            merger.push(character.len_utf8() as u32, token.unwrap_or(NO_TOKEN));
        }
        let merged = merger.merge(|left, right| {
            let len = (left.len + right.len) as usize;
            if len > index.longest() {
                return None;
            }
            let token = index.find(pieces, &bytes[left.start as usize..][..len])?;
            Some((Score(self.scores[token as usize]), token))
        });
        for symbol in merged {
            match symbol.id {
                NO_TOKEN => self.bytes.write(symbol.of(bytes), out)?,
                token => out.push(token),
            }
        }
        Ok(())
    }
}
