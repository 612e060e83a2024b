//! WordPiece, as defined for BERT: the text is cleaned and cut into words, and each word is cut from the left into the
//! longest tokens there are. A word for which that fails is the unknown token as a whole.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use super::error::TokenizeError;
use super::pieces::{PieceIndex, Pieces};
use super::vocabulary::{Vocabulary, excerpt};

/// What cutting into words needs beyond the pieces.
#[derive(Debug)]
pub(super) struct WordPiece {
    lowercase: bool,
    strip_accents: bool,
    unknown: Option<u32>,
}

/// Words with more characters are unknown.
const MAX_WORD_CHARS: usize = 100;

impl WordPiece {
    /// From a checked vocabulary.
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        WordPiece {
            lowercase: vocabulary.lowercase,
            strip_accents: vocabulary.strip_accents,
            unknown: vocabulary.special.unknown,
        }
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(
        &self,
        pieces: &Pieces,
        index: &PieceIndex,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        let cleaned: String = if self.strip_accents {
            self.fold(
                text.nfd()
                    .filter(|c| c.general_category() != GeneralCategory::NonspacingMark),
            )
        } else {
            self.fold(text.chars())
        };
        // Words begin with a space, as the pieces that begin a word do.
        let mut word = String::from(" ");
        for character in cleaned.chars() {
            let alone = stands_alone(character);
            if alone || character == ' ' {
                self.encode_word(pieces, index, &mut word, out)?;
            }
            if character != ' ' {
                word.push(character);
            }
            if alone {
                self.encode_word(pieces, index, &mut word, out)?;
            }
        }
        self.encode_word(pieces, index, &mut word, out)
    }

    /// Turns blanks into spaces, drops what can't be seen, and makes letters lower-case if asked.
    fn fold(&self, text: impl Iterator<Item = char>) -> String {
        let mut folded = String::new();
        for character in text {
            if is_dropped(character) {
                continue;
            }
            if character.is_whitespace() {
                folded.push(' ');
            } else if self.lowercase {
                folded.extend(character.to_lowercase());
            } else {
                folded.push(character);
            }
        }
        folded
    }

    /// Appends the tokens of one word, which has a space before it, and leaves only that space.
    fn encode_word(
        &self,
        pieces: &Pieces,
        index: &PieceIndex,
        word: &mut String,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        let before = out.len();
        let mut rest = &word[1..];
        let mut start = 0;
        let too_long = rest.chars().nth(MAX_WORD_CHARS).is_some();
        while !rest.is_empty() {
            let ends = rest
                .char_indices()
                .rev()
                .map(|(at, last)| word.len() - rest.len() + at + last.len_utf8());
            let pieces_here = ends.filter(|end| end - start <= index.longest());
            let longest = pieces_here
                .filter_map(|end| Some((index.find(pieces, &word.as_bytes()[start..end])?, end)))
                .next()
                .filter(|_| !too_long);
            let Some((token, end)) = longest else {
                out.truncate(before);
                let unknown = || TokenizeError::WordWithoutToken {
                    word: excerpt(&word.as_bytes()[1..]),
                };
                out.push(self.unknown.ok_or_else(unknown)?);
                break;
            };
            out.push(token);
            start = end;
            rest = &word[end..];
        }
        word.truncate(1);
        Ok(())
    }
}

/// Control, format and private characters, other than the blanks below, and the one that stands for a loss. Unassigned
/// characters stay, so that a newer Unicode version changes nothing here.
fn is_dropped(character: char) -> bool {
    match character {
        '\t' | '\n' | '\r' => false,
        char::REPLACEMENT_CHARACTER => true,
        _ => {
            character.general_category_group() == GeneralCategoryGroup::Other
                && character.general_category() != GeneralCategory::Unassigned
        }
    }
}

/// Characters that are a word by themselves: punctuation, ASCII signs, and ideographs.
fn stands_alone(character: char) -> bool {
    character.is_ascii_punctuation()
        || is_ideograph(character)
        || character.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The blocks of CJK ideographs that BERT's definition lists.
fn is_ideograph(character: char) -> bool {
    matches!(character,
        '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{2A6DF}'
        | '\u{2A700}'..='\u{2B73F}' | '\u{2B740}'..='\u{2B81F}' | '\u{2B820}'..='\u{2CEAF}' | '\u{2F800}'..='\u{2FA1F}')
}
