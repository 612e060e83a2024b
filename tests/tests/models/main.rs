//! Real models against outputs of other engines.

mod architectures;
mod hugging_face;
mod minilm;
#[cfg(unix)]
mod qnn;
mod qnn_large;
mod quantised;
mod quantised_architectures;
mod stories;
mod story;

use std::ops::ControlFlow;
use std::path::Path;

use anynpu_runtime::tokenize::EncodeOptions;
use anynpu_runtime::{
    GenerateOptions, KvType, LoadOptions, LoadedModel, Prompt, Runtime, RuntimeError,
    SessionOptions,
};
use serde_json::Value;

/// No worse than this multiple of llama.cpp's figures.
const MARGIN: f64 = 1.25;

fn load(file: &Path, features: Option<&str>, kv: KvType) -> LoadedModel {
    let mut builder = Runtime::builder().drivers(anynpu_backends::drivers());
    if let Some(f) = features {
        builder = builder.device_option("cpu", "features", f);
    }
    let options = LoadOptions::new().kv_type(kv);
    let runtime = builder.build().unwrap();
    runtime.load(file.to_owned(), options).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap();
    list.iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(file: &Path) -> Vec<f32> {
    let bytes = std::fs::read(file).unwrap();
    let chunks = bytes.chunks_exact(4);
    chunks
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Logits after every token.
fn logits(model: &LoadedModel, tokens: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut session = model.session(SessionOptions::new()).unwrap();
    session
        .logits_of_each(tokens, None, |_, row| {
            all.extend_from_slice(row);
            Ok::<(), RuntimeError>(())
        })
        .unwrap();
    all
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&l| f64::from(l - most).exp()).sum();
    let norm = f64::from(most) + sum.ln();
    row.iter().map(|&l| f64::from(l) - norm).collect()
}

/// Mean over rows of the divergence of `found` from `expected`, in nats.
fn mean_kl(expected: &[f32], found: &[f32], vocabulary: usize) -> f64 {
    let rows = expected.chunks(vocabulary).zip(found.chunks(vocabulary));
    let count = rows.len() as f64;
    let total: f64 = rows
        .map(|(e, f)| {
            let pairs = log_softmax(e).into_iter().zip(log_softmax(f));
            pairs.map(|(e, f)| e.exp() * (e - f)).sum::<f64>()
        })
        .sum();
    total / count
}

/// Perplexity of texts, each from the begin token, and how many tokens were predicted.
fn perplexity<'a>(model: &LoadedModel, texts: impl Iterator<Item = &'a str>) -> (f64, usize) {
    let options = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let (mut loss, mut count) = (0.0, 0);
    for text in texts {
        let tokens = model.tokenizer().unwrap().encode(text, options).unwrap();
        let logits = logits(model, &tokens);
        let vocabulary = logits.len() / tokens.len();
        for (row, &next) in logits.chunks(vocabulary).zip(&tokens[1..]) {
            loss -= log_softmax(row)[next as usize];
            count += 1;
        }
    }
    ((loss / count as f64).exp(), count)
}

fn greedy(model: &LoadedModel, prompt: Prompt<'_>, count: u32) -> Vec<u32> {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let mut options = GenerateOptions::greedy().max_tokens(count);
    options.ignore_end = true;
    let report = session.generate(prompt, &options, |_| ControlFlow::Continue(()));
    report.unwrap().tokens
}
