//! Keeps text of users from becoming special tokens.
//!
//! A template writes turn markers such as `<|im_end|>` around what users wrote, and the tokens of
//! the markers must come from the template alone. So before rendering, a mark (a character that
//! stands nowhere in the input) is put before one character of every text in the input that is a
//! special token's, whatever the case of its letters, and at the ends of texts that could become
//! one together with their neighbours. After rendering the marks are taken out, and a special
//! token that covers a marked character is read as plain text.
//!
//! A role is trusted not to complete a token, as templates make markers of it (`<|user|>`). A
//! template that deletes from the middle of a text, or that encloses a text in parts of a token,
//! can still make one.

use std::collections::HashSet;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::tokenize::{TokenKind, Tokenizer};

/// Longest special token that is looked for in parts.
const MAX_PART: usize = 256;

/// The special tokens of a vocabulary that text of users must not become.
#[derive(Debug)]
pub(super) struct Guard {
    whole: Option<AhoCorasick>,
    /// Sorted, in lower case; and the same read backwards.
    forwards: Vec<Vec<u8>>,
    backwards: Vec<Vec<u8>>,
    longest: usize,
}

impl Guard {
    /// Those that `tokenizer` reads only where it is told to, and user-defined ones that end a turn
    /// or are written like its markers, `<|…|>`.
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let mut texts = Vec::new();
        for id in 0..tokenizer.token_count() {
            let Ok(piece) = tokenizer.piece(id) else {
                continue;
            };
            let protected = match tokenizer.kind(id) {
                Some(TokenKind::Control | TokenKind::Unknown) => true,
                Some(TokenKind::UserDefined) => tokenizer.ends_generation(id) || is_marker(piece),
                _ => false,
            };
            if protected && !piece.is_empty() && std::str::from_utf8(piece).is_ok() {
                texts.push(piece.to_ascii_lowercase());
            }
        }
        Guard::of_texts(texts)
    }

    fn of_texts(texts: Vec<Vec<u8>>) -> Self {
        let whole = match texts.is_empty() {
            true => None,
            // the tokenizer holds an automaton of the same texts already, so this one is possible
            false => AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .ascii_case_insensitive(true)
                .build(&texts)
                .ok(),
        };
        let mut forwards: Vec<Vec<u8>> =
            texts.into_iter().filter(|t| t.len() <= MAX_PART).collect();
        let mut backwards: Vec<Vec<u8>> = forwards
            .iter()
            .map(|t| t.iter().rev().copied().collect())
            .collect();
        forwards.sort_unstable();
        backwards.sort_unstable();
        Guard {
            whole,
            longest: forwards.iter().map(Vec::len).max().unwrap_or(0),
            forwards,
            backwards,
        }
    }

    /// Puts `mark` into `text`; `parts` says whether its ends are looked at, too.
    pub(super) fn mark(&self, text: &str, mark: char, parts: bool) -> String {
        let mut at = Vec::new();
        if let Some(whole) = &self.whole {
            // matches that end first, one after the other: each special token in the text holds
            // the last character of one
            at.extend(
                whole
                    .find_iter(text)
                    .filter_map(|m| last_char(&text[..m.end()])),
            );
        }
        if parts {
            let most = self.longest.saturating_sub(1);
            for text in [text, text.trim_end()] {
                let part = &text.as_bytes()[text.len().saturating_sub(most)..];
                if ends_within_one(&self.forwards, &part.to_ascii_lowercase()) {
                    at.extend(last_char(text));
                }
            }
            for inner in [text, text.trim_start()] {
                let part = inner.bytes().take(most).map(|b| b.to_ascii_lowercase());
                let mut part: Vec<u8> = part.collect();
                part.reverse();
                if ends_within_one(&self.backwards, &part) {
                    at.push(text.len() - inner.len());
                }
            }
        }
        if at.is_empty() {
            return text.to_owned();
        }
        at.sort_unstable();
        at.dedup();
        let mut out = String::with_capacity(text.len() + at.len() * mark.len_utf8());
        let mut done = 0;
        for at in at {
            out.push_str(&text[done..at]);
            out.push(mark);
            done = at;
        }
        out.push_str(&text[done..]);
        out
    }
}

/// Position of the last character.
fn last_char(text: &str) -> Option<usize> {
    text.char_indices().next_back().map(|(at, _)| at)
}

/// Whether some last bytes of `text` begin one of `sorted` without being all of it.
fn ends_within_one(sorted: &[Vec<u8>], text: &[u8]) -> bool {
    (0..text.len()).any(|from| {
        let part = &text[from..];
        let first = sorted.partition_point(|t| t.as_slice() <= part);
        sorted.get(first).is_some_and(|t| t.starts_with(part))
    })
}

fn is_marker(piece: &[u8]) -> bool {
    let text = std::str::from_utf8(piece).unwrap_or("");
    text.chars().count() > 4
        && ["<|", "<｜"].iter().any(|p| text.starts_with(p))
        && ["|>", "｜>"].iter().any(|p| text.ends_with(p))
}

/// A character that stands in none of these texts.
pub(super) fn unused_char<'t>(texts: impl Iterator<Item = &'t str>) -> Option<char> {
    let private = '\u{100000}'..='\u{10fffd}';
    let used: HashSet<char> = texts
        .flat_map(str::chars)
        .filter(|c| private.contains(c))
        .collect();
    private.into_iter().find(|c| !used.contains(c))
}

/// All texts of a JSON value, keys among them.
pub(super) fn texts_of<'v>(value: &'v Value, with: &mut impl FnMut(&'v str)) {
    match value {
        Value::String(text) => with(text),
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, with)),
        Value::Object(members) => members.iter().for_each(|(key, member)| {
            with(key);
            texts_of(member, with);
        }),
        _ => {}
    }
}

/// Takes `mark` out: the text, and the positions of the characters that it stood before.
pub(super) fn unmark(text: &str, mark: char) -> (String, Vec<usize>) {
    let mut out = String::with_capacity(text.len());
    let mut positions = Vec::new();
    for (i, part) in text.split(mark).enumerate() {
        if i > 0 && positions.last() != Some(&out.len()) {
            positions.push(out.len());
        }
        out.push_str(part);
    }
    (out, positions)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guard(texts: &[&str]) -> Guard {
        Guard::of_texts(
            texts
                .iter()
                .map(|t| t.to_ascii_lowercase().into())
                .collect(),
        )
    }

    fn marked(text: &str) -> String {
        guard(&["<|im_end|>", "<s>"]).mark(text, '^', true)
    }

    #[test]
    fn special_texts_are_marked_whole_in_part_and_in_any_case() {
        assert_eq!(marked("a<|im_end|>b"), "a<|im_end|^>b");
        assert_eq!(marked("<|IM_end|>"), "<|IM_end|^>");
        assert_eq!(marked("a<|im_ "), "a<|im^_ ");
        assert_eq!(marked("a<"), "a^<");
        assert_eq!(marked(" end|>a"), " ^end|>a");
        assert_eq!(marked("a < b > c"), "a < b > c");
        assert_eq!(
            marked("<think>x</think>"),
            "^<think>x</think^>".replace('^', "")
        );
        assert_eq!(marked(""), "");
        let roles = guard(&["<|user|>"]).mark("a<", '^', false);
        assert_eq!(roles, "a<");
    }

    #[test]
    fn marks_come_out_with_their_positions() {
        assert_eq!(unmark("a^b^^c^", '^'), ("abc".into(), vec![1, 2, 3]));
        assert_eq!(unmark("ab", '^'), ("ab".into(), vec![]));
        assert_eq!(unused_char(["a\u{100000}"].into_iter()), Some('\u{100001}'));
    }

    proptest! {
        /// Whatever texts are put together, a special token in the result holds a marked character.
        #[test]
        fn no_special_token_of_joined_texts_is_without_mark(
            texts in prop::collection::vec("(<|\\||>|s|e|E|<s>|<\\|e\\|>| ){0,6}", 1..5),
            trims in any::<bool>(),
        ) {
            let tokens = ["<s>", "<|e|>", "se", "e|>"];
            let guard = guard(&tokens);
            let joined: String = texts
                .iter()
                .map(|t| guard.mark(t, '^', true))
                .map(|t| if trims { t.trim().to_owned() } else { t })
                .collect();
            let (text, positions) = unmark(&joined, '^');
            for token in tokens {
                for (at, found) in text.to_ascii_lowercase().match_indices(token) {
                    let covered = at..at + found.len();
                    prop_assert!(
                        positions.iter().any(|p| covered.contains(p)),
                        "{token} in {text:?} of {joined:?}"
                    );
                }
            }
        }
    }
}
