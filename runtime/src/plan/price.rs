//! The prices of a model on given devices, as [`search`](super::search) reads them.
//!
//! Nodes, segments and copies cost what the [`CostModel`] says. Two devices share memory if one imports
//! a buffer of the other's, which is tried.

use std::sync::Arc;

use anynpu_hal::{BufferDesc, Device, ExternalHandle, Link, LinkMode, MemoryKind};
use anynpu_ir::{DType, Graph, Node, Op, Symbol, SymbolValues, TensorType, ValueDef, ValueId};

use super::Estimate;
use super::search::{Links, NodeNeeds, PhasePrices, Problem, Resident, ValueUse};

use crate::cost::{
    COPY_BYTES_PER_SECOND, COPY_LATENCY_US, CostModel, DeviceCost, EstimateSource, GraphScale,
    LinkCost,
};

/// A problem with where its prices come from.
#[derive(Clone, Debug)]
pub(super) struct Prices {
    pub problem: Problem,
    /// For each phase, node and device.
    nodes: Vec<Vec<Vec<Estimate>>>,
    dispatch: Vec<Estimate>,
    /// The least sure of the sources of links that are not free.
    copies: EstimateSource,
}

impl Prices {
    /// All steps of a phase on a run of nodes of one device, the start of it included.
    pub fn segment(&self, phase: usize, nodes: std::ops::Range<usize>, device: usize) -> Estimate {
        let each = self.nodes[phase][nodes].iter().map(|d| d[device]);
        each.sum::<Estimate>() + self.dispatch[device] * self.problem.phases[phase].steps
    }

    /// What is copied in a phase, in all `us` microseconds.
    pub fn copies(&self, us: f64) -> Estimate {
        Estimate::new(us.max(0.0), self.copies)
    }
}

/// One phase as it is priced.
pub(super) struct PricedPhase {
    /// What a microsecond counts.
    pub weight: f64,
    /// The symbols of each step.
    pub steps: Vec<SymbolValues>,
}

/// The problem of placing `graph` on `devices`. `may_run` tells whether in a phase (its index) a node may go
/// to a device.
pub(super) fn problem(
    graph: &Graph,
    devices: &[Arc<dyn Device>],
    cost: &CostModel,
    may_run: impl Fn(usize, usize, usize) -> bool,
    phases: &[PricedPhase],
    state_dtype: DType,
    capacity: u32,
) -> Prices {
    let states = StateGroups::of(graph);
    let made = |&value: &ValueId| match graph.value(value).def {
        ValueDef::Node { .. } => Some(value.index()),
        _ => None,
    };
    let nodes: Vec<NodeNeeds> = graph
        .nodes()
        .iter()
        .enumerate()
        .map(|(n, node)| {
            let weight = |&value: &ValueId| match graph.value(value).def {
                ValueDef::Weight(weight) => Some(weight.index()),
                _ => None,
            };
            let mut reads: Vec<usize> = node.inputs.iter().filter_map(made).collect();
            reads.sort_unstable();
            reads.dedup();
            NodeNeeds {
                reads,
                makes: node.outputs.iter().map(|v| v.index()).collect(),
                weights: node.inputs.iter().filter_map(weight).collect(),
                states: states.nodes[n].clone(),
            }
        })
        .collect();
    let uses = Uses::of(&nodes, graph, states.count);
    let weights = graph
        .weights()
        .iter()
        .zip(&uses.weights)
        .map(|(weight, &users)| {
            let one = SymbolValues::step(1, 0, 1, 1);
            let bytes = graph.ty(weight.value).bytes(&one).unwrap_or(usize::MAX) as u64;
            Resident {
                bytes: vec![bytes; devices.len()],
                users,
            }
        });
    let held_states = uses.states.iter().enumerate().map(|(group, &users)| {
        let members = (0..states.of.len()).filter(|&s| states.of[s] == group);
        let bytes = members.map(|s| state_bytes(graph, s, state_dtype, capacity));
        Resident {
            bytes: vec![bytes.fold(0, u64::saturating_add); devices.len()],
            users,
        }
    });
    let values = uses
        .values
        .iter()
        .enumerate()
        .map(|(v, &(_, last))| ValueUse {
            last,
            result: graph.outputs().iter().any(|o| o.index() == v),
        });
    let costs = devices.iter();
    let costs: Vec<DeviceCost> = costs
        .map(|d| cost.device(d.info(), d.capabilities()))
        .collect();
    let scale = GraphScale::of(graph);
    let sources: Vec<Vec<LinkCost>> = links(devices, cost);
    let links: Vec<Vec<Link>> = sources
        .iter()
        .map(|row| row.iter().map(|l| l.link.clone()).collect())
        .collect();
    let to_host =
        devices.iter().map(
            |d| match d.capabilities().memory.contains(&MemoryKind::Host) {
                true => (0.0, 0.0),
                false => (COPY_LATENCY_US, 1e6 / COPY_BYTES_PER_SECOND),
            },
        );
    let estimates: Vec<Vec<Vec<Estimate>>> = phases
        .iter()
        .enumerate()
        .map(|(p, phase)| {
            let steps = Steps::of(&phase.steps);
            let node = |(n, node): (usize, &Node)| {
                let on = |(d, cost): (usize, &DeviceCost)| match may_run(p, n, d) {
                    true => steps.sum(node, |s| cost.node(graph, node, s, state_dtype, &scale)),
                    false => Estimate::new(f64::INFINITY, EstimateSource::Guess),
                };
                costs.iter().enumerate().map(on).collect()
            };
            graph.nodes().iter().enumerate().map(node).collect()
        })
        .collect();
    let dispatch: Vec<Estimate> = costs.iter().map(DeviceCost::dispatch).collect();
    let phases = phases
        .iter()
        .zip(&estimates)
        .map(|(phase, estimates)| PhasePrices {
            weight: phase.weight,
            node_us: estimates
                .iter()
                .map(|devices| devices.iter().map(|e| e.us).collect())
                .collect(),
            dispatch_us: dispatch.iter().map(|e| e.us).collect(),
            steps: phase.steps.len() as f64,
            overlapping: match phase.steps.len() {
                0 | 1 => Vec::new(),
                _ => step_shares(&phase.steps),
            },
            value_bytes: (0..graph.values().len())
                .map(|v| {
                    let ty = &graph.values()[v].ty;
                    let all: f64 = phase
                        .steps
                        .iter()
                        .map(|s| ty.bytes(s).unwrap_or(0) as f64)
                        .sum();
                    all / phase.steps.len().max(1) as f64
                })
                .collect(),
        });
    let mut paid = sources
        .iter()
        .flatten()
        .filter(|l| l.link.mode == LinkMode::Copy);
    let copies = match paid.any(|l| l.source == EstimateSource::Guess) {
        true => EstimateSource::Guess,
        false => sources
            .iter()
            .flatten()
            .map(|l| l.source)
            .find(|&s| s == EstimateSource::VendorHint)
            .unwrap_or(EstimateSource::Measured),
    };
    let problem = Problem {
        devices: devices.len(),
        phases: phases.collect(),
        weights: weights.collect(),
        states: held_states.collect(),
        values: values.collect(),
        sharers: (links.iter().zip(devices).enumerate())
            .map(
                |(d, (row, device))| match device.capabilities().keeps_states() {
                    // nobody else sees memory of the device's own
                    true => 1 << d,
                    false => sharers(row),
                },
            )
            .collect(),
        links: Links {
            latency_us: links
                .iter()
                .map(|row| row.iter().map(|l| l.latency_us).collect())
                .collect(),
            us_per_byte: links
                .iter()
                .map(|row| row.iter().map(us_per_byte).collect())
                .collect(),
            to_host: to_host.collect(),
        },
        budgets: devices
            .iter()
            .map(|d| d.capabilities().memory_limit)
            .collect(),
        nodes,
    };
    Prices {
        problem,
        nodes: estimates,
        dispatch,
        copies,
    }
}

/// The share of each step in all tokens.
fn step_shares(steps: &[SymbolValues]) -> Vec<f64> {
    let tokens = |step: &SymbolValues| f64::from(step.get(Symbol::TOKENS));
    let all: f64 = steps.iter().map(tokens).sum();
    steps.iter().map(|s| tokens(s) / all.max(1.0)).collect()
}

/// Steps of a phase, those together that differ in the cached rows only.
struct Steps<'a>(Vec<Vec<&'a SymbolValues>>);

impl<'a> Steps<'a> {
    fn of(steps: &'a [SymbolValues]) -> Self {
        let mut groups: Vec<(SymbolValues, Vec<&SymbolValues>)> = Vec::new();
        for step in steps {
            let mut like = *step;
            like.set(Symbol::CACHED, 0);
            match groups.iter_mut().find(|(l, _)| *l == like) {
                Some((_, group)) => group.push(step),
                None => groups.push((like, vec![step])),
            }
        }
        Steps(groups.into_iter().map(|g| g.1).collect())
    }

    /// The time of `node` in all steps; most nodes don't see the cached rows.
    fn sum(&self, node: &Node, of: impl Fn(&SymbolValues) -> Estimate) -> Estimate {
        let cached = matches!(
            node.op,
            Op::Attention { .. } | Op::CausalMask { .. } | Op::StateRead { .. }
        );
        let group = |group: &Vec<&SymbolValues>| match (cached, group.first()) {
            (false, Some(step)) => of(step) * group.len() as f64,
            _ => group.iter().map(|s| of(s)).sum(),
        };
        self.0.iter().map(group).sum()
    }
}

/// First and last node that makes or uses a thing; 0 if none does.
struct Uses {
    values: Vec<(usize, usize)>,
    weights: Vec<(usize, usize)>,
    states: Vec<(usize, usize)>,
}

impl Uses {
    fn of(nodes: &[NodeNeeds], graph: &Graph, states: usize) -> Self {
        let mut uses = Uses {
            values: vec![(usize::MAX, 0); graph.values().len()],
            weights: vec![(usize::MAX, 0); graph.weights().len()],
            states: vec![(usize::MAX, 0); states],
        };
        for (n, node) in nodes.iter().enumerate() {
            let values = node.reads.iter().chain(&node.makes);
            values.for_each(|&v| note(&mut uses.values[v], n));
            node.weights
                .iter()
                .for_each(|&w| note(&mut uses.weights[w], n));
            node.states
                .iter()
                .for_each(|&s| note(&mut uses.states[s], n));
        }
        let all = [&mut uses.values, &mut uses.weights, &mut uses.states];
        for users in all.into_iter().flatten() {
            users.0 = users.0.min(users.1);
        }
        uses
    }
}

fn note(users: &mut (usize, usize), node: usize) {
    *users = (users.0.min(node), users.1.max(node));
}

/// Groups of states that one node uses together, as keys and values of a layer: they have one home.
struct StateGroups {
    /// The group of each state.
    of: Vec<usize>,
    count: usize,
    /// The groups that each node uses.
    nodes: Vec<Vec<usize>>,
}

impl StateGroups {
    fn of(graph: &Graph) -> Self {
        let mut of: Vec<usize> = (0..graph.states().len()).collect();
        let used = |n: usize| {
            graph.nodes()[n]
                .op
                .states()
                .map(|s| s.index())
                .collect::<Vec<_>>()
        };
        for n in 0..graph.nodes().len() {
            if let [first, rest @ ..] = used(n).as_slice() {
                for other in rest {
                    let (to, from) = (of[*first], of[*other]);
                    of.iter_mut().filter(|g| **g == from).for_each(|g| *g = to);
                }
            }
        }
        let mut names = of.clone();
        names.sort_unstable();
        names.dedup();
        let of: Vec<usize> = of
            .iter()
            .map(|g| names.partition_point(|n| n < g))
            .collect();
        let groups = |n: usize| {
            let mut groups: Vec<usize> = used(n).into_iter().map(|s| of[s]).collect();
            groups.dedup();
            groups
        };
        StateGroups {
            nodes: (0..graph.nodes().len()).map(groups).collect(),
            count: names.len(),
            of,
        }
    }
}

/// The group of each state of `graph`, as [`Problem::states`] numbers them.
pub(super) fn state_groups(graph: &Graph) -> Vec<usize> {
    StateGroups::of(graph).of
}

/// Bytes of a state at its home.
fn state_bytes(graph: &Graph, state: usize, dtype: DType, capacity: u32) -> u64 {
    let declared = &graph.states()[state].ty;
    let dtype = if declared.dtype.is_float() {
        dtype
    } else {
        declared.dtype
    };
    let ty = TensorType::new(dtype, declared.shape.clone());
    let bytes = ty.bytes(&SymbolValues::step(1, 0, 1, capacity));
    bytes.map_or(u64::MAX, |bytes| bytes as u64)
}

/// The edges between devices, by round figures where neither the profiles nor the devices know better.
fn links(devices: &[Arc<dyn Device>], cost: &CostModel) -> Vec<Vec<LinkCost>> {
    let link = |from: &Arc<dyn Device>, to: &Arc<dyn Device>| {
        let link = match Arc::ptr_eq(from, to) || shares(from, to) {
            true => Link::native(),
            false => Link {
                mode: LinkMode::Copy,
                bytes_per_second: Some(COPY_BYTES_PER_SECOND),
                latency_us: COPY_LATENCY_US,
            },
        };
        let known = from.refine_link(to.info(), to.refine_link(from.info(), link));
        cost.link(&from.info().name, &to.info().name, known)
    };
    let row = |from| devices.iter().map(|to| link(from, to)).collect();
    devices.iter().map(row).collect()
}

/// Whether `to` can use memory of `from` as its own. It is tried with a little.
fn shares(from: &Arc<dyn Device>, to: &Arc<dyn Device>) -> bool {
    let desc = BufferDesc::host("a trial of sharing", 64);
    let buffer = from.allocate(&desc);
    buffer.is_ok_and(|buffer| to.import(ExternalHandle::Shared(buffer), &desc).is_ok())
}

/// The devices that can use states at home on the device that `links` lead from.
fn sharers(links: &[Link]) -> u8 {
    let shared = |link: &Link| matches!(link.mode, LinkMode::Native | LinkMode::Import(_));
    let bits = links
        .iter()
        .enumerate()
        .map(|(d, link)| u8::from(shared(link)) << d);
    bits.fold(0, |all, bit| all | bit)
}

fn us_per_byte(link: &Link) -> f64 {
    match (link.mode, link.bytes_per_second) {
        (LinkMode::None, _) => f64::INFINITY,
        (_, Some(rate)) if rate > 0.0 => 1e6 / rate,
        _ => 0.0,
    }
}
