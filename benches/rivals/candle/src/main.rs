//! Times candle on a GGUF file as `anynpu bench` times itself.
//!
//! Usage: `anynpu-rival-candle MODEL.gguf PROMPT_TOKENS[,…] GENERATED_TOKENS[@DEPTH]`; the number of
//! threads is `RAYON_NUM_THREADS`. Prints one JSON object a figure, model loaded, one warm-up.

use std::fs::File;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2};
use serde_json::json;

const VOCABULARY: u32 = 32_000;

enum Model {
    Llama(quantized_llama::ModelWeights),
    Qwen2(quantized_qwen2::ModelWeights),
}

impl Model {
    fn load(path: &str) -> Result<Model> {
        let mut file = File::open(path).with_context(|| path.to_owned())?;
        let content = gguf_file::Content::read(&mut file)?;
        let architecture = content.metadata.get("general.architecture");
        let architecture = architecture.context("no architecture")?.to_string()?;
        Ok(match architecture.as_str() {
            "llama" => Model::Llama(quantized_llama::ModelWeights::from_gguf(
                content,
                &mut file,
                &Device::Cpu,
            )?),
            "qwen2" => Model::Qwen2(quantized_qwen2::ModelWeights::from_gguf(
                content,
                &mut file,
                &Device::Cpu,
            )?),
            other => bail!("architecture {other} is not run here"),
        })
    }

    /// A step of tokens that come after `before` others; position 0 forgets those.
    fn feed(&mut self, tokens: &[u32], before: usize) -> Result<()> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Model::Llama(model) => model.forward(&tokens, before)?,
            Model::Qwen2(model) => model.forward(&tokens, before)?,
        };
        std::hint::black_box(logits.to_device(&Device::Cpu)?);
        Ok(())
    }
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|i| i.wrapping_mul(7919).wrapping_add(13) % VOCABULARY)
        .collect()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, prompts, generated] = arguments.as_slice() else {
        bail!("usage: MODEL.gguf PROMPT_TOKENS[,…] GENERATED_TOKENS[@DEPTH]");
    };
    let threads: usize = std::env::var("RAYON_NUM_THREADS")?.parse()?;
    let (generated, depth) = generated.split_once('@').unwrap_or((generated, "0"));
    let (generated, depth): (usize, usize) = (generated.parse()?, depth.parse()?);
    let row = |test: String, value: f64| {
        println!(
            "{}",
            json!({"engine": "candle", "threads": threads, "test": test, "value": value})
        );
    };

    let started = Instant::now();
    let mut model = Model::load(path)?;
    model.feed(&tokens(1), 0)?;
    row("load".into(), started.elapsed().as_secs_f64());
    for count in prompts.split(',') {
        let count: usize = count.parse()?;
        if count == 0 {
            continue;
        }
        let started = Instant::now();
        model.feed(&tokens(count), 0)?;
        row(format!("pp{count}"), count as f64 / started.elapsed().as_secs_f64());
    }
    if generated > 0 {
        model.feed(&tokens(depth.max(1)), 0)?;
        let started = Instant::now();
        for (i, token) in tokens(generated).into_iter().enumerate() {
            model.feed(&[token], depth.max(1) + i)?;
        }
        let at = if depth > 0 { format!("@{depth}") } else { String::new() };
        row(
            format!("tg{generated}{at}"),
            generated as f64 / started.elapsed().as_secs_f64(),
        );
    }
    Ok(())
}
