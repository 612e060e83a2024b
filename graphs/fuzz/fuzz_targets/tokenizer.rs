//! Reads arbitrary bytes as a GGUF file with a vocabulary, and tokenises by it.

#![no_main]

use std::hint::black_box;

use anynpu_graphs::import::gguf::Gguf;
use anynpu_runtime::tokenize::{DetokenizeOptions, EncodeOptions, Tokenizer, Vocabulary};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::from_vec("fuzzed", bytes.to_vec()) else {
        return;
    };
    let vocabulary = match Vocabulary::from_gguf(&file) {
        Ok(vocabulary) => vocabulary,
        Err(error) => {
            black_box(error.to_string());
            return;
        }
    };
    let tokenizer = match Tokenizer::new(&vocabulary) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            black_box(error.to_string());
            return;
        }
    };
    let mut own = String::from("a b\u{2581}\n  1234 it's \u{e9}e\u{301}\u{65e5}\u{1F999}");
    for token in vocabulary.tokens.iter().take(32) {
        own.push_str(&String::from_utf8_lossy(&token.text));
    }
    for text in [own.as_str(), "", " ", "\u{0}\u{FFFD}"] {
        for flags in 0..4 {
            let options = EncodeOptions {
                add_special: flags & 1 != 0,
                parse_special: flags & 2 != 0,
            };
            let Ok(ids) = tokenizer.encode(text, options) else {
                continue;
            };
            assert!(ids.iter().all(|&id| id < tokenizer.token_count()));
            for special in [false, true] {
                let options = DetokenizeOptions {
                    special,
                    at_start: special,
                };
                tokenizer
                    .decode(&ids, options)
                    .expect("own ids are rendered");
            }
        }
    }
    black_box(tokenizer.chat_template());
});
