//! Why each node is where it is, and where it really ran.

use std::collections::BTreeMap;

use anynpu_hal::Support;
use anynpu_ir::NodeId;
use serde::Serialize;

use crate::exec::SegmentRun;
use crate::plan::{Because, NodeWhy, Phase, PlanSet};
use crate::{Kind, LoadedModel, RuntimeError, SessionOptions};

/// Every node with what each device says of it, where it was planned to run and where it ran, with the
/// keys of the command line's JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The nodes in execution order.
    pub nodes: Vec<ExplainedNode>,
    /// Where devices counted other than what they were given, and what else the user should know.
    pub warnings: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExplainedNode {
    /// Its place in the execution order.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its op.
    pub op: &'static str,
    /// The layer it belongs to, if any.
    pub layer: Option<u32>,
    /// By device name, what the device says.
    pub verdicts: BTreeMap<String, ExplainedVerdict>,
    /// What decided where it was planned to run.
    pub why: OfPhases,
    /// The device it was planned for.
    pub planned: OfPhases,
    /// The device that ran it, counted by the executor and the device.
    pub ran: OfPhases,
    /// The processor within that device, by the word of the vendor's own runtime, where it tells.
    #[serde(skip_serializing_if = "OfPhases::is_empty")]
    pub within: OfPhases,
}

/// What a device says of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExplainedVerdict {
    /// `yes`, `emulated` or `no`.
    pub support: &'static str,
    /// What kind of obstacle there is, unless it is `yes`.
    pub code: Option<&'static str>,
    /// What was found and what would fit, unless it is `yes`.
    pub detail: Option<String>,
}

/// Something of each phase; none where the model has no such phase, or nothing ran in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OfPhases {
    /// Reading the prompt.
    pub prefill: Option<String>,
    /// One token at a time.
    pub decode: Option<String>,
}

impl OfPhases {
    /// Whether there is nothing of either.
    pub fn is_empty(&self) -> bool {
        self.prefill.is_none() && self.decode.is_none()
    }

    fn of(decoder: bool, mut value: impl FnMut(Phase) -> Option<String>) -> Self {
        OfPhases {
            prefill: value(Phase::Prefill),
            decode: if decoder { value(Phase::Decode) } else { None },
        }
    }
}

impl From<&Support> for ExplainedVerdict {
    fn from(support: &Support) -> Self {
        let reason = support.reason();
        ExplainedVerdict {
            support: support.name(),
            code: reason.map(|r| r.code.name()),
            detail: reason.map(|r| r.detail.clone()),
        }
    }
}

impl LoadedModel {
    /// Runs a step of each phase and tells of every node what each device says of it, where it was planned
    /// to run, and where it ran.
    ///
    /// # Errors
    /// Too little memory, a device that fails.
    pub fn explain(&self) -> Result<Explanation, RuntimeError> {
        let Ran {
            runs,
            placed,
            warnings,
        } = self.run_each_phase()?;
        let decoder = self.info().kind == Kind::Decoder;
        let graph = self.open().model().graph();
        let plans = self.plans();
        let nodes = graph.nodes().iter().zip(0u32..);
        let nodes = nodes.map(|(node, id)| {
            let why = |phase| plans.phase(phase).why.get(id as usize);
            ExplainedNode {
                id,
                name: node.name.clone(),
                op: node.op.name(),
                layer: node.layer(),
                verdicts: why(Phase::Prefill).map_or_else(BTreeMap::new, |w| verdicts(plans, w)),
                why: OfPhases::of(decoder, |phase| why(phase).map(|w| because(&w.because))),
                planned: OfPhases::of(decoder, |phase| {
                    why(phase).map(|w| plans.devices[w.device.0].clone())
                }),
                ran: OfPhases::of(decoder, |phase| ran_on(&runs, phase, id)),
                within: OfPhases::of(decoder, |phase| {
                    let own = |(of, node, _): &&Placed| (*of, node.0) == (phase, id);
                    placed.iter().find(own).map(|(.., on)| on.clone())
                }),
            }
        });
        Ok(Explanation {
            nodes: nodes.collect(),
            warnings,
        })
    }

    /// Two tokens read at once and, with a decoder, one by itself.
    fn run_each_phase(&self) -> Result<Ran, RuntimeError> {
        let mut warnings = self.warnings().to_vec();
        if self.info().kind != Kind::Decoder {
            let mut embedder = self.embedder()?;
            embedder.record();
            match self.info().kind {
                Kind::Classifier => drop(embedder.classify_tokens(&[0, 0], &[])?),
                _ => drop(embedder.hidden(&[0, 0], &[])?),
            }
            return Ok(Ran {
                runs: embedder.recorded().to_vec(),
                placed: Vec::new(),
                warnings,
            });
        }
        let context = self.context().min(EXPLAINED_CONTEXT);
        let mut session = self.session(SessionOptions::new().context(context))?;
        session.record();
        let prompt = &[0, 0][..(context as usize - 1).min(2)];
        if !prompt.is_empty() {
            session.prefill(prompt, None)?;
        }
        session.decode(0)?;
        warnings.extend(session.miscounts());
        let placed = session.runner.program().placement()?;
        Ok(Ran {
            runs: session.recorded().to_vec(),
            placed,
            warnings,
        })
    }
}

/// What became of a step of each phase.
struct Ran {
    runs: Vec<SegmentRun>,
    placed: Vec<Placed>,
    /// What the user should know.
    warnings: Vec<String>,
}

/// In which phase a node is on which processor within its device.
type Placed = (Phase, NodeId, String);

/// Tokens of context that two steps need, and some.
const EXPLAINED_CONTEXT: u32 = 8;

fn verdicts(plans: &PlanSet, why: &NodeWhy) -> BTreeMap<String, ExplainedVerdict> {
    let named = plans.devices.iter().cloned().zip(&why.verdicts);
    named
        .map(|(name, verdict)| (name, verdict.into()))
        .collect()
}

fn because(because: &Because) -> String {
    match because {
        Because::Pinned(pin) => format!("pinned by '{pin}'"),
        Because::Only => "no other device runs it".into(),
        Because::Cheapest => "the whole plan is cheapest so".into(),
    }
}

/// The device that last ran node `id` in `phase`, if that device counted every node it was given.
fn ran_on(runs: &[SegmentRun], phase: Phase, id: u32) -> Option<String> {
    let mut of_phase = runs.iter().rev().filter(|run| run.phase == phase);
    let run = of_phase.find(|run| run.nodes.contains(&id))?;
    (run.counted == run.nodes.len() as u64).then(|| run.device.clone())
}

#[cfg(test)]
mod tests {
    use anynpu_hal::driver::chaos::ChaosDriver;

    use super::*;
    use crate::plan::Placement;
    use crate::testing::tiny_llama;
    use crate::{LoadOptions, OpenModel, Runtime};

    fn explain(pins: &[&str]) -> Explanation {
        let cpu = || Box::new(anynpu_cpu::CpuDriver);
        let chaos = ChaosDriver::new(cpu(), Vec::new());
        let runtime = Runtime::builder()
            .drivers(vec![cpu(), Box::new(chaos)])
            .device("cpu")
            .device("chaos")
            .knobs(crate::knobs::Knobs::default())
            .build()
            .unwrap();
        let placement = Placement {
            pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
            require: None,
        };
        let open = OpenModel::new(tiny_llama(2), None);
        let loaded = runtime.load_open(open, LoadOptions::new().placement(placement));
        loaded.unwrap().explain().unwrap()
    }

    #[test]
    fn every_node_ran_where_it_was_planned_in_both_phases() {
        let explained = explain(&["layers.1=chaos"]);
        assert_eq!(explained.warnings, Vec::<String>::new());
        for node in &explained.nodes {
            assert_eq!(node.planned, node.ran, "{}", node.name);
            assert!(node.ran.prefill.is_some() && node.ran.decode.is_some());
            assert_eq!(node.verdicts.len(), 2);
            assert!(node.verdicts.values().all(|v| v.support == "yes"));
            let pinned = node.layer == Some(1);
            let device = node.ran.decode.as_deref();
            assert!(!pinned || device == Some("chaos"), "{}", node.name);
            let why = node.why.decode.as_deref().unwrap();
            assert_eq!(
                why.contains("layers.1=chaos"),
                pinned,
                "{}: {why}",
                node.name
            );
        }
    }

    #[test]
    fn a_run_that_the_device_counted_otherwise_is_not_told_as_run() {
        let run = |nodes: std::ops::Range<u32>, counted| SegmentRun {
            step: 0,
            wave: 0,
            phase: Phase::Decode,
            tokens: 1,
            position: 0,
            device: "d".into(),
            nodes,
            counted,
            began: Default::default(),
            copying: Default::default(),
            copied_bytes: 0,
            ran: Default::default(),
            busy: Default::default(),
        };
        let runs = [run(0..3, 3), run(3..5, 1)];
        assert_eq!(ran_on(&runs, Phase::Decode, 2).as_deref(), Some("d"));
        assert_eq!(ran_on(&runs, Phase::Decode, 4), None);
        assert_eq!(ran_on(&runs, Phase::Decode, 9), None);
        assert_eq!(ran_on(&runs, Phase::Prefill, 2), None);
    }
}
