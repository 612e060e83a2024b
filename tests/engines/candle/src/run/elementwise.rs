//! Functions of elements, choices, sums.
//!
//! Floats are taken to F32 and the result is rounded to their type once.

use std::f64::consts::FRAC_1_SQRT_2;

use anynpu_ir::{Activation, BinaryOp, ReduceOp, UnaryOp};
use candle_core::{DType, Device, Tensor};

use super::Call;
use crate::Fault;

/// `f` of operand 0 in F32, in the operand's type.
fn map(
    call: &Call<'_>,
    f: impl Fn(&Tensor) -> Result<Tensor, candle_core::Error>,
) -> Result<Tensor, Fault> {
    let own = call.operand(0)?.dtype();
    Ok(f(&call.float(0)?)?.to_dtype(own)?)
}

/// A Bool as 0 or 1.
fn truth(x: &Tensor) -> Result<Tensor, candle_core::Error> {
    x.ne(0u8)
}

pub(super) fn unary(call: &Call<'_>, f: UnaryOp) -> Result<Tensor, Fault> {
    match f {
        UnaryOp::Not => Ok(call.operand(0)?.eq(0u8)?),
        UnaryOp::Neg => map(call, Tensor::neg),
        UnaryOp::Abs => map(call, Tensor::abs),
        UnaryOp::Exp => map(call, Tensor::exp),
        UnaryOp::Log => map(call, Tensor::log),
        UnaryOp::Sqrt => map(call, Tensor::sqrt),
        UnaryOp::Rsqrt => map(call, |x| x.sqrt()?.recip()),
        UnaryOp::Reciprocal => map(call, Tensor::recip),
        UnaryOp::Sin => map(call, Tensor::sin),
        UnaryOp::Cos => map(call, Tensor::cos),
        UnaryOp::Tanh => map(call, Tensor::tanh),
        UnaryOp::Sigmoid => map(call, sigmoid),
        UnaryOp::Erf => map(call, Tensor::erf),
        UnaryOp::Floor => map(call, Tensor::floor),
        UnaryOp::Ceil => map(call, Tensor::ceil),
        _ => Err(call.unclaimed()),
    }
}

fn sigmoid(x: &Tensor) -> Result<Tensor, candle_core::Error> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// The activation `f` of F32 elements.
fn activated(call: &Call<'_>, f: Activation, x: &Tensor) -> Result<Tensor, Fault> {
    Ok(match f {
        // candle's own gives 0 for NaN
        Activation::Relu => x.maximum(&x.zeros_like()?)?,
        Activation::Silu => x.silu()?,
        Activation::Gelu => gelu(x)?,
        Activation::GeluTanh => x.gelu()?,
        Activation::GeluQuick => (x * sigmoid(&(x * 1.702)?)?)?,
        _ => return Err(call.unclaimed()),
    })
}

/// x·(1 + erf(x/√2))/2.
fn gelu(x: &Tensor) -> Result<Tensor, candle_core::Error> {
    let half = (((x * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
    x * half
}

pub(super) fn activation(call: &Call<'_>, f: Activation) -> Result<Tensor, Fault> {
    let own = call.operand(0)?.dtype();
    Ok(activated(call, f, &call.float(0)?)?.to_dtype(own)?)
}

pub(super) fn gated(call: &Call<'_>, f: Activation) -> Result<Tensor, Fault> {
    let own = call.operand(0)?.dtype();
    let gate = activated(call, f, &call.float(0)?)?;
    Ok((gate * call.float(1)?)?.to_dtype(own)?)
}

pub(super) fn soft_cap(call: &Call<'_>, cap: f32) -> Result<Tensor, Fault> {
    map(call, |x| capped(x, cap))
}

/// cap·tanh(x / cap).
pub(super) fn capped(x: &Tensor, cap: f32) -> Result<Tensor, candle_core::Error> {
    let cap = f64::from(cap);
    (x / cap)?.tanh()? * cap
}

pub(super) fn softmax(call: &Call<'_>, axis: usize) -> Result<Tensor, Fault> {
    map(call, |x| softmax_of(x, axis))
}

/// exp(x − max) / Σ exp(x − max) along `axis`.
pub(super) fn softmax_of(x: &Tensor, axis: usize) -> Result<Tensor, candle_core::Error> {
    let exps = x.broadcast_sub(&x.max_keepdim(axis)?)?.exp()?;
    exps.broadcast_div(&exps.sum_keepdim(axis)?)
}

pub(super) fn binary(call: &Call<'_>, f: BinaryOp) -> Result<Tensor, Fault> {
    let (a, b) = (call.operand(0)?, call.operand(1)?);
    let arithmetic = |f: fn(&Tensor, &Tensor) -> Result<Tensor, candle_core::Error>| {
        let wide = f(&call.float(0)?, &call.float(1)?)?;
        Ok(wide.to_dtype(a.dtype())?)
    };
    Ok(match f {
        BinaryOp::Add => return arithmetic(Tensor::broadcast_add),
        BinaryOp::Sub => return arithmetic(Tensor::broadcast_sub),
        BinaryOp::Mul => return arithmetic(Tensor::broadcast_mul),
        BinaryOp::Div => return arithmetic(Tensor::broadcast_div),
        BinaryOp::Equal if is_bool(call) => truth(a)?.broadcast_eq(&truth(b)?)?,
        BinaryOp::Equal => a.broadcast_eq(b)?,
        BinaryOp::Less => a.broadcast_lt(b)?,
        BinaryOp::LessEqual => a.broadcast_le(b)?,
        BinaryOp::Greater => a.broadcast_gt(b)?,
        BinaryOp::GreaterEqual => a.broadcast_ge(b)?,
        BinaryOp::And => truth(a)?.broadcast_mul(&truth(b)?)?,
        BinaryOp::Or => truth(a)?.broadcast_maximum(&truth(b)?)?,
        _ => return Err(call.unclaimed()),
    })
}

fn is_bool(call: &Call<'_>) -> bool {
    let first = call.node.inputs.first();
    first.is_some_and(|&v| call.graph.ty(v).dtype == anynpu_ir::DType::Bool)
}

pub(super) fn select(call: &Call<'_>) -> Result<Tensor, Fault> {
    let shape = call.shape();
    let side =
        |i: usize| -> Result<Tensor, Fault> { Ok(call.operand(i)?.broadcast_as(&shape[..])?) };
    Ok(side(0)?.where_cond(&side(1)?, &side(2)?)?)
}

pub(super) fn reduce(
    call: &Call<'_>,
    op: ReduceOp,
    axes: &[u32],
    keep_dims: bool,
) -> Result<Tensor, Fault> {
    let x = call.float(0)?;
    let own = call.operand(0)?.dtype();
    let axes: Vec<usize> = axes.iter().map(|&a| a as usize).collect();
    let mean = match op {
        ReduceOp::Sum => false,
        ReduceOp::Mean => true,
        _ => return Err(call.unclaimed()),
    };
    if x.elem_count() == 0 {
        let value = if mean { f32::NAN } else { 0.0 };
        let all = Tensor::full(value, call.shape(), &Device::Cpu)?;
        return Ok(all.to_dtype(own)?);
    }
    let y = match (axes.is_empty(), mean, keep_dims) {
        (true, ..) => x,
        (_, false, true) => x.sum_keepdim(axes)?,
        (_, false, false) => x.sum(axes)?,
        (_, true, true) => x.mean_keepdim(axes)?,
        (_, true, false) => x.mean(axes)?,
    };
    debug_assert_eq!(y.dtype(), DType::F32);
    Ok(y.to_dtype(own)?)
}
