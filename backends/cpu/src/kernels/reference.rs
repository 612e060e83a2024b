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
    /// `2ᵏ`.
    pub power: f32,
}

/// Quantises the activations of a token.
pub(super) fn quantise(x: &[f32]) -> Quantised {
    let most = |x: &[f32]| {
        x.iter()
            .fold(0.0, |a, v| if v.abs() <= a { a } else { v.abs() })
    };
    let largest: f32 = most(x);
    let counts = x.iter().all(|v| v.is_finite()) && largest >= super::SMALLEST_ACTIVATION;
    let blocks = x.chunks_exact(32).map(|x| {
        let mut block = QuantisedBlock {
            q: [0; 32],
            power: 1.0,
        };
        if counts {
            let mut finer = 0;
            let own = most(x);
            while finer < 15 && own <= largest * 0.5f32.powi(finer + 1) {
                finer += 1;
            }
            block.power = 2f32.powi(15 - finer);
            let inverse = 127.0 / largest * 2f32.powi(finer);
            for (q, &x) in block.q.iter_mut().zip(x) {
                *q = (x * inverse).round_ties_even() as i32;
            }
        }
        block
    });
    Quantised {
        blocks: blocks.collect(),
        scale: match counts {
            true => largest / 127.0 * 0.5f32.powi(15),
            false if x.iter().all(|v| v.is_finite()) => 0.0,
            false => f32::NAN,
        },
    }
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
        let quantised = quantise(x);
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
            acc = (w.d[0] * x.power).mul_add(dot(0, 16), acc);
            acc = (w.d[1] * x.power).mul_add(dot(16, 32), acc);
        } else {
            acc = (w.d[0] * x.power).mul_add(dot(0, 32), acc);
        }
        if raw::has_min(dtype) {
            let sum = x.q.iter().sum::<i32>() as f32;
            acc = w.m.mul_add(x.power * sum, acc);
        }
    }
    acc * x.scale
}
