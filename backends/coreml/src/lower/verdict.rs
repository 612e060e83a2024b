//! Which nodes can be lowered.

use anynpu_hal::{Reason, ReasonCode, Support};
use anynpu_ir::{
    AttentionKv, BinaryOp, DType, Dim, Graph, Node, Op, Symbol, SymbolValues, UnaryOp, ValueDef,
    ValueId,
};

use super::{Form, States};
use crate::package::MAX_RANK;

/// Most elements of a tensor: what the format's own sizes and indices, of 32 bits with a sign, can tell.
const MAX_ELEMENTS: u64 = i32::MAX as u64;

/// Whether `node` can be lowered to `form` in steps of these sizes.
pub fn verdict(graph: &Graph, node: &Node, form: &Form, symbols: &SymbolValues) -> Support {
    match obstacle(graph, node, form, symbols) {
        None => Support::Yes,
        Some((code, detail)) => Support::No(Reason::new(code, detail)),
    }
}

type Obstacle = Option<(ReasonCode, String)>;

fn obstacle(graph: &Graph, node: &Node, form: &Form, symbols: &SymbolValues) -> Obstacle {
    operation(graph, node, form, symbols).or_else(|| {
        let values = node.inputs.iter().chain(&node.outputs);
        values.copied().find_map(|v| value(graph, v, symbols))
    })
}

/// What the format has not of operation `node`.
fn operation(graph: &Graph, node: &Node, form: &Form, symbols: &SymbolValues) -> Obstacle {
    let unknown = |what: &str| Some((ReasonCode::OpUnknown, what.to_owned()));
    let of = |i: usize| node.inputs.get(i).map(|v| graph.ty(*v).dtype);
    let integer = of(0) == Some(DType::I32);
    let state = |id| {
        let state = graph.state(id);
        let fits = state.axis == 0 && state.ty.shape.rank() == 3 && state.ty.dtype.is_float();
        (!fits).then(|| {
            let what = format!(
                "state '{}' is {} along axis {}, of [rows, heads, width] along axis 0 only",
                state.name, state.ty, state.axis
            );
            (ReasonCode::State, what)
        })
    };
    if let Some(found) = node.op.states().find_map(state) {
        return Some(found);
    }
    match &node.op {
        Op::ExpertLinear => unknown("ExpertLinear is lowered as simpler operations only"),
        Op::Quantize { .. } | Op::Dequantize { .. } => {
            unknown("fixed-point activations are not lowered")
        }
        Op::Binary(BinaryOp::Div) if integer => {
            unknown("division of integers rounds another way there")
        }
        Op::Unary(f) if integer && !matches!(f, UnaryOp::Neg | UnaryOp::Abs) => {
            unknown("functions of integers are not lowered")
        }
        Op::KvAppend { at, .. } if *at != Dim::CACHED => Some((
            ReasonCode::State,
            format!("rows are appended at {at}, of P only"),
        )),
        Op::StateRead { .. } if form.states == States::Caller => {
            Some((ReasonCode::State, "the caller has the state".to_owned()))
        }
        Op::Attention {
            kv: AttentionKv::State { .. },
            causal: false,
            ..
        } => unknown("attention over all rows of a state is not lowered"),
        Op::Attention { mask: true, .. } if form.engine => {
            unknown("attention with a mask of its own is not lowered for the Neural Engine")
        }
        Op::Gather { .. } | Op::Scatter { .. } if of(0) == Some(DType::Bool) => Some((
            ReasonCode::DType,
            "truth values are not looked up there".to_owned(),
        )),
        Op::Conv1d { dilation, .. } if *dilation > 1 => dilated(graph, node),
        Op::Conv2d { dilation, .. } if dilation.iter().any(|d| *d > 1) => dilated(graph, node),
        Op::Rope { .. } => rotation(graph, node, form, symbols),
        Op::RmsNorm { .. } | Op::LayerNorm { .. } => {
            let computed = |v: &&ValueId| !matches!(graph.value(**v).def, ValueDef::Weight(_));
            let made = node.inputs.iter().skip(1).find(computed)?;
            let what = format!("'{}' is no weight", graph.value(*made).name);
            Some((ReasonCode::Layout, what))
        }
        _ => None,
    }
}

/// Why a convolution with gaps can't be, if it can't.
fn dilated(graph: &Graph, node: &Node) -> Obstacle {
    let filters = node.inputs.get(1).map(|v| graph.value(*v));
    let made = filters.filter(|f| !matches!(f.def, ValueDef::Weight(_)))?;
    let what = format!(
        "'{}' is computed, and dilated filters are weights",
        made.name
    );
    Some((ReasonCode::Layout, what))
}

/// Which operand of a causal attention has the positions.
pub(crate) const fn positions_at(kv: AttentionKv) -> usize {
    match kv {
        AttentionKv::State { .. } => 1,
        AttentionKv::Operands => 3,
    }
}

fn rotation(graph: &Graph, node: &Node, form: &Form, symbols: &SymbolValues) -> Obstacle {
    let factors = node.inputs.get(2).map(|v| graph.value(*v));
    if let Some(made) = factors.filter(|f| !matches!(f.def, ValueDef::Weight(_))) {
        let what = format!("'{}' is computed, of weights only", made.name);
        return Some((ReasonCode::DynamicShape, what));
    }
    if !form.engine && symbols.get(Symbol::CAPACITY) == 0 {
        let what = "the number of positions is not known, of which there is a table".to_owned();
        return Some((ReasonCode::DynamicShape, what));
    }
    let positions = node.inputs.get(1).map(|v| graph.value(*v));
    let made = positions.filter(|p| form.engine && !matches!(p.def, ValueDef::Input))?;
    let what = format!("'{}' is computed, but the caller must know it", made.name);
    Some((ReasonCode::DynamicShape, what))
}

/// What the format has not of value `id`.
fn value(graph: &Graph, id: ValueId, symbols: &SymbolValues) -> Obstacle {
    let value = graph.value(id);
    let (name, ty) = (&value.name, &value.ty);
    let weight = matches!(value.def, ValueDef::Weight(_));
    let rank = ty.shape.rank();
    if rank > MAX_RANK || (rank == 0 && !weight) {
        let what = format!("'{name}' has {rank} dimensions, of 1 to {MAX_RANK}");
        return Some((ReasonCode::Rank, what));
    }
    let known = ty.dtype.is_float() || matches!(ty.dtype, DType::I32 | DType::Bool);
    let blocks = weight && ty.dtype.is_block();
    if !known && !blocks {
        let what = format!("'{name}' is {}, of floats, i32 and bool only", ty.dtype);
        return Some((ReasonCode::DType, what));
    }
    let elements = ty.shape.elements(symbols).map_or(u64::MAX, |n| n as u64);
    if elements > MAX_ELEMENTS {
        let what = format!("'{name}' is {ty} with {elements} elements, of at most {MAX_ELEMENTS}");
        return Some((ReasonCode::ShapeLimit, what));
    }
    if ty.shape.resolve(symbols).contains(&0) {
        let what = format!("'{name}' is {ty} without elements in steps of these sizes");
        return Some((ReasonCode::ShapeLimit, what));
    }
    None
}
