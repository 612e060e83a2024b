//! Products of quantised weights with several tokens by 8-bit matrix products: two rows and two tokens an instruction.

use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

use super::products::{for_quads, starts};
use super::{F, Neon};
use crate::kernels::isa::{Isa, Quads, XBlock};
use crate::kernels::sources::{Source, next_supers};

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

/// The number of token `t` twice, then that of `t + 1` twice.
///
/// # Safety
/// The processor has NEON, and `t + 2 ≤ N`.
#[inline(always)]
unsafe fn twice<const N: usize>(of: &[f32; N], t: usize) -> float32x4_t {
    // SAFETY: the caller's contract keeps the load inside `of`.
    unsafe {
        let two = vld1_f32(of.as_ptr().add(t));
        let two = vcombine_f32(two, two);
        vzip1q_f32(two, two)
    }
}

/// The rows `2h` and `2h + 1` of four, twice over.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn rows_twice(of: float32x4_t, h: usize) -> float32x4_t {
    // SAFETY: the caller's contract.
    unsafe {
        let of = vreinterpretq_f64_f32(of);
        vreinterpretq_f32_f64(if h == 0 {
            vdupq_laneq_f64::<0>(of)
        } else {
            vdupq_laneq_f64::<1>(of)
        })
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

/// Sums of two registers of rows, from register `FIRST` on: `[t][r][h]`, for even `t`, holds the
/// tokens `t` and `t + 1` of rows `4·(FIRST + r) + 2h` and the next.
type Pairs<T> = [[[T; 2]; 2]; 4];

/// [`tile`](super::products::tile) for the four tokens from the `from`th on and the two registers of rows from
/// `FIRST` on, by matrix products: two rows and two tokens an instruction.
///
/// # Safety
/// As [`tile`](super::products::tile), and `from + 4 ≤ N`.
#[inline(always)]
pub(super) unsafe fn by_matrix<
    const LEVEL: u8,
    const N: usize,
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
        let mut sums: Pairs<float32x4_t> = [[[vdupq_n_f32(0.0); 2]; 2]; 4];
        for t in (0..4).step_by(2) {
            for r in 0..2 {
                sums[t][r] = halves(acc[from + t][FIRST + r], acc[from + t + 1][FIRST + r]);
            }
        }
        let mut supers = [isa.splat(0.0); 2];
        for (b, x) in x.iter().enumerate() {
            supers = next_supers(isa, source, b, supers);
            let block = source.block(isa, b, supers);
            if S::HALVES {
                matrix_part::<LEVEL, N, FIRST, 0, 4, S>(
                    isa,
                    block.codes,
                    &block.d,
                    x,
                    from,
                    &mut sums,
                );
                matrix_part::<LEVEL, N, FIRST, 4, 8, S>(
                    isa,
                    block.codes,
                    &block.e,
                    x,
                    from,
                    &mut sums,
                );
            } else {
                matrix_part::<LEVEL, N, FIRST, 0, 8, S>(
                    isa,
                    block.codes,
                    &block.d,
                    x,
                    from,
                    &mut sums,
                );
            }
            if S::MIN {
                for t in (0..4).step_by(2) {
                    let sum = twice(&x.sum, from + t);
                    for r in 0..2 {
                        for h in 0..2 {
                            let m = rows_twice(block.e[FIRST + r], h);
                            sums[t][r][h] = vfmaq_f32(sums[t][r][h], m, sum);
                        }
                    }
                }
            }
        }
        for t in (0..4).step_by(2) {
            for r in 0..2 {
                let [first, second] = halves(sums[t][r][0], sums[t][r][1]);
                acc[from + t][FIRST + r] = first;
                acc[from + t + 1][FIRST + r] = second;
            }
        }
    }
}

/// Adds the product of the quads `FROM..TO` of a block, scaled by `d`, in [`by_matrix`].
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn matrix_part<
    const LEVEL: u8,
    const N: usize,
    const FIRST: usize,
    const FROM: usize,
    const TO: usize,
    S: Source<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    codes: S::Codes,
    d: &F,
    x: &XBlock<N>,
    from: usize,
    sums: &mut Pairs<float32x4_t>,
) {
    // SAFETY: the caller's contract; `Neon<2>` is paired, so two tokens' eight elements lie side by
    // side inside `x.q`.
    unsafe {
        let mut whole: Pairs<int32x4_t> = [[[vdupq_n_s32(0); 2]; 2]; 4];
        for t in (0..4).step_by(2) {
            let start = starts::<2, N, FROM, TO>(x, from + t, S::OFFSET);
            whole[t] = [[vzip1q_s32(start, start); 2]; 2];
        }
        for_quads!(j in FROM..TO {
            if j.is_multiple_of(2) {
                let rows = two_quads::<LEVEL, FIRST, _>(isa, codes, j);
                for t in (0..4).step_by(2) {
                    let at = 8 * (j / 2 * N + from + t);
                    let x = vld1q_s8(x.q.as_ptr().cast::<i8>().add(at));
                    for r in 0..2 {
                        for h in 0..2 {
                            whole[t][r][h] = smmla(whole[t][r][h], x, rows[2 * r + h]);
                        }
                    }
                }
            }
        });
        for t in (0..4).step_by(2) {
            let factor = twice(&x.factor, from + t);
            for r in 0..2 {
                for h in 0..2 {
                    let d = vmulq_f32(rows_twice(d[FIRST + r], h), factor);
                    let whole = vcvtq_f32_s32(whole[t][r][h]);
                    sums[t][r][h] = vfmaq_f32(sums[t][r][h], d, whole);
                }
            }
        }
    }
}

/// The quads `j` and `j + 1` of the eight rows from register `FIRST` on: eight columns of a row side
/// by side, two rows in a register.
///
/// # Safety
/// The processor has NEON; `j` is even.
#[inline(always)]
unsafe fn two_quads<const LEVEL: u8, const FIRST: usize, Q: Quads<Neon<LEVEL>>>(
    isa: Neon<LEVEL>,
    w: Q,
    j: usize,
) -> [int8x16_t; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        let rows = w.pair(isa, j)[FIRST / 2];
        rows.map(|rows| vreinterpretq_s8_u8(rows))
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
