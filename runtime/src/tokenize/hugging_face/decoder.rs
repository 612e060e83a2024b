//! What the decoder of a `tokenizer.json` does with one token.
//!
//! The library's decoders take the list of all tokens; each of those supported here does the same with every token, but
//! for the space at the very beginning.

use serde::Deserialize;
use serde_json::Value;

use super::super::byte_level;
use super::super::error::TokenizeError;
use super::super::vocabulary::parse_byte_token;

/// A decoder, as steps on the text of each token.
#[derive(Debug)]
pub(super) struct Rendering {
    steps: Vec<Step>,
    drops_first_space: bool,
}

#[derive(Debug, PartialEq)]
enum Step {
    /// One text for another.
    Replace(String, String),
    /// `<0xHH>` is a byte.
    Byte,
    /// The alphabet of [`byte_level`], where all characters are of it.
    ByteLevel,
    /// Tokens that don't begin with the prefix begin with a space; with the library's cleaning of English text.
    WordPiece { prefix: String, cleanup: bool },
}

/// The decoders of the file format, with their parameters.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel {},
    ByteFallback {},
    Fuse {},
    Metaspace {
        replacement: char,
        prepend_scheme: Option<String>,
        add_prefix_space: Option<bool>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Sequence {
        decoders: Vec<Decoder>,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(serde::de::IgnoredAny),
}

/// For error messages.
const KNOWN: &str = "ByteLevel, ByteFallback, Fuse, Metaspace, Replace of a text, Sequence, Strip of the first space, WordPiece, none";

/// The library's `cleanup`, in its order.
const CLEANUP: [(&str, &str); 11] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

impl Rendering {
    /// What the file's decoder does. Without one, tokens stand with spaces between.
    pub(super) fn of(decoder: Option<&Value>) -> Result<Self, TokenizeError> {
        let mut rendering = Rendering {
            steps: Vec::new(),
            drops_first_space: false,
        };
        let Some(decoder) = decoder else {
            rendering.words(String::new(), false);
            return Ok(rendering);
        };
        let parsed = Decoder::deserialize(decoder).unwrap_or(Decoder::Other);
        let mut fused = false;
        match rendering.add(parsed, &mut fused) {
            true => Ok(rendering),
            false => Err(TokenizeError::UnsupportedDecoder {
                found: super::quoted(&decoder.to_string()),
                known: KNOWN,
            }),
        }
    }

    /// Adds the steps of one decoder; false if it can't be done token by token.
    fn add(&mut self, decoder: Decoder, fused: &mut bool) -> bool {
        // Once the tokens are one text, only the space at its beginning can still be told apart.
        if *fused && !matches!(decoder, Decoder::Strip { .. } | Decoder::Fuse {}) {
            return false;
        }
        match decoder {
            Decoder::ByteLevel {} => {
                self.steps.push(Step::ByteLevel);
                *fused = true;
            }
            Decoder::ByteFallback {} => self.steps.push(Step::Byte),
            Decoder::Fuse {} => *fused = true,
            Decoder::Metaspace {
                replacement,
                prepend_scheme,
                add_prefix_space,
            } => {
                self.drops_first_space |=
                    prepend_scheme.as_deref() != Some("never") && add_prefix_space != Some(false);
                self.steps
                    .push(Step::Replace(replacement.into(), " ".into()));
            }
            Decoder::Replace {
                pattern: Pattern::String(pattern),
                content,
            } if !pattern.is_empty() => self.steps.push(Step::Replace(pattern, content)),
            Decoder::Sequence { decoders } => {
                return decoders.into_iter().all(|decoder| self.add(decoder, fused));
            }
            Decoder::Strip {
                content: ' ',
                start: 1,
                stop: 0,
            } if *fused => self.drops_first_space = true,
            Decoder::WordPiece { prefix, cleanup } => self.words(prefix, cleanup),
            Decoder::Replace { .. } | Decoder::Strip { .. } | Decoder::Other => return false,
        }
        true
    }

    fn words(&mut self, prefix: String, cleanup: bool) {
        self.steps.push(Step::WordPiece { prefix, cleanup });
        self.drops_first_space = true;
    }

    /// The first text of a stream loses the space that it begins with.
    pub(super) fn drops_first_space(&self) -> bool {
        self.drops_first_space
    }

    /// Appends what a token renders as.
    pub(super) fn render(&self, token: &str, out: &mut Vec<u8>) {
        let mut text = token.to_owned();
        for step in &self.steps {
            match step {
                Step::Replace(from, to) => text = text.replace(from, to),
                Step::Byte => {
                    if let Some(byte) = parse_byte_token(text.as_bytes()) {
                        out.push(byte);
                        return;
                    }
                }
                Step::ByteLevel => {
                    let bytes: Option<Vec<u8>> = text.chars().map(byte_level::byte_of).collect();
                    out.extend(bytes.unwrap_or(text.into_bytes()));
                    return;
                }
                Step::WordPiece { prefix, cleanup } => {
                    text = match text.strip_prefix(prefix.as_str()) {
                        Some(rest) if !prefix.is_empty() => rest.to_owned(),
                        _ => format!(" {text}"),
                    };
                    if *cleanup {
                        for (from, to) in CLEANUP {
                            text = text.replace(from, to);
                        }
                    }
                }
            }
        }
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(decoder: Value, token: &str) -> String {
        let mut out = Vec::new();
        let rendering = Rendering::of(Some(&decoder)).unwrap();
        rendering.render(token, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_decoder_does_with_a_token_what_its_name_says() {
        let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
        assert_eq!(rendered(level.clone(), "ĠaÃ©"), " aé");
        assert_eq!(rendered(level, "Ġ 日"), "Ġ 日");
        let pieces = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        for (token, text) in [("##s", "s"), ("a", " a"), (".", "."), ("'m", "'m")] {
            assert_eq!(rendered(pieces.clone(), token), text);
        }
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(rendered(llama.clone(), "▁a▁"), " a ");
        assert_eq!(rendered(llama.clone(), "<0x0A>"), "\n");
        assert!(Rendering::of(Some(&llama)).unwrap().drops_first_space());
        let meta = json!({"type": "Metaspace", "replacement": "_", "prepend_scheme": "never"});
        assert_eq!(rendered(meta.clone(), "_a"), " a");
        assert!(!Rendering::of(Some(&meta)).unwrap().drops_first_space());
    }

    #[test]
    fn a_decoder_that_needs_all_tokens_is_refused_by_name() {
        for decoder in [
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "|", "cleanup": true}),
            json!({"type": "BPEDecoder", "suffix": "</w>"}),
            json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}),
            json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
            json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}),
            json!({}),
        ] {
            let error = Rendering::of(Some(&decoder)).unwrap_err().to_string();
            assert!(error.contains("supported: ByteLevel"), "{error}");
        }
    }
}
