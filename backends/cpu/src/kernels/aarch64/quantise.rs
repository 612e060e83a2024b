//! Quantising activations, four blocks at a time: the same block of four tokens, or four blocks of one token.
//!
//! Lane `u` of what is computed for each block belongs to the `u`th of the four, so that the scales and the sums
//! of all are computed at once. The formulas are those of the module [`kernels`](crate::kernels).

use std::arch::aarch64::*;

use super::products::by_lane;
use crate::kernels::activations::quantised_parts;
use crate::kernels::isa::XBlock;
use crate::kernels::{LEAST_POWER, MOST_POWER, SMALLEST_BLOCK, SMALLEST_TOKEN};

type Block = [f32; 32];
static ZEROS: Block = [0.0; 32];

/// The 32 elements of a block, in order.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn load(x: &Block) -> [float32x4_t; 8] {
    // SAFETY: the caller's contract; the loads cover `x`.
    unsafe {
        let (a, b) = (vld1q_f32_x4(x.as_ptr()), vld1q_f32_x4(x.as_ptr().add(16)));
        [a.0, a.1, a.2, a.3, b.0, b.1, b.2, b.3]
    }
}

/// The largest magnitude of four lanes each, as bits, which compare as integers, with NaN above infinity.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn largest(x: &Block) -> int32x4_t {
    // SAFETY: the caller's contract.
    unsafe {
        let x = load(x);
        let magnitude = |x| vreinterpretq_s32_f32(vabsq_f32(x));
        let pair = |i: usize| vmaxq_s32(magnitude(x[i]), magnitude(x[i + 1]));
        vmaxq_s32(vmaxq_s32(pair(0), pair(2)), vmaxq_s32(pair(4), pair(6)))
    }
}

/// The largest magnitude in each of four blocks, as bits.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn largest_of_each(four: [&Block; 4]) -> int32x4_t {
    // SAFETY: the caller's contract.
    unsafe {
        let low = vpmaxq_s32(largest(four[0]), largest(four[1]));
        let high = vpmaxq_s32(largest(four[2]), largest(four[3]));
        vpmaxq_s32(low, high)
    }
}

/// What elements are multiplied by, 0 where a block counts as zero, and [`XBlock::factor`].
#[derive(Clone, Copy)]
struct Steps {
    inverse: float32x4_t,
    factor: float32x4_t,
}

/// What the steps of a token's blocks are computed from.
#[derive(Clone, Copy)]
struct Tokens {
    /// Bits of the largest magnitude.
    most: int32x4_t,
    /// 127 divided by that, or 0 where the token counts as zero or is not finite.
    inverse: float32x4_t,
    /// All bits set where it does or is not, else none.
    without: uint32x4_t,
}

/// Where magnitudes are finite, and where they are not less than `smallest`.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn finite_and_large(most: int32x4_t, smallest: f32) -> [uint32x4_t; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let infinity = vdupq_n_s32(f32::INFINITY.to_bits() as i32);
        let smallest = vdupq_n_s32(smallest.to_bits() as i32);
        [vcltq_s32(most, infinity), vcgeq_s32(most, smallest)]
    }
}

/// `x` where bits are set, else 0.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn only(x: float32x4_t, bits: uint32x4_t) -> float32x4_t {
    // SAFETY: the caller's contract.
    unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), bits)) }
}

impl Tokens {
    /// Of tokens whose largest magnitudes have these bits; and their scales.
    ///
    /// # Safety
    /// The processor has NEON.
    #[inline(always)]
    unsafe fn new(most: int32x4_t) -> (Tokens, float32x4_t) {
        // SAFETY: the caller's contract.
        unsafe {
            let [finite, large] = finite_and_large(most, SMALLEST_TOKEN);
            let (magnitude, with) = (vreinterpretq_f32_s32(most), vandq_u32(finite, large));
            let tokens = Tokens {
                most,
                inverse: only(vdivq_f32(vdupq_n_f32(127.0), magnitude), with),
                without: vmvnq_u32(with),
            };
            let scale = vdivq_f32(magnitude, vdupq_n_f32(127.0));
            let scale = only(vmulq_f32(scale, vdupq_n_f32(LEAST_POWER)), large);
            (tokens, vbslq_f32(finite, scale, vdupq_n_f32(f32::NAN)))
        }
    }

    /// Of blocks whose largest magnitudes have these bits: scales that are powers of two times the tokens'.
    ///
    /// # Safety
    /// The processor has NEON.
    #[inline(always)]
    unsafe fn steps(self, most: int32x4_t) -> Steps {
        // SAFETY: the caller's contract.
        unsafe {
            let apart = vreinterpretq_u32_s32(vsubq_s32(self.most, most));
            let apart = vorrq_u32(vshrq_n_u32::<23>(apart), self.without);
            let finer = vshlq_n_u32::<23>(vminq_u32(apart, vdupq_n_u32(MOST_POWER)));
            let power = vaddq_u32(finer, vdupq_n_u32(127 << 23));
            let factor = vsubq_u32(vdupq_n_u32((127 + MOST_POWER) << 23), finer);
            Steps {
                inverse: vmulq_f32(self.inverse, vreinterpretq_f32_u32(power)),
                factor: vreinterpretq_f32_u32(factor),
            }
        }
    }
}

impl Steps {
    /// Of blocks whose largest magnitudes have these bits: scales of their own.
    ///
    /// # Safety
    /// The processor has NEON.
    #[inline(always)]
    unsafe fn own(most: int32x4_t) -> Steps {
        // SAFETY: the caller's contract.
        unsafe {
            let [finite, large] = finite_and_large(most, SMALLEST_BLOCK);
            let (magnitude, most) = (vreinterpretq_f32_s32(most), vdupq_n_f32(127.0));
            let factor = only(vdivq_f32(magnitude, most), large);
            Steps {
                inverse: only(vdivq_f32(most, magnitude), vandq_u32(finite, large)),
                factor: vbslq_f32(finite, factor, vdupq_n_f32(f32::NAN)),
            }
        }
    }
}

/// The codes of block `u` of four. Of products with 0 that are NaN the code is 0 too.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn codes(x: &Block, u: usize, inverse: float32x4_t) -> [int8x16_t; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let x = load(x);
        let mut q = [vdupq_n_s32(0); 8];
        for i in 0..8 {
            q[i] = vcvtnq_s32_f32(by_lane!(vmulq_laneq_f32, u, x[i], inverse));
        }
        // Numbers of −127..128 are in their lowest bytes.
        let narrow = |i: usize| {
            let (a, b) = (vreinterpretq_s16_s32(q[i]), vreinterpretq_s16_s32(q[i + 1]));
            vreinterpretq_s8_s16(vuzp1q_s16(a, b))
        };
        [
            vuzp1q_s8(narrow(0), narrow(2)),
            vuzp1q_s8(narrow(4), narrow(6)),
        ]
    }
}

/// `Σq` of each of four blocks, and of their second halves.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn sums(q: &[[int8x16_t; 2]; 4]) -> [int32x4_t; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut halves = [vdupq_n_s16(0); 4];
        for u in 0..4 {
            halves[u] = vpaddq_s16(vpaddlq_s8(q[u][0]), vpaddlq_s8(q[u][1]));
        }
        let low = vpaddq_s16(halves[0], halves[1]);
        let high = vpaddq_s16(halves[2], halves[3]);
        // Each block's two halves, one after the other.
        let both = vpaddq_s16(low, high);
        [
            vpaddlq_s16(both),
            vshrq_n_s32::<16>(vreinterpretq_s32_s16(both)),
        ]
    }
}

/// What [`XBlock`] keeps of four blocks beside their codes, in the order of its fields.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn numbers(q: &[[int8x16_t; 2]; 4], factor: float32x4_t) -> float32x4x4_t {
    // SAFETY: the caller's contract.
    unsafe {
        let [sum, high] = sums(q);
        float32x4x4_t(
            factor,
            vmulq_f32(factor, vcvtq_f32_s32(sum)),
            vreinterpretq_f32_s32(vnegq_s32(sum)),
            vreinterpretq_f32_s32(vnegq_s32(high)),
        )
    }
}

/// [`Isa::quantise`](crate::kernels::isa::Isa::quantise) of a single token with at least four blocks.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn one_token<const OWN: bool>(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<32>();
    let (out, scales) = quantised_parts::<1>(out, x.len());
    // The last four may be some of those before once more.
    let last = x.len() - 4;
    // SAFETY: the caller's contract; stores are of whole codes and of the four fields behind them.
    unsafe {
        let mut tokens = None;
        scales[0] = 1.0;
        if !OWN {
            let mut most = vdupq_n_s32(0);
            for x in x {
                most = vmaxq_s32(most, largest(x));
            }
            let (token, scale) = Tokens::new(vdupq_n_s32(vmaxvq_s32(most)));
            scales[0] = vgetq_lane_f32::<0>(scale);
            tokens = Some(token);
        }
        for b in (0..x.len()).step_by(4) {
            let b = b.min(last);
            let (x, _) = x[b..][..4].as_chunks::<4>();
            let out = &mut out[b..][..4];
            let four = x[0].each_ref();
            let most = largest_of_each(four);
            let steps = match tokens {
                None => Steps::own(most),
                Some(tokens) => tokens.steps(most),
            };
            let mut q = [[vdupq_n_s8(0); 2]; 4];
            for u in 0..4 {
                q[u] = codes(four[u], u, steps.inverse);
                let to = out[u].q.as_mut_ptr().cast::<i8>();
                vst1q_s8_x2(to, int8x16x2_t(q[u][0], q[u][1]));
            }
            let numbers = numbers(&q, steps.factor);
            for u in 0..4 {
                // The fields of a single token follow one another, and begin with this one.
                let to = (&raw mut out[u])
                    .byte_add(std::mem::offset_of!(XBlock<1>, factor))
                    .cast();
                by_lane!(vst4q_lane_f32, u, to, numbers);
            }
        }
    }
}

/// [`Isa::quantise`](crate::kernels::isa::Isa::quantise) of several tokens.
///
/// # Safety
/// The processor has NEON; `N` is a multiple of 4.
#[inline(always)]
pub(super) unsafe fn tokens<const OWN: bool, const PAIRED: bool, const N: usize>(
    x: &[f32],
    cols: usize,
    out: &mut [u8],
) {
    let (out, scales) = quantised_parts::<N>(out, cols / 32);
    for first in (0..N).step_by(4) {
        let mut rows: [&[Block]; 4] = [&[]; 4];
        for (row, x) in rows.iter_mut().zip(x.chunks_exact(cols).skip(first)) {
            *row = x.as_chunks().0;
        }
        // SAFETY: the caller's contract; stores are of four tokens' numbers of `N`.
        unsafe {
            let mut tokens = None;
            let mut scale = vdupq_n_f32(1.0);
            if !OWN {
                let mut most = vdupq_n_s32(0);
                for (b, out) in out.iter_mut().enumerate() {
                    let own = largest_of_each(at(&rows, b));
                    most = vmaxq_s32(most, own);
                    // There it lies until the factor is known.
                    let factor = out.factor[first..][..4].as_mut_ptr();
                    vst1q_s32(factor.cast(), own);
                }
                let token;
                (token, scale) = Tokens::new(most);
                tokens = Some(token);
            }
            vst1q_f32(scales[first..][..4].as_mut_ptr(), scale);
            for (b, out) in out.iter_mut().enumerate() {
                let four = at(&rows, b);
                let factor = out.factor[first..][..4].as_mut_ptr();
                let steps = match tokens {
                    None => Steps::own(largest_of_each(four)),
                    Some(tokens) => tokens.steps(vld1q_s32(factor.cast())),
                };
                let mut q = [[vdupq_n_s8(0); 2]; 4];
                for u in 0..4 {
                    q[u] = codes(four[u], u, steps.inverse);
                }
                if PAIRED {
                    place_pairs(&q, first, out);
                } else {
                    place(&q, first, out);
                }
                let float32x4x4_t(a, b, c, d) = numbers(&q, steps.factor);
                vst1q_f32(factor, a);
                vst1q_f32(out.sum[first..][..4].as_mut_ptr(), b);
                let to = out.minus_sum[first..][..4].as_mut_ptr();
                vst1q_f32(to.cast(), c);
                let to = out.minus_sum_high[first..][..4].as_mut_ptr();
                vst1q_f32(to.cast(), d);
            }
        }
    }
}

/// Block `b` of each row, of zeros where there is no row.
#[inline(always)]
fn at<'a>(rows: &[&'a [Block]; 4], b: usize) -> [&'a Block; 4] {
    let mut four = [&ZEROS; 4];
    for u in 0..4 {
        if let Some(block) = rows[u].get(b) {
            four[u] = block;
        }
    }
    four
}

/// Puts four tokens' codes, from token `first` on, where [`XBlock::quad_mut`] says.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn place<const N: usize>(q: &[[int8x16_t; 2]; 4], first: usize, out: &mut XBlock<N>) {
    for h in 0..2 {
        // SAFETY: the caller's contract; the stores cover four tokens' quads of `N`.
        unsafe {
            let quads = |u: usize| vreinterpretq_s32_s8(q[u][h]);
            let four = int32x4x4_t(quads(0), quads(1), quads(2), quads(3));
            if N == 4 {
                let to = out.q[4 * h..][..4].as_mut_ptr();
                vst4q_s32(to.cast(), four);
            } else {
                let (low, high) = (vzipq_s32(four.0, four.2), vzipq_s32(four.1, four.3));
                let (a, b) = (vzipq_s32(low.0, high.0), vzipq_s32(low.1, high.1));
                for (i, quad) in [a.0, a.1, b.0, b.1].into_iter().enumerate() {
                    let to = out.q[4 * h + i][first..][..4].as_mut_ptr();
                    vst1q_s32(to.cast(), quad);
                }
            }
        }
    }
}

/// [`place`] with eight columns side by side.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn place_pairs<const N: usize>(q: &[[int8x16_t; 2]; 4], first: usize, out: &mut XBlock<N>) {
    let (eights, _) = out.q.as_flattened_mut().as_chunks_mut::<2>();
    for h in 0..2 {
        // SAFETY: the caller's contract; the stores cover four tokens' eights of `N`.
        unsafe {
            let wide = |u: usize| vreinterpretq_s64_s8(q[u][h]);
            let (a, b) = ([wide(0), wide(1)], [wide(2), wide(3)]);
            let to = eights[2 * h * N + first..][..4].as_mut_ptr().cast();
            let both = int64x2x2_t(vzip1q_s64(a[0], a[1]), vzip1q_s64(b[0], b[1]));
            vst1q_s64_x2(to, both);
            let to = eights[(2 * h + 1) * N + first..][..4].as_mut_ptr().cast();
            let both = int64x2x2_t(vzip2q_s64(a[0], a[1]), vzip2q_s64(b[0], b[1]));
            vst1q_s64_x2(to, both);
        }
    }
}
