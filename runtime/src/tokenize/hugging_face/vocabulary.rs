//! A `tokenizer.json` as the vocabulary that a GGUF file has.
//!
//! Three forms have an exact counterpart: byte-level byte-pair encoding; byte-pair encoding with byte fallback whose
//! merges were made of SentencePiece's scores; BERT's WordPiece.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use super::super::error::TokenizeError;
use super::super::pre_tokenize;
use super::super::vocabulary::{
    Merge, TokenEntry, TokenKind, Vocabulary, VocabularyKind, parse_byte_token,
};
use super::super::{Model, Tokenizer};
use super::{HuggingFace, quoted};

/// What is read of the file.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
    model: ModelPart,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct ModelPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    max_input_chars_per_word: Option<u32>,
    #[serde(default)]
    ignore_merges: bool,
    merges: Option<Vec<MergePart>>,
}

/// A merge, in the older form or the newer.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergePart {
    Text(String),
    Pair(String, String),
}

/// The mark of a space.
const MARK: &str = "\u{2581}";

impl Vocabulary {
    /// The vocabulary of a `tokenizer.json` and its `tokenizer_config.json` in the form that a GGUF file of `architecture`
    /// has, and what it does otherwise that hardly matters.
    ///
    /// # Errors
    /// As [`Tokenizer::from_hugging_face`], and [`TokenizeError::NoGgufForm`], which names the part of the file that has no
    /// exact counterpart.
    pub fn from_hugging_face(
        json: &[u8],
        config: Option<&[u8]>,
        architecture: &str,
    ) -> Result<(Self, Vec<String>), TokenizeError> {
        let tokenizer = Tokenizer::from_hugging_face(json, config)?;
        let Model::HuggingFace(library) = &tokenizer.model else {
            return Err(TokenizeError::EmptyVocabulary);
        };
        let file: File = serde_json::from_slice(json).map_err(|e| TokenizeError::HuggingFace {
            doing: "reading tokenizer.json",
            why: super::excerpt_of_message(&e.to_string()),
        })?;
        let mut warnings = Vec::new();
        let kind = file.kind()?;
        let tokens = file.tokens(kind, &tokenizer, library)?;
        let mut vocabulary = Vocabulary::new(kind, tokens);
        match kind {
            VocabularyKind::Spm => file.scored(&mut vocabulary, &mut warnings)?,
            VocabularyKind::WordPiece => file.word_piece(&mut vocabulary)?,
            _ => file.byte_level(&mut vocabulary, &mut warnings)?,
        }
        vocabulary.special = tokenizer.special;
        added_around(&mut vocabulary, library)?;
        vocabulary.chat_templates = tokenizer.chat_templates.clone();
        file.strips(architecture, &vocabulary)?;
        Ok((vocabulary, warnings))
    }
}

fn refuse<T>(part: &str, found: impl Into<String>, expected: &str) -> Result<T, TokenizeError> {
    Err(TokenizeError::NoGgufForm {
        part: part.to_owned(),
        found: found.into(),
        expected: expected.to_owned(),
    })
}

/// A part of the file, cut for a message.
fn shown(value: &Option<Value>) -> String {
    match value {
        None => "missing".to_owned(),
        Some(value) => super::excerpt_of_message(&value.to_string()),
    }
}

fn type_of(value: &Value) -> &str {
    value
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

impl File {
    fn kind(&self) -> Result<VocabularyKind, TokenizeError> {
        let m = &self.model;
        let kind = m.kind.as_deref().unwrap_or("BPE");
        if kind == "WordPiece" {
            return Ok(VocabularyKind::WordPiece);
        }
        if kind != "BPE" || m.merges.is_none() {
            return refuse("model", quoted(kind), "BPE with its merges, or WordPiece");
        }
        if let Some(dropout) = m.dropout.filter(|&d| d != 0.0) {
            return refuse("model.dropout", dropout.to_string(), "none");
        }
        for (part, text) in [
            (
                "model.continuing_subword_prefix",
                &m.continuing_subword_prefix,
            ),
            ("model.end_of_word_suffix", &m.end_of_word_suffix),
        ] {
            if let Some(text) = text.as_ref().filter(|t| !t.is_empty()) {
                return refuse(part, quoted(text), "none");
            }
        }
        Ok(match m.byte_fallback {
            true => VocabularyKind::Spm,
            false => VocabularyKind::Bpe,
        })
    }

    fn tokens(
        &self,
        kind: VocabularyKind,
        tokenizer: &Tokenizer,
        library: &HuggingFace,
    ) -> Result<Vec<TokenEntry>, TokenizeError> {
        let unknown = tokenizer.special.unknown;
        let inner = library.inner.read();
        let token = |id| {
            let text = inner.id_to_token(id);
            let text = text.unwrap_or_else(|| format!("[PAD{id}]"));
            let kind = match tokenizer.kind(id).unwrap_or(TokenKind::Unused) {
                TokenKind::Control if kind == VocabularyKind::Spm && unknown == Some(id) => {
                    TokenKind::Unknown
                }
                kind => kind,
            };
            TokenEntry {
                kind,
                ..TokenEntry::normal(text)
            }
        };
        Ok((0..tokenizer.token_count).map(token).collect())
    }

    fn merges(&self) -> Result<Vec<Merge>, TokenizeError> {
        let parse = |(rank, part): (usize, &MergePart)| match part {
            MergePart::Pair(left, right) => Ok(Merge::new(left, right)),
            MergePart::Text(text) => match text.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => Ok(Merge::new(left, right)),
                _ => Err(TokenizeError::MalformedMerge {
                    rank,
                    text: quoted(text),
                }),
            },
        };
        let merges = self.model.merges.iter().flatten();
        merges.enumerate().map(parse).collect()
    }

    /// Byte-level byte-pair encoding, with the name of its pre-tokeniser.
    fn byte_level(
        &self,
        vocabulary: &mut Vocabulary,
        warnings: &mut Vec<String>,
    ) -> Result<(), TokenizeError> {
        match self.normalizer.as_ref().map(type_of) {
            None => {}
            Some("NFC") => warnings.push(
                "tokenizer.json composes characters (NFC) before it cuts a text; GGUF has no place \
                 for that, so texts with decomposed characters get other tokens"
                    .to_owned(),
            ),
            Some(_) => return refuse("normalizer", shown(&self.normalizer), "none, or NFC"),
        }
        let decoder = self.decoder.as_ref().map(type_of);
        if decoder != Some("ByteLevel") {
            return refuse("decoder", shown(&self.decoder), "ByteLevel");
        }
        let expected = "ByteLevel without add_prefix_space, after splits by expressions that GGUF \
                        has a name for (gpt-2, smollm, llama-bpe, dbrx, qwen2, gpt-4o, tekken, \
                        deepseek-v3)";
        let Some(stages) = stages(self.pre_tokenizer.as_ref()) else {
            return refuse("pre_tokenizer", shown(&self.pre_tokenizer), expected);
        };
        let whole_words = self.model.ignore_merges;
        let name = pre_tokenize::published(&stages, whole_words);
        let Some(name) = name else {
            let found = format!(
                "{} (ignore_merges: {whole_words})",
                shown(&self.pre_tokenizer)
            );
            return refuse("pre_tokenizer", found, expected);
        };
        vocabulary.pre_tokenizer = name.to_owned();
        vocabulary.merges = self.merges()?;
        let spaced = |m: &&Merge| m.left().contains(' ') || m.right().contains(' ');
        match vocabulary.merges.iter().find(spaced) {
            Some(merge) => refuse(
                "model.merges",
                quoted(merge.merged()),
                "parts without spaces",
            ),
            None => Ok(()),
        }
    }

    /// BERT's WordPiece. Where the file marks what continues a word, GGUF marks what begins one.
    fn word_piece(&self, vocabulary: &mut Vocabulary) -> Result<(), TokenizeError> {
        const CONTINUES: &str = "##";
        let prefix = self.model.continuing_subword_prefix.as_deref();
        if prefix != Some(CONTINUES) {
            let found = quoted(prefix.unwrap_or("none"));
            return refuse("model.continuing_subword_prefix", found, "##");
        }
        if let Some(most) = self.model.max_input_chars_per_word.filter(|&n| n != 100) {
            let found = most.to_string();
            return refuse("model.max_input_chars_per_word", found, "100");
        }
        if self.pre_tokenizer.as_ref().map(type_of) != Some("BertPreTokenizer") {
            return refuse(
                "pre_tokenizer",
                shown(&self.pre_tokenizer),
                "BertPreTokenizer",
            );
        }
        let cleans = |v: &&Value| {
            type_of(v) == "BertNormalizer"
                && v["clean_text"] == true
                && v["handle_chinese_chars"] == true
        };
        let Some(normalizer) = self.normalizer.as_ref().filter(cleans) else {
            let expected = "BertNormalizer with clean_text and handle_chinese_chars";
            return refuse("normalizer", shown(&self.normalizer), expected);
        };
        vocabulary.lowercase = normalizer["lowercase"] == true;
        vocabulary.strip_accents = match &normalizer["strip_accents"] {
            Value::Bool(strip) => *strip,
            _ => vocabulary.lowercase,
        };
        for token in &mut vocabulary.tokens {
            if matches!(token.kind, TokenKind::Normal | TokenKind::Unknown) {
                token.text = match token.text.strip_prefix(CONTINUES.as_bytes()) {
                    Some(rest) if !rest.is_empty() => rest.to_vec(),
                    _ => [MARK.as_bytes(), &token.text].concat(),
                };
            }
        }
        Ok(())
    }

    /// Merges as scores: a token's is the better the earlier its merges come.
    fn scored(
        &self,
        vocabulary: &mut Vocabulary,
        warnings: &mut Vec<String>,
    ) -> Result<(), TokenizeError> {
        if self.model.ignore_merges {
            return refuse("model.ignore_merges", "true", "false where bytes stand in");
        }
        vocabulary.add_space_prefix = self.marks_spaces(vocabulary, warnings)?;
        let bytes = vocabulary
            .tokens
            .iter()
            .filter(|t| t.kind == TokenKind::Byte);
        let bytes: HashSet<_> = bytes.filter_map(|t| parse_byte_token(&t.text)).collect();
        if bytes.len() != 256 {
            let found = format!("{} of the tokens <0x00> to <0xFF>", bytes.len());
            return refuse("model.vocab", found, "all 256");
        }
        let marked = |t: &Added| vocabulary.add_space_prefix && t.content.contains(MARK);
        if let Some(added) = self
            .added_tokens
            .iter()
            .find(|t| !t.special && (t.normalized || marked(t)))
        {
            let found = format!(
                "'{}', normalized: {}",
                quoted(&added.content),
                added.normalized
            );
            let expected = "tokens that are not normalized and have no '▁'";
            return refuse("added_tokens", found, expected);
        }
        let merges = self.merges()?;
        let mut ranks: HashMap<&str, u32> = HashMap::new();
        let mut last = None;
        for merge in &merges {
            let text = merge.merged();
            if last == Some(text) {
                continue;
            }
            let next = ranks.len() as u32 + 1;
            if ranks.insert(text, next).is_some() {
                let found = format!("'{}' merged at two ranks with others between", quoted(text));
                return refuse(
                    "model.merges",
                    found,
                    "the order that scores of tokens give",
                );
            }
            last = Some(text);
        }
        check_complete(vocabulary, &merges)?;
        let lowest = -(ranks.len() as f32) - 1.0;
        for token in &mut vocabulary.tokens {
            let text = std::str::from_utf8(&token.text).ok();
            let rank = text.and_then(|t| ranks.get(t));
            token.score = match (token.kind, rank) {
                (TokenKind::Normal | TokenKind::UserDefined, Some(&rank)) => -(rank as f32),
                (TokenKind::Normal | TokenKind::UserDefined, None) => lowest,
                _ => 0.0,
            };
        }
        Ok(())
    }

    /// Whether a space is put before a text; spaces are written as marks in every form that is known here.
    fn marks_spaces(
        &self,
        vocabulary: &Vocabulary,
        warnings: &mut Vec<String>,
    ) -> Result<bool, TokenizeError> {
        const EXPECTED: &str = "spaces replaced by '▁', with one before the text or without";
        let replaces = |v: &Value| {
            type_of(v) == "Replace" && v["pattern"]["String"] == " " && v["content"] == MARK
        };
        let prepends = |v: &Value| type_of(v) == "Prepend" && v["prepend"] == MARK;
        let steps: Vec<&Value> = match &self.normalizer {
            None => Vec::new(),
            Some(v) if type_of(v) == "Sequence" => match v["normalizers"].as_array() {
                Some(steps) => steps.iter().collect(),
                None => return refuse("normalizer", shown(&self.normalizer), EXPECTED),
            },
            Some(v) => vec![v],
        };
        let spaces = match &self.pre_tokenizer {
            // after the normaliser there are none left to split at
            Some(v) if type_of(v) == "Split" && v["pattern"]["String"] == " " => None,
            other => other.as_ref(),
        };
        match (&steps[..], spaces) {
            ([first, second], None) if prepends(first) && replaces(second) => Ok(true),
            ([one], None) if replaces(one) => Ok(false),
            ([], Some(v)) if type_of(v) == "Metaspace" && v["replacement"] == MARK => {
                let inner = |t: &TokenEntry| {
                    let text = String::from_utf8_lossy(&t.text);
                    t.kind == TokenKind::Normal && text.chars().skip(1).any(|c| MARK.contains(c))
                };
                if v["split"] != false
                    && let Some(token) = vocabulary.tokens.iter().find(|t| inner(t))
                {
                    let text = quoted(&String::from_utf8_lossy(&token.text));
                    let found = format!("Metaspace with split, and the token '{text}'");
                    return refuse(
                        "pre_tokenizer",
                        found,
                        "no tokens across words, or no split",
                    );
                }
                let scheme = match v.get("prepend_scheme").and_then(Value::as_str) {
                    Some(scheme) => scheme,
                    None if v["add_prefix_space"] == false => "never",
                    None => "always",
                };
                if scheme == "first" {
                    warnings.push(
                        "tokenizer.json puts a space before the beginning of a text only; readers \
                         of GGUF put one after each special token, too, so text after these may \
                         get other tokens"
                            .to_owned(),
                    );
                }
                Ok(scheme != "never")
            }
            ([], _) => refuse("pre_tokenizer", shown(&self.pre_tokenizer), EXPECTED),
            (_, Some(_)) => refuse("pre_tokenizer", shown(&self.pre_tokenizer), "none"),
            _ => refuse("normalizer", shown(&self.normalizer), EXPECTED),
        }
    }

    /// Whether the special tokens that take blanks are those that readers of GGUF take for such.
    fn strips(&self, architecture: &str, vocabulary: &Vocabulary) -> Result<(), TokenizeError> {
        let phi3 = architecture == "phi3" && vocabulary.kind == VocabularyKind::Spm;
        for token in &self.added_tokens {
            let (left, right) = super::super::from_gguf::strips_of_phi3(&token.content, phi3);
            if token.single_word || token.lstrip != left || token.rstrip != right {
                let found = format!(
                    "'{}' (id {}) with single_word {}, lstrip {}, rstrip {}",
                    quoted(&token.content),
                    token.id,
                    token.single_word,
                    token.lstrip,
                    token.rstrip
                );
                return refuse(
                    "added_tokens",
                    found,
                    &format!("lstrip {left}, rstrip {right}"),
                );
            }
        }
        Ok(())
    }
}

/// Whether each way to make a token of two is a merge, as scores make it one.
fn check_complete(vocabulary: &Vocabulary, merges: &[Merge]) -> Result<(), TokenizeError> {
    let known: HashSet<(&str, &str)> = merges.iter().map(|m| (m.left(), m.right())).collect();
    let normal = |t: &&TokenEntry| matches!(t.kind, TokenKind::Normal | TokenKind::UserDefined);
    let texts = vocabulary.tokens.iter().filter(normal);
    let texts: HashSet<&str> = texts
        .filter_map(|t| std::str::from_utf8(&t.text).ok())
        .collect();
    for &text in &texts {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            let pair = texts.contains(left) && texts.contains(right);
            if pair && !known.contains(&(left, right)) {
                let found = format!("without '{}' + '{}'", quoted(left), quoted(right));
                let expected = "a merge for each way to make a token of two others, as scores give";
                return refuse("model.merges", found, expected);
            }
        }
    }
    Ok(())
}

/// The tokens put around a text: at most one before, which is the begin token, and the end token after.
fn added_around(vocabulary: &mut Vocabulary, library: &HuggingFace) -> Result<(), TokenizeError> {
    let expected = "nothing, or one token, before a text and nothing, or the end token, after it";
    let special = &mut vocabulary.special;
    match library.before[..] {
        [] => {}
        [begin] => {
            special.begin = Some(begin);
            vocabulary.add_begin = true;
        }
        _ => {
            return refuse(
                "post_processor",
                format!("{:?} before a text", library.before),
                expected,
            );
        }
    }
    match library.after[..] {
        [] => {}
        [end]
            if vocabulary.kind == VocabularyKind::WordPiece
                && special.separator.is_none_or(|s| s == end) =>
        {
            special.separator = Some(end);
            vocabulary.add_end = true;
        }
        [end] if special.end.is_none_or(|e| e == end) => {
            special.end = Some(end);
            vocabulary.add_end = true;
        }
        _ => {
            return refuse(
                "post_processor",
                format!("{:?} after a text", library.after),
                expected,
            );
        }
    }
    Ok(())
}

/// The expressions by which a text is split before the bytes are written as characters; `None` for any other form.
fn stages(pre_tokenizer: Option<&Value>) -> Option<Vec<&str>> {
    let value = pre_tokenizer?;
    let parts: Vec<&Value> = match type_of(value) {
        "Sequence" => value["pretokenizers"].as_array()?.iter().collect(),
        _ => vec![value],
    };
    let (last, splits) = parts.split_last()?;
    if type_of(last) != "ByteLevel" || last["add_prefix_space"] != false {
        return None;
    }
    let mut stages = Vec::new();
    for split in splits {
        stages.push(match type_of(split) {
            "Digits" if split["individual_digits"] == true => r"\p{N}",
            "Split" => {
                let whole = split["behavior"] == "Isolated" && split["invert"] == false;
                // what the expression leaves out would be dropped; those known leave nothing out
                let found = split["behavior"] == "Removed" && split["invert"] == true;
                let pattern = split["pattern"]["Regex"].as_str()?;
                match whole || (found && splits.len() == 1) {
                    true => pattern,
                    false => return None,
                }
            }
            _ => return None,
        });
    }
    if last["use_regex"] != false {
        stages.push(pre_tokenize::GPT_2);
    }
    Some(stages)
}
