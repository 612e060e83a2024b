//! Pre-tokenisers against the words that the Python package `tokenizers` cuts by the published expressions.
//!
//! `tests/data/tokenizers/pre_tokenizers.json` is made by the script beside it.

use std::collections::BTreeMap;

use anynpu_runtime::tokenize::pre_tokenize::{PreTokenizer, names, representative};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    word_bytes: BTreeMap<String, Vec<Vec<usize>>>,
}

fn golden() -> Golden {
    let text = include_str!("../../tests/data/tokenizers/pre_tokenizers.json");
    serde_json::from_str(text).unwrap()
}

#[test]
fn texts_are_cut_into_the_recorded_words() {
    let golden = golden();
    assert!(golden.texts.len() > 60);
    let mut words = Vec::new();
    for (name, lengths) in &golden.word_bytes {
        let pre_tokenizer = PreTokenizer::named(name).unwrap();
        assert_eq!(lengths.len(), golden.texts.len());
        for (text, lengths) in golden.texts.iter().zip(lengths) {
            pre_tokenizer.split(text, &mut words);
            let found: Vec<usize> = words.iter().map(ExactSizeIterator::len).collect();
            let shown: Vec<&str> = words.iter().map(|word| &text[word.clone()]).collect();
            assert_eq!(found, *lengths, "{name}: {text:?} {shown:?}");
        }
    }
}

#[test]
fn every_name_stands_for_a_recorded_pre_tokenizer() {
    let golden = golden();
    for name in names() {
        let recorded = representative(name).unwrap();
        assert!(
            golden.word_bytes.contains_key(recorded),
            "{name} is cut as {recorded}, which is not recorded"
        );
    }
}
