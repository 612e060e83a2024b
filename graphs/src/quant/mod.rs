//! Quantisers: f32 to the block formats of [`anynpu_ir::block`], a row or a whole file at a time.
//!
//! [`quantize_file`] writes a model in a [`Mixture`] of types, weighted by an [`Imatrix`] if there
//! is one; its rows go through [`quantize_row_searched`].
//!
//! [`quantize_row`] is the reference: it rounds to nearest and searches for nothing.
//! The 32-element formats give the same bytes as their definition in GGUF. For the K formats GGUF
//! defines only the decoding; here every sub-block's scale covers its whole range.
//!
//! # How far a value may move
//! With `a` = the largest magnitude of the block, `r` = its largest value less its smallest, and
//! `e(v) = max(|v| / 2048, 2⁻²⁵)` (how far rounding to f16 moves `v`):
//!
//! | type | bound on the error of one element |
//! |---|---|
//! | `F16`, `BF16` | `e(x)`, `max(abs(x) / 256, 2⁻¹³⁴)` |
//! | `Q4_0` | `a/8 + 8·e(a/8)` |
//! | `Q4_1` | `r/30 + 15·e(r/15) + e(min)` |
//! | `Q5_0` | `a/16 + 16·e(a/16)` |
//! | `Q5_1` | `r/62 + 31·e(r/31) + e(min)` |
//! | `Q8_0` | `a/254 + 128·e(a/127)` |
//! | `Q4_K`, `Q5_K` | half the sub-block's step; the step is at most `(r₀ + dmin)/n + d`, `n` = 15 or 31 |
//! | `Q6_K` | the sub-block's step, which is at most `a/32 + d` (`a` of the sub-block) |
//!
//! `r₀` is the sub-block's range with 0 included; `d` and `dmin` are the block's f16 fields:
//! `d ≤ 1.001·(largest step)/63` (127 in `Q6_K`) `+ 2⁻²⁴`, and `dmin` likewise of the largest
//! `−min` over 63. Rounding in f32 adds a few units in the last place of the block's largest
//! magnitude. In `Q4_0`, `Q5_0` and `Q6_K` the largest errors are those of values opposite in sign
//! to the block's extreme and nearly as large; others are off by half a step.

mod convert;
mod file;
mod imatrix;
mod implied;
mod job;
mod k;
mod legacy;
mod mixture;
mod report;
mod search;
mod source;

use anynpu_ir::{DType, block};
use thiserror::Error;

pub use file::{
    QuantizeFileError, QuantizeOptions, QuantizeProgress, quantize_file, quantize_gguf,
};
pub use imatrix::{Imatrix, ImatrixError};
pub use mixture::{Mixture, UnknownMixture};
pub use report::{FormatQuality, ImatrixUse, QuantizeReport, TensorQuality, Weighting};
pub use search::quantize_row_searched;
pub use source::QuantizeSource;

/// A row that can't be quantised.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The type has no quantiser.
    #[error("cannot quantise to {dtype}: only f32, f16, bf16 and the block formats are possible")]
    NotQuantizable {
        /// The type.
        dtype: DType,
    },
    /// A row that isn't a whole number of blocks.
    #[error(
        "a row of {elements} elements cannot be {dtype}: must be a multiple of {}",
        dtype.block_len()
    )]
    PartialBlock {
        /// The type.
        dtype: DType,
        /// Elements in the row.
        elements: usize,
    },
    /// The room given isn't the row's length.
    #[error("{elements} elements of {dtype} take {wanted} bytes, room for {found} given")]
    Length {
        /// The type.
        dtype: DType,
        /// Elements in the row.
        elements: usize,
        /// Bytes they take (saturated at the largest `usize`).
        wanted: usize,
        /// Bytes given.
        found: usize,
    },
    /// A NaN or an infinity, which no block format can hold.
    #[error("element {index} is {value}: {dtype} holds finite numbers only")]
    NotFinite {
        /// The type.
        dtype: DType,
        /// Position in the row.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Values too large for the type's f16 fields.
    #[error(
        "the elements from {index} on reach {magnitude:e}: too large for {dtype}, whose f16 \
         fields end at 65504"
    )]
    Overflow {
        /// The type.
        dtype: DType,
        /// Position of the block's first element (of the element for plain types).
        index: usize,
        /// Largest magnitude in the block.
        magnitude: f32,
    },
    /// Weights that can't weigh.
    #[error("importance weights: {problem}; expected one finite number from 0 an element")]
    Importance {
        /// What is wrong.
        problem: String,
    },
}

/// Quantises one row; `out` must have exactly [`DType::row_bytes`] of its length.
///
/// # Errors
/// [`QuantizeError::NotQuantizable`] for integer types; [`QuantizeError::PartialBlock`] and
/// [`QuantizeError::Length`] when the lengths don't fit; [`QuantizeError::NotFinite`] (block
/// formats only) and [`QuantizeError::Overflow`] for values that the format can't hold. What `out`
/// holds after an error is unspecified.
pub fn quantize_row(dtype: DType, row: &[f32], out: &mut [u8]) -> Result<(), QuantizeError> {
    check_row(dtype, row, out)?;
    match dtype {
        DType::F32 => blocks(dtype, row, out, |x: &[f32; 1], b: &mut [u8; 4]| {
            *b = x[0].to_le_bytes();
            Some(())
        }),
        DType::F16 => blocks(dtype, row, out, |x: &[f32; 1], b: &mut [u8; 2]| {
            let y = half::f16::from_f32(x[0]);
            *b = y.to_le_bytes();
            (y.is_finite() || !x[0].is_finite()).then_some(())
        }),
        DType::BF16 => blocks(dtype, row, out, |x: &[f32; 1], b: &mut [u8; 2]| {
            let y = half::bf16::from_f32(x[0]);
            *b = y.to_le_bytes();
            (y.is_finite() || !x[0].is_finite()).then_some(())
        }),
        DType::Q4_0 => blocks(dtype, row, out, legacy::q4_0),
        DType::Q4_1 => blocks(dtype, row, out, legacy::q4_1),
        DType::Q5_0 => blocks(dtype, row, out, legacy::q5_0),
        DType::Q5_1 => blocks(dtype, row, out, legacy::q5_1),
        DType::Q8_0 => blocks(dtype, row, out, legacy::q8_0),
        DType::Q4_K => blocks(dtype, row, out, k::q4_k),
        DType::Q5_K => blocks(dtype, row, out, k::q5_k),
        DType::Q6_K => blocks(dtype, row, out, k::q6_k),
        _ => Err(QuantizeError::NotQuantizable { dtype }),
    }
}

/// Whether the row can be quantised into `out`, magnitudes aside.
fn check_row(dtype: DType, row: &[f32], out: &[u8]) -> Result<(), QuantizeError> {
    if !block::is_decodable(dtype) {
        return Err(QuantizeError::NotQuantizable { dtype });
    }
    let elements = row.len();
    if !elements.is_multiple_of(dtype.block_len()) {
        return Err(QuantizeError::PartialBlock { dtype, elements });
    }
    let wanted = dtype.row_bytes(elements);
    if wanted != Some(out.len()) {
        return Err(QuantizeError::Length {
            dtype,
            elements,
            wanted: wanted.unwrap_or(usize::MAX),
            found: out.len(),
        });
    }
    if dtype.is_block()
        && let Some(index) = row.iter().position(|x| !x.is_finite())
    {
        return Err(QuantizeError::NotFinite {
            dtype,
            index,
            value: row[index],
        });
    }
    Ok(())
}

/// Runs `encode` over all blocks; its `None` means that a field overflowed.
fn blocks<const LEN: usize, const BYTES: usize>(
    dtype: DType,
    row: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; LEN], &mut [u8; BYTES]) -> Option<()>,
) -> Result<(), QuantizeError> {
    for (i, (x, o)) in blocks_at(row, out).enumerate() {
        encode(x, o).ok_or_else(|| QuantizeError::Overflow {
            dtype,
            index: i * LEN,
            magnitude: x.iter().fold(0.0, |a, v| v.abs().max(a)),
        })?;
    }
    Ok(())
}

/// The blocks of a row, each with its place.
fn blocks_at<'a, const LEN: usize, const BYTES: usize>(
    row: &'a [f32],
    out: &'a mut [u8],
) -> impl Iterator<Item = (&'a [f32; LEN], &'a mut [u8; BYTES])> {
    let (xs, _) = row.as_chunks::<LEN>();
    let (outs, _) = out.as_chunks_mut::<BYTES>();
    xs.iter().zip(outs)
}

/// `v` as the nearest f16, or `None` if that is infinite.
fn nearest_f16(v: f32) -> Option<half::f16> {
    Some(half::f16::from_f32(v)).filter(|h| h.is_finite())
}

/// The smallest f16 that is no less than `v` ≥ 0, or `None` if that is infinite.
fn f16_at_least(v: f32) -> Option<half::f16> {
    let nearest = nearest_f16(v)?;
    let up = if nearest.to_f32() < v {
        half::f16::from_bits(nearest.to_bits() + 1)
    } else {
        nearest
    };
    Some(up).filter(|h| h.is_finite())
}
