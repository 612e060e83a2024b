//! `anynpu compile`: what a device that isn't here will load, made ahead of time.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use anynpu::plan::Placement;
use anynpu::{LoadOptions, LoadedModel, Runtime};
use anynpu_backends::coreml::DeploymentTarget;
use anynpu_backends::{BackendOptions, Soc};
use serde::Serialize;

use crate::args::CompileArgs;
use crate::commands::{compile_coreml, load, operations};
use crate::output;

/// What is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Qualcomm chip.
    Qnn(Soc),
    /// A system of Apple's.
    CoreMl(DeploymentTarget),
}

impl Target {
    /// What targets there are.
    pub fn help() -> String {
        format!(
            "The device: qnn:CHIP, CHIP being one of {}; coreml:SYSTEM, the oldest one, being one of {}",
            chips(),
            DeploymentTarget::names()
        )
    }
}

fn chips() -> String {
    Soc::ALL.map(|s| s.name).join(", ")
}

impl FromStr for Target {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once(':') {
            Some(("qnn", chip)) => match Soc::find(chip) {
                Some(soc) => Ok(Target::Qnn(soc)),
                None => Err(format!(
                    "there is no chip '{chip}'; expected one of {}",
                    chips()
                )),
            },
            Some(("coreml", system)) => match system.parse() {
                Ok(target) => Ok(Target::CoreMl(target)),
                Err(e) => Err(format!("{e}")),
            },
            _ => Err(format!(
                "'{s}' is no target; expected qnn:CHIP, e.g. qnn:SM8650, or coreml:SYSTEM, e.g. coreml:iOS18"
            )),
        }
    }
}

/// What stands beside the compiled files, as `manifest.json`.
#[derive(Serialize)]
struct Manifest {
    schema_version: u32,
    target: String,
    /// The device as it was emulated.
    device: String,
    needs: Needs,
    model: String,
    /// Tokens of the context that it was compiled for.
    context: u32,
    kv_type: String,
    /// The form of weights.
    weights: String,
    /// Whether the steps of all sizes hold their weights once. Such files run on the device only.
    shared_weights: bool,
    /// Tokens of the steps that prompts are read in.
    steps: Vec<u32>,
    /// Nodes that run there.
    nodes: usize,
    files: Vec<File>,
    /// What to give `anynpu run` on the device, besides the model.
    run: Vec<String>,
}

/// What there must be on the device.
#[derive(Serialize)]
struct Needs {
    /// The generation of the chip's HTP, as `v75`. Files are for this very chip.
    arch: String,
    /// The oldest core API of a library that loads the files: that of the one that compiled them.
    core_api: String,
    /// The build of the library that compiled, which begins with its SDK's version; null if it does not tell.
    sdk: Option<String>,
}

#[derive(Serialize)]
struct File {
    name: String,
    bytes: u64,
    blake3: String,
}

/// Compiles, and puts the folder in place once all of it is written.
pub fn execute(args: &CompileArgs) -> anyhow::Result<()> {
    match args.target {
        Target::Qnn(soc) => qnn(args, soc),
        Target::CoreMl(target) => compile_coreml::execute(args, target),
    }
}

fn qnn(args: &CompileArgs, soc: Soc) -> anyhow::Result<()> {
    if let Some(option) = args.coreml.first() {
        anyhow::bail!(
            "{option} is for targets coreml:SYSTEM, not for qnn:{}",
            soc.name
        );
    }
    let output = args.output.as_path();
    if output.exists() {
        anyhow::bail!(
            "{} is there already; name a folder that is not",
            output.display()
        );
    }
    let parent = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = tempfile::Builder::new()
        .prefix(".anynpu-compiling-")
        .tempdir_in(parent)
        .with_context(|| format!("no folder can be made in {}", parent.display()))?;
    let mut backends = BackendOptions::default();
    backends.qnn.library.clone_from(&args.qnn_library);
    backends.qnn.soc = Some(soc.name.into());
    backends.qnn.weights = args.qnn_weights;
    backends.qnn.ranges.clone_from(&args.qnn_ranges);
    backends.qnn.context_bytes = args.qnn_context_mib.map(|mib| u64::from(mib) << 20);
    backends.qnn.share_weights = !args.for_emulator;
    backends.qnn.tables = load::tables(None, false);
    let runtime = Runtime::builder()
        .drivers(anynpu_backends::drivers_with(&backends))
        .device("cpu")
        .device("qnn")
        .cache_folder(folder.path())
        .build()?;
    let model = compile(args, &runtime)?;
    let manifest = manifest(args, soc, &backends, &runtime, &model, folder.path())?;
    let path = folder.path().join("manifest.json");
    fs::write(&path, serde_json::to_string_pretty(&manifest)? + "\n")
        .with_context(|| path.display().to_string())?;
    fs::rename(folder.path(), output)
        .with_context(|| format!("{} can't be put in place", output.display()))?;
    // it has another name now, so there is nothing to remove
    let _ = folder.keep();
    if args.json.json {
        return output::print_json(&manifest);
    }
    let bytes: u64 = manifest.files.iter().map(|f| f.bytes).sum();
    Ok(output::print_line(&format!(
        "{}: {} nodes for {}, {:.1} MB; on the device, with a library of core API {} or newer:\n  anynpu run MODEL {}",
        output.display(),
        manifest.nodes,
        manifest.target,
        bytes as f64 / 1e6,
        manifest.needs.core_api,
        quoted(&manifest.run)
    ))?)
}

/// Arguments as a shell takes them.
fn quoted(arguments: &[String]) -> String {
    let plain =
        |a: &String| match a.contains(|c: char| !c.is_alphanumeric() && !"-_./,:=".contains(c)) {
            true => format!("'{}'", a.replace('\'', "'\\''")),
            false => a.clone(),
        };
    arguments.iter().map(plain).collect::<Vec<_>>().join(" ")
}

/// The pins that put the layers and the output on the device, and nothing else.
pub(super) const PINS: [&str; 3] = ["*=cpu", "layers.*=qnn", "output*=qnn"];

fn compile(args: &CompileArgs, runtime: &Runtime) -> anyhow::Result<LoadedModel> {
    let what = || args.model.what();
    let pins = PINS.iter().map(|pin| pin.parse());
    let placement = Placement {
        pins: pins.collect::<Result<_, _>>()?,
        require: Some("qnn".into()),
    };
    let mut options = LoadOptions::new()
        .placement(placement)
        .kv_type(load::kv_type(args.kv_type))
        .cancel(load::interrupt());
    options.context = args.ctx;
    let bar = output::progress_bar("compiling");
    let options = options.progress(load::shown_on(&bar));
    let model = runtime
        .load_open(args.model.open()?, options)
        .with_context(what)?;
    bar.finish_and_clear();
    Ok(model)
}

fn manifest(
    args: &CompileArgs,
    soc: Soc,
    backends: &BackendOptions,
    runtime: &Runtime,
    model: &LoadedModel,
    folder: &Path,
) -> anyhow::Result<Manifest> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let name = path.file_name().unwrap_or_default();
        files.push(File {
            name: name.to_string_lossy().into_owned(),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
        });
    }
    if files.is_empty() {
        let told = model.warnings().join("; ");
        anyhow::bail!("nothing was kept of what was compiled: {told}");
    }
    let plans = model.plans();
    let there = |d: &anynpu::plan::DeviceIndex| plans.devices[d.0] == "qnn";
    let nodes = plans.decode.why.iter().filter(|why| there(&why.device));
    let device = runtime.devices();
    let device = device.iter().find(|d| d.info().name == "qnn");
    let library = backends.qnn.chip().map_err(operations::missing)?;
    let needs = Needs {
        arch: format!("v{}", soc.generation),
        core_api: library.core_api().to_string(),
        sdk: library.build(),
    };
    let weights = backends.qnn.weight_form()?.to_string();
    let kv_type = model.kv_dtype().name().to_owned();
    let mut run: Vec<String> = ["--device", "cpu,qnn"].map(String::from).into();
    let mut option = |name: &str, value: &str| run.extend([name.to_owned(), value.to_owned()]);
    option("--qnn-soc", soc.name);
    option("--qnn-weights", &weights);
    if let Some(ranges) = &args.qnn_ranges {
        option("--qnn-ranges", &ranges.display().to_string());
    }
    option("--ctx", &model.context().to_string());
    option("--kv-type", &kv_type);
    for pin in PINS {
        option("--place", pin);
    }
    option("--compiled", &args.output.display().to_string());
    Ok(Manifest {
        schema_version: 1,
        target: format!("qnn:{}", soc.name),
        device: device.map_or_else(String::new, |d| d.info().description.clone()),
        needs,
        model: model.info().name.clone(),
        context: model.context(),
        kv_type,
        weights,
        shared_weights: soc.shares_weights() && !args.for_emulator,
        steps: plans.sizes.buckets.iter().map(|b| b.0).collect(),
        nodes: nodes.count(),
        files,
        run,
    })
}
