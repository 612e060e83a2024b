//! The operations around the matrix products: norms, rotary embedding, activations, sums and
//! attention.
//!
//! They are portable loops that compilers vectorise, in an order that depends on the operands'
//! shapes alone: sums run over [`LANES`] partial sums that are added as a tree. Nothing here is
//! contracted to fused multiply-adds, so all processors agree.

mod attention;
mod math;

use anynpu_ir::{Activation, RopeStyle};

use super::buffer::Shared;
use super::{KernelError, check_len};
use crate::pool::Pool;

pub use attention::{Attention, KvRows, MAX_HEAD_DIM, attention};
pub use math::{erf, exp};

/// Partial sums of a reduction.
pub(crate) const LANES: usize = 16;

/// Elements from which sharing an elementwise loop between threads is worth a fork.
const PARALLEL: usize = 1 << 15;

/// `Σ a·b`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (mut chunks_a, mut chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut chunks_a).zip(&mut chunks_b) {
        for l in 0..LANES {
            lanes[l] += a[l] * b[l];
        }
    }
    let rest = chunks_a.remainder().iter().zip(chunks_b.remainder());
    for (lane, (a, b)) in lanes.iter_mut().zip(rest) {
        *lane += a * b;
    }
    tree(lanes)
}

/// `Σ x`.
#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for x in &mut chunks {
        for l in 0..LANES {
            lanes[l] += x[l];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += x;
    }
    tree(lanes)
}

/// The lanes' sum: halves added to halves.
#[inline(always)]
fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Calls `row(i, out_row)` for every row of `out`, on several threads if it is large.
fn each_row(pool: &Pool, out: &mut [f32], width: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
    if width == 0 {
        return;
    }
    if out.len() < PARALLEL {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            row(i, out);
        }
        return;
    }
    let rows = out.len() / width;
    let shared = Shared::new(out);
    pool.run(rows, |i| {
        // SAFETY: each row is written by one task, and `out` stays borrowed until all are done.
        row(i, unsafe { shared.slice(i * width, width) });
    });
}

/// `out = f(i)` elementwise over equal operands, in pieces if it is large.
fn each_piece(pool: &Pool, out: &mut [f32], piece: impl Fn(usize, &mut [f32]) + Sync) {
    const PIECE: usize = PARALLEL / 4;
    if out.len() < PARALLEL {
        return piece(0, out);
    }
    let len = out.len();
    let shared = Shared::new(out);
    pool.run(len.div_ceil(PIECE), |i| {
        let at = i * PIECE;
        // SAFETY: each piece is written by one task, and `out` stays borrowed until all are done.
        piece(at, unsafe { shared.slice(at, PIECE.min(len - at)) });
    });
}

/// `out = x / √(mean(x²) + eps) · weight`, row by row of `weight.len()` elements.
///
/// # Errors
/// [`KernelError::Size`] if `x` and `out` differ in size or are not whole rows.
pub fn rms_norm(
    pool: &Pool,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = weight.len();
    check_rows("norm", x.len(), width, out.len())?;
    each_row(pool, out, width, |i, out| {
        let x = &x[i * width..][..width];
        let scale = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    });
    Ok(())
}

/// `out = (x − mean) / √(variance + eps) · gamma + beta`, row by row.
///
/// # Errors
/// As [`rms_norm`]; also if `beta` is not as long as `gamma`.
pub fn layer_norm(
    pool: &Pool,
    x: &[f32],
    gamma: &[f32],
    beta: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = gamma.len();
    check_rows("norm", x.len(), width, out.len())?;
    if let Some(beta) = beta {
        check_len("beta", 1, width, beta.len())?;
    }
    each_row(pool, out, width, |i, out| {
        let x = &x[i * width..][..width];
        let mean = sum(x) / width as f32;
        for (out, x) in out.iter_mut().zip(x) {
            *out = x - mean;
        }
        let scale = 1.0 / (dot(out, out) / width as f32 + eps).sqrt();
        for (out, gamma) in out.iter_mut().zip(gamma) {
            *out = *out * scale * gamma;
        }
        for (out, beta) in out.iter_mut().zip(beta.unwrap_or(&[])) {
            *out += beta;
        }
    });
    Ok(())
}

/// Fills `cos` and `sin`, each `[positions, frequencies]`, with those of `position · frequency`,
/// times `magnitude`.
///
/// # Errors
/// [`KernelError::Size`] if the tables have another size.
pub fn rope_table(
    positions: &[i32],
    frequencies: &[f32],
    magnitude: f32,
    cos: &mut [f32],
    sin: &mut [f32],
) -> Result<(), KernelError> {
    check_len("cosines", positions.len(), frequencies.len(), cos.len())?;
    check_len("sines", positions.len(), frequencies.len(), sin.len())?;
    let mut entries = cos.iter_mut().zip(sin);
    for &p in positions {
        for (f, (cos, sin)) in frequencies.iter().zip(&mut entries) {
            let (s, c) = (p as f32 * f).sin_cos();
            (*cos, *sin) = (c * magnitude, s * magnitude);
        }
    }
    Ok(())
}

/// Shape of the operand of [`rope`].
#[derive(Clone, Copy, Debug)]
pub struct RopeLayout {
    /// Heads of a token.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rotated elements of a head, even, at most `head_dim`.
    pub dims: usize,
    /// Which elements pair up.
    pub style: RopeStyle,
}

/// Rotates `x` `[tokens, heads, head_dim]` by the tables of [`rope_table`], `[tokens, dims/2]`.
///
/// # Errors
/// [`KernelError::Size`] if operands don't fit the layout.
pub fn rope(
    pool: &Pool,
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    layout: &RopeLayout,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let RopeLayout {
        heads,
        head_dim,
        dims,
        style,
    } = *layout;
    let (width, pairs) = (heads * head_dim, dims / 2);
    if dims > head_dim || !dims.is_multiple_of(2) {
        return Err(KernelError::Size {
            what: "rotated elements of a head",
            expected: head_dim,
            found: dims,
        });
    }
    check_rows("rope", x.len(), width, out.len())?;
    let tokens = x.len().checked_div(width).unwrap_or(0);
    check_len("cosines", tokens, pairs, cos.len())?;
    check_len("sines", tokens, pairs, sin.len())?;
    each_row(pool, out, width, |t, out| {
        let (cos, sin) = (&cos[t * pairs..][..pairs], &sin[t * pairs..][..pairs]);
        let x = &x[t * width..][..width];
        for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            match style {
                RopeStyle::Interleaved => {
                    for i in 0..pairs {
                        let (a, b) = (x[2 * i], x[2 * i + 1]);
                        out[2 * i] = a * cos[i] - b * sin[i];
                        out[2 * i + 1] = a * sin[i] + b * cos[i];
                    }
                }
                RopeStyle::HalfSplit => {
                    for i in 0..pairs {
                        let (a, b) = (x[i], x[i + pairs]);
                        out[i] = a * cos[i] - b * sin[i];
                        out[i + pairs] = a * sin[i] + b * cos[i];
                    }
                }
            }
            out[dims..].copy_from_slice(&x[dims..]);
        }
    });
    Ok(())
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// Applies `f`, known at compile time, to every element.
macro_rules! activate {
    ($act:expr, $f:ident => $body:expr) => {
        match $act {
            Activation::Relu => {
                let $f = |x: f32| if x.is_nan() { x } else { x.max(0.0) };
                $body
            }
            Activation::Silu => {
                let $f = |x: f32| x * sigmoid(x);
                $body
            }
            Activation::Gelu => {
                let $f = |x: f32| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
                $body
            }
            Activation::GeluTanh => {
                let root = (2.0 / std::f32::consts::PI).sqrt();
                let $f = |x: f32| 0.5 * x * (1.0 + tanh(root * (x + 0.044715 * x * x * x)));
                $body
            }
            Activation::GeluQuick => {
                let $f = |x: f32| x * sigmoid(1.702 * x);
                $body
            }
            other => return Err(KernelError::Activation { asked: other }),
        }
    };
}

/// `out = act(x)`.
///
/// # Errors
/// [`KernelError::Size`] if the operands differ in size; [`KernelError::Activation`] for an
/// activation this build does not know.
pub fn activation(
    pool: &Pool,
    act: Activation,
    x: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_len("result", 1, x.len(), out.len())?;
    activate!(act, f => each_piece(pool, out, |at, out| {
        for (out, x) in out.iter_mut().zip(&x[at..]) {
            *out = f(*x);
        }
    }));
    Ok(())
}

/// `out = act(gate) · up`.
///
/// # Errors
/// As [`activation`].
pub fn gated_activation(
    pool: &Pool,
    act: Activation,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_len("gate", 1, out.len(), gate.len())?;
    check_len("up", 1, out.len(), up.len())?;
    activate!(act, f => each_piece(pool, out, |at, out| {
        for ((out, gate), up) in out.iter_mut().zip(&gate[at..]).zip(&up[at..]) {
            *out = f(*gate) * up;
        }
    }));
    Ok(())
}

/// Elementwise arithmetic of [`arithmetic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the operation its name says
pub enum Arithmetic {
    Add,
    Sub,
    Mul,
}

/// `out = a ∘ b` of equal sizes.
///
/// # Errors
/// [`KernelError::Size`] if the operands differ in size.
pub fn arithmetic(
    pool: &Pool,
    op: Arithmetic,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_len("first operand", 1, out.len(), a.len())?;
    check_len("second operand", 1, out.len(), b.len())?;
    let run = |f: fn(f32, f32) -> f32, out: &mut [f32]| {
        each_piece(pool, out, |at, out| {
            for ((out, a), b) in out.iter_mut().zip(&a[at..]).zip(&b[at..]) {
                *out = f(*a, *b);
            }
        });
    };
    match op {
        Arithmetic::Add => run(|a, b| a + b, out),
        Arithmetic::Sub => run(|a, b| a - b, out),
        Arithmetic::Mul => run(|a, b| a * b, out),
    }
    Ok(())
}

/// Checks that `x` and `out` are the same whole number of rows.
fn check_rows(what: &'static str, x: usize, width: usize, out: usize) -> Result<(), KernelError> {
    check_len(what, 1, x, out)?;
    let rows = x.checked_div(width).unwrap_or(0);
    check_len(what, rows, width, x)
}
