//! What Core ML would run where: records of `MLComputePlan`, and what they say of a graph's nodes.
//!
//! A record is made where Core ML is ([`record`]) and read anywhere.

use std::collections::BTreeMap;
use std::path::Path;

use anynpu_hal::{Reason, ReasonCode, Support};
use anynpu_ir::NodeId;
use serde::{Deserialize, Serialize};

use crate::{ComputeUnits, CoreMlError, PackageReport};

/// A kind of processor of Apple's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// The CPU.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// The Neural Engine.
    Ane,
}

impl Processor {
    /// Its name in records and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Processor::Cpu => "cpu",
            Processor::Gpu => "gpu",
            Processor::Ane => "ane",
        }
    }
}

/// A processor of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its kind.
    pub processor: Processor,
    /// Its cores, where the system tells: of the Neural Engine.
    pub cores: Option<u32>,
}

/// Where an operation would run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedOperation {
    /// Its type, as `conv`.
    pub kind: String,
    /// The names of its results.
    pub results: Vec<String>,
    /// Processors that could run it; none of a constant.
    pub supported: Vec<Processor>,
    /// That which would.
    pub preferred: Option<Processor>,
    /// Its share of the time of the function, 0 to 1, as it is estimated.
    pub cost: Option<f64>,
}

/// The results of the operations that a node of the graph became.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeResults {
    /// The node's name.
    pub node: String,
    /// Names of tensors.
    pub results: Vec<String>,
}

/// A function of a package as it would run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedFunction {
    /// Its name.
    pub name: String,
    /// Its operations, in their order.
    pub operations: Vec<PlannedOperation>,
    /// What nodes became.
    pub nodes: Vec<NodeResults>,
}

/// A record of what Core ML would run where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComputePlan {
    /// Version of the record's form, 1.
    pub schema_version: u32,
    /// Whether nobody recorded it: it was written by hand.
    pub constructed: bool,
    /// The system that was asked, with its version.
    pub system: String,
    /// The processors that it was told to use: the names of [`ComputeUnits`].
    pub units: String,
    /// The processors that it has.
    pub processors: Vec<Found>,
    /// The functions that it knows the plan of.
    pub functions: Vec<PlannedFunction>,
}

/// Where the operations of a node would run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// For each processor its operations and their share of the function's time.
    pub processors: BTreeMap<Processor, (u32, f64)>,
}

impl Placement {
    /// The processor with most of the time; of those with as much, that with most operations.
    pub fn main(&self) -> Option<Processor> {
        let key = |(_, (count, cost)): &(&Processor, &(u32, f64))| (*cost, *count);
        let best = self.processors.iter().max_by(|a, b| {
            let ((cost_a, count_a), (cost_b, count_b)) = (key(a), key(b));
            cost_a.total_cmp(&cost_b).then(count_a.cmp(&count_b))
        });
        best.map(|(processor, _)| *processor)
    }
}

impl PlannedFunction {
    /// The operations that node `node` became, but for constants; none of one that became nothing.
    fn of_node<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a PlannedOperation> {
        let named = self.nodes.iter().filter(move |n| n.node == node);
        let results: Vec<&String> = named.flat_map(|n| &n.results).collect();
        self.operations.iter().filter(move |op| {
            let planned = op.preferred.is_some() || !op.supported.is_empty();
            planned && op.results.iter().any(|r| results.contains(&r))
        })
    }

    /// Where `node` would run: nowhere if it became no operation.
    pub fn placement(&self, node: &str) -> Placement {
        let mut placement = Placement::default();
        for op in self.of_node(node) {
            if let Some(processor) = op.preferred {
                let (count, cost) = placement.processors.entry(processor).or_default();
                *count += 1;
                *cost += op.cost.unwrap_or(0.0);
            }
        }
        placement
    }

    /// The processors of its nodes, of which the first has this number in its graph: that with most of each before the
    /// others.
    pub(crate) fn processors_from(&self, first: u32) -> Vec<(NodeId, String)> {
        let each = self.nodes.iter().zip(first..).filter_map(|(node, id)| {
            let placement = self.placement(&node.node);
            let main = placement.main()?;
            let others = placement.processors.keys().filter(|p| **p != main);
            let names: Vec<&str> = [main].iter().chain(others).map(|p| p.name()).collect();
            Some((NodeId(id), names.join(", ")))
        });
        each.collect()
    }

    /// Whether `processor` would run `node`: natively if it is to run all of it, emulated if another is to run a part, not
    /// at all if there is a part that none can run. `None` of a node that became no operation.
    pub fn verdict(&self, node: &str, processor: Processor) -> Option<Support> {
        let all: Vec<&PlannedOperation> = self.of_node(node).collect();
        if all.is_empty() {
            return None;
        }
        let told = |ops: &[&&PlannedOperation]| {
            let each = ops.iter().map(|op| match op.preferred {
                Some(other) => format!("{} on {}", op.kind, other.name()),
                None => op.kind.clone(),
            });
            each.collect::<Vec<_>>().join(", ")
        };
        let refused: Vec<&&PlannedOperation> =
            all.iter().filter(|op| op.supported.is_empty()).collect();
        if !refused.is_empty() {
            let what = format!("no processor runs {}", told(&refused));
            return Some(Support::No(Reason::new(ReasonCode::VendorRejected, what)));
        }
        let elsewhere: Vec<&&PlannedOperation> = all
            .iter()
            .filter(|op| op.preferred != Some(processor))
            .collect();
        if elsewhere.is_empty() {
            return Some(Support::Yes);
        }
        let what = format!(
            "{} of {} operations are not for {}: {}",
            elsewhere.len(),
            all.len(),
            processor.name(),
            told(&elsewhere)
        );
        Some(Support::Emulated(Reason::new(
            ReasonCode::VendorRejected,
            what,
        )))
    }
}

/// Asks Core ML what it would run where of the package at `package`, which `report` tells of, with these processors.
///
/// # Errors
/// A system without Core ML, or whose Core ML has no `MLComputePlan` (before iOS 17.4 and macOS 14.4); what Core ML says.
pub fn record(
    package: &Path,
    report: &PackageReport,
    units: ComputeUnits,
) -> Result<ComputePlan, CoreMlError> {
    let mut plan = ask(package, units)?;
    for function in &mut plan.functions {
        let known = report.functions.iter().find(|f| f.name == function.name);
        function.nodes = known.map_or_else(Vec::new, |f| f.nodes.clone());
    }
    Ok(plan)
}

#[cfg(target_vendor = "apple")]
fn ask(package: &Path, units: ComputeUnits) -> Result<ComputePlan, CoreMlError> {
    crate::exec::compute_plan(package, units)
}

#[cfg(not(target_vendor = "apple"))]
fn ask(_: &Path, _: ComputeUnits) -> Result<ComputePlan, CoreMlError> {
    Err(crate::exec::not_apple())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand, after Apple's description of `MLComputePlan`: nobody has recorded one yet.
    const CONSTRUCTED: &str = include_str!("plan/constructed.json");

    fn function() -> PlannedFunction {
        let plan: ComputePlan = serde_json::from_str(CONSTRUCTED).unwrap();
        assert!(plan.constructed);
        assert_eq!(plan.schema_version, 1);
        plan.functions[0].clone()
    }

    #[test]
    fn nodes_are_where_their_operations_are() {
        let f = function();
        let places = |node: &str| f.placement(node).processors;
        assert_eq!(
            places("layers.0.attn.q"),
            [(Processor::Ane, (1, 0.25))].into()
        );
        let norm = f.placement("layers.0.attn_norm");
        let both = [(Processor::Cpu, (1, 0.125)), (Processor::Ane, (2, 0.0625))];
        assert_eq!(norm.processors, both.into());
        assert_eq!(norm.main(), Some(Processor::Cpu));
        // of operations without an estimate most count
        assert_eq!(
            f.placement("layers.0.attn.q_heads").main(),
            Some(Processor::Gpu)
        );
        assert_eq!(f.placement("layers.0.attn.merged"), Placement::default());
        assert_eq!(f.placement("layers.0.attn.merged").main(), None);
        assert_eq!(f.placement("no such node"), Placement::default());
    }

    #[test]
    fn a_node_on_two_processors_names_that_with_most_of_it_first() {
        let all = function().processors_from(7);
        let of = |node: &str| {
            let at = function()
                .nodes
                .iter()
                .position(|n| n.node == node)
                .unwrap();
            let id = NodeId(7 + at as u32);
            all.iter().find(|(n, _)| *n == id).map(|(_, on)| on.clone())
        };
        assert_eq!(of("layers.0.attn.q").as_deref(), Some("ane"));
        assert_eq!(of("layers.0.attn_norm").as_deref(), Some("cpu, ane"));
        assert_eq!(of("layers.0.attn.merged"), None);
    }

    #[test]
    fn verdicts_tell_what_is_not_where_it_should_be() {
        let f = function();
        let verdict = |node: &str, processor| f.verdict(node, processor);
        assert_eq!(
            verdict("layers.0.attn.q", Processor::Ane),
            Some(Support::Yes)
        );
        let told = |node: &str, processor| match verdict(node, processor) {
            Some(Support::Emulated(reason)) => reason.to_string(),
            other => panic!("{node}: {other:?}"),
        };
        let text = told("layers.0.attn_norm", Processor::Ane);
        assert!(
            text.ends_with("1 of 3 operations are not for ane: layer_norm on cpu"),
            "{text}"
        );
        let text = told("layers.0.attn.q", Processor::Gpu);
        assert!(
            text.ends_with("1 of 1 operations are not for gpu: conv on ane"),
            "{text}"
        );
        match verdict("layers.0.odd", Processor::Cpu) {
            Some(Support::No(reason)) => {
                assert_eq!(reason.code, ReasonCode::VendorRejected);
                assert!(reason.detail.contains("no processor runs odd"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(verdict("layers.0.attn.merged", Processor::Ane), None);
        assert_eq!(verdict("no such node", Processor::Ane), None);
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let plan: ComputePlan = serde_json::from_str(CONSTRUCTED).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<ComputePlan>(&text).unwrap(), plan);
        for broken in ["{}", "[]", &text.replace("\"ane\"", "\"npu\"")] {
            assert!(
                serde_json::from_str::<ComputePlan>(broken).is_err(),
                "{broken}"
            );
        }
    }
}
