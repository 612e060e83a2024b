//! Reads arbitrary bytes as a `tokenizer.json`, with what follows a zero byte as its configuration, and tokenises by it.

#![no_main]

use std::hint::black_box;
use std::sync::Once;

use anynpu_runtime::tokenize::{DetokenizeOptions, EncodeOptions, Tokenizer};
use libfuzzer_sys::fuzz_target;

/// Panics of the library are errors to its caller; only those that leave this target are findings. The fuzzer's own hook
/// would end the process at the first of either.
fn let_panics_unwind() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let file = info.location().map_or("", |location| location.file());
            if !file.contains("/tokenizers-") && !file.contains("/registry/") {
                eprintln!("{info}");
            }
        }));
    });
}

fuzz_target!(|bytes: &[u8]| {
    let_panics_unwind();
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let json = parts.next().unwrap_or_default();
    let tokenizer = match Tokenizer::from_hugging_face(json, parts.next()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            black_box(error.to_string());
            return;
        }
    };
    let known = "a b\u{2581}\n  1234 it's \u{e9}e\u{301}\u{65e5}\u{1F999} <s></s>[MASK]";
    for text in [known, "", " "] {
        for flags in 0..4 {
            let options = EncodeOptions {
                add_special: flags & 1 != 0,
                parse_special: flags & 2 != 0,
            };
            let Ok(ids) = tokenizer.encode(text, options) else {
                continue;
            };
            assert!(ids.iter().all(|&id| id < tokenizer.token_count()));
            let options = DetokenizeOptions {
                special: flags & 1 != 0,
                at_start: flags & 2 != 0,
            };
            tokenizer
                .decode(&ids, options)
                .expect("own ids are rendered");
        }
    }
});
