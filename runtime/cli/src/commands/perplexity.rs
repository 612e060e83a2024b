//! `anynpu perplexity`: how well a model predicts a text.

use std::ops::ControlFlow;

use anynpu::{EVALUATION_CONTEXT, EvaluateOptions, Evaluation, LoadedModel};
use serde::Serialize;

use crate::args::{ModelArg, PerplexityArgs};
use crate::commands::load;
use crate::output;

#[derive(Serialize)]
struct Document {
    model: String,
    /// The model compared with, if there was one.
    base: Option<String>,
    file: String,
    texts: usize,
    #[serde(flatten)]
    evaluation: Evaluation,
    kv_type: &'static str,
    warnings: Vec<String>,
}

/// Evaluates the model and prints the result.
pub fn execute(args: &PerplexityArgs) -> anyhow::Result<()> {
    let text = load::read_text(&args.file)?;
    let texts: Vec<&str> = match args.texts {
        true => paragraphs(&text),
        false => vec![&text],
    };
    let context = context(&args.model, args.ctx)?;
    let model = args.placement.load(&args.model, Some(context))?;
    let base = args.kl.as_ref().map(|path| ModelArg {
        model: Some(path.clone()),
    });
    let loaded = match &base {
        Some(base) => Some(args.placement.load(base, Some(context))?),
        None => None,
    };
    let evaluation = evaluate(&model, loaded.as_ref(), &texts, context)?;
    let document = Document {
        model: args.model.what(),
        base: base.map(|b| b.what()),
        file: args.file.display().to_string(),
        texts: texts.len(),
        evaluation,
        kv_type: model.kv_dtype().name(),
        warnings: model.warnings().to_vec(),
    };
    if args.json.json {
        return output::print_json(&document);
    }
    print(&document.evaluation)
}

/// Texts with empty lines between.
fn paragraphs(text: &str) -> Vec<&str> {
    let texts = text.split("\n\n").map(str::trim);
    texts.filter(|t| !t.is_empty()).collect()
}

/// The tokens of a window: what is asked for, or the model's context up to the usual size.
pub fn context(model: &ModelArg, asked: Option<u32>) -> anyhow::Result<u32> {
    match asked {
        Some(tokens) => Ok(tokens),
        None => Ok(model.open()?.default_context().min(EVALUATION_CONTEXT)),
    }
}

/// Evaluates with a progress bar.
pub fn evaluate(
    model: &LoadedModel,
    base: Option<&LoadedModel>,
    texts: &[&str],
    context: u32,
) -> anyhow::Result<Evaluation> {
    let bar = output::progress_bar("predicting");
    let mut options = EvaluateOptions::new()
        .context(context)
        .cancel(load::interrupt())
        .progress(|done, total| {
            bar.set_length(total);
            bar.set_position(done);
            ControlFlow::Continue(())
        });
    if let Some(base) = base {
        options = options.base(base);
    }
    let evaluation = model.evaluate(texts, options);
    bar.finish_and_clear();
    Ok(evaluation?)
}

/// Prints the figures for people.
pub fn print(e: &Evaluation) -> anyhow::Result<()> {
    output::print_line(&format!(
        "perplexity {:.4} ± {:.4} over {} tokens in {} window(s) of up to {}",
        e.perplexity, e.standard_error, e.predicted_tokens, e.windows, e.context
    ))?;
    if e.left_over > 0 {
        output::print_line(&format!("{} tokens at the end fill no window", e.left_over))?;
    }
    if let Some(d) = &e.divergence {
        output::print_line(&format!(
            "divergence {:.3e} ± {:.1e} nats a token (at most {:.1e}), same top token {:.2} %, perplexity of the base {:.4}",
            d.mean_kl,
            d.standard_error,
            d.max_kl,
            100.0 * d.top1_agreement,
            d.base_perplexity
        ))?;
    }
    Ok(())
}
