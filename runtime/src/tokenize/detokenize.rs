//! Token ids back to text, one at a time, never cutting a character.

use std::str;
use std::sync::Arc;

use super::error::TokenizeError;
use super::pieces::Pieces;
use super::vocabulary::TokenKind;

/// How a [`Detokenizer`] renders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetokenizeOptions {
    /// Tokens that steer the model (control, unknown, unused) are rendered as their text instead of as nothing.
    pub special: bool,
    /// The tokens begin a text, so that the space which encoding put before it is taken off again. Leave it false for
    /// tokens that continue a prompt.
    pub at_start: bool,
}

/// Renders a stream of tokens as text.
///
/// A token may end within a character; these bytes are held back until the character is whole. Bytes that can't become one
/// are rendered as U+FFFD, in the way of [`String::from_utf8_lossy`] over all the bytes. The buffers are reused: once they
/// have grown to the largest piece, rendering a token allocates nothing.
#[derive(Debug)]
pub struct Detokenizer {
    pieces: Arc<Pieces>,
    token_count: u32,
    special: bool,
    drop_space: bool,
    bytes: Vec<u8>,
    text: String,
}

impl Detokenizer {
    pub(super) fn new(
        pieces: Arc<Pieces>,
        token_count: u32,
        adds_space_prefix: bool,
        options: DetokenizeOptions,
    ) -> Self {
        Detokenizer {
            pieces,
            token_count,
            special: options.special,
            drop_space: options.at_start && adds_space_prefix,
            bytes: Vec::with_capacity(64),
            text: String::with_capacity(128),
        }
    }

    /// The text that `id` completes, which may be empty.
    ///
    /// # Errors
    /// [`TokenizeError::IdOutOfRange`]; the stream can go on.
    pub fn push(&mut self, id: u32) -> Result<&str, TokenizeError> {
        let out_of_range = TokenizeError::IdOutOfRange {
            id,
            count: self.token_count as usize,
        };
        if id >= self.token_count {
            return Err(out_of_range);
        }
        let (Some(mut piece), Some(kind)) = (self.pieces.get(id), self.pieces.kind(id)) else {
            return Err(out_of_range);
        };
        let is_text = matches!(
            kind,
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte
        );
        if !is_text && !self.special {
            piece = &[];
        }
        if is_text && !piece.is_empty() && self.drop_space {
            self.drop_space = false;
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.bytes.extend_from_slice(piece);
        Ok(self.complete(false))
    }

    /// The bytes held back, which no token completes any more. Afterwards the stream is empty.
    pub fn finish(&mut self) -> &str {
        self.complete(true)
    }

    /// Moves whole characters from `bytes` to `text`.
    fn complete(&mut self, at_end: bool) -> &str {
        self.text.clear();
        let mut rest = self.bytes.as_slice();
        let held = loop {
            match str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    break 0;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.text
                        .push_str(str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        None if !at_end => break after.len(),
                        None => {
                            self.text.push(char::REPLACEMENT_CHARACTER);
                            break 0;
                        }
                        Some(invalid) => {
                            self.text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[invalid..];
                        }
                    }
                }
            }
        };
        let done = self.bytes.len() - held;
        self.bytes.drain(..done);
        &self.text
    }
}
