//! Activations quantised into tiles, by the formulas of the module [`kernels`](super::super).

use super::super::isa::{Isa, XBlock};
use super::super::{LEAST_POWER, MOST_POWER, SMALLEST_BLOCK, SMALLEST_TOKEN};
use super::{magnitudes, quantised_parts, with_width};

/// Quantises the rows `x`, of `cols` elements, into the tile `out` of `width` tokens, for weights that have
/// [`Source::OWN_SCALES`](crate::kernels::sources::Source::OWN_SCALES) as `OWN` says.
#[inline(always)]
pub(in crate::kernels) fn quantise_tile<I: Isa, const OWN: bool>(
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

/// Tokens that are quantised side by side: both halves of a block of each fill a vector's lanes.
const SIDE_BY_SIDE: usize = 8;

/// [`Isa::quantise`] in terms of [`Isa`]'s arithmetic.
#[inline(always)]
pub(in crate::kernels) fn quantise_rows<I: Isa, const OWN: bool, const N: usize>(
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

/// How the elements of a block become codes. The formulas are those of [`kernels`](super::super).
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

#[cfg(test)]
mod tests {
    use super::super::super::buffer::Scratch;
    use super::super::super::generic::Generic;
    use super::super::quantised_bytes;
    use super::super::tests::rows;
    use super::*;

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
}
