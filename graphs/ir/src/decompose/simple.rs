//! Decompositions of norms, softmax, activations, embeddings and one-dimensional convolutions.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::build::{Build, Step};
use crate::{Activation, BinaryOp, DType, Dim, Op, ReduceOp, UnaryOp, ValueId};

pub(super) fn embedding(b: &mut Build<'_, '_>, inputs: &[ValueId]) -> Step {
    let gather = Op::Gather { axis: 0 };
    let table = b.ty(inputs[0]).dtype;
    if table == DType::F32 || table.is_block() {
        return b.finish(gather, inputs);
    }
    let rows = b.step("rows", gather, inputs)?;
    b.finish(Op::Cast { to: DType::F32 }, &[rows])
}

pub(super) fn expert_linear(b: &mut Build<'_, '_>, inputs: &[ValueId]) -> Step {
    let [x, w, ids] = [inputs[0], inputs[1], inputs[2]];
    // Leading dimensions [T, M] and [T, S]; matrices [1, K] and [N, K].
    let mut dims = b.dims(x);
    dims.insert(2, Dim::Fixed(1));
    let rows = b.reshape("rows", dims, x)?;
    let matrices = b.step("matrices", Op::Gather { axis: 0 }, &[w, ids])?;
    let product = Op::MatMul {
        transpose_a: false,
        transpose_b: true,
    };
    let product = b.step("products", product, &[rows, matrices])?;
    let mut dims = b.dims(product);
    dims.remove(2);
    let shape = dims.into();
    b.finish(Op::Reshape { shape }, &[product])
}

pub(super) fn rms_norm(b: &mut Build<'_, '_>, inputs: &[ValueId], eps: f32) -> Step {
    let x = b.f32("x", inputs[0])?;
    let normed = unit_variance(b, x, eps)?;
    let weight = b.f32("weight", inputs[1])?;
    b.finish(Op::Binary(BinaryOp::Mul), &[normed, weight])
}

pub(super) fn layer_norm(b: &mut Build<'_, '_>, inputs: &[ValueId], eps: f32) -> Step {
    let x = b.f32("x", inputs[0])?;
    let last = b.ty(x).shape.rank() as u32 - 1;
    let mean = b.reduce("mean", ReduceOp::Mean, last, x)?;
    let centred = b.binary("centred", BinaryOp::Sub, x, mean)?;
    let normed = unit_variance(b, centred, eps)?;
    let gamma = b.f32("gamma", inputs[1])?;
    let mul = Op::Binary(BinaryOp::Mul);
    let Some(&beta) = inputs.get(2) else {
        return b.finish(mul, &[normed, gamma]);
    };
    let scaled = b.step("scaled", mul, &[normed, gamma])?;
    let beta = b.f32("beta", beta)?;
    b.finish(Op::Binary(BinaryOp::Add), &[scaled, beta])
}

/// `x / √(mean(x²) + eps)` along the last axis.
fn unit_variance(b: &mut Build<'_, '_>, x: ValueId, eps: f32) -> Step {
    let last = b.ty(x).shape.rank() as u32 - 1;
    let square = b.binary("square", BinaryOp::Mul, x, x)?;
    let mean = b.reduce("mean_square", ReduceOp::Mean, last, square)?;
    let eps = b.number("eps", eps, mean)?;
    let shifted = b.binary("shifted", BinaryOp::Add, mean, eps)?;
    let rsqrt = b.unary("rsqrt", UnaryOp::Rsqrt, shifted)?;
    b.binary("normed", BinaryOp::Mul, x, rsqrt)
}

pub(super) fn softmax(b: &mut Build<'_, '_>, inputs: &[ValueId], axis: u32) -> Step {
    let dtype = b.ty(inputs[0]).dtype;
    let x = b.f32("x", inputs[0])?;
    let max = b.reduce("max", ReduceOp::Max, axis, x)?;
    let below = b.binary("below", BinaryOp::Sub, x, max)?;
    let exp = b.unary("exp", UnaryOp::Exp, below)?;
    let sum = b.reduce("sum", ReduceOp::Sum, axis, exp)?;
    b.finish_as(dtype, Op::Binary(BinaryOp::Div), &[exp, sum])
}

pub(super) fn activation(b: &mut Build<'_, '_>, inputs: &[ValueId], f: Activation) -> Step {
    use BinaryOp::{Add, Max, Mul};
    let dtype = b.ty(inputs[0]).dtype;
    let x = b.f32("x", inputs[0])?;
    let factor = match f {
        Activation::Relu => {
            let zero = b.number("zero", 0.0, x)?;
            return b.finish_as(dtype, Op::Binary(Max), &[x, zero]);
        }
        Activation::Silu => b.unary("sigmoid", UnaryOp::Sigmoid, x)?,
        Activation::GeluQuick => {
            let slope = b.number("slope", 1.702, x)?;
            let steep = b.binary("steep", Mul, x, slope)?;
            b.unary("sigmoid", UnaryOp::Sigmoid, steep)?
        }
        Activation::Gelu => {
            let root = b.number("root", FRAC_1_SQRT_2, x)?;
            let scaled = b.binary("scaled", Mul, x, root)?;
            let erf = b.unary("erf", UnaryOp::Erf, scaled)?;
            half_above(b, erf)?
        }
        Activation::GeluTanh => {
            let square = b.binary("square", Mul, x, x)?;
            let cube = b.binary("cube", Mul, square, x)?;
            let weight = b.number("weight", 0.044715, x)?;
            let weighted = b.binary("weighted", Mul, cube, weight)?;
            let inner = b.binary("inner", Add, x, weighted)?;
            // √(2/π)
            let root = b.number("root", FRAC_2_SQRT_PI * FRAC_1_SQRT_2, x)?;
            let scaled = b.binary("scaled", Mul, inner, root)?;
            let tanh = b.unary("tanh", UnaryOp::Tanh, scaled)?;
            half_above(b, tanh)?
        }
    };
    b.finish_as(dtype, Op::Binary(Mul), &[x, factor])
}

/// `(1 + x) / 2`.
fn half_above(b: &mut Build<'_, '_>, x: ValueId) -> Step {
    let one = b.number("one", 1.0, x)?;
    let above = b.binary("above", BinaryOp::Add, x, one)?;
    let half = b.number("half", 0.5, x)?;
    b.binary("gate", BinaryOp::Mul, above, half)
}

pub(super) fn gated(b: &mut Build<'_, '_>, inputs: &[ValueId], f: Activation) -> Step {
    let dtype = b.ty(inputs[0]).dtype;
    let gate = b.f32("gate", inputs[0])?;
    let up = b.f32("up", inputs[1])?;
    let active = b.step(f.name(), Op::Activation(f), &[gate])?;
    b.finish_as(dtype, Op::Binary(BinaryOp::Mul), &[active, up])
}

pub(super) fn soft_cap(b: &mut Build<'_, '_>, inputs: &[ValueId], cap: f32) -> Step {
    let dtype = b.ty(inputs[0]).dtype;
    let x = b.f32("x", inputs[0])?;
    let cap = b.number("cap", cap, x)?;
    let small = b.binary("small", BinaryOp::Div, x, cap)?;
    let tanh = b.unary("tanh", UnaryOp::Tanh, small)?;
    b.finish_as(dtype, Op::Binary(BinaryOp::Mul), &[tanh, cap])
}

pub(super) fn conv1d(
    b: &mut Build<'_, '_>,
    inputs: &[ValueId],
    [stride, padding, dilation, groups]: [u32; 4],
) -> Step {
    // A height of 1 before the length.
    let tall = |dims: Vec<Dim>| vec![dims[0], dims[1], Dim::Fixed(1), dims[2]];
    let mut operands = vec![
        b.reshape("x", tall(b.dims(inputs[0])), inputs[0])?,
        b.reshape("w", tall(b.dims(inputs[1])), inputs[1])?,
    ];
    operands.extend(inputs.get(2));
    let conv = Op::Conv2d {
        stride: [1, stride],
        padding: [0, padding],
        dilation: [1, dilation],
        groups,
    };
    let y = b.step("conv2d", conv, &operands)?;
    let dims = b.dims(y);
    let shape = vec![dims[0], dims[1], dims[3]].into();
    b.finish(Op::Reshape { shape }, &[y])
}
