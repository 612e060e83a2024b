//! `anynpu plan --check`: what was predicted beside what was measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use anynpu::plan::Phase;
use anynpu::profile::Sample;
use anynpu::{LoadOptions, OpenModel, Runtime, SegmentRun, Session, SessionOptions};
use anynpu_hal::DeviceKind;
use serde::Serialize;

use crate::args::PlanArgs;
use crate::picture::Measured;

/// Both phases.
#[derive(Serialize)]
pub struct Check {
    /// `wall`, or `virtual` where a simulated device takes part: what devices counted, of those that ran at once
    /// the longest.
    time: &'static str,
    prefill: Option<PhaseCheck>,
    decode: Option<PhaseCheck>,
    /// What each segment took, for a picture.
    #[serde(skip)]
    pub segments: Measured,
}

/// One phase: the whole prompt, or one token.
#[derive(Serialize)]
pub struct PhaseCheck {
    #[serde(skip)]
    phase: Phase,
    predicted_us: f64,
    /// The median of `runs`.
    measured_us: f64,
    p10_us: f64,
    p90_us: f64,
    runs: u32,
    /// Predicted less measured, over measured.
    relative_error: f64,
}

impl Check {
    pub fn phases(&self) -> impl Iterator<Item = &PhaseCheck> {
        self.prefill.iter().chain(&self.decode)
    }
}

impl PhaseCheck {
    pub fn text(&self) -> String {
        format!(
            "check of {}: {:.3} ms predicted, {:.3} ms measured ({:.3} to {:.3}, {} runs): {:+.1} %",
            self.phase.name(),
            self.predicted_us / 1e3,
            self.measured_us / 1e3,
            self.p10_us / 1e3,
            self.p90_us / 1e3,
            self.runs,
            100.0 * self.relative_error
        )
    }
}

/// The context that running the plan needs: the prompt and the tokens.
pub fn context(args: &PlanArgs, open: &OpenModel) -> anyhow::Result<u32> {
    let needed = args.prompt.checked_add(args.tokens);
    let trained = open.model().info().context_length;
    match needed.filter(|&n| n <= trained) {
        Some(needed) => Ok(needed),
        None => anyhow::bail!(
            "--check runs {} tokens of prompt and {} more, but the model was trained for {trained}; lower --prompt or -n",
            args.prompt,
            args.tokens
        ),
    }
}

/// Times that the prompt is read, each followed by the tokens, while that takes no longer than this altogether: what
/// else goes on on the machine often lasts a second.
const READS: usize = 5;
const LONG_US: f64 = 20e6;
/// Tokens altogether after which none follow a prompt any more.
const STEPS: usize = 128;

/// Loads the model as planned and runs it.
pub fn check(
    args: &PlanArgs,
    runtime: &Runtime,
    open: OpenModel,
    options: LoadOptions,
) -> anyhow::Result<Check> {
    let what = || args.model.what();
    let model = runtime.load_open(open, options).with_context(what)?;
    let mut session = model.session(SessionOptions::new()).with_context(what)?;
    let simulated = runtime
        .devices()
        .iter()
        .any(|d| d.info().kind == DeviceKind::Simulated);
    let vocabulary = model.info().vocabulary.max(1);
    let ids: Vec<u32> = (0..args.prompt)
        .map(|i| i.wrapping_mul(7919).wrapping_add(3) % vocabulary)
        .collect();
    // the first time finds cold code and memory
    session.prefill(&ids, None)?;
    session.record();
    let (mut reads, mut steps) = (Vec::new(), Vec::new());
    while reads.len() < READS && reads.iter().chain(&steps).sum::<f64>() < LONG_US {
        session.truncate(0);
        reads.push(timed(&mut session, simulated, |s| s.prefill(&ids, None))?);
        if steps.len() >= STEPS {
            continue;
        }
        for i in 0..args.tokens {
            let token = i.wrapping_mul(104_729).wrapping_add(5) % vocabulary;
            steps.push(timed(&mut session, simulated, |s| s.decode(token))?);
        }
    }
    let plans = model.plans();
    let compared = |phase: Phase, figures: &[f64]| {
        let sample = Sample::of(figures, f64::MIN_POSITIVE)?;
        let predicted = plans.phase(phase).expected_us();
        Some(PhaseCheck {
            phase,
            predicted_us: predicted,
            measured_us: sample.median,
            p10_us: sample.p10,
            p90_us: sample.p90,
            runs: sample.runs,
            relative_error: (predicted - sample.median) / sample.median,
        })
    };
    Ok(Check {
        segments: segments(session.recorded(), simulated, reads.len(), steps.len()),
        time: if simulated { "virtual" } else { "wall" },
        prefill: compared(Phase::Prefill, &reads),
        decode: compared(Phase::Decode, &steps),
    })
}

/// What each segment took in a phase, its copies among it: on average, in the order of the nodes.
fn segments(runs: &[SegmentRun], simulated: bool, reads: usize, steps: usize) -> Measured {
    let mut measured = Measured::new();
    for (phase, times) in [(Phase::Prefill, reads), (Phase::Decode, steps)] {
        let mut of_phase: Vec<(String, std::ops::Range<u32>, f64)> = Vec::new();
        for run in runs.iter().filter(|run| run.phase == phase) {
            let took = match simulated {
                true => run.busy,
                false => run.copying + run.ran,
            };
            let us = took.as_secs_f64() * 1e6 / times.max(1) as f64;
            match of_phase
                .iter_mut()
                .find(|(_, nodes, _)| *nodes == run.nodes)
            {
                Some((_, _, sum)) => *sum += us,
                None => of_phase.push((run.device.clone(), run.nodes.clone(), us)),
            }
        }
        if !of_phase.is_empty() {
            measured.insert(phase.name(), of_phase);
        }
    }
    measured
}

/// Microseconds that `run` takes, by the devices' own counts where one is simulated.
fn timed(
    session: &mut Session,
    simulated: bool,
    run: impl FnOnce(&mut Session) -> Result<(), anynpu::RuntimeError>,
) -> anyhow::Result<f64> {
    let before = session.recorded().len();
    let started = Instant::now();
    run(session)?;
    let wall = started.elapsed().as_secs_f64() * 1e6;
    if !simulated {
        return Ok(wall);
    }
    let mut waves = BTreeMap::new();
    for run in &session.recorded()[before..] {
        let longest = waves.entry(run.wave).or_insert(Duration::ZERO);
        *longest = run.busy.max(*longest);
    }
    let counted: Duration = waves.values().sum();
    Ok(counted.as_secs_f64() * 1e6)
}
