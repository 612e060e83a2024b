//! Tokenisers against the recorded ids of real vocabularies.
//!
//! `tokenizers/*.cases.json` hold texts with the ids that llama.cpp gives them (no special tokens added or read);
//! `stories260K/golden.json` holds such cases, with the begin token, among others. `minilm/golden.json` holds sentences with
//! the ids that transformers 4.39.3 gives them for BERT's uncased vocabulary, which is also that of `bert-bge`.

use std::fs;
use std::path::{Path, PathBuf};

use anynpu_graphs::import::gguf::Gguf;
use anynpu_runtime::tokenize::{DetokenizeOptions, EncodeOptions, Tokenizer, Vocabulary};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct VocabularyCases {
    add_special: bool,
    parse_special: bool,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct StoriesGolden {
    tokenize: Vec<Case>,
}

#[derive(Deserialize)]
struct MiniLmGolden {
    sentences: Vec<String>,
    token_ids: Vec<Vec<u32>>,
}

/// The folder of test data; None, said aloud, where it is not given.
fn data(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("ANYNPU_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED {test}: ANYNPU_TEST_DATA is not set");
    }
    folder
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All cases of one vocabulary, both ways where `round_trip` is the text that must come back.
fn check(
    tokenizer: &Tokenizer,
    cases: &[Case],
    encode: EncodeOptions,
    round_trip: Option<DetokenizeOptions>,
) {
    assert!(!cases.is_empty());
    for Case { text, ids } in cases {
        let found = tokenizer.encode(text, encode).unwrap();
        assert_eq!(found, *ids, "{text:?}: {:?}", tokenizer.pieces(&found));
        if let Some(options) = round_trip {
            assert_eq!(tokenizer.decode(ids, options).unwrap(), *text);
        }
    }
}

fn check_vocabulary(test: &str, name: &str, round_trip: bool) {
    let Some(data) = data(test) else { return };
    let vocabulary = load(&data.join(format!("tokenizers/ggml-vocab-{name}.gguf")));
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    let golden: VocabularyCases = read(&data.join(format!("tokenizers/{name}.cases.json")));
    let encode = EncodeOptions {
        add_special: golden.add_special,
        parse_special: golden.parse_special,
    };
    check(
        &tokenizer,
        &golden.cases,
        encode,
        round_trip.then(DetokenizeOptions::default),
    );
}

#[test]
fn gpt_2_gives_the_recorded_ids_and_text() {
    check_vocabulary("gpt_2_gives_the_recorded_ids_and_text", "gpt-2", true);
}

#[test]
fn llama_bpe_gives_the_recorded_ids_and_text() {
    check_vocabulary(
        "llama_bpe_gives_the_recorded_ids_and_text",
        "llama-bpe",
        true,
    );
}

#[test]
fn qwen2_gives_the_recorded_ids_and_text() {
    check_vocabulary("qwen2_gives_the_recorded_ids_and_text", "qwen2", true);
}

#[test]
fn bert_bge_gives_the_recorded_ids() {
    check_vocabulary("bert_bge_gives_the_recorded_ids", "bert-bge", false);
}

#[test]
fn bert_sentences_give_the_recorded_ids_between_begin_and_separator() {
    let Some(data) = data("bert_sentences_give_the_recorded_ids_between_begin_and_separator")
    else {
        return;
    };
    let tokenizer =
        Tokenizer::new(&load(&data.join("tokenizers/ggml-vocab-bert-bge.gguf"))).unwrap();
    let golden: MiniLmGolden = read(&data.join("minilm/golden.json"));
    let pairs = golden.sentences.into_iter().zip(golden.token_ids);
    let cases: Vec<Case> = pairs.map(|(text, ids)| Case { text, ids }).collect();
    check(
        &tokenizer,
        &cases,
        EncodeOptions {
            add_special: true,
            parse_special: false,
        },
        None,
    );
}

#[test]
fn the_story_model_gives_the_recorded_ids_and_text() {
    let Some(data) = data("the_story_model_gives_the_recorded_ids_and_text") else {
        return;
    };
    let vocabulary = load(&data.join("stories260K/stories260K-F32.gguf"));
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    let golden: StoriesGolden = read(&data.join("stories260K/golden.json"));
    let encode = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let at_start = DetokenizeOptions {
        special: false,
        at_start: true,
    };
    check(&tokenizer, &golden.tokenize, encode, Some(at_start));
}

/// The vocabulary in a model file's metadata.
fn load(path: &Path) -> Vocabulary {
    let file = Gguf::open(path).unwrap();
    Vocabulary::from_gguf(&file).unwrap()
}
