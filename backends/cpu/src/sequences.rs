//! Whether the tokens of a run may belong to several sequences.
//!
//! Then all but the states' rows must be made token by token: what is computed of one may depend on no
//! other. It is looked at by shapes and ops: the number of tokens, or of output rows, is the first axis of
//! whatever has it, and no op works along that axis.

use anynpu_hal::{Reason, ReasonCode, Support};
use anynpu_ir::{AttentionKv, Dim, Graph, Node, NodeId, Op, TensorType, ValueDef, ValueId};

use crate::program::Step;

/// The verdict on the nodes of `steps`, of which some are run by the reference.
pub(crate) fn verdict(graph: &Graph, nodes: std::ops::Range<u32>, steps: &[Step]) -> Support {
    let mut refused = nodes.filter_map(|id| refusal(graph, graph.node(NodeId(id))));
    let by_reference = steps.iter().find_map(|step| match step {
        Step::Reference { node } => {
            let node = graph.node(*node);
            let why = || (node, "has no kernel for its states");
            node.op.states().next().map(|_| why())
        }
        _ => None,
    });
    match refused.next().or(by_reference) {
        None => Support::Yes,
        Some((node, why)) => Support::No(Reason::new(
            ReasonCode::State,
            format!("node '{}' {why}", node.name),
        )),
    }
}

/// Why a node's results for a token are not that token's alone.
fn refusal<'a>(graph: &Graph, node: &'a Node) -> Option<(&'a Node, &'static str)> {
    let values = || node.inputs.iter().chain(&node.outputs);
    let ty = |id: &ValueId| graph.ty(*id);
    let computed = |id: &&ValueId| !matches!(graph.value(**id).def, ValueDef::Weight(_));
    let mut dims = values().filter(computed).flat_map(|id| ty(id).shape.dims());
    if dims.any(|d| matches!(*d, Dim::CACHED | Dim::CAPACITY)) {
        return Some((node, "has a value as long as the states"));
    }
    let late = |id: &ValueId| {
        ty(id)
            .shape
            .dims()
            .iter()
            .skip(1)
            .any(|d| d.fixed().is_none())
    };
    if values().any(late) {
        return Some((node, "has tokens along an axis that is not the first"));
    }
    match values().any(|id| is_per_token(ty(id))) || node.op.states().next().is_some() {
        true => mixes(graph, node).map(|why| (node, why)),
        false => None,
    }
}

/// Whether a value has a part for each token or output row.
fn is_per_token(ty: &TensorType) -> bool {
    ty.shape.dims().first().is_some_and(|d| d.fixed().is_none())
}

/// Why an op on values that have tokens along their first axis, if any, mixes them.
fn mixes(graph: &Graph, node: &Node) -> Option<&'static str> {
    let ty = |at: usize| node.inputs.get(at).map(|&id| graph.ty(id));
    let rank = |at: usize| ty(at).map_or(0, |ty| ty.shape.rank());
    let per_token = |at: usize| ty(at).is_some_and(is_per_token);
    let first = |at: usize| ty(at).and_then(|ty| ty.shape.dims().first().copied());
    let along_tokens = "works along the tokens";
    let apart = match &node.op {
        Op::Linear
        | Op::ExpertLinear
        | Op::Embedding
        | Op::Rope { .. }
        | Op::Unary(_)
        | Op::Activation(_)
        | Op::GatedActivation(_)
        | Op::SoftCap { .. }
        | Op::Binary(_)
        | Op::Select
        | Op::Cast { .. } => true,
        // the last axis
        Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::TopK { .. } => rank(0) > 1,
        Op::Softmax { axis }
        | Op::ArgMax { axis }
        | Op::Slice { axis, .. }
        | Op::Concat { axis }
        | Op::Split { axis, .. } => *axis > 0,
        Op::Reduce { axes, .. } => !axes.contains(&0),
        // elements stay in order, so rows that stay as many stay the same
        Op::Reshape { shape } => shape.dims().first().copied() == first(0),
        Op::Transpose { perm } => perm.first() == Some(&0),
        Op::MatMul { transpose_a, .. } => match (per_token(0), per_token(1)) {
            (true, true) => rank(0).min(rank(1)) > 2,
            (true, false) => rank(0) > 2 || !transpose_a,
            (false, _) => false,
        },
        // rows of a table for each token, or the rows that are put out
        Op::Gather { axis: 0 } => !per_token(0) || first(1) == Some(Dim::OUTPUTS),
        Op::Gather { .. } => !per_token(1),
        Op::KvAppend { state, at } => {
            let rows = first(0) == Some(Dim::TOKENS);
            let fits = *at == Dim::CACHED && graph.state(*state).axis == 0 && rows;
            return (!fits).then_some("writes rows of a state that are not those after its last");
        }
        Op::Attention { kv, mask, .. } => match (kv, mask) {
            (AttentionKv::Operands, _) => return Some("attends over the tokens of its run"),
            (_, true) => return Some("has a mask over the rows of its states"),
            _ => first(0) == Some(Dim::TOKENS),
        },
        Op::StateRead { .. } => return Some("reads a state whole"),
        _ => false,
    };
    (!apart).then_some(along_tokens)
}
