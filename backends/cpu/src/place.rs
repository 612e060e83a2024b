//! Where each value of an entry lives while it runs.

use anynpu_ir::{Op, Subgraph, SymbolValues, ValueDef, ValueId, WeightId};

use crate::fuse::Fusions;

/// Where a value's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this offset of the device's arena.
    Arena(usize),
    /// In the `i`-th bound input.
    Input(usize),
    /// In the `i`-th bound output.
    Output(usize),
    /// A constant of the graph.
    Weight(WeightId),
}

/// Places of all values of a run, and the arena they need.
#[derive(Debug)]
pub(crate) struct Placement {
    places: Vec<Option<Place>>,
    /// Bytes of arena.
    pub arena_bytes: usize,
}

/// A value's size that doesn't fit in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge(pub ValueId);

const ALIGN: usize = anynpu_hal::HOST_ALIGN;

impl Placement {
    /// Places every value of `run` for symbols up to `limits`.
    ///
    /// Values made and used inside share the arena: two overlap only if one is dead before the
    /// other is made, by whole steps. A reshape's result is its operand. What lies inside a step of `fusions` has no place.
    pub fn new(
        run: &Subgraph<'_>,
        fusions: &Fusions,
        limits: &SymbolValues,
    ) -> Result<Placement, TooLarge> {
        let graph = run.graph();
        let mut places: Vec<Option<Place>> = vec![None; graph.values().len()];
        for (i, &id) in run.inputs().iter().enumerate() {
            places[id.index()] = Some(Place::Input(i));
        }
        for &w in run.weights() {
            places[graph.weight(w).value.index()] = Some(Place::Weight(w));
        }
        for (i, &id) in run.outputs().iter().enumerate() {
            places[id.index()] = Some(Place::Output(i));
        }
        let roots = reshape_roots(run, &places);
        let last_use = last_uses(run, fusions, &roots);
        let mut live: Vec<Block> = Vec::new();
        let mut arena_bytes = 0;
        for (at, (_, node)) in run.nodes().enumerate() {
            live.retain(|b| b.last_use >= at);
            for &id in &node.outputs {
                if places[id.index()].is_some() || fusions.inner(id) {
                    continue;
                }
                let root = roots[id.index()];
                if root != id {
                    places[id.index()] = places[root.index()];
                    continue;
                }
                let bytes = graph.ty(id).bytes(limits).ok_or(TooLarge(id))?;
                let bytes = bytes.checked_next_multiple_of(ALIGN).ok_or(TooLarge(id))?;
                let offset = lowest_gap(&live, bytes).ok_or(TooLarge(id))?;
                arena_bytes = arena_bytes.max(offset + bytes);
                places[id.index()] = Some(Place::Arena(offset));
                live.push(Block {
                    offset,
                    bytes,
                    last_use: last_use[id.index()].max(at),
                });
                live.sort_by_key(|b| b.offset);
            }
        }
        Ok(Placement {
            places,
            arena_bytes,
        })
    }

    /// Where `id` is; `None` if the run doesn't touch it.
    pub fn get(&self, id: ValueId) -> Option<Place> {
        self.places[id.index()]
    }
}

struct Block {
    offset: usize,
    bytes: usize,
    last_use: usize,
}

fn lowest_gap(live: &[Block], bytes: usize) -> Option<usize> {
    let mut offset = 0;
    for block in live {
        if block.offset >= offset + bytes {
            break;
        }
        offset = offset.max(block.offset + block.bytes);
        offset.checked_add(bytes)?;
    }
    Some(offset)
}

/// For each value, the value whose memory it shares: itself, or what an inner reshape was made of.
fn reshape_roots(run: &Subgraph<'_>, places: &[Option<Place>]) -> Vec<ValueId> {
    let graph = run.graph();
    let mut roots: Vec<ValueId> = (0..graph.values().len() as u32).map(ValueId).collect();
    for (_, node) in run.nodes() {
        if !matches!(node.op, Op::Reshape { .. }) {
            continue;
        }
        let (from, to) = (node.inputs[0], node.outputs[0]);
        let inside = matches!(graph.value(from).def, ValueDef::Node { node: n, .. }
            if run.range().contains(&n.0));
        let bound = places[to.index()].is_some();
        if inside && !bound {
            roots[to.index()] = roots[from.index()];
        }
    }
    roots
}

/// For each root, the index in the run of the last node of the last step that reads it or one of its reshapes.
fn last_uses(run: &Subgraph<'_>, fusions: &Fusions, roots: &[ValueId]) -> Vec<usize> {
    let mut last = vec![0; roots.len()];
    for (at, (_, node)) in run.nodes().enumerate() {
        for id in &node.inputs {
            last[roots[id.index()].index()] = fusions.last(at);
        }
    }
    last
}
