//! Which nodes can be lowered.

use anynpu_hal::{Reason, ReasonCode, Support};
use anynpu_ir::{AttentionKv, BinaryOp, DType, Dim, Graph, Node, Op, Symbol, ValueDef, ValueId};

/// Most dimensions of a value.
const MAX_RANK: usize = 4;

/// Sizes that steps of a device with fixed sizes have alike.
pub(super) const FIXED: [Symbol; 3] = [Symbol::TOKENS, Symbol::CAPACITY, Symbol::OUTPUTS];

/// Whether `node` can be lowered.
pub fn verdict(graph: &Graph, node: &Node) -> Support {
    match obstacle(graph, node) {
        None => Support::Yes,
        Some((code, detail)) => Support::No(Reason::new(code, detail)),
    }
}

type Obstacle = Option<(ReasonCode, String)>;

fn obstacle(graph: &Graph, node: &Node) -> Obstacle {
    let unknown = |what: String| Some((ReasonCode::OpUnknown, what));
    let name = node.op.name();
    let positions = match &node.op {
        Op::Linear => return sizes(graph, node, 0).or_else(|| linear(graph, node)),
        Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::Reshape { .. } => {
            return sizes(graph, node, usize::MAX).or_else(|| constants(graph, node));
        }
        Op::Activation(_)
        | Op::GatedActivation(_)
        | Op::SoftCap { .. }
        | Op::Binary(BinaryOp::Add | BinaryOp::Mul | BinaryOp::Sub) => {
            return sizes(graph, node, usize::MAX);
        }
        Op::KvAppend { at, .. } if *at == Dim::CACHED => return sizes(graph, node, usize::MAX),
        Op::Rope { .. } => {
            let factors = node.inputs.get(2).map(|v| graph.value(*v));
            if let Some(made) = factors.filter(|f| !matches!(f.def, ValueDef::Weight(_))) {
                let what = format!("'{}' is computed, but the host must know it", made.name);
                return Some((ReasonCode::DynamicShape, what));
            }
            1
        }
        Op::Gather { axis: 0 } => 1,
        Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            ..
        } => return sizes(graph, node, usize::MAX).or_else(|| mask_given(graph, node)),
        Op::Attention { mask: true, .. } => {
            return unknown("Attention with a mask beside positions is not lowered".into());
        }
        Op::Attention { causal: false, .. } => {
            return unknown("Attention over all rows of a state is not lowered".into());
        }
        Op::Attention {
            kv: AttentionKv::State { .. },
            ..
        } => 1,
        Op::Attention { .. } => 3,
        _ => return unknown(format!("{name} is not lowered")),
    };
    sizes(graph, node, positions).or_else(|| host_made(graph, node.inputs.get(positions)))
}

/// Attention's own mask must be there before the run starts, as the host looks whether each query sees something.
fn mask_given(graph: &Graph, node: &Node) -> Obstacle {
    let mask = graph.value(*node.inputs.get(3)?);
    (!matches!(mask.def, ValueDef::Input)).then(|| {
        let what = format!("'{}' is computed, but the host must know it", mask.name);
        (ReasonCode::DynamicShape, what)
    })
}

/// Sizes and types of operands and results, but for operand `apart`, which the host reads.
fn sizes(graph: &Graph, node: &Node, apart: usize) -> Obstacle {
    let inputs = node.inputs.iter().enumerate();
    let inputs = inputs
        .filter(|(i, _)| *i != apart || apart == 0)
        .map(|(_, v)| v);
    for &value in inputs.chain(&node.outputs) {
        let ty = graph.ty(value);
        let name = &graph.value(value).name;
        if ty.shape.rank() > MAX_RANK {
            let what = format!(
                "'{name}' has {} dimensions, of at most {MAX_RANK}",
                ty.shape.rank()
            );
            return Some((ReasonCode::Rank, what));
        }
        let weight = matches!(graph.value(value).def, ValueDef::Weight(_));
        if !weight && ty.dtype != DType::F32 {
            let what = format!("'{name}' is {}, of f32 only", ty.dtype);
            return Some((ReasonCode::DType, what));
        }
        let chosen = |d: &Dim| matches!(d, Dim::Sym(s) if !FIXED.contains(s));
        if ty.shape.dims().iter().any(chosen) {
            let what = format!(
                "'{name}' is {ty}: sizes other than tokens, rows and results change from step to step"
            );
            return Some((ReasonCode::DynamicShape, what));
        }
    }
    None
}

fn linear(graph: &Graph, node: &Node) -> Obstacle {
    let rank = node.inputs.first().map_or(0, |&x| graph.ty(x).shape.rank());
    if rank != 2 {
        let what = format!("a product of {rank} dimensions, of 2 only");
        return Some((ReasonCode::Rank, what));
    }
    constants(graph, node)
}

/// Operands after the first must be weights.
fn constants(graph: &Graph, node: &Node) -> Obstacle {
    let mut others = node.inputs.iter().skip(1);
    let made = others.find(|&&v| !matches!(graph.value(v).def, ValueDef::Weight(_)))?;
    let what = format!("'{}' is no weight", graph.value(*made).name);
    Some((ReasonCode::State, what))
}

/// An operand that the host reads must be there before the run starts.
fn host_made(graph: &Graph, value: Option<&ValueId>) -> Obstacle {
    let value = graph.value(*value?);
    match value.def {
        ValueDef::Input => None,
        _ => {
            let what = format!("'{}' is computed, but the host must know it", value.name);
            Some((ReasonCode::DynamicShape, what))
        }
    }
}
