//! Products of quantised weights with several tokens by 8-bit matrix products: two rows and two tokens an instruction.

use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

use super::panels::{At, add_three_pairs, add_two_pairs, scale_pair, settle};
use super::products::{for_quads, starts};
use super::{F, Neon};
use crate::kernels::isa::{Isa, Quads, XBlock};
use crate::kernels::sources::{PanelBlock, Source, next_supers};

/// `acc[2i + j] + Σ_c a[8i + c] · b[8j + c]` for i, j in 0..2.
///
/// # Safety
/// The processor has the 8-bit matrix product instructions.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn smmla(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: it reads and writes the named registers only.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// The first number twice, then the second twice; of `P` pairs of numbers.
///
/// # Safety
/// The processor has NEON, and `2·P` numbers may be read.
#[inline(always)]
unsafe fn twice<const P: usize>(of: *const f32) -> [float32x4_t; P] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut pairs = [vdupq_n_f32(0.0); P];
        for p in (0..P).step_by(2) {
            let at = of.add(2 * p);
            if p + 1 < P {
                let four = vld1q_f32(at);
                pairs[p] = vzip1q_f32(four, four);
                pairs[p + 1] = vzip2q_f32(four, four);
            } else {
                let two = vld1_f32(at);
                let two = vcombine_f32(two, two);
                pairs[p] = vzip1q_f32(two, two);
            }
        }
        pairs
    }
}

/// Each two rows of eight, twice over.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn rows_twice(of: [float32x4_t; 2]) -> [[float32x4_t; 2]; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut rows = [[of[0]; 2]; 2];
        for r in 0..2 {
            let of = vreinterpretq_f64_f32(of[r]);
            rows[r] = [
                vreinterpretq_f32_f64(vdupq_laneq_f64::<0>(of)),
                vreinterpretq_f32_f64(vdupq_laneq_f64::<1>(of)),
            ];
        }
        rows
    }
}

/// [`rows_twice`] of the eight numbers there.
///
/// # Safety
/// The processor has NEON, and eight numbers may be read.
#[inline(always)]
unsafe fn load_rows_twice(of: *const f32) -> [[float32x4_t; 2]; 2] {
    // SAFETY: the caller's contract; the load needs no alignment.
    unsafe {
        let pairs = vld4q_dup_f64(of.cast());
        [
            [
                vreinterpretq_f32_f64(pairs.0),
                vreinterpretq_f32_f64(pairs.1),
            ],
            [
                vreinterpretq_f32_f64(pairs.2),
                vreinterpretq_f32_f64(pairs.3),
            ],
        ]
    }
}

/// The first halves of two registers, then their second halves.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn halves(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
        [
            vreinterpretq_f32_f64(vzip1q_f64(a, b)),
            vreinterpretq_f32_f64(vzip2q_f64(a, b)),
        ]
    }
}

/// Sums of two registers of rows, from register `FIRST` on: `[p][r][h]` holds the tokens `2p` and `2p + 1` of the
/// rows `4·(FIRST + r) + 2h` and the next.
type Pairs<T, const P: usize> = [[[T; 2]; 2]; P];

/// [`tile`](super::products::tile) for `P` pairs of tokens from the `from`th token on and the two registers of rows
/// from `FIRST` on, by matrix products. With three pairs, 8 rows by 6 tokens, both kinds of sums and the operands of
/// twelve products fill the registers.
///
/// # Safety
/// As [`tile`](super::products::tile), and `from + 2·P ≤ N`; `P` is 2 or 3.
#[inline(always)]
pub(super) unsafe fn by_matrix<
    const LEVEL: u8,
    const N: usize,
    const P: usize,
    const FIRST: usize,
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
        let mut sums: Pairs<float32x4_t, P> = [[[vdupq_n_f32(0.0); 2]; 2]; P];
        for p in 0..P {
            for r in 0..2 {
                let t = from + 2 * p;
                sums[p][r] = halves(acc[t][FIRST + r], acc[t + 1][FIRST + r]);
            }
        }
        if let Some(panel) = source.unpacked() {
            from_panel::<LEVEL, N, P, FIRST, S>(panel, x, from, &mut sums);
        } else {
            from_packed::<LEVEL, N, P, FIRST, S>(isa, source, x, from, &mut sums);
        }
        for p in 0..P {
            for r in 0..2 {
                let [first, second] = halves(sums[p][r][0], sums[p][r][1]);
                acc[from + 2 * p][FIRST + r] = first;
                acc[from + 2 * p + 1][FIRST + r] = second;
            }
        }
    }
}

/// The blocks of [`by_matrix`] from packed codes.
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn from_packed<
    const LEVEL: u8,
    const N: usize,
    const P: usize,
    const FIRST: usize,
    S: Source<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    source: S,
    x: &[XBlock<N>],
    from: usize,
    sums: &mut Pairs<float32x4_t, P>,
) {
    // SAFETY: the caller's contract keeps the tokens inside of `N`.
    unsafe {
        let mut supers = [isa.splat(0.0); 2];
        for (b, x) in x.iter().enumerate() {
            supers = next_supers(isa, source, b, supers);
            let block = source.block(isa, b, supers);
            let rows = |of: &F| rows_twice([of[FIRST], of[FIRST + 1]]);
            let (d, e) = (rows(&block.d), rows(&block.e));
            let factor = twice(x.factor.as_ptr().add(from));
            if S::HALVES {
                let low = quads::<LEVEL, N, P, FIRST, 0, 4, S>(isa, block.codes, x, from);
                add_scaled(&low, d, factor, sums);
                let high = quads::<LEVEL, N, P, FIRST, 4, 8, S>(isa, block.codes, x, from);
                add_scaled(&high, e, factor, sums);
            } else {
                let whole = quads::<LEVEL, N, P, FIRST, 0, 8, S>(isa, block.codes, x, from);
                add_scaled(&whole, d, factor, sums);
            }
            if S::MIN {
                add_minimum(e, twice(x.sum.as_ptr().add(from)), sums);
            }
        }
    }
}

/// The blocks of [`by_matrix`] from a panel, whose scales and codes are read where they lie.
///
/// # Safety
/// As [`by_matrix`], and the source is the panel.
#[inline(always)]
unsafe fn from_panel<
    const LEVEL: u8,
    const N: usize,
    const P: usize,
    const FIRST: usize,
    S: Source<Neon<LEVEL>>,
>(
    panel: &[PanelBlock],
    x: &[XBlock<N>],
    from: usize,
    sums: &mut Pairs<float32x4_t, P>,
) {
    // SAFETY: the caller's contract; the panel has a block for each of the tile's, and a register of rows has four
    // numbers.
    unsafe {
        let mut at = At::new::<FIRST, N>(panel, x, 8 * from);
        for _ in 0..x.len() {
            let mut low: Pairs<int32x4_t, P> = [[[vdupq_n_s32(0); 2]; 2]; P];
            half_block::<N, P>(&mut at, &mut low);
            let mut high = low;
            if S::HALVES {
                let factor = at.factors(4 * from).wrapping_add(4 * N);
                let d = load_rows_twice(at.scales_from_half::<FIRST>());
                add_scaled_in_turn(&low, d, twice(factor), sums);
                settle(sums.as_flattened_mut().as_flattened_mut());
                high = [[[vdupq_n_s32(0); 2]; 2]; P];
            }
            half_block::<N, P>(&mut at, &mut high);
            let factor = at.factors(4 * from);
            if S::HALVES {
                let e = load_rows_twice(at.scales::<FIRST, true>());
                add_scaled_in_turn(&high, e, twice(factor), sums);
            } else {
                let d = load_rows_twice(at.scales::<FIRST, false>());
                add_scaled_in_turn(&high, d, twice(factor), sums);
            }
            if S::MIN {
                settle(sums.as_flattened_mut().as_flattened_mut());
                let e = load_rows_twice(at.scales::<FIRST, true>());
                add_minimum(e, twice(factor.wrapping_add(N)), sums);
            }
            at = at.next::<N>();
        }
    }
}

/// Adds the products of the next 16 columns, in [`from_panel`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn half_block<const N: usize, const P: usize>(at: &mut At, sums: &mut Pairs<int32x4_t, P>) {
    // SAFETY: the caller's contract.
    unsafe {
        if let Ok(two) = sums.as_mut_slice().try_into() {
            add_two_pairs::<N>(at, two);
        } else if let Ok(three) = sums.as_mut_slice().try_into() {
            add_three_pairs::<N>(at, three);
        }
    }
}

/// `sums = fma(d · f, whole, sums)`, `f` being the block's factor.
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn add_scaled<const P: usize>(
    whole: &Pairs<int32x4_t, P>,
    d: [[float32x4_t; 2]; 2],
    factor: [float32x4_t; P],
    sums: &mut Pairs<float32x4_t, P>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for p in 0..P {
            for r in 0..2 {
                for h in 0..2 {
                    let d = vmulq_f32(d[r][h], factor[p]);
                    let whole = vcvtq_f32_s32(whole[p][r][h]);
                    sums[p][r][h] = vfmaq_f32(sums[p][r][h], d, whole);
                }
            }
        }
    }
}

/// [`add_scaled`] where the sums leave no registers for a compiler's order of it.
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn add_scaled_in_turn<const P: usize>(
    whole: &Pairs<int32x4_t, P>,
    d: [[float32x4_t; 2]; 2],
    factor: [float32x4_t; P],
    sums: &mut Pairs<float32x4_t, P>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for p in 0..P {
            scale_pair(&whole[p], &d, factor[p], &mut sums[p]);
        }
    }
}

/// `sums = fma(e, f · Σq, sums)`.
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn add_minimum<const P: usize>(
    e: [[float32x4_t; 2]; 2],
    sum: [float32x4_t; P],
    sums: &mut Pairs<float32x4_t, P>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for p in 0..P {
            for r in 0..2 {
                for h in 0..2 {
                    sums[p][r][h] = vfmaq_f32(sums[p][r][h], e[r][h], sum[p]);
                }
            }
        }
    }
}

/// The product of the quads `FROM..TO` of a block, in [`by_matrix`].
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn quads<
    const LEVEL: u8,
    const N: usize,
    const P: usize,
    const FIRST: usize,
    const FROM: usize,
    const TO: usize,
    S: Source<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    codes: S::Codes,
    x: &XBlock<N>,
    from: usize,
) -> Pairs<int32x4_t, P> {
    // SAFETY: the caller's contract; `Neon<2>` is paired, so two tokens' eight elements lie side by
    // side inside `x.q`.
    unsafe {
        let mut whole: Pairs<int32x4_t, P> = [[[vdupq_n_s32(0); 2]; 2]; P];
        for p in 0..P {
            let start = starts::<2, N, FROM, TO>(x, from + 2 * p, S::OFFSET);
            whole[p] = [[vzip1q_s32(start, start); 2]; 2];
        }
        for_quads!(j in FROM..TO {
            if j.is_multiple_of(2) {
                let rows = codes.pair(isa, j)[FIRST / 2];
                for p in 0..P {
                    let at = 8 * (j / 2 * N + from + 2 * p);
                    let x = vld1q_s8(x.q.as_ptr().cast::<i8>().add(at));
                    for r in 0..2 {
                        for h in 0..2 {
                            let rows = vreinterpretq_s8_u8(rows[2 * r + h]);
                            whole[p][r][h] = smmla(whole[p][r][h], x, rows);
                        }
                    }
                }
            }
        });
        whole
    }
}

/// Two quads with eight columns of a row side by side: the first eight rows, then the others.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn pair(quads: [[uint8x16_t; 4]; 2]) -> [[uint8x16_t; 4]; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut out = quads;
        for r in 0..4 {
            let (a, b) = (
                vreinterpretq_u32_u8(quads[0][r]),
                vreinterpretq_u32_u8(quads[1][r]),
            );
            out[r / 2][r % 2 * 2] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
            out[r / 2][r % 2 * 2 + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
        }
        out
    }
}
