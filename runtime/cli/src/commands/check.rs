//! `anynpu plan --check`: what was predicted beside what was measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use anynpu::plan::{Phase, PlanSet};
use anynpu::probe::Pace;
use anynpu::profile::Sample;
use anynpu::{LoadOptions, OpenModel, Runtime, SegmentRun, Session, SessionOptions};
use anynpu_hal::DeviceKind;
use anynpu_ir::{DType, Graph, SymbolValues};
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
    /// By the profile. Where that was measured for this check, by how blocks went between the runs.
    predicted_us: f64,
    /// By the profile as it was before the runs.
    planned_us: f64,
    /// What blocks of the devices took between the runs, over what they took for the profile. `null` where the profile
    /// has none, or time is virtual.
    pace: Option<f64>,
    /// The median of `runs`.
    measured_us: f64,
    p10_us: f64,
    p90_us: f64,
    runs: u32,
    /// Predicted less measured, over measured.
    relative_error: f64,
    /// The same for what was planned, times the pace.
    relative_error_at_pace: Option<f64>,
}

impl Check {
    pub fn phases(&self) -> impl Iterator<Item = &PhaseCheck> {
        self.prefill.iter().chain(&self.decode)
    }
}

impl PhaseCheck {
    pub fn text(&self) -> String {
        let beside = match (self.pace, self.relative_error_at_pace) {
            (Some(pace), _) if self.planned_us != self.predicted_us => {
                format!("; blocks beside it took {pace:.2} of what they did before")
            }
            (Some(pace), Some(error)) => format!(
                "; blocks beside it took {pace:.2} of what the profile says, {:+.1} % by that",
                100.0 * error
            ),
            _ => String::new(),
        };
        format!(
            "check of {}: {:.3} ms predicted, {:.3} ms measured ({:.3} to {:.3}, {} runs): {:+.1} %{beside}",
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
/// Tokens after which blocks of the devices are run, and how long.
const STEPS_BETWEEN: u32 = 8;
const BETWEEN_STEPS: Duration = Duration::from_millis(60);
/// How long blocks are run between prompts.
const BETWEEN_READS: Duration = Duration::from_millis(250);

/// How fast the devices are at the moment.
struct Paces {
    by_name: BTreeMap<String, Pace>,
}

impl Paces {
    /// Of the devices that `runtime` has profiles of, with blocks whose weights are of the type that most of `graph`'s
    /// are.
    fn of(runtime: &Runtime, graph: &Graph) -> anyhow::Result<Paces> {
        let mut by_name = BTreeMap::new();
        let Some(dtype) = heaviest_type(graph) else {
            return Ok(Paces { by_name });
        };
        for device in runtime.devices() {
            let name = &device.info().name;
            let mut profiles = runtime.cost().profiles().iter();
            let Some(profile) = profiles.find_map(|p| p.device(name)) else {
                continue;
            };
            if let Some(pace) = Pace::new(&device, profile, dtype)? {
                by_name.insert(name.clone(), pace);
            }
        }
        Ok(Paces { by_name })
    }

    fn turn(&mut self, phase: Phase, long: Duration) -> anyhow::Result<()> {
        for pace in self.by_name.values_mut() {
            pace.turn(phase, long)?;
        }
        Ok(())
    }

    /// The pace of a plan: of its devices, each as much as it takes part.
    fn ratio(&self, plans: &PlanSet, phase: Phase) -> Option<f64> {
        let segments = &plans.phase(phase).partitions;
        let (mut paced, mut all) = (0.0, 0.0);
        for segment in segments {
            let pace = self.by_name.get(plans.devices.get(segment.device.0)?)?;
            paced += segment.predicted.us * pace.ratio(phase)?;
            all += segment.predicted.us;
        }
        (all > 0.0).then(|| paced / all)
    }
}

/// The type that most bytes of the matrices are of.
fn heaviest_type(graph: &Graph) -> Option<DType> {
    let none = SymbolValues::step(1, 0, 1, 1);
    let mut bytes: BTreeMap<&'static str, (usize, DType)> = BTreeMap::new();
    for ty in graph.weights().iter().map(|w| graph.ty(w.value)) {
        if ty.shape.rank() >= 2 {
            let of_type = bytes.entry(ty.dtype.name()).or_insert((0, ty.dtype));
            of_type.0 += ty.bytes(&none).unwrap_or(0);
        }
    }
    bytes.into_values().max_by_key(|t| t.0).map(|t| t.1)
}

/// Loads the model as planned and runs it.
pub fn check(
    args: &PlanArgs,
    runtime: &Runtime,
    open: OpenModel,
    options: LoadOptions,
) -> anyhow::Result<Check> {
    let what = || args.model.what();
    let graph = open.model().graph().clone();
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
    let mut paces = match simulated {
        true => Paces {
            by_name: BTreeMap::new(),
        },
        false => Paces::of(runtime, &graph)?,
    };
    let (mut reads, mut steps) = (Vec::new(), Vec::new());
    while reads.len() < READS && reads.iter().chain(&steps).sum::<f64>() < LONG_US {
        session.truncate(0);
        paces.turn(Phase::Prefill, BETWEEN_READS)?;
        reads.push(timed(&mut session, simulated, |s| s.prefill(&ids, None))?);
        if steps.len() >= STEPS {
            continue;
        }
        for i in 0..args.tokens {
            if i % STEPS_BETWEEN == 0 {
                paces.turn(Phase::Decode, BETWEEN_STEPS)?;
            }
            let token = i.wrapping_mul(104_729).wrapping_add(5) % vocabulary;
            steps.push(timed(&mut session, simulated, |s| s.decode(token))?);
        }
    }
    let plans = model.plans();
    let compared = |phase: Phase, figures: &[f64]| {
        let sample = Sample::of(figures, f64::MIN_POSITIVE)?;
        let planned = plans.phase(phase).expected_us();
        let pace = paces.ratio(plans, phase);
        let at_pace = pace.map(|p| planned * p);
        // a profile of the moment is of the time of the runs as well
        let predicted = match args.placement.profile.is_empty() {
            true => at_pace.unwrap_or(planned),
            false => planned,
        };
        let error = |us: f64| (us - sample.median) / sample.median;
        Some(PhaseCheck {
            phase,
            predicted_us: predicted,
            planned_us: planned,
            pace,
            relative_error_at_pace: at_pace.map(error),
            measured_us: sample.median,
            p10_us: sample.p10,
            p90_us: sample.p90,
            runs: sample.runs,
            relative_error: error(predicted),
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
