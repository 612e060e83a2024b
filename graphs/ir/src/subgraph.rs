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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies;

    #[test]
    fn a_run_past_the_end_is_refused() {
        let graph = strategies::every_op();
        let nodes = graph.nodes().len() as u32;
        assert!(graph.subgraph(0..nodes + 1).is_err());
        #[allow(clippy::reversed_empty_ranges)] // the refusal is what is tested
        let reversed = graph.subgraph(2..1);
        assert!(reversed.is_err());
        assert!(graph.subgraph(nodes..nodes).is_ok());
    }

    #[test]
    fn the_whole_graph_gives_its_outputs_and_touches_all_states() {
        let graph = strategies::every_op();
        let whole = graph.whole();
        let sorted = |ids: &[ValueId]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        assert_eq!(sorted(whole.outputs()), sorted(graph.outputs()));
        assert_eq!(whole.states().len(), graph.states().len());
        assert!(whole.inputs().iter().all(|id| graph.inputs().contains(id)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 2))]

        /// Computing a run needs its inputs, weights and nothing else, and what is used after it is
        /// among its outputs: so cutting a graph into runs loses nothing.
        #[test]
        fn the_boundary_of_a_run_is_complete_and_minimal(
            graph in strategies::graph(),
            cut in any::<[prop::sample::Index; 2]>(),
        ) {
            let count = graph.nodes().len() + 1;
            let (a, b) = (cut[0].index(count) as u32, cut[1].index(count) as u32);
            let run = graph.subgraph(a.min(b)..a.max(b)).expect("a range of the graph");
            let mut known: Vec<ValueId> = run.inputs().to_vec();
            known.extend(run.weights().iter().map(|&w| graph.weight(w).value));
            let mut unused: Vec<ValueId> = known.clone();
            for (_, node) in run.nodes() {
                for id in &node.inputs {
                    prop_assert!(known.contains(id));
                    unused.retain(|u| u != id);
                }
                known.extend(&node.outputs);
            }
            prop_assert!(unused.is_empty());
            for (i, value) in graph.values().iter().enumerate() {
                let id = ValueId(i as u32);
                let inside = matches!(value.def, ValueDef::Node { node, .. } if run.range().contains(&node.0));
                let after = &graph.nodes()[run.range().end as usize..];
                let needed = graph.outputs().contains(&id) || after.iter().any(|n| n.inputs.contains(&id));
                prop_assert_eq!(run.outputs().contains(&id), inside && needed);
            }
        }
    }
}
