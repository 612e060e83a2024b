//! Text to token ids and back, from a model's own vocabulary.
//!
//! A [`Vocabulary`] is plain data, whichever file it came from; a [`Tokenizer`] is built from it once and shared; a
//! [`Detokenizer`] renders one stream of tokens; a [`StopMatcher`] watches the text for strings that end it.

use std::sync::Arc;

mod bpe;
pub mod byte_level;
mod charsmap;
mod detokenize;
mod error;
mod from_gguf;
mod hugging_face;
mod merge;
mod pieces;
pub mod pre_tokenize;
mod special;
mod spm;
mod stop;
mod to_gguf;
mod unigram;
mod vocabulary;
mod wordpiece;

use bpe::Bpe;
pub use detokenize::{DetokenizeOptions, Detokenizer};
pub use error::TokenizeError;
use hugging_face::HuggingFace;
use pieces::{PieceIndex, Pieces};
use special::{Fragment, SpecialTokens};
use spm::Spm;
pub use stop::{StopMatcher, StopOutput};
use unigram::Unigram;
pub use vocabulary::{Merge, SpecialIds, TokenEntry, TokenKind, Vocabulary, VocabularyKind};
use wordpiece::WordPiece;

/// What [`Tokenizer::encode`] does beyond the text itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the begin and end tokens that the vocabulary says to add.
    pub add_special: bool,
    /// Read the text of control and unknown tokens (`<|im_start|>`) as these tokens. Leave it false for text from users:
    /// they could forge a turn.
    pub parse_special: bool,
}

/// Turns text into token ids by a model's vocabulary.
#[derive(Debug)]
pub struct Tokenizer {
    model: Model,
    pieces: Arc<Pieces>,
    index: PieceIndex,
    special_tokens: SpecialTokens,
    special: SpecialIds,
    begin: Option<u32>,
    end: Option<u32>,
    ends_generation: Vec<u32>,
    token_count: u32,
    chat_templates: Vec<(String, String)>,
}

#[derive(Debug)]
enum Model {
    Spm(Spm),
    Bpe(Bpe),
    WordPiece(WordPiece),
    Unigram(Unigram),
    HuggingFace(Box<HuggingFace>),
}

/// Texts of control tokens that end an answer even where the model file doesn't name them.
const GENERATION_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<end_of_utterance>",
    "<\u{FF5C}end\u{2581}of\u{2581}sentence\u{FF5C}>",
    "[EOT]",
    "<EOT>",
];

/// Longest text, so that positions in it (and a space before it) fit in 32 bits.
const MAX_TEXT_BYTES: usize = u32::MAX as usize - 1;

impl Tokenizer {
    /// Builds the tables for a vocabulary.
    ///
    /// # Errors
    /// A vocabulary that [`Vocabulary::check`] refuses, or a pre-tokeniser that is not known.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, TokenizeError> {
        vocabulary.check()?;
        let mut pieces = Pieces::of(vocabulary)?;
        let token_count = pieces.len() as u32;
        let special_tokens = SpecialTokens::of(&pieces, vocabulary)?;
        let mut index = PieceIndex::of(&pieces, vocabulary);
        let model = match vocabulary.kind {
            VocabularyKind::Spm => Model::Spm(Spm::new(vocabulary, &pieces, &index)),
            VocabularyKind::Bpe | VocabularyKind::CharacterBpe => {
                Model::Bpe(Bpe::new(vocabulary, &mut pieces, &mut index)?)
            }
            VocabularyKind::WordPiece => Model::WordPiece(WordPiece::new(vocabulary)),
            VocabularyKind::Unigram => Model::Unigram(Unigram::new(vocabulary)?),
        };
        let special = vocabulary.special;
        let steering = (0u32..)
            .zip(&vocabulary.tokens)
            .filter(|(_, token)| matches!(token.kind, TokenKind::Control | TokenKind::UserDefined));
        let ends_generation = generation_ends(
            &special,
            steering.map(|(id, token)| (id, token.text.as_slice())),
        );
        Ok(Tokenizer {
            model,
            pieces: Arc::new(pieces),
            index,
            special_tokens,
            special,
            begin: special.begin.filter(|_| vocabulary.add_begin),
            end: vocabulary.end_added().filter(|_| vocabulary.add_end),
            ends_generation,
            token_count,
            chat_templates: vocabulary.chat_templates.clone(),
        })
    }

    /// The token ids of `text`.
    ///
    /// # Errors
    /// A byte that has no token in a vocabulary without an unknown token; a text longer than 4 GiB.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizeError> {
        let mut out = Vec::with_capacity(text.len().min(MAX_TEXT_BYTES) / 3 + 2);
        self.encode_into(text, options, &mut out)?;
        Ok(out)
    }

    /// Appends the token ids of `text` to `out`. On an error `out` is as it was.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_into(
        &self,
        text: &str,
        options: EncodeOptions,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        check_length(text)?;
        let before = out.len();
        let EncodeOptions {
            add_special,
            parse_special,
        } = options;
        let result = match &self.model {
            Model::HuggingFace(library) => library.encode(text, add_special, parse_special, out),
            _ => self.encode_fragments(text, options, out),
        };
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    fn encode_fragments(
        &self,
        text: &str,
        options: EncodeOptions,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        out.extend(self.begin.filter(|_| options.add_special));
        let fragments = self.special_tokens.split(text, options.parse_special);
        self.encode_each(fragments, out)?;
        out.extend(self.end.filter(|_| options.add_special));
        Ok(())
    }

    fn encode_each<'t>(
        &self,
        fragments: impl Iterator<Item = Fragment<'t>>,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        let mut after_special = true;
        for fragment in fragments {
            match fragment {
                Fragment::Token(id) => out.push(id),
                Fragment::Text(text) => match &self.model {
                    Model::Spm(spm) => {
                        spm.encode(&self.pieces, &self.index, text, after_special, out)?
                    }
                    Model::Bpe(bpe) => bpe.encode(&self.pieces, &self.index, text, out)?,
                    Model::WordPiece(words) => {
                        words.encode(&self.pieces, &self.index, text, out)?
                    }
                    Model::Unigram(unigram) => unigram.encode(text, out)?,
                    Model::HuggingFace(library) => library.encode(text, false, false, out)?,
                },
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        Ok(())
    }

    /// The token ids of the text that a chat template rendered. Texts of special tokens are read as
    /// these tokens, save where one covers an `untrusted` position (byte offsets, ascending), which
    /// is text of users. Nothing is added: the template says where a text begins.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_rendered(
        &self,
        text: &str,
        untrusted: &[usize],
    ) -> Result<Vec<u32>, TokenizeError> {
        check_length(text)?;
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        let split = |untrusted| self.special_tokens.split_except(text, true, untrusted);
        match &self.model {
            // The library cuts at special tokens itself, and knows more of them. Only where one was forged is the text
            // cut here, and its parts encoded each by itself.
            Model::HuggingFace(library) if split(untrusted).eq(split(&[])) => {
                library.encode(text, false, true, &mut out)?;
            }
            _ => self.encode_each(split(untrusted), &mut out)?,
        }
        Ok(out)
    }

    /// Renders a stream of this vocabulary's tokens.
    pub fn detokenizer(&self, options: DetokenizeOptions) -> Detokenizer {
        let adds_space_prefix = match &self.model {
            Model::Spm(spm) => spm.adds_space_prefix(),
            Model::Unigram(unigram) => unigram.adds_space_prefix(),
            Model::HuggingFace(library) => library.drops_first_space(),
            Model::Bpe(_) => false,
            // The first word of a text is written like any other, with the space before it.
            Model::WordPiece(_) => true,
        };
        Detokenizer::new(
            self.pieces.clone(),
            self.token_count,
            adds_space_prefix,
            options,
        )
    }

    /// The text of `ids`.
    ///
    /// # Errors
    /// [`TokenizeError::IdOutOfRange`].
    pub fn decode(&self, ids: &[u32], options: DetokenizeOptions) -> Result<String, TokenizeError> {
        let mut stream = self.detokenizer(options);
        let mut text = String::new();
        for &id in ids {
            text.push_str(stream.push(id)?);
        }
        text.push_str(stream.finish());
        Ok(text)
    }

    /// The text of each of `ids` by itself, special tokens included. Bytes that are part of a character appear as U+FFFD.
    ///
    /// # Errors
    /// [`TokenizeError::IdOutOfRange`].
    pub fn pieces(&self, ids: &[u32]) -> Result<Vec<String>, TokenizeError> {
        let piece = |&id| {
            self.piece(id)
                .map(|piece| String::from_utf8_lossy(piece).into_owned())
        };
        ids.iter().map(piece).collect()
    }

    /// The bytes that `id` renders as, special tokens as their text.
    ///
    /// # Errors
    /// [`TokenizeError::IdOutOfRange`].
    pub fn piece(&self, id: u32) -> Result<&[u8], TokenizeError> {
        let piece = self.pieces.get(id).filter(|_| id < self.token_count);
        piece.ok_or(TokenizeError::IdOutOfRange {
            id,
            count: self.token_count as usize,
        })
    }

    /// Number of tokens; ids are below it.
    pub fn token_count(&self) -> u32 {
        self.token_count
    }

    /// What `id` is for; None if it is out of range.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.pieces.kind(id).filter(|_| id < self.token_count)
    }

    /// Tokens with a meaning of their own.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// The text of the model's usual chat template, a Jinja program; None if the model has none.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template_named("default")
    }

    /// The text of the model's chat template of that name.
    pub fn chat_template_named(&self, name: &str) -> Option<&str> {
        let mut templates = self.chat_templates.iter();
        let found = templates.find(|(found, _)| found == name);
        found.map(|(_, text)| text.as_str())
    }

    /// The model's chat templates by name; the usual one is named `default`.
    pub fn chat_templates(&self) -> &[(String, String)] {
        &self.chat_templates
    }

    /// The names of the model's chat templates; the usual one is named `default`.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.chat_templates.iter().map(|(name, _)| name.as_str())
    }

    /// Replaces the model's chat templates, by name.
    pub fn set_chat_templates(&mut self, templates: Vec<(String, String)>) {
        self.chat_templates = templates;
    }

    /// The begin token, if the vocabulary says to add it.
    pub fn begin_added(&self) -> Option<u32> {
        self.begin
    }

    /// Adds tokens that end an answer, as a model's generation settings may list them.
    ///
    /// # Errors
    /// [`TokenizeError::IdOutOfRange`].
    pub fn add_generation_ends(&mut self, ids: &[u32]) -> Result<(), TokenizeError> {
        for &id in ids {
            self.piece(id)?;
        }
        self.ends_generation.extend_from_slice(ids);
        self.ends_generation.sort_unstable();
        self.ends_generation.dedup();
        Ok(())
    }

    /// Checks that every token has a logit in a model that computes `logits` of them. A model may have more, as padding;
    /// those are never chosen.
    ///
    /// # Errors
    /// [`TokenizeError::LargerThanModel`].
    pub fn check_model(&self, logits: u32) -> Result<(), TokenizeError> {
        if self.token_count > logits {
            return Err(TokenizeError::LargerThanModel {
                tokens: self.token_count,
                logits,
            });
        }
        Ok(())
    }

    /// Generation ends when the model emits `id`: the end token, the end of a turn or message, or a control token that is
    /// known to mean one of these.
    pub fn ends_generation(&self, id: u32) -> bool {
        self.ends_generation.binary_search(&id).is_ok()
    }
}

/// The named tokens that end an answer, and those of `steering` (id and text) that are known to mean it, ascending.
fn generation_ends<'t>(
    special: &SpecialIds,
    steering: impl Iterator<Item = (u32, &'t [u8])>,
) -> Vec<u32> {
    let named = [special.end, special.end_of_turn, special.end_of_message];
    let mut ends: Vec<u32> = named.into_iter().flatten().collect();
    let known = |text: &[u8]| GENERATION_ENDS.iter().any(|end| end.as_bytes() == text);
    ends.extend(steering.filter_map(|(id, text)| known(text).then_some(id)));
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn check_length(text: &str) -> Result<(), TokenizeError> {
    match text.len() > MAX_TEXT_BYTES {
        true => Err(TokenizeError::TextTooLong {
            bytes: text.len(),
            limit: MAX_TEXT_BYTES,
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
