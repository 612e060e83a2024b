//! `anynpu calibrate`: between which numbers a model's activations are.

use std::fs;
use std::sync::Arc;

use anyhow::Context;
use anynpu::plan::Placement;
use anynpu::{KvType, LoadOptions, Runtime, RuntimeBuilder};
use anynpu_backends::{BackendOptions, Calibration, FixedForm, NnapiRanges, Recorder};
use serde::Serialize;

use super::compile::PINS;
use super::{load, perplexity};
use crate::args::{CalibrateArgs, CalibratedFor};
use crate::output;

#[derive(Serialize)]
struct Document {
    model: String,
    file: String,
    ranges: String,
    /// The device that they are for.
    device: &'static str,
    activations: String,
    /// Tensors whose range was found out.
    tensors: usize,
    /// Tokens that the model was tried on.
    tokens: u64,
}

/// Tokens of a window: what computes is slow.
const CONTEXT: u32 = 128;

/// Has a reference compute the text, and writes what ranges numbers had.
pub fn execute(args: &CalibrateArgs) -> anyhow::Result<()> {
    let text = load::read_text(&args.file)?;
    let device = match args.device {
        Some(device) => device,
        None => chosen(args)?,
    };
    let (activations, tokens, json, tensors) = match device {
        CalibratedFor::Qnn => qnn(args, &text)?,
        CalibratedFor::Nnapi => nnapi(args, &text)?,
    };
    if tensors == 0 {
        anyhow::bail!(
            "{}: no layer was computed; give a longer text",
            args.file.display()
        );
    }
    fs::write(&args.output, json + "\n").with_context(|| args.output.display().to_string())?;
    let (name, weights) = match device {
        CalibratedFor::Qnn => ("qnn", ""),
        CalibratedFor::Nnapi => ("nnapi", " --nnapi-weights int8"),
    };
    let document = Document {
        model: args.model.what(),
        file: args.file.display().to_string(),
        ranges: args.output.display().to_string(),
        device: name,
        activations: activations.to_string(),
        tensors,
        tokens,
    };
    if args.json.json {
        return output::print_json(&document);
    }
    let Document { ranges, .. } = &document;
    Ok(output::print_line(&format!(
        "{ranges}: ranges of {tensors} tensors over {tokens} tokens; use them by\n  anynpu run MODEL --device cpu,{name} --place 'layers.*={name}' --place 'output*={name}'{weights} --{name}-ranges {ranges}"
    ))?)
}

/// What was found out: the form of activations, the tokens of the text, the ranges, and how many they are.
type Found = (FixedForm, u64, String, usize);

/// Qualcomm's device where its library loads, or else the one that needs none.
fn chosen(args: &CalibrateArgs) -> anyhow::Result<CalibratedFor> {
    let mut backends = BackendOptions::default();
    backends.qnn.library.clone_from(&args.qnn_library);
    let Err(e) = backends.qnn.chip() else {
        return Ok(CalibratedFor::Qnn);
    };
    match args.activations {
        // told by what it needs
        _ if args.qnn_library.is_some() => Ok(CalibratedFor::Qnn),
        Some(FixedForm::U16) => Ok(CalibratedFor::Qnn),
        _ => {
            output::note(&format!(
                "ranges are for nnapi: those for qnn need its library ({})",
                e.reason
            ));
            Ok(CalibratedFor::Nnapi)
        }
    }
}

/// Ranges of the tensors of Qualcomm's graphs, by the plain reference of these.
fn qnn(args: &CalibrateArgs, text: &str) -> anyhow::Result<Found> {
    let calibration = Arc::new(Calibration::default());
    let mut backends = BackendOptions::default();
    backends.qnn.library.clone_from(&args.qnn_library);
    backends.qnn.weights = args.qnn_weights;
    backends.qnn.calibration = Some(calibration.clone());
    let builder = Runtime::builder()
        .drivers(anynpu_backends::drivers_with(&backends))
        .device("cpu")
        .device("qnn");
    let pins = PINS.iter().map(|pin| pin.parse());
    let placement = Placement {
        pins: pins.collect::<Result<_, _>>()?,
        require: Some("qnn".into()),
    };
    let tokens = evaluate(args, builder, placement, text)?;
    let activations = args.activations.unwrap_or(FixedForm::U16);
    let ranges = calibration.ranges(activations);
    Ok((activations, tokens, ranges.to_json(), ranges.len()))
}

/// Ranges of the values of the model itself, by the CPU.
fn nnapi(args: &CalibrateArgs, text: &str) -> anyhow::Result<Found> {
    if args.activations == Some(FixedForm::U16) {
        anyhow::bail!("--activations u16: nnapi holds activations in u8 only");
    }
    let recorder = Arc::new(Recorder::default());
    let builder = Runtime::builder().drivers(anynpu_backends::recording(&recorder));
    let tokens = evaluate(args, builder, Placement::default(), text)?;
    let ranges = NnapiRanges::of(recorder.ranges())?;
    Ok((FixedForm::U8, tokens, ranges.to_json(), ranges.len()))
}

/// Runs the model over the text; how many tokens that was.
fn evaluate(
    args: &CalibrateArgs,
    builder: RuntimeBuilder,
    placement: Placement,
    text: &str,
) -> anyhow::Result<u64> {
    let runtime = builder.without_cache().build()?;
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
    Ok(perplexity::evaluate(&model, None, &[text], context)?.tokens)
}
