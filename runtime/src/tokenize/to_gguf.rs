//! A vocabulary as the metadata of a GGUF file (keys `tokenizer.ggml.*` of the GGUF specification).

use anynpu_graphs::import::gguf::{ByteString, GgufWriteError, GgufWriter};

use super::from_gguf::{MODELS, SCORES, TOKENS, TYPES};
use super::vocabulary::{TokenKind, Vocabulary, VocabularyKind};

impl Vocabulary {
    /// Adds the vocabulary to a file's metadata. [`Vocabulary::from_gguf`] reads it again, but for
    /// special tokens that take the blanks around them: the format has no place for these.
    ///
    /// # Errors
    /// A file that has a vocabulary already.
    pub fn write_gguf(&self, file: &mut GgufWriter) -> Result<(), GgufWriteError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let model = MODELS.iter().find(|(_, kind)| *kind == self.kind);
        // every kind has a name
        file.set(&key("model"), model.map_or("none", |(name, _)| name))?;
        file.set(&key("pre"), self.pre_tokenizer.as_str())?;
        let texts = self.tokens.iter().map(|t| ByteString(&t.text));
        file.set(TOKENS, &texts.collect::<Vec<_>>())?;
        if matches!(self.kind, VocabularyKind::Spm | VocabularyKind::Unigram) {
            let scores = self.tokens.iter().map(|t| t.score);
            file.set(SCORES, &scores.collect::<Vec<_>>())?;
        }
        let types = self.tokens.iter().map(|t| token_type(t.kind));
        file.set(TYPES, &types.collect::<Vec<_>>())?;
        if matches!(
            self.kind,
            VocabularyKind::Bpe | VocabularyKind::CharacterBpe
        ) {
            let merges = self.merges.iter();
            let merges = merges.map(|m| format!("{} {}", m.left(), m.right()));
            file.set(&key("merges"), &merges.collect::<Vec<_>>())?;
        }
        let special = &self.special;
        for (name, id) in [
            ("bos", special.begin),
            ("eos", special.end),
            ("eot", special.end_of_turn),
            ("eom", special.end_of_message),
            ("unknown", special.unknown),
            // The format spells it so.
            ("seperator", special.separator),
            ("padding", special.padding),
            ("mask", special.mask),
        ] {
            if let Some(id) = id {
                file.set(&key(&format!("{name}_token_id")), &id)?;
            }
        }
        file.set(&key("add_bos_token"), &self.add_begin)?;
        let end = match self.kind {
            VocabularyKind::WordPiece => "add_sep_token",
            _ => "add_eos_token",
        };
        file.set(&key(end), &self.add_end)?;
        match self.kind {
            VocabularyKind::Spm => file.set(&key("add_space_prefix"), &self.add_space_prefix)?,
            VocabularyKind::Unigram => {
                file.set(&key("add_space_prefix"), &self.add_space_prefix)?;
                file.set(&key("remove_extra_whitespaces"), &self.merge_spaces)?;
                file.set(&key("precompiled_charsmap"), &self.charsmap)?;
            }
            VocabularyKind::WordPiece => {
                file.set(&key("normalizer.lowercase"), &self.lowercase)?;
                file.set(&key("normalizer.strip_accents"), &self.strip_accents)?;
            }
            VocabularyKind::Bpe | VocabularyKind::CharacterBpe => {}
        }
        let mut named = Vec::new();
        for (name, text) in &self.chat_templates {
            let key = match name.as_str() {
                "default" => "tokenizer.chat_template".to_owned(),
                name => {
                    named.push(name);
                    format!("tokenizer.chat_template.{name}")
                }
            };
            file.set(&key, text)?;
        }
        match named.is_empty() {
            true => Ok(()),
            false => file.set("tokenizer.chat_templates", &named),
        }
    }
}

/// The format's number of a kind.
fn token_type(kind: TokenKind) -> i32 {
    match kind {
        TokenKind::Normal => 1,
        TokenKind::Unknown => 2,
        TokenKind::Control => 3,
        TokenKind::UserDefined => 4,
        TokenKind::Unused => 5,
        TokenKind::Byte => 6,
    }
}
