//! Why there is no plan: wishes that can't be kept, nodes and states that no device is left for, budgets
//! that nothing fits in.

use std::collections::BTreeSet;

use anynpu_hal::{Reason, ReasonCode};

use super::Planner;
use crate::RuntimeError;
use crate::plan::price::state_groups;
use crate::plan::search::{self, Found, MAX_DEVICES, Problem};
use crate::plan::{DeviceIndex, NodeWhy, Phase};

impl Planner<'_> {
    /// Fails if there are no devices or too many, or the placement names a device that is not in use.
    pub(super) fn check_placement(&self) -> Result<(), RuntimeError> {
        if self.devices.is_empty() {
            return Err(RuntimeError::NoDevice {
                why: "every device was excluded".into(),
            });
        }
        if self.devices.len() > MAX_DEVICES {
            return Err(RuntimeError::Option {
                option: "number of devices",
                found: self.devices.len().to_string(),
                expected: format!("at most {MAX_DEVICES}; name those to use"),
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

    /// Fails if a budget is of no device in use.
    pub(super) fn check_budgets(&self) -> Result<(), RuntimeError> {
        for (name, _) in self.request.budgets {
            self.find("the memory budget", name)?;
        }
        Ok(())
    }

    /// Fails if a node can't run where it is pinned, or nowhere.
    pub(super) fn check_homes(&self) -> Result<(), RuntimeError> {
        let nodes = self.graph.nodes();
        let (mut refused, mut homeless) = (Vec::new(), Vec::new());
        for (n, node) in nodes.iter().enumerate() {
            match self.placement.pin(node) {
                Some(pin) => {
                    let device = self.find("pin", pin.device())?;
                    if !self.runs_always(device, n) {
                        refused.push((n, device, pin.to_string()));
                    }
                }
                None => {
                    let runs = |phase| (0..self.devices.len()).any(|d| self.may_run(phase, n, d));
                    if !(0..Phase::ALL.len()).all(runs) {
                        homeless.push(n);
                    }
                }
            }
        }
        let named = |n: usize, device: DeviceIndex| {
            let reason = self.verdicts[device.0][n].reason().cloned();
            let sizes = || {
                let detail = match self.sizes.buckets.is_empty() {
                    true => "it takes only fixed sizes, and none of its sizes goes with the other devices'".into(),
                    false => format!("it takes no steps of {:?} tokens", self.sizes.buckets),
                };
                Reason::new(ReasonCode::DynamicShape, detail)
            };
            (nodes[n].name.clone(), reason.unwrap_or_else(sizes))
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
        Ok(())
    }

    /// Fails if a node of a layer is pinned elsewhere than to the required device.
    pub(super) fn check_required(&self, device: &str, why: &[NodeWhy]) -> Result<(), RuntimeError> {
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

    /// Why nothing was found within the budgets that were given, with what would fit.
    pub(super) fn over_budget(&self, problem: &Problem, least: &Found) -> RuntimeError {
        let bytes = |bytes: &[u64]| {
            let held = self.names.iter().zip(bytes).filter(|(_, b)| **b > 0);
            let held: Vec<String> = held.map(|(name, b)| format!("{name}={b}")).collect();
            held.join(",")
        };
        let mut fits = vec![bytes(&least.priced.bytes)];
        for device in 0..self.devices.len() {
            let alone = search::single(problem, device).and_then(|a| problem.price(&a));
            fits.extend(alone.map(|p| bytes(&p.bytes)));
        }
        fits.dedup();
        let mut seen = BTreeSet::new();
        fits.retain(|f| seen.insert(f.clone()));
        let given = self.request.budgets.iter();
        let given: Vec<String> = given.map(|(name, b)| format!("{name}={b}")).collect();
        RuntimeError::OverBudget {
            budgets: given.join(","),
            fits: fits.join(" or "),
        }
    }

    /// Why nothing was found although every node has a home: the nodes that share a state don't share a
    /// device, or memory.
    pub(super) fn split_state(&self, mut problem: Problem) -> RuntimeError {
        let sharers = std::mem::take(&mut problem.sharers);
        problem.sharers = vec![u8::MAX; self.devices.len()];
        let groups = state_groups(self.graph);
        let devices = search::search(&problem).map(|found| found.assignment.devices);
        let devices = devices
            .unwrap_or_default()
            .into_iter()
            .next()
            .unwrap_or_default();
        let users = |state: usize| {
            let used = self.graph.nodes().iter().zip(&devices);
            let used = used.filter(move |(node, _)| node.op.states().any(|s| s.index() == state));
            used.map(|(_, &device)| usize::from(device))
                .collect::<Vec<_>>()
        };
        for state in 0..groups.len() {
            let users = users(state);
            let first = users.first().copied().unwrap_or_default();
            let apart = users.iter().find(|&&d| sharers[first] & 1 << d == 0);
            if let Some(&second) = apart {
                return RuntimeError::StateSplit {
                    state: self.graph.states()[state].name.clone(),
                    first: self.names[first].clone(),
                    second: self.names[second].clone(),
                };
            }
        }
        RuntimeError::Unplaceable { nodes: Vec::new() }
    }
}

/// At how many nodes `e` is that a device takes other sizes of steps.
pub(super) fn of_sizes(e: &RuntimeError) -> usize {
    let RuntimeError::PinRefused { nodes, .. } = e else {
        return 0;
    };
    let of_sizes = nodes.iter();
    of_sizes
        .filter(|(_, r)| r.code == ReasonCode::DynamicShape)
        .count()
}
