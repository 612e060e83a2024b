//! Block-quantised formats: their layout, byte by byte, and exact decoding.
//!
//! The formats are GGUF's. A row of a tensor is cut into blocks of [`DType::block_len`]
//! consecutive elements, stored as [`DType::block_bytes`] bytes each without padding. All
//! multi-byte fields are little endian; blocks have no alignment beyond one byte. `f16` is IEEE
//! binary16.
//!
//! Each format has a view (`Q4_0Block` …) that splits a block's bytes into its fields without
//! copying and decodes them. "Exact" means: the operations and their order are those that the
//! format's definition gives, each rounded to binary32 (no fused multiply-add), so results are
//! equal bit for bit on every machine.
//!
//! | type | elements | bytes | fields in order |
//! |---|---|---|---|
//! | `Q4_0` | 32 | 18 | `d` f16, 16 × two 4-bit codes |
//! | `Q4_1` | 32 | 20 | `d` f16, `m` f16, 16 × two 4-bit codes |
//! | `Q5_0` | 32 | 22 | `d` f16, 32 fifth bits, 16 × two 4-bit codes |
//! | `Q5_1` | 32 | 24 | `d` f16, `m` f16, 32 fifth bits, 16 × two 4-bit codes |
//! | `Q8_0` | 32 | 34 | `d` f16, 32 × i8 |
//! | `Q4_K` | 256 | 144 | `d` f16, `dmin` f16, 12 bytes of scales and minima, 128 × two 4-bit codes |
//! | `Q5_K` | 256 | 176 | `d` f16, `dmin` f16, 12 bytes of scales and minima, 256 fifth bits, 128 × two 4-bit codes |
//! | `Q6_K` | 256 | 210 | 128 × two low nibbles, 64 × four high bit pairs, 16 × i8 scales, `d` f16 |

mod k;
mod legacy;

use thiserror::Error;

use crate::DType;

pub use k::{K_BLOCK, Q4KBlock, Q5KBlock, Q6KBlock, pack_scales_mins, unpack_scales_mins};
pub use legacy::{LEGACY_BLOCK, Q4_0Block, Q4_1Block, Q5_0Block, Q5_1Block, Q8_0Block};

/// Bytes that can't be decoded as asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// The type doesn't hold numbers that decode to f32.
    #[error("{dtype} has no decoding to f32: only f32, f16, bf16 and the block formats have")]
    NotDecodable {
        /// The type.
        dtype: DType,
    },
    /// The number of elements asked for isn't a whole number of blocks.
    #[error(
        "{elements} elements of {dtype} asked for: must be a multiple of {}",
        dtype.block_len()
    )]
    PartialBlock {
        /// The type.
        dtype: DType,
        /// Elements asked for.
        elements: usize,
    },
    /// The bytes given are not those of the elements asked for.
    #[error("{elements} elements of {dtype} take {wanted} bytes, {found} given")]
    Length {
        /// The type.
        dtype: DType,
        /// Elements asked for.
        elements: usize,
        /// Bytes they take (saturated at the largest `usize`).
        wanted: usize,
        /// Bytes given.
        found: usize,
    },
    /// A row past the tensor's end.
    #[error(
        "row {row} of {elements} {dtype} elements asked for, the {bytes} bytes given end before it"
    )]
    RowOutOfRange {
        /// The type.
        dtype: DType,
        /// The row, counted from 0.
        row: usize,
        /// Elements in a row.
        elements: usize,
        /// Bytes of the whole tensor.
        bytes: usize,
    },
}

/// Decodes `bytes` to `out.len()` numbers.
///
/// `bytes` must be exactly the blocks of `out.len()` elements. Any byte pattern decodes: a scale
/// that is NaN or infinite gives NaN and infinite elements, never an error.
///
/// # Errors
/// [`BlockError::NotDecodable`] for integer types, [`BlockError::PartialBlock`] and
/// [`BlockError::Length`] when the lengths don't fit; `out` is then untouched.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    if !is_decodable(dtype) {
        return Err(BlockError::NotDecodable { dtype });
    }
    let elements = out.len();
    if !elements.is_multiple_of(dtype.block_len()) {
        return Err(BlockError::PartialBlock { dtype, elements });
    }
    let wanted = dtype.row_bytes(elements);
    if wanted != Some(bytes.len()) {
        return Err(BlockError::Length {
            dtype,
            elements,
            wanted: wanted.unwrap_or(usize::MAX),
            found: bytes.len(),
        });
    }
    match dtype {
        DType::F32 => decode_each(bytes, out, |b: &[u8; 4]| f32::from_le_bytes(*b)),
        DType::F16 => decode_each(bytes, out, |b: &[u8; 2]| read_f16(*b)),
        DType::BF16 => decode_each(bytes, out, |b: &[u8; 2]| read_bf16(*b)),
        DType::Q4_0 => decode_blocks(bytes, out, |b, o| Q4_0Block::new(b).decode(o)),
        DType::Q4_1 => decode_blocks(bytes, out, |b, o| Q4_1Block::new(b).decode(o)),
        DType::Q5_0 => decode_blocks(bytes, out, |b, o| Q5_0Block::new(b).decode(o)),
        DType::Q5_1 => decode_blocks(bytes, out, |b, o| Q5_1Block::new(b).decode(o)),
        DType::Q8_0 => decode_blocks(bytes, out, |b, o| Q8_0Block::new(b).decode(o)),
        DType::Q4_K => decode_blocks(bytes, out, |b, o| Q4KBlock::new(b).decode(o)),
        DType::Q5_K => decode_blocks(bytes, out, |b, o| Q5KBlock::new(b).decode(o)),
        DType::Q6_K => decode_blocks(bytes, out, |b, o| Q6KBlock::new(b).decode(o)),
        DType::I8 | DType::U8 | DType::I16 | DType::I32 | DType::I64 | DType::Bool => {
            return Err(BlockError::NotDecodable { dtype });
        }
    }
    Ok(())
}

/// Decodes row `row` of a tensor whose rows have `out.len()` elements, e.g. one token's embedding.
///
/// # Errors
/// As [`dequantize`], and [`BlockError::RowOutOfRange`] for a row that `bytes` doesn't hold.
pub fn dequantize_row(
    dtype: DType,
    bytes: &[u8],
    row: usize,
    out: &mut [f32],
) -> Result<(), BlockError> {
    if !is_decodable(dtype) {
        return Err(BlockError::NotDecodable { dtype });
    }
    let elements = out.len();
    if !elements.is_multiple_of(dtype.block_len()) {
        return Err(BlockError::PartialBlock { dtype, elements });
    }
    let row_bytes = dtype
        .row_bytes(elements)
        .and_then(|n| Some(n.checked_mul(row)?..n.checked_mul(row.checked_add(1)?)?))
        .and_then(|range| bytes.get(range))
        .ok_or(BlockError::RowOutOfRange {
            dtype,
            row,
            elements,
            bytes: bytes.len(),
        })?;
    dequantize(dtype, row_bytes, out)
}

/// Whether [`dequantize`] takes this type: f32, f16, bf16 and all block formats.
pub const fn is_decodable(dtype: DType) -> bool {
    dtype.is_float() || dtype.is_block()
}

/// A little-endian binary16 as f32 (exact).
#[inline]
pub fn read_f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

/// A little-endian bfloat16 as f32 (exact).
#[inline]
pub fn read_bf16(bytes: [u8; 2]) -> f32 {
    half::bf16::from_le_bytes(bytes).to_f32()
}

/// Splits the first `N` bytes off `bytes`, which callers know to be long enough by type.
#[inline]
fn split<const N: usize>(bytes: &[u8]) -> (&[u8; N], &[u8]) {
    bytes
        .split_first_chunk::<N>()
        .expect("a block's fields add up to its length")
}

#[inline]
fn decode_each<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (chunk, y) in chunks.iter().zip(out) {
        *y = decode(chunk);
    }
}

#[inline]
fn decode_blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (outs, _) = out.as_chunks_mut::<LEN>();
    for (block, y) in blocks.iter().zip(outs) {
        decode(block, y);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decodable() -> impl Strategy<Value = DType> {
        let types: Vec<DType> = DType::ALL
            .into_iter()
            .filter(|&d| is_decodable(d))
            .collect();
        proptest::sample::select(types)
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(
            dtype in decodable(),
            seed in proptest::collection::vec(any::<u8>(), 1056),
            blocks in 0usize..4,
        ) {
            let bytes = &seed[..blocks * dtype.block_bytes()];
            let mut out = vec![0.0; blocks * dtype.block_len()];
            prop_assert_eq!(dequantize(dtype, bytes, &mut out), Ok(()));
        }

        #[test]
        fn a_row_decodes_as_it_does_within_the_tensor(
            dtype in decodable(),
            seed in proptest::collection::vec(any::<u8>(), 1056),
        ) {
            let (rows, width) = (4, dtype.block_len());
            let bytes = &seed[..rows * dtype.block_bytes()];
            let mut whole = vec![0.0; rows * width];
            dequantize(dtype, bytes, &mut whole).unwrap();
            for row in 0..rows {
                let mut one = vec![0.0; width];
                dequantize_row(dtype, bytes, row, &mut one).unwrap();
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&one), bits(&whole[row * width..][..width]));
            }
        }

        #[test]
        fn wrong_lengths_are_refused(
            dtype in decodable(),
            bytes in 0usize..700,
            elements in 0usize..700,
        ) {
            let data = vec![0; bytes];
            let mut out = vec![7.0; elements];
            let fits = dtype.row_bytes(elements) == Some(bytes);
            prop_assert_eq!(dequantize(dtype, &data, &mut out).is_ok(), fits);
            if !fits {
                prop_assert!(out.iter().all(|&y| y == 7.0));
            }
        }
    }

    #[test]
    fn integers_are_refused_by_name() {
        let error = dequantize(DType::I8, &[0], &mut [0.0]).unwrap_err();
        assert_eq!(error, BlockError::NotDecodable { dtype: DType::I8 });
        assert!(error.to_string().contains("i8"));
    }

    #[test]
    fn a_row_past_the_end_is_refused() {
        let mut out = [0.0; 32];
        let bytes = [0; 36];
        assert!(dequantize_row(DType::Q4_0, &bytes, 1, &mut out).is_ok());
        for row in [2, usize::MAX] {
            assert_eq!(
                dequantize_row(DType::Q4_0, &bytes, row, &mut out),
                Err(BlockError::RowOutOfRange {
                    dtype: DType::Q4_0,
                    row,
                    elements: 32,
                    bytes: 36
                })
            );
        }
    }
}
