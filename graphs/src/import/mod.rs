//! Importers: model files of other projects, read as untrusted input.
//!
//! An importer believes nothing it hasn't checked: arithmetic on figures from a file is checked,
//! counts are limited by what the file's remaining bytes could hold, and nothing is allocated for
//! an announced size before that many bytes were seen.

pub mod gguf;
pub mod hugging_face;
mod mapped_file;
pub mod safetensors;

pub use mapped_file::{MappedFile, MappedFileError};

/// The beginning of a text that may be long or hold control characters, for a message.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS: usize = 60;
    let mut out: String = text
        .chars()
        .take(CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(CHARS).is_some() {
        out.push('…');
    }
    out
}
