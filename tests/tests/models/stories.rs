//! The stories260K files, found through `ANYNPU_TEST_DATA`. Their golden values were computed in
//! float64 and cross-checked with llama.cpp.

use std::path::PathBuf;

use anynpu_cpu::kernels::Features;
use anynpu_runtime::{KvType, LoadedModel, Prompt, SessionOptions};
use anynpu_tests::test_data;
use serde_json::Value;

use crate::{MARGIN, floats, greedy, ids, load, logits, mean_kl, perplexity};

/// The model files with llama.cpp's name of each format.
const FORMATS: [&str; 7] = ["F32", "F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"];
struct Stories {
    folder: PathBuf,
    golden: Value,
}

impl Stories {
    fn find(test: &str) -> Option<Stories> {
        let folder = test_data(test, "stories260K")?;
        let golden = std::fs::read(folder.join("golden.json")).unwrap();
        Some(Stories {
            golden: serde_json::from_slice(&golden).unwrap(),
            folder,
        })
    }

    fn load(&self, format: &str, features: Option<&str>, kv: KvType) -> LoadedModel {
        let file = self.folder.join(format!("stories260K-{format}.gguf"));
        load(&file, features, kv)
    }
}

#[test]
fn f32_logits_equal_float64_ones_within_a_thousandth() {
    let Some(s) = Stories::find("f32_logits_equal_float64_ones_within_a_thousandth") else {
        return;
    };
    let expected = floats(&s.folder.join("golden_prompt64_logits_f32.bin"));
    let tokens = ids(&s.golden["prompt64"]["ids"]);
    let found = logits(&s.load("F32", None, KvType::Auto), &tokens);
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(&expected);
    let worst = pairs.map(|(f, e)| (f - e).abs()).fold(0f32, f32::max);
    assert!(worst <= 1e-3, "largest difference {worst}");
}

#[test]
fn quantised_models_diverge_no_more_than_llama_cpp_runs_them() {
    let Some(s) = Stories::find("quantised_models_diverge_no_more_than_llama_cpp_runs_them") else {
        return;
    };
    let expected = floats(&s.folder.join("golden_prompt64_logits_f32.bin"));
    let tokens = ids(&s.golden["prompt64"]["ids"]);
    for format in &FORMATS[2..] {
        let found = logits(&s.load(format, None, KvType::Auto), &tokens);
        let kl = mean_kl(&expected, &found, expected.len() / tokens.len());
        let theirs = s.golden["llama.cpp"][format]["mean_kl"].as_f64().unwrap();
        assert!(kl <= MARGIN * theirs, "{format}: {kl}, llama.cpp {theirs}");
    }
}

#[test]
fn perplexities_are_no_worse_than_llama_cpp_s() {
    let Some(s) = Stories::find("perplexities_are_no_worse_than_llama_cpp_s") else {
        return;
    };
    let path = test_data(
        "perplexities_are_no_worse_than_llama_cpp_s",
        "text/own_stories.txt",
    );
    let text = std::fs::read_to_string(path.unwrap()).unwrap();
    for format in FORMATS {
        let model = s.load(format, None, KvType::Auto);
        let stories = text.split("\n\n").map(str::trim).filter(|t| !t.is_empty());
        let (found, count) = perplexity(&model, stories);
        let golden = &s.golden["ppl"]["own_stories_llama.cpp"][format];
        let theirs = golden["ppl"].as_f64().unwrap();
        assert_eq!(count as u64, golden["tokens"].as_u64().unwrap());
        let limit = if format == "F32" { 1.0001 } else { MARGIN };
        assert!(
            found <= limit * theirs,
            "{format}: {found}, llama.cpp {theirs}"
        );
    }
}

#[test]
fn f32_greedy_tokens_are_the_golden_ones_on_every_kernel_path() {
    let Some(s) = Stories::find("f32_greedy_tokens_are_the_golden_ones_on_every_kernel_path")
    else {
        return;
    };
    for features in Features::available() {
        let name = features.to_string();
        let model = s.load("F32", Some(&name), KvType::Auto);
        for case in s.golden["greedy"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            let expected = ids(&case["new_ids"]);
            let found = greedy(&model, prompt.into(), expected.len() as u32);
            assert_eq!(found, expected, "{name}: {prompt:?}");
        }
        let all = ids(&s.golden["greedy_255_from_bos"]["ids"]);
        let found = greedy(&model, Prompt::Tokens(&all[..1]), all.len() as u32 - 1);
        assert_eq!(found, all[1..], "{name}");
    }
}

/// Rounding the weights to 16 bits moves these logits by up to 0.02 (llama.cpp's F16 figure in the
/// golden file), so where two tokens are closer than that, either may follow.
const F16_TIE: f32 = 0.02;

#[test]
fn f16_greedy_tokens_are_the_golden_ones_up_to_ties_on_every_kernel_path() {
    let test = "f16_greedy_tokens_are_the_golden_ones_up_to_ties_on_every_kernel_path";
    let Some(s) = Stories::find(test) else {
        return;
    };
    let exact = s.load("F32", None, KvType::Auto);
    for features in Features::available() {
        let name = features.to_string();
        let model = s.load("F16", Some(&name), KvType::Auto);
        let all = ids(&s.golden["greedy_255_from_bos"]["ids"]);
        let found = greedy(&model, Prompt::Tokens(&all[..1]), all.len() as u32 - 1);
        assert_eq!(found, all[1..], "{name}");
        let (mut equal, mut cases) = (0, 0);
        for case in s.golden["greedy"].as_array().unwrap() {
            cases += 1;
            let (mut tokens, expected) = (ids(&case["prompt_ids"]), ids(&case["new_ids"]));
            let found = greedy(&model, Prompt::Tokens(&tokens), expected.len() as u32);
            let Some(at) = found.iter().zip(&expected).position(|(f, e)| f != e) else {
                equal += 1;
                continue;
            };
            tokens.extend(&expected[..at]);
            let logits = logits(&exact, &tokens);
            let row = &logits[logits.len() - logits.len() / tokens.len()..];
            let gap = row[expected[at] as usize] - row[found[at] as usize];
            let prompt = &case["prompt"];
            assert!(
                gap <= F16_TIE,
                "{name}: {prompt}: token {at} is {gap} less likely"
            );
        }
        assert!(equal >= cases - 1, "{name}: only {equal} of {cases} equal");
    }
}

#[test]
fn feeding_in_chunks_or_at_once_gives_the_same_logits() {
    let Some(s) = Stories::find("feeding_in_chunks_or_at_once_gives_the_same_logits") else {
        return;
    };
    let tokens = ids(&s.golden["prompt64"]["ids"]);
    for format in ["F32", "Q4_0", "Q8_0"] {
        let model = s.load(format, None, KvType::F16);
        let whole = logits(&model, &tokens);
        let vocabulary = whole.len() / tokens.len();
        for chunk in [1, 7] {
            let mut session = model.session(SessionOptions::new()).unwrap();
            for (i, part) in tokens.chunks(chunk).enumerate() {
                session.prefill(part, None).unwrap();
                let row = (i * chunk + part.len() - 1) * vocabulary;
                let expected = &whole[row..row + vocabulary];
                assert_eq!(&session.logits().unwrap()[..], expected, "{format} {chunk}");
            }
        }
    }
}
