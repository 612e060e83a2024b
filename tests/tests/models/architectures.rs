//! Small models with random weights of every architecture, against llama.cpp's logits of them.
//! `tests/data/architectures/make.py` says how the files were made.

use std::path::{Path, PathBuf};

use anynpu_runtime::{KvType, LoadOptions, Runtime};

use crate::{floats, logits};

const TOKENS: u32 = 24;
const VOCABULARY: u32 = 64;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/architectures")
        .join(name)
}

/// Asserts that logits of `model` in a context of `context` tokens are within `bound` of those in
/// `expected`, on every instruction path.
fn check(model: &str, context: u32, expected: &str, bound: f32) {
    let tokens: Vec<u32> = (0..TOKENS).map(|i| (3 * i + 1) % VOCABULARY).collect();
    let expected = floats(&data(&format!("{expected}.bin")));
    assert_eq!(expected.len(), (TOKENS * VOCABULARY) as usize);
    let drivers = anynpu_backends::drivers();
    let runtime = Runtime::builder().drivers(drivers).build().unwrap();
    let options = LoadOptions::new().kv_type(KvType::F32).context(context);
    let file = data(&format!("{model}.gguf"));
    let found = logits(&runtime.load(file, options).unwrap(), &tokens);
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(&expected).map(|(f, e)| (f - e).abs());
    let worst = differences.fold(0.0, f32::max);
    assert!(worst <= bound, "{model}: differs by up to {worst}");
}

#[test]
fn every_architecture_gives_the_logits_of_llama_cpp() {
    for model in [
        "llama",
        "llama-linear",
        "llama-yarn",
        "mixtral",
        "qwen2",
        "qwen3",
        "qwen3moe",
    ] {
        check(model, 64, &format!("{model}.logits"), 1e-4);
    }
}

#[test]
fn architectures_with_gelu_give_those_of_exact_arithmetic() {
    for model in ["gemma", "gemma2", "gemma3"] {
        check(model, 64, &format!("{model}.exact"), 1e-4);
        // llama.cpp reads GELU from a table of 16-bit values
        check(model, 64, &format!("{model}.logits"), 3e-3);
    }
}

#[test]
fn an_encoder_gives_the_vectors_of_llama_cpp() {
    let drivers = anynpu_backends::drivers();
    let runtime = Runtime::builder().drivers(drivers).build().unwrap();
    let model = runtime.load(data("bert.gguf"), LoadOptions::new()).unwrap();
    let tokens: Vec<u32> = (0..TOKENS).map(|i| (3 * i + 1) % VOCABULARY).collect();
    let mut embedder = model.embedder().unwrap();
    let found = embedder.hidden(&tokens, &[]).unwrap();
    let expected = floats(&data("bert.logits.bin"));
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(&expected).map(|(f, e)| (f - e).abs());
    let worst = differences.fold(0.0, f32::max);
    // llama.cpp takes tanh's approximation of GELU, from a table of 16-bit values
    assert!(worst <= 5e-3, "differs by up to {worst}");
}

#[test]
fn rotary_factors_follow_the_context() {
    check("phi3", 256, "phi3.256.logits", 1e-4);
    check("phi3", 512, "phi3.512.logits", 1e-4);
}
