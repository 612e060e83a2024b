//! Functions of single elements.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use anynpu_ir::{Activation, BinaryOp, UnaryOp};

use super::index::broadcast_offsets;
use super::{Call, ReferenceError, Tensor};

pub(super) fn unary(call: &Call<'_>, f: UnaryOp) -> Result<Tensor, ReferenceError> {
    if call.dtype().is_float() {
        return map(call, unary_float(f).ok_or_else(|| call.unknown())?);
    }
    let integer = match f {
        UnaryOp::Neg => i64::wrapping_neg,
        UnaryOp::Abs => i64::wrapping_abs,
        UnaryOp::Not => |x| i64::from(x == 0),
        _ => return Err(call.unknown()),
    };
    call.integers(call.input(0).integers()?.into_iter().map(integer).collect())
}

fn unary_float(f: UnaryOp) -> Option<fn(f64) -> f64> {
    Some(match f {
        UnaryOp::Neg => |x| -x,
        UnaryOp::Abs => f64::abs,
        UnaryOp::Exp => f64::exp,
        UnaryOp::Log => f64::ln,
        UnaryOp::Sqrt => f64::sqrt,
        UnaryOp::Rsqrt => |x| 1.0 / x.sqrt(),
        UnaryOp::Reciprocal => f64::recip,
        UnaryOp::Sin => f64::sin,
        UnaryOp::Cos => f64::cos,
        UnaryOp::Tanh => f64::tanh,
        UnaryOp::Sigmoid => sigmoid,
        UnaryOp::Erf => erf,
        UnaryOp::Floor => f64::floor,
        UnaryOp::Ceil => f64::ceil,
        UnaryOp::Round => f64::round_ties_even,
        _ => return None,
    })
}

pub(super) fn activation(call: &Call<'_>, f: Activation) -> Result<Tensor, ReferenceError> {
    map(call, activation_of(f).ok_or_else(|| call.unknown())?)
}

pub(super) fn gated(call: &Call<'_>, f: Activation) -> Result<Tensor, ReferenceError> {
    let f = activation_of(f).ok_or_else(|| call.unknown())?;
    let (gate, up) = (call.input(0).floats()?, call.input(1).floats()?);
    let product = |(&gate, &up): (&f32, &f32)| (f(gate.into()) * f64::from(up)) as f32;
    call.floats(gate.iter().zip(&up[..]).map(product).collect())
}

pub(super) fn soft_cap(call: &Call<'_>, cap: f32) -> Result<Tensor, ReferenceError> {
    let cap = f64::from(cap);
    map(call, |x| cap * (x / cap).tanh())
}

fn map(call: &Call<'_>, f: impl Fn(f64) -> f64) -> Result<Tensor, ReferenceError> {
    let x = call.input(0).floats()?;
    call.floats(x.iter().map(|&x| f(x.into()) as f32).collect())
}

fn activation_of(f: Activation) -> Option<fn(f64) -> f64> {
    Some(match f {
        Activation::Relu => |x| max(x, 0.0),
        Activation::Silu => |x| x * sigmoid(x),
        Activation::Gelu => |x| x * 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)),
        Activation::GeluTanh => |x| {
            let inner = (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x);
            x * 0.5 * (1.0 + inner.tanh())
        },
        Activation::GeluQuick => |x| x * sigmoid(1.702 * x),
        _ => return None,
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function by its series of positive terms (Abramowitz and Stegun, 7.1.6):
/// `2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1))`; ±1 from 6 on, where the rest is below 2⁻⁵⁴.
fn erf(x: f64) -> f64 {
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// The larger; NaN if either is.
pub(super) fn max(a: f64, b: f64) -> f64 {
    match a.is_nan() || a > b {
        true => a,
        false => b,
    }
}

/// The smaller; NaN if either is.
pub(super) fn min(a: f64, b: f64) -> f64 {
    match a.is_nan() || a < b {
        true => a,
        false => b,
    }
}

pub(super) fn binary(call: &Call<'_>, f: BinaryOp) -> Result<Tensor, ReferenceError> {
    let (a, b) = (call.input(0), call.input(1));
    let at_a = broadcast_offsets(a.shape(), call.shape());
    let at_b = broadcast_offsets(b.shape(), call.shape());
    let pairs = at_a.into_iter().zip(at_b);
    if !a.dtype().is_float() {
        let f = binary_integer(f).ok_or_else(|| call.unknown())?;
        let (a, b) = (a.integers()?, b.integers()?);
        return call.integers(pairs.map(|(i, j)| f(a[i], b[j])).collect());
    }
    let (a, b) = (a.floats()?, b.floats()?);
    let pairs = pairs.map(|(i, j)| (f64::from(a[i]), f64::from(b[j])));
    if let Some(f) = float_comparison(f) {
        return call.integers(pairs.map(|(a, b)| f(&a, &b).into()).collect());
    }
    let f = binary_float(f).ok_or_else(|| call.unknown())?;
    call.floats(pairs.map(|(a, b)| f(a, b) as f32).collect())
}

fn binary_float(f: BinaryOp) -> Option<fn(f64, f64) -> f64> {
    Some(match f {
        BinaryOp::Add => |a, b| a + b,
        BinaryOp::Sub => |a, b| a - b,
        BinaryOp::Mul => |a, b| a * b,
        BinaryOp::Div => |a, b| a / b,
        BinaryOp::Pow => f64::powf,
        BinaryOp::Max => max,
        BinaryOp::Min => min,
        _ => return None,
    })
}

/// On I64; the caller wraps to narrower types. Truth values are 0 and 1.
fn binary_integer(f: BinaryOp) -> Option<fn(i64, i64) -> i64> {
    Some(match f {
        BinaryOp::Add => i64::wrapping_add,
        BinaryOp::Sub => i64::wrapping_sub,
        BinaryOp::Mul => i64::wrapping_mul,
        BinaryOp::Div => |a, b| match b {
            0 => 0,
            _ => a.wrapping_div(b),
        },
        BinaryOp::Max => i64::max,
        BinaryOp::Min => i64::min,
        BinaryOp::And => |a, b| a & b,
        BinaryOp::Or => |a, b| a | b,
        BinaryOp::Equal => |a, b| (a == b).into(),
        BinaryOp::Less => |a, b| (a < b).into(),
        BinaryOp::LessEqual => |a, b| (a <= b).into(),
        BinaryOp::Greater => |a, b| (a > b).into(),
        BinaryOp::GreaterEqual => |a, b| (a >= b).into(),
        _ => return None,
    })
}

fn float_comparison(f: BinaryOp) -> Option<fn(&f64, &f64) -> bool> {
    Some(match f {
        BinaryOp::Equal => f64::eq,
        BinaryOp::Less => f64::lt,
        BinaryOp::LessEqual => f64::le,
        BinaryOp::Greater => f64::gt,
        BinaryOp::GreaterEqual => f64::ge,
        _ => return None,
    })
}

pub(super) fn select(call: &Call<'_>) -> Result<Tensor, ReferenceError> {
    let condition = call.input(0);
    let at_condition = broadcast_offsets(condition.shape(), call.shape());
    let condition = condition.integers()?;
    let sides = [call.input(1), call.input(2)];
    let at = sides.map(|t| broadcast_offsets(t.shape(), call.shape()));
    let bytes = sides.map(|t| t.bytes());
    let size = call.dtype().block_bytes();
    let mut out = Vec::with_capacity(at_condition.len() * size);
    for (i, c) in at_condition.into_iter().enumerate() {
        let side = usize::from(condition[c] == 0);
        out.extend_from_slice(&bytes[side][at[side][i] * size..][..size]);
    }
    call.bytes(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_the_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in [
            (0.0, 0.0),
            (0.1, 0.1124629160),
            (0.5, 0.5204998778),
            (1.0, 0.8427007929),
            (1.5, 0.9661051465),
            (2.0, 0.9953222650),
        ] {
            assert!((erf(x) - expected).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(5.999).min(erf(6.0)), erf(5.999));
        assert!((erf(5.999) - 1.0).abs() < 1e-15);
        assert_eq!((erf(f64::INFINITY), erf(-7.0)), (1.0, -1.0));
        assert!(erf(f64::NAN).is_nan());
    }
}
