//! Cuts text into the words within which byte-pair merges may happen.
//!
//! A pre-tokeniser is a list of stages. Each cuts the pieces of the one before by a regular expression; what lies between
//! two matches is a piece too, so nothing is lost. The expressions are those of the tokenizers' own definitions, with one
//! change of form: `\s+(?!\S)` (blanks up to, but not including, the one before a word) needs to look ahead, which engines
//! that take linear time can't. Here the plain `\s+` is matched and its last blank given back where a word follows; that is
//! what the look-ahead does, and no text can make it slow or fail.

use std::ops::Range;

use regex::Regex;

mod published;
mod table;

use super::error::TokenizeError;
pub(super) use published::GPT_2;
use published::PUBLISHED;
use table::{Blanks, Definition, Stage, TABLE};

/// The definition that model files call `name`.
fn definition(name: &str) -> Option<&'static Definition> {
    TABLE
        .iter()
        .find(|definition| definition.names.contains(&name))
}

/// Cuts text into words.
#[derive(Debug)]
pub struct PreTokenizer {
    stages: Vec<(Regex, Blanks)>,
    whole_words: bool,
}

impl PreTokenizer {
    /// The pre-tokeniser that model files call `name`.
    ///
    /// # Errors
    /// [`TokenizeError::UnknownPreTokenizer`] lists the names there are.
    pub fn named(name: &str) -> Result<Self, TokenizeError> {
        let unknown = || TokenizeError::UnknownPreTokenizer {
            name: name.to_owned(),
            known: names().join(", "),
        };
        let definition = definition(name).ok_or_else(unknown)?;
        let compile = |stage: &Stage| {
            let regex = Regex::new(stage.pattern).expect("the table's patterns compile");
            (regex, stage.blanks)
        };
        Ok(PreTokenizer {
            stages: definition.stages.iter().map(compile).collect(),
            whole_words: definition.whole_words,
        })
    }

    /// A word that is a token is taken whole, even where merges would not lead to it.
    pub fn takes_whole_words(&self) -> bool {
        self.whole_words
    }

    /// The words of `text`, in order and without gaps. `words` is overwritten.
    pub fn split(&self, text: &str, words: &mut Vec<Range<usize>>) {
        words.clear();
        if !text.is_empty() {
            words.push(0..text.len());
        }
        let mut before = Vec::new();
        for (regex, blanks) in &self.stages {
            std::mem::swap(words, &mut before);
            words.clear();
            for piece in before.drain(..) {
                split_piece(regex, *blanks, text, piece, words);
            }
        }
    }
}

/// The names that [`PreTokenizer::named`] knows.
pub fn names() -> Vec<&'static str> {
    TABLE
        .iter()
        .flat_map(|definition| definition.names)
        .copied()
        .collect()
}

/// The first of the names under which the pre-tokeniser called `name` is known.
pub fn representative(name: &str) -> Option<&'static str> {
    definition(name).map(|definition| definition.names[0])
}

/// The name in GGUF files of the pre-tokeniser that was published with these expressions, one a stage.
pub(super) fn published(stages: &[&str], whole_words: bool) -> Option<&'static str> {
    let (_, names) = PUBLISHED.iter().find(|(own, _)| *own == stages)?;
    let fits = |name: &&&str| definition(name).is_some_and(|d| d.whole_words == whole_words);
    names.iter().find(fits).copied()
}

/// Models that use this pre-tokeniser begin with a begin token even where the file doesn't say so.
pub(super) fn usually_adds_begin(name: &str) -> bool {
    definition(name).is_some_and(|definition| definition.adds_begin)
}

/// Appends the matches within `piece`, and what lies between them.
fn split_piece(
    regex: &Regex,
    blanks: Blanks,
    text: &str,
    piece: Range<usize>,
    words: &mut Vec<Range<usize>>,
) {
    let (offset, text) = (piece.start, &text[piece]);
    let mut done = 0;
    while let Some(found) = regex.find_at(text, done) {
        if found.start() > done {
            words.push(offset + done..offset + found.start());
        }
        let end = found.end() - given_back(found.as_str(), blanks, found.end() == text.len());
        words.push(offset + found.start()..offset + end);
        done = end;
    }
    if done < text.len() {
        words.push(offset + done..offset + text.len());
    }
}

/// Number of bytes at the end of a match of `\s+` that belong to the word after it: its last blank, if there are others.
fn given_back(found: &str, blanks: Blanks, at_end: bool) -> usize {
    let last = found
        .chars()
        .next_back()
        .filter(|last| last.is_whitespace() && !at_end);
    match (blanks, last) {
        (Blanks::Never, _) | (_, None) | (Blanks::WithoutLineBreak, Some('\r' | '\n')) => 0,
        (_, Some(last)) if last.len_utf8() < found.len() => last.len_utf8(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        let mut ranges = Vec::new();
        PreTokenizer::named(name).unwrap().split(text, &mut ranges);
        ranges.into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn every_named_pre_tokenizer_compiles_and_loses_nothing() {
        let text = "I'LL pay 12345 €  for\t\n\n it… ñandú'll \u{3000}\u{A0}x  \r\n .. ok \n";
        for name in names() {
            assert_eq!(words(name, text).concat(), text, "{name}");
            assert_eq!(words(name, ""), [""; 0], "{name}");
        }
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_named_with_those_known() {
        let message = PreTokenizer::named("gpt-9").unwrap_err().to_string();
        assert!(
            message.contains("'gpt-9'") && message.contains("llama-bpe, llama3"),
            "{message}"
        );
    }

    #[test]
    fn the_last_blank_of_a_run_goes_to_the_word_after_it() {
        assert_eq!(words("gpt-2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(
            words("gpt-2", "a\n\tb \u{3000}"),
            ["a", "\n", "\t", "b", " \u{3000}"]
        );
        assert_eq!(words("llama-bpe", "a \n  b"), ["a", " \n", " ", " b"]);
        assert_eq!(words("llama-bpe", "a \t"), ["a", " \t"]);
        assert_eq!(
            words("llama-bpe", "a\u{3000}\u{3000}1"),
            ["a", "\u{3000}", "\u{3000}", "1"]
        );
    }

    #[test]
    fn digits_are_grouped_as_the_name_says() {
        assert_eq!(words("gpt-2", "x 12345"), ["x", " 12345"]);
        assert_eq!(words("llama-bpe", "x 12345"), ["x", " ", "123", "45"]);
        assert_eq!(words("qwen2", "x 123"), ["x", " ", "1", "2", "3"]);
        assert_eq!(words("smollm", "x 12"), ["x", " ", "1", "2"]);
        assert_eq!(words("default", "x 12345"), ["x", " ", "123", "45"]);
    }

    #[test]
    fn contractions_are_cut_off_in_either_case_where_the_definition_says_so() {
        assert_eq!(
            words("gpt-2", "we'll WE'LL"),
            ["we", "'ll", " WE", "'", "LL"]
        );
        assert_eq!(words("qwen2", "we'll WE'LL"), ["we", "'ll", " WE", "'LL"]);
    }
}
