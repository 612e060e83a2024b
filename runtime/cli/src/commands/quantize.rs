//! `anynpu quantize`: a model's weights in another type.

use std::num::NonZero;
use std::ops::ControlFlow;

use anyhow::Context;
use anynpu::{Evaluation, OpenModel};
use anynpu_graphs::import::gguf::Gguf;
use anynpu_graphs::import::hugging_face::HuggingFaceFolder;
use anynpu_graphs::quant::{
    Imatrix, QuantizeOptions, QuantizeReport, QuantizeSource, quantize_file,
};
use serde::Serialize;

use crate::args::{ModelArg, QuantizeArgs};
use crate::commands::{load, perplexity};
use crate::output;

#[derive(Serialize)]
struct Document {
    input: String,
    output: String,
    #[serde(flatten)]
    report: QuantizeReport,
    /// The result beside the input, if a text was given.
    quality: Option<Evaluation>,
}

/// Writes the file, then reports.
pub fn execute(args: &QuantizeArgs) -> anyhow::Result<()> {
    // A text that can't be read is told before the work, not after it.
    let text = match &args.quality {
        Some(path) => Some(load::read_text(path)?),
        None => None,
    };
    let told = || args.input.display().to_string();
    let (gguf, folder);
    let source: QuantizeSource<'_> = if HuggingFaceFolder::is_at(&args.input) {
        let open = OpenModel::open(args.input.as_path());
        folder = open.and_then(|m| m.to_gguf()).with_context(told)?;
        (&folder).into()
    } else {
        gguf = Gguf::open(&args.input).with_context(told)?;
        (&gguf).into()
    };
    let mut options = QuantizeOptions::new(args.mixture);
    options.threads = args
        .placement
        .threads
        .and_then(|n| NonZero::new(n as usize));
    if let Some(path) = &args.imatrix {
        options.imatrix = Some(Imatrix::open(path)?);
    }
    let bar = output::progress_bar("quantising");
    let interrupt = load::interrupt();
    let report = quantize_file(source, &args.output, &options, &mut |p| {
        bar.set_length(p.total.max(1));
        bar.set_position(p.done);
        match interrupt.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    bar.finish_and_clear();
    let report = report?;
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    let quality = match &text {
        Some(text) => Some(quality(args, text)?),
        None => None,
    };
    let document = Document {
        input: args.input.display().to_string(),
        output: args.output.display().to_string(),
        report,
        quality,
    };
    if args.json.json {
        return output::print_json(&document);
    }
    print(&document)
}

/// Runs the result and the input over the text.
fn quality(args: &QuantizeArgs, text: &str) -> anyhow::Result<Evaluation> {
    let model = |path: &std::path::Path| ModelArg {
        model: Some(path.to_owned()),
    };
    let (input, output) = (model(&args.input), model(&args.output));
    let context = perplexity::context(&input, args.ctx)?;
    let base = args.placement.load(&input, Some(context))?;
    let result = args.placement.load(&output, Some(context))?;
    perplexity::evaluate(&result, Some(&base), &[text], context)
}

fn print(d: &Document) -> anyhow::Result<()> {
    let r = &d.report;
    output::print_line(&format!(
        "{}: {} of {}, {:.2} bits a weight (the input takes {})",
        d.output,
        r.mixture,
        output::bytes(r.output_bytes),
        r.bits_per_weight,
        output::bytes(r.input_bytes)
    ))?;
    for f in &r.formats {
        let worst = match &f.worst {
            Some(name) => format!(
                ", relative error {:.5}, largest {:.5} in {name}",
                f.relative_rmse, f.worst_relative_rmse
            ),
            None => String::new(),
        };
        output::print_line(&format!(
            "  {:<6} {:>4} tensors {:>12}{worst}",
            f.dtype,
            f.tensors,
            output::bytes(f.bytes)
        ))?;
    }
    if let Some(i) = &r.imatrix {
        output::print_line(&format!(
            "importance matrix {}: used for {} tensors, of {} entries",
            i.file, i.used, i.entries
        ))?;
    }
    match &d.quality {
        Some(quality) => perplexity::print(quality),
        None => Ok(()),
    }
}
