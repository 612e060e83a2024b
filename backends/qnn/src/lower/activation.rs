//! Activations and soft caps by operations of the HTP.

use anynpu_ir::Activation;

use super::Lowering;
use crate::htp::TensorId;

/// √(8/π): twice the factor of the tanh approximation of GELU, as `tanh(z) = 2σ(2z) − 1`.
const TWICE_ROOT: f32 = 1.595_769;
/// The share of the cube in it.
const CUBE: f32 = 0.044_715;

/// `activation` of `x`; `None` of one that is not known.
pub(super) fn activated(
    l: &mut Lowering<'_>,
    name: &str,
    activation: Activation,
    x: TensorId,
    dims: &[u32],
) -> Option<TensorId> {
    Some(match activation {
        Activation::Relu => l.op(&format!("{name}.relu"), "Relu", &[x], dims, &[]),
        Activation::Gelu => l.op(&format!("{name}.gelu"), "Gelu", &[x], dims, &[]),
        Activation::Silu => gated_by_itself(l, name, x, x, dims),
        Activation::GeluQuick => {
            let scaled = scaled(l, &format!("{name}.scaled"), x, dims, 1.702);
            gated_by_itself(l, name, x, scaled, dims)
        }
        // x·σ(2·√(2/π)·(x + 0.044715·x³)), with x taken out of the sum
        Activation::GeluTanh => {
            let square = times(l, &format!("{name}.square"), x, x, dims);
            let share = scaled(l, &format!("{name}.share"), square, dims, TWICE_ROOT * CUBE);
            let one = l.scalar(&format!("{name}.one"), TWICE_ROOT);
            let factor = l.op(
                &format!("{name}.factor"),
                "ElementWiseAdd",
                &[share, one],
                dims,
                &[],
            );
            let z = times(l, &format!("{name}.z"), x, factor, dims);
            gated_by_itself(l, name, x, z, dims)
        }
        _ => return None,
    })
}

/// `cap·tanh(x / cap)`.
pub(super) fn capped(
    l: &mut Lowering<'_>,
    name: &str,
    x: TensorId,
    dims: &[u32],
    cap: f32,
) -> TensorId {
    let x = scaled(l, &format!("{name}.scaled_down"), x, dims, 1.0 / cap);
    let x = l.op(&format!("{name}.tanh"), "Tanh", &[x], dims, &[]);
    scaled(l, &format!("{name}.scaled_up"), x, dims, cap)
}

/// `x` times a number.
pub(super) fn scaled(
    l: &mut Lowering<'_>,
    name: &str,
    x: TensorId,
    dims: &[u32],
    by: f32,
) -> TensorId {
    let by = l.scalar(&format!("{name}.by"), by);
    times(l, name, x, by, dims)
}

/// `x·σ(gate)`.
fn gated_by_itself(
    l: &mut Lowering<'_>,
    name: &str,
    x: TensorId,
    gate: TensorId,
    dims: &[u32],
) -> TensorId {
    let share = l.op(&format!("{name}.sigmoid"), "Sigmoid", &[gate], dims, &[]);
    times(l, &format!("{name}.gated"), x, share, dims)
}

fn times(l: &mut Lowering<'_>, name: &str, a: TensorId, b: TensorId, dims: &[u32]) -> TensorId {
    l.op(name, "ElementWiseMultiply", &[a, b], dims, &[])
}
