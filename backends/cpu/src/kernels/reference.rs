//! The matrix product written out plainly from the file's own blocks: what every path of the
//! kernels must equal bit for bit. See [`super`] for the formulas.

use anynpu_ir::DType;
use half::{bf16, f16};

use super::raw;
use super::{KernelError, check_weights};

/// A token's quantised activations.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quantised {
    pub blocks: Vec<QuantisedBlock>,
    /// `X` of the formulas.
    pub scale: f32,
}

/// 32 of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct QuantisedBlock {
    pub q: [i32; 32],
    /// `f`.
    pub factor: f32,
}

fn most(x: &[f32]) -> f32 {
    let larger = |a: f32, v: &f32| if v.abs() <= a { a } else { v.abs() };
    x.iter().fold(0.0, larger)
}

fn codes(x: &[f32], inverse: f32) -> [i32; 32] {
    let mut q = [0; 32];
    for (q, &x) in q.iter_mut().zip(x) {
        *q = (x * inverse).round_ties_even() as i32;
    }
    q
}

/// Quantises the activations of a token for weights of `dtype`.
pub(super) fn quantise(dtype: DType, x: &[f32]) -> Quantised {
    if dtype == DType::Q8_0 {
        return Quantised {
            blocks: x.chunks_exact(32).map(with_a_scale_of_its_own).collect(),
            scale: 1.0,
        };
    }
    let largest = most(x);
    let finite = x.iter().all(|v| v.is_finite());
    let counts = finite && largest >= super::SMALLEST_TOKEN;
    let blocks = x.chunks_exact(32).map(|x| {
        if !counts {
            return QuantisedBlock {
                q: [0; 32],
                factor: 1.0,
            };
        }
        let (own, mut finer) = (most(x), 0);
        while finer < 15 && own <= largest * 0.5f32.powi(finer + 1) {
            finer += 1;
        }
        QuantisedBlock {
            q: codes(x, 127.0 / largest * 2f32.powi(finer)),
            factor: 2f32.powi(15 - finer),
        }
    });
    Quantised {
        blocks: blocks.collect(),
        scale: match counts {
            true => largest / 127.0 * 0.5f32.powi(15),
            false if finite => 0.0,
            false => f32::NAN,
        },
    }
}

fn with_a_scale_of_its_own(x: &[f32]) -> QuantisedBlock {
    let largest = most(x);
    let (q, factor) = if !x.iter().all(|v| v.is_finite()) {
        ([0; 32], f32::NAN)
    } else if largest < super::SMALLEST_BLOCK {
        ([0; 32], 0.0)
    } else {
        (codes(x, 127.0 / largest), largest / 127.0)
    };
    QuantisedBlock { q, factor }
}

/// `out[t, r] = Σ_k x[t, k] · w[r, k] + bias[r]`, slowly.
///
/// `weights` are `rows` rows of `cols` elements as a file holds them, `x` is `[tokens, cols]` and
/// the result `[tokens, rows]`.
///
/// # Errors
/// As [`super::PackedMatrix::pack`] and [`super::Kernels::matmul`].
pub fn matmul(
    dtype: DType,
    rows: usize,
    cols: usize,
    weights: &[u8],
    x: &[f32],
    tokens: usize,
    bias: Option<&[f32]>,
) -> Result<Vec<f32>, KernelError> {
    let row_bytes = check_weights(dtype, rows, cols, weights)?;
    super::check_len("activations", tokens, cols, x.len())?;
    if let Some(bias) = bias {
        super::check_len("bias", 1, rows, bias.len())?;
    }
    let mut out = Vec::with_capacity(tokens * rows);
    for t in 0..tokens {
        let x = &x[t * cols..][..cols];
        let quantised = quantise(dtype, x);
        for r in 0..rows {
            let row = weights
                .get(r * row_bytes..)
                .map_or(&[][..], |w| &w[..row_bytes]);
            let sum = if dtype.is_block() {
                quantised_dot(dtype, row, &quantised)
            } else {
                float_dot(dtype, row, x)
            };
            out.push(match bias {
                Some(bias) => sum + bias[r],
                None => sum,
            });
        }
    }
    Ok(out)
}

fn float_dot(dtype: DType, row: &[u8], x: &[f32]) -> f32 {
    let mut acc = 0.0f32;
    for (w, &x) in row.chunks_exact(dtype.block_bytes()).zip(x) {
        let w = match dtype {
            DType::F32 => f32::from_le_bytes([w[0], w[1], w[2], w[3]]),
            DType::F16 => f16::from_le_bytes([w[0], w[1]]).to_f32(),
            _ => bf16::from_le_bytes([w[0], w[1]]).to_f32(),
        };
        acc = w.mul_add(x, acc);
    }
    acc
}

fn quantised_dot(dtype: DType, row: &[u8], x: &Quantised) -> f32 {
    let mut acc = 0.0f32;
    for (b, x) in x.blocks.iter().enumerate() {
        let w = raw::fields(dtype, row, b).decode(dtype);
        let dot = |from: usize, to: usize| (from..to).map(|i| w.q[i] * x.q[i]).sum::<i32>() as f32;
        if dtype == DType::Q6_K {
            acc = (w.d[0] * x.factor).mul_add(dot(0, 16), acc);
            acc = (w.d[1] * x.factor).mul_add(dot(16, 32), acc);
        } else {
            acc = (w.d[0] * x.factor).mul_add(dot(0, 32), acc);
        }
        if raw::has_min(dtype) {
            let sum = x.q.iter().sum::<i32>() as f32;
            acc = w.m.mul_add(x.factor * sum, acc);
        }
    }
    acc * x.scale
}
