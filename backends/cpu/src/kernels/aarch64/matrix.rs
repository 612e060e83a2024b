//! Products of quantised weights with several tokens by 8-bit matrix products: two rows and two tokens an instruction.

use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

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

/// The number of token `t` twice, then that of `t + 1` twice; of `P` pairs of tokens from `t` on.
///
/// # Safety
/// The processor has NEON, and `t + 2·P ≤ N`.
#[inline(always)]
unsafe fn twice<const N: usize, const P: usize>(of: &[f32; N], t: usize) -> [float32x4_t; P] {
    // SAFETY: the caller's contract keeps the loads inside `of`.
    unsafe {
        let mut pairs = [vdupq_n_f32(0.0); P];
        for p in (0..P).step_by(2) {
            let at = of.as_ptr().add(t + 2 * p);
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

/// [`rows_twice`] of the eight numbers from `first` on.
///
/// # Safety
/// The processor has NEON, and `first ≤ 8`.
#[inline(always)]
unsafe fn load_rows_twice(of: &[f32; 16], first: usize) -> [[float32x4_t; 2]; 2] {
    // SAFETY: the caller's contract keeps the load inside `of`; it needs no alignment.
    unsafe {
        let pairs = vld4q_dup_f64(of.as_ptr().add(first).cast());
        [
            [vreinterpretq_f32_f64(pairs.0), vreinterpretq_f32_f64(pairs.1)],
            [vreinterpretq_f32_f64(pairs.2), vreinterpretq_f32_f64(pairs.3)],
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
/// As [`tile`](super::products::tile), and `from + 2·P ≤ N`; of three pairs, the source is a panel.
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
        let mut supers = [isa.splat(0.0); 2];
        for (b, x) in x.iter().enumerate() {
            if P == 3
                && let Some(block) = source.unpacked(b)
            {
                panel_block::<LEVEL, N, P, FIRST, S>(block, x, from, &mut sums);
                continue;
            }
            supers = next_supers(isa, source, b, supers);
            let block = source.block(isa, b, supers);
            let rows = |of: &F| rows_twice([of[FIRST], of[FIRST + 1]]);
            let (d, e) = (rows(&block.d), rows(&block.e));
            if S::HALVES {
                let low = quads::<LEVEL, N, P, FIRST, 0, 4, S>(isa, block.codes, x, from);
                add_scaled(&low, d, x, from, &mut sums);
                let high = quads::<LEVEL, N, P, FIRST, 4, 8, S>(isa, block.codes, x, from);
                add_scaled(&high, e, x, from, &mut sums);
            } else {
                let whole = quads::<LEVEL, N, P, FIRST, 0, 8, S>(isa, block.codes, x, from);
                add_scaled(&whole, d, x, from, &mut sums);
            }
            if S::MIN {
                add_minimum(e, x, from, &mut sums);
            }
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

/// One block of [`by_matrix`] from a panel, whose scales and codes are read where they lie.
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn panel_block<
    const LEVEL: u8,
    const N: usize,
    const P: usize,
    const FIRST: usize,
    S: Source<Neon<LEVEL>>,
>(
    block: &PanelBlock,
    x: &XBlock<N>,
    from: usize,
    sums: &mut Pairs<float32x4_t, P>,
) {
    // Without offset, which panels' codes do not have, sums start at 0.
    debug_assert!(S::OFFSET.is_none());
    // SAFETY: the caller's contract; a register of rows has four numbers.
    unsafe {
        if S::HALVES {
            let low = panel_quads::<N, P, FIRST, 0, 2>(block, x, from);
            let d = load_rows_twice(&block.d, 4 * FIRST);
            add_scaled(&low, d, x, from, sums);
            let high = panel_quads::<N, P, FIRST, 2, 4>(block, x, from);
            let e = load_rows_twice(&block.e, 4 * FIRST);
            add_scaled(&high, e, x, from, sums);
        } else {
            let whole = panel_quads::<N, P, FIRST, 0, 4>(block, x, from);
            let d = load_rows_twice(&block.d, 4 * FIRST);
            add_scaled(&whole, d, x, from, sums);
        }
        if S::MIN {
            let e = load_rows_twice(&block.e, 4 * FIRST);
            add_minimum(e, x, from, sums);
        }
    }
}

/// `sums = fma(d · f, whole, sums)`, `f` being the block's factor.
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn add_scaled<const N: usize, const P: usize>(
    whole: &Pairs<int32x4_t, P>,
    d: [[float32x4_t; 2]; 2],
    x: &XBlock<N>,
    from: usize,
    sums: &mut Pairs<float32x4_t, P>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let factor = twice::<N, P>(&x.factor, from);
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

/// `sums = fma(e, f · Σq, sums)`.
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn add_minimum<const N: usize, const P: usize>(
    e: [[float32x4_t; 2]; 2],
    x: &XBlock<N>,
    from: usize,
    sums: &mut Pairs<float32x4_t, P>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let sum = twice::<N, P>(&x.sum, from);
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

/// Adds the products of eight columns of eight rows, at `{w}`, with those of six tokens, at `{x}`; and goes on to the
/// next columns.
macro_rules! eight_columns {
    () => {
        concat!(
            "ld1 {{v0.16b-v3.16b}}, [{w}], {to_next_w}\n",
            "ld1 {{v4.16b-v6.16b}}, [{x}], {to_next_x}\n",
            "smmla {a0:v}.4s, v4.16b, v0.16b\n",
            "smmla {a1:v}.4s, v4.16b, v1.16b\n",
            "smmla {a2:v}.4s, v4.16b, v2.16b\n",
            "smmla {a3:v}.4s, v4.16b, v3.16b\n",
            "smmla {b0:v}.4s, v5.16b, v0.16b\n",
            "smmla {b1:v}.4s, v5.16b, v1.16b\n",
            "smmla {b2:v}.4s, v5.16b, v2.16b\n",
            "smmla {b3:v}.4s, v5.16b, v3.16b\n",
            "smmla {c0:v}.4s, v6.16b, v0.16b\n",
            "smmla {c1:v}.4s, v6.16b, v1.16b\n",
            "smmla {c2:v}.4s, v6.16b, v2.16b\n",
            "smmla {c3:v}.4s, v6.16b, v3.16b",
        )
    };
}

/// The product of the columns `8·FROM .. 8·TO` of a panel's block with three pairs of tokens, in [`by_matrix`]. As one
/// piece of assembly, in which one instruction loads eight rows, and one six tokens.
///
/// # Safety
/// As [`by_matrix`].
#[inline(always)]
unsafe fn panel_quads<
    const N: usize,
    const P: usize,
    const FIRST: usize,
    const FROM: usize,
    const TO: usize,
>(
    block: &PanelBlock,
    x: &XBlock<N>,
    from: usize,
) -> Pairs<int32x4_t, P> {
    debug_assert!(TO - FROM == 4 || TO - FROM == 2);
    // SAFETY: eight columns of a panel are 64 bytes for the first eight rows and as many for the others, and those of
    // the tokens 8 bytes each; so what is read lies inside of `block.codes` and, by the caller's contract, of `x.q`.
    // Beside that only the named registers are read and written.
    unsafe {
        let zero = vdupq_n_s32(0);
        let mut whole: Pairs<int32x4_t, P> = [[[zero; 2]; 2]; P];
        let [[[a0, a1], [a2, a3]], [[b0, b1], [b2, b3]], [[c0, c1], [c2, c3]]] =
            &mut whole[..] else { unreachable!() };
        let w = block.codes.as_ptr().add(2 * FROM + FIRST / 2);
        let x = x.q.as_ptr().cast::<i8>().add(8 * (FROM * N + from));
        macro_rules! columns {
            ($($eight:expr),*) => {
                asm!(
                    $($eight,)*
                    w = inout(reg) w => _,
                    x = inout(reg) x => _,
                    to_next_w = in(reg) 2 * size_of::<[u8; 64]>(),
                    to_next_x = in(reg) 8 * N,
                    a0 = inout(vreg) *a0,
                    a1 = inout(vreg) *a1,
                    a2 = inout(vreg) *a2,
                    a3 = inout(vreg) *a3,
                    b0 = inout(vreg) *b0,
                    b1 = inout(vreg) *b1,
                    b2 = inout(vreg) *b2,
                    b3 = inout(vreg) *b3,
                    c0 = inout(vreg) *c0,
                    c1 = inout(vreg) *c1,
                    c2 = inout(vreg) *c2,
                    c3 = inout(vreg) *c3,
                    out("v0") _,
                    out("v1") _,
                    out("v2") _,
                    out("v3") _,
                    out("v4") _,
                    out("v5") _,
                    out("v6") _,
                    options(pure, readonly, nostack, preserves_flags),
                )
            };
        }
        if TO - FROM == 4 {
            columns!(eight_columns!(), eight_columns!(), eight_columns!(), eight_columns!());
        } else {
            columns!(eight_columns!(), eight_columns!());
        }
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
