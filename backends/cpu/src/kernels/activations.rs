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

/// Tokens that are quantised side by side: both halves of a block of each fill a vector's lanes.
const SIDE_BY_SIDE: usize = 8;

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
    let mut tokens = [Token {
        most: 0,
        inverse: 0.0,
    }; N];
    for (t, row) in x.chunks_exact(cols).enumerate() {
        if OWN {
            scales[t] = 1.0;
            continue;
        }
        let mut largest = isa.splat_i(0);
        for x in row.as_chunks::<16>().0 {
            largest = isa.max_i(largest, magnitudes(isa, isa.load(x)));
        }
        tokens[t] = Token::new(isa.largest_i(largest) as u32);
        scales[t] = tokens[t].scale();
    }
    let finite = tokens
        .iter()
        .all(|token| f32::from_bits(token.most).is_finite());
    // A block of all tokens at a time, which stays in the nearest cache meanwhile.
    for (b, out) in blocks.iter_mut().enumerate() {
        if N == SIDE_BY_SIDE && !I::PAIRED && !OWN && finite {
            quantise_side_by_side::<I, N>(isa, x, cols, b, &tokens, out);
            continue;
        }
        for (t, row) in x.chunks_exact(cols).enumerate() {
            let (x, _) = row[32 * b..][..32].as_chunks::<16>();
            let halves = [isa.load(&x[0]), isa.load(&x[1])];
            let own = isa.max_i(magnitudes(isa, halves[0]), magnitudes(isa, halves[1]));
            let own = isa.largest_i(own) as u32;
            let step = if OWN {
                Step::own(own)
            } else {
                Step::of_token::<I>(own, tokens[t])
            };
            quantise_block(isa, halves, step, t, out);
        }
    }
}

/// Quantises block `b` of all of [`SIDE_BY_SIDE`] tokens, all of finite numbers; the missing ones count
/// as zeros.
#[inline(always)]
fn quantise_side_by_side<I: Isa, const N: usize>(
    isa: I,
    x: &[f32],
    cols: usize,
    b: usize,
    tokens: &[Token; N],
    out: &mut XBlock<N>,
) {
    // Lane `t` is of token `t`'s first half, lane `N + t` of its second.
    let mut columns = [isa.splat(0.0); 16];
    for (t, row) in x.chunks_exact(cols).enumerate() {
        let (halves, _) = row[32 * b..][..32].as_chunks::<16>();
        (columns[t], columns[N + t]) = (isa.load(&halves[0]), isa.load(&halves[1]));
    }
    isa.transpose(&mut columns);
    let mut largest = isa.splat_i(0);
    for c in 0..16 {
        largest = isa.max_i(largest, magnitudes(isa, columns[c]));
    }
    let mut own = [0; 16];
    isa.store_i(largest, &mut own);
    let mut inverses = [0.0; 16];
    let mut exact = [0.0; N];
    for t in 0..N {
        let step = Step::of_token::<I>(own[t].max(own[N + t]) as u32, tokens[t]);
        (inverses[t], inverses[N + t]) = (step.inverse, step.inverse);
        (out.factor[t], exact[t]) = (step.factor, step.exact);
    }
    let inverse = isa.load(&inverses);
    let (mut sum, byte) = (isa.splat_i(0), isa.splat_i(0xff));
    for j in 0..4 {
        let mut quad = isa.splat_i(0);
        for c in 0..4 {
            let q = isa.round_to_i32(isa.mul(columns[4 * j + c], inverse));
            sum = isa.add_i(sum, q);
            let bits = isa.shl_i(isa.and_i(q, byte), 8 * c as u32);
            quad = isa.or_i(quad, bits);
        }
        let mut quads = [0; 16];
        isa.store_i(quad, &mut quads);
        for t in 0..N {
            out.q[j][t] = quads[t].to_le_bytes().map(|b| b as i8);
            out.q[4 + j][t] = quads[N + t].to_le_bytes().map(|b| b as i8);
        }
    }
    let mut sums = [0; 16];
    isa.store_i(sum, &mut sums);
    for t in 0..N {
        let all = sums[t] + sums[N + t];
        out.sum[t] = exact[t] * all as f32;
        out.minus_sum[t] = -(all << I::SUM_SHIFT);
        out.minus_sum_high[t] = -(sums[N + t] << I::SUM_SHIFT);
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

    /// With a scale that is a power of two times the token's, for a block whose largest magnitude has the bits `most`.
    #[inline(always)]
    fn of_token<I: Isa>(most: u32, token: Token) -> Step {
        if token.inverse == 0.0 {
            return Step {
                factor: I::power(0),
                exact: 1.0,
                ..Step::ZERO
            };
        }
        // Of bits of positive numbers: the power of two that lies between them, rounded down.
        let finer = ((token.most - most) >> 23).min(MOST_POWER);
        let power = |k: u32| f32::from_bits((127 + k) << 23);
        Step {
            inverse: token.inverse * power(finer),
            factor: I::power(MOST_POWER - finer),
            exact: power(MOST_POWER - finer),
        }
    }
}

/// What the blocks of a token share.
#[derive(Clone, Copy)]
struct Token {
    /// The bits of the largest magnitude.
    most: u32,
    /// What elements are multiplied by in the block that has it; 0 if the token counts as zero or has no scale.
    inverse: f32,
}

impl Token {
    #[inline(always)]
    fn new(most: u32) -> Token {
        let largest = f32::from_bits(most);
        let inverse = if !largest.is_finite() || largest < SMALLEST_TOKEN {
            0.0
        } else {
            127.0 / largest
        };
        Token { most, inverse }
    }

    /// What the token's sums are multiplied by.
    #[inline(always)]
    fn scale(self) -> f32 {
        let largest = f32::from_bits(self.most);
        if !largest.is_finite() {
            f32::NAN
        } else if largest < SMALLEST_TOKEN {
            0.0
        } else {
            largest / 127.0 * LEAST_POWER
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
    use super::super::buffer::Scratch;
    use super::super::generic::Generic;
    use super::*;

    /// Rows of numbers of all sizes, and of zeros.
    fn rows(tokens: usize, cols: usize) -> Vec<f32> {
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
    fn tokens_side_by_side_are_quantised_as_each_alone() {
        const COLS: usize = 96;
        let isa = Generic;
        for (tokens, spoilt) in [
            (8, None),
            (5, None),
            (8, Some(f32::NAN)),
            (6, Some(f32::INFINITY)),
        ] {
            let mut x = rows(tokens, COLS);
            if let Some(spoilt) = spoilt {
                x[COLS + 40] = spoilt;
            }
            let mut tile = Scratch::with_capacity(0).unwrap();
            let tile = tile.get(8 * quantised_bytes(COLS)).unwrap();
            quantise_rows::<Generic, false, 8>(isa, &x, COLS, tile);
            let (blocks, scales) = quantised_parts::<8>(tile, COLS / 32);
            for (t, row) in x.chunks_exact(COLS).enumerate() {
                let mut alone = Scratch::with_capacity(0).unwrap();
                let alone = alone.get(quantised_bytes(COLS)).unwrap();
                quantise_rows::<Generic, false, 1>(isa, row, COLS, alone);
                let (own, scale) = quantised_parts::<1>(alone, COLS / 32);
                assert_eq!(scales[t].to_bits(), scale[0].to_bits());
                for (b, own) in blocks.iter().zip(own) {
                    assert!((0..8).all(|j| b.q[j][t] == own.q[j][0]), "token {t}");
                    assert_eq!(b.factor[t].to_bits(), own.factor[0].to_bits());
                    assert_eq!(b.sum[t].to_bits(), own.sum[0].to_bits());
                    assert_eq!(b.minus_sum[t], own.minus_sum[0]);
                    assert_eq!(b.minus_sum_high[t], own.minus_sum_high[0]);
                }
            }
            for t in tokens..8 {
                assert!(blocks.iter().all(|b| b.q.iter().all(|q| q[t] == [0; 4])));
            }
        }
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
