//! What can go wrong with a vocabulary, a text or a token id.

use anynpu_graphs::import::gguf::GgufError;
use thiserror::Error;

/// A vocabulary that can't be used, or a text or token that it can't express.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The tokenizer model is not one of ours.
    #[error("tokenizer model '{model}' is not supported; supported: {known}")]
    UnknownModel {
        /// The name found.
        model: String,
        /// The names understood, separated by commas.
        known: String,
    },
    /// The pre-tokeniser is not one of ours.
    #[error("pre-tokenizer '{name}' is not supported; supported: {known}")]
    UnknownPreTokenizer {
        /// The name found.
        name: String,
        /// The names understood, separated by commas.
        known: String,
    },
    /// The vocabulary has no tokens.
    #[error("the vocabulary has no tokens")]
    EmptyVocabulary,
    /// The vocabulary is larger than ids or offsets can number.
    #[error("the vocabulary has {found} {what}; at most {limit} can be numbered")]
    VocabularyTooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many were found.
        found: usize,
        /// The largest number that can be handled.
        limit: usize,
    },
    /// A score is NaN, so merges have no order.
    #[error("token {id} ('{text}') has a score that is not a number")]
    ScoreNotANumber {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A token of kind byte is not written `<0xHH>`.
    #[error(
        "token {id} is marked as a byte but its text is '{text}'; expected '<0x00>' to '<0xFF>'"
    )]
    MalformedByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A named token (begin, end, …) has an id that the vocabulary lacks.
    #[error("the {name} token has id {id}, but the vocabulary has {count} tokens")]
    SpecialIdOutOfRange {
        /// Which named token.
        name: &'static str,
        /// Its id.
        id: u32,
        /// Number of tokens.
        count: usize,
    },
    /// The vocabulary asks for a token to be added but doesn't say which.
    #[error(
        "the vocabulary says to add a {name} token but names none; set its id or clear the flag"
    )]
    MissingSpecial {
        /// Which named token.
        name: &'static str,
    },
    /// A merge rule is not two parts with one space between.
    #[error("merge {rank} is '{text}'; expected two parts with a space between")]
    MalformedMerge {
        /// Position in the list of merges.
        rank: usize,
        /// The rule as found.
        text: String,
    },
    /// A token is longer than matching allows.
    #[error("token {id} has {bytes} bytes; a Unigram vocabulary may have tokens of up to {limit}")]
    TokenTooLong {
        /// The token.
        id: u32,
        /// Its length.
        bytes: usize,
        /// The largest length.
        limit: usize,
    },
    /// The normalisation table is not one that SentencePiece makes.
    #[error("the normalisation table (precompiled charsmap, {bytes} bytes) is damaged: {why}")]
    MalformedCharsmap {
        /// Size of the table.
        bytes: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// A character of the text has no token, and the vocabulary has no unknown token to stand for it.
    #[error("the character '{character}' has no token, and the vocabulary has no unknown token")]
    CharacterWithoutToken {
        /// The character.
        character: char,
    },
    /// The library for `tokenizer.json` refuses the file or a text.
    #[error("{doing} failed: {why}")]
    HuggingFace {
        /// What was done.
        doing: &'static str,
        /// The library's own words.
        why: String,
    },
    /// The library for `tokenizer.json` panicked, so the file is not one it was made for.
    #[error(
        "{doing} failed: the library panicked ({why}); the file is damaged or beyond what it supports"
    )]
    HuggingFacePanicked {
        /// What was done.
        doing: &'static str,
        /// The library's own words.
        why: String,
    },
    /// The decoder of a `tokenizer.json` can't be applied to one token at a time.
    #[error("decoder {found} of tokenizer.json is not supported; supported: {known}")]
    UnsupportedDecoder {
        /// The decoder, as the file has it.
        found: String,
        /// Those supported.
        known: &'static str,
    },
    /// Token ids are higher than a file of its size can number one by one.
    #[error(
        "tokenizer.json has a token with id {id}, but its {bytes} bytes can't hold that many tokens; number them from 0 without gaps"
    )]
    IdsTooSparse {
        /// The highest id.
        id: u32,
        /// Size of the file.
        bytes: usize,
    },
    /// `tokenizer_config.json` names a token that `tokenizer.json` lacks.
    #[error("tokenizer_config.json gives '{text}' as {role}, but tokenizer.json has no such token")]
    NamedTokenMissing {
        /// Which of its members.
        role: &'static str,
        /// The token's text.
        text: String,
    },
    /// A file beside `tokenizer.json` that can't be used.
    #[error("{file} {why}")]
    FolderFile {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A `tokenizer.json` that no vocabulary of a GGUF file does the same as.
    #[error(
        "tokenizer.json can't be written to GGUF: its {part} is {found}, which GGUF has no exact counterpart for; expected {expected}"
    )]
    NoGgufForm {
        /// The part of the file.
        part: String,
        /// What it is.
        found: String,
        /// What could be written.
        expected: String,
    },
    /// The model computes logits for fewer tokens than the vocabulary has.
    #[error(
        "the vocabulary has {tokens} tokens but the model gives logits for {logits}; use the tokenizer that belongs to the model"
    )]
    LargerThanModel {
        /// Tokens of the vocabulary.
        tokens: u32,
        /// Logits of the model.
        logits: u32,
    },
    /// The special tokens could not be compiled into a matcher.
    #[error("the {count} special tokens could not be compiled into a matcher: {why}")]
    SpecialTokens {
        /// How many there are.
        count: usize,
        /// The matcher's own words.
        why: String,
    },
    /// A byte of the text has no token, and the vocabulary has no unknown token to stand for it.
    #[error("byte 0x{byte:02X} has no token, and the vocabulary has no unknown token")]
    ByteWithoutToken {
        /// The byte.
        byte: u8,
    },
    /// A word has no tokens, and the vocabulary has no unknown token to stand for it.
    #[error("the word '{word}' has no token, and the vocabulary has no unknown token")]
    WordWithoutToken {
        /// The word's beginning.
        word: String,
    },
    /// A text is longer than positions can number.
    #[error("the text has {bytes} bytes; at most {limit} can be tokenised at once")]
    TextTooLong {
        /// Its length.
        bytes: usize,
        /// The largest length.
        limit: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {id} is out of range: the vocabulary has {count} tokens")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// Number of tokens.
        count: usize,
    },
    /// A stop string is empty, so that it would stop at once.
    #[error("stop string {index} is empty; leave it out instead")]
    EmptyStopString {
        /// Position in the list of stop strings.
        index: usize,
    },
    /// The model file's metadata lacks a part of the vocabulary, or has it in another type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model file has another number of these than it has tokens.
    #[error("metadata '{key}' has {found} elements; expected one for each of the {tokens} tokens")]
    LengthMismatch {
        /// The metadata key.
        key: &'static str,
        /// Number of its elements.
        found: usize,
        /// Number of tokens.
        tokens: usize,
    },
    /// The model file gives a token a kind that the format doesn't know.
    #[error("token {id} has type {found}; types 0 to 6 are known")]
    UnknownTokenType {
        /// The token.
        id: u32,
        /// Its type.
        found: i32,
    },
}
