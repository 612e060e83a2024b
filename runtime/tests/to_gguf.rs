//! Vocabularies of `tokenizer.json` written to GGUF and read again, against the library that defines that format.

use std::collections::BTreeSet;

use anynpu_graphs::import::gguf::{Gguf, GgufWriter};
use anynpu_runtime::tokenize::{
    DetokenizeOptions, EncodeOptions, TokenKind, TokenizeError, Tokenizer, Vocabulary,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const BYTE_LEVEL: &str = include_str!("../../tests/data/tokenizers/byte_level.json");
const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const SPECIAL: EncodeOptions = EncodeOptions {
    add_special: true,
    parse_special: true,
};

/// The vocabulary as it is read from the file that it was written to, and the warnings.
fn converted(
    json: &str,
    config: Option<&str>,
    architecture: &str,
) -> Result<(Vocabulary, Vec<String>), TokenizeError> {
    let config = config.map(str::as_bytes);
    let (vocabulary, warnings) =
        Vocabulary::from_hugging_face(json.as_bytes(), config, architecture)?;
    let mut file = GgufWriter::new();
    file.set("general.architecture", architecture).unwrap();
    vocabulary.write_gguf(&mut file).unwrap();
    let bytes = file.begin(Vec::new()).unwrap().finish().unwrap();
    let read = Vocabulary::from_gguf(&Gguf::from_vec("written", bytes).unwrap())?;
    Ok((read, warnings))
}

/// Both tokenizers of a file: the library's and the one read from GGUF.
fn both(json: &str, config: Option<&str>) -> (Tokenizer, Tokenizer) {
    let (vocabulary, warnings) = converted(json, config, "llama").unwrap();
    assert_eq!(warnings, [""; 0]);
    let library = Tokenizer::from_hugging_face(json.as_bytes(), config.map(str::as_bytes));
    (library.unwrap(), Tokenizer::new(&vocabulary).unwrap())
}

#[track_caller]
fn same(library: &Tokenizer, own: &Tokenizer, text: &str) {
    for options in [PLAIN, SPECIAL] {
        let ids = library.encode(text, options).unwrap();
        assert_eq!(own.encode(text, options).unwrap(), ids, "{text:?}");
        let at_start = DetokenizeOptions {
            special: false,
            at_start: true,
        };
        let rendered = library.decode(&ids, at_start).unwrap();
        assert_eq!(own.decode(&ids, at_start).unwrap(), rendered, "{text:?}");
    }
}

fn recorded_texts() -> Vec<String> {
    let golden = include_str!("../../tests/data/tokenizers/hugging_face.json");
    let golden: Value = serde_json::from_str(golden).unwrap();
    let cases = golden[0]["cases"].as_array().unwrap();
    let text = |c: &Value| c["text"].as_str().unwrap().to_owned();
    cases.iter().map(text).collect()
}

#[test]
fn a_byte_level_vocabulary_gives_the_ids_of_the_library() {
    let config = r#"{"eos_token": "<|im_end|>", "chat_template": [{"name": "default", "template": "D"},
        {"name": "tool_use", "template": "T"}]}"#;
    let (library, own) = both(BYTE_LEVEL, Some(config));
    let texts = recorded_texts();
    assert!(texts.len() > 60);
    for text in &texts {
        same(&library, &own, text);
    }
    assert_eq!(own.begin_added(), library.begin_added());
    assert_eq!(own.special().end, library.special().end);
    assert_eq!(own.chat_template_named("tool_use"), Some("T"));
    assert_eq!(own.chat_template(), Some("D"));
    for id in 0..library.token_count() {
        assert_eq!(own.kind(id), library.kind(id), "{id}");
        assert_eq!(own.piece(id).unwrap(), library.piece(id).unwrap(), "{id}");
    }
}

/// The WordPiece tokenizer, with members set.
fn word_piece(edit: impl Fn(&mut Value)) -> String {
    let file = include_str!("../../tests/data/tokenizers/word_piece.json");
    let mut file: Value = serde_json::from_str(file).unwrap();
    edit(&mut file);
    file.to_string()
}

#[test]
fn a_word_piece_vocabulary_gives_the_ids_of_the_library() {
    let config = r###"{"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}"###;
    let cased = |f: &mut Value| f["normalizer"]["lowercase"] = json!(false);
    for file in [word_piece(|_| {}), word_piece(cased)] {
        let (library, own) = both(&file, Some(config));
        for text in recorded_texts() {
            for options in [PLAIN, SPECIAL] {
                let ids = library.encode(&text, options).unwrap();
                let found = own.encode(&text, options).unwrap();
                assert_eq!(found, ids, "{text:?}");
            }
        }
        let special = (own.special().begin, own.special().separator);
        let expected = (library.special().begin, library.special().separator);
        assert_eq!(special, expected);
    }
}

/// Tokens with scores in falling order, as SentencePiece has them.
const SCORED: [&str; 14] = [
    "\u{2581}a",
    "ab",
    "bc",
    "\u{2581}ab",
    "abc",
    "ca",
    "\u{2581}\u{2581}",
    "cab",
    "\u{2581}b",
    "bca",
    "é",
    "ab\u{2581}",
    "c\u{2581}",
    "\u{2581}abc",
];

/// A file with these tokens, merges as the scores give them, and bytes.
fn scored() -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    let singles: BTreeSet<char> = SCORED.concat().chars().collect();
    tokens.extend(
        SCORED
            .iter()
            .filter(|t| t.chars().count() > 1)
            .map(|t| (*t).to_owned()),
    );
    tokens.extend(singles.iter().map(char::to_string));
    let mut merges = Vec::new();
    for text in SCORED {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if tokens.iter().any(|t| t == left) && tokens.iter().any(|t| t == right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let vocab: serde_json::Map<String, Value> = (0..)
        .zip(&tokens)
        .map(|(i, t): (u32, _)| (t.clone(), i.into()))
        .collect();
    let added = |id: u32, text: &str| json!({"id": id, "content": text, "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false});
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": merges},
    })
}

/// As [`scored`], with members set.
fn scored_with(edit: impl Fn(&mut Value)) -> String {
    let mut file = scored();
    edit(&mut file);
    file.to_string()
}

/// Adds a token that is no special one.
fn add_token(file: &mut Value, text: &str, normalized: bool) {
    let id = file["model"]["vocab"].as_object().unwrap().len();
    let token = json!({"id": id, "content": text, "special": false, "normalized": normalized,
        "single_word": false, "lstrip": false, "rstrip": false});
    file["added_tokens"].as_array_mut().unwrap().push(token);
}

proptest! {
    #[test]
    fn merges_as_scores_give_the_ids_of_the_library(text in "[abc é<\n]{0,24}") {
        let with_token = scored_with(|f| add_token(f, "ba<", false));
        for file in [scored().to_string(), with_token] {
            let (library, own) = both(&file, None);
            same(&library, &own, &text);
        }
        let no_prefix = scored_with(|f| f["normalizer"] = f["normalizer"]["normalizers"][1].clone());
        let strip = |f: &str| {
            let mut file: Value = serde_json::from_str(f).unwrap();
            file["decoder"]["decoders"].as_array_mut().unwrap().pop();
            file.to_string()
        };
        let (library, own) = both(&strip(&no_prefix), None);
        same(&library, &own, &text);
    }
}

#[test]
fn a_scored_vocabulary_has_its_kinds_and_is_padded_to_the_model() {
    let (mut vocabulary, _) = converted(&scored().to_string(), None, "llama").unwrap();
    let kinds = [0, 1, 3 + 10, 260].map(|id: usize| vocabulary.tokens[id].kind);
    use TokenKind::{Byte, Control, Normal, Unknown};
    assert_eq!(kinds, [Unknown, Control, Byte, Normal]);
    let count = vocabulary.tokens.len();
    vocabulary.pad(count as u32 + 3);
    assert_eq!(vocabulary.tokens.len(), count + 3);
    assert_eq!(vocabulary.tokens[count].kind, TokenKind::Unused);
}

#[test]
fn what_gguf_has_no_counterpart_for_is_named() {
    let byte_level = |edit: &dyn Fn(&mut Value)| {
        let mut file: Value = serde_json::from_str(BYTE_LEVEL).unwrap();
        edit(&mut file);
        file.to_string()
    };
    let pair = |left: &'static str, right: &'static str| json!([left, right]);
    let cases: Vec<(String, &[&str])> = vec![
        (
            include_str!("../../tests/data/tokenizers/unigram.json").into(),
            &["model", "Unigram", "BPE"],
        ),
        (
            word_piece(|f| f["normalizer"]["handle_chinese_chars"] = json!(false)),
            &["normalizer", "BertNormalizer with"],
        ),
        (
            word_piece(|f| f["model"]["continuing_subword_prefix"] = json!("@@")),
            &["model.continuing_subword_prefix", "@@"],
        ),
        (
            word_piece(|f| f["pre_tokenizer"] = json!({"type": "Whitespace"})),
            &["pre_tokenizer", "Whitespace", "BertPreTokenizer"],
        ),
        // merges that were trained without scores
        (
            include_str!("../../tests/data/tokenizers/byte_fallback.json").into(),
            &["model.merges"],
        ),
        (
            byte_level(&|f| f["normalizer"] = json!({"type": "Lowercase"})),
            &["normalizer", "Lowercase"],
        ),
        (
            byte_level(&|f| f["model"]["ignore_merges"] = json!(false)).replace("{1,3}", "{1,9}"),
            &["pre_tokenizer", "{1,9}"],
        ),
        (
            byte_level(&|f| {
                f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true)
            }),
            &["pre_tokenizer"],
        ),
        (
            byte_level(&|f| f["added_tokens"][1]["lstrip"] = json!(true)),
            &["added_tokens", "<|im_start|>", "lstrip true"],
        ),
        (
            byte_level(&|f| f["model"]["dropout"] = json!(0.5)),
            &["model.dropout", "0.5"],
        ),
        (
            scored_with(|f| add_token(f, "xyz", true)),
            &["added_tokens", "'xyz', normalized: true"],
        ),
        (
            scored_with(|f| add_token(f, "\u{2581}x", false)),
            &["added_tokens", "'\u{2581}x', normalized: false"],
        ),
        (
            scored_with(|f| f["normalizer"] = json!({"type": "NFKC"})),
            &["normalizer", "NFKC"],
        ),
        (
            scored_with(|f| {
                f["normalizer"] = Value::Null;
                f["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
            }),
            &["pre_tokenizer", "Metaspace with split"],
        ),
        (
            scored_with(|f| {
                let merges = f["model"]["merges"].as_array_mut().unwrap();
                merges.retain(|m| *m != pair("a", "bc"));
            }),
            &["model.merges", "'a' + 'bc'"],
        ),
        (
            scored_with(|f| {
                let merges = f["model"]["merges"].as_array_mut().unwrap();
                let at = merges.iter().position(|m| *m == pair("a", "bc")).unwrap();
                let moved = merges.remove(at);
                merges.push(moved);
            }),
            &["model.merges", "'abc' merged at two ranks"],
        ),
        (
            scored_with(|f| {
                let vocab = f["model"]["vocab"].as_object_mut().unwrap();
                let id = vocab.shift_remove("<0x41>").unwrap();
                vocab.insert("other".into(), id);
            }),
            &["model.vocab", "255"],
        ),
    ];
    for (json, words) in cases {
        let error = converted(&json, None, "llama").unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} in {error}");
        }
        assert!(error.contains("GGUF"), "{error}");
    }
}

#[test]
fn what_hardly_matters_is_told() {
    let nfc = BYTE_LEVEL.replacen(
        r#""normalizer": null"#,
        r#""normalizer": {"type": "NFC"}"#,
        1,
    );
    let nfc = match nfc == BYTE_LEVEL {
        true => BYTE_LEVEL.replacen(r#""normalizer":null"#, r#""normalizer":{"type":"NFC"}"#, 1),
        false => nfc,
    };
    let (_, warnings) = converted(&nfc, None, "qwen2").unwrap();
    assert!(warnings[0].contains("NFC"), "{warnings:?}");
    let first = scored_with(|f| {
        f["normalizer"] = Value::Null;
        f["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
    });
    let (vocabulary, warnings) = converted(&first, None, "llama").unwrap();
    assert!(vocabulary.add_space_prefix);
    assert!(
        warnings[0].contains("after each special token"),
        "{warnings:?}"
    );
}

/// The tokens of Phi 3 that take the blanks after them, which readers of GGUF know by the architecture.
#[test]
fn tokens_that_take_blanks_are_those_of_phi_3() {
    let phi = scored_with(|f| {
        f["added_tokens"][2]["rstrip"] = json!(true);
    });
    let error = converted(&phi, None, "llama").unwrap_err().to_string();
    assert!(error.contains("'</s>' (id 2)"), "{error}");
    let (vocabulary, _) = converted(&phi, None, "phi3").unwrap();
    assert_eq!(vocabulary.strips_after, [2]);
}

#[test]
fn the_stories_vocabulary_gives_its_recorded_ids() {
    let test = "the_stories_vocabulary_gives_its_recorded_ids";
    let Some(data) = std::env::var_os("ANYNPU_TEST_DATA") else {
        println!("SKIPPED {test}: ANYNPU_TEST_DATA is not set");
        return;
    };
    let folder = std::path::Path::new(&data).join("stories260K");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let (json, config) = (read("hf/tokenizer.json"), read("hf/tokenizer_config.json"));
    let (vocabulary, _) = converted(&json, Some(&config), "llama").unwrap();
    let own = Tokenizer::new(&vocabulary).unwrap();
    let golden: Value = serde_json::from_str(&read("golden.json")).unwrap();
    let cases = golden["tokenize"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let options = EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        let ids = own.encode(case["text"].as_str().unwrap(), options).unwrap();
        assert_eq!(json!(ids), case["ids"], "{}", case["text"]);
    }
}
