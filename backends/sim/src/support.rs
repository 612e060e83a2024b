//! Which nodes a description runs, and why not.

use std::collections::BTreeSet;

use anynpu_hal::{Reason, ReasonCode, StateSupport, Support};
use anynpu_ir::{DType, Graph, Node, NodeId, Subgraph, SymbolValues, ValueDef, ValueId};

use crate::Description;

impl Description {
    /// One verdict a node of `run`.
    pub fn support(&self, run: &Subgraph<'_>) -> Vec<Support> {
        let nodes = run.nodes();
        nodes.map(|(_, n)| self.verdict(run.graph(), n)).collect()
    }

    /// As [`Description::support`], with the limit on the weights of one module: `run` is about to be
    /// compiled as one.
    pub(crate) fn validate(&self, run: &Subgraph<'_>) -> Vec<Support> {
        let mut verdicts = self.support(run);
        let first = run.range().start;
        let nodes = run.nodes().map(|(id, node)| (run.graph(), id, node));
        for (node, reason) in self.past_module_limit(nodes) {
            verdicts[(node.0 - first) as usize] = Support::No(reason);
        }
        verdicts
    }

    /// The nodes, of those that one module is to hold, that do not fit in it any more. Weights of one name
    /// are one weight.
    pub(crate) fn past_module_limit<'g>(
        &self,
        nodes: impl Iterator<Item = (&'g Graph, NodeId, &'g Node)>,
    ) -> Vec<(NodeId, Reason)> {
        let Some((limit, name)) = self.module_limit() else {
            return Vec::new();
        };
        let (mut held, mut bytes) = (BTreeSet::new(), 0u64);
        let mut past = Vec::new();
        for (graph, id, node) in nodes {
            let new: Vec<(&str, u64)> = weights(graph, node)
                .filter(|(name, _)| !held.contains(name))
                .collect();
            let more = new
                .iter()
                .fold(0, |all: u64, (_, n)| all.saturating_add(*n));
            if bytes.saturating_add(more) > limit {
                let detail = format!(
                    "with this node a module would have {} bytes of weights, at most {limit} fit ({name})",
                    bytes.saturating_add(more)
                );
                past.push((id, Reason::new(ReasonCode::MemoryLimit, detail)));
            } else {
                bytes += more;
                held.extend(new.into_iter().map(|(name, _)| name));
            }
        }
        past
    }

    fn verdict(&self, graph: &Graph, node: &Node) -> Support {
        if let Some(reason) = self.obstacle(graph, node) {
            return Support::No(reason);
        }
        let mut verdict = Support::Yes;
        for quirk in self.quirks() {
            match quirk.verdict(graph, node, self.compute()) {
                Some(no @ Support::No(_)) => return no,
                Some(emulated) if verdict == Support::Yes => verdict = emulated,
                _ => {}
            }
        }
        verdict
    }

    /// What the description itself has against `node`.
    fn obstacle(&self, graph: &Graph, node: &Node) -> Option<Reason> {
        let op = node.op.name();
        if !self.has_op(op) {
            let ops: Vec<&str> = self.ops().collect();
            let detail = format!("{op} is not among its ops: {}", ops.join(", "));
            return Some(Reason::new(ReasonCode::OpUnknown, detail));
        }
        let compute = self.compute();
        let weight = |v: &ValueId| matches!(graph.value(*v).def, ValueDef::Weight(_));
        let computed = node.inputs.iter().chain(&node.outputs);
        for &value in computed.filter(|v| !weight(v)) {
            let dtype = graph.ty(value).dtype;
            // f32 holds every number of the narrower types
            let held = [DType::F32, compute].contains(&dtype) || compute == DType::F32;
            if dtype.is_float() && !held {
                let name = &graph.value(value).name;
                let detail = format!("'{name}' is {dtype}; the device computes in {compute}");
                return Some(Reason::new(ReasonCode::DType, detail));
            }
        }
        if let Some(reason) = self.weight_obstacle(graph, node) {
            return Some(reason);
        }
        if let Some(state) = node.op.states().next()
            && self.states() != StateSupport::InPlaceIo
        {
            let keeps = match self.states() {
                StateSupport::None => "keeps no states",
                StateSupport::SliceIo => "returns new rows instead of writing them",
                _ => "keeps states in objects of its own",
            };
            let name = &graph.state(state).name;
            let detail = format!(
                "state '{name}': the device {keeps}; one that writes states in place would fit"
            );
            return Some(Reason::new(ReasonCode::State, detail));
        }
        let limit = self.memory_limit()?;
        let bytes = weights(graph, node).fold(0, |all: u64, (_, n)| all.saturating_add(n));
        (bytes > limit).then(|| {
            let detail =
                format!("{bytes} bytes of weights; the device has {limit} bytes of memory");
            Reason::new(ReasonCode::MemoryLimit, detail)
        })
    }

    /// Matrices must have a type that is listed. Vectors, such as gains of norms and biases, and
    /// integers are converted when compiling.
    fn weight_obstacle(&self, graph: &Graph, node: &Node) -> Option<Reason> {
        let matrices = crate::quirks::weights(graph, node);
        let mut matrices = matrices.filter(|ty| ty.shape.rank() >= 2);
        let ty = matrices.find(|ty| {
            let plain_integers = !ty.dtype.is_float() && !ty.dtype.is_block();
            !plain_integers && !self.weights().contains(&ty.dtype)
        })?;
        let listed: Vec<&str> = self.weights().iter().map(|d| d.name()).collect();
        let listed = match listed.is_empty() {
            true => "none".to_owned(),
            false => listed.join(", "),
        };
        let code = match ty.dtype.is_block() {
            true => ReasonCode::Quantization,
            false => ReasonCode::DType,
        };
        let detail = format!("weights in {}; the device reads {listed}", ty.dtype);
        Some(Reason::new(code, detail))
    }
}

/// The weights that `node` reads: name, and bytes as its file has it.
pub(crate) fn weights<'g>(
    graph: &'g Graph,
    node: &'g Node,
) -> impl Iterator<Item = (&'g str, u64)> {
    node.inputs.iter().filter_map(|&v| {
        let ValueDef::Weight(weight) = graph.value(v).def else {
            return None;
        };
        let bytes = graph.ty(v).bytes(&SymbolValues::default());
        let name = graph.weight(weight).name.as_str();
        Some((name, bytes.map_or(u64::MAX, |n| n as u64)))
    })
}
