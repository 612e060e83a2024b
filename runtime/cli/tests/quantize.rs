//! `anynpu quantize` and `anynpu perplexity` as scripts see them.

mod common;

use std::path::{Path, PathBuf};

use common::{anynpu, json, refused, text};
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn story() -> String {
    let path = repository().join("graphs/story-model/story-Q8_0.gguf");
    path.to_str().unwrap().to_owned()
}

/// The held-out stories with the first of them alone beside.
fn texts(folder: &Path) -> (String, String) {
    let all = repository().join("tests/data/story/held_out.txt");
    let stories = std::fs::read_to_string(&all).unwrap();
    let first = folder.join("first.txt");
    std::fs::write(&first, stories.split("\n\n").next().unwrap()).unwrap();
    let name = |p: &Path| p.to_str().unwrap().to_owned();
    (name(&all), name(&first))
}

#[test]
fn a_quantised_model_is_reported_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("q4.gguf");
    let out = out.to_str().unwrap();
    let (_, first) = texts(folder.path());
    let args = [
        "quantize",
        &story(),
        out,
        "--type",
        "q4_k_m",
        "--quality",
        &first,
        "--json",
    ];
    let d = json(&args);
    assert_eq!(d["type"], "Q4_K_M");
    assert_eq!(d["output_bytes"], std::fs::metadata(out).unwrap().len());
    let bits = d["bits_per_weight"].as_f64().unwrap();
    assert!((4.5..6.0).contains(&bits), "{bits}");
    let formats = d["formats"].as_array().unwrap();
    let names: Vec<&str> = formats
        .iter()
        .map(|f| f["dtype"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["q4_k", "q6_k", "f32"]);
    assert!(
        d["warnings"][0]
            .as_str()
            .unwrap()
            .contains("quantised already")
    );
    let kl = d["quality"]["divergence"]["mean_kl"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.05, "{kl}");
    assert_eq!(d["quality"]["windows"], 1);

    let run = json(&[
        "run",
        out,
        "-p",
        "Once upon a time",
        "-n",
        "8",
        "--temp",
        "0",
        "--json",
    ]);
    assert_eq!(run["tokens"].as_array().unwrap().len(), 8);
    let told = anynpu(&["quantize", &story(), out, "--type", "Q8_0"]);
    assert_eq!(told.status.code(), Some(0));
    assert!(
        text(&told.stdout).contains("q8_0"),
        "{}",
        text(&told.stdout)
    );
    assert!(told.stderr.is_empty(), "{}", text(&told.stderr));
}

#[test]
fn a_hugging_face_folder_becomes_a_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let out = out.to_str().unwrap();
    let data = repository().join("tests/data/hugging_face");
    let data = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let d = json(&[
        "quantize",
        &data("llama-llama3"),
        out,
        "--type",
        "F16",
        "--json",
    ]);
    assert_eq!(d["type"], "F16");
    assert_eq!(d["output_bytes"], std::fs::metadata(out).unwrap().len());
    assert!(d["input_bytes"].as_u64().unwrap() > d["output_bytes"].as_u64().unwrap());
    let warning = d["warnings"][0].as_str().unwrap();
    assert!(warning.contains("no tokenizer.json"), "{warning}");
    let inspected = json(&["inspect", out, "--json"]);
    assert_eq!(inspected["info"]["architecture"], "llama");
    let tensors = inspected["tensors"].as_array().unwrap();
    assert!(tensors.iter().any(|t| t["name"] == "rope_freqs.weight"));

    std::fs::remove_file(out).unwrap();
    let refused_folder = |folder: &str, words: &[&str]| {
        refused(&["quantize", folder, out, "--type", "F16"], 1, words);
        assert!(!Path::new(out).exists());
    };
    refused_folder(
        &data("distilbert"),
        &["encoder", "only BERT's", "distilbert"],
    );
    refused_folder(&data("bert-classifier"), &["classifier", "bert"]);
    refused_folder(&data("bert-old"), &["hidden_act", "GELU"]);
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(&data("llama")).join(file), copy.join(file)).unwrap();
    }
    let tokenizers = repository().join("tests/data/tokenizers");
    let copy_tokenizer = |name: &str| {
        std::fs::copy(tokenizers.join(name), copy.join("tokenizer.json")).unwrap();
    };
    let copied = copy.to_str().unwrap();
    copy_tokenizer("unigram.json");
    refused_folder(copied, &["tokens but the model gives logits for 64"]);
    let safetensors = copy.join("model.safetensors");
    let before = std::fs::read(&safetensors).unwrap();
    std::fs::remove_file(copy.join("tokenizer.json")).unwrap();
    let over = safetensors.to_str().unwrap();
    refused(
        &["quantize", copied, over, "--type", "F16"],
        1,
        &["another file"],
    );
    assert_eq!(std::fs::read(&safetensors).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn perplexity_counts_every_token_of_texts_that_fit_and_half_of_windows() {
    let folder = tempfile::tempdir().unwrap();
    let (all, first) = texts(folder.path());
    let golden = repository().join("tests/data/story/golden.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();

    let d = json(&["perplexity", "-f", &all, "--texts", "--json"]);
    assert_eq!(
        d["predicted_tokens"],
        golden["held_out"]["predicted_tokens"]
    );
    assert_eq!(d["texts"], golden["held_out"]["stories"]);
    let found = d["perplexity"].as_f64().unwrap();
    let expected = golden["formats"]["Q8_0"]["llama.cpp"]["perplexity"]
        .as_f64()
        .unwrap();
    assert!(
        (found / expected - 1.0).abs() < 0.01,
        "{found}, llama.cpp {expected}"
    );
    assert!(d["standard_error"].as_f64().unwrap() > 0.0);
    assert!(d["divergence"].is_null());

    let d = json(&["perplexity", "-f", &first, "--ctx", "16", "--json"]);
    let windows = d["windows"].as_u64().unwrap();
    assert!(windows > 2);
    assert_eq!(d["predicted_tokens"], 7 * windows);
    let tokens = d["tokens"].as_u64().unwrap();
    assert_eq!(d["left_over"], tokens - 16 * windows);

    let d = json(&["perplexity", "-f", &first, "--kl", &story(), "--json"]);
    assert_eq!(d["divergence"]["mean_kl"], 0.0);
    assert_eq!(d["divergence"]["top1_agreement"], 1.0);
    assert_eq!(d["divergence"]["base_perplexity"], d["perplexity"]);
    let told = anynpu(&["perplexity", "-f", &first]);
    assert!(text(&told.stdout).contains('±'));
    assert!(!text(&told.stderr).contains('\u{1b}'));
}

#[test]
fn what_cannot_be_done_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let out = folder.path().join("out.gguf");
    let out = out.to_str().unwrap();
    let (garbage, empty) = (file("garbage", &[7; 100]), file("empty.txt", b""));
    let story = story();
    refused(
        &["quantize", &garbage, out, "--type", "Q4_0"],
        1,
        &[&garbage, "GGUF"],
    );
    refused(
        &["quantize", "no-such.gguf", out, "--type", "Q4_0"],
        1,
        &["no-such.gguf"],
    );
    refused(
        &["quantize", &story, &story, "--type", "Q4_0"],
        1,
        &["another file"],
    );
    refused(
        &["quantize", &story, out, "--type", "Q9_9"],
        2,
        &["Q9_9", "Q4_K_M"],
    );
    refused(&["quantize", &story, out], 2, &["--type"]);
    let with_imatrix = [
        "quantize",
        &story,
        out,
        "--type",
        "Q4_0",
        "--imatrix",
        &garbage,
    ];
    refused(&with_imatrix, 1, &[&garbage, "importance matrix"]);
    let with_text = [
        "quantize",
        &story,
        out,
        "--type",
        "Q4_0",
        "--quality",
        "no-such.txt",
    ];
    refused(&with_text, 1, &["no-such.txt"]);
    refused(&["perplexity", "-f", &empty], 1, &["text"]);
    refused(&["perplexity", "-f", "no-such.txt"], 1, &["no-such.txt"]);
    refused(
        &["perplexity", "-f", &garbage, "--ctx", "3"],
        1,
        &["context", "3"],
    );
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["empty.txt", "garbage"]);
}
