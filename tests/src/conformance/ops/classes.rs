//! What ops are called in ids, which bounds they keep, and which of their operands are usually weights.

use anynpu_cpu::reference::{NoStates, Tensor, TensorRef, evaluate_node};
use anynpu_ir::{Activation, BinaryOp, DType, Op, ReduceOp, SymbolValues, UnaryOp};

use super::sums;
use crate::conformance::bounds::{Class, magnitude};
use crate::conformance::values::float_tensor;

/// The op's name in ids.
pub(super) fn slug(op: &Op) -> String {
    match op {
        Op::Unary(f) => f.name().into(),
        Op::Binary(f) => f.name().into(),
        Op::Activation(f) => f.name().into(),
        Op::GatedActivation(f) => format!("gated_{}", f.name()),
        Op::Reduce { op, .. } => format!("reduce_{}", op.name()),
        other => {
            let mut slug = String::new();
            for c in other.name().chars() {
                if c.is_ascii_uppercase() && !slug.is_empty() {
                    slug.push('_');
                }
                slug.push(c.to_ascii_lowercase());
            }
            slug
        }
    }
}

/// The operands' types in ids, without those of indices and conditions; one where all are the same.
pub(super) fn dtypes(op: &Op, inputs: &[Tensor]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (i, tensor) in inputs.iter().enumerate() {
        let index = matches!(op, Op::Embedding | Op::Gather { .. } | Op::Scatter { .. } if i == 1)
            || matches!(op, Op::ExpertLinear if i == 2)
            || matches!(op, Op::Rope { .. } if i == 1)
            || matches!(op, Op::Quantize { .. } | Op::Dequantize { .. } if i > 0)
            || matches!(op, Op::Attention { .. } if tensor.dtype() == DType::I32)
            || matches!(op, Op::Select if i == 0);
        if !index {
            names.push(tensor.dtype().name());
        }
    }
    match names.first() {
        None => "i32".into(),
        Some(first) if names.iter().all(|name| name == first) => (*first).into(),
        _ => names.join("_"),
    }
}

/// The operands that models keep as weights.
pub(super) const fn usual_weights(op: &Op) -> &'static [usize] {
    match op {
        Op::Linear | Op::LayerNorm { .. } | Op::Conv1d { .. } | Op::Conv2d { .. } => &[1, 2],
        Op::Quantize { .. } | Op::Dequantize { .. } => &[1, 2],
        Op::ExpertLinear | Op::RmsNorm { .. } | Op::MatMul { .. } | Op::Binary(_) => &[1],
        Op::Embedding | Op::Gather { .. } => &[0],
        Op::Rope { .. } => &[2],
        _ => &[],
    }
}

/// The bounds that the op's results keep on operands of these types.
pub(crate) fn class_of(op: &Op, inputs: &[Tensor]) -> Class {
    let blocks = inputs.iter().any(|t| t.dtype().is_block());
    match op {
        Op::Linear | Op::ExpertLinear if blocks => Class::Blocks,
        Op::Linear | Op::ExpertLinear | Op::MatMul { .. } => Class::Sum,
        Op::Conv1d { .. } | Op::Conv2d { .. } => Class::Sum,
        Op::Embedding | Op::Gather { .. } if blocks => Class::Rounded,
        Op::RmsNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Softmax { .. }
        | Op::Rope { .. }
        | Op::Attention { .. } => Class::Composite,
        Op::Unary(f) => match f {
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not => Class::Exact,
            UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round => Class::Exact,
            _ => Class::Function,
        },
        Op::Activation(Activation::Relu) => Class::Exact,
        Op::Activation(_) | Op::GatedActivation(_) | Op::SoftCap { .. } => Class::Function,
        Op::Binary(f) => match f {
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div => Class::Rounded,
            BinaryOp::Pow => Class::Function,
            _ => Class::Exact,
        },
        Op::Reduce {
            op: ReduceOp::Sum | ReduceOp::Mean,
            ..
        } => Class::Sum,
        Op::Cast { .. } | Op::Dequantize { .. } => Class::Rounded,
        _ => Class::Exact,
    }
}

/// The magnitude that went into `expected`: see [`crate::conformance::bounds`].
pub(crate) fn scale_of(op: &Op, inputs: &[Tensor], expected: &Tensor) -> f64 {
    let own = magnitude(expected);
    if !sums(class_of(op, inputs)) {
        return own;
    }
    let positive = |t: &Tensor| match t.to_f32() {
        Ok(values) => {
            let values = values
                .iter()
                .map(|x| if x.is_finite() { x.abs() } else { 0.0 });
            float_tensor(DType::F32, t.shape(), values.collect())
        }
        Err(_) => t.clone(),
    };
    let positive: Vec<Tensor> = inputs.iter().map(positive).collect();
    let views: Vec<TensorRef<'_>> = positive.iter().map(Tensor::view).collect();
    let symbols = SymbolValues::default();
    let sums = evaluate_node("magnitudes", op, &views, &mut NoStates, &symbols);
    let most = sums.iter().flatten().map(magnitude);
    most.fold(own, f64::max)
}
