//! Byte-pair encoding, over bytes or over characters: within each word of the pre-tokeniser, the neighbours with the best rank among the merge
//! rules are merged first, of equal ranks the leftmost.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::error::TokenizeError;
use super::merge::Merger;
use super::pieces::{ByteTokens, PieceIndex, Pieces, SPACE_MARK, decode_text};
use super::pre_tokenize::PreTokenizer;
use super::vocabulary::{Vocabulary, VocabularyKind};

/// Merge rules by the ids of their parts. Parts that are no tokens have ids beyond those of the tokens.
#[derive(Debug)]
pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    merges: HashMap<(u32, u32), Rule>,
    alphabet: Alphabet,
    bytes: ByteTokens,
    token_count: u32,
}

/// What merging begins with.
#[derive(Debug)]
enum Alphabet {
    /// Bytes, by their symbols.
    Bytes(Box<[u32; 256]>),
    /// Characters.
    Characters,
}

/// A symbol that is neither a token nor part of a merge.
const NO_SYMBOL: u32 = u32::MAX;

/// What a pair becomes, and how early.
#[derive(Clone, Copy, Debug)]
struct Rule {
    rank: u32,
    merged: u32,
}

impl Bpe {
    /// From a checked vocabulary. Parts of merges that are no tokens are appended to `pieces`.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        pieces: &mut Pieces,
        index: &mut PieceIndex,
    ) -> Result<Self, TokenizeError> {
        let pre_tokenizer = PreTokenizer::named(&vocabulary.pre_tokenizer)?;
        let token_count = pieces.len() as u32;
        let kind = vocabulary.kind;
        let by_byte = kind == VocabularyKind::Bpe;
        let bytes = ByteTokens::of(pieces, index, by_byte, vocabulary.special.unknown);
        let alphabet = if by_byte {
            let mut symbols = Box::new([0; 256]);
            for byte in 0..=u8::MAX {
                symbols[byte as usize] = index.intern(pieces, &[byte])?;
            }
            Alphabet::Bytes(symbols)
        } else {
            Alphabet::Characters
        };
        let mut merges = HashMap::with_capacity(vocabulary.merges.len());
        let mut text = Vec::new();
        for (rank, merge) in (0u32..).zip(&vocabulary.merges) {
            text.clear();
            decode_text(kind, merge.left().as_bytes(), &mut text);
            let split = text.len();
            decode_text(kind, merge.right().as_bytes(), &mut text);
            if split == 0 || split == text.len() {
                continue;
            }
            let pair = (
                index.intern(pieces, &text[..split])?,
                index.intern(pieces, &text[split..])?,
            );
            let merged = index.intern(pieces, &text)?;
            merges.entry(pair).or_insert(Rule { rank, merged });
        }
        Ok(Bpe {
            pre_tokenizer,
            merges,
            alphabet,
            bytes,
            token_count,
        })
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(
        &self,
        pieces: &Pieces,
        index: &PieceIndex,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        let spaced: String;
        let text = match self.alphabet {
            Alphabet::Bytes(_) => text,
            Alphabet::Characters => {
                spaced = text.replace(SPACE_MARK, " ");
                &spaced
            }
        };
        let mut words = Vec::new();
        self.pre_tokenizer.split(text, &mut words);
        let mut merger = Merger::new();
        for word in words {
            let characters = &text[word];
            let word = characters.as_bytes();
            let whole = match (&self.alphabet, word) {
                (Alphabet::Bytes(symbols), [byte]) => Some(symbols[*byte as usize]),
                _ if self.pre_tokenizer.takes_whole_words() => index.find(pieces, word),
                // Line breaks are one token where there is one, whatever the merges say.
                (Alphabet::Characters, [b'\n', ..]) => index.find(pieces, word),
                _ => None,
            };
            if let Some(token) = whole.filter(|&token| token < self.token_count) {
                out.push(token);
                continue;
            }
            merger.clear();
            match &self.alphabet {
                Alphabet::Bytes(symbols) => {
                    for &byte in word {
                        merger.push(1, symbols[byte as usize]);
                    }
                }
                Alphabet::Characters => {
                    for character in characters.chars() {
                        let symbol =
                            index.find(pieces, character.encode_utf8(&mut [0; 4]).as_bytes());
                        merger.push(character.len_utf8() as u32, symbol.unwrap_or(NO_SYMBOL));
                    }
                }
            }
            let merged = merger.merge(|left, right| {
                let rule = self.merges.get(&(left.id, right.id))?;
                Some((Reverse(rule.rank), rule.merged))
            });
            for symbol in merged {
                if symbol.id < self.token_count {
                    out.push(symbol.id);
                } else {
                    self.bytes.write(symbol.of(word), out)?;
                }
            }
        }
        Ok(())
    }
}
