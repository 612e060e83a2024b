//! Nodes that are products, norms, convolutions and quantisation.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{Activation, BinaryOp, DType, Op, ReduceOp, UnaryOp, ValueId};

use super::Refusal;
use super::lower::{Lower, Step, skip};
use crate::cases::tensor;

const MATMUL: Op = Op::MatMul {
    transpose_a: false,
    transpose_b: false,
};

/// The results of the node, or `None` if it is not one of these.
pub(super) fn lower(b: &mut Lower<'_>, op: &str) -> Result<Option<Vec<ValueId>>, Refusal> {
    let one = match op {
        "MatMul" => matmul(b)?,
        "Gemm" => gemm(b)?,
        "MatMulInteger" => {
            let (x, y) = (centred(b, 0, 2)?, centred(b, 1, 3)?);
            b.node(MATMUL, &[x, y])?
        }
        "QLinearMatMul" => qlinear_matmul(b)?,
        "RMSNormalization" => norm(b, false)?,
        "LayerNormalization" => norm(b, true)?,
        "GroupNormalization" => group_norm(b)?,
        "Conv" => conv(b)?,
        "CausalConvWithState" => return causal_conv(b).map(Some),
        "QuantizeLinear" => quantize(b)?,
        "DequantizeLinear" => dequantize(b)?,
        "DynamicQuantizeLinear" => return dynamic_quantize(b).map(Some),
        _ => return Ok(None),
    };
    Ok(Some(vec![one]))
}

fn matmul(b: &mut Lower<'_>) -> Step {
    let (mut x, mut y) = (b.input(0)?, b.input(1)?);
    if let [k] = b.dims(x)[..] {
        x = b.reshape(&[1, k], x)?;
    }
    if let [k] = b.dims(y)[..] {
        y = b.reshape(&[k, 1], y)?;
    }
    b.node(MATMUL, &[x, y])
}

/// `alpha · a·b + beta · c`; a Linear where `b` is transposed and `c` a vector.
fn gemm(b: &mut Lower<'_>) -> Step {
    let (x, y) = (b.input(0)?, b.input(1)?);
    let (alpha, beta) = (b.float("alpha", 1.0), b.float("beta", 1.0));
    let transpose_a = b.int("transA", 0) == 1;
    let transpose_b = b.int("transB", 0) == 1;
    if transpose_b && !transpose_a && alpha == 1.0 && beta == 1.0 {
        let c = b.input(2)?;
        let n = b.dims(y)[0];
        let bias = b.reshape(&[n], c)?;
        return b.node(Op::Linear, &[x, y, bias]);
    }
    let product = Op::MatMul {
        transpose_a,
        transpose_b,
    };
    let product = b.node(product, &[x, y])?;
    let alpha = b.number(alpha)?;
    let product = b.binary(BinaryOp::Mul, product, alpha)?;
    if !b.has(2) {
        return Ok(product);
    }
    let (c, beta) = (b.input(2)?, b.number(beta)?);
    let c = b.binary(BinaryOp::Mul, c, beta)?;
    b.binary(BinaryOp::Add, product, c)
}

/// A parameter of one element as a scalar of `dtype`.
fn scalar(b: &mut Lower<'_>, i: usize, dtype: DType) -> Step {
    let x = b.input(i)?;
    if b.dims(x).iter().product::<usize>() != 1 {
        return skip("our products take no quantisation parameters per row");
    }
    let x = b.cast(dtype, x)?;
    b.reshape(&[], x)
}

/// Operand `i` less its zero point, as F32.
fn centred(b: &mut Lower<'_>, i: usize, zero_point: usize) -> Step {
    let (x, scale) = (b.input(i)?, b.number(1.0)?);
    let zero_point = scalar(b, zero_point, DType::I32)?;
    b.node(Op::Dequantize { axis: None }, &[x, scale, zero_point])
}

fn qlinear_matmul(b: &mut Lower<'_>) -> Step {
    let mut sides = Vec::new();
    for i in [0, 3] {
        let x = b.input(i)?;
        let scale = scalar(b, i + 1, DType::F32)?;
        let zero_point = scalar(b, i + 2, DType::I32)?;
        sides.push(b.node(Op::Dequantize { axis: None }, &[x, scale, zero_point])?);
    }
    let product = b.node(MATMUL, &sides)?;
    let scale = scalar(b, 6, DType::F32)?;
    let zero_point = scalar(b, 7, DType::I32)?;
    let to = b.tensor(7)?.dtype();
    b.node(
        Op::Quantize { to, axis: None },
        &[product, scale, zero_point],
    )
}

/// Norms over the axes from `axis` on, which our norms see as one.
fn norm(b: &mut Lower<'_>, centred: bool) -> Step {
    let x = b.input(0)?;
    let axis = b.axis(b.int("axis", -1), x) as usize;
    let dims = b.dims(x);
    let (outer, inner) = (dims[..axis].iter().product(), dims[axis..].iter().product());
    let mut operands = vec![b.reshape(&[outer, inner], x)?];
    for i in 1..b.count() {
        let parameter = b.input(i)?;
        operands.push(b.reshape(&[inner], parameter)?);
    }
    let eps = b.float("epsilon", 1e-5);
    match centred {
        true => b.node(Op::LayerNorm { eps }, &operands),
        false => b.node(Op::RmsNorm { eps }, &operands),
    }
}

fn group_norm(b: &mut Lower<'_>) -> Step {
    let x = b.input(0)?;
    let dims = b.dims(x);
    let groups = b.int("num_groups", 1) as usize;
    let inner = dims[1..].iter().product::<usize>() / groups;
    let rows = b.reshape(&[dims[0] * groups, inner], x)?;
    let ones = b.constant(&tensor(&[inner], vec![1f32; inner]))?;
    let eps = b.float("epsilon", 1e-5);
    let normed = b.node(Op::LayerNorm { eps }, &[rows, ones])?;
    let mut y = b.reshape(&dims, normed)?;
    for (i, f) in [(1, BinaryOp::Mul), (2, BinaryOp::Add)] {
        let parameter = b.input(i)?;
        let column = b.reshape(&[dims[1], 1, 1], parameter)?;
        y = b.binary(f, y, column)?;
    }
    Ok(y)
}

fn conv(b: &mut Lower<'_>) -> Step {
    let operands = (0..b.count()).map(|i| b.input(i));
    let operands = operands.collect::<Result<Vec<_>, _>>()?;
    let (x, w, y) = (b.dims(operands[0]), b.dims(operands[1]), b.output_shape(0));
    if x.len() != 4 {
        return skip("our Conv has one or two axes");
    }
    let strides = b.ints("strides").unwrap_or(vec![1, 1]);
    let pads = match b.ints("pads") {
        Some(pads) => pads,
        None => {
            // SAME: as much as the result's size needs.
            let total = |a: usize| {
                let reach = (y[2 + a] as i64 - 1) * strides[a] + w[2 + a] as i64;
                (reach - x[2 + a] as i64).max(0)
            };
            let small = [total(0) / 2, total(1) / 2];
            vec![small[0], small[1], total(0) - small[0], total(1) - small[1]]
        }
    };
    if pads[..2] != pads[2..] {
        return skip("our Conv pads both ends alike");
    }
    let pair = |v: &[i64]| [v[0] as u32, v[1] as u32];
    let conv = Op::Conv2d {
        stride: pair(&strides),
        padding: pair(&pads),
        dilation: pair(&b.ints("dilations").unwrap_or(vec![1, 1])),
        groups: b.int("group", 1) as u32,
    };
    b.node(conv, &operands)
}

/// A depthwise convolution over the kept samples and the new ones; the last are kept.
fn causal_conv(b: &mut Lower<'_>) -> Result<Vec<ValueId>, Refusal> {
    let (x, w) = (b.input(0)?, b.input(1)?);
    let (dims, taps) = (b.dims(x), b.dims(w)[2]);
    let past = match b.has(3) {
        true => b.input(3)?,
        false => {
            let (dtype, shape) = (b.ty(x).dtype, [dims[0], dims[1], taps - 1]);
            let zeros = vec![0.0; shape.iter().product()];
            let zeros = Tensor::from_f32(dtype, shape, zeros);
            b.constant(&zeros.map_err(|e| Refusal::Fault(e.to_string()))?)?
        }
    };
    let all = b.concat(2, &[past, x])?;
    let mut operands = vec![all, w];
    if b.has(2) {
        operands.push(b.input(2)?);
    }
    let conv = Op::Conv1d {
        stride: 1,
        padding: 0,
        dilation: 1,
        groups: dims[1] as u32,
    };
    let mut y = b.node(conv, &operands)?;
    if b.text("activation")
        .is_some_and(|a| a == "silu" || a == "swish")
    {
        y = b.node(Op::Activation(Activation::Silu), &[y])?;
    }
    let n = b.dims(all)[2];
    let kept = b.slice(2, n - (taps - 1), n, all)?;
    Ok(vec![y, kept])
}

/// Scale and zero point, operands 1 and 2, as ours, with their axis.
fn parameters(b: &mut Lower<'_>) -> Result<(ValueId, ValueId, Option<u32>), Refusal> {
    if b.int("block_size", 0) != 0 {
        return skip("our Quantize has no blocks");
    }
    let (x, scale) = (b.input(0)?, b.input(1)?);
    let shape = b.dims(scale);
    let zero_point = match b.has(2) {
        true => b.input(2)?,
        false => b.constant(&tensor(&shape, vec![0i32; shape.iter().product()]))?,
    };
    let zero_point = b.cast(DType::I32, zero_point)?;
    let axis = (!shape.is_empty()).then(|| b.axis(b.int("axis", 1), x));
    Ok((scale, zero_point, axis))
}

fn quantize(b: &mut Lower<'_>) -> Step {
    let (scale, zero_point, axis) = parameters(b)?;
    let to = match b.has(2) {
        true => b.tensor(2)?.dtype(),
        false => DType::U8,
    };
    let x = b.input(0)?;
    b.node(Op::Quantize { to, axis }, &[x, scale, zero_point])
}

fn dequantize(b: &mut Lower<'_>) -> Step {
    let (scale, zero_point, axis) = parameters(b)?;
    let x = b.input(0)?;
    b.node(Op::Dequantize { axis }, &[x, scale, zero_point])
}

/// Scale and zero point from the range of the values, 0 included.
fn dynamic_quantize(b: &mut Lower<'_>) -> Result<Vec<ValueId>, Refusal> {
    let x = b.input(0)?;
    let axes: Vec<u32> = (0..b.dims(x).len() as u32).collect();
    let mut bound = |op, f| {
        let axes = axes.clone();
        let reduce = Op::Reduce {
            op,
            axes,
            keep_dims: false,
        };
        let bound = b.node(reduce, &[x])?;
        let zero = b.number(0.0)?;
        b.binary(f, bound, zero)
    };
    let high = bound(ReduceOp::Max, BinaryOp::Max)?;
    let low = bound(ReduceOp::Min, BinaryOp::Min)?;
    let steps = b.number(255.0)?;
    let range = b.binary(BinaryOp::Sub, high, low)?;
    let scale = b.binary(BinaryOp::Div, range, steps)?;
    let zero_point = b.binary(BinaryOp::Div, low, scale)?;
    let zero_point = b.node(Op::Unary(UnaryOp::Neg), &[zero_point])?;
    let zero_point = b.node(Op::Unary(UnaryOp::Round), &[zero_point])?;
    let zero_point = b.cast(DType::U8, zero_point)?;
    let wide = b.cast(DType::I32, zero_point)?;
    let quantize = Op::Quantize {
        to: DType::U8,
        axis: None,
    };
    let y = b.node(quantize, &[x, scale, wide])?;
    Ok(vec![y, scale, zero_point])
}
