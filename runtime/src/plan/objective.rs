//! What a plan is to be the best in.

use std::str::FromStr;

use anynpu_hal::DeviceKind;

use super::search::{self, Assignment, Found, Problem};
use crate::RuntimeError;

/// What a plan is to be the best in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Objective {
    /// Reading the prompt and generating the tokens together take the least time.
    #[default]
    Latency,
    /// The first token comes soonest: the prompt takes the least time.
    Ttft,
    /// Tokens come fastest: generating takes the least time.
    Throughput,
    /// The whole takes the least energy: time by the power that drivers state of their devices, or a round figure
    /// for devices of the kind.
    Energy,
    /// Weights and states take the least memory over all devices; of equals the fastest.
    Memory,
}

/// What a phase counts that is no aim, so that of equals the one that does it well is taken.
const NEXT_TO_NOTHING: f64 = 1e-6;

impl Objective {
    /// All of them.
    pub const ALL: [Objective; 5] = [
        Objective::Latency,
        Objective::Ttft,
        Objective::Throughput,
        Objective::Energy,
        Objective::Memory,
    ];

    /// Its name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Objective::Latency => "latency",
            Objective::Ttft => "ttft",
            Objective::Throughput => "throughput",
            Objective::Energy => "energy",
            Objective::Memory => "memory",
        }
    }

    /// What a microsecond of prefill and one of decoding a token count, when `tokens` are generated.
    pub(super) fn weights(self, tokens: u32) -> [f64; 2] {
        let tokens = f64::from(tokens).max(NEXT_TO_NOTHING);
        match self {
            Objective::Ttft => [1.0, NEXT_TO_NOTHING],
            Objective::Throughput => [NEXT_TO_NOTHING, tokens],
            _ => [1.0, tokens],
        }
    }

    /// The best assignment of `problem`, whose prices are times. `watts` are those of each device while busy.
    pub(super) fn search(self, problem: &Problem, watts: &[f64]) -> Option<Found> {
        match self {
            Objective::Energy => {
                let found = search::search(&energies(problem, watts))?;
                repriced(problem, found)
            }
            Objective::Memory => least_memory(problem),
            _ => search::search(problem),
        }
    }
}

/// Watts of a busy device whose driver states none: orders of magnitude of phones and laptops.
pub(super) const fn assumed_watts(kind: DeviceKind) -> f64 {
    match kind {
        DeviceKind::Cpu => 8.0,
        DeviceKind::Gpu => 6.0,
        DeviceKind::Npu => 3.0,
        _ => 5.0,
    }
}

impl FromStr for Objective {
    type Err = RuntimeError;

    fn from_str(s: &str) -> Result<Self, RuntimeError> {
        let found = Objective::ALL.into_iter().find(|o| o.name() == s);
        found.ok_or_else(|| RuntimeError::Option {
            option: "objective",
            found: format!("'{s}'"),
            expected: Objective::ALL.map(Objective::name).join(", "),
        })
    }
}

/// The same problem with microjoules for microseconds. A copy keeps the device that gets it busy. What runs at
/// once takes no less energy.
pub(super) fn energies(problem: &Problem, watts: &[f64]) -> Problem {
    let mut problem = problem.in_turn();
    let scale = |row: &mut Vec<f64>| row.iter_mut().zip(watts).for_each(|(us, w)| *us *= w);
    for phase in &mut problem.phases {
        phase.node_us.iter_mut().for_each(scale);
        scale(&mut phase.dispatch_us);
    }
    let links = &mut problem.links;
    links.latency_us.iter_mut().for_each(scale);
    links.us_per_byte.iter_mut().for_each(scale);
    for ((latency, us_per_byte), w) in links.to_host.iter_mut().zip(watts) {
        *latency *= w;
        *us_per_byte *= w;
    }
    problem
}

/// The same assignment with what it costs in `problem`; the bound, in the prices it was found with, as a share.
fn repriced(problem: &Problem, found: Found) -> Option<Found> {
    let priced = problem.price(&found.assignment)?;
    let share = match found.priced.objective > 0.0 {
        true => found.bound / found.priced.objective,
        false => 1.0,
    };
    Some(Found {
        bound: priced.objective * share.min(1.0),
        assignment: found.assignment,
        priced,
    })
}

/// The assignment that holds the fewest bytes, and of those that are tried the fastest.
///
/// A weight is held once if both phases run each node on the same device and all nodes that read it are on one
/// device. The first is had by placing both phases as one, the second is tried with each device as that one. The
/// fastest assignment is tried as well, as no device may run a node in both phases.
fn least_memory(problem: &Problem) -> Option<Found> {
    let shared = |n: usize| {
        let own = problem.nodes[n].weights.iter();
        own.map(|&w| problem.weights[w].users)
            .any(|(first, last)| first != last)
    };
    let shared: Vec<bool> = (0..problem.nodes.len()).map(shared).collect();
    let cost = |f: &Found| {
        let bytes = f
            .priced
            .bytes
            .iter()
            .fold(0u64, |a, &b| a.saturating_add(b));
        (bytes, f.priced.objective)
    };
    let together = (0..problem.devices).map(Some).chain([None]);
    let as_one = together.filter_map(|together| {
        let found = search::search(&as_one(problem, &shared, together))?;
        let devices = found.assignment.devices.first().cloned()?;
        let assignment = Assignment {
            devices: vec![devices; problem.phases.len()],
            homes: found.assignment.homes,
        };
        let priced = problem.price(&assignment).filter(|p| p.fits)?;
        Some(Found {
            assignment,
            bound: priced.objective,
            priced,
        })
    });
    // of equal ones the first
    as_one
        .chain(search::search(problem))
        .reduce(|a, b| if cost(&b) < cost(&a) { b } else { a })
}

/// The problem with one phase that stands for all, and nodes marked `shared` on the device `together`, if any.
fn as_one(problem: &Problem, shared: &[bool], together: Option<usize>) -> Problem {
    let mut one = problem.in_turn();
    let Some(first) = one.phases.first_mut() else {
        return one;
    };
    let weighted = |f: &dyn Fn(&super::search::PhasePrices) -> f64| -> f64 {
        problem.phases.iter().map(|p| p.weight * f(p)).sum()
    };
    first.weight = 1.0;
    first.steps = weighted(&|p| p.steps);
    for (n, devices) in first.node_us.iter_mut().enumerate() {
        for (d, us) in devices.iter_mut().enumerate() {
            *us = match together {
                Some(only) if shared[n] && only != d => f64::INFINITY,
                _ => weighted(&|p| p.node_us[n][d]),
            };
        }
    }
    let steps = first.steps.max(f64::MIN_POSITIVE);
    for (v, bytes) in first.value_bytes.iter_mut().enumerate() {
        *bytes = weighted(&|p| p.steps * p.value_bytes[v]) / steps;
    }
    one.phases.truncate(1);
    one
}
