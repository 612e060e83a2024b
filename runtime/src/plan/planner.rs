//! Choosing a device for each node.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use anynpu_hal::{Device, Reason, ReasonCode, StateSupport, Support};
use anynpu_ir::{DType, Graph, NodeId, SymbolValues, ValueDef};

use super::{
    Because, DeviceIndex, Estimate, NodeWhy, Partition, Phase, Placement, Plan, PlanSet,
    StatePlacement, Transfer, estimate,
};
use crate::RuntimeError;

/// What to plan for.
pub(crate) struct PlanRequest<'a> {
    /// Where the user wants nodes to run.
    pub placement: &'a Placement,
    /// Prompt length, and depth of decoding, of the estimates.
    pub prompt: u32,
    /// Most tokens in one step of prefill.
    pub chunk: u32,
    /// Type of the states at their home.
    pub state_dtype: DType,
    /// Nodes that devices refused to compile.
    pub refused: &'a [Refusal],
}

/// A node that a device refused to compile.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// The device's name.
    pub device: String,
    /// The node.
    pub node: NodeId,
    /// What it said.
    pub reason: Reason,
}

/// Plans both phases of `graph` over `devices`, most preferred first.
///
/// # Errors
/// Pins that can't be kept, nodes that no device runs; with the devices' reasons.
pub(crate) fn plan(
    graph: &Graph,
    devices: &[Arc<dyn Device>],
    request: &PlanRequest<'_>,
) -> Result<PlanSet, RuntimeError> {
    let placement = request.placement.effective();
    let mut planner = Planner {
        graph,
        devices,
        names: devices.iter().map(|d| d.info().name.clone()).collect(),
        placement,
        verdicts: Vec::new(),
    };
    planner.check_placement()?;
    planner.ask()?;
    planner.apply(request.refused);
    let why = planner.validated_assignment()?;
    if let Some(device) = request.placement.required_of_layers() {
        planner.check_required(device, &why)?;
    }
    let plan = |phase| planner.plan(phase, &why, request);
    Ok(PlanSet {
        prefill: plan(Phase::Prefill),
        decode: plan(Phase::Decode),
        devices: planner.names.clone(),
        prompt: request.prompt,
        chunk: request.chunk,
    })
}

struct Planner<'a> {
    graph: &'a Graph,
    devices: &'a [Arc<dyn Device>],
    names: Vec<String>,
    placement: Placement,
    /// For each device, one verdict a node.
    verdicts: Vec<Vec<Support>>,
}

impl Planner<'_> {
    fn check_placement(&self) -> Result<(), RuntimeError> {
        if self.devices.is_empty() {
            return Err(RuntimeError::NoDevice {
                why: "every device was excluded".into(),
            });
        }
        for pin in &self.placement.pins {
            pin.check(self.graph)?;
            self.find(&format!("pin '{pin}'"), pin.device())?;
        }
        if let Some(device) = &self.placement.require {
            self.find("the requirement", device)?;
        }
        Ok(())
    }

    fn find(&self, what: &str, device: &str) -> Result<DeviceIndex, RuntimeError> {
        match self.names.iter().position(|n| n == device) {
            Some(at) => Ok(DeviceIndex(at)),
            None => Err(RuntimeError::UnknownDevice {
                what: what.into(),
                device: device.into(),
                devices: self.names.join(", "),
            }),
        }
    }

    /// Asks every device about every node.
    fn ask(&mut self) -> Result<(), RuntimeError> {
        let whole = self.graph.whole();
        for device in self.devices {
            let mut verdicts = device.support(&whole);
            let found = verdicts.len();
            if found != self.graph.nodes().len() {
                return Err(RuntimeError::Device(anynpu_hal::HalError::InvalidUse {
                    call: "support",
                    what: format!("number of verdicts of '{}'", device.info().name),
                    found: found.to_string(),
                    expected: self.graph.nodes().len().to_string(),
                }));
            }
            let capabilities = device.capabilities();
            for (verdict, node) in verdicts.iter_mut().zip(self.graph.nodes()) {
                let stateful = node.op.states().next().is_some();
                let obstacle = if !capabilities.features.dynamic_shapes {
                    let detail =
                        "the device takes only fixed sizes, which the executor can't give yet";
                    Reason::new(ReasonCode::DynamicShape, detail)
                } else if stateful && capabilities.states < StateSupport::InPlaceIo {
                    let detail = "the device does not write states in place";
                    Reason::new(ReasonCode::State, detail)
                } else {
                    continue;
                };
                if !matches!(verdict, Support::No(_)) {
                    *verdict = Support::No(obstacle);
                }
            }
            self.verdicts.push(verdicts);
        }
        Ok(())
    }

    /// Takes in what devices refused to compile.
    fn apply(&mut self, refused: &[Refusal]) {
        for refusal in refused {
            let device = self.names.iter().position(|n| *n == refusal.device);
            let verdicts = device.and_then(|d| self.verdicts.get_mut(d));
            if let Some(verdict) = verdicts.and_then(|v| v.get_mut(refusal.node.index())) {
                *verdict = Support::No(refusal.reason.clone());
            }
        }
    }

    /// An assignment whose partitions the devices' own validators accept. Each round removes a
    /// (node, device) pair, so it ends.
    fn validated_assignment(&mut self) -> Result<Vec<NodeWhy>, RuntimeError> {
        let mut validated = BTreeSet::new();
        loop {
            let why = self.assignment()?;
            let mut refused = false;
            for (device, nodes) in runs(&why) {
                if !validated.insert((device.0, nodes.start, nodes.end)) {
                    continue;
                }
                let Ok(run) = self.graph.subgraph(nodes.clone()) else {
                    continue;
                };
                let verdicts = self.devices[device.0].validate(&run)?;
                for (node, verdict) in nodes.zip(verdicts) {
                    let known = &mut self.verdicts[device.0][node as usize];
                    if matches!(verdict, Support::No(_)) {
                        refused |= !matches!(known, Support::No(_));
                        *known = verdict;
                    }
                }
            }
            if !refused {
                return Ok(why);
            }
        }
    }

    /// Fails if a node of a layer is pinned elsewhere than to the required device.
    fn check_required(&self, device: &str, why: &[NodeWhy]) -> Result<(), RuntimeError> {
        let layers = self.graph.nodes().iter().zip(why);
        let mut layers = layers.filter(|(node, _)| node.layer().is_some());
        match layers.find(|(_, why)| self.names[why.device.0] != device) {
            None => Ok(()),
            Some((node, why)) => Err(RuntimeError::RequiredElsewhere {
                device: device.into(),
                node: node.name.clone(),
                other: self.names[why.device.0].clone(),
            }),
        }
    }

    fn runs(&self, device: DeviceIndex, node: usize) -> bool {
        !matches!(self.verdicts[device.0][node], Support::No(_))
    }

    /// Pinned nodes to their devices, the others to the most preferred.
    fn assignment(&self) -> Result<Vec<NodeWhy>, RuntimeError> {
        let nodes = self.graph.nodes();
        let pins: Vec<_> = nodes.iter().map(|n| self.placement.pin(n)).collect();
        let all = || (0..self.devices.len()).map(DeviceIndex);
        let free = || (0..nodes.len()).filter(|&n| pins[n].is_none());
        let runs_all = all().find(|&d| free().all(|n| self.runs(d, n)));
        let (mut why, mut refused, mut homeless) = (Vec::new(), Vec::new(), Vec::new());
        for (n, pin) in pins.iter().enumerate() {
            let (device, because) = match pin {
                Some(pin) => {
                    let device = self.find("pin", pin.device())?;
                    if !self.runs(device, n) {
                        refused.push((n, device, pin.to_string()));
                    }
                    (device, Because::Pinned(pin.to_string()))
                }
                None => match runs_all {
                    Some(device) => (device, Because::RunsAll),
                    None => match all().find(|&d| self.runs(d, n)) {
                        Some(device) => (device, Because::Preferred),
                        None => {
                            homeless.push(n);
                            continue;
                        }
                    },
                },
            };
            why.push(NodeWhy {
                node: NodeId(n as u32),
                device,
                because,
                verdicts: self.verdicts.iter().map(|v| v[n].clone()).collect(),
            });
        }
        let named = |n: usize, device: DeviceIndex| {
            let reason = self.verdicts[device.0][n].reason().cloned();
            let unknown = Reason::new(ReasonCode::OpUnknown, nodes[n].op.name());
            (nodes[n].name.clone(), reason.unwrap_or(unknown))
        };
        if let Some((_, device, pin)) = refused.first() {
            let same = refused.iter().filter(|(_, d, p)| d == device && p == pin);
            return Err(RuntimeError::PinRefused {
                what: format!("pin '{pin}'"),
                device: self.names[device.0].clone(),
                nodes: same.map(|&(n, d, _)| named(n, d)).collect(),
            });
        }
        if !homeless.is_empty() {
            let nodes = homeless.into_iter().map(|n| named(n, DeviceIndex(0)));
            return Err(RuntimeError::Unplaceable {
                nodes: nodes.collect(),
            });
        }
        Ok(why)
    }

    fn plan(&self, phase: Phase, why: &[NodeWhy], request: &PlanRequest<'_>) -> Plan {
        let runs = runs(why);
        let steps = steps(phase, request);
        let price = |device: DeviceIndex, nodes: &Range<u32>, symbols: &SymbolValues| {
            let kind = self.devices[device.0].info().kind;
            estimate::run(
                self.graph,
                nodes.clone(),
                kind,
                symbols,
                request.state_dtype,
            )
        };
        let mut total = Estimate::ZERO;
        let mut partitions = Vec::new();
        for (device, nodes) in &runs {
            let times = steps.iter().map(|s| price(*device, nodes, s));
            let predicted = times.fold(Estimate::ZERO, |a, b| a + b);
            total = total + predicted;
            partitions.push(Partition {
                nodes: nodes.clone(),
                device: *device,
                predicted,
            });
        }
        Plan {
            phase,
            partitions,
            transfers: self.transfers(why),
            states: self.states(why, request.state_dtype),
            why: why.to_vec(),
            total,
        }
    }

    /// Values needed on another device than the one that makes them, in order of need.
    fn transfers(&self, why: &[NodeWhy]) -> Vec<Transfer> {
        let mut found = Vec::new();
        for (node, at) in self.graph.nodes().iter().zip(why) {
            for &value in &node.inputs {
                let ValueDef::Node { node: maker, .. } = self.graph.value(value).def else {
                    continue;
                };
                let transfer = Transfer {
                    value,
                    from: why[maker.index()].device,
                    to: at.device,
                };
                if transfer.from != transfer.to && !found.contains(&transfer) {
                    found.push(transfer);
                }
            }
        }
        found
    }

    fn states(&self, why: &[NodeWhy], dtype: DType) -> Vec<StatePlacement> {
        let mut found: Vec<StatePlacement> = Vec::new();
        for (node, at) in self.graph.nodes().iter().zip(why) {
            for state in node.op.states() {
                if found.iter().all(|p| p.state != state) {
                    let declared = self.graph.state(state).ty.dtype;
                    found.push(StatePlacement {
                        state,
                        home: at.device,
                        dtype: if declared.is_float() { dtype } else { declared },
                    });
                }
            }
        }
        found
    }
}

/// The longest contiguous runs on one device.
fn runs(why: &[NodeWhy]) -> Vec<(DeviceIndex, Range<u32>)> {
    let mut runs: Vec<(DeviceIndex, Range<u32>)> = Vec::new();
    for node in why {
        match runs.last_mut() {
            Some((device, run)) if *device == node.device => run.end += 1,
            _ => runs.push((node.device, node.node.0..node.node.0 + 1)),
        }
    }
    runs
}

/// Most steps that an estimate goes through.
const MAX_STEPS: u32 = 4096;

/// The symbols of every step of the phase that estimates cover.
fn steps(phase: Phase, request: &PlanRequest<'_>) -> Vec<SymbolValues> {
    let prompt = request.prompt.max(1);
    let capacity = prompt.saturating_add(1);
    match phase {
        Phase::Decode => vec![SymbolValues::step(1, prompt, 1, capacity)],
        Phase::Prefill => {
            // a very long prompt is priced in coarser steps
            let chunk = request
                .chunk
                .clamp(1, prompt)
                .max(prompt.div_ceil(MAX_STEPS));
            let starts = (0..prompt).step_by(chunk as usize);
            let step = |start: u32| {
                let tokens = chunk.min(prompt - start);
                let last = u32::from(start + tokens == prompt);
                SymbolValues::step(tokens, start, last, capacity)
            };
            starts.map(step).collect()
        }
    }
}

#[cfg(test)]
mod tests;
