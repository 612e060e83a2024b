//! What the engine claims.
//!
//! Left out, with the reason in the verdict: ops that candle lacks, and those whose edges differ from the op set's.

use anynpu_hal::{Reason, ReasonCode, Support};
use anynpu_ir::{Activation, BinaryOp, DType, Graph, Node, Op, ReduceOp, StateId, UnaryOp};

use crate::tensors::kept;

/// Whether the engine runs `node` of `graph`.
pub fn verdict(graph: &Graph, node: &Node) -> Support {
    match claim(graph, node) {
        Ok(()) => Support::Yes,
        Err(reason) => Support::No(reason),
    }
}

/// Whether results are F32 whatever the operands' float type, so that weights may be kept in F32.
pub(crate) fn gives_f32(op: &Op) -> bool {
    matches!(
        op,
        Op::Linear
            | Op::MatMul { .. }
            | Op::Embedding
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Rope { .. }
            | Op::Attention { .. }
    )
}

type Claim = Result<(), Reason>;

fn no(code: ReasonCode, detail: impl Into<String>) -> Claim {
    Err(Reason::new(code, detail))
}

fn claim(graph: &Graph, node: &Node) -> Claim {
    for &value in node.inputs.iter().chain(&node.outputs) {
        let dtype = graph.ty(value).dtype;
        if kept(dtype).is_none() {
            return no(
                ReasonCode::DType,
                format!("{dtype}: candle has no such type"),
            );
        }
    }
    let first = node.inputs.first().map(|&v| graph.ty(v).dtype);
    match &node.op {
        Op::Linear | Op::MatMul { .. } | Op::Embedding => Ok(()),
        Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::Rope { .. } => Ok(()),
        Op::Attention { .. } | Op::KvAppend { .. } | Op::StateRead { .. } => {
            node.op.states().try_for_each(|id| state(graph, id))
        }
        Op::Softmax { .. } | Op::SoftCap { .. } => Ok(()),
        Op::Unary(f) => unary(*f, first),
        Op::Activation(f) | Op::GatedActivation(f) => match f {
            Activation::Relu
            | Activation::Silu
            | Activation::Gelu
            | Activation::GeluTanh
            | Activation::GeluQuick => Ok(()),
            other => no(
                ReasonCode::OpUnknown,
                format!("activation {}", other.name()),
            ),
        },
        Op::Binary(f) => binary(*f, first),
        Op::Select | Op::Gather { .. } => Ok(()),
        Op::Reshape { .. } | Op::Transpose { .. } | Op::Broadcast { .. } => Ok(()),
        Op::Slice { .. } | Op::Concat { .. } | Op::Split { .. } => Ok(()),
        Op::Reduce { op, .. } => match op {
            ReduceOp::Sum | ReduceOp::Mean => floats("sums of integers do not wrap", first),
            ReduceOp::Max | ReduceOp::Min => no(
                ReasonCode::OpUnknown,
                "candle's largest and smallest pass over NaN",
            ),
            other => no(ReasonCode::OpUnknown, format!("reduction {}", other.name())),
        },
        other => no(
            ReasonCode::OpUnknown,
            format!("no {} is made of candle's ops", other.name()),
        ),
    }
}

fn state(graph: &Graph, id: StateId) -> Claim {
    let state = graph.state(id);
    match state.ty.dtype.is_float() {
        true => Ok(()),
        false => no(
            ReasonCode::State,
            format!("state '{}' of {}", state.name, state.ty.dtype),
        ),
    }
}

fn floats(why: &str, dtype: Option<DType>) -> Claim {
    match dtype {
        Some(d) if d.is_float() => Ok(()),
        Some(d) => no(ReasonCode::DType, format!("{d}: {why}")),
        None => no(ReasonCode::DType, "no operand"),
    }
}

fn unary(f: UnaryOp, dtype: Option<DType>) -> Claim {
    match f {
        UnaryOp::Not => Ok(()),
        UnaryOp::Round => no(ReasonCode::OpUnknown, "candle rounds halves away from zero"),
        UnaryOp::Neg
        | UnaryOp::Abs
        | UnaryOp::Exp
        | UnaryOp::Log
        | UnaryOp::Sqrt
        | UnaryOp::Rsqrt
        | UnaryOp::Reciprocal
        | UnaryOp::Sin
        | UnaryOp::Cos
        | UnaryOp::Tanh
        | UnaryOp::Sigmoid
        | UnaryOp::Erf
        | UnaryOp::Floor
        | UnaryOp::Ceil => floats("candle has functions of floats only", dtype),
        other => no(ReasonCode::OpUnknown, format!("function {}", other.name())),
    }
}

fn binary(f: BinaryOp, dtype: Option<DType>) -> Claim {
    match f {
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div => {
            floats("candle's integers do not wrap, nor divide by zero", dtype)
        }
        BinaryOp::And | BinaryOp::Or | BinaryOp::Equal => Ok(()),
        BinaryOp::Less | BinaryOp::LessEqual | BinaryOp::Greater | BinaryOp::GreaterEqual => {
            match dtype {
                Some(DType::I8) => no(ReasonCode::DType, "i8: candle has no signed bytes"),
                _ => Ok(()),
            }
        }
        BinaryOp::Max | BinaryOp::Min => no(
            ReasonCode::OpUnknown,
            "candle's larger and smaller pass over NaN on the right",
        ),
        BinaryOp::Pow => no(
            ReasonCode::OpUnknown,
            "candle's powers go through logarithms",
        ),
        other => no(ReasonCode::OpUnknown, format!("function {}", other.name())),
    }
}
