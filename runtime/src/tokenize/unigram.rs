//! Unigram: of all ways to cut the normalised text into tokens, the one whose scores add up to the most (Viterbi).

use super::charsmap::Charsmap;
use super::error::TokenizeError;
use super::pieces::SPACE_MARK;
use super::vocabulary::{TokenKind, Vocabulary};

/// Longest token, in bytes: the work for a text is at most its length times this.
const LONGEST: usize = 1024;

/// What a character without a token costs beyond the lowest score there is, as SentencePiece has it.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The tokens by their texts, and how text is normalised.
#[derive(Debug)]
pub(super) struct Unigram {
    charsmap: Option<Charsmap>,
    add_space_prefix: bool,
    merge_spaces: bool,
    /// All texts one after another.
    texts: Vec<u8>,
    /// The tokens in the order of their texts.
    sorted: Vec<Entry>,
    /// Where in `sorted` the texts with each first byte begin.
    firsts: Box<[u32; 257]>,
    unknown: Option<u32>,
    unknown_score: f64,
}

/// A token that text may become.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    len: u32,
    id: u32,
    score: f32,
}

/// The best way found to cut the text up to some position: its last token, where that began, and the sum of scores.
#[derive(Clone, Copy, Debug)]
struct Best {
    token: u32,
    start: u32,
    score: f64,
}

/// Stands for the unknown token, which a vocabulary may lack.
const UNKNOWN: u32 = u32::MAX;
/// No way leads here yet.
const NO_WAY: u32 = u32::MAX - 1;

impl Unigram {
    /// From a checked vocabulary.
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self, TokenizeError> {
        let mut texts = Vec::new();
        let mut sorted = Vec::new();
        let mut lowest = f32::INFINITY;
        for (id, token) in (0u32..).zip(&vocabulary.tokens) {
            let score = match token.kind {
                TokenKind::Normal => {
                    lowest = lowest.min(token.score);
                    token.score
                }
                TokenKind::Unused => token.score,
                TokenKind::UserDefined => 0.0,
                TokenKind::Unknown | TokenKind::Control | TokenKind::Byte => continue,
            };
            if token.text.is_empty() {
                continue;
            }
            if token.text.len() > LONGEST {
                return Err(TokenizeError::TokenTooLong {
                    id,
                    bytes: token.text.len(),
                    limit: LONGEST,
                });
            }
            let start = texts.len();
            texts.extend_from_slice(&token.text);
            if u32::try_from(texts.len()).is_err() {
                return Err(TokenizeError::VocabularyTooLarge {
                    what: "bytes of token text",
                    found: texts.len(),
                    limit: u32::MAX as usize,
                });
            }
            sorted.push(Entry {
                start: start as u32,
                len: token.text.len() as u32,
                id,
                score,
            });
        }
        let text = |entry: &Entry| &texts[entry.start as usize..][..entry.len as usize];
        sorted.sort_by(|a, b| text(a).cmp(text(b)).then(a.id.cmp(&b.id)));
        sorted.dedup_by(|later, first| text(later) == text(first));
        let mut firsts = Box::new([0; 257]);
        for byte in 0..=u8::MAX {
            let below = sorted.partition_point(|entry| text(entry)[0] <= byte);
            firsts[byte as usize + 1] = below as u32;
        }
        let lowest = if lowest.is_finite() { lowest } else { 0.0 };
        Ok(Unigram {
            charsmap: Charsmap::read(&vocabulary.charsmap)?,
            add_space_prefix: vocabulary.add_space_prefix,
            merge_spaces: vocabulary.merge_spaces,
            texts,
            sorted,
            firsts,
            unknown: vocabulary.special.unknown,
            unknown_score: f64::from(lowest) - UNKNOWN_PENALTY,
        })
    }

    /// A space is put before the first text and after every special token.
    pub(super) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizeError> {
        let text = self.normalise(text)?;
        if u32::try_from(text.len()).is_err() {
            return Err(TokenizeError::TextTooLong {
                bytes: text.len(),
                limit: u32::MAX as usize,
            });
        }
        let none = Best {
            token: NO_WAY,
            start: 0,
            score: f64::NEG_INFINITY,
        };
        let mut best = vec![none; text.len() + 1];
        best[0].score = 0.0;
        for (start, character) in text.char_indices() {
            let before = best[start].score;
            let mut has_token = false;
            let mut offer = |end: usize, token: u32, score: f64| {
                let score = before + score;
                if score > best[end].score || best[end].token == NO_WAY {
                    best[end] = Best {
                        token,
                        start: start as u32,
                        score,
                    };
                }
            };
            self.prefixes(&text.as_bytes()[start..], |len, entry| {
                has_token |= len == character.len_utf8();
                offer(start + len, entry.id, f64::from(entry.score));
            });
            if !has_token {
                offer(start + character.len_utf8(), UNKNOWN, self.unknown_score);
            }
        }
        self.write(&text, &best, out)
    }

    /// Calls `found` with each token that `text` begins with, shortest first.
    fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, &Entry)) {
        let Some(&first) = text.first() else { return };
        let (mut low, mut high) = (
            self.firsts[first as usize] as usize,
            self.firsts[first as usize + 1] as usize,
        );
        for (depth, &byte) in text.iter().enumerate() {
            // Those that begin with the bytes before `depth`: the one that is no longer comes first.
            if depth > 0 {
                let here = &self.sorted[low..high];
                let after = here.partition_point(|entry| self.byte(entry, depth) < Some(byte));
                let here = &here[after..];
                low += after;
                high = low + here.partition_point(|entry| self.byte(entry, depth) <= Some(byte));
            }
            match self.sorted[low..high].first() {
                None => return,
                Some(entry) if entry.len as usize == depth + 1 => found(depth + 1, entry),
                Some(_) => {}
            }
        }
    }

    /// The byte of a token's text at `depth`; None sorts before all bytes.
    fn byte(&self, entry: &Entry, depth: usize) -> Option<u8> {
        (depth < entry.len as usize).then(|| self.texts[entry.start as usize + depth])
    }

    /// Appends the tokens on the best way to the end; neighbours that are unknown become one.
    fn write(&self, text: &str, best: &[Best], out: &mut Vec<u32>) -> Result<(), TokenizeError> {
        let begin = out.len();
        let mut end = text.len();
        let mut after_unknown = false;
        while end > 0 {
            let Best { token, start, .. } = best[end];
            let start = start as usize;
            if token != UNKNOWN {
                out.push(token);
            } else if !after_unknown {
                let missing = || TokenizeError::CharacterWithoutToken {
                    character: text[start..].chars().next().unwrap_or_default(),
                };
                out.push(self.unknown.ok_or_else(missing)?);
            }
            after_unknown = token == UNKNOWN;
            end = start;
        }
        out[begin..].reverse();
        Ok(())
    }

    /// The text with characters replaced by the table, and its spaces as tokens have them.
    fn normalise(&self, text: &str) -> Result<String, TokenizeError> {
        let mut out = String::with_capacity(text.len() + text.len() / 4 + 3);
        let mut within_word = false;
        let mut prefixed = false;
        let mut put = |part: &str| {
            for character in part.chars() {
                if character == ' ' {
                    within_word = false;
                    if !self.merge_spaces {
                        out.push(SPACE_MARK);
                    }
                } else {
                    if !within_word {
                        within_word = true;
                        if self.merge_spaces || (self.add_space_prefix && !prefixed) {
                            out.push(SPACE_MARK);
                            prefixed = true;
                        }
                    }
                    out.push(character);
                }
            }
        };
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let replaced = match &self.charsmap {
                Some(map) => map.longest(rest)?,
                None => None,
            };
            let (length, part) = replaced.unwrap_or_else(|| {
                let length = first.len_utf8();
                (length, &rest[..length])
            });
            put(part);
            rest = &rest[length..];
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokenize::{TokenEntry, VocabularyKind};

    fn vocabulary(words: &[(String, f32)]) -> Vocabulary {
        let mut tokens = vec![TokenEntry {
            text: "<unk>".into(),
            score: 0.0,
            kind: TokenKind::Unknown,
        }];
        tokens.extend(words.iter().map(|(text, score)| TokenEntry {
            text: text.as_bytes().into(),
            score: *score,
            kind: TokenKind::Normal,
        }));
        let mut vocabulary = Vocabulary::new(VocabularyKind::Unigram, tokens);
        vocabulary.special.unknown = Some(0);
        vocabulary
    }

    fn words(words: &[(&str, f32)]) -> Vec<(String, f32)> {
        let owned = words.iter().map(|&(word, score)| (word.to_owned(), score));
        owned.collect()
    }

    fn encode(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        let unigram = Unigram::new(vocabulary).unwrap();
        unigram.encode(text, &mut out).unwrap();
        out
    }

    /// The highest sum of scores over all ways to cut `text`, found by trying each.
    fn slow(words: &[(String, f32)], unknown: f64, text: &str) -> f64 {
        let Some(first) = text.chars().next() else {
            return 0.0;
        };
        let fitting = words.iter().filter(|(word, _)| text.starts_with(word));
        let mut best = f64::NEG_INFINITY;
        let mut has_token = false;
        for (word, score) in fitting {
            has_token |= word.len() == first.len_utf8();
            best = best.max(f64::from(*score) + slow(words, unknown, &text[word.len()..]));
        }
        if !has_token {
            best = best.max(unknown + slow(words, unknown, &text[first.len_utf8()..]));
        }
        best
    }

    #[test]
    fn the_likeliest_cut_is_taken_and_neighbours_without_tokens_are_one_unknown() {
        let vocabulary = vocabulary(&words(&[
            ("a", -1.0),
            ("b", -1.0),
            ("ab", -1.5),
            ("bb", -0.5),
        ]));
        assert_eq!(encode(&vocabulary, "abb"), [1, 4]);
        assert_eq!(encode(&vocabulary, "aab"), [1, 3]);
        assert_eq!(encode(&vocabulary, "axéa"), [1, 0, 1]);
        assert_eq!(encode(&vocabulary, ""), [0; 0]);
    }

    #[test]
    fn spaces_are_put_before_words_and_merged_where_the_vocabulary_says_so() {
        let mut vocabulary = vocabulary(&words(&[("▁", -1.0), ("a", -1.0)]));
        assert_eq!(encode(&vocabulary, " a  a "), [1, 2, 1, 1, 2, 1]);
        vocabulary.merge_spaces = true;
        vocabulary.add_space_prefix = true;
        assert_eq!(encode(&vocabulary, "a  a "), [1, 2, 1, 2]);
    }

    #[test]
    fn what_has_no_token_and_what_is_too_long_is_named() {
        let mut lacking = vocabulary(&words(&[("a", -1.0)]));
        lacking.special.unknown = None;
        let unigram = Unigram::new(&lacking).unwrap();
        let error = unigram.encode("ab", &mut Vec::new()).unwrap_err();
        assert!(matches!(
            error,
            TokenizeError::CharacterWithoutToken { character: 'b' }
        ));
        let long = vocabulary(&words(&[(&"a".repeat(LONGEST + 1), 0.0)]));
        let error = Unigram::new(&long).unwrap_err();
        assert!(matches!(error, TokenizeError::TokenTooLong { id: 1, .. }));
    }

    #[test]
    fn work_for_a_megabyte_of_one_letter_is_bounded_by_the_longest_token() {
        let doubling = (0..8)
            .map(|power| ("a".repeat(1 << power), -1.0))
            .collect::<Vec<_>>();
        let tokens = encode(&vocabulary(&doubling), &"a".repeat(1 << 20));
        assert_eq!(tokens, vec![8; 1 << 13]);
    }

    proptest! {
        #[test]
        fn the_sum_of_scores_is_that_of_the_slow_reference(
            words in prop::collection::vec(("[abé]{1,3}", -64i8..0), 1..12),
            text in "[abéx]{0,9}",
        ) {
            let mut words: Vec<(String, f32)> =
                words.into_iter().map(|(word, score)| (word, f32::from(score))).collect();
            words.sort_by(|a, b| a.0.cmp(&b.0));
            words.dedup_by(|a, b| a.0 == b.0);
            let vocabulary = vocabulary(&words);
            let lowest = words.iter().map(|(_, score)| *score).fold(f32::INFINITY, f32::min);
            let unknown = f64::from(lowest) - UNKNOWN_PENALTY;
            let unigram = Unigram::new(&vocabulary).unwrap();
            let ids = encode(&vocabulary, &text);
            // Neighbours without tokens are written as one, so that their number is found from the text.
            let known: usize = ids.iter().filter(|&&id| id != 0)
                .map(|&id| words[id as usize - 1].0.chars().count()).sum();
            let found: f64 = ids.iter().filter(|&&id| id != 0)
                .map(|&id| f64::from(words[id as usize - 1].1)).sum::<f64>()
                + unknown * (text.chars().count() - known) as f64;
            prop_assert_eq!(unigram.unknown_score, unknown);
            prop_assert!((found - slow(&words, unknown, &text)).abs() < 1e-9);
        }
    }
}
