//! `anynpu logits`: next-token logits for every position.

use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::Context;
use anynpu::SessionOptions;
use serde::Serialize;

use crate::args::LogitsArgs;
use crate::commands::load;
use crate::output;

#[derive(Serialize)]
struct Document {
    tokens: Vec<u32>,
    positions: usize,
    vocabulary: u32,
    /// Row-major `[positions, vocabulary]`; left out if they went to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
    executed: anynpu::Executed,
    kv_type: &'static str,
}

/// Runs the tokens through the model.
pub fn execute(args: &LogitsArgs) -> anyhow::Result<()> {
    let context = u32::try_from(args.tokens.len()).context("too many tokens")?;
    let model = args.placement.load(&args.model, Some(context))?;
    let mut session = model.session(SessionOptions::new())?;
    let mut logits = Vec::new();
    session.logits_of_each(&args.tokens, Some(&load::interrupt()), |_, row| {
        logits.extend_from_slice(row);
        Ok::<(), anyhow::Error>(())
    })?;
    if let Some(path) = &args.out {
        write(path, &logits).with_context(|| path.display().to_string())?;
    }
    let document = Document {
        positions: args.tokens.len(),
        vocabulary: model.info().vocabulary,
        tokens: args.tokens.clone(),
        out: args.out.as_ref().map(|p| p.display().to_string()),
        executed: session.executed(),
        kv_type: model.kv_dtype().name(),
        logits: args.out.is_none().then_some(logits),
    };
    if args.json.json {
        return output::print_json(&document);
    }
    match &document.logits {
        None => output::note(&format!(
            "{} positions of {} logits written",
            document.positions, document.vocabulary
        )),
        Some(logits) => print_top(logits, document.vocabulary as usize)?,
    }
    Ok(())
}

fn write(path: &std::path::Path, logits: &[f32]) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for l in logits {
        out.write_all(&l.to_le_bytes())?;
    }
    out.flush()
}

/// The five likeliest tokens of each position.
fn print_top(logits: &[f32], vocabulary: usize) -> anyhow::Result<()> {
    for (position, row) in logits.chunks_exact(vocabulary.max(1)).enumerate() {
        let mut ids: Vec<usize> = (0..row.len()).collect();
        ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        let top: Vec<String> = ids
            .iter()
            .take(5)
            .map(|&i| format!("{i}:{:.4}", row[i]))
            .collect();
        output::print_line(&format!("{position}: {}", top.join(" ")))?;
    }
    Ok(())
}
