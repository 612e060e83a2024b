//! Choosing a device for each node: asking the devices what they run, pricing that, and searching.

mod infeasible;
mod outcome;
mod valuation;
mod verdicts;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use anynpu_hal::{Device, Reason, Support};
use anynpu_ir::{DType, Graph, NodeId};

use self::infeasible::of_sizes;
use self::valuation::{Rivals, cheapest_of_each, steps};
use super::price::{self, PricedPhase, Prices};
use super::search::{self, Assignment, Found, Problem};
use super::sizes::{self, Sizes};
use super::{DeviceIndex, Objective, Phase, Placement, PlanSet};
use crate::RuntimeError;
use crate::cost::CostModel;

/// What to plan for.
pub(crate) struct PlanRequest<'a> {
    /// Where the user wants nodes to run.
    pub placement: &'a Placement,
    /// Prompt length, and depth of decoding, of the estimates.
    pub prompt: u32,
    /// Tokens that are generated after it.
    pub tokens: u32,
    /// Most tokens in one step of prefill.
    pub chunk: u32,
    /// Rows of the states.
    pub context: u32,
    /// Type of the states at their home.
    pub state_dtype: DType,
    /// Nodes that devices refused to compile.
    pub refused: &'a [Refusal],
    /// What the plan is to be the best in.
    pub objective: Objective,
    /// Bytes of weights and states that devices may hold, by name, besides what they say themselves.
    pub budgets: &'a [(String, u64)],
    /// Prices.
    pub cost: &'a CostModel,
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
        request,
        verdicts: Vec::new(),
        sizes: Sizes::any(devices.len()),
    };
    planner.check_placement()?;
    planner.check_budgets()?;
    planner.ask()?;
    planner.apply(request.refused);
    let (prices, found, rivals) = planner.best()?;
    let plans = Phase::ALL.map(|phase| planner.plan(phase, &prices, &found));
    if let Some(device) = request.placement.required_of_layers() {
        for plan in &plans {
            planner.check_required(device, &plan.why)?;
        }
    }
    let [prefill, decode] = plans;
    Ok(PlanSet {
        prefill,
        decode,
        devices: planner.names.clone(),
        prompt: request.prompt,
        chunk: planner
            .sizes
            .buckets
            .last()
            .copied()
            .unwrap_or(request.chunk),
        price: planner.price_of(&prices.problem, &found.assignment, &found.priced),
        objective: request.objective,
        gap: found.gap(),
        sizes: planner.step_sizes(&found),
        rivals,
        warnings: planner.assumptions(),
    })
}

struct Planner<'a> {
    graph: &'a Graph,
    devices: &'a [Arc<dyn Device>],
    names: Vec<String>,
    placement: Placement,
    request: &'a PlanRequest<'a>,
    /// For each device, one verdict a node.
    verdicts: Vec<Vec<Support>>,
    /// The sizes that are planned for.
    sizes: Sizes,
}

impl Planner<'_> {
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

    /// The best assignment over all sizes that steps can have, and the best of each other way. Sets the sizes.
    fn best(&mut self) -> Result<(Prices, Found, Rivals), RuntimeError> {
        let mut best: Option<(Sizes, Prices, Found)> = None;
        let (mut rivals, mut failure) = (Rivals::new(), None);
        let (chunk, context) = (self.request.chunk, self.request.context);
        for sizes in sizes::choices(self.graph, self.devices, chunk, context) {
            self.sizes = sizes;
            let (prices, found) = match self.validated_assignment() {
                Ok(found) => found,
                Err(e) => {
                    tracing::debug!("no plan with steps of {:?} tokens: {e}", self.sizes.buckets);
                    // that a device takes no such sizes is the least of the reasons
                    let of_sizes = of_sizes(&e);
                    if failure.as_ref().is_none_or(|(known, _)| of_sizes <= *known) {
                        failure = Some((of_sizes, e));
                    }
                    continue;
                }
            };
            cheapest_of_each(&mut rivals, self.rivals(&prices.problem));
            let Some(found) = self.with_need_of_sizes(&prices.problem, found) else {
                continue;
            };
            let cost = |prices: &Prices, found: &Found| {
                let value = self.value(&prices.problem, &found.assignment, &found.priced);
                (!found.priced.fits, value, found.priced.objective)
            };
            if best
                .as_ref()
                .is_none_or(|(_, p, b)| cost(&prices, &found) < cost(p, b))
            {
                best = Some((self.sizes.clone(), prices, found));
            }
        }
        match (best, failure) {
            (Some((sizes, prices, found)), _) => {
                self.sizes = sizes;
                Ok((prices, found, rivals))
            }
            (None, Some((_, e))) => Err(e),
            (None, None) => Err(RuntimeError::NoDevice {
                why: "no device takes steps of any size".into(),
            }),
        }
    }

    /// What was found, or if that has no need of the sizes the cheapest simple way that has.
    fn with_need_of_sizes(&self, problem: &Problem, found: Found) -> Option<Found> {
        if self.needs_sizes(&found.assignment) {
            return Some(found);
        }
        let alone = (0..problem.devices).filter_map(|d| search::single(problem, d));
        let simple = alone.chain(search::greedy(problem));
        let needing = simple.filter(|assignment| self.needs_sizes(assignment));
        let priced = needing.filter_map(|assignment| {
            let priced = problem.price(&assignment)?;
            priced.fits.then_some((assignment, priced))
        });
        let best = priced.min_by(|a, b| a.1.objective.total_cmp(&b.1.objective));
        best.map(|(assignment, priced)| Found {
            assignment,
            priced,
            ..found
        })
    }

    /// Whether the sizes are there for a device in use: steps are not padded for devices that take any size.
    fn needs_sizes(&self, assignment: &Assignment) -> bool {
        let fixed = |device: &u8| !sizes::is_dynamic(&*self.devices[usize::from(*device)]);
        let used = |phase: Phase| assignment.devices[phase as usize].iter().any(fixed);
        (self.sizes.buckets.is_empty() || used(Phase::Prefill))
            && (self.sizes.capacity.is_none() || used(Phase::Prefill) || used(Phase::Decode))
    }

    /// An assignment whose partitions the devices' own validators accept. Each round removes a
    /// (node, device) pair, so it ends.
    fn validated_assignment(&mut self) -> Result<(Prices, Found), RuntimeError> {
        let mut validated = BTreeSet::new();
        loop {
            self.check_homes()?;
            let (prices, found) = self.assignment()?;
            let mut refused = false;
            let all = found.assignment.devices.iter();
            let all = all.flat_map(|devices| runs(devices));
            for (device, nodes) in all {
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
                return Ok((prices, found));
            }
        }
    }

    /// The best assignment that is found within the devices' memory limits. Where nothing is within those of
    /// the devices, the best without: loading tells what doesn't fit, and what would.
    fn assignment(&self) -> Result<(Prices, Found), RuntimeError> {
        let request = self.request;
        let weights = request.objective.weights(request.tokens);
        let phases = Phase::ALL.map(|phase| PricedPhase {
            weight: weights[phase as usize],
            steps: steps(phase, request, &self.sizes),
        });
        let mut prices = price::problem(
            self.graph,
            self.devices,
            request.cost,
            |phase, node, device| self.may_run(phase, node, device),
            &phases,
            request.state_dtype,
            self.sizes.capacity.unwrap_or(request.context),
        );
        let watts = self.watts();
        let search = |problem: &Problem| request.objective.search(problem, &watts);
        let problem = &mut prices.problem;
        for (budget, name) in problem.budgets.iter_mut().zip(&self.names) {
            let given = request.budgets.iter().filter(|b| b.0 == *name);
            *budget = given.map(|b| b.1).chain(*budget).min();
        }
        if let Some(found) = search(problem) {
            return Ok((prices, found));
        }
        let budgets = std::mem::replace(&mut problem.budgets, vec![None; self.devices.len()]);
        if !request.budgets.is_empty()
            && let Some(least) = Objective::Memory.search(problem, &watts)
        {
            return Err(self.over_budget(problem, &least));
        }
        match search(problem) {
            Some(found) => {
                problem.budgets = budgets;
                Ok((prices, found))
            }
            None => Err(self.split_state(prices.problem)),
        }
    }
}

/// The longest contiguous runs on one device.
fn runs(devices: &[u8]) -> Vec<(DeviceIndex, Range<u32>)> {
    let mut runs: Vec<(DeviceIndex, Range<u32>)> = Vec::new();
    for (node, &device) in (0u32..).zip(devices) {
        let device = DeviceIndex(device.into());
        match runs.last_mut() {
            Some((last, run)) if *last == device => run.end += 1,
            _ => runs.push((device, node..node + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
