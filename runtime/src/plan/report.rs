//! Plans as programs read them.

use anynpu_ir::Graph;
use serde::Serialize;

use super::{Phase, Plan, PlanSet};

/// A [`PlanSet`] in the form of the command line's JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PlanReport {
    /// One entry a phase: prefill, then decode.
    pub phases: Vec<PhaseReport>,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PhaseReport {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// The whole phase, one segment after the other: all of the prompt, or one token.
    pub predicted_us: f64,
    /// The whole phase with segments of successive steps at once, if they will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlapped_us: Option<f64>,
    /// Share of the time that is a guess, from 0 to 1.
    pub guess_share: f64,
    /// Values that cross between devices in one step.
    pub copies: usize,
    /// Most tokens of one step.
    pub buckets: Vec<u32>,
    /// Runs of nodes, in order.
    pub segments: Vec<SegmentReport>,
}

/// One run of nodes on one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SegmentReport {
    /// The device.
    pub device: String,
    /// Name of its first node.
    pub first_node: String,
    /// Name of its last node.
    pub last_node: String,
    /// First and last layer it has nodes of.
    pub layers: Option<[u32; 2]>,
    /// Its time in the phase.
    pub predicted_us: f64,
}

impl PlanSet {
    /// The plans in the form of the command line's JSON. `graph` is the one that was planned.
    pub fn report(&self, graph: &Graph) -> PlanReport {
        PlanReport {
            phases: Phase::ALL
                .map(|p| self.phase_report(self.phase(p), graph))
                .into(),
        }
    }

    fn phase_report(&self, plan: &Plan, graph: &Graph) -> PhaseReport {
        PhaseReport {
            phase: plan.phase.name(),
            predicted_us: plan.total.us,
            overlapped_us: plan.overlapped_us,
            guess_share: plan.total.guess_share(),
            copies: plan.transfers.len(),
            buckets: match plan.phase {
                Phase::Prefill if self.sizes.buckets.is_empty() => vec![self.chunk],
                Phase::Prefill => self.sizes.buckets.iter().map(|b| b.0).collect(),
                Phase::Decode => vec![1],
            },
            segments: plan
                .partitions
                .iter()
                .map(|p| {
                    let nodes = &graph.nodes()[p.nodes.start as usize..p.nodes.end as usize];
                    let name = |node: Option<&anynpu_ir::Node>| {
                        node.map_or_else(String::new, |n| n.name.clone())
                    };
                    let layers = || nodes.iter().filter_map(|n| n.layer());
                    SegmentReport {
                        device: self.devices[p.device.0].clone(),
                        first_node: name(nodes.first()),
                        last_node: name(nodes.last()),
                        layers: layers().min().zip(layers().max()).map(|(a, b)| [a, b]),
                        predicted_us: p.predicted.us,
                    }
                })
                .collect(),
        }
    }
}
