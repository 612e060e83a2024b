//! Finds the tokens that are one token wherever their text stands.

use std::collections::HashSet;

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::error::TokenizeError;
use super::pieces::Pieces;
use super::vocabulary::{TokenKind, Vocabulary};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    /// Ordinary text, never empty.
    Text(&'t str),
    /// A token whose text stands here.
    Token(u32),
}

/// Matchers for user-defined tokens, and for these with the control and unknown tokens. Of tokens that begin at the same
/// place the longest is taken, of tokens with the same text the one with the lowest id. Tokens that are not UTF-8 can't
/// stand in a text.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    always: Matcher,
    asked: Matcher,
}

#[derive(Debug)]
struct Matcher {
    automaton: Option<AhoCorasick>,
    tokens: Vec<Special>,
}

/// A token that is looked for.
#[derive(Clone, Copy, Debug)]
struct Special {
    id: u32,
    /// Takes the blanks before it.
    strips_before: bool,
    /// Takes the blanks after it.
    strips_after: bool,
}

impl SpecialTokens {
    /// The matchers for all such tokens of a vocabulary.
    pub(super) fn of(pieces: &Pieces, vocabulary: &Vocabulary) -> Result<Self, TokenizeError> {
        let always = |kind| kind == TokenKind::UserDefined;
        let asked = |kind| {
            matches!(
                kind,
                TokenKind::UserDefined | TokenKind::Control | TokenKind::Unknown
            )
        };
        Ok(SpecialTokens {
            always: Matcher::of(pieces, vocabulary, always)?,
            asked: Matcher::of(pieces, vocabulary, asked)?,
        })
    }

    /// Cuts `text` at the tokens found; control and unknown tokens are looked for if `special`.
    pub(super) fn split<'t>(
        &self,
        text: &'t str,
        special: bool,
    ) -> impl Iterator<Item = Fragment<'t>> {
        self.split_except(text, special, &[])
    }

    /// As [`split`](Self::split), but a token that covers one of the `untrusted` positions (ascending)
    /// is no token.
    pub(super) fn split_except<'t>(
        &self,
        text: &'t str,
        special: bool,
        untrusted: &[usize],
    ) -> impl Iterator<Item = Fragment<'t>> {
        let matcher = if special { &self.asked } else { &self.always };
        let find = move |mut from: usize| {
            let automaton = matcher.automaton.as_ref()?;
            loop {
                let found = automaton.find(Input::new(text).range(from..))?;
                let first = untrusted.partition_point(|&at| at < found.start());
                if untrusted.get(first).is_none_or(|&at| at >= found.end()) {
                    return Some(found);
                }
                let first = text[found.start()..].chars().next();
                from = found.start() + first.map_or(1, char::len_utf8);
            }
        };
        let mut done = 0;
        let mut token = None;
        std::iter::from_fn(move || {
            if let Some(id) = token.take() {
                return Some(Fragment::Token(id));
            }
            let Some(next) = find(done) else {
                let rest = &text[done..];
                done = text.len();
                return (!rest.is_empty()).then_some(Fragment::Text(rest));
            };
            let special = matcher.tokens[next.pattern().as_usize()];
            let mut before = &text[done..next.start()];
            if special.strips_before {
                before = before.trim_end();
            }
            let mut after = &text[next.end()..];
            if special.strips_after {
                after = after.trim_start();
            }
            done = text.len() - after.len();
            token = Some(special.id);
            if before.is_empty() {
                token.take().map(Fragment::Token)
            } else {
                Some(Fragment::Text(before))
            }
        })
    }
}

impl Matcher {
    fn of(
        pieces: &Pieces,
        vocabulary: &Vocabulary,
        wanted: impl Fn(TokenKind) -> bool,
    ) -> Result<Self, TokenizeError> {
        let chosen = || {
            pieces.iter().filter(|(_, piece, kind)| {
                wanted(*kind) && !piece.is_empty() && std::str::from_utf8(piece).is_ok()
            })
        };
        let set = |ids: &[u32]| ids.iter().copied().collect::<HashSet<u32>>();
        let strips_before = set(&vocabulary.strips_before);
        let strips_after = set(&vocabulary.strips_after);
        let special = |(id, ..): (u32, &[u8], TokenKind)| Special {
            id,
            strips_before: strips_before.contains(&id),
            strips_after: strips_after.contains(&id),
        };
        let tokens: Vec<Special> = chosen().map(special).collect();
        if tokens.is_empty() {
            return Ok(Matcher {
                automaton: None,
                tokens,
            });
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(chosen().map(|(_, piece, _)| piece))
            .map_err(|error| TokenizeError::SpecialTokens {
                count: tokens.len(),
                why: error.to_string(),
            })?;
        Ok(Matcher {
            automaton: Some(automaton),
            tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;
    use crate::tokenize::VocabularyKind;

    fn matchers(tokens: &[(&str, TokenKind)]) -> SpecialTokens {
        stripping(tokens, &[], &[])
    }

    fn stripping(tokens: &[(&str, TokenKind)], before: &[u32], after: &[u32]) -> SpecialTokens {
        let mut pieces = Pieces::default();
        for (text, kind) in tokens {
            pieces.push(text.as_bytes(), *kind).unwrap();
        }
        let mut vocabulary = Vocabulary::new(VocabularyKind::Spm, Vec::new());
        vocabulary.strips_before = before.to_vec();
        vocabulary.strips_after = after.to_vec();
        SpecialTokens::of(&pieces, &vocabulary).unwrap()
    }

    #[test]
    fn blanks_are_taken_by_the_tokens_that_strip_them() {
        let kind = TokenKind::Control;
        let special = stripping(&[("<m>", kind), ("<u>", kind), (" ", kind)], &[0], &[1]);
        let split = |text| special.split(text, true).collect::<Vec<_>>();
        assert_eq!(split("a\n<m>\nb"), [Text("a"), Token(0), Text("\nb")]);
        assert_eq!(
            split("a\n<u>\n\u{3000} b"),
            [Text("a\n"), Token(1), Text("b")]
        );
        assert_eq!(split("<u>\n<m>\n"), [Token(1), Token(0), Text("\n")]);
        assert_eq!(split("<u> <u> "), [Token(1), Token(1)]);
    }

    #[test]
    fn control_tokens_are_found_only_when_asked_and_user_defined_ones_always() {
        let tokens = [
            ("a", TokenKind::Normal),
            ("<s>", TokenKind::Control),
            ("<u>", TokenKind::UserDefined),
        ];
        let special = matchers(&tokens);
        let split = |text, asked| special.split(text, asked).collect::<Vec<_>>();
        assert_eq!(
            split("<s>a<u><u>é", false),
            [Text("<s>a"), Token(2), Token(2), Text("é")]
        );
        assert_eq!(split("<s>a<u>", true), [Token(1), Text("a"), Token(2)]);
        assert_eq!(split("", true), []);
    }

    #[test]
    fn the_longest_then_the_first_token_is_taken() {
        let kind = TokenKind::UserDefined;
        let special = matchers(&[
            ("", kind),
            ("ab", kind),
            ("abc", kind),
            ("abc", kind),
            ("cd", kind),
        ]);
        assert_eq!(
            special.split("xabcd", false).collect::<Vec<_>>(),
            [Text("x"), Token(2), Text("d")]
        );
    }

    #[test]
    fn a_token_that_covers_an_untrusted_position_is_text() {
        let tokens = [
            ("<s>", TokenKind::Control),
            ("<s><u>", TokenKind::Control),
            ("<u>", TokenKind::UserDefined),
        ];
        let special = matchers(&tokens);
        let split = |text, untrusted: &[usize]| {
            let parts = special.split_except(text, true, untrusted);
            parts.collect::<Vec<_>>()
        };
        assert_eq!(split("é<s>a", &[]), [Text("é"), Token(0), Text("a")]);
        assert_eq!(split("é<s>a<s>", &[3]), [Text("é<s>a"), Token(0)]);
        assert_eq!(split("<s>a", &[3]), [Token(0), Text("a")]);
        assert_eq!(split("<u><s>", &[0]), [Text("<u>"), Token(0)]);
        assert_eq!(split("<s><u>", &[4]), [Text("<s><u>")]);
        assert_eq!(split("<s><u>", &[0]), [Text("<s>"), Token(2)]);
    }

    #[test]
    fn without_special_tokens_the_text_stays_whole() {
        let special = matchers(&[("a", TokenKind::Normal)]);
        assert_eq!(
            special.split("aaa", true).collect::<Vec<_>>(),
            [Text("aaa")]
        );
    }
}
