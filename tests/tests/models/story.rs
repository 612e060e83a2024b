//! The project's own story model, quantised by llama.cpp, against what llama.cpp makes of it.
//! `tests/data/PROVENANCE.md` says how the files were made.

use std::path::{Path, PathBuf};

use anynpu_cpu::kernels::Features;
use anynpu_runtime::tokenize::EncodeOptions;
use anynpu_runtime::{KvType, LoadedModel, Prompt, SessionOptions};
use serde_json::Value;

use crate::{MARGIN, floats, greedy, ids, load, logits, mean_kl, perplexity};

/// The files with K-quants hold Q4_K or Q5_K and Q6_K matrices.
const FORMATS: [&str; 3] = ["Q8_0", "Q5_K_M", "Q4_K_M"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/story")
        .join(name)
}

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(data("golden.json")).unwrap()).unwrap()
}

fn model(format: &str) -> LoadedModel {
    let file = match format {
        "Q8_0" => data("../../../graphs/story-model/story-Q8_0.gguf"),
        other => data(&format!("story-{other}.gguf")),
    };
    load(&file, None, KvType::Auto)
}

#[test]
fn the_quantised_story_model_diverges_no_more_than_llama_cpp_runs_it() {
    let golden = golden();
    let expected = floats(&data("golden_prompt_logits_f32.bin"));
    let tokens = ids(&golden["prompts"][0]["ids"]);
    for format in FORMATS {
        let found = logits(&model(format), &tokens);
        let kl = mean_kl(&expected, &found, expected.len() / tokens.len());
        let theirs = &golden["formats"][format]["llama.cpp"]["prompt_mean_kl"];
        let theirs = theirs.as_f64().unwrap();
        assert!(kl <= MARGIN * theirs, "{format}: {kl}, llama.cpp {theirs}");
    }
}

/// Most that keeping keys and values in 8 bits may move the story model, mean of the prompt's rows.
const Q8_0_KV_KL: f64 = 2e-5;

#[test]
fn a_kv_cache_in_8_bits_diverges_little_and_the_same_on_every_path_and_in_every_chunk() {
    let golden = golden();
    let tokens = ids(&golden["prompts"][0]["ids"]);
    let file = data("../../../graphs/story-model/story-Q8_0.gguf");
    let exact = logits(&load(&file, None, KvType::F32), &tokens);
    let width = exact.len() / tokens.len();
    let half = logits(&load(&file, None, KvType::F16), &tokens);
    let eight = logits(&load(&file, None, KvType::Q8_0), &tokens);
    let kl = mean_kl(&exact, &eight, width);
    println!(
        "{} tokens: mean KL {kl:e} nats in q8_0, {:e} in f16",
        tokens.len(),
        mean_kl(&exact, &half, width)
    );
    assert!(kl > 0.0 && kl <= Q8_0_KV_KL, "{kl:e}");
    for features in Features::available() {
        let name = features.to_string();
        let model = load(&file, Some(&name), KvType::Q8_0);
        assert_eq!(model.kv_dtype().name(), "q8_0");
        assert!(logits(&model, &tokens) == eight, "{name}");
        let mut session = model.session(SessionOptions::new()).unwrap();
        for part in tokens.chunks(5) {
            session.prefill(part, None).unwrap();
        }
        let last = &eight[eight.len() - width..];
        assert!(session.logits().unwrap()[..] == *last, "{name}, in chunks");
    }
}

#[test]
fn the_story_model_predicts_held_out_stories_as_well_as_under_llama_cpp() {
    let golden = golden();
    let text = std::fs::read_to_string(data("held_out.txt")).unwrap();
    for format in FORMATS {
        let stories = text.split("\n\n").map(|s| s.trim_end_matches('\n'));
        let (found, count) = perplexity(&model(format), stories);
        assert_eq!(golden["held_out"]["predicted_tokens"], count, "{format}");
        let theirs = &golden["formats"][format]["llama.cpp"]["perplexity"];
        let theirs = theirs.as_f64().unwrap();
        assert!(
            found <= 1.01 * theirs,
            "{format}: {found}, llama.cpp {theirs}"
        );
    }
}

#[test]
fn texts_become_the_tokens_that_llama_cpp_makes_of_them() {
    let model = model("Q8_0");
    let tokenizer = model.tokenizer().unwrap();
    for case in golden()["tokenize"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, EncodeOptions::default()).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{text:?}");
    }
}

#[test]
fn the_built_in_story_comes_to_an_end_by_itself() {
    let golden = golden();
    let end = golden["end"].as_u64().unwrap() as u32;
    let begin = ids(&golden["greedy_story"]["prompt_ids"]);
    let tokens = greedy(&model("Q8_0"), Prompt::Tokens(&begin), 450);
    assert!(tokens.contains(&end), "450 tokens without an end");
}
