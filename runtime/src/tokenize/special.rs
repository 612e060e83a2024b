//! Finds the tokens that are one token wherever their text stands.

use aho_corasick::{AhoCorasick, MatchKind};

use super::error::TokenizeError;
use super::pieces::Pieces;
use super::vocabulary::TokenKind;

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
    ids: Vec<u32>,
}

impl SpecialTokens {
    /// The matchers for all such tokens of a vocabulary.
    pub(super) fn of(pieces: &Pieces) -> Result<Self, TokenizeError> {
        let always = |kind| kind == TokenKind::UserDefined;
        let asked = |kind| {
            matches!(
                kind,
                TokenKind::UserDefined | TokenKind::Control | TokenKind::Unknown
            )
        };
        Ok(SpecialTokens {
            always: Matcher::of(pieces, always)?,
            asked: Matcher::of(pieces, asked)?,
        })
    }

    /// Cuts `text` at the tokens found; control and unknown tokens are looked for if `special`.
    pub(super) fn split<'t>(
        &self,
        text: &'t str,
        special: bool,
    ) -> impl Iterator<Item = Fragment<'t>> {
        let matcher = if special { &self.asked } else { &self.always };
        let mut found = matcher
            .automaton
            .as_ref()
            .map(|automaton| automaton.find_iter(text));
        let mut done = 0;
        let mut token = None;
        std::iter::from_fn(move || {
            if let Some(id) = token.take() {
                return Some(Fragment::Token(id));
            }
            let next = found.as_mut().and_then(Iterator::next);
            let (start, end) =
                next.map_or((text.len(), text.len()), |next| (next.start(), next.end()));
            let before = &text[done..start];
            done = end;
            token = next.map(|next| matcher.ids[next.pattern().as_usize()]);
            if before.is_empty() {
                token.take().map(Fragment::Token)
            } else {
                Some(Fragment::Text(before))
            }
        })
    }
}

impl Matcher {
    fn of(pieces: &Pieces, wanted: impl Fn(TokenKind) -> bool) -> Result<Self, TokenizeError> {
        let chosen = || {
            pieces.iter().filter(|(_, piece, kind)| {
                wanted(*kind) && !piece.is_empty() && std::str::from_utf8(piece).is_ok()
            })
        };
        let ids: Vec<u32> = chosen().map(|(id, ..)| id).collect();
        if ids.is_empty() {
            return Ok(Matcher {
                automaton: None,
                ids,
            });
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(chosen().map(|(_, piece, _)| piece))
            .map_err(|error| TokenizeError::SpecialTokens {
                count: ids.len(),
                why: error.to_string(),
            })?;
        Ok(Matcher {
            automaton: Some(automaton),
            ids,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    fn matchers(tokens: &[(&str, TokenKind)]) -> SpecialTokens {
        let mut pieces = Pieces::default();
        for (text, kind) in tokens {
            pieces.push(text.as_bytes(), *kind).unwrap();
        }
        SpecialTokens::of(&pieces).unwrap()
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
    fn without_special_tokens_the_text_stays_whole() {
        let special = matchers(&[("a", TokenKind::Normal)]);
        assert_eq!(
            special.split("aaa", true).collect::<Vec<_>>(),
            [Text("aaa")]
        );
    }
}
