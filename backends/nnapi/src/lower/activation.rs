//! Activations and soft caps by operations of the interface.

use anynpu_ir::Activation;

use super::Lowering;
use crate::model::OperandId;
use crate::sys;

/// √(8/π): twice the factor of the tanh approximation of GELU, as `tanh(z) = 2σ(2z) − 1`.
const TWICE_ROOT: f32 = 1.595_769;
/// The share of the cube in it.
const CUBE: f32 = 0.044_715;

/// `activation` of `x`; `None` of one that is not known.
pub(super) fn activated(
    l: &mut Lowering<'_>,
    name: &str,
    activation: Activation,
    x: OperandId,
) -> Option<OperandId> {
    Some(match activation {
        Activation::Relu => l.same(&format!("{name}.relu"), sys::RELU, &[x]),
        Activation::Gelu => gelu(l, name, x),
        Activation::Silu => gated_by(l, name, x, x),
        Activation::GeluQuick => {
            let scaled = l.scaled(&format!("{name}.scaled"), x, 1.702);
            gated_by(l, name, x, scaled)
        }
        // x·σ(2·√(2/π)·(x + 0.044715·x³)), with x taken out of the sum
        Activation::GeluTanh => {
            let square = l.times(&format!("{name}.square"), x, x);
            let share = l.scaled(&format!("{name}.share"), square, TWICE_ROOT * CUBE);
            let factor = l.plus(&format!("{name}.factor"), share, TWICE_ROOT);
            let z = l.times(&format!("{name}.z"), x, factor);
            gated_by(l, name, x, z)
        }
        _ => return None,
    })
}

/// `cap·tanh(x / cap)`.
pub(super) fn capped(l: &mut Lowering<'_>, name: &str, x: OperandId, cap: f32) -> OperandId {
    let x = l.scaled(&format!("{name}.scaled_down"), x, 1.0 / cap);
    let x = l.same(&format!("{name}.tanh"), sys::TANH, &[x]);
    l.scaled(&format!("{name}.scaled_up"), x, cap)
}

/// `x·σ(gate)`.
fn gated_by(l: &mut Lowering<'_>, name: &str, x: OperandId, gate: OperandId) -> OperandId {
    let share = l.same(&format!("{name}.sigmoid"), sys::LOGISTIC, &[gate]);
    l.times(&format!("{name}.gated"), x, share)
}

/// Coefficients of `erfc(z) = t·(a₁ + t·(a₂ + …))·e^(−z²)`, `t = 1/(1 + p·z)`, within 1.5e-7 for `z ≥ 0`: Abramowitz and
/// Stegun, Handbook of Mathematical Functions, 7.1.26.
const P: f32 = 0.327_591_1;
const A: [f32; 5] = [
    0.254_829_6,
    -0.284_496_74,
    1.421_413_7,
    -1.453_152,
    1.061_405_4,
];

/// `x·Φ(x)`, which is `max(x, 0) − |x|·erfc(|x|/√2)/2`, as the interface has no error function.
fn gelu(l: &mut Lowering<'_>, name: &str, x: OperandId) -> OperandId {
    let size = l.same(&format!("{name}.abs"), sys::ABS, &[x]);
    let denominator = l.scaled(
        &format!("{name}.reach"),
        size,
        P * std::f32::consts::FRAC_1_SQRT_2,
    );
    let denominator = l.plus(&format!("{name}.denominator"), denominator, 1.0);
    let one = l.number(1.0);
    let t = l.pair(&format!("{name}.t"), sys::DIV, one, denominator);
    let mut sum = l.scaled(&format!("{name}.a5"), t, A[4]);
    for (i, a) in A[..4].iter().enumerate().rev() {
        sum = l.plus(&format!("{name}.sum{}", i + 1), sum, *a);
        sum = l.times(&format!("{name}.a{}", i + 1), sum, t);
    }
    let square = l.times(&format!("{name}.square"), x, x);
    let square = l.scaled(&format!("{name}.exponent"), square, -0.5);
    let fall = l.same(&format!("{name}.fall"), sys::EXP, &[square]);
    let tail = l.times(&format!("{name}.tail"), sum, fall);
    let tail = l.scaled(&format!("{name}.half"), tail, 0.5);
    let tail = l.times(&format!("{name}.missing"), size, tail);
    let positive = l.same(&format!("{name}.relu"), sys::RELU, &[x]);
    l.pair(&format!("{name}.gelu"), sys::SUB, positive, tail)
}
