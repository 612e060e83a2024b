//! Activations in the layouts that the matrix products read: in tiles of up to `Isa::TILE` tokens
//! whose values lie side by side, quantised or plain.
//!
//! ```text
//! tokens 0..T  →  | tile of N₀ tokens | tile of N₁ | …      N as large as it can be, see `widths`
//! quantised tile: XBlock<N> for each block of 32 columns     (48 bytes per token and block)
//! plain tile:     f32[N] for each column                     (4 bytes per token and column)
//! ```
//! The tile that starts at token `t` begins at `t` times the bytes of a token, whatever the widths.

use super::SMALLEST_ACTIVATION;
use super::buffer::{cast, cast_mut};
use super::isa::{Isa, XBLOCK_BYTES, XBlock};

/// The width of the tile that starts when `left` tokens are to come: `widest`, or the largest
/// power of two that fits.
#[inline(always)]
pub(super) fn width(left: usize, widest: usize) -> usize {
    if left >= widest {
        widest
    } else {
        1 << left.ilog2()
    }
}

/// Runs `$body` with the constant `$n` equal to `$width`, one of the widths of [`width`].
macro_rules! with_width {
    ($isa:ty, $width:expr, $n:ident => $body:expr) => {
        match $width {
            1 => {
                const $n: usize = 1;
                $body
            }
            2 => {
                const $n: usize = 2;
                $body
            }
            4 => {
                const $n: usize = 4;
                $body
            }
            8 if <$isa>::TILE >= 8 => {
                const $n: usize = 8;
                $body
            }
            12 if <$isa>::TILE >= 12 => {
                const $n: usize = 12;
                $body
            }
            _ => unreachable!("no such tile width"),
        }
    };
}
pub(super) use with_width;

/// Quantises the tile of `width` tokens whose rows of `cols` elements are `x`, into `out`.
#[inline(always)]
pub(super) fn quantise_tile<I: Isa>(isa: I, x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
    with_width!(I, width, N => {
        let out = cast_mut::<XBlock<N>>(out);
        for t in 0..N {
            let row = &x[t * cols..][..cols];
            for (b, out) in out.iter_mut().enumerate() {
                let (x, _) = row[b * 32..][..32].as_chunks::<16>();
                quantise_block(isa, &x[0], &x[1], t, out);
            }
        }
    });
}

/// Quantises 32 elements of token `t` of a tile. The formula is the module [`super`]'s.
#[inline(always)]
fn quantise_block<I: Isa, const N: usize>(
    isa: I,
    low: &[f32; 16],
    high: &[f32; 16],
    t: usize,
    out: &mut XBlock<N>,
) {
    let (low, high) = (isa.load(low), isa.load(high));
    let magnitude = isa.splat_i(i32::MAX);
    let a = isa.and_i(isa.bits(low), magnitude);
    let b = isa.and_i(isa.bits(high), magnitude);
    // Magnitudes compare as integers, with NaN above infinity.
    let largest = isa.largest_i(isa.max_i(a, b));
    let largest = f32::from_bits(largest as u32);
    let (d, inverse) = if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < SMALLEST_ACTIVATION {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    };
    let mut sums = [0; 2];
    if inverse == 0.0 {
        for j in 0..8 {
            out.q[j][t] = [0; 4];
        }
    } else {
        let inverse = isa.splat(inverse);
        let halves = [low, high];
        for h in 0..2 {
            let q = isa.round_to_i32(isa.mul(halves[h], inverse));
            sums[h] = isa.sum_i(q);
            let mut bytes = [0; 16];
            isa.store_i8(q, &mut bytes);
            let (quads, _) = bytes.as_chunks::<4>();
            for j in 0..4 {
                out.q[4 * h + j][t] = quads[j];
            }
        }
    }
    let sum = sums[0] + sums[1];
    out.d[t] = d;
    out.ds[t] = d * sum as f32;
    out.minus_sum[t] = -sum;
    out.minus_sum_high[t] = -sums[1];
}

/// Interleaves the tile of `width` tokens whose rows of `cols` elements are `x`, into `out`.
#[inline(always)]
pub(super) fn interleave_tile<I: Isa>(
    _isa: I,
    x: &[f32],
    cols: usize,
    width: usize,
    out: &mut [u8],
) {
    with_width!(I, width, N => {
        let out = cast_mut::<[f32; N]>(out);
        for t in 0..N {
            for (out, &x) in out.iter_mut().zip(&x[t * cols..][..cols]) {
                out[t] = x;
            }
        }
    });
}

/// Bytes of a token in quantised tiles.
pub(super) const fn quantised_bytes(cols: usize) -> usize {
    cols / 32 * XBLOCK_BYTES
}

/// Bytes of a token in plain tiles.
pub(super) const fn plain_bytes(cols: usize) -> usize {
    cols * size_of::<f32>()
}

/// The quantised tile of `N` tokens that starts at token `t`.
#[inline(always)]
pub(super) fn quantised_tile<const N: usize>(x: &[u8], t: usize, cols: usize) -> &[XBlock<N>] {
    let token = quantised_bytes(cols);
    cast(&x[t * token..][..N * token])
}

/// The plain tile of `N` tokens that starts at token `t`.
#[inline(always)]
pub(super) fn plain_tile<const N: usize>(x: &[u8], t: usize, cols: usize) -> &[[f32; N]] {
    let token = plain_bytes(cols);
    cast(&x[t * token..][..N * token])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_cover_every_count_exactly() {
        for widest in [1, 2, 4, 8, 12] {
            for tokens in 1..100 {
                let mut left = tokens;
                while left > 0 {
                    let w = width(left, widest);
                    assert!(w <= left && (w == widest || w.is_power_of_two() && w <= 8));
                    left -= w;
                }
            }
        }
    }
}
