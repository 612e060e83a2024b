//! Compiled entries that share one set of weights.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use anynpu_ir::{
    DType, Graph, GraphError, NodeId, StateId, Subgraph, Symbol, TensorType, ValueDef, ValueId,
};

use crate::{HalError, Reason, ReasonCode, Support};

/// What one symbol may be in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Exactly this; inputs are padded to it.
    Exact(u32),
    /// Anything up to this.
    AtMost(u32),
}

impl Extent {
    /// The largest value.
    pub const fn limit(self) -> u32 {
        match self {
            Extent::Exact(n) | Extent::AtMost(n) => n,
        }
    }

    /// Whether `n` fits.
    pub const fn admits(self, n: u32) -> bool {
        match self {
            Extent::Exact(e) => n == e,
            Extent::AtMost(e) => n <= e,
        }
    }
}

/// Extents of the symbols of an entry; a symbol not named is exactly 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds([Option<Extent>; Symbol::COUNT]);

impl Bounds {
    /// No symbol bound.
    pub fn new() -> Self {
        Bounds::default()
    }

    /// Bounds `symbol` (one past [`Symbol::COUNT`] is ignored: no graph can hold it).
    #[must_use]
    pub fn with(mut self, symbol: Symbol, extent: Extent) -> Self {
        if let Some(slot) = self.0.get_mut(symbol.0 as usize) {
            *slot = Some(extent);
        }
        self
    }

    /// The extent of `symbol`.
    pub fn get(&self, symbol: Symbol) -> Extent {
        self.0
            .get(symbol.0 as usize)
            .copied()
            .flatten()
            .unwrap_or(Extent::Exact(0))
    }

    /// Every symbol at its largest.
    pub fn limits(&self) -> anynpu_ir::SymbolValues {
        let mut values = anynpu_ir::SymbolValues::default();
        for s in 0..Symbol::COUNT as u16 {
            values.set(Symbol(s), self.get(Symbol(s)).limit());
        }
        values
    }
}

/// A run of nodes to compile, with the shapes it will be given: a prefill bucket, decode, ….
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name, unique in its module.
    pub name: String,
    /// The graph.
    pub graph: Arc<Graph>,
    /// The run.
    pub nodes: Range<u32>,
    /// Sizes.
    pub bounds: Bounds,
}

impl Entry {
    /// The run with its boundary.
    pub fn subgraph(&self) -> Result<Subgraph<'_>, GraphError> {
        self.graph.subgraph(self.nodes.clone())
    }
}

/// An operand or result of a compiled entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The graph's value.
    pub value: ValueId,
    /// Its type; a buffer needs the bytes of this type under the submission's symbols.
    pub ty: TensorType,
    /// Most bytes it can need.
    pub max_bytes: usize,
}

/// A state that a compiled entry reads or writes.
#[derive(Clone, Debug, PartialEq)]
pub struct StatePort {
    /// The graph's state.
    pub state: StateId,
    /// The type its home holds it in: row-major, the state's shape.
    pub dtype: DType,
}

/// What must be bound to run an entry, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryInfo {
    /// The entry's name.
    pub name: String,
    /// Operands.
    pub inputs: Vec<Port>,
    /// Results.
    pub outputs: Vec<Port>,
    /// States.
    pub states: Vec<StatePort>,
    /// Nodes it executes.
    pub nodes: u32,
}

impl EntryInfo {
    /// What `entry` needs bound, with states at their home in `state_dtype` (states of integer
    /// type keep theirs).
    ///
    /// # Errors
    /// [`HalError::InvalidUse`] for nodes that are no run of the graph, a value too large for
    /// memory, and a state whose last dimension is not whole blocks of `state_dtype`.
    pub fn describe(entry: &Entry, state_dtype: DType) -> Result<EntryInfo, HalError> {
        let subgraph = entry.subgraph().map_err(|e| HalError::InvalidUse {
            call: "compile",
            what: format!("nodes of entry '{}'", entry.name),
            found: format!("{}..{}", entry.nodes.start, entry.nodes.end),
            expected: e.to_string(),
        })?;
        let limits = entry.bounds.limits();
        let port = |&value: &ValueId| {
            let ty = entry.graph.ty(value).clone();
            let max_bytes = ty.bytes(&limits).ok_or_else(|| HalError::InvalidUse {
                call: "compile",
                what: format!("size of '{}'", entry.graph.value(value).name),
                found: ty.to_string(),
                expected: "a size that fits in memory".into(),
            })?;
            Ok(Port {
                value,
                ty,
                max_bytes,
            })
        };
        let state = |&id: &StateId| {
            let state = entry.graph.state(id);
            let declared = state.ty.dtype;
            let dtype = match declared.is_float() {
                true => state_dtype,
                false => declared,
            };
            let whole = |n: u32| n.is_multiple_of(dtype.block_len() as u32);
            let row = state.ty.shape.last().and_then(|d| d.fixed());
            if dtype.is_block() && !row.is_some_and(whole) {
                return Err(HalError::InvalidUse {
                    call: "compile",
                    what: format!("state '{}' kept in {dtype}", state.name),
                    found: state.ty.to_string(),
                    expected: format!("a last dimension that {} divides", dtype.block_len()),
                });
            }
            Ok(StatePort { state: id, dtype })
        };
        Ok(EntryInfo {
            name: entry.name.clone(),
            inputs: subgraph
                .inputs()
                .iter()
                .map(port)
                .collect::<Result<_, HalError>>()?,
            outputs: subgraph
                .outputs()
                .iter()
                .map(port)
                .collect::<Result<_, HalError>>()?,
            states: subgraph
                .states()
                .iter()
                .map(state)
                .collect::<Result<_, HalError>>()?,
            nodes: subgraph.nodes().len() as u32,
        })
    }
}

/// Names of the weights that entries use and their graphs do not carry, each once.
pub(crate) fn weight_names(entries: &[Entry]) -> Vec<&str> {
    let mut names = std::collections::BTreeSet::new();
    for entry in entries {
        let run = entry.nodes.start as usize..entry.nodes.end as usize;
        let nodes = entry.graph.nodes().get(run).unwrap_or_default();
        for &value in nodes.iter().flat_map(|n| &n.inputs) {
            if let ValueDef::Weight(id) = entry.graph.value(value).def {
                let weight = entry.graph.weight(id);
                if weight.inline.is_none() {
                    names.insert(weight.name.as_str());
                }
            }
        }
    }
    names.into_iter().collect()
}

/// Memory that compiling entries will take, in bytes, known before any of it is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Held as long as the module lives: weights in the device's own form, tables.
    pub resident: u64,
    /// Of the weight source itself, read in place while running.
    pub in_place: u64,
    /// Scratch, shared by all modules of the device.
    pub scratch: u64,
    /// Held only while compiling.
    pub transient: u64,
}

/// Compiled entries over one set of weights. Immutable; per-run state lives in buffers.
pub trait Module: Debug + Send + Sync + Any {
    /// The entries, in the order they were given.
    fn entries(&self) -> &[EntryInfo];

    /// Bytes the module holds on its device besides what it reads from the model file in place.
    fn resident_bytes(&self) -> u64;

    /// The module as bytes that [`crate::Device::load`] of a device with the same
    /// [`crate::Device::compatibility`] takes; `None` if the device has no such form.
    fn blob(&self) -> Result<Option<Vec<u8>>, HalError> {
        Ok(None)
    }

    /// Where within the device nodes of entry number `entry` run, by the word of the vendor's own runtime: what it calls the
    /// processor, as `ane`. Empty where it does not tell.
    fn placement(&self, entry: usize) -> Vec<(NodeId, String)> {
        let _ = entry;
        Vec::new()
    }

    /// The name of the type that products are computed in, where that is another than what the device claims.
    fn computes_in(&self) -> Option<&'static str> {
        None
    }

    /// Whether a run of entry number `entry` takes tokens of several sequences
    /// ([`crate::Submission::sequences`]). The results for each are then, bit for bit, those of a run of
    /// that sequence alone.
    fn sequences(&self, entry: usize) -> Support {
        let _ = entry;
        Support::No(Reason::new(
            ReasonCode::State,
            "its runs take tokens of one sequence",
        ))
    }

    /// For a device to recognise its own modules.
    fn as_any(&self) -> &dyn Any;
}
