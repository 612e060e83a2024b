//! Functions of elements, and conversions of their type.

use super::{Cx, Inferred, broadcast, one};
use crate::{BinaryOp, DType, Dim, GraphError, UnaryOp};

pub(super) fn float_map(cx: &Cx<'_>) -> Inferred {
    let [x] = cx.args(["x"])?;
    Ok(vec![x.float()?.ty.clone()])
}

pub(super) fn softmax(cx: &Cx<'_>, axis: u32) -> Inferred {
    let [x] = cx.args(["x"])?;
    x.float()?.filled_axis("axis", axis)?;
    Ok(vec![x.ty.clone()])
}

pub(super) fn unary(cx: &Cx<'_>, f: UnaryOp) -> Inferred {
    let [x] = cx.args(["x"])?;
    let signed = matches!(x.ty.dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let x = match f {
        UnaryOp::Not => x.is(DType::Bool)?,
        UnaryOp::Neg | UnaryOp::Abs => x.require(
            x.ty.dtype.is_float() || signed,
            "a float or signed integer type",
        )?,
        _ => x.float()?,
    };
    Ok(vec![x.ty.clone()])
}

pub(super) fn gated(cx: &Cx<'_>) -> Inferred {
    let [gate, up] = cx.args(["gate", "up"])?;
    let (gate, up) = (gate.float()?, up.float()?.same_dtype(gate)?);
    if gate.ty.shape != up.ty.shape {
        return gate.against(up, "shapes must be equal");
    }
    Ok(vec![gate.ty.clone()])
}

pub(super) fn binary(cx: &Cx<'_>, f: BinaryOp) -> Inferred {
    use BinaryOp::*;
    let [a, b] = cx.args(["a", "b"])?;
    let b = b.plain()?.same_dtype(a)?;
    let dtype = a.ty.dtype;
    let number = dtype.is_float() || dtype.is_integer();
    let result = match f {
        And | Or => a.is(DType::Bool)?.ty.dtype,
        Pow => a.float()?.ty.dtype,
        Add | Sub | Mul | Div | Max | Min => a.require(number, "a float or integer type")?.ty.dtype,
        Equal => a.plain().map(|_| DType::Bool)?,
        Less | LessEqual | Greater | GreaterEqual => a
            .require(number, "a float or integer type")
            .map(|_| DType::Bool)?,
    };
    match broadcast(a.dims(), b.dims()) {
        Some(dims) => one(result, dims),
        None => a.against(b, "shapes must broadcast"),
    }
}

pub(super) fn select(cx: &Cx<'_>) -> Inferred {
    let [condition, a, b] = cx.args(["condition", "a", "b"])?;
    let condition = condition.is(DType::Bool)?;
    let b = b.plain()?.same_dtype(a)?;
    let Some(dims) = broadcast(a.dims(), b.dims()) else {
        return a.against(b, "shapes must broadcast");
    };
    match broadcast(condition.dims(), &dims) {
        Some(dims) => one(a.ty.dtype, dims),
        None => {
            let widest = if b.rank() > a.rank() { b } else { a };
            condition.against(widest, "shapes must broadcast")
        }
    }
}

pub(super) fn cast(cx: &Cx<'_>, to: DType) -> Inferred {
    if to.is_block() {
        return cx.attribute("to", to, "a plain type");
    }
    let [x] = cx.args(["x"])?;
    one(to, x.ty.shape.clone())
}

pub(super) fn quantize(cx: &Cx<'_>, to: DType, axis: Option<u32>) -> Inferred {
    if !quantised(to) {
        return cx.attribute("to", to, "i8, u8, i16 or i32");
    }
    cx.args(["x", "scale", "zero_point"])?[0].is(DType::F32)?;
    parameters(cx, axis)?;
    one(to, cx.inputs[0].shape.clone())
}

pub(super) fn dequantize(cx: &Cx<'_>, axis: Option<u32>) -> Inferred {
    let [q, _, _] = cx.args(["q", "scale", "zero_point"])?;
    let q = q.require(quantised(q.ty.dtype), "i8, u8, i16 or i32")?;
    parameters(cx, axis)?;
    one(DType::F32, q.ty.shape.clone())
}

fn quantised(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::I32)
}

/// Checks `scale` and `zero_point`, operands 1 and 2, against operand 0.
fn parameters(cx: &Cx<'_>, axis: Option<u32>) -> Result<(), GraphError> {
    let x = cx.arg(0, "x");
    let scale = cx.arg(1, "scale").is(DType::F32)?;
    let zero_point = cx.arg(2, "zero_point").is(DType::I32)?;
    let channel: Vec<Dim> = match axis {
        Some(axis) => vec![x.axis("axis", axis)?],
        None => Vec::new(),
    };
    for parameter in [scale, zero_point] {
        if *parameter.dims() != *channel {
            let rule = match axis {
                Some(_) => "there must be one element per channel",
                None => "without an axis it must be a scalar, []",
            };
            return x.against(parameter, rule);
        }
    }
    Ok(())
}
