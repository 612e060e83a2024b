//! Choosing a device for each node: asking the devices what they run, pricing that, and searching.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use anynpu_hal::{Device, Reason, ReasonCode, StateSupport, Support};
use anynpu_ir::{DType, Graph, NodeId, StateId, SymbolValues, ValueDef};

use super::objective::{assumed_watts, energies};
use super::price::{self, PricedPhase, Prices, state_groups};
use super::search::{self, Assignment, Found, MAX_DEVICES, Priced, Problem};
use super::sizes::{self, Sizes, StepSizes};
use super::{
    Because, DeviceIndex, Estimate, NodeWhy, Objective, Partition, Phase, Placement, Plan,
    PlanPrice, PlanSet, StatePlacement, Transfer,
};
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

/// What ways other than the plan would cost, by name.
type Rivals = Vec<(String, Option<PlanPrice>)>;

impl Planner<'_> {
    fn check_placement(&self) -> Result<(), RuntimeError> {
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
            let shape = match (sizes::is_dynamic(&**device), sizes::may_pad(self.graph)) {
                (true, _) => None,
                (false, false) => {
                    Some("it takes only fixed sizes, and padding would be seen".into())
                }
                (false, true) => {
                    let whole = sizes::reads_whole_texts(self.graph);
                    sizes::obstacle(&**device, self.request.context, whole)
                }
            };
            let shape = shape.map(|detail| Reason::new(ReasonCode::DynamicShape, detail));
            for (verdict, node) in verdicts.iter_mut().zip(self.graph.nodes()) {
                let stateful = node.op.states().next().is_some();
                let obstacle = if let Some(reason) = &shape {
                    reason.clone()
                } else if stateful && device.capabilities().states < StateSupport::InPlaceIo {
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
            // what a device says itself is the better reason
            if let Some(verdict) = verdicts.and_then(|v| v.get_mut(refusal.node.index()))
                && !matches!(verdict, Support::No(_))
            {
                *verdict = Support::No(refusal.reason.clone());
            }
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

    /// How tokens are cut into steps, with what the steps of the plan cost.
    fn step_sizes(&self, found: &Found) -> StepSizes {
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

    fn runs_always(&self, device: DeviceIndex, node: usize) -> bool {
        self.runs(device, node) && self.sizes.able.iter().all(|able| able[device.0])
    }

    /// Whether in `phase` `node` may go to `device`: it runs there in steps of the sizes planned for, and
    /// is pinned nowhere else.
    fn may_run(&self, phase: usize, node: usize, device: usize) -> bool {
        if !self.sizes.able[phase][device] {
            return false;
        }
        let pin = self.placement.pin(&self.graph.nodes()[node]);
        let here = pin.is_none_or(|pin| pin.device() == self.names[device]);
        here && self.runs(DeviceIndex(device), node)
    }

    /// Fails if a node can't run where it is pinned, or nowhere.
    fn check_homes(&self) -> Result<(), RuntimeError> {
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

    /// Why nothing was found within the budgets that were given, with what would fit.
    fn over_budget(&self, problem: &Problem, least: &Found) -> RuntimeError {
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

    /// Fails if a budget is of no device in use.
    fn check_budgets(&self) -> Result<(), RuntimeError> {
        for (name, _) in self.request.budgets {
            self.find("the memory budget", name)?;
        }
        Ok(())
    }

    /// Watts of each device while busy: what its driver states, else what is assumed.
    fn watts(&self) -> Vec<f64> {
        let stated = self.devices.iter().map(stated_watts).zip(self.devices);
        let watts = stated.map(|(w, d)| w.unwrap_or_else(|| assumed_watts(d.info().kind)));
        watts.collect()
    }

    /// What the user should know of figures that nobody stated.
    fn assumptions(&self) -> Vec<String> {
        let counted = self.request.objective == Objective::Energy;
        let devices = self.devices.iter().filter(|_| counted);
        let silent = devices.filter(|d| stated_watts(d).is_none());
        let told = silent.map(|d| {
            let (name, watts) = (&d.info().name, assumed_watts(d.info().kind));
            format!("the power of device '{name}' is not known; {watts} W are assumed")
        });
        told.collect()
    }

    fn price_of(&self, problem: &Problem, assignment: &Assignment, priced: &Priced) -> PlanPrice {
        let us = |phase: Phase| priced.phase_us.get(phase as usize).copied();
        PlanPrice {
            objective_us: priced.objective,
            objective_value: self.value(problem, assignment, priced),
            prefill: us(Phase::Prefill).unwrap_or_default(),
            decode: us(Phase::Decode).unwrap_or_default(),
        }
    }

    /// What the objective comes to: microseconds, microjoules or bytes.
    fn value(&self, problem: &Problem, assignment: &Assignment, priced: &Priced) -> f64 {
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
    fn rivals(&self, problem: &Problem) -> Rivals {
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

    /// Why nothing was found although every node has a home: the nodes that share a state don't share a
    /// device, or memory.
    fn split_state(&self, mut problem: Problem) -> RuntimeError {
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

    fn plan(&self, phase: Phase, prices: &Prices, found: &Found) -> Plan {
        let assignment = &found.assignment;
        let devices = &assignment.devices[phase as usize];
        let partitions: Vec<Partition> = runs(devices)
            .into_iter()
            .map(|(device, nodes)| {
                let range = nodes.start as usize..nodes.end as usize;
                Partition {
                    predicted: prices.segment(phase as usize, range, device.0),
                    nodes,
                    device,
                }
            })
            .collect();
        let computed: Estimate = partitions.iter().map(|p| p.predicted).sum();
        let total = found.priced.in_turn_us[phase as usize];
        let overlapped = found.priced.phase_us[phase as usize];
        // sums of the same prices in another order
        let copies = match partitions.len() {
            1 if total <= computed.us * (1.0 + 1e-9) => Estimate::ZERO,
            _ => prices.copies(total - computed.us),
        };
        let why: Vec<NodeWhy> = devices
            .iter()
            .enumerate()
            .map(|(n, &device)| NodeWhy {
                node: NodeId(n as u32),
                device: DeviceIndex(device.into()),
                because: self.because(n),
                verdicts: self.verdicts.iter().map(|v| v[n].clone()).collect(),
            })
            .collect();
        Plan {
            phase,
            overlapped_us: (overlapped < total).then_some(overlapped),
            total: computed + copies,
            partitions,
            transfers: self.transfers(&why),
            states: self.states(assignment),
            why,
        }
    }

    fn because(&self, node: usize) -> Because {
        if let Some(pin) = self.placement.pin(&self.graph.nodes()[node]) {
            return Because::Pinned(pin.to_string());
        }
        let able = (0..self.devices.len()).filter(|&d| self.runs(DeviceIndex(d), node));
        match able.count() {
            1 => Because::Only,
            _ => Because::Cheapest,
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

    fn states(&self, assignment: &Assignment) -> Vec<StatePlacement> {
        let groups = state_groups(self.graph);
        let states = self.graph.states().iter().zip(groups).enumerate();
        let placed = states.map(|(s, (state, group))| StatePlacement {
            state: StateId(s as u32),
            home: DeviceIndex(assignment.homes[group].into()),
            dtype: match state.ty.dtype.is_float() {
                true => self.request.state_dtype,
                false => state.ty.dtype,
            },
        });
        placed.collect()
    }
}

/// Watts of `device` while busy, if its driver states them.
fn stated_watts(device: &Arc<dyn Device>) -> Option<f64> {
    let claimed = device.capabilities().claimed_rates.as_ref()?;
    claimed.busy_watts.filter(|w| w.is_finite() && *w > 0.0)
}

/// At how many nodes `e` is that a device takes other sizes of steps.
fn of_sizes(e: &RuntimeError) -> usize {
    let RuntimeError::PinRefused { nodes, .. } = e else {
        return 0;
    };
    let of_sizes = nodes.iter();
    of_sizes
        .filter(|(_, r)| r.code == ReasonCode::DynamicShape)
        .count()
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

/// Most steps that an estimate goes through.
const MAX_STEPS: u32 = 4096;

/// Keeps the cheaper of each way.
fn cheapest_of_each(kept: &mut Rivals, more: Rivals) {
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

/// The symbols of every step of the phase that estimates cover.
fn steps(phase: Phase, request: &PlanRequest<'_>, sizes: &Sizes) -> Vec<SymbolValues> {
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

#[cfg(test)]
mod tests;
