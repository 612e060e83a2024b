//! Block-quantised weights as files hold them, taken apart: codes and scales.
//!
//! A block of 32 elements (for K-quants, one of the eight in a block of 256) reads as
//! `value[i] = scale[i / 16] · (code[i] − offset) + min`. The two halves' scales are equal but for
//! Q6_K. Layouts are those of GGUF; [`anynpu_ir::block`] describes them byte by byte.

use anynpu_ir::DType;
use half::f16;

/// One block of 32 in the terms of its file: codes without sign, scales before multiplication.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fields {
    /// Codes `0..16`, `0..32`, `0..64`; for Q8_0 the bytes of the signed codes.
    pub codes: [u8; 32],
    /// Bits of the binary16 scale.
    pub d: u16,
    /// Bits of the binary16 minimum (its scale, for K-quants); 0 where the format has none.
    pub m: u16,
    /// Scales of a K-quant's sub-block: for Q4_K and Q5_K `[scale, minimum]`, 6 bits each; for
    /// Q6_K the two halves' signed scales; else 0.
    pub sub: [u8; 2],
}

/// What a format's codes count from: `code − offset` is what the scale multiplies.
pub(super) const fn offset(dtype: DType) -> i32 {
    match dtype {
        DType::Q4_0 => 8,
        DType::Q5_0 => 16,
        DType::Q6_K => 32,
        _ => 0,
    }
}

/// Blocks of 32 in one block of the file.
pub(super) const fn subs(dtype: DType) -> usize {
    dtype.block_len() / 32
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The 6-bit scale and minimum of sub-block `j` of a Q4_K or Q5_K block, from its 12 bytes.
fn k_scale_min(packed: &[u8], j: usize) -> [u8; 2] {
    if j < 4 {
        [packed[j] & 63, packed[j + 4] & 63]
    } else {
        [
            (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4),
            (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
        ]
    }
}

/// Block `b` of 32 elements of a row held as `row`.
///
/// # Panics
/// If `dtype` is not a block format or the block is outside the row.
pub(super) fn fields(dtype: DType, row: &[u8], b: usize) -> Fields {
    let bytes = dtype.block_bytes();
    let sub = b % subs(dtype);
    let block = &row[b / subs(dtype) * bytes..][..bytes];
    let mut codes = [0; 32];
    let nibbles = |codes: &mut [u8; 32], qs: &[u8]| {
        for j in 0..16 {
            codes[j] = qs[j] & 15;
            codes[j + 16] = qs[j] >> 4;
        }
    };
    let fifth = |codes: &mut [u8; 32], qh: &[u8]| {
        for (j, code) in codes.iter_mut().enumerate() {
            *code |= (qh[j / 8] >> (j % 8) & 1) << 4;
        }
    };
    let (mut m, mut scales) = (0, [0; 2]);
    let mut d = u16_at(block, 0);
    match dtype {
        DType::Q4_0 => nibbles(&mut codes, &block[2..]),
        DType::Q4_1 => {
            m = u16_at(block, 2);
            nibbles(&mut codes, &block[4..]);
        }
        DType::Q5_0 => {
            nibbles(&mut codes, &block[6..]);
            fifth(&mut codes, &block[2..6]);
        }
        DType::Q5_1 => {
            m = u16_at(block, 2);
            nibbles(&mut codes, &block[8..]);
            fifth(&mut codes, &block[4..8]);
        }
        DType::Q8_0 => codes.copy_from_slice(&block[2..34]),
        DType::Q4_K | DType::Q5_K => {
            m = u16_at(block, 2);
            scales = k_scale_min(&block[4..16], sub);
            let high = (dtype == DType::Q5_K).then(|| &block[16..48]);
            let qs = &block[if high.is_some() { 48 } else { 16 }..][sub / 2 * 32..][..32];
            for (j, code) in codes.iter_mut().enumerate() {
                *code = qs[j] >> (sub % 2 * 4) & 15;
                if let Some(high) = high {
                    *code |= (high[j] >> sub & 1) << 4;
                }
            }
        }
        DType::Q6_K => {
            let (part, quarter) = (sub / 4, sub % 4);
            let ql = &block[part * 64 + quarter % 2 * 32..][..32];
            let qh = &block[128 + part * 32..][..32];
            for (j, code) in codes.iter_mut().enumerate() {
                let low = ql[j] >> (quarter / 2 * 4) & 15;
                *code = low | (qh[j] >> (quarter * 2) & 3) << 4;
            }
            scales = [block[192 + sub * 2], block[193 + sub * 2]];
            d = u16_at(block, 208);
        }
        _ => panic!("{dtype} is not a block format"),
    }
    Fields {
        codes,
        d,
        m,
        sub: scales,
    }
}

/// One block of 32 in the terms of arithmetic; products of scales are exact in binary32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Decoded {
    /// `code − offset`.
    pub q: [i32; 32],
    /// Scales of the two halves.
    pub d: [f32; 2],
    /// Added to each `d·q`; 0 where the format has none.
    pub m: f32,
}

impl Fields {
    pub(super) fn decode(&self, dtype: DType) -> Decoded {
        let d = f16::from_bits(self.d).to_f32();
        let m = f16::from_bits(self.m).to_f32();
        let (d, m) = match dtype {
            DType::Q4_K | DType::Q5_K => (
                [d * f32::from(self.sub[0]); 2],
                -(m * f32::from(self.sub[1])),
            ),
            DType::Q6_K => (self.sub.map(|s| d * f32::from(s as i8)), 0.0),
            _ => ([d; 2], m),
        };
        let q = self.codes.map(|c| match dtype {
            DType::Q8_0 => i32::from(c as i8),
            _ => i32::from(c) - offset(dtype),
        });
        Decoded { q, d, m }
    }
}

/// Whether a format has a minimum.
pub(super) const fn has_min(dtype: DType) -> bool {
    matches!(dtype, DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Random, Style, WEIGHTS, weights};
    use super::*;
    use anynpu_ir::block::dequantize;

    #[test]
    fn codes_and_scales_give_the_formats_own_values() {
        let random = &mut Random(3);
        for dtype in WEIGHTS.into_iter().filter(|d| d.is_block()) {
            let n = 40 * dtype.block_len();
            let row = weights(dtype, 40, Style::Plain, random);
            let mut expected = vec![0.0; n];
            dequantize(dtype, &row, &mut expected).unwrap();
            for (b, expected) in expected.chunks_exact(32).enumerate() {
                let block = fields(dtype, &row, b).decode(dtype);
                for (i, &expected) in expected.iter().enumerate() {
                    let value = block.d[i / 16] * block.q[i] as f32 + block.m;
                    assert_eq!(value, expected, "{dtype} block {b} element {i}");
                }
            }
        }
    }
}
