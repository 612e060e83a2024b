//! Entries with their weights as tensors.

use std::collections::HashMap;
use std::sync::Arc;

use anynpu_hal::{CompileOptions, Entry, EntryInfo, HalError, Module, Support, WeightSource};
use anynpu_ir::{DType, Graph, NodeId, Subgraph, SymbolValues, TensorType, ValueId, WeightId};
use candle_core::Tensor;

use crate::claims::{gives_f32, verdict};
use crate::tensors;
use crate::{Fault, NAME};
use anynpu_hal::{Reason, ReasonCode};

/// An entry that can be run.
#[derive(Debug)]
pub(crate) struct Program {
    pub graph: Arc<Graph>,
    pub nodes: std::ops::Range<u32>,
    /// Weights by the values that stand for them.
    pub weights: Vec<(ValueId, Tensor)>,
    /// Every symbol at its largest.
    pub limits: SymbolValues,
}

/// Entries over one set of weights.
#[derive(Debug)]
pub(crate) struct CandleModule {
    pub programs: Vec<Program>,
    infos: Vec<EntryInfo>,
    resident: u64,
}

impl Module for CandleModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.infos
    }

    fn resident_bytes(&self) -> u64 {
        self.resident
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// What one weight is kept as: entries and graphs share those that are alike.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Named(String, TensorType, bool),
    /// One that a graph carries, by the graph's address.
    Inline(usize, WeightId, bool),
}

/// Compiles entries.
///
/// # Errors
/// [`HalError::CompileRejected`] with every node that is not claimed, [`HalError::Weight`],
/// [`HalError::Cancelled`].
pub(crate) fn compile(
    entries: &[Entry],
    options: &CompileOptions,
    source: &dyn WeightSource,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<CandleModule, HalError> {
    let infos = entries
        .iter()
        .map(|e| EntryInfo::describe(e, options.state_dtype))
        .collect::<Result<Vec<_>, HalError>>()?;
    let runs = entries
        .iter()
        .map(|e| {
            e.subgraph().map_err(|error| HalError::InvalidUse {
                call: "compile",
                what: format!("nodes of entry '{}'", e.name),
                found: format!("{}..{}", e.nodes.start, e.nodes.end),
                expected: error.to_string(),
            })
        })
        .collect::<Result<Vec<_>, HalError>>()?;
    refuse(&runs, options.state_dtype)?;
    let wanted: Vec<(usize, WeightId, Key)> = runs
        .iter()
        .enumerate()
        .flat_map(|(at, run)| run.weights().iter().map(move |&w| (at, w, key(run, w))))
        .collect();
    let mut kept: HashMap<Key, Tensor> = HashMap::new();
    let total = wanted.len() as u64;
    let mut programs: Vec<Program> = entries
        .iter()
        .map(|e| Program {
            graph: e.graph.clone(),
            nodes: e.nodes.clone(),
            weights: Vec::new(),
            limits: e.bounds.limits(),
        })
        .collect();
    let mut resident = 0;
    for (done, (at, id, key)) in wanted.into_iter().enumerate() {
        if !progress(done as u64, total) {
            return Err(HalError::Cancelled {
                what: format!("compiling for '{NAME}'"),
            });
        }
        let graph = runs[at].graph();
        let tensor = match kept.get(&key) {
            Some(tensor) => tensor.clone(),
            None => {
                let wide = matches!(key, Key::Named(.., true) | Key::Inline(.., true));
                let tensor = load(graph, id, wide, source)?;
                resident += (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
                kept.insert(key, tensor.clone());
                tensor
            }
        };
        programs[at].weights.push((graph.weight(id).value, tensor));
    }
    progress(total, total);
    Ok(CandleModule {
        programs,
        infos,
        resident,
    })
}

/// Fails unless every node is claimed, with states kept in `state_dtype`.
fn refuse(runs: &[Subgraph<'_>], state_dtype: DType) -> Result<(), HalError> {
    let plain = state_dtype.is_float();
    let obstacle = |(run, (id, node)): (&Subgraph<'_>, (NodeId, &anynpu_ir::Node))| match verdict(
        run.graph(),
        node,
    ) {
        Support::No(reason) => Some((id, reason)),
        _ if node.op.states().next().is_some() && !plain => {
            let detail = format!("states are kept in {state_dtype}, which it does not write");
            Some((id, Reason::new(ReasonCode::State, detail)))
        }
        _ => None,
    };
    let all = runs
        .iter()
        .flat_map(|run| run.nodes().map(move |n| (run, n)));
    let nodes: Vec<(NodeId, Reason)> = all.filter_map(obstacle).collect();
    match nodes.is_empty() {
        true => Ok(()),
        false => Err(HalError::CompileRejected {
            device: NAME.into(),
            nodes,
        }),
    }
}

fn key(run: &Subgraph<'_>, id: WeightId) -> Key {
    let graph = run.graph();
    let weight = graph.weight(id);
    let mut users = run
        .nodes()
        .filter(|(_, n)| n.inputs.contains(&weight.value));
    let wide = users.all(|(_, n)| gives_f32(&n.op));
    match weight.inline {
        Some(_) => Key::Inline(std::ptr::from_ref(graph).addr(), id, wide),
        None => Key::Named(weight.name.clone(), graph.ty(weight.value).clone(), wide),
    }
}

/// The tensor of a weight: in F32 if `wide`, else in its own type.
fn load(
    graph: &Graph,
    id: WeightId,
    wide: bool,
    source: &dyn WeightSource,
) -> Result<Tensor, HalError> {
    let weight = graph.weight(id);
    let ty = graph.ty(weight.value);
    let shape = ty.shape.resolve(&SymbolValues::default());
    let failed = |why: String| HalError::Weight {
        name: weight.name.clone(),
        why,
    };
    let made = match &weight.inline {
        Some(bytes) => tensors::tensor(ty.dtype, &shape, bytes),
        None => {
            let view = source.weight(&weight.name)?;
            if view.dtype != ty.dtype {
                return Err(failed(format!("it is {}, expected {ty}", view.dtype)));
            }
            tensors::tensor(ty.dtype, &shape, &view.bytes)
        }
    };
    let tensor = made.and_then(|t| match wide {
        true => Ok(t.to_dtype(candle_core::DType::F32)?),
        false => Ok(t),
    });
    let tensor = tensor.map_err(|e| match e {
        Fault::Engine(e) => failed(crate::told(&e)),
        Fault::Hal(e) => failed(e.to_string()),
    })?;
    if weight.inline.is_none() {
        source.release(&weight.name);
    }
    Ok(tensor)
}
