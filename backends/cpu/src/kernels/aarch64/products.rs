//! [`Isa::dot`](crate::kernels::isa::Isa::dot) in the instructions of each level.
//!
//! The dot and matrix product instructions are written as inline assembly: their intrinsics are
//! not stable.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{I, Neon};
use crate::kernels::isa::{Quads, XBlock};

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

/// The four-byte groups of tokens `t ..` of quad `j`: up to four of them, those there are.
///
/// # Safety
/// The processor has NEON; `t < N`.
#[inline(always)]
unsafe fn tokens<const N: usize>(x: &XBlock<N>, j: usize, t: usize) -> int8x16_t {
    // SAFETY: the loads stay within the `4 · (N − t)` bytes of the quad's tokens from `t` on.
    unsafe {
        let at = x.q[j].as_ptr().add(t).cast::<i8>();
        match N - t {
            1 => vreinterpretq_s8_s32(vld1q_dup_s32(at.cast())),
            2 | 3 => vcombine_s8(vld1_s8(at), vdup_n_s8(0)),
            _ => vld1q_s8(at),
        }
    }
}

/// By dot products: four rows and one token an instruction.
///
/// # Safety
/// The processor has the dot product instructions.
#[inline(always)]
pub(super) unsafe fn by_dot<
    const LEVEL: u8,
    const N: usize,
    const FROM: usize,
    const TO: usize,
    Q: Quads<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    w: Q,
    x: &XBlock<N>,
    init: [I; N],
) -> [I; N] {
    let mut acc = init;
    // SAFETY: the caller's contract.
    unsafe {
        for j in FROM..TO {
            let w = w.quad(isa, j);
            let mut t = 0;
            while t < N {
                if N == 1 {
                    // The quads of a single token lie side by side.
                    let at = x.q.as_ptr().cast::<i8>().add(j / 4 * 16);
                    let x = vld1q_s8(at);
                    for r in 0..4 {
                        let w = vreinterpretq_s8_u8(w[r]);
                        acc[t][r] = match j % 4 {
                            0 => sdot::<0>(acc[t][r], w, x),
                            1 => sdot::<1>(acc[t][r], w, x),
                            2 => sdot::<2>(acc[t][r], w, x),
                            _ => sdot::<3>(acc[t][r], w, x),
                        };
                    }
                    t += 1;
                    continue;
                }
                let x = tokens(x, j, t);
                for r in 0..4 {
                    let w = vreinterpretq_s8_u8(w[r]);
                    acc[t][r] = sdot::<0>(acc[t][r], w, x);
                    if t + 1 < N {
                        acc[t + 1][r] = sdot::<1>(acc[t + 1][r], w, x);
                    }
                    if t + 3 < N {
                        acc[t + 2][r] = sdot::<2>(acc[t + 2][r], w, x);
                        acc[t + 3][r] = sdot::<3>(acc[t + 3][r], w, x);
                    }
                }
                t += if t + 3 < N { 4 } else { 2 };
            }
        }
    }
    acc
}

/// By matrix products: two rows and two tokens an instruction. `N` is even, and so is the number
/// of quads.
///
/// # Safety
/// The processor has the 8-bit matrix product instructions.
#[inline(always)]
pub(super) unsafe fn by_matrix<
    const LEVEL: u8,
    const N: usize,
    const FROM: usize,
    const TO: usize,
    Q: Quads<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    w: Q,
    x: &XBlock<N>,
    init: [I; N],
) -> [I; N] {
    let mut out = init;
    // SAFETY: the caller's contract.
    unsafe {
        // acc[t][r][h]: tokens t and t + 1 (t even), rows 4r + 2h and the next.
        let mut acc = [[[vdupq_n_s32(0); 2]; 4]; N];
        let mut j = FROM;
        while j < TO {
            let (first, second) = (w.quad(isa, j), w.quad(isa, j + 1));
            let mut rows = [[vdupq_n_s8(0); 2]; 4];
            for r in 0..4 {
                // Eight columns of a row side by side, two rows in a register.
                let (a, b) = (
                    vreinterpretq_s32_u8(first[r]),
                    vreinterpretq_s32_u8(second[r]),
                );
                rows[r][0] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
                rows[r][1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
            }
            let mut t = 0;
            while t < N {
                let a = vreinterpretq_s32_s8(tokens(x, j, t));
                let b = vreinterpretq_s32_s8(tokens(x, j + 1, t));
                let pair = vreinterpretq_s8_s32(vzip1q_s32(a, b));
                for r in 0..4 {
                    for h in 0..2 {
                        acc[t][r][h] = smmla(acc[t][r][h], pair, rows[r][h]);
                    }
                }
                if t + 3 < N {
                    let pair = vreinterpretq_s8_s32(vzip2q_s32(a, b));
                    for r in 0..4 {
                        for h in 0..2 {
                            acc[t + 2][r][h] = smmla(acc[t + 2][r][h], pair, rows[r][h]);
                        }
                    }
                    t += 2;
                }
                t += 2;
            }
            j += 2;
        }
        let mut t = 0;
        while t < N {
            for r in 0..4 {
                let low = vreinterpretq_s64_s32(acc[t][r][0]);
                let high = vreinterpretq_s64_s32(acc[t][r][1]);
                let first = vreinterpretq_s32_s64(vzip1q_s64(low, high));
                let second = vreinterpretq_s32_s64(vzip2q_s64(low, high));
                out[t][r] = vaddq_s32(out[t][r], first);
                out[t + 1][r] = vaddq_s32(out[t + 1][r], second);
            }
            t += 2;
        }
    }
    out
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

/// By multiplications into 16 bits: two rows and one token an instruction.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn by_widening<
    const LEVEL: u8,
    const N: usize,
    const FROM: usize,
    const TO: usize,
    Q: Quads<Neon<LEVEL>>,
>(
    isa: Neon<LEVEL>,
    w: Q,
    x: &XBlock<N>,
    init: [I; N],
) -> [I; N] {
    let mut acc = init;
    let group = quads_in_16_bits(Q::BITS);
    let mut j = FROM;
    // SAFETY: the caller's contract.
    unsafe {
        while j < TO {
            let end = TO.min(j + group);
            for t in 0..N {
                let mut low = [vdupq_n_s16(0); 4];
                let mut high = low;
                for j in j..end {
                    let w = w.quad(isa, j);
                    let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(
                        x.q[j][t].map(|b| b as u8),
                    )));
                    for r in 0..4 {
                        let w = vreinterpretq_s8_u8(w[r]);
                        low[r] = vmlal_s8(low[r], vget_low_s8(w), vget_low_s8(x));
                        high[r] = vmlal_high_s8(high[r], w, x);
                    }
                }
                for r in 0..4 {
                    let rows = vpaddq_s32(vpaddlq_s16(low[r]), vpaddlq_s16(high[r]));
                    acc[t][r] = vaddq_s32(acc[t][r], rows);
                }
            }
            j = end;
        }
    }
    acc
}
