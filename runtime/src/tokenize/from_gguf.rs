//! The vocabulary in a GGUF file's metadata (keys `tokenizer.ggml.*` of the GGUF specification).

use anynpu_graphs::import::gguf::{Gguf, Metadata, Value, ValueType};

use super::error::TokenizeError;
use super::pre_tokenize;
use super::vocabulary::{
    Merge, SpecialIds, TokenEntry, TokenKind, Vocabulary, VocabularyKind, excerpt, parse_byte_token,
};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";

/// The tokenizer models, by their names in GGUF files.
pub(super) const MODELS: [(&str, VocabularyKind); 5] = [
    ("llama", VocabularyKind::Spm),
    ("gpt2", VocabularyKind::Bpe),
    ("bert", VocabularyKind::WordPiece),
    ("t5", VocabularyKind::Unigram),
    ("gemma4", VocabularyKind::CharacterBpe),
];

impl Vocabulary {
    /// Reads the vocabulary of a model file.
    ///
    /// What the file leaves out is as files of the kind usually mean it: SentencePiece adds a begin token and a space before
    /// the text, WordPiece adds its begin and separator tokens and folds case and accents, pre-tokenisers of Llama 3 add a
    /// begin token, and nothing else is added. Where token types are left out, the named tokens steer the model, and
    /// `<0xHH>` are bytes in SentencePiece. Ids of all ones mean "none".
    ///
    /// # Errors
    /// A tokenizer model that is not known; metadata that is missing or of another type; lists of different lengths. What
    /// [`Vocabulary::check`] refuses is found when a tokenizer is built.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizeError> {
        let metadata = gguf.metadata();
        let model: &str = metadata.require("tokenizer.ggml.model")?;
        let unknown = || TokenizeError::UnknownModel {
            model: excerpt(model.as_bytes()),
            known: MODELS.map(|(name, _)| name).join(", "),
        };
        let kind = MODELS
            .iter()
            .find(|(name, _)| *name == model)
            .ok_or_else(unknown)?
            .1;
        let mut special = special_ids(metadata)?;
        let mut vocabulary = Vocabulary::new(kind, tokens(metadata, kind, &special)?);
        if kind == VocabularyKind::Spm {
            usual_spm_ids(&vocabulary.tokens, &mut special);
        }
        vocabulary.special = special;
        if let Some(name) = metadata.find::<&str>("tokenizer.ggml.pre")? {
            vocabulary.pre_tokenizer = name.to_owned();
        }
        if kind == VocabularyKind::CharacterBpe {
            vocabulary.pre_tokenizer = model.to_owned();
        }
        if matches!(kind, VocabularyKind::Bpe | VocabularyKind::CharacterBpe) {
            vocabulary.merges = merges(metadata)?;
        }
        let usually_begins = match kind {
            VocabularyKind::Spm | VocabularyKind::WordPiece | VocabularyKind::CharacterBpe => true,
            VocabularyKind::Bpe => pre_tokenize::usually_adds_begin(&vocabulary.pre_tokenizer),
            VocabularyKind::Unigram => false,
        };
        let flag = |key: &str, usual: bool| {
            Ok::<bool, TokenizeError>(metadata.find(key)?.unwrap_or(usual))
        };
        let word_piece = kind == VocabularyKind::WordPiece;
        vocabulary.add_begin = flag(
            "tokenizer.ggml.add_bos_token",
            usually_begins && special.begin.is_some(),
        )?;
        vocabulary.add_end = if word_piece {
            flag(
                "tokenizer.ggml.add_sep_token",
                vocabulary.end_added().is_some(),
            )?
        } else {
            flag(
                "tokenizer.ggml.add_eos_token",
                kind == VocabularyKind::Unigram && special.end.is_some(),
            )?
        };
        vocabulary.add_space_prefix = flag(
            "tokenizer.ggml.add_space_prefix",
            kind == VocabularyKind::Spm,
        )?;
        vocabulary.lowercase = flag("tokenizer.ggml.normalizer.lowercase", word_piece)?;
        vocabulary.strip_accents = flag(
            "tokenizer.ggml.normalizer.strip_accents",
            vocabulary.lowercase,
        )?;
        if kind == VocabularyKind::Unigram {
            vocabulary.merge_spaces = flag("tokenizer.ggml.remove_extra_whitespaces", false)?;
            vocabulary.charsmap = charsmap(metadata)?;
        }
        strips(metadata, &mut vocabulary)?;
        vocabulary.chat_templates = chat_templates(metadata)?;
        Ok(vocabulary)
    }
}

/// The tokens with their scores and types.
fn tokens(
    metadata: Metadata<'_>,
    kind: VocabularyKind,
    special: &SpecialIds,
) -> Result<Vec<TokenEntry>, TokenizeError> {
    let texts: Vec<&[u8]> = metadata.require(TOKENS)?;
    let scores: Option<Vec<f32>> = match kind {
        VocabularyKind::Spm | VocabularyKind::Unigram => Some(metadata.require(SCORES)?),
        _ => None,
    };
    let types: Option<Vec<i32>> = metadata.find(TYPES)?;
    let lengths = [
        (SCORES, scores.as_ref().map(Vec::len)),
        (TYPES, types.as_ref().map(Vec::len)),
    ];
    for (key, length) in lengths {
        if let Some(found) = length.filter(|&found| found != texts.len()) {
            return Err(TokenizeError::LengthMismatch {
                key,
                found,
                tokens: texts.len(),
            });
        }
    }
    let mut tokens = Vec::with_capacity(texts.len());
    for (id, (at, text)) in (0u32..).zip(texts.iter().enumerate()) {
        let kind = match &types {
            Some(types) => token_kind(types[at]).ok_or(TokenizeError::UnknownTokenType {
                id,
                found: types[at],
            })?,
            None => guessed_kind(kind, special, id, text),
        };
        let score = scores.as_ref().map_or(0.0, |scores| scores[at]);
        tokens.push(TokenEntry {
            text: text.to_vec(),
            score,
            kind,
        });
    }
    Ok(tokens)
}

/// The kind of a token type; 0 is "not said".
fn token_kind(of: i32) -> Option<TokenKind> {
    Some(match of {
        0 | 1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => return None,
    })
}

/// What a token is for, in a file that doesn't say.
fn guessed_kind(kind: VocabularyKind, special: &SpecialIds, id: u32, text: &[u8]) -> TokenKind {
    if special.unknown == Some(id) {
        TokenKind::Unknown
    } else if special.named().iter().any(|(_, named)| *named == Some(id)) {
        TokenKind::Control
    } else if matches!(kind, VocabularyKind::Spm | VocabularyKind::CharacterBpe)
        && parse_byte_token(text).is_some()
    {
        TokenKind::Byte
    } else {
        TokenKind::Normal
    }
}

fn special_ids(metadata: Metadata<'_>) -> Result<SpecialIds, TokenizeError> {
    let id = |key: &str| -> Result<Option<u32>, TokenizeError> {
        let id: Option<i64> = metadata.find(&format!("tokenizer.ggml.{key}_token_id"))?;
        match id {
            None | Some(-1) => Ok(None),
            Some(_) => Ok(metadata
                .find(&format!("tokenizer.ggml.{key}_token_id"))?
                .filter(|&id| id != u32::MAX)),
        }
    };
    let begin = id("bos")?;
    Ok(SpecialIds {
        begin: begin.or(id("cls")?),
        end: id("eos")?,
        end_of_turn: id("eot")?,
        end_of_message: id("eom")?,
        unknown: id("unknown")?,
        // The format spells it so.
        separator: id("seperator")?,
        padding: id("padding")?,
        mask: id("mask")?,
    })
}

/// SentencePiece numbers unknown, begin and end 0, 1 and 2 unless told otherwise.
fn usual_spm_ids(tokens: &[TokenEntry], special: &mut SpecialIds) {
    let usual = |id: u32, kind| {
        tokens
            .get(id as usize)
            .is_some_and(|token| token.kind == kind)
            .then_some(id)
    };
    special.unknown = special.unknown.or(usual(0, TokenKind::Unknown));
    special.begin = special.begin.or(usual(1, TokenKind::Control));
    special.end = special.end.or(usual(2, TokenKind::Control));
}

fn merges(metadata: Metadata<'_>) -> Result<Vec<Merge>, TokenizeError> {
    let rules: Vec<&str> = metadata.require("tokenizer.ggml.merges")?;
    let parse = |(rank, rule): (usize, &&str)| {
        let malformed = || TokenizeError::MalformedMerge {
            rank,
            text: excerpt(rule.as_bytes()),
        };
        Merge::parse(rule).ok_or_else(malformed)
    };
    rules.iter().enumerate().map(parse).collect()
}

/// The normalisation table, which writers give as bytes of either sign.
fn charsmap(metadata: Metadata<'_>) -> Result<Vec<u8>, TokenizeError> {
    const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
    match metadata.get(KEY) {
        Some(Value::Array(array)) if array.element_type() == ValueType::I8 => {
            let bytes: Vec<i8> = metadata.require(KEY)?;
            Ok(bytes.into_iter().map(i8::cast_unsigned).collect())
        }
        _ => Ok(metadata.find(KEY)?.unwrap_or_default()),
    }
}

/// Which special tokens take the blanks around them. The format has no place for it; the models do it so.
fn strips(metadata: Metadata<'_>, vocabulary: &mut Vocabulary) -> Result<(), TokenizeError> {
    let architecture: Option<&str> = metadata.find("general.architecture")?;
    let ids = |wanted: &dyn Fn(&TokenEntry) -> bool| {
        let tokens = (0u32..).zip(&vocabulary.tokens);
        let wanted = tokens.filter(|(_, token)| wanted(token));
        wanted.map(|(id, _)| id).collect::<Vec<u32>>()
    };
    let masks_strip = match architecture {
        Some("nomic-bert-moe" | "jina-bert-v3") => true,
        _ => ["jina-v2-de", "jina-v2-es", "jina-v2-code"]
            .contains(&vocabulary.pre_tokenizer.as_str()),
    };
    if masks_strip {
        vocabulary.strips_before = ids(&|token| token.text == b"<mask>");
    } else if vocabulary.pre_tokenizer == "modern-bert" {
        vocabulary.strips_before = ids(&|token| token.text == b"[MASK]");
    } else if architecture == Some("phi3") && vocabulary.kind == VocabularyKind::Spm {
        vocabulary.strips_after = ids(&|token| {
            matches!(token.kind, TokenKind::Control | TokenKind::UserDefined)
                && !NOT_OF_PHI3.contains(&token.text.as_slice())
        });
    }
    Ok(())
}

/// The special tokens of Phi 3 that don't take the blanks after them.
const NOT_OF_PHI3: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];

/// Whether an added token with this text takes the blanks before it, and those after it, in a model that is one of
/// Phi 3's or not.
pub(super) fn strips_of_phi3(text: &str, phi3: bool) -> (bool, bool) {
    (false, phi3 && !NOT_OF_PHI3.contains(&text.as_bytes()))
}

/// The usual template, and those listed under other names.
fn chat_templates(metadata: Metadata<'_>) -> Result<Vec<(String, String)>, TokenizeError> {
    const KEY: &str = "tokenizer.chat_template";
    let mut templates = Vec::new();
    if let Some(text) = metadata.find::<&str>(KEY)? {
        templates.push(("default".to_owned(), text.to_owned()));
    }
    for (key, _) in metadata.iter() {
        let name = key
            .strip_prefix(KEY)
            .and_then(|rest| rest.strip_prefix('.'));
        if let Some(name) = name {
            templates.push((name.to_owned(), metadata.require::<&str>(key)?.to_owned()));
        }
    }
    Ok(templates)
}

#[cfg(test)]
mod tests {
    use anynpu_graphs::import::gguf::{GgufWriter, WriteValue};

    use super::*;

    fn file(model: &str) -> GgufWriter {
        with(GgufWriter::new(), "model", model)
    }

    fn with<T: WriteValue + ?Sized>(mut file: GgufWriter, key: &str, value: &T) -> GgufWriter {
        file.set(&format!("tokenizer.ggml.{key}"), value).unwrap();
        file
    }

    fn read(file: GgufWriter) -> Result<Vocabulary, TokenizeError> {
        let bytes = file.begin(Vec::new()).unwrap().finish().unwrap();
        Vocabulary::from_gguf(&Gguf::from_vec("test.gguf", bytes).unwrap())
    }

    fn message(file: GgufWriter) -> String {
        read(file).unwrap_err().to_string()
    }

    #[test]
    fn what_a_sentencepiece_file_leaves_out_is_as_usual() {
        let file = with(
            file("llama"),
            "tokens",
            &["<unk>", "<s>", "</s>", "<0x0A>", "a"],
        );
        let file = with(file, "scores", &[0.0f32, 0.0, 0.0, 0.0, -1.5]);
        let types = [2i32, 3, 3, 6, 1];
        let vocabulary = read(with(file, "token_type", &types)).unwrap();
        assert_eq!(
            (vocabulary.special.unknown, vocabulary.special.begin),
            (Some(0), Some(1))
        );
        assert_eq!(vocabulary.special.end, Some(2));
        assert!(vocabulary.add_begin && vocabulary.add_space_prefix && !vocabulary.add_end);
        assert_eq!(vocabulary.tokens[3].kind, TokenKind::Byte);
        assert_eq!(vocabulary.tokens[4].score, -1.5);
    }

    #[test]
    fn token_types_left_out_are_guessed_from_the_named_tokens() {
        let file = with(file("llama"), "tokens", &["?", "<s>", "<0x0A>", "a"]);
        let file = with(file, "scores", &[0.0f32; 4]);
        let file = with(with(file, "bos_token_id", &1u32), "unknown_token_id", &0u32);
        let kinds: Vec<TokenKind> = read(file)
            .unwrap()
            .tokens
            .iter()
            .map(|token| token.kind)
            .collect();
        assert_eq!(
            kinds,
            [
                TokenKind::Unknown,
                TokenKind::Control,
                TokenKind::Byte,
                TokenKind::Normal
            ]
        );
    }

    #[test]
    fn a_byte_level_file_gives_merges_and_says_what_is_added() {
        let bpe = || {
            with(
                with(file("gpt2"), "tokens", &["a", "b", "ab"]),
                "merges",
                &["a b"],
            )
        };
        let vocabulary = read(with(bpe(), "bos_token_id", &0u32)).unwrap();
        assert_eq!(vocabulary.merges, [Merge::new("a", "b")]);
        assert_eq!(vocabulary.pre_tokenizer, "default");
        assert!(!vocabulary.add_begin);

        let llama = || with(with(bpe(), "bos_token_id", &0u32), "pre", "llama-bpe");
        assert!(read(llama()).unwrap().add_begin);
        assert!(
            !read(with(llama(), "add_bos_token", &false))
                .unwrap()
                .add_begin
        );
    }

    #[test]
    fn a_word_piece_file_begins_with_its_class_token_and_ends_with_its_separator() {
        let file = with(file("bert"), "tokens", &["[UNK]", "[CLS]", "[SEP]"]);
        let file = with(
            with(file, "cls_token_id", &1u32),
            "seperator_token_id",
            &2u32,
        );
        let vocabulary = read(file).unwrap();
        assert_eq!(
            (vocabulary.special.begin, vocabulary.end_added()),
            (Some(1), Some(2))
        );
        assert!(
            vocabulary.add_begin
                && vocabulary.add_end
                && vocabulary.lowercase
                && vocabulary.strip_accents
        );
    }

    #[test]
    fn ids_of_all_ones_mean_none() {
        let bpe = with(with(file("gpt2"), "tokens", &["a"]), "merges", &[""; 0]);
        let bpe = with(
            with(bpe, "padding_token_id", &u32::MAX),
            "eos_token_id",
            &-1i32,
        );
        assert_eq!(read(bpe).unwrap().special, SpecialIds::default());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        assert_eq!(
            message(file("rwkv")),
            "tokenizer model 'rwkv' is not supported; supported: llama, gpt2, bert, t5, gemma4"
        );
        assert!(message(GgufWriter::new()).contains("'tokenizer.ggml.model' is missing"));
        assert!(message(file("gpt2")).contains("'tokenizer.ggml.tokens' is missing"));

        let two = || with(file("gpt2"), "tokens", &["a", "b"]);
        assert!(message(two()).contains("'tokenizer.ggml.merges' is missing"));
        let found = message(with(two(), "merges", &["a b", "ab"]));
        assert_eq!(
            found,
            "merge 1 is 'ab'; expected two parts with a space between"
        );
        let found = message(with(two(), "token_type", &[1i32]));
        assert_eq!(
            found,
            "metadata 'tokenizer.ggml.token_type' has 1 elements; expected one for each of the 2 tokens"
        );
        let found = message(with(two(), "token_type", &[1i32, 7]));
        assert_eq!(found, "token 1 has type 7; types 0 to 6 are known");
        assert!(
            message(with(two(), "eos_token_id", &-2i32))
                .contains("'tokenizer.ggml.eos_token_id' is i32 -2")
        );
        let spm = with(file("llama"), "tokens", &["a"]);
        assert!(message(spm).contains("'tokenizer.ggml.scores' is missing"));
    }
}
