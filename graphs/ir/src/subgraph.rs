//! Contiguous runs of nodes.

use std::ops::Range;

use crate::{Graph, GraphError, Node, NodeId, StateId, ValueDef, ValueId, WeightId};

/// A contiguous run of a graph's nodes with all that crosses its boundary.
///
/// Since nodes are in execution order, such a run is always convex.
#[derive(Clone, Debug)]
pub struct Subgraph<'g> {
    graph: &'g Graph,
    run: Range<u32>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    weights: Vec<WeightId>,
    states: Vec<StateId>,
}

impl Graph {
    /// The run `nodes` with its boundary: inputs (made outside, in order of first use), outputs
    /// (made inside and used outside, or outputs of the graph), weights and states it touches.
    pub fn subgraph(&self, nodes: Range<u32>) -> Result<Subgraph<'_>, GraphError> {
        if nodes.start > nodes.end || nodes.end as usize > self.nodes().len() {
            return Err(GraphError::NodeRange {
                start: nodes.start,
                end: nodes.end,
                nodes: self.nodes().len(),
            });
        }
        let inside = |id: ValueId| match self.value(id).def {
            ValueDef::Node { node, .. } => nodes.contains(&node.0),
            _ => false,
        };
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let (mut weights, mut states) = (Vec::new(), Vec::new());
        let mut seen = vec![false; self.values().len()];
        let run = &self.nodes()[nodes.start as usize..nodes.end as usize];
        for node in run {
            for &id in &node.inputs {
                if std::mem::replace(&mut seen[id.index()], true) || inside(id) {
                    continue;
                }
                match self.value(id).def {
                    ValueDef::Weight(w) => weights.push(w),
                    _ => inputs.push(id),
                }
            }
            for state in node.op.states() {
                if !states.contains(&state) {
                    states.push(state);
                }
            }
        }
        let mut used_after = vec![false; self.values().len()];
        let after = self.nodes()[nodes.end as usize..].iter();
        for id in after.flat_map(|n| &n.inputs).chain(self.outputs()) {
            used_after[id.index()] = true;
        }
        for id in run.iter().flat_map(|n| &n.outputs) {
            if used_after[id.index()] {
                outputs.push(*id);
            }
        }
        Ok(Subgraph {
            graph: self,
            run: nodes,
            inputs,
            outputs,
            weights,
            states,
        })
    }

    /// The run of all nodes.
    pub fn whole(&self) -> Subgraph<'_> {
        self.subgraph(0..self.nodes().len() as u32)
            .expect("the range of all nodes is a range of the graph")
    }
}

impl<'g> Subgraph<'g> {
    /// The graph it is a run of.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Node indices.
    pub fn range(&self) -> Range<u32> {
        self.run.clone()
    }

    /// Its nodes with their ids, in execution order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, &'g Node)> {
        let start = self.run.start;
        self.graph.nodes()[start as usize..self.run.end as usize]
            .iter()
            .enumerate()
            .map(move |(i, n)| (NodeId(start + i as u32), n))
    }

    /// Values made outside that it reads, weights aside, in order of first use.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Values it makes that are needed outside, in order of production.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Weights it reads, in order of first use.
    pub fn weights(&self) -> &[WeightId] {
        &self.weights
    }

    /// States it reads or writes, in order of first use.
    pub fn states(&self) -> &[StateId] {
        &self.states
    }
}
