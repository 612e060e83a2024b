//! Which device runs which nodes, and why.
//!
//! A [`Plan`] cuts the nodes of one [`Phase`] into [`Partition`]s, contiguous runs that each run on
//! one device. Nodes go where they are pinned. The others are placed so that reading the prompt and
//! generating the tokens together take the least time: what nodes cost, starting segments and
//! copying values between devices.

mod objective;
pub(crate) mod overlap;
mod pins;
mod planner;
mod price;
mod report;
mod search;
mod sizes;

use std::ops::Range;

use anynpu_hal::Support;
use anynpu_ir::{DType, NodeId, StateId, ValueId};

use serde::Serialize;

pub use crate::cost::{Estimate, EstimateSource};
pub use objective::Objective;
pub use pins::{Pin, Placement};
pub(crate) use planner::{PlanRequest, Refusal, plan};
pub use report::{PhaseReport, PlanReport, SegmentReport};
pub(crate) use sizes::NextStep;
pub use sizes::StepSizes;

/// The two shapes of work of a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Many tokens at once: reading the prompt.
    Prefill,
    /// One token at a time.
    Decode,
}

impl Phase {
    /// Both, in the order they happen.
    pub const ALL: [Phase; 2] = [Phase::Prefill, Phase::Decode];

    /// The phase's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }
}

/// Index of a device in [`PlanSet::devices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceIndex(pub usize);

/// A run of nodes on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// The nodes.
    pub nodes: Range<u32>,
    /// The device.
    pub device: DeviceIndex,
    /// How long it is thought to take in one step of the phase.
    pub predicted: Estimate,
}

/// A value that crosses from one device to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The value.
    pub value: ValueId,
    /// Where it is made.
    pub from: DeviceIndex,
    /// Where it is needed.
    pub to: DeviceIndex,
}

/// Where a state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatePlacement {
    /// The state.
    pub state: StateId,
    /// The device whose memory it is in, in both phases.
    pub home: DeviceIndex,
    /// The type it is kept in.
    pub dtype: DType,
}

/// Why a node is where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeWhy {
    /// The node.
    pub node: NodeId,
    /// Where it runs.
    pub device: DeviceIndex,
    /// What decided.
    pub because: Because,
    /// What each device says of it, in the order of [`PlanSet::devices`].
    pub verdicts: Vec<Support>,
}

/// What decided where a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Because {
    /// The user pinned it; the pin as given.
    Pinned(String),
    /// No other device runs it.
    Only,
    /// The whole plan is cheapest so.
    Cheapest,
}

/// How one phase runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The phase.
    pub phase: Phase,
    /// Runs of nodes that cover the graph, in order.
    pub partitions: Vec<Partition>,
    /// Values that cross between devices.
    pub transfers: Vec<Transfer>,
    /// Homes of the states.
    pub states: Vec<StatePlacement>,
    /// One entry a node, in order.
    pub why: Vec<NodeWhy>,
    /// The whole phase, one segment after the other: all steps of the prompt, or one token.
    pub total: Estimate,
    /// Microseconds of the whole phase where segments of successive steps run at once, on different devices.
    /// `None` where they don't.
    pub overlapped_us: Option<f64>,
}

impl Plan {
    /// How long the phase is thought to take as it will be run.
    pub fn expected_us(&self) -> f64 {
        self.overlapped_us.unwrap_or(self.total.us)
    }
}

/// What plans of both phases cost, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PlanPrice {
    /// The time that counts: for most objectives that of the prompt and all generated tokens, for
    /// [`Objective::Ttft`] that of the prompt, for [`Objective::Throughput`] that of the tokens.
    pub objective_us: f64,
    /// What the objective comes to: bytes for memory, microjoules for energy, else microseconds.
    pub objective_value: f64,
    /// The prompt.
    pub prefill: f64,
    /// One token.
    pub decode: f64,
}

/// The plans of all phases.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanSet {
    /// Names of the devices in use, most preferred first.
    pub devices: Vec<String>,
    /// Reading the prompt.
    pub prefill: Plan,
    /// One token at a time.
    pub decode: Plan,
    /// Prompt length that `prefill.total` and the depth of `decode` assume.
    pub prompt: u32,
    /// Most tokens in one step of prefill.
    pub chunk: u32,
    /// How tokens are cut into steps.
    pub sizes: StepSizes,
    /// What they cost.
    pub price: PlanPrice,
    /// What they are to be the best in.
    pub objective: Objective,
    /// By what share of the best possible price theirs may be above it.
    pub gap: f64,
    /// What other ways would cost, under the same pins and memory limits: `greedy`, every node on the most
    /// preferred device that runs it, and each device alone. `None` where that can't be.
    pub rivals: Vec<(String, Option<PlanPrice>)>,
    /// What the user should know of how it came about.
    pub warnings: Vec<String>,
}

impl PlanSet {
    /// The plan of `phase`.
    pub fn phase(&self, phase: Phase) -> &Plan {
        match phase {
            Phase::Prefill => &self.prefill,
            Phase::Decode => &self.decode,
        }
    }
}
