//! `tokenizer.json` of Hugging Face folders, through the library that defines the format.
//!
//! The library (`tokenizers`) encodes. Rendering is this crate's own, token by token, since a stream must not cut a
//! character: [`decoder`] reads from the file what the library's decoder would do with each token.
//!
//! The file is not trusted. What the library would panic on becomes an error, where panics unwind; ids are bounded by the
//! size of the file; truncation and padding, which a file may ask for, are switched off.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokenizers::{Encoding, PostProcessor as _, Token};

mod charsmaps;
mod config;
mod decoder;
mod vocabulary;

use super::error::TokenizeError;
use super::pieces::{PieceIndex, Pieces};
use super::special::SpecialTokens;
use super::vocabulary::{SpecialIds, TokenKind, Vocabulary, VocabularyKind, excerpt};
use super::{Model, Tokenizer, generation_ends};
use charsmaps::SoundCharsmaps;
use config::{Config, Definition};
use decoder::Rendering;

/// The library's tokenizer, and the tokens that its post-processor puts around a text.
pub(super) struct HuggingFace {
    /// Whether texts of special tokens are read as these is a switch of the library's tokenizer, hence the lock: it is
    /// taken for writing only to turn the switch.
    inner: RwLock<tokenizers::Tokenizer>,
    before: Vec<u32>,
    after: Vec<u32>,
    drops_first_space: bool,
}

impl std::fmt::Debug for HuggingFace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HuggingFace")
            .field("before", &self.before)
            .field("after", &self.after)
            .field("drops_first_space", &self.drops_first_space)
            .finish_non_exhaustive()
    }
}

/// Stands for the text where the post-processor is asked what it puts around it.
const TEXT: u32 = u32::MAX;

impl Tokenizer {
    /// Reads the `tokenizer.json` of a Hugging Face folder, and its `tokenizer_config.json` if there is one.
    ///
    /// The configuration names the begin, end, unknown and other tokens and carries the chat templates. Its
    /// `add_bos_token` and `add_eos_token` count for the tokenizer classes that put them into effect (those of Llama and
    /// Gemma and their kin); with others the file's post-processor alone says what is added. Truncation and padding are
    /// not done, whatever the file says.
    ///
    /// # Errors
    /// A file that the library refuses or panics on; a decoder that can't be applied token by token; token ids beyond
    /// what a file of that size can number; a configuration that is no JSON object, or names tokens that are not there.
    pub fn from_hugging_face(json: &[u8], config: Option<&[u8]>) -> Result<Self, TokenizeError> {
        config::parse::<SoundCharsmaps>("reading tokenizer.json", json)?;
        let definition = Definition::parse(json)?;
        let config = config.map(Config::parse).transpose()?.unwrap_or_default();
        let rendering = Rendering::of(definition.decoder.as_ref())?;
        let mut inner = guarded("reading tokenizer.json", || {
            let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            Ok(inner)
        })?;
        inner.set_encode_special_tokens(true);
        let special = config.special_ids(|text| inner.token_to_id(text), &definition)?;
        let pieces = pieces(&inner, &rendering, &definition, &special, json.len())?;
        let token_count = pieces.len() as u32;

        let mut strips = Vocabulary::new(VocabularyKind::WordPiece, Vec::new());
        let mut added: Vec<_> = inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        for (id, token) in &added {
            strips.strips_before.extend(token.lstrip.then_some(*id));
            strips.strips_after.extend(token.rstrip.then_some(*id));
        }
        let special_tokens = SpecialTokens::of(&pieces, &strips)?;
        let ends = added
            .iter()
            .map(|(id, token)| (*id, token.content.as_bytes()));
        let ends_generation = generation_ends(&special, ends);
        let (mut before, mut after) = around(&inner)?;
        config.override_added(&special, &mut before, &mut after)?;
        for &id in before.iter().chain(&after) {
            if id >= token_count {
                return Err(TokenizeError::IdOutOfRange {
                    id,
                    count: token_count as usize,
                });
            }
        }
        Ok(Tokenizer {
            begin: before.first().copied(),
            end: after.last().copied(),
            model: Model::HuggingFace(Box::new(HuggingFace {
                inner: RwLock::new(inner),
                before,
                after,
                drops_first_space: rendering.drops_first_space(),
            })),
            index: PieceIndex::of(&Pieces::default(), &strips),
            pieces: pieces.into(),
            special_tokens,
            special,
            ends_generation,
            token_count,
            chat_templates: config.chat_templates,
        })
    }
}

impl HuggingFace {
    /// Rendering takes the space off that the first token begins with.
    pub(super) fn drops_first_space(&self) -> bool {
        self.drops_first_space
    }

    /// Appends the tokens of `text`, as the library gives them.
    pub(super) fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        let inner = self.reading(parse_special);
        let encoding = guarded("encoding a text", || inner.encode_fast(text, false))?;
        let around = |ids| if add_special { ids } else { [].as_slice() };
        out.extend_from_slice(around(&self.before));
        out.extend_from_slice(encoding.get_ids());
        out.extend_from_slice(around(&self.after));
        Ok(())
    }

    /// The library's tokenizer, with the switch as asked.
    fn reading(&self, special: bool) -> RwLockReadGuard<'_, tokenizers::Tokenizer> {
        // The library's switch says the opposite: that special tokens are encoded as text.
        let inner = self.inner.read();
        if inner.get_encode_special_tokens() != special {
            return inner;
        }
        drop(inner);
        let mut inner = self.inner.write();
        inner.set_encode_special_tokens(!special);
        RwLockWriteGuard::downgrade(inner)
    }
}

/// What each token renders as, by id.
fn pieces(
    inner: &tokenizers::Tokenizer,
    rendering: &Rendering,
    definition: &Definition,
    special: &SpecialIds,
    file_bytes: usize,
) -> Result<Pieces, TokenizeError> {
    let added = inner.get_added_tokens_decoder();
    let highest = inner.get_vocab(true).into_values().max();
    let highest = highest.ok_or(TokenizeError::EmptyVocabulary)?;
    if highest as usize >= file_bytes {
        return Err(TokenizeError::IdsTooSparse {
            id: highest,
            bytes: file_bytes,
        });
    }
    let mut pieces = Pieces::default();
    let mut piece = Vec::new();
    for id in 0..=highest {
        piece.clear();
        let kind = match (added.get(&id), inner.id_to_token(id)) {
            (_, None) => TokenKind::Unused,
            (Some(token), Some(text)) if token.special => {
                piece.extend_from_slice(text.as_bytes());
                TokenKind::Control
            }
            (Some(_), Some(text)) => {
                rendering.render(&text, &mut piece);
                TokenKind::UserDefined
            }
            (None, Some(text)) => {
                rendering.render(&text, &mut piece);
                match () {
                    () if special.unknown == Some(id) => TokenKind::Unknown,
                    () if definition.is_byte(&text) => TokenKind::Byte,
                    () => TokenKind::Normal,
                }
            }
        };
        pieces.push(&piece, kind)?;
    }
    Ok(pieces)
}

/// The tokens that the post-processor puts before and after a text.
fn around(inner: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), TokenizeError> {
    let Some(processor) = inner.get_post_processor() else {
        return Ok((Vec::new(), Vec::new()));
    };
    let ids = guarded("post-processing", || {
        let text = Encoding::from_tokens(vec![Token::new(TEXT, String::new(), (0, 0))], 0);
        let whole = processor.process(text, None, true)?;
        Ok(whole.get_ids().to_vec())
    })?;
    let mut parts = ids.split(|id| *id == TEXT).map(<[u32]>::to_vec);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(before), Some(after), None) => Ok((before, after)),
        _ => Err(TokenizeError::HuggingFace {
            doing: "reading tokenizer.json",
            why: "its post-processor drops or repeats the text".into(),
        }),
    }
}

/// Calls the library, whose errors and panics on hostile files become errors here.
fn guarded<T>(
    doing: &'static str,
    call: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TokenizeError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(TokenizeError::HuggingFace {
            doing,
            why: excerpt_of_message(&error.to_string()),
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(TokenizeError::HuggingFacePanicked {
                doing,
                why: excerpt_of_message(text.unwrap_or("it gave no reason")),
            })
        }
    }
}

/// A message that may quote the file at any length, cut.
fn excerpt_of_message(text: &str) -> String {
    const CHARS: usize = 300;
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text of the file, cut for a message.
fn quoted(text: &str) -> String {
    excerpt(text.as_bytes())
}
