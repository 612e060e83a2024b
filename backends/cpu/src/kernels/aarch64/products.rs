//! [`Isa::tile`](crate::kernels::isa::Isa::tile) in the instructions of each level.
//!
//! 16 rows by four tokens would need all 32 registers for binary32 sums and as many again for the
//! integer ones; so several tokens are done by eight rows at a time, and both stay in registers. What
//! is read from panels, and blocks of most types for a single token, are pieces of assembly in [`panels`](super::panels).
//!
//! The dot and matrix product instructions are written as inline assembly: their intrinsics are
//! not stable. So are the widening multiplications: of their intrinsics the compiler makes moves of
//! the upper halves, which these instructions read in place.

use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

use super::matrix::by_matrix;
use super::panels::{At, SuperBlocks, add_four_tokens, add_nibbles, add_super_block, settle};
use super::{F, Neon};
use crate::kernels::isa::{Isa, Quads, XBlock};
use crate::kernels::pack::SUPER;
use crate::kernels::plain::Column;
use crate::kernels::sources::{PanelBlock, Source, next_supers};

/// `acc[i] + Σ_c w[4i + c] · x[4·LANE + c]`.
///
/// # Safety
/// The processor has the dot product instructions.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot<const LANE: usize>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: it reads and writes the named registers only.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// `low + w·x` and `high + w·x`, of the lower and of the upper eight lanes; or, where it is `FIRST`,
/// the products alone.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn widen<const FIRST: bool>(
    mut low: int16x8_t,
    mut high: int16x8_t,
    w: int8x16_t,
    x: int8x16_t,
) -> (int16x8_t, int16x8_t) {
    // SAFETY: both read and write the named registers only.
    unsafe {
        if FIRST {
            asm!(
                "smull {low:v}.8h, {w:v}.8b, {x:v}.8b",
                "smull2 {high:v}.8h, {w:v}.16b, {x:v}.16b",
                low = out(vreg) low,
                high = lateout(vreg) high,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        } else {
            asm!(
                "smlal {low:v}.8h, {w:v}.8b, {x:v}.8b",
                "smlal2 {high:v}.8h, {w:v}.16b, {x:v}.16b",
                low = inout(vreg) low,
                high = inout(vreg) high,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    (low, high)
}

/// `$function` with lane `$t mod 4`.
macro_rules! by_lane {
    ($function:ident, $t:expr, $($arg:expr),*) => {
        match $t % 4 {
            0 => $function::<0>($($arg),*),
            1 => $function::<1>($($arg),*),
            2 => $function::<2>($($arg),*),
            _ => $function::<3>($($arg),*),
        }
    };
}

/// The block with each number `$j` of `0..8` that is in `$from..$to`, written out: a compiler may
/// leave a loop over quads as a loop, and what depends on the quad in it.
macro_rules! for_quads {
    ($j:ident in $from:ident..$to:ident $block:block) => {
        for_quads! { @each $j in $from..$to $block 0 1 2 3 4 5 6 7 }
    };
    (@each $j:ident in $from:ident..$to:ident $block:block $($number:literal)*) => {
        $({
            let $j: usize = $number;
            if $from <= $j && $j < $to $block
        })*
    };
}

pub(super) use {by_lane, for_quads};

/// The numbers of the tokens `t .. t + 4`; of a single token, the same four times.
///
/// # Safety
/// The processor has NEON; `N` is 1 or `t + 4 ≤ N`.
#[inline(always)]
unsafe fn numbers<const N: usize>(of: &[f32; N], t: usize) -> float32x4_t {
    // SAFETY: the caller's contract keeps the loads inside `of`.
    unsafe {
        if N == 1 {
            vld1q_dup_f32(of.as_ptr())
        } else {
            vld1q_f32(of.as_ptr().add(t))
        }
    }
}

/// `acc[t] = w·x[t] + acc[t]`, rounded once.
///
/// # Safety
/// The processor has NEON; `N` is 1 or a multiple of 4.
#[inline(always)]
pub(super) unsafe fn fma_each<const N: usize>(w: F, x: &[f32; N], acc: &mut [F; N]) {
    // SAFETY: the caller's contract.
    unsafe {
        for t in 0..N {
            let x = numbers(x, t / 4 * 4);
            for r in 0..4 {
                acc[t][r] = by_lane!(vfmaq_laneq_f32, t, acc[t][r], w[r], x);
            }
        }
    }
}

/// What integer sums over the quads `FROM..TO` of a block start at, for the `COUNT` tokens (1, 2 or 4) from `t` on, over
/// and over: the correction for codes that count from `2^shift`.
///
/// # Safety
/// The processor has NEON, and `t + COUNT ≤ N`.
#[inline(always)]
pub(super) unsafe fn starts<
    const COUNT: usize,
    const N: usize,
    const FROM: usize,
    const TO: usize,
>(
    x: &XBlock<N>,
    t: usize,
    shift: Option<u32>,
) -> int32x4_t {
    // SAFETY: the caller's contract; bits are moved only.
    unsafe {
        let Some(shift) = shift else {
            return vdupq_n_s32(0);
        };
        let load = |of: &[i32; N]| {
            let at = of.as_ptr().add(t);
            match COUNT {
                1 => vld1q_dup_s32(at),
                2 => vcombine_s32(vld1_s32(at), vld1_s32(at)),
                _ => vld1q_s32(at),
            }
        };
        let sum = match (FROM, TO) {
            (0, 8) => load(&x.minus_sum),
            (0, _) => vsubq_s32(load(&x.minus_sum), load(&x.minus_sum_high)),
            _ => load(&x.minus_sum_high),
        };
        vshlq_s32(sum, vdupq_n_s32(shift as i32))
    }
}

/// `acc[t] += Σ` over the blocks of `x`, in order.
///
/// # Safety
/// The processor has the instructions of the level; `N` is 1 or a multiple of 4.
#[inline(always)]
pub(super) unsafe fn tile<const LEVEL: u8, const N: usize, S: Source<Neon<LEVEL>>>(
    isa: Neon<LEVEL>,
    source: S,
    x: &[XBlock<N>],
    acc: &mut [F; N],
) {
    let source = source.first(x.len());
    // SAFETY: the caller's contract; the parts cover all tokens and rows, each in its bounds.
    unsafe {
        if N == 1 {
            return by_rows::<LEVEL, N, 1, 0, 4, S>(isa, source, x, acc, 0);
        }
        // With scales of halves, of six tokens more numbers wait to be scaled than there are registers.
        if LEVEL >= 2 && N == 12 && !S::HALVES {
            for t in [0, 6] {
                by_matrix::<LEVEL, N, 3, 0, S>(isa, source, x, acc, t);
                by_matrix::<LEVEL, N, 3, 2, S>(isa, source, x, acc, t);
            }
            return;
        }
        for t in (0..N).step_by(4) {
            if LEVEL >= 2 {
                by_matrix::<LEVEL, N, 2, 0, S>(isa, source, x, acc, t);
                by_matrix::<LEVEL, N, 2, 2, S>(isa, source, x, acc, t);
            } else {
                by_rows::<LEVEL, N, 4, 0, 2, S>(isa, source, x, acc, t);
                by_rows::<LEVEL, N, 4, 2, 2, S>(isa, source, x, acc, t);
            }
        }
    }
}

/// [`tile`] for the `M` tokens (1 or 4) from the `from`th on, a multiple of `M`, and for `COUNT` registers of
/// rows from register `FIRST` on, by dot products or widening multiplications.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn by_rows<
    const LEVEL: u8,
    const N: usize,
    const M: usize,
    const FIRST: usize,
    const COUNT: usize,
    S: Source<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    source: S,
    x: &[XBlock<N>],
    acc: &mut [F; N],
    from: usize,
) {
    // What another part works on is to be in memory meanwhile, not in registers.
    let acc = black_box(acc);
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); COUNT]; M];
        for t in 0..M {
            for r in 0..COUNT {
                sums[t][r] = acc[from + t][FIRST + r];
            }
        }
        if LEVEL == 1
            && let Some(panel) = source.unpacked()
            && let Ok(sums) = sums.as_flattened_mut().try_into()
        {
            from_panel::<LEVEL, N, FIRST, S>(panel, x, sums);
        } else if LEVEL >= 1
            && N == 1
            && let Some((bits, at)) = source.super_blocks()
            && let Ok(sums) = sums.as_flattened_mut().try_into()
        {
            let x = (x.as_ptr().cast(), x.len());
            match bits {
                4 => from_super_blocks::<LEVEL, 4, S>(isa, source, at, x, sums),
                5 => from_super_blocks::<LEVEL, 5, S>(isa, source, at, x, sums),
                _ => from_super_blocks::<LEVEL, 6, S>(isa, source, at, x, sums),
            }
        } else {
            from_packed::<LEVEL, N, M, FIRST, COUNT, S>(isa, source, x, from, &mut sums);
        }
        for t in 0..M {
            for r in 0..COUNT {
                acc[from + t][FIRST + r] = sums[t][r];
            }
        }
    }
}

/// The blocks of [`by_rows`] as the source gives them.
///
/// # Safety
/// As [`by_rows`].
#[inline(always)]
unsafe fn from_packed<
    const LEVEL: u8,
    const N: usize,
    const M: usize,
    const FIRST: usize,
    const COUNT: usize,
    S: Source<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    source: S,
    x: &[XBlock<N>],
    from: usize,
    sums: &mut [[float32x4_t; COUNT]; M],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut supers = [isa.splat(0.0); 2];
        for (b, x) in x.iter().enumerate() {
            supers = next_supers(isa, source, b, supers);
            let block = source.block(isa, b, supers);
            if S::HALVES {
                let low = whole::<LEVEL, N, M, FIRST, COUNT, 0, 4, S>(isa, block.codes, x, from);
                add_block::<N, M, FIRST, COUNT>(&low, &block.d, x, from, sums);
                let high = whole::<LEVEL, N, M, FIRST, COUNT, 4, 8, S>(isa, block.codes, x, from);
                add_block::<N, M, FIRST, COUNT>(&high, &block.e, x, from, sums);
                continue;
            }
            let whole = whole::<LEVEL, N, M, FIRST, COUNT, 0, 8, S>(isa, block.codes, x, from);
            add_block::<N, M, FIRST, COUNT>(&whole, &block.d, x, from, sums);
            if S::MIN {
                let sum = numbers(&x.sum, from);
                for t in 0..M {
                    for r in 0..COUNT {
                        let m = block.e[FIRST + r];
                        sums[t][r] = by_lane!(vfmaq_laneq_f32, t, sums[t][r], m, sum);
                    }
                }
            }
        }
    }
}

/// The blocks of [`by_rows`] for a single token, whose first of so many lies at `x`, from codes and scales where
/// [`Source::super_blocks`] tells, codes of so many bits.
///
/// # Safety
/// As [`by_rows`], and the processor has the dot product instructions.
#[inline(always)]
unsafe fn from_super_blocks<const LEVEL: u8, const BITS: u32, S: Source<Neon<LEVEL>>>(
    isa: Neon<LEVEL>,
    source: S,
    (codes, scales): (*const u8, *const u8),
    (x, blocks): (*const XBlock<1>, usize),
    sums: &mut [float32x4_t; 4],
) {
    let mut at = SuperBlocks { codes, scales, x };
    for s in 0..blocks / SUPER {
        let supers = source.supers(isa, s);
        for _ in 0..SUPER {
            // SAFETY: the caller's contract; rows are whole superblocks.
            unsafe { add_super_block::<BITS>(&mut at, &supers, sums) };
        }
    }
}

/// The blocks of [`by_rows`] from a panel, of all four tokens of a tile and of eight rows, whose scales and codes are
/// read where they lie: `sums[2t + r]` is of the token `t` and of register `FIRST + r` of rows.
///
/// # Safety
/// As [`by_rows`], and the source is the panel, in the layout of [`Neon<1>`]; `N` is 4.
#[inline(always)]
unsafe fn from_panel<
    const LEVEL: u8,
    const N: usize,
    const FIRST: usize,
    S: Source<Neon<LEVEL>>,
>(
    panel: &[PanelBlock],
    x: &[XBlock<N>],
    sums: &mut [float32x4_t; 8],
) {
    // SAFETY: the caller's contract; the panel has a block for each of the tile's.
    unsafe {
        let mut at = At::new::<FIRST, N>(panel, x, 0);
        for _ in 0..x.len() {
            let mut low = [[vdupq_n_s32(0); 2]; 4];
            add_four_tokens(&mut at, &mut low);
            let mut high = low;
            if S::HALVES {
                let factor = vld1q_f32(at.factors(0).wrapping_add(16));
                let d = vld1q_f32_x2(at.scales_from_half::<FIRST>());
                add_scaled(&low, [d.0, d.1], factor, sums);
                settle(sums);
                high = [[vdupq_n_s32(0); 2]; 4];
            }
            add_four_tokens(&mut at, &mut high);
            let factor = vld1q_f32(at.factors(0));
            let d = if S::HALVES {
                vld1q_f32_x2(at.scales::<FIRST, true>())
            } else {
                vld1q_f32_x2(at.scales::<FIRST, false>())
            };
            add_scaled(&high, [d.0, d.1], factor, sums);
            if S::MIN {
                let sum = vld1q_f32(at.factors(0).wrapping_add(4));
                let m = vld1q_f32_x2(at.scales::<FIRST, true>());
                for t in 0..4 {
                    for (r, m) in [m.0, m.1].into_iter().enumerate() {
                        let i = 2 * t + r;
                        sums[i] = by_lane!(vfmaq_laneq_f32, t, sums[i], m, sum);
                    }
                }
            }
            at = at.next::<N>();
        }
    }
}

/// `sums = fma(d · f, whole, sums)`, in [`from_panel`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_scaled(
    whole: &[[int32x4_t; 2]; 4],
    d: [float32x4_t; 2],
    factor: float32x4_t,
    sums: &mut [float32x4_t; 8],
) {
    // SAFETY: the caller's contract.
    unsafe {
        for t in 0..4 {
            for r in 0..2 {
                let d = by_lane!(vmulq_laneq_f32, t, d[r], factor);
                sums[2 * t + r] = vfmaq_f32(sums[2 * t + r], d, vcvtq_f32_s32(whole[t][r]));
            }
        }
    }
}

/// The product of the quads `FROM..TO` of a block, in [`by_rows`].
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn whole<
    const LEVEL: u8,
    const N: usize,
    const M: usize,
    const FIRST: usize,
    const COUNT: usize,
    const FROM: usize,
    const TO: usize,
    S: Source<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    codes: S::Codes,
    x: &XBlock<N>,
    from: usize,
) -> [[int32x4_t; COUNT]; M] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut whole = [[vdupq_n_s32(0); COUNT]; M];
        let start = starts::<M, N, FROM, TO>(x, from, S::OFFSET);
        for t in 0..M {
            for r in 0..COUNT {
                whole[t][r] = by_lane!(vdupq_laneq_s32, t, start);
            }
        }
        if N == 1
            && LEVEL >= 1
            && let Some(codes) = codes.nibbles()
            && let Ok(sums) = whole.as_flattened_mut().try_into()
        {
            add_nibbles(codes, x.q.as_flattened(), sums);
        } else if LEVEL >= 1 {
            dot::<LEVEL, N, M, FIRST, COUNT, FROM, TO, _>(isa, codes, x, from, &mut whole);
        } else {
            widening::<LEVEL, N, M, FIRST, COUNT, FROM, TO, _>(isa, codes, x, from, &mut whole);
        }
        whole
    }
}

/// Adds a block's product, scaled by `d`, in [`by_rows`].
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn add_block<const N: usize, const M: usize, const FIRST: usize, const COUNT: usize>(
    whole: &[[int32x4_t; COUNT]; M],
    d: &F,
    x: &XBlock<N>,
    from: usize,
    sums: &mut [[float32x4_t; COUNT]; M],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let factor = numbers(&x.factor, from);
        for t in 0..M {
            for r in 0..COUNT {
                let d = by_lane!(vmulq_laneq_f32, t, d[FIRST + r], factor);
                sums[t][r] = vfmaq_f32(sums[t][r], d, vcvtq_f32_s32(whole[t][r]));
            }
        }
    }
}

/// Adds to `acc` by dot products: four rows and one token an instruction.
///
/// # Safety
/// As [`by_rows`]; the processor has the dot product instructions.
#[inline(always)]
unsafe fn dot<
    const LEVEL: u8,
    const N: usize,
    const M: usize,
    const FIRST: usize,
    const COUNT: usize,
    const FROM: usize,
    const TO: usize,
    Q: Quads<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    w: Q,
    x: &XBlock<N>,
    from: usize,
    acc: &mut [[int32x4_t; COUNT]; M],
) {
    // SAFETY: the caller's contract; four quads of a single token lie side by side, as four tokens
    // of a quad do, so the loads stay inside `x.q`.
    unsafe {
        for_quads!(j in FROM..TO {
            let w = w.quad(isa, j);
            for t in 0..M {
                let (at, lane) = if N == 1 {
                    (j / 4 * 4, j)
                } else {
                    (j * N + from, t)
                };
                let x = vld1q_s8(x.q.as_ptr().cast::<i8>().add(4 * at));
                for r in 0..COUNT {
                    let w = vreinterpretq_s8_u8(w[FIRST + r]);
                    acc[t][r] = by_lane!(sdot, lane, acc[t][r], w, x);
                }
            }
        });
    }
}

/// Quads whose products, of codes of `bits` bits with 7-bit activations and a sign, a 16-bit lane
/// can sum.
const fn quads_in_16_bits(bits: u32) -> usize {
    match bits {
        4 | 5 => 8, // 8 · 31 · 127 = 31 496
        6 => 4,     // 4 · 63 · 127 = 32 004
        _ => 2,     // 2 · 128 · 127 = 32 512
    }
}

/// Adds to `acc` by multiplications into 16 bits: two rows and one token an instruction.
///
/// # Safety
/// As [`by_rows`].
#[inline(always)]
unsafe fn widening<
    const LEVEL: u8,
    const N: usize,
    const M: usize,
    const FIRST: usize,
    const COUNT: usize,
    const FROM: usize,
    const TO: usize,
    Q: Quads<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    w: Q,
    x: &XBlock<N>,
    from: usize,
    acc: &mut [[int32x4_t; COUNT]; M],
) {
    let group = quads_in_16_bits(Q::BITS);
    // SAFETY: the caller's contract.
    unsafe {
        let mut low = [[vdupq_n_s16(0); COUNT]; M];
        let mut high = low;
        for_quads!(j in FROM..TO {
            let w = w.quad(isa, j);
            for t in 0..M {
                let x = vreinterpretq_s8_s32(vld1q_dup_s32(x.q[j][from + t].as_ptr().cast()));
                for r in 0..COUNT {
                    let w = vreinterpretq_s8_u8(w[FIRST + r]);
                    let (l, h) = (low[t][r], high[t][r]);
                    (low[t][r], high[t][r]) = if (j - FROM).is_multiple_of(group) {
                        widen::<true>(l, h, w, x)
                    } else {
                        widen::<false>(l, h, w, x)
                    };
                    if (j - FROM + 1).is_multiple_of(group) || j + 1 == TO {
                        let rows = vpaddq_s32(vpaddlq_s16(low[t][r]), vpaddlq_s16(high[t][r]));
                        acc[t][r] = vaddq_s32(acc[t][r], rows);
                    }
                }
            }
        });
    }
}

/// `acc[t] += Σₖ w[k] · x[k][t]`, in order, for the two registers of rows from `FIRST` on: 8 rows by up to 12 tokens
/// stay in registers.
///
/// # Safety
/// The processor has NEON; `N` is a multiple of 4.
#[inline(always)]
pub(super) unsafe fn plain<
    const LEVEL: u8,
    const N: usize,
    const FIRST: usize,
    C: Column<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    w: &[C],
    x: &[[f32; N]],
    acc: &mut [F; N],
) {
    // What another part works on is to be in memory meanwhile, not in registers.
    let acc = black_box(acc);
    let mut sums = acc.map(|acc| [acc[FIRST], acc[FIRST + 1]]);
    // SAFETY: the caller's contract.
    unsafe {
        for (w, x) in w.iter().zip(x) {
            let w = w.load(isa);
            for t in 0..N {
                let x = numbers(x, t / 4 * 4);
                for r in 0..2 {
                    sums[t][r] = by_lane!(vfmaq_laneq_f32, t, sums[t][r], w[FIRST + r], x);
                }
            }
        }
    }
    for t in 0..N {
        [acc[t][FIRST], acc[t][FIRST + 1]] = sums[t];
    }
}
