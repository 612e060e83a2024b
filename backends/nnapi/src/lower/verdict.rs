//! Which nodes can be lowered.

use anynpu_hal::{Reason, ReasonCode, Support};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Node, Op, ReduceOp, Symbol, UnaryOp,
    ValueDef, ValueId,
};

use super::{ProductForm, Target, WeightForm};
use crate::FeatureLevel;

/// Most dimensions of a tensor that every operation takes.
const MAX_RANK: usize = 4;

/// Sizes that steps of a device with fixed sizes have alike.
pub(super) const FIXED: [Symbol; 3] = [Symbol::TOKENS, Symbol::CAPACITY, Symbol::OUTPUTS];

/// Whether `node` can be lowered for `target`; what it becomes is asked of the device besides.
pub fn verdict(graph: &Graph, node: &Node, target: &Target) -> Support {
    let no = |(code, detail)| Support::No(Reason::new(code, detail));
    if let Some(obstacle) = obstacle(graph, node, target) {
        return no(obstacle);
    }
    match otherwise(graph, node, target) {
        Some((code, detail)) => Support::Emulated(Reason::new(code, detail)),
        None => Support::Yes,
    }
}

type Obstacle = Option<(ReasonCode, String)>;

/// What the device does in another way than a device with the node's own operation would.
fn otherwise(graph: &Graph, node: &Node, target: &Target) -> Obstacle {
    match &node.op {
        Op::Attention { .. } if target.products != ProductForm::Batched => {
            let by = target.products.name();
            let (code, why) = match target.level < FeatureLevel::FL6 {
                true => {
                    let (level, needed) = (target.level, FeatureLevel::FL6);
                    let why = format!("has feature level {level}, BATCH_MATMUL needs {needed}");
                    (ReasonCode::OpVersion, why)
                }
                false => (ReasonCode::VendorRejected, "refuses BATCH_MATMUL".into()),
            };
            Some((code, format!("the device {why}: products by {by}")))
        }
        Op::Linear => {
            let weight = graph.ty(*node.inputs.get(1)?);
            let held = match target.weights {
                WeightForm::Int8 | WeightForm::Int8Tensor => return None,
                WeightForm::Numbers => target.numbers.held().dtype(),
            };
            let elements = weight
                .shape
                .as_fixed()?
                .iter()
                .try_fold(1usize, |n, d| n.checked_mul(*d as usize))?;
            let own = weight.dtype.row_bytes(elements)?;
            let wide = held.row_bytes(elements)?;
            (wide > own).then(|| {
                let what = format!(
                    "weights in {} are widened to {held}: {wide} bytes instead of {own}",
                    weight.dtype
                );
                (ReasonCode::Quantization, what)
            })
        }
        _ => None,
    }
}

fn obstacle(graph: &Graph, node: &Node, target: &Target) -> Obstacle {
    let unknown = |what: String| Some((ReasonCode::OpUnknown, what));
    let name = node.op.name();
    // the operand that the host reads
    let host = match &node.op {
        Op::Linear => {
            let plain = sizes(graph, node, None).or_else(|| linear(graph, node));
            return plain.or_else(|| ranged(graph, node, target));
        }
        Op::RmsNorm { .. } | Op::LayerNorm { .. } => {
            return sizes(graph, node, None).or_else(|| constants(graph, node));
        }
        Op::Activation(activation) | Op::GatedActivation(activation) if known(*activation) => {
            return sizes(graph, node, None);
        }
        Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice { step: 1, .. }
        | Op::SoftCap { .. }
        | Op::Softmax { .. }
        | Op::Binary(BinaryOp::Add | BinaryOp::Mul | BinaryOp::Sub | BinaryOp::Div)
        | Op::Unary(
            UnaryOp::Neg
            | UnaryOp::Abs
            | UnaryOp::Exp
            | UnaryOp::Log
            | UnaryOp::Sqrt
            | UnaryOp::Rsqrt
            | UnaryOp::Sin
            | UnaryOp::Tanh
            | UnaryOp::Sigmoid,
        )
        | Op::Reduce {
            op: ReduceOp::Sum | ReduceOp::Mean,
            ..
        } => return sizes(graph, node, None),
        Op::MatMul { .. } => {
            return sizes(graph, node, None).or_else(|| product(graph, node, target));
        }
        Op::KvAppend { at, .. } if *at == Dim::CACHED => return sizes(graph, node, None),
        Op::KvAppend { .. } => {
            let what = "rows are appended after those of earlier steps only";
            return Some((ReasonCode::State, what.into()));
        }
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
        } => return sizes(graph, node, None).or_else(|| mask_given(graph, node)),
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
        Op::Embedding => match table(graph, node, target) {
            None => 1,
            refused => return refused,
        },
        _ => return unknown(format!("{name} is not lowered")),
    };
    sizes(graph, node, Some(host)).or_else(|| host_made(graph, node.inputs.get(host)))
}

/// Whether there are operations for `activation`.
fn known(activation: Activation) -> bool {
    matches!(
        activation,
        Activation::Relu
            | Activation::Silu
            | Activation::Gelu
            | Activation::GeluTanh
            | Activation::GeluQuick
    )
}

/// Sizes and types of operands and results, but for operand `apart`, which the host reads.
fn sizes(graph: &Graph, node: &Node, apart: Option<usize>) -> Obstacle {
    let inputs = node.inputs.iter().enumerate();
    let inputs = inputs.filter(|(i, _)| Some(*i) != apart).map(|(_, v)| v);
    for &value in inputs.chain(&node.outputs) {
        let ty = graph.ty(value);
        let name = &graph.value(value).name;
        let weight = matches!(graph.value(value).def, ValueDef::Weight(_));
        let rank = ty.shape.rank();
        if rank > MAX_RANK || (rank == 0 && !weight) {
            let what = format!("'{name}' has {rank} dimensions, of 1 to {MAX_RANK}");
            return Some((ReasonCode::Rank, what));
        }
        if !weight && ty.dtype != DType::F32 {
            let what = format!("'{name}' is {}, of f32 only", ty.dtype);
            return Some((ReasonCode::DType, what));
        }
        if ty.shape.dims().contains(&Dim::Fixed(0)) {
            let what = format!("'{name}' is {ty}: there is nothing in it");
            return Some((ReasonCode::ShapeLimit, what));
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
    if rank < 2 {
        let what = format!("a product of {rank} dimensions, of 2 to {MAX_RANK}");
        return Some((ReasonCode::Rank, what));
    }
    constants(graph, node)
}

/// Whether it is known between which numbers a product's operand and result are, where that must be.
fn ranged(graph: &Graph, node: &Node, target: &Target) -> Obstacle {
    let ranges = match (&target.ranges, target.weights) {
        (Some(ranges), WeightForm::Int8 | WeightForm::Int8Tensor) => ranges,
        (None, WeightForm::Int8Tensor) => {
            let what = "weights in int8-tensor need ranges of activations; calibrate this model";
            return Some((ReasonCode::Quantization, what.into()));
        }
        _ => return None,
    };
    let mut values = node.inputs.iter().take(1).chain(&node.outputs);
    let unknown = values.find(|v| ranges.of_value(&graph.value(**v).name).is_none())?;
    let name = &graph.value(*unknown).name;
    let what = format!("the ranges of activations have none of '{name}'; calibrate this model");
    Some((ReasonCode::Quantization, what))
}

/// A table of which few rows are read must be there anyway: as the file has it, or as the matrix of a product.
fn table(graph: &Graph, node: &Node, target: &Target) -> Obstacle {
    let table = *node.inputs.first()?;
    let value = graph.value(table);
    if !matches!(value.def, ValueDef::Weight(_)) {
        return Some((ReasonCode::State, format!("'{}' is no weight", value.name)));
    }
    let held = target.numbers.held().dtype();
    let product = |n: &Node| matches!(n.op, Op::Linear) && n.inputs.get(1) == Some(&table);
    let widened = target.weights == WeightForm::Numbers && graph.nodes().iter().any(product);
    (value.ty.dtype != held && !widened).then(|| {
        let what = format!(
            "the whole of '{}' would be widened from {} to {held} for a few rows",
            value.name, value.ty.dtype
        );
        (ReasonCode::Quantization, what)
    })
}

/// Products of matrices of equally many batches.
fn product(graph: &Graph, node: &Node, target: &Target) -> Obstacle {
    if target.level < FeatureLevel::FL6 {
        let (level, needed) = (target.level, FeatureLevel::FL6);
        let what = format!("BATCH_MATMUL needs feature level {needed}, the device has {level}");
        return Some((ReasonCode::OpVersion, what));
    }
    let dims = |i: usize| node.inputs.get(i).map(|v| graph.ty(*v).shape.dims());
    let (a, b) = (dims(0)?, dims(1)?);
    let batches = |d: &[Dim]| d[..d.len().saturating_sub(2)].to_vec();
    (batches(a) != batches(b)).then(|| {
        let what = "factors of unequal leading dimensions are not lowered";
        (ReasonCode::ShapeLimit, what.into())
    })
}

/// Operands after the first must be weights.
fn constants(graph: &Graph, node: &Node) -> Obstacle {
    let mut others = node.inputs.iter().skip(1);
    let made = others.find(|&&v| !matches!(graph.value(v).def, ValueDef::Weight(_)))?;
    let what = format!("'{}' is no weight", graph.value(*made).name);
    Some((ReasonCode::State, what))
}

/// Attention's own mask must be there before the run starts, as the host looks whether each query sees something.
fn mask_given(graph: &Graph, node: &Node) -> Obstacle {
    let mask = graph.value(*node.inputs.get(3)?);
    (!matches!(mask.def, ValueDef::Input)).then(|| {
        let what = format!("'{}' is computed, but the host must know it", mask.name);
        (ReasonCode::DynamicShape, what)
    })
}

/// An operand that the host reads must be there before the run starts.
fn host_made(graph: &Graph, value: Option<&ValueId>) -> Obstacle {
    let value = graph.value(*value?);
    match value.def {
        ValueDef::Input if value.ty.shape.rank() == 0 => {
            let what = format!("'{}' has 0 dimensions, of 1 to {MAX_RANK}", value.name);
            Some((ReasonCode::Rank, what))
        }
        ValueDef::Input if value.ty.dtype == DType::I32 => None,
        ValueDef::Input => {
            let what = format!("'{}' is {}, of i32 only", value.name, value.ty.dtype);
            Some((ReasonCode::DType, what))
        }
        _ => {
            let what = format!("'{}' is computed, but the host must know it", value.name);
            Some((ReasonCode::DynamicShape, what))
        }
    }
}
