//! What assignments come to: over the steps of the phases, in the objective's terms, beside other ways.

use std::sync::Arc;

use anynpu_hal::Device;
use anynpu_ir::SymbolValues;

use super::{PlanRequest, Planner};
use crate::plan::objective::{assumed_watts, energies};
use crate::plan::price::{self, PricedPhase};
use crate::plan::search::{self, Assignment, Found, Priced, Problem};
use crate::plan::sizes::{self, Sizes, StepSizes};
use crate::plan::{DeviceIndex, Objective, Phase, PlanPrice};

/// What ways other than the plan would cost, by name.
pub(super) type Rivals = Vec<(String, Option<PlanPrice>)>;

impl Planner<'_> {
    /// What `assignment` costs, in the terms of reports.
    pub(super) fn price_of(
        &self,
        problem: &Problem,
        assignment: &Assignment,
        priced: &Priced,
    ) -> PlanPrice {
        let us = |phase: Phase| priced.phase_us.get(phase as usize).copied();
        PlanPrice {
            objective_us: priced.objective,
            objective_value: self.value(problem, assignment, priced),
            prefill: us(Phase::Prefill).unwrap_or_default(),
            decode: us(Phase::Decode).unwrap_or_default(),
        }
    }

    /// What the objective comes to: microseconds, microjoules or bytes.
    pub(super) fn value(&self, problem: &Problem, assignment: &Assignment, priced: &Priced) -> f64 {
        match self.request.objective {
            Objective::Energy => {
                let energy = energies(problem, &self.watts()).price(assignment);
                energy.map_or(f64::INFINITY, |p| p.objective)
            }
            Objective::Memory => priced.bytes.iter().map(|&b| b as f64).sum(),
            _ => priced.objective,
        }
    }

    /// What other ways would cost.
    pub(super) fn rivals(&self, problem: &Problem) -> Rivals {
        let price = |assignment: Option<Assignment>| {
            let assignment = assignment.filter(|a| self.needs_sizes(a))?;
            let priced = problem.price(&assignment).filter(|p| p.fits)?;
            Some(self.price_of(problem, &assignment, &priced))
        };
        let greedy = ("greedy".to_owned(), price(search::greedy(problem)));
        let alone = self.names.iter().enumerate();
        let alone = alone.map(|(d, name)| (name.clone(), price(search::single(problem, d))));
        std::iter::once(greedy).chain(alone).collect()
    }

    /// How tokens are cut into steps, with what the steps of the plan cost.
    pub(super) fn step_sizes(&self, found: &Found) -> StepSizes {
        let capacity = self.sizes.capacity;
        let rows = capacity.unwrap_or(self.request.context);
        let devices = |phase: Phase| found.assignment.devices[phase as usize].clone();
        let steps = self
            .sizes
            .buckets
            .iter()
            .map(|&b| (b, devices(Phase::Prefill)));
        let steps: Vec<_> = steps.chain([(1, devices(Phase::Decode))]).collect();
        if self.sizes.buckets.is_empty() {
            return StepSizes {
                capacity,
                ..StepSizes::default()
            };
        }
        let middle = |tokens: u32| (rows.saturating_sub(tokens) / 2).min(self.request.prompt / 2);
        let phases: Vec<PricedPhase> = steps
            .iter()
            .map(|&(tokens, _)| PricedPhase {
                weight: 1.0,
                steps: vec![SymbolValues::step(tokens, middle(tokens), 1, rows)],
            })
            .collect();
        let prices = price::problem(
            self.graph,
            self.devices,
            self.request.cost,
            |_, node, device| self.runs(DeviceIndex(device), node),
            &phases,
            self.request.state_dtype,
            rows,
        );
        let priced = prices.problem.price(&Assignment {
            devices: steps.iter().map(|(_, devices)| devices.clone()).collect(),
            homes: found.assignment.homes.clone(),
        });
        let us = priced.map_or_else(|| vec![0.0; steps.len()], |p| p.phase_us);
        StepSizes {
            buckets: self
                .sizes
                .buckets
                .iter()
                .copied()
                .zip(us.iter().copied())
                .collect(),
            decode_us: us.last().copied().unwrap_or_default(),
            capacity,
            every_row: sizes::reads_whole_texts(self.graph),
        }
    }

    /// Watts of each device while busy: what its driver states, else what is assumed.
    pub(super) fn watts(&self) -> Vec<f64> {
        let stated = self.devices.iter().map(stated_watts).zip(self.devices);
        let watts = stated.map(|(w, d)| w.unwrap_or_else(|| assumed_watts(d.info().kind)));
        watts.collect()
    }

    /// What the user should know of figures that nobody stated.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let counted = self.request.objective == Objective::Energy;
        let devices = self.devices.iter().filter(|_| counted);
        let silent = devices.filter(|d| stated_watts(d).is_none());
        let told = silent.map(|d| {
            let (name, watts) = (&d.info().name, assumed_watts(d.info().kind));
            format!("the power of device '{name}' is not known; {watts} W are assumed")
        });
        told.collect()
    }
}

/// Keeps the cheaper of each way.
pub(super) fn cheapest_of_each(kept: &mut Rivals, more: Rivals) {
    for (name, price) in more {
        let known = kept.iter_mut().find(|(known, _)| *known == name);
        let Some((_, known)) = known else {
            kept.push((name, price));
            continue;
        };
        let cost = |price: &Option<PlanPrice>| price.map_or(f64::INFINITY, |p| p.objective_value);
        if cost(&price) < cost(known) {
            *known = price;
        }
    }
}

/// Most steps that an estimate goes through.
const MAX_STEPS: u32 = 4096;

/// The symbols of every step of the phase that estimates cover.
pub(super) fn steps(phase: Phase, request: &PlanRequest<'_>, sizes: &Sizes) -> Vec<SymbolValues> {
    let prompt = request.prompt.max(1);
    let capacity = sizes.capacity.unwrap_or(prompt.saturating_add(1));
    if phase == Phase::Decode {
        return vec![SymbolValues::step(1, prompt, 1, capacity)];
    }
    let mut steps = Vec::new();
    let mut start = 0;
    // a very long prompt is priced in coarser steps
    let coarse = prompt.div_ceil(MAX_STEPS);
    while start < prompt {
        let rest = prompt - start;
        let (tokens, rows) = match sizes.bucket_for(rest) {
            Some(bucket) => (bucket.max(coarse), 1),
            None => {
                let tokens = request.chunk.clamp(1, prompt).max(coarse).min(rest);
                (tokens, u32::from(tokens == rest))
            }
        };
        steps.push(SymbolValues::step(tokens, start, rows, capacity));
        start = start.saturating_add(tokens);
    }
    steps
}

/// Watts of `device` while busy, if its driver states them.
fn stated_watts(device: &Arc<dyn Device>) -> Option<f64> {
    let claimed = device.capabilities().claimed_rates.as_ref()?;
    claimed.busy_watts.filter(|w| w.is_finite() && *w > 0.0)
}
