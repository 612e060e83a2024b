//! What our quantiser makes of models, against what llama.cpp's own makes of them. Files are
//! compared as F32 models of the values that their blocks decode to, so that only the weights
//! differ and no kernel's rounding is in the figures.

use std::ops::ControlFlow;
use std::path::Path;

use anynpu_graphs::import::gguf::Gguf;
use anynpu_graphs::quant::{Mixture, QuantizeOptions, quantize_gguf};
use anynpu_runtime::{EvaluateOptions, LoadOptions, LoadedModel, Runtime};
use anynpu_tests::test_data;
use serde_json::Value;

/// The parts of a text that empty lines keep apart.
fn parts(text: &str) -> Vec<&str> {
    let parts = text.split("\n\n").map(str::trim);
    parts.filter(|t| !t.is_empty()).collect()
}

fn quantised(source: &Gguf, mixture: Mixture) -> Gguf {
    let options = QuantizeOptions::new(mixture);
    let go = &mut |_| ControlFlow::Continue(());
    let (_, bytes) = quantize_gguf(source, Vec::new(), &options, go).unwrap();
    Gguf::from_vec(mixture.name(), bytes).unwrap()
}

/// The model of what the file's blocks decode to.
fn load(file: &Gguf) -> LoadedModel {
    let runtime = Runtime::builder().drivers(anynpu_backends::drivers());
    let exact = quantised(file, Mixture::F32);
    runtime
        .build()
        .unwrap()
        .load(exact, LoadOptions::new())
        .unwrap()
}

/// Mean divergence in nats, and how many tokens were predicted.
fn divergence(file: &Gguf, base: &LoadedModel, texts: &[&str]) -> (f64, u64) {
    let options = EvaluateOptions::new().base(base);
    let e = load(file).evaluate(texts, options).unwrap();
    (e.divergence.unwrap().mean_kl, e.predicted_tokens)
}

#[test]
fn the_story_model_s_quantised_files_diverge_no_more_than_llama_cpp_s() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/story");
    let golden = std::fs::read(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let text = std::fs::read_to_string(folder.join("held_out.txt")).unwrap();
    let texts: Vec<&str> = text.trim_end().split("\n\n").collect();
    let source = folder.join("../../../graphs/story-model/story-Q8_0.gguf");
    let source = Gguf::open(source).unwrap();
    let base = load(&source);
    let theirs = golden["requantised"].as_object().unwrap();
    assert_eq!(theirs.len(), 9);
    for (name, theirs) in theirs {
        let file = quantised(&source, name.parse().unwrap());
        let (found, tokens) = divergence(&file, &base, &texts);
        let limit = theirs["mean_kl"].as_f64().unwrap();
        println!("{name}: {found:.4e}, llama.cpp {limit:.4e} over {tokens} tokens");
        assert!(found <= limit, "{name}: {found}, llama.cpp {limit}");
        assert_eq!(theirs["bytes"], file.file().len(), "{name}");
    }
}

#[test]
fn stories260k_in_our_types_diverges_no_more_than_the_reference_files() {
    let test = "stories260k_in_our_types_diverges_no_more_than_the_reference_files";
    let (Some(folder), Some(text)) = (
        test_data(test, "stories260K"),
        test_data(test, "text/own_stories.txt"),
    ) else {
        return;
    };
    let text = std::fs::read_to_string(text).unwrap();
    let texts = parts(&text);
    let open =
        |format: &str| Gguf::open(folder.join(format!("stories260K-{format}.gguf"))).unwrap();
    let source = open("F32");
    let base = load(&source);
    for format in ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] {
        let ours = divergence(&quantised(&source, format.parse().unwrap()), &base, &texts).0;
        let theirs = divergence(&open(format), &base, &texts).0;
        println!("{format}: {ours:.4e}, reference {theirs:.4e}");
        assert!(ours <= theirs, "{format}: {ours}, reference {theirs}");
    }
}

#[test]
fn the_perplexity_on_record_comes_out_again() {
    let test = "the_perplexity_on_record_comes_out_again";
    let (Some(folder), Some(text)) = (
        test_data(test, "stories260K"),
        test_data(test, "text/own_stories.txt"),
    ) else {
        return;
    };
    let golden = std::fs::read(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let golden = &golden["ppl"]["own_stories"];
    let text = std::fs::read_to_string(text).unwrap();
    let texts = parts(&text);
    let source = Gguf::open(folder.join("stories260K-F32.gguf")).unwrap();
    let found = load(&source)
        .evaluate(&texts, EvaluateOptions::new())
        .unwrap();
    assert_eq!(golden["tokens"], found.predicted_tokens);
    let expected = golden["ppl"].as_f64().unwrap();
    assert!(
        (found.perplexity / expected - 1.0).abs() < 1e-4,
        "{found:?}, on record {expected}"
    );
    assert!(found.divergence.is_none());
}
