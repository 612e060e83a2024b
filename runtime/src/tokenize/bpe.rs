//! Byte-level byte-pair encoding: within each word of the pre-tokeniser, the neighbours with the best rank among the merge
//! rules are merged first, of equal ranks the leftmost.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::error::TokenizeError;
use super::merge::Merger;
use super::pieces::{ByteTokens, PieceIndex, Pieces, decode_text};
use super::pre_tokenize::PreTokenizer;
use super::vocabulary::{Vocabulary, VocabularyKind};

/// Merge rules by the ids of their parts. Parts that are no tokens have ids beyond those of the tokens.
#[derive(Debug)]
pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    merges: HashMap<(u32, u32), Rule>,
    symbols: Box<[u32; 256]>,
    bytes: ByteTokens,
    token_count: u32,
}

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
        let bytes = ByteTokens::of(pieces, index, true, vocabulary.special.unknown);
        let mut symbols = Box::new([0; 256]);
        for byte in 0..=u8::MAX {
            symbols[byte as usize] = index.intern(pieces, &[byte])?;
        }
        let mut merges = HashMap::with_capacity(vocabulary.merges.len());
        let mut text = Vec::new();
        for (rank, merge) in (0u32..).zip(&vocabulary.merges) {
            text.clear();
            decode_text(VocabularyKind::Bpe, merge.left().as_bytes(), &mut text);
            let split = text.len();
            decode_text(VocabularyKind::Bpe, merge.right().as_bytes(), &mut text);
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
            symbols,
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
        let mut words = Vec::new();
        self.pre_tokenizer.split(text, &mut words);
        let mut merger = Merger::new();
        for word in words {
            let word = &text.as_bytes()[word];
            let whole = match word {
                [byte] => Some(self.symbols[*byte as usize]),
                _ if self.pre_tokenizer.takes_whole_words() => index.find(pieces, word),
                _ => None,
            };
            if let Some(token) = whole.filter(|&token| token < self.token_count) {
                out.push(token);
                continue;
            }
            merger.clear();
            for &byte in word {
                merger.push(1, self.symbols[byte as usize]);
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
