//! Trying what a device says it runs.

use std::sync::Arc;

use anynpu_graphs::ModelError;
use anynpu_hal::WeightSource;
use anynpu_ir::{DType, Graph};

use super::graphs::{self, Blocks};
use super::prober::DTYPES;
use super::rig::Made;
use crate::profile::OpCheck;
use crate::self_check::{Trials, Tried};
use crate::{Runtime, RuntimeError};

/// Tries one node of each kind that models have on the device called `name`, beside one that runs everything, while
/// `time` says that there is time; tells whether there was enough. Types of weights go first that are used most.
pub(super) fn checks(
    runtime: &Runtime,
    name: &str,
    time: &mut dyn FnMut() -> bool,
) -> Result<(Vec<OpCheck>, bool), RuntimeError> {
    let mut trials = Trials::new(runtime, name)?;
    let claimed = runtime
        .devices()
        .into_iter()
        .find(|d| d.info().name == name);
    let claimed = claimed.map(|d| d.capabilities().weights.clone());
    let claimed = claimed.unwrap_or_default();
    let mut tried = Tried::new();
    let mut enough = true;
    for graph in graphs_with(&claimed)? {
        let weights: Arc<dyn WeightSource> = Arc::new(Made::new(&graph)?);
        let graph = Arc::new(graph);
        trials.try_kinds(&graph, &weights, &mut tried, &mut || {
            enough &= time();
            enough
        })?;
    }
    let mut found: Vec<OpCheck> = Vec::new();
    for (_, kind) in tried {
        let check = OpCheck {
            op: kind.op,
            weights: kind.weights.map(str::to_owned),
            outcome: kind.outcome,
        };
        let same = |c: &OpCheck| c.op == check.op && c.weights == check.weights;
        // of several shapes those that went wrong are kept, and one that did not
        let known = found.iter().any(same);
        if !known || check.outcome.obstacle().is_some() {
            found.push(check);
        }
    }
    Ok((found, enough))
}

/// What models are made of, with weights of each type in `claimed`.
fn graphs_with(claimed: &[DType]) -> Result<Vec<Graph>, ModelError> {
    let mut graphs = Vec::new();
    for dtype in DTYPES.into_iter().filter(|d| claimed.contains(d)) {
        graphs.push(blocks(dtype).graph()?);
        graphs.push(graphs::lookup(dtype)?);
    }
    graphs.push(graphs::others()?);
    Ok(graphs)
}

/// A block small enough to be compiled in no time, as wide as every type of weights needs.
fn blocks(dtype: DType) -> Blocks {
    Blocks {
        hidden: 256,
        ffn: 512,
        heads: 4,
        kv_heads: 2,
        layers: 1,
        dtype,
    }
}
