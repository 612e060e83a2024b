//! The formats with 32 elements to a block and one f16 scale each.
//!
//! 4-bit codes are stored in two halves: byte `i` of `qs` holds element `i` in its low nibble and
//! element `i + 16` in its high nibble. Fifth bits are one little-endian u32 whose bit `i` belongs
//! to element `i`.

use half::f16;

use super::{read_f16, split};

/// Elements in one block of these formats.
pub const LEGACY_BLOCK: usize = 32;

/// `Q4_0`: symmetric 4-bit. `y[i] = (code[i] − 8) · d`, code in 0..=15.
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | `d`, f16 |
/// | 2..18 | `qs`: 4-bit codes; byte `i` is `code[i] + 16 · code[i + 16]` |
#[derive(Clone, Copy, Debug)]
pub struct Q4_0Block<'a> {
    /// The scale.
    pub d: f32,
    /// Codes, two to a byte.
    pub qs: &'a [u8; 16],
}

impl<'a> Q4_0Block<'a> {
    /// Splits a block into its fields.
    #[inline]
    pub fn new(bytes: &'a [u8; 18]) -> Self {
        let (d, rest) = split(bytes);
        let (qs, _) = split(rest);
        Q4_0Block {
            d: read_f16(*d),
            qs,
        }
    }

    /// Writes the 32 elements.
    #[inline]
    pub fn decode(self, out: &mut [f32; LEGACY_BLOCK]) {
        for (i, &q) in self.qs.iter().enumerate() {
            out[i] = (i32::from(q & 15) - 8) as f32 * self.d;
            out[i + 16] = (i32::from(q >> 4) - 8) as f32 * self.d;
        }
    }
}

/// `Q4_1`: 4-bit with a minimum. `y[i] = code[i] · d + m`, code in 0..=15.
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | `d`, f16 |
/// | 2..4 | `m`, f16 |
/// | 4..20 | `qs`: 4-bit codes, as in `Q4_0` |
#[derive(Clone, Copy, Debug)]
pub struct Q4_1Block<'a> {
    /// The scale.
    pub d: f32,
    /// The minimum.
    pub m: f32,
    /// Codes, two to a byte.
    pub qs: &'a [u8; 16],
}

impl<'a> Q4_1Block<'a> {
    /// Splits a block into its fields.
    #[inline]
    pub fn new(bytes: &'a [u8; 20]) -> Self {
        let (d, rest) = split(bytes);
        let (m, rest) = split(rest);
        let (qs, _) = split(rest);
        Q4_1Block {
            d: read_f16(*d),
            m: read_f16(*m),
            qs,
        }
    }

    /// Writes the 32 elements.
    #[inline]
    pub fn decode(self, out: &mut [f32; LEGACY_BLOCK]) {
        for (i, &q) in self.qs.iter().enumerate() {
            out[i] = f32::from(q & 15) * self.d + self.m;
            out[i + 16] = f32::from(q >> 4) * self.d + self.m;
        }
    }
}

/// `Q5_0`: symmetric 5-bit. `y[i] = (code[i] − 16) · d`, code in 0..=31.
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | `d`, f16 |
/// | 2..6 | `qh`, u32: bit `i` is bit 4 of `code[i]` |
/// | 6..22 | `qs`: bits 0..4 of the codes, as in `Q4_0` |
#[derive(Clone, Copy, Debug)]
pub struct Q5_0Block<'a> {
    /// The scale.
    pub d: f32,
    /// The codes' fifth bits.
    pub qh: u32,
    /// The codes' low nibbles, two to a byte.
    pub qs: &'a [u8; 16],
}

impl<'a> Q5_0Block<'a> {
    /// Splits a block into its fields.
    #[inline]
    pub fn new(bytes: &'a [u8; 22]) -> Self {
        let (d, rest) = split(bytes);
        let (qh, rest) = split(rest);
        let (qs, _) = split(rest);
        Q5_0Block {
            d: read_f16(*d),
            qh: u32::from_le_bytes(*qh),
            qs,
        }
    }

    /// Writes the 32 elements.
    #[inline]
    pub fn decode(self, out: &mut [f32; LEGACY_BLOCK]) {
        for (i, &q) in self.qs.iter().enumerate() {
            let (low, high) = five_bits(q, self.qh, i);
            out[i] = (i32::from(low) - 16) as f32 * self.d;
            out[i + 16] = (i32::from(high) - 16) as f32 * self.d;
        }
    }
}

/// `Q5_1`: 5-bit with a minimum. `y[i] = code[i] · d + m`, code in 0..=31.
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | `d`, f16 |
/// | 2..4 | `m`, f16 |
/// | 4..8 | `qh`, u32: bit `i` is bit 4 of `code[i]` |
/// | 8..24 | `qs`: bits 0..4 of the codes, as in `Q4_0` |
#[derive(Clone, Copy, Debug)]
pub struct Q5_1Block<'a> {
    /// The scale.
    pub d: f32,
    /// The minimum.
    pub m: f32,
    /// The codes' fifth bits.
    pub qh: u32,
    /// The codes' low nibbles, two to a byte.
    pub qs: &'a [u8; 16],
}

impl<'a> Q5_1Block<'a> {
    /// Splits a block into its fields.
    #[inline]
    pub fn new(bytes: &'a [u8; 24]) -> Self {
        let (d, rest) = split(bytes);
        let (m, rest) = split(rest);
        let (qh, rest) = split(rest);
        let (qs, _) = split(rest);
        Q5_1Block {
            d: read_f16(*d),
            m: read_f16(*m),
            qh: u32::from_le_bytes(*qh),
            qs,
        }
    }

    /// Writes the 32 elements.
    #[inline]
    pub fn decode(self, out: &mut [f32; LEGACY_BLOCK]) {
        for (i, &q) in self.qs.iter().enumerate() {
            let (low, high) = five_bits(q, self.qh, i);
            out[i] = f32::from(low) * self.d + self.m;
            out[i + 16] = f32::from(high) * self.d + self.m;
        }
    }
}

/// `Q8_0`: symmetric 8-bit. `y[i] = code[i] · d`, code in −128..=127.
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | `d`, f16 |
/// | 2..34 | `qs`: 32 × i8 |
#[derive(Clone, Copy, Debug)]
pub struct Q8_0Block<'a> {
    /// The scale.
    pub d: f32,
    /// Codes as two's complement bytes.
    pub qs: &'a [u8; 32],
}

impl<'a> Q8_0Block<'a> {
    /// Splits a block into its fields.
    #[inline]
    pub fn new(bytes: &'a [u8; 34]) -> Self {
        let (d, rest) = split(bytes);
        let (qs, _) = split(rest);
        Q8_0Block {
            d: read_f16(*d),
            qs,
        }
    }

    /// Writes the 32 elements.
    #[inline]
    pub fn decode(self, out: &mut [f32; LEGACY_BLOCK]) {
        for (y, &q) in out.iter_mut().zip(self.qs) {
            *y = f32::from(q as i8) * self.d;
        }
    }

    /// The block nearest to `x`, as GGUF's definition rounds: with `s = max |x| / 127` in binary32,
    /// `d` is `s` rounded to binary16 and `code[i]` is `x[i] · (1 / s)` rounded to the nearest
    /// integer, halves away from zero.
    ///
    /// `None` if an element is not finite or `d` would overflow. The same bytes on every machine.
    #[inline]
    pub fn encode(x: &[f32; LEGACY_BLOCK]) -> Option<[u8; 34]> {
        // magnitudes compare as integers, with infinity and NaN above all others
        let largest = x.iter().map(|v| v.to_bits() & 0x7fff_ffff).max();
        let scale = f32::from_bits(largest.unwrap_or(0)) / 127.0;
        let d = f16::from_f32(scale);
        if !d.is_finite() {
            return None;
        }
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let mut out = [0; 34];
        let (head, codes) = out.split_at_mut(2);
        head.copy_from_slice(&d.to_le_bytes());
        for (code, v) in codes.iter_mut().zip(x) {
            *code = round(v * inverse) as u8;
        }
        Some(out)
    }

    /// As [`Q8_0Block::encode`]; what that refuses becomes a block whose elements are all NaN, so
    /// that it does not pass for numbers.
    #[inline]
    pub fn encode_or_nan(x: &[f32; LEGACY_BLOCK]) -> [u8; 34] {
        Q8_0Block::encode(x).unwrap_or_else(|| {
            let mut block = [0; 34];
            block[..2].copy_from_slice(&f16::NAN.to_le_bytes());
            block
        })
    }
}

/// `v` to the nearest integer, halves away from zero, saturating; 0 for NaN.
#[inline]
fn round(v: f32) -> i8 {
    // the largest number below a half: with a half itself, its predecessor would round up
    const BELOW_HALF: f32 = 0.499_999_97;
    (v + BELOW_HALF.copysign(v)) as i8
}

/// The 5-bit codes of elements `i` and `i + 16`.
#[inline]
fn five_bits(q: u8, qh: u32, i: usize) -> (u8, u8) {
    let bit = |at: usize| ((qh >> at & 1) << 4) as u8;
    ((q & 15) | bit(i), (q >> 4) | bit(i + 16))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn eight_bit_codes_round_halves_away_from_zero(v in -128f32..128.0, quarter in -500i32..=500) {
            for v in [v, quarter as f32 / 4.0] {
                prop_assert_eq!(round(v), v.round() as i8, "{}", v);
                let below = f32::from_bits(v.to_bits().wrapping_sub(1));
                prop_assert_eq!(round(below), below.round() as i8, "{}", below);
            }
        }

        #[test]
        fn eight_bit_codes_are_within_half_a_step(x in prop::array::uniform32(-1e3f32..1e3), scale in -60i32..10) {
            let x = x.map(|v| v * 2f32.powi(scale));
            let block = Q8_0Block::encode(&x).unwrap();
            let mut decoded = [0.0; 32];
            Q8_0Block::new(&block).decode(&mut decoded);
            let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            // half a step, and the step's own rounding 127 times
            let step = largest / 127.0;
            let bound = 0.5001 * step + 127.0 * (step / 2048.0).max(2f32.powi(-25));
            for (v, d) in x.iter().zip(decoded) {
                prop_assert!((v - d).abs() <= bound, "{} became {}, bound {}", v, d, bound);
            }
        }
    }

    #[test]
    fn what_eight_bits_cannot_hold_is_told() {
        let with = |v: f32| {
            let mut x = [1.0; 32];
            x[7] = v;
            Q8_0Block::encode(&x)
        };
        for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e7] {
            assert_eq!(with(v), None, "{v}");
            let mut x = [1.0; 32];
            x[0] = v;
            Q8_0Block::new(&Q8_0Block::encode_or_nan(&x)).decode(&mut x);
            assert!(x.iter().all(|y| y.is_nan()), "{v}: {x:?}");
        }
        assert_eq!(with(-127.0).unwrap()[..2], f16::ONE.to_le_bytes());
        assert_eq!(Q8_0Block::encode(&[0.0; 32]), Some([0; 34]));
        // the smallest numbers vanish
        assert_eq!(Q8_0Block::encode(&[1e-40; 32]).unwrap()[..2], [0; 2]);
    }
}
