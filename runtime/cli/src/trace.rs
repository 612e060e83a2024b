//! A timeline in the JSON form that Perfetto and Chrome's tracing page read.
//!
//! The form is the Trace Event Format's: complete events (`"ph": "X"`) with times in microseconds, and
//! metadata events that name the rows.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use anynpu::SegmentRun;
use anynpu::plan::PlanSet;
use serde_json::{Value, json};

/// Rows of the timeline that belong to a device: what ran, what its own clock says, what was predicted.
const ROWS: [&str; 3] = ["measured", "by its own clock", "predicted"];

/// Writes `runs` to `path`, with what `plans` predicted beside them.
pub fn write(
    path: &Path,
    runs: &[SegmentRun],
    plans: &PlanSet,
    names: &dyn Fn(u32) -> String,
) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut file = BufWriter::new(file);
    serde_json::to_writer(&mut file, &document(runs, plans, names))?;
    file.flush().with_context(|| path.display().to_string())
}

fn document(runs: &[SegmentRun], plans: &PlanSet, names: &dyn Fn(u32) -> String) -> Value {
    let mut events = vec![json!({
        "ph": "M", "pid": 1, "name": "process_name", "args": { "name": "anynpu" }
    })];
    for (d, device) in plans.devices.iter().enumerate() {
        for (row, what) in ROWS.iter().enumerate() {
            events.push(json!({
                "ph": "M", "pid": 1, "tid": thread(d, row), "name": "thread_name",
                "args": { "name": format!("{device}: {what}") }
            }));
        }
    }
    for run in runs {
        let Some(device) = plans.devices.iter().position(|d| *d == run.device) else {
            continue;
        };
        let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6;
        let began = micros(run.began);
        if run.copied_bytes > 0 {
            events.push(json!({
                "ph": "X", "pid": 1, "tid": thread(device, 0), "cat": "copy",
                "name": "copy", "ts": began, "dur": micros(run.copying),
                "args": { "bytes": run.copied_bytes }
            }));
        }
        let first = names(run.nodes.start);
        let last = names(run.nodes.end.saturating_sub(1));
        let name = format!("{first} to {last}");
        let ran = began + micros(run.copying);
        let predicted = predicted_us(run, plans);
        let times = [Some(micros(run.ran)), Some(micros(run.busy)), predicted];
        for (row, took) in times.into_iter().enumerate() {
            let Some(took) = took else { continue };
            events.push(json!({
                "ph": "X", "pid": 1, "tid": thread(device, row), "cat": run.phase.name(),
                "name": name, "ts": ran, "dur": took,
                "args": {
                    "phase": run.phase.name(), "step": run.step, "wave": run.wave, "tokens": run.tokens,
                    "position": run.position, "nodes": run.counted, "predicted_us": predicted
                }
            }));
        }
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

/// What was predicted of the segment: the plan's prompt takes so long, and this is its share of the tokens.
fn predicted_us(run: &SegmentRun, plans: &PlanSet) -> Option<f64> {
    let plan = plans.phase(run.phase);
    let partition = plan.partitions.iter().find(|p| p.nodes == run.nodes)?;
    let share = match run.phase {
        anynpu::plan::Phase::Prefill => f64::from(run.tokens) / f64::from(plans.prompt.max(1)),
        anynpu::plan::Phase::Decode => 1.0,
    };
    Some(partition.predicted.us * share)
}

fn thread(device: usize, row: usize) -> usize {
    1 + device * ROWS.len() + row
}
