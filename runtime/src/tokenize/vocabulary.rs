//! A model's vocabulary as plain data, independent of the file it came from.

use super::error::TokenizeError;

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VocabularyKind {
    /// SentencePiece: neighbours are merged by the score of the token they form; bytes stand for characters that have no
    /// token; spaces are written `▁` (U+2581).
    Spm,
    /// Byte-level byte-pair encoding: words found by the pre-tokeniser, merged by the rank of the merge rule. Token texts
    /// are written in the alphabet of [`super::byte_level`].
    Bpe,
    /// Byte-pair encoding over characters: words found by the pre-tokeniser (whole lines), merged by the rank of the merge
    /// rule; bytes stand for characters that have no token; spaces are written `▁` (U+2581).
    CharacterBpe,
    /// Unigram: of all ways to cut the text into tokens, the one with the highest sum of scores. The text is normalised
    /// first by [`Vocabulary::charsmap`]; spaces are written `▁` (U+2581).
    Unigram,
    /// WordPiece: each word is cut into the longest tokens from the left. A token that begins a word is written with a
    /// leading `▁` (U+2581), one that continues a word without.
    WordPiece,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Steers the model and is no text: begin, end, turn markers.
    Control,
    /// Text that is always one token, wherever it stands.
    UserDefined,
    /// Reserved and never produced.
    Unused,
    /// One byte, written `<0xHH>`.
    Byte,
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEntry {
    /// Its text, in the notation of the [`VocabularyKind`]. Some models have tokens that are not UTF-8.
    pub text: Vec<u8>,
    /// SentencePiece's score (a negative rank, or of Unigram a log probability); 0 for the other kinds.
    pub score: f32,
    /// What it is for.
    pub kind: TokenKind,
}

impl TokenEntry {
    /// An ordinary token with score 0.
    pub fn normal(text: impl Into<Vec<u8>>) -> Self {
        TokenEntry {
            text: text.into(),
            score: 0.0,
            kind: TokenKind::Normal,
        }
    }
}

/// A merge rule: two neighbours that become one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Merge {
    text: String,
    split: usize,
}

impl Merge {
    /// The rule that joins `left` and `right`.
    pub fn new(left: &str, right: &str) -> Self {
        Merge {
            text: [left, right].concat(),
            split: left.len(),
        }
    }

    /// Reads `"left right"`; the space that separates is the first one after the first character. None if there is none or
    /// nothing follows it.
    pub fn parse(rule: &str) -> Option<Self> {
        let first = rule.chars().next()?.len_utf8();
        let space = first + rule[first..].find(' ')?;
        let (left, right) = (&rule[..space], &rule[space + 1..]);
        (!right.is_empty()).then(|| Merge::new(left, right))
    }

    /// The left part.
    pub fn left(&self) -> &str {
        &self.text[..self.split]
    }

    /// The right part.
    pub fn right(&self) -> &str {
        &self.text[self.split..]
    }

    /// What they become.
    pub fn merged(&self) -> &str {
        &self.text
    }
}

/// Tokens with a meaning of their own, by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a text (`[CLS]` of WordPiece).
    pub begin: Option<u32>,
    /// Ends a text.
    pub end: Option<u32>,
    /// Ends a turn of a conversation.
    pub end_of_turn: Option<u32>,
    /// Ends a message that waits for a tool's answer.
    pub end_of_message: Option<u32>,
    /// Stands for text without tokens.
    pub unknown: Option<u32>,
    /// Ends a text or separates two (`[SEP]` of WordPiece).
    pub separator: Option<u32>,
    /// Fills up a batch.
    pub padding: Option<u32>,
    /// Hides a token to be guessed.
    pub mask: Option<u32>,
}

impl SpecialIds {
    /// Each id with its name.
    pub(super) fn named(&self) -> [(&'static str, Option<u32>); 8] {
        [
            ("begin", self.begin),
            ("end", self.end),
            ("end-of-turn", self.end_of_turn),
            ("end-of-message", self.end_of_message),
            ("unknown", self.unknown),
            ("separator", self.separator),
            ("padding", self.padding),
            ("mask", self.mask),
        ]
    }
}

/// All that a [`Tokenizer`](super::Tokenizer) is built from. A token's id is its position in `tokens`.
///
/// Where two tokens have the same text, the one with the lower id is produced; tokens with an empty text are never produced.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// How text becomes tokens.
    pub kind: VocabularyKind,
    /// The tokens, by id.
    pub tokens: Vec<TokenEntry>,
    /// The merge rules of [`VocabularyKind::Bpe`] and [`VocabularyKind::CharacterBpe`], best first. Of equal rules the first counts. Parts that are no tokens
    /// may be named: a piece that ends as one is written byte by byte.
    pub merges: Vec<Merge>,
    /// Name of the pre-tokeniser of the same kinds, one of [`super::pre_tokenize::names`].
    pub pre_tokenizer: String,
    /// Tokens with a meaning of their own.
    pub special: SpecialIds,
    /// A begin token is put before every text.
    pub add_begin: bool,
    /// An end token (WordPiece: a separator) is put after every text.
    pub add_end: bool,
    /// SentencePiece and Unigram put a space before every text and after every special token.
    pub add_space_prefix: bool,
    /// Unigram makes runs of spaces one, and drops those at the end.
    pub merge_spaces: bool,
    /// Unigram: how characters are normalised, as SentencePiece compiles it (`precompiled_charsmap` of its normaliser
    /// specification). Empty where nothing is changed.
    pub charsmap: Vec<u8>,
    /// Special tokens that take the blanks before them, where they are read from text.
    pub strips_before: Vec<u32>,
    /// Special tokens that take the blanks after them, where they are read from text.
    pub strips_after: Vec<u32>,
    /// The model's chat templates by name, the usual one named `default`.
    pub chat_templates: Vec<(String, String)>,
    /// WordPiece: letters are made lower-case first.
    pub lowercase: bool,
    /// WordPiece: accents are taken off letters first.
    pub strip_accents: bool,
}

/// Largest number of tokens, and of parts in merges beyond them: leaves room for both in 32 bits.
const MAX_TOKENS: usize = 1 << 30;

impl Vocabulary {
    /// A vocabulary of `kind` with these tokens and otherwise nothing: no merges, no named tokens, nothing added or
    /// changed.
    pub fn new(kind: VocabularyKind, tokens: Vec<TokenEntry>) -> Self {
        Vocabulary {
            kind,
            tokens,
            merges: Vec::new(),
            pre_tokenizer: "default".to_owned(),
            special: SpecialIds::default(),
            add_begin: false,
            add_end: false,
            add_space_prefix: false,
            merge_spaces: false,
            charsmap: Vec::new(),
            strips_before: Vec::new(),
            strips_after: Vec::new(),
            chat_templates: Vec::new(),
            lowercase: false,
            strip_accents: false,
        }
    }

    /// Adds unused tokens until there are `count`.
    pub fn pad(&mut self, count: u32) {
        let missing = self.tokens.len()..count as usize;
        self.tokens.extend(missing.map(|id| TokenEntry {
            kind: TokenKind::Unused,
            ..TokenEntry::normal(format!("[PAD{id}]"))
        }));
    }

    /// Checks what every kind relies on: sizes, ids in range, scores that can be ordered.
    ///
    /// # Errors
    /// Names the first thing wrong.
    pub fn check(&self) -> Result<(), TokenizeError> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(TokenizeError::EmptyVocabulary);
        }
        for (what, found) in [("tokens", count), ("merges", self.merges.len())] {
            if found > MAX_TOKENS {
                return Err(TokenizeError::VocabularyTooLarge {
                    what,
                    found,
                    limit: MAX_TOKENS,
                });
            }
        }
        for (name, id) in self.special.named() {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(TokenizeError::SpecialIdOutOfRange { name, id, count });
            }
        }
        if self.add_begin && self.special.begin.is_none() {
            return Err(TokenizeError::MissingSpecial { name: "begin" });
        }
        if self.add_end && self.end_added().is_none() {
            return Err(TokenizeError::MissingSpecial { name: "end" });
        }
        for (id, token) in (0u32..).zip(&self.tokens) {
            if token.score.is_nan() {
                return Err(TokenizeError::ScoreNotANumber {
                    id,
                    text: excerpt(&token.text),
                });
            }
            if token.kind == TokenKind::Byte && parse_byte_token(&token.text).is_none() {
                return Err(TokenizeError::MalformedByteToken {
                    id,
                    text: excerpt(&token.text),
                });
            }
        }
        Ok(())
    }

    /// The token that [`add_end`](Self::add_end) adds.
    pub(super) fn end_added(&self) -> Option<u32> {
        match self.kind {
            VocabularyKind::WordPiece => self.special.separator.or(self.special.end),
            _ => self.special.end,
        }
    }
}

/// The byte that `<0xHH>` stands for.
pub(super) fn parse_byte_token(text: &[u8]) -> Option<u8> {
    let [high, low] = text.strip_prefix(b"<0x")?.strip_suffix(b">")? else {
        return None;
    };
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// The beginning of a text that may be long, for a message.
pub(super) fn excerpt(text: &[u8]) -> String {
    const CHARS: usize = 40;
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * CHARS + 4)]);
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_splits_at_the_first_space_after_the_first_character() {
        let merge = Merge::parse("Ġ t").unwrap();
        assert_eq!(
            (merge.left(), merge.right(), merge.merged()),
            ("Ġ", "t", "Ġt")
        );
        let merge = Merge::parse("  b c").unwrap();
        assert_eq!((merge.left(), merge.right()), (" ", "b c"));
        for bad in ["", "a", "ab", "a ", " a", " "] {
            assert_eq!(Merge::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn byte_tokens_are_two_hex_digits() {
        assert_eq!(parse_byte_token(b"<0x0A>"), Some(10));
        assert_eq!(parse_byte_token(b"<0xff>"), Some(255));
        for bad in [
            "", "<0x>", "<0x0>", "<0x+1>", "<0x0AA>", "0x0A", "<0xGG>", "<0xé>",
        ] {
            assert_eq!(parse_byte_token(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_vocabulary_is_named() {
        let good = Vocabulary::new(
            VocabularyKind::Spm,
            vec![TokenEntry::normal("a"), TokenEntry::normal("b")],
        );
        good.check().unwrap();

        let mut bad = good.clone();
        bad.tokens.clear();
        assert!(matches!(bad.check(), Err(TokenizeError::EmptyVocabulary)));

        let mut bad = good.clone();
        bad.special.end_of_turn = Some(2);
        let error = bad.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the end-of-turn token has id 2, but the vocabulary has 2 tokens"
        );

        let mut bad = good.clone();
        bad.tokens[1].score = f32::NAN;
        assert_eq!(
            bad.check().unwrap_err().to_string(),
            "token 1 ('b') has a score that is not a number"
        );

        let mut bad = good.clone();
        bad.add_begin = true;
        assert!(matches!(
            bad.check(),
            Err(TokenizeError::MissingSpecial { name: "begin" })
        ));

        let mut bad = good.clone();
        bad.add_end = true;
        assert!(matches!(
            bad.check(),
            Err(TokenizeError::MissingSpecial { name: "end" })
        ));

        let mut bad = good;
        bad.tokens[0].kind = TokenKind::Byte;
        assert!(matches!(
            bad.check(),
            Err(TokenizeError::MalformedByteToken { id: 0, .. })
        ));
    }
}
