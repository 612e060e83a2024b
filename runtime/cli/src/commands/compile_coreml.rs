//! `anynpu compile --target coreml:SYSTEM`: a package that Apple's frameworks load.

use anyhow::Context;
use anynpu::OpenModel;
use anynpu_backends::coreml::compile;
use anynpu_backends::coreml::{ComputeUnits, DeploymentTarget, PackageOptions, PackageReport};
use serde::Serialize;

use crate::args::{CompileArgs, KvType};
use crate::commands::load;
use crate::output;

/// Tokens of the step that prompts are read by.
const STEP: u32 = 64;

/// How the names of packages end.
const SUFFIX: &str = "mlpackage";

/// What is told of a package.
#[derive(Serialize)]
struct Told<'a> {
    output: &'a str,
    model: &'a str,
    #[serde(flatten)]
    package: &'a PackageReport,
}

/// Writes the package, which is in its place whole or not at all.
pub fn execute(args: &CompileArgs, target: DeploymentTarget) -> anyhow::Result<()> {
    for (there, option) in [
        (args.kv_type != KvType::Auto, "--kv-type"),
        (args.for_emulator, "--for-emulator"),
        (args.qnn_library.is_some(), "--qnn-library"),
        (args.qnn_weights.is_some(), "--qnn-weights"),
        (args.qnn_ranges.is_some(), "--qnn-ranges"),
        (args.qnn_context_mib.is_some(), "--qnn-context-mib"),
    ] {
        if there {
            anyhow::bail!("{option} is for targets qnn:CHIP, not for coreml:{target}");
        }
    }
    let name = args.output.file_name().map(std::path::Path::new);
    let suffix = name.and_then(std::path::Path::extension);
    if suffix.is_none_or(|s| s != SUFFIX) {
        anyhow::bail!(
            "the output is '{}', expected a name that ends in .{SUFFIX}, by which Core ML knows packages",
            args.output.display()
        );
    }
    let open = args.model.open()?;
    let context = args.ctx.unwrap_or_else(|| open.default_context());
    let open = open
        .for_context(context)
        .with_context(|| args.model.what())?;
    let options = options(args, target, &open, context);
    let bar = output::progress_bar("compiling");
    let cancel = load::interrupt();
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        !cancel.is_cancelled()
    };
    let graph = open.model().graph();
    let weights = open.weights();
    let written = compile(graph, &*weights, &options, &args.output, &mut progress);
    bar.finish_and_clear();
    let package = written.with_context(|| args.model.what())?;
    let path = args.output.display().to_string();
    let told = Told {
        output: &path,
        model: &open.model().info().name,
        package: &package,
    };
    if args.json.json {
        return output::print_json(&told);
    }
    let functions: Vec<&str> = package.functions.iter().map(|f| f.name.as_str()).collect();
    Ok(output::print_line(&format!(
        "{path}: {} for {} and later, units {}; {} of weights, whose form adds an error of {:.2}%",
        functions.join(", "),
        package.target,
        package.units,
        output::bytes(package.weight_bytes),
        100.0 * package.added_error
    ))?)
}

fn options(
    args: &CompileArgs,
    target: DeploymentTarget,
    open: &OpenModel,
    context: u32,
) -> PackageOptions {
    let given = &args.coreml;
    let mut options = PackageOptions::new(target, context);
    options.units = given.units.unwrap_or(ComputeUnits::All);
    options.precision = given.coreml_precision.unwrap_or_default();
    options.weights = given.coreml_weights.unwrap_or_default();
    options.states = given.coreml_states;
    options.description = open.model().info().name.clone();
    let generates = !open.model().graph().states().is_empty();
    options.steps = match &given.coreml_steps {
        Some(steps) => steps.clone(),
        None if generates && target.has_ios18() && context > STEP => vec![STEP],
        None => Vec::new(),
    };
    options
}
