//! Composite ops written as primitives.
//!
//! A composite op and its decomposition mean the same: arithmetic in F32, one rounding at the end
//! where the result is of a narrower type. What a decomposed node computes keeps the node's name;
//! the steps before it are called `name.step`.

mod attention;
mod build;
mod simple;

use build::Build;

use crate::{Definition, Graph, GraphError, NodeId, Op, ValueId};

/// The graph with node `id` written as primitives, or `None` if its op is a primitive.
///
/// # Errors
/// [`GraphError::NodeRange`] if the graph has no such node.
pub fn decompose(graph: &Graph, id: NodeId) -> Result<Option<Graph>, GraphError> {
    let Some(node) = graph.nodes().get(id.index()) else {
        return Err(GraphError::NodeRange {
            start: id.0,
            end: id.0.saturating_add(1),
            nodes: graph.nodes().len(),
        });
    };
    match node.op.is_composite() {
        true => decompose_where(graph, |origin, _| origin == id).map(Some),
        false => Ok(None),
    }
}

/// The graph with every composite op written as primitives.
///
/// # Errors
/// None that a graph can cause; see [`decompose_where`].
pub fn decompose_all(graph: &Graph) -> Result<Graph, GraphError> {
    decompose_where(graph, |_, _| true)
}

/// The graph with those composite ops written as simpler ones for which `expand` says so.
///
/// `expand` is asked about composite ops only: with a node of `graph` and its op, and then with the
/// same node and each composite op that stands in its decomposition. So a device that has Softmax
/// but not Attention asks for `|_, op| !matches!(op, Op::Softmax { .. })`.
///
/// # Errors
/// [`GraphError`] if a step doesn't fit the graph, which is a defect of this crate.
pub fn decompose_where(
    graph: &Graph,
    expand: impl Fn(NodeId, &Op) -> bool,
) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter {
        source: graph,
        out: Graph::new(graph.name()),
        expand: &expand,
    };
    for state in graph.states() {
        let (name, ty) = (state.name.clone(), state.ty.clone());
        rewriter.out.add_state(name, ty, state.axis)?;
    }
    let mut map = vec![None; graph.values().len()];
    for definition in graph.definitions() {
        match definition {
            Definition::Input(id) => {
                let value = graph.value(id);
                let new = rewriter.out.add_input(&value.name, value.ty.clone())?;
                map[id.index()] = Some(new);
            }
            Definition::Weight(id) => {
                let weight = graph.weight(id);
                let (name, ty) = (&weight.name, graph.ty(weight.value).clone());
                let new = match &weight.inline {
                    Some(data) => rewriter.out.add_constant(name, ty, data.clone())?,
                    None => rewriter.out.add_weight(name, ty)?,
                };
                map[weight.value.index()] = Some(new);
            }
            Definition::Node(id) => {
                let node = graph.node(id);
                let inputs = mapped(&map, &node.name, &node.inputs)?;
                let outputs = rewriter.emit(id, node.name.clone(), node.op.clone(), &inputs)?;
                for (old, new) in node.outputs.iter().zip(outputs) {
                    map[old.index()] = Some(new);
                }
            }
        }
    }
    for id in mapped(&map, "output", graph.outputs())? {
        rewriter.out.set_output(id)?;
    }
    Ok(rewriter.out)
}

/// The new ids of `old` ones.
fn mapped(
    map: &[Option<ValueId>],
    node: &str,
    old: &[ValueId],
) -> Result<Vec<ValueId>, GraphError> {
    let unknown = |id| GraphError::UnknownValue {
        node: node.into(),
        id,
    };
    old.iter()
        .map(|&id| map[id.index()].ok_or_else(|| unknown(id)))
        .collect()
}

/// Which composite ops to expand: see [`decompose_where`].
type Expand<'a> = dyn Fn(NodeId, &Op) -> bool + 'a;

/// A graph being written anew.
struct Rewriter<'a> {
    source: &'a Graph,
    out: Graph,
    expand: &'a Expand<'a>,
}

impl Rewriter<'_> {
    /// Adds `op`, expanded if wanted, on behalf of the source's node `origin`.
    fn emit(
        &mut self,
        origin: NodeId,
        name: String,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        if !op.is_composite() || !(self.expand)(origin, &op) {
            return self.out.add_node(name, op, inputs);
        }
        let mut b = Build::new(self, origin, name);
        let result = match op {
            Op::ExpertLinear => simple::expert_linear(&mut b, inputs),
            Op::Embedding => simple::embedding(&mut b, inputs),
            Op::RmsNorm { eps } => simple::rms_norm(&mut b, inputs, eps),
            Op::LayerNorm { eps } => simple::layer_norm(&mut b, inputs, eps),
            Op::Softmax { axis } => simple::softmax(&mut b, inputs, axis),
            Op::Activation(f) => simple::activation(&mut b, inputs, f),
            Op::GatedActivation(f) => simple::gated(&mut b, inputs, f),
            Op::SoftCap { cap } => simple::soft_cap(&mut b, inputs, cap),
            Op::Conv1d {
                stride,
                padding,
                dilation,
                groups,
            } => simple::conv1d(&mut b, inputs, [stride, padding, dilation, groups]),
            Op::Rope {
                style,
                dims,
                base,
                scaling,
            } => attention::rope(&mut b, inputs, style, dims, base, scaling),
            Op::Attention {
                kv,
                causal,
                mask,
                scale,
                soft_cap,
                window,
            } => {
                let form = attention::Form {
                    kv,
                    causal,
                    mask,
                    scale,
                    soft_cap,
                    window,
                };
                attention::attention(&mut b, inputs, form)
            }
            Op::CausalMask {
                keys,
                window,
                hidden,
            } => attention::causal_mask(&mut b, inputs, keys, window, hidden),
            primitive => {
                let name = b.name;
                return self.out.add_node(name, primitive, inputs);
            }
        };
        Ok(vec![result?])
    }
}

#[cfg(test)]
mod tests;
