//! The formats with 32 elements to a block and one f16 scale each.
//!
//! 4-bit codes are stored in two halves: byte `i` of `qs` holds element `i` in its low nibble and
//! element `i + 16` in its high nibble. Fifth bits are one little-endian u32 whose bit `i` belongs
//! to element `i`.

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
}

/// The 5-bit codes of elements `i` and `i + 16`.
#[inline]
fn five_bits(q: u8, qh: u32, i: usize) -> (u8, u8) {
    let bit = |at: usize| ((qh >> at & 1) << 4) as u8;
    ((q & 15) | bit(i), (q >> 4) | bit(i + 16))
}
