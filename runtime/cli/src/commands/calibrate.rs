//! `anynpu calibrate`: between which numbers a model's activations are.

use std::fs;
use std::sync::Arc;

use anyhow::Context;
use anynpu::plan::Placement;
use anynpu::{KvType, LoadOptions, Runtime};
use anynpu_backends::{BackendOptions, Calibration};
use serde::Serialize;

use super::compile::PINS;
use super::{load, perplexity};
use crate::args::CalibrateArgs;
use crate::output;

#[derive(Serialize)]
struct Document {
    model: String,
    file: String,
    ranges: String,
    activations: String,
    /// Tensors whose range was found out.
    tensors: usize,
    /// Tokens that the model was tried on.
    tokens: u64,
}

/// Tokens of a window: what computes is slow.
const CONTEXT: u32 = 128;

/// Has the plain reference compute the text, and writes what ranges numbers had.
pub fn execute(args: &CalibrateArgs) -> anyhow::Result<()> {
    let text = load::read_text(&args.file)?;
    let calibration = Arc::new(Calibration::default());
    let mut backends = BackendOptions::default();
    backends.qnn.library.clone_from(&args.qnn_library);
    backends.qnn.weights = args.qnn_weights;
    backends.qnn.calibration = Some(calibration.clone());
    let runtime = Runtime::builder()
        .drivers(anynpu_backends::drivers_with(&backends))
        .device("cpu")
        .device("qnn")
        .without_cache()
        .build()?;
    let pins = PINS.iter().map(|pin| pin.parse());
    let placement = Placement {
        pins: pins.collect::<Result<_, _>>()?,
        require: Some("qnn".into()),
    };
    let what = || args.model.what();
    let open = args.model.open()?;
    let context = match args.ctx {
        Some(tokens) => tokens,
        None => open.default_context().min(CONTEXT),
    };
    // a device gets caches in F32 as they are, and in F16 by way of less: this has all there is
    let mut options = LoadOptions::new()
        .placement(placement)
        .kv_type(KvType::F32)
        .cancel(load::interrupt());
    options.context = Some(context);
    let model = runtime.load_open(open, options).with_context(what)?;
    let evaluation = perplexity::evaluate(&model, None, &[&text], context)?;
    let ranges = calibration.ranges(args.activations);
    if ranges.is_empty() {
        anyhow::bail!(
            "{}: no layer was computed; give a longer text",
            args.file.display()
        );
    }
    fs::write(&args.output, ranges.to_json() + "\n")
        .with_context(|| args.output.display().to_string())?;
    let document = Document {
        model: args.model.what(),
        file: args.file.display().to_string(),
        ranges: args.output.display().to_string(),
        activations: args.activations.to_string(),
        tensors: ranges.len(),
        tokens: evaluation.tokens,
    };
    if args.json.json {
        return output::print_json(&document);
    }
    Ok(output::print_line(&format!(
        "{}: ranges of {} tensors over {} tokens; use them by\n  anynpu run MODEL --device cpu,qnn --place 'layers.*=qnn' --place 'output*=qnn' --qnn-ranges {}",
        document.ranges, document.tensors, document.tokens, document.ranges
    ))?)
}
