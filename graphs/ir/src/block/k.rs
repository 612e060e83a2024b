//! The K formats: 256 elements to a super-block, cut into sub-blocks that have small integer
//! scales of their own.

use super::{read_f16, split};

/// Elements in one block of these formats.
pub const K_BLOCK: usize = 256;

/// `Q4_K`: 8 sub-blocks of 32 elements, 4-bit codes with a scale and a minimum each.
/// With `s = i / 32`: `y[i] = (d · scale[s]) · code[i] − (dmin · min[s])`, code in 0..=15,
/// scale and min in 0..=63.
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | `d`, f16 |
/// | 2..4 | `dmin`, f16 |
/// | 4..16 | `scales`: 8 scales and 8 minima of 6 bits, see [`unpack_scales_mins`] |
/// | 16..144 | `qs`: four runs of 32 bytes; byte `32·r + i` is `code[64·r + i] + 16 · code[64·r + 32 + i]` |
#[derive(Clone, Copy, Debug)]
pub struct Q4KBlock<'a> {
    /// Scale of the scales.
    pub d: f32,
    /// Scale of the minima.
    pub dmin: f32,
    /// Packed scales and minima.
    pub scales: &'a [u8; 12],
    /// Codes, two to a byte.
    pub qs: &'a [u8; 128],
}

impl<'a> Q4KBlock<'a> {
    /// Splits a block into its fields.
    #[inline]
    pub fn new(bytes: &'a [u8; 144]) -> Self {
        let (d, rest) = split(bytes);
        let (dmin, rest) = split(rest);
        let (scales, rest) = split(rest);
        let (qs, _) = split(rest);
        Q4KBlock {
            d: read_f16(*d),
            dmin: read_f16(*dmin),
            scales,
            qs,
        }
    }

    /// Writes the 256 elements.
    #[inline]
    pub fn decode(self, out: &mut [f32; K_BLOCK]) {
        let (scales, mins) = unpack_scales_mins(self.scales);
        for (i, y) in out.iter_mut().enumerate() {
            let sub = i / 32;
            let q = self.qs[32 * (sub / 2) + i % 32];
            let code = if sub.is_multiple_of(2) {
                q & 15
            } else {
                q >> 4
            };
            let step = self.d * f32::from(scales[sub]);
            let min = self.dmin * f32::from(mins[sub]);
            *y = step * f32::from(code) - min;
        }
    }
}

/// `Q5_K`: as `Q4_K` with 5-bit codes (0..=31).
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | `d`, f16 |
/// | 2..4 | `dmin`, f16 |
/// | 4..16 | `scales`: 8 scales and 8 minima of 6 bits, see [`unpack_scales_mins`] |
/// | 16..48 | `qh`: bit `s` of byte `i` is bit 4 of `code[32·s + i]` |
/// | 48..176 | `qs`: bits 0..4 of the codes, as in `Q4_K` |
#[derive(Clone, Copy, Debug)]
pub struct Q5KBlock<'a> {
    /// Scale of the scales.
    pub d: f32,
    /// Scale of the minima.
    pub dmin: f32,
    /// Packed scales and minima.
    pub scales: &'a [u8; 12],
    /// The codes' fifth bits: one bit per sub-block in each byte.
    pub qh: &'a [u8; 32],
    /// The codes' low nibbles, two to a byte.
    pub qs: &'a [u8; 128],
}

impl<'a> Q5KBlock<'a> {
    /// Splits a block into its fields.
    #[inline]
    pub fn new(bytes: &'a [u8; 176]) -> Self {
        let (d, rest) = split(bytes);
        let (dmin, rest) = split(rest);
        let (scales, rest) = split(rest);
        let (qh, rest) = split(rest);
        let (qs, _) = split(rest);
        Q5KBlock {
            d: read_f16(*d),
            dmin: read_f16(*dmin),
            scales,
            qh,
            qs,
        }
    }

    /// Writes the 256 elements.
    #[inline]
    pub fn decode(self, out: &mut [f32; K_BLOCK]) {
        let (scales, mins) = unpack_scales_mins(self.scales);
        for (i, y) in out.iter_mut().enumerate() {
            let sub = i / 32;
            let q = self.qs[32 * (sub / 2) + i % 32];
            let low = if sub.is_multiple_of(2) {
                q & 15
            } else {
                q >> 4
            };
            let code = low | (self.qh[i % 32] >> sub & 1) << 4;
            let step = self.d * f32::from(scales[sub]);
            let min = self.dmin * f32::from(mins[sub]);
            *y = step * f32::from(code) - min;
        }
    }
}

/// `Q6_K`: 16 sub-blocks of 16 elements, symmetric 6-bit codes with a signed 8-bit scale each.
/// With `s = i / 16`: `y[i] = (d · scale[s]) · (code[i] − 32)`, code in 0..=63.
///
/// The codes are stored in two halves of 128 elements (`h` = 0, 1), each half in four quarters of
/// 32 elements (`c` = 0..4):
///
/// | bytes | field |
/// |---|---|
/// | 0..128 | `ql`: bits 0..4. Element `128·h + 32·c + i` is in byte `64·h + 32·(c % 2) + i`, low nibble for `c` < 2, else high |
/// | 128..192 | `qh`: bits 4..6. Element `128·h + 32·c + i` is in byte `32·h + i`, bits `2·c..2·c + 2` |
/// | 192..208 | `scales`: 16 × i8 |
/// | 208..210 | `d`, f16 |
#[derive(Clone, Copy, Debug)]
pub struct Q6KBlock<'a> {
    /// The codes' low nibbles, two to a byte.
    pub ql: &'a [u8; 128],
    /// The codes' high bit pairs, four to a byte.
    pub qh: &'a [u8; 64],
    /// Scales of the sub-blocks as two's complement bytes.
    pub scales: &'a [u8; 16],
    /// Scale of the scales.
    pub d: f32,
}

impl<'a> Q6KBlock<'a> {
    /// Splits a block into its fields.
    #[inline]
    pub fn new(bytes: &'a [u8; 210]) -> Self {
        let (ql, rest) = split(bytes);
        let (qh, rest) = split(rest);
        let (scales, rest) = split(rest);
        let (d, _) = split(rest);
        Q6KBlock {
            ql,
            qh,
            scales,
            d: read_f16(*d),
        }
    }

    /// The code of element `i` (0..256), in 0..=63.
    ///
    /// # Panics
    /// If `i` is 256 or more.
    #[inline]
    pub fn code(&self, i: usize) -> u8 {
        let (half, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        let low = self.ql[64 * half + 32 * (quarter % 2) + at] >> (4 * (quarter / 2)) & 15;
        let high = self.qh[32 * half + at] >> (2 * quarter) & 3;
        low | high << 4
    }

    /// Writes the 256 elements.
    #[inline]
    pub fn decode(self, out: &mut [f32; K_BLOCK]) {
        for (i, y) in out.iter_mut().enumerate() {
            let step = self.d * f32::from(self.scales[i / 16] as i8);
            *y = step * (i32::from(self.code(i)) - 32) as f32;
        }
    }
}

/// The 8 scales and 8 minima (each 0..=63) of a `Q4_K` or `Q5_K` block.
///
/// | byte | bits 0..6 (`j` < 8) or 0..4 (`j` ≥ 8) | rest |
/// |---|---|---|
/// | `j` = 0..4 | `scale[j]` | bits 6..8: bits 4..6 of `scale[j + 4]` |
/// | `j` = 4..8 | `min[j − 4]` | bits 6..8: bits 4..6 of `min[j]` |
/// | `j` = 8..12 | bits 0..4 of `scale[j − 4]` | bits 4..8: bits 0..4 of `min[j − 4]` |
#[inline]
pub fn unpack_scales_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = packed[j] & 63;
        mins[j] = packed[j + 4] & 63;
        scales[j + 4] = (packed[j + 8] & 15) | (packed[j] >> 6) << 4;
        mins[j + 4] = (packed[j + 8] >> 4) | (packed[j + 4] >> 6) << 4;
    }
    (scales, mins)
}

/// The inverse of [`unpack_scales_mins`]; only the low 6 bits of each value are kept.
#[inline]
pub fn pack_scales_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = (scales[j] & 63) | (scales[j + 4] >> 4) << 6;
        packed[j + 4] = (mins[j] & 63) | (mins[j + 4] >> 4) << 6;
        packed[j + 8] = (scales[j + 4] & 15) | (mins[j + 4] & 15) << 4;
    }
    packed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn scales_and_mins_survive_packing(
            scales in proptest::array::uniform8(0u8..64),
            mins in proptest::array::uniform8(0u8..64),
        ) {
            prop_assert_eq!(unpack_scales_mins(&pack_scales_mins(&scales, &mins)), (scales, mins));
        }

        #[test]
        fn packing_uses_every_bit(packed in proptest::array::uniform12(any::<u8>())) {
            let (scales, mins) = unpack_scales_mins(&packed);
            prop_assert_eq!(pack_scales_mins(&scales, &mins), packed);
        }
    }
}
