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

/// Vocabularies with case files in llama.cpp's source, all of which must be given exactly.
const CASE_FILES: [&str; 15] = [
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
];

/// The folder with llama.cpp's vocabularies (`models` in its source, `vendor/llama.cpp/models` in that of the Python
/// package llama-cpp-python); None, said aloud, where it is not given.
fn llama_cpp_models(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("ANYNPU_LLAMA_CPP_MODELS").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED {test}: ANYNPU_LLAMA_CPP_MODELS is not set");
    }
    folder
}

#[test]
fn all_case_files_of_llama_cpp_give_their_ids() {
    let Some(models) = llama_cpp_models("all_case_files_of_llama_cpp_give_their_ids") else {
        return;
    };
    let mut failed = Vec::new();
    for name in CASE_FILES {
        let path = models.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = Tokenizer::new(&load(&path)).unwrap();
        let side = |end: &str| fs::read_to_string(format!("{}.{end}", path.display())).unwrap();
        let (texts, ids) = (side("inp"), side("out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<&str> = ids.lines().collect();
        assert!(ids.len() > 40 && texts.len() >= ids.len(), "{name}");
        for (text, ids) in texts.iter().zip(&ids) {
            let ids: Vec<u32> = ids
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let found = tokenizer.encode(text, EncodeOptions::default()).unwrap();
            if found != ids {
                let pieces = [tokenizer.pieces(&found), tokenizer.pieces(&ids)];
                failed.push(format!("{name}: {text:?}: {pieces:?}"));
            }
        }
    }
    assert!(failed.is_empty(), "{} fail: {failed:#?}", failed.len());
}

#[derive(Deserialize)]
struct LlamaCppCases {
    vocabulary: String,
    parse_special: bool,
    cases: Vec<Case>,
}

/// `tests/data/tokenizers/llama_cpp.json` is made by the script beside it.
#[test]
fn vocabularies_without_case_files_give_the_ids_of_llama_cpp() {
    let test = "vocabularies_without_case_files_give_the_ids_of_llama_cpp";
    let Some(models) = llama_cpp_models(test) else {
        return;
    };
    let golden = include_str!("../../tests/data/tokenizers/llama_cpp.json");
    let golden: Vec<LlamaCppCases> = serde_json::from_str(golden).unwrap();
    let mut failed = Vec::new();
    for LlamaCppCases {
        vocabulary,
        parse_special,
        cases,
    } in golden
    {
        let path = models.join(format!("ggml-vocab-{vocabulary}.gguf"));
        let tokenizer = Tokenizer::new(&load(&path)).unwrap();
        let options = EncodeOptions {
            add_special: false,
            parse_special,
        };
        for Case { text, ids } in cases {
            let found = tokenizer.encode(&text, options).unwrap();
            if found != ids {
                let pieces = [tokenizer.pieces(&found), tokenizer.pieces(&ids)];
                failed.push(format!("{vocabulary}: {text:?}: {pieces:?}"));
            }
        }
    }
    assert!(failed.is_empty(), "{} fail: {failed:#?}", failed.len());
}
