//! Activations in the layouts that the matrix products read: in tiles of tokens whose values lie
//! side by side, quantised or plain.
//!
//! ```text
//! one token        →  a tile of 1
//! more tokens      →  tiles of `Isa::TILE`, plain ones of `Isa::PLAIN_TILE`, and one of 4, 8 or 12 for the
//!                     rest, padded with zeros
//! quantised tile: XBlock<N> for each block of 32 columns     (48 bytes per token and block)
//!                 and f32[N], the tokens' scales             (4 bytes per token)
//! plain tile:     f32[N] for each column                     (4 bytes per token and column)
//! rounded tile:   where `Isa::BF16`, bf16[N][2] for each pair of columns, else f32[N] for each column,
//!                 an even number of them                     (room for 4 bytes per token and column)
//! narrow tile:    a plain one, of numbers of binary16; of one token where a processor multiplies these,
//!                 binary16 for each column                   (room for 4 bytes per token and column)
//!                 and f32[N], what sums are multiplied by    (4 bytes per token)
//! ```
//! The tile that starts at token `t` begins at `t` times the bytes of a token, whatever the widths.

mod quantise;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::LEAST_EXPONENT;
use super::buffer::{cast, cast_mut};
use super::isa::{Isa, XBLOCK_BYTES, XBlock};
pub(super) use quantise::{quantise_rows, quantise_tile};

/// Columns that are laid out of all tokens, in turn, before the next: they stay in the nearest cache meanwhile.
const AT_ONCE: usize = 16;

/// The width of the tile that starts when `left` of several tokens are to come.
#[inline(always)]
pub(super) fn tile_width(left: usize, widest: usize) -> usize {
    left.next_multiple_of(4).min(widest)
}

/// Tokens that the tiles of `tokens` tokens hold, with padding.
pub(super) const fn padded(tokens: usize) -> usize {
    if tokens == 1 {
        1
    } else {
        tokens.div_ceil(4).saturating_mul(4)
    }
}

/// Runs `$body` with the constant `$n` equal to `$width`, a [`tile_width`] of the constant `$widest`.
macro_rules! with_width {
    ($widest:expr, $width:expr, $n:ident => $body:expr) => {
        match $width {
            4 => {
                const $n: usize = 4;
                $body
            }
            8 if $widest >= 8 => {
                const $n: usize = 8;
                $body
            }
            12 if $widest >= 12 => {
                const $n: usize = 12;
                $body
            }
            _ => unreachable!("no such tile width"),
        }
    };
}
pub(super) use with_width;
/// Interleaves the rows `x`, of `cols` elements, into the tile `out` of `width` tokens.
#[inline(always)]
pub(super) fn interleave_tile<I: Isa>(
    isa: I,
    x: &[f32],
    cols: usize,
    width: usize,
    out: &mut [u8],
) {
    isa.interleave(x, cols, width, out);
}

/// [`Isa::interleave`] by [`Isa::transpose`].
#[inline(always)]
pub(super) fn interleave_rows<I: Isa>(
    isa: I,
    x: &[f32],
    cols: usize,
    width: usize,
    out: &mut [u8],
) {
    let out = cast_mut::<f32>(out);
    if width == 1 {
        return out[..cols].copy_from_slice(x);
    }
    for from in (0..cols).step_by(AT_ONCE) {
        let columns = columns_of(isa, x, cols, from);
        for c in 0..AT_ONCE.min(cols - from) {
            place(isa, columns[c], (from + c) * width, width, out);
        }
    }
}

/// The [`AT_ONCE`] columns of the rows `x` from `from` on, a token in each lane; 0 where there is none.
#[inline(always)]
fn columns_of<I: Isa>(isa: I, x: &[f32], cols: usize, from: usize) -> [I::F; AT_ONCE] {
    let mut columns = [isa.splat(0.0); AT_ONCE];
    for (t, row) in x.chunks_exact(cols).enumerate() {
        let some = &row[from..cols.min(from + AT_ONCE)];
        columns[t] = match some.try_into() {
            Ok(x) => isa.load(x),
            Err(_) => isa.load_part(some, 0.0),
        };
    }
    isa.transpose(&mut columns);
    columns
}

/// Puts the first `width` lanes of a column to `at`. What lies behind them may be overwritten: it is put there later.
#[inline(always)]
fn place<I: Isa>(isa: I, column: I::F, at: usize, width: usize, out: &mut [f32]) {
    let out = &mut out[at..];
    match out.first_chunk_mut() {
        Some(out) => isa.store(column, out),
        None => isa.store_part(column, &mut out[..width]),
    }
}

/// Rounds the rows `x`, of `cols` elements, to bfloat16, into the tile `out` of `width` tokens.
#[inline(always)]
pub(super) fn round_tile<I: Isa>(isa: I, x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
    if width == 1 {
        return round_token(isa, x, out);
    }
    let out = cast_mut::<f32>(out);
    for from in (0..cols).step_by(AT_ONCE) {
        let mut columns = columns_of(isa, x, cols, from);
        for c in 0..AT_ONCE {
            columns[c] = isa.of_bits(round_to_bf16(isa, columns[c]));
        }
        // An odd last column is followed by zeros.
        for c in (0..AT_ONCE.min(cols - from)).step_by(2) {
            if I::BF16 {
                let low = isa.shr_i(isa.bits(columns[c]), 16);
                let low = isa.and_i(low, isa.splat_i(0xffff));
                let pair = isa.or_i(low, isa.bits(columns[c + 1]));
                place(isa, isa.of_bits(pair), (from + c) / 2 * width, width, out);
            } else {
                place(isa, columns[c], (from + c) * width, width, out);
                place(isa, columns[c + 1], (from + c + 1) * width, width, out);
            }
        }
    }
}

/// [`round_tile`] of one token.
#[inline(always)]
fn round_token<I: Isa>(isa: I, x: &[f32], out: &mut [u8]) {
    if !x.len().is_multiple_of(2) {
        out.fill(0);
    }
    for (i, some) in x.chunks(AT_ONCE).enumerate() {
        let mut bits = [0; AT_ONCE];
        isa.store_i(round_to_bf16(isa, isa.load_part(some, 0.0)), &mut bits);
        let bits = &bits[..some.len()];
        if I::BF16 {
            let out = &mut cast_mut::<u16>(out)[AT_ONCE * i..];
            for (out, bits) in out.iter_mut().zip(bits) {
                *out = (bits >> 16) as u16;
            }
        } else {
            cast_mut::<i32>(out)[AT_ONCE * i..][..bits.len()].copy_from_slice(bits);
        }
    }
}

/// The bits of the nearest bfloat16 as a binary32, half to even, and zero below 2⁻¹²⁶.
#[inline(always)]
fn round_to_bf16<I: Isa>(isa: I, x: I::F) -> I::I {
    let bits = isa.bits(x);
    let odd = isa.and_i(isa.shr_i(bits, 16), isa.splat_i(1));
    let rounded = isa.add_i(isa.add_i(bits, isa.splat_i(0x7fff)), odd);
    // Neither NaN nor −∞ is above −∞; twice either is itself, a NaN with its highest bit set.
    let rounded = isa.of_bits(rounded);
    let rounded = isa.if_gt(x, isa.splat(f32::NEG_INFINITY), rounded, isa.add(x, x));
    let magnitude = isa.of_bits(isa.and_i(isa.bits(rounded), isa.splat_i(i32::MAX)));
    let smallest = isa.splat(f32::MIN_POSITIVE);
    let rounded = isa.if_gt(smallest, magnitude, isa.splat(0.0), rounded);
    isa.and_i(isa.bits(rounded), isa.splat_i(!0xffff))
}

/// Magnitudes as bits, which compare as integers, with NaN above infinity.
#[inline(always)]
fn magnitudes<I: Isa>(isa: I, x: I::F) -> I::I {
    isa.and_i(isa.bits(x), isa.splat_i(i32::MAX))
}

/// Scales the rows `x`, of `cols` elements, and rounds them to binary16, into the tile `out` of `width` tokens.
#[inline(always)]
pub(super) fn narrow_tile<I: Isa>(isa: I, x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
    let (out, undo) = out.split_at_mut(width * plain_bytes(cols));
    let (out, undo) = (cast_mut::<f32>(out), cast_mut::<f32>(undo));
    if x.len() < width * cols {
        out.fill(0.0);
    }
    for (t, row) in x.chunks_exact(cols).enumerate() {
        let mut largest = isa.splat_i(0);
        for some in row.chunks(AT_ONCE) {
            largest = isa.max_i(largest, magnitudes(isa, isa.load_part(some, 0.0)));
        }
        let (factor, inverse) = narrow_factors(isa.largest_i(largest) as u32);
        undo[t] = inverse;
        for (some, out) in row.chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE * width)) {
            let x = isa.mul(isa.load_part(some, 0.0), isa.splat(factor));
            let (mut wide, mut halves) = ([0.0; AT_ONCE], [f16::ZERO; AT_ONCE]);
            isa.store(x, &mut wide);
            halves.convert_from_f32_slice(&wide);
            halves.convert_to_f32_slice(&mut wide);
            for (out, x) in out.chunks_exact_mut(width).zip(wide) {
                out[t] = x;
            }
        }
    }
}

/// What a token whose largest magnitude has these bits is multiplied by before it is rounded to binary16, and the
/// inverse of that. The formulas are the module [`super`]'s.
#[inline(always)]
pub(super) fn narrow_factors(most: u32) -> (f32, f32) {
    let exponent = (most >> 23).max(LEAST_EXPONENT);
    let power = |exponent: u32| f32::from_bits(exponent << 23);
    (power(127 + 141 - exponent), power(127 + exponent - 141))
}

/// Bytes of a token in narrow tiles.
pub(super) const fn narrow_bytes(cols: usize) -> usize {
    plain_bytes(cols) + size_of::<f32>()
}

/// Bytes of a token in rounded tiles.
pub(super) const fn rounded_bytes(cols: usize) -> usize {
    cols.next_multiple_of(2) * size_of::<f32>()
}

/// Bytes of a token in quantised tiles.
pub(super) const fn quantised_bytes(cols: usize) -> usize {
    cols / 32 * XBLOCK_BYTES + size_of::<f32>()
}

/// Bytes of a token in plain tiles.
pub(super) const fn plain_bytes(cols: usize) -> usize {
    cols * size_of::<f32>()
}

/// The parts of a quantised tile of `N` tokens with so many blocks each: these, and the tokens' scales.
#[inline(always)]
pub(super) fn quantised_parts<const N: usize>(
    tile: &mut [u8],
    blocks: usize,
) -> (&mut [XBlock<N>], &mut [f32]) {
    let (blocks, scales) = tile.split_at_mut(N * blocks * XBLOCK_BYTES);
    (cast_mut(blocks), cast_mut(scales))
}

/// The quantised tile of `N` tokens that starts at token `t`, and their scales.
#[inline(always)]
pub(super) fn quantised_tile<const N: usize>(
    x: &[u8],
    t: usize,
    cols: usize,
) -> (&[XBlock<N>], &[f32]) {
    let token = quantised_bytes(cols);
    let (blocks, scales) = x[t * token..][..N * token].split_at(N * cols / 32 * XBLOCK_BYTES);
    (cast(blocks), cast(scales))
}

/// The plain tile of `N` tokens that starts at token `t`.
#[inline(always)]
pub(super) fn plain_tile<const N: usize>(x: &[u8], t: usize, cols: usize) -> &[[f32; N]] {
    let token = plain_bytes(cols);
    cast(&x[t * token..][..N * token])
}

/// The narrow tile of `N` tokens that starts at token `t`, and what their sums are multiplied by.
#[inline(always)]
pub(super) fn narrowed_tile<const N: usize>(
    x: &[u8],
    t: usize,
    cols: usize,
) -> (&[[f32; N]], &[f32]) {
    let token = narrow_bytes(cols);
    let (x, undo) = x[t * token..][..N * token].split_at(N * plain_bytes(cols));
    (cast(x), cast(undo))
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Scratch;
    use super::super::generic::Generic;
    use super::*;

    /// Rows of numbers of all sizes, and of zeros.
    pub(super) fn rows(tokens: usize, cols: usize) -> Vec<f32> {
        let sizes = [
            1.0, 1e-3, 3e4, 0.0, 1e-30, 2.5, 1e38, 7.0, 1e-44, 0.2, 11.0, 5e-5,
        ];
        (0..tokens * cols)
            .map(|i| ((i * 7919 + i / 31) % 2003) as f32 / 1001.0 - 1.0)
            .enumerate()
            .map(|(i, x)| x * sizes[i / cols % 12] * if i % 96 < 32 { 1e-4 } else { 1.0 })
            .collect()
    }

    #[test]
    fn tiles_hold_each_element_of_each_token_where_it_is_said() {
        for cols in [1, 2, 15, 16, 17, 33, 64] {
            for (tokens, width) in [(1, 1), (3, 4), (4, 4), (7, 8), (12, 12)] {
                let x = rows(tokens, cols);
                let at = |c: usize, t: usize| x.get(t * cols + c).copied().unwrap_or(0.0);
                let mut plain = Scratch::with_capacity(0).unwrap();
                let plain = plain.get(width * plain_bytes(cols)).unwrap();
                interleave_rows(Generic, &x, cols, width, plain);
                let plain = cast::<f32>(plain);
                let mut rounded = Scratch::with_capacity(0).unwrap();
                let rounded = rounded.get(width * rounded_bytes(cols)).unwrap();
                round_tile(Generic, &x, cols, width, rounded);
                let rounded = cast::<f32>(rounded);
                for (i, (c, t)) in (0..cols)
                    .flat_map(|c| (0..width).map(move |t| (c, t)))
                    .enumerate()
                {
                    assert_eq!(plain[i], at(c, t), "column {c} of token {t}");
                    let near = half::bf16::from_f32(at(c, t)).to_f32();
                    let near = if near.abs() < f32::MIN_POSITIVE {
                        0.0
                    } else {
                        near
                    };
                    assert_eq!(rounded[i], near, "column {c} of token {t}");
                }
                assert!(rounded[width * cols..].iter().all(|&x| x == 0.0));
            }
        }
    }

    #[test]
    fn tiles_cover_all_tokens_and_pad_less_than_four() {
        for widest in [4, 12] {
            for tokens in 2..100 {
                let mut held = 0;
                while held < tokens {
                    held += tile_width(tokens - held, widest);
                }
                assert!(held == padded(tokens) && held < tokens + 4);
            }
        }
    }
}
