//! `anynpu doctor --record`: what devices answered, for a bug report or a test.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use anynpu::OpenModel;
use anynpu_backends::coreml::exec::system_engine;
use anynpu_backends::coreml::plan::{self, ComputePlan};
use anynpu_backends::coreml::{ComputeUnits, PackageOptions, compile};
use serde::Serialize;
use serde_json::Value;

use crate::output;

/// The system that the package is for whose plan is asked for, unless this one has another: the oldest with everything.
const TARGET: &str = "macOS15";
/// Its context.
const CONTEXT: u32 = 512;

#[derive(Serialize)]
struct Recording<'a, T> {
    doctor: &'a T,
    coreml: Vec<CoreMlAnswer>,
}

/// What Core ML would run where of the built-in model, or why that can't be told.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum CoreMlAnswer {
    Plan(Box<ComputePlan>),
    Error { units: &'static str, text: String },
}

/// Writes `doctor`, what was found, and what more devices can tell to `file`, without the name of the user's folder.
pub fn record(file: &Path, doctor: &impl Serialize) -> anyhow::Result<()> {
    let units = [ComputeUnits::All, ComputeUnits::NeuralEngine];
    let recording = Recording {
        doctor,
        coreml: units.map(coreml).into(),
    };
    let mut value = serde_json::to_value(Versioned {
        schema_version: output::SCHEMA_VERSION,
        recording,
    })?;
    if let Some(home) = std::env::home_dir() {
        redact(&mut value, &home.to_string_lossy());
    }
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let what = || file.display().to_string();
    let mut beside = tempfile::NamedTempFile::new_in(folder).with_context(what)?;
    beside
        .write_all((serde_json::to_string_pretty(&value)? + "\n").as_bytes())
        .with_context(what)?;
    beside.persist(file).with_context(what)?;
    Ok(())
}

#[derive(Serialize)]
struct Versioned<T> {
    schema_version: u32,
    #[serde(flatten)]
    recording: T,
}

fn coreml(units: ComputeUnits) -> CoreMlAnswer {
    match compute_plan(units) {
        Ok(plan) => CoreMlAnswer::Plan(Box::new(plan)),
        Err(e) => CoreMlAnswer::Error {
            units: units.name(),
            text: format!("{e:#}"),
        },
    }
}

/// What Core ML would run where of the built-in model in the form for `units`.
fn compute_plan(units: ComputeUnits) -> anyhow::Result<ComputePlan> {
    let open = OpenModel::open(anynpu::story_model())?;
    let folder = tempfile::tempdir()?;
    let package = folder.path().join("story.mlpackage");
    // what this system loads; elsewhere nothing is asked
    let system = system_engine().and_then(|engine| engine.system());
    let target = match system.ok().and_then(|system| system.target()) {
        Some(target) => target,
        None => TARGET.parse()?,
    };
    let mut options = PackageOptions::new(target, CONTEXT);
    options.units = units;
    let (graph, weights) = (open.model().graph(), open.weights());
    let report = compile(graph, &*weights, &options, &package, &mut |_, _| true)?;
    Ok(plan::record(&package, &report, units)?)
}

/// Writes `~` for `home` in every text.
fn redact(value: &mut Value, home: &str) {
    match value {
        Value::String(text) if home.len() > 1 => *text = text.replace(home, "~"),
        Value::Array(all) => all.iter_mut().for_each(|v| redact(v, home)),
        Value::Object(all) => all.values_mut().for_each(|v| redact(v, home)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_folder_is_named_nowhere() {
        let mut value = serde_json::json!({
            "a": ["/home/me/lib.so is not there", 3],
            "b": { "c": "/home/me" },
            "d": "/home/you",
        });
        redact(&mut value, "/home/me");
        let expected = serde_json::json!({
            "a": ["~/lib.so is not there", 3],
            "b": { "c": "~" },
            "d": "/home/you",
        });
        assert_eq!(value, expected);
        redact(&mut value, "/");
        assert_eq!(value, expected);
    }
}
