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

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::buffer::{cast, cast_mut};
use super::isa::{Isa, XBLOCK_BYTES, XBlock};
use super::{LEAST_EXPONENT, LEAST_POWER, MOST_POWER, SMALLEST_BLOCK, SMALLEST_TOKEN};

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

/// Quantises the rows `x`, of `cols` elements, into the tile `out` of `width` tokens, for weights that have
/// [`Source::OWN_SCALES`](super::sources::Source::OWN_SCALES) as `OWN` says.
#[inline(always)]
pub(super) fn quantise_tile<I: Isa, const OWN: bool>(
    isa: I,
    x: &[f32],
    cols: usize,
    width: usize,
    out: &mut [u8],
) {
    if width == 1 {
        return isa.quantise::<OWN, 1>(x, cols, out);
    }
    with_width!(I::TILE, width, N => isa.quantise::<OWN, N>(x, cols, out));
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

/// [`Isa::quantise`] in terms of [`Isa`]'s arithmetic.
#[inline(always)]
pub(super) fn quantise_rows<I: Isa, const OWN: bool, const N: usize>(
    isa: I,
    x: &[f32],
    cols: usize,
    out: &mut [u8],
) {
    if x.len() < N * cols {
        out.fill(0);
    }
    let (blocks, scales) = quantised_parts::<N>(out, cols / 32);
    let mut most = [0; N];
    for (t, row) in x.chunks_exact(cols).enumerate() {
        if OWN {
            scales[t] = 1.0;
            continue;
        }
        let mut largest = isa.splat_i(0);
        for x in row.as_chunks::<16>().0 {
            largest = isa.max_i(largest, magnitudes(isa, isa.load(x)));
        }
        most[t] = isa.largest_i(largest) as u32;
        let largest = f32::from_bits(most[t]);
        scales[t] = if !largest.is_finite() {
            f32::NAN
        } else if largest < SMALLEST_TOKEN {
            0.0
        } else {
            largest / 127.0 * LEAST_POWER
        };
    }
    // A block of all tokens at a time, which stays in the nearest cache meanwhile.
    for (b, out) in blocks.iter_mut().enumerate() {
        for (t, row) in x.chunks_exact(cols).enumerate() {
            let (x, _) = row[32 * b..][..32].as_chunks::<16>();
            let halves = [isa.load(&x[0]), isa.load(&x[1])];
            let own = isa.max_i(magnitudes(isa, halves[0]), magnitudes(isa, halves[1]));
            let own = isa.largest_i(own) as u32;
            let step = if OWN {
                Step::own(own)
            } else {
                Step::of_token::<I>(own, most[t])
            };
            quantise_block(isa, halves, step, t, out);
        }
    }
}

/// How the elements of a block become codes. The formulas are the module [`super`]'s.
#[derive(Clone, Copy)]
struct Step {
    /// What elements are multiplied by; 0 if the block counts as zero.
    inverse: f32,
    /// [`XBlock::factor`].
    factor: f32,
    /// The same number, as a number.
    exact: f32,
}

impl Step {
    const ZERO: Step = Step {
        inverse: 0.0,
        factor: 0.0,
        exact: 0.0,
    };

    /// With a scale of its own for a block whose largest magnitude has these bits.
    #[inline(always)]
    fn own(most: u32) -> Step {
        let largest = f32::from_bits(most);
        if !largest.is_finite() {
            Step {
                factor: f32::NAN,
                exact: f32::NAN,
                ..Step::ZERO
            }
        } else if largest < SMALLEST_BLOCK {
            Step::ZERO
        } else {
            Step {
                inverse: 127.0 / largest,
                factor: largest / 127.0,
                exact: largest / 127.0,
            }
        }
    }

    /// With a scale that is a power of two times the token's, whose largest magnitude has the bits `token`.
    #[inline(always)]
    fn of_token<I: Isa>(most: u32, token: u32) -> Step {
        let largest = f32::from_bits(token);
        if !largest.is_finite() || largest < SMALLEST_TOKEN {
            return Step {
                factor: I::power(0),
                exact: 1.0,
                ..Step::ZERO
            };
        }
        // Of bits of positive numbers: the power of two that lies between them, rounded down.
        let finer = ((token - most) >> 23).min(MOST_POWER);
        let power = |k: u32| f32::from_bits((127 + k) << 23);
        Step {
            inverse: 127.0 / largest * power(finer),
            factor: I::power(MOST_POWER - finer),
            exact: power(MOST_POWER - finer),
        }
    }
}

/// Magnitudes as bits, which compare as integers, with NaN above infinity.
#[inline(always)]
fn magnitudes<I: Isa>(isa: I, x: I::F) -> I::I {
    isa.and_i(isa.bits(x), isa.splat_i(i32::MAX))
}

/// Quantises 32 elements of token `t` of a tile.
#[inline(always)]
fn quantise_block<I: Isa, const N: usize>(
    isa: I,
    halves: [I::F; 2],
    step: Step,
    t: usize,
    out: &mut XBlock<N>,
) {
    let mut sums = [0; 2];
    if step.inverse == 0.0 {
        for j in 0..8 {
            *out.quad_mut::<I>(j, t) = [0; 4];
        }
    } else {
        let inverse = isa.splat(step.inverse);
        let q = [
            isa.round_to_i32(isa.mul(halves[0], inverse)),
            isa.round_to_i32(isa.mul(halves[1], inverse)),
        ];
        // Both sums at once: each is of 16 numbers up to 127, so the first takes the lower 16 bits, with its sign.
        let both = isa.sum_i(isa.add_i(q[0], isa.shl_i(q[1], 16)));
        sums[0] = i32::from(both as i16);
        sums[1] = (both - sums[0]) >> 16;
        for h in 0..2 {
            let mut bytes = [0; 16];
            isa.store_i8(q[h], &mut bytes);
            let (quads, _) = bytes.as_chunks::<4>();
            for j in 0..4 {
                *out.quad_mut::<I>(4 * h + j, t) = quads[j];
            }
        }
    }
    let sum = sums[0] + sums[1];
    out.factor[t] = step.factor;
    out.sum[t] = step.exact * sum as f32;
    out.minus_sum[t] = -(sum << I::SUM_SHIFT);
    out.minus_sum_high[t] = -(sums[1] << I::SUM_SHIFT);
}

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

/// [`Isa::interleave`] an element at a time.
#[inline(always)]
pub(super) fn interleave_elements(x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
    let out = cast_mut::<f32>(out);
    if x.len() < width * cols {
        out.fill(0.0);
    }
    for (i, out) in out.chunks_mut(AT_ONCE * width).enumerate() {
        for (t, row) in x.chunks_exact(cols).enumerate() {
            for (out, &x) in out.chunks_exact_mut(width).zip(&row[AT_ONCE * i..]) {
                out[t] = x;
            }
        }
    }
}

/// Rounds the rows `x`, of `cols` elements, to bfloat16, into the tile `out` of `width` tokens.
#[inline(always)]
pub(super) fn round_tile<I: Isa>(isa: I, x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
    if x.len() < width * cols || cols % 2 == 1 {
        out.fill(0);
    }
    for from in (0..cols).step_by(AT_ONCE) {
        for (t, row) in x.chunks_exact(cols).enumerate() {
            let some = &row[from..cols.min(from + AT_ONCE)];
            let x = match some.try_into() {
                Ok(x) => isa.load(x),
                Err(_) => isa.load_part(some, 0.0),
            };
            let mut bits = [0; AT_ONCE];
            isa.store_i(round_to_bf16(isa, x), &mut bits);
            place_bf16::<I>(&bits[..some.len()], from, t, width, out);
        }
    }
}

/// Puts token `t`'s columns from `from` on, an even number, into a rounded tile.
#[inline(always)]
fn place_bf16<I: Isa>(bits: &[i32], from: usize, t: usize, width: usize, out: &mut [u8]) {
    if I::BF16 {
        let out = &mut cast_mut::<[u16; 2]>(out)[from / 2 * width..];
        for (pair, out) in bits.chunks(2).zip(out.chunks_exact_mut(width)) {
            let high = |i: usize| pair.get(i).map_or(0, |b| (b >> 16) as u16);
            out[t] = [high(0), high(1)];
        }
    } else {
        let out = &mut cast_mut::<i32>(out)[from * width..];
        for (&bits, out) in bits.iter().zip(out.chunks_exact_mut(width)) {
            out[t] = bits;
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
    use super::*;

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
