//! The 16 lanes in four 128-bit NEON registers; integer products by widening multiplications, by
//! dot products or by 8-bit matrix products.

mod fhm;
mod matrix;
mod panels;
mod plain;
mod products;
mod quantise;
mod tables;

use std::arch::aarch64::*;

pub(super) use tables::{NEON, NEON_DOTPROD, NEON_DOTPROD_FHM, NEON_I8MM, NEON_I8MM_FHM};

use super::activations::{self, with_width};
use super::isa::{Isa, OffsetCodes, XBlock, intrinsics};
use super::plain::{self as plain_products, Column, PlainPair};
use super::sources::Source;

/// NEON; from `LEVEL` 1 on with the dot product instructions, from 2 on with the 8-bit matrix
/// products too.
#[derive(Clone, Copy)]
pub(super) struct Neon<const LEVEL: u8> {
    _proof: (),
}

impl<const LEVEL: u8> Neon<LEVEL> {
    /// # Safety
    /// The processor has the instructions.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        Neon { _proof: () }
    }
}

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type B = [uint8x16_t; 4];

/// `$e` for each of the four registers `$r`.
macro_rules! four {
    ($r:ident => $e:expr) => {
        [
            {
                let $r = 0usize;
                $e
            },
            {
                let $r = 1usize;
                $e
            },
            {
                let $r = 2usize;
                $e
            },
            {
                let $r = 3usize;
                $e
            },
        ]
    };
}

/// Transposes 4 × 4.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn transpose_4(r: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        let wide = |x: float32x4_t| vreinterpretq_f64_f32(x);
        let narrow = |x: float64x2_t| vreinterpretq_f32_f64(x);
        let even_01 = wide(vtrn1q_f32(r[0], r[1]));
        let odd_01 = wide(vtrn2q_f32(r[0], r[1]));
        let even_23 = wide(vtrn1q_f32(r[2], r[3]));
        let odd_23 = wide(vtrn2q_f32(r[2], r[3]));
        [
            narrow(vzip1q_f64(even_01, even_23)),
            narrow(vzip1q_f64(odd_01, odd_23)),
            narrow(vzip2q_f64(even_01, even_23)),
            narrow(vzip2q_f64(odd_01, odd_23)),
        ]
    }
}

/// Table indices that put byte `4r + i` at the highest byte of lane `i`, and zeros below it.
const fn spread_high() -> [[u8; 16]; 4] {
    let mut indices = [[0xff; 16]; 4];
    let mut byte = 0;
    while byte < 16 {
        indices[byte / 4][byte % 4 * 4 + 3] = byte as u8;
        byte += 1;
    }
    indices
}
static SPREAD_HIGH: [[u8; 16]; 4] = spread_high();

impl<const LEVEL: u8> Isa for Neon<LEVEL> {
    const TILE: usize = if LEVEL >= 2 { 12 } else { 4 };
    const PLAIN_TILE: usize = 12;
    const PLAIN_PAIRS: bool = true;
    const PAIRED: bool = LEVEL >= 2;
    const OFFSET_CODES: OffsetCodes = OffsetCodes::Signed;
    const BYTE_UNIT: f32 = f32::from_bits((127 - 24) << 23);
    type F = F;
    type I = I;
    type B = B;

    #[inline(always)]
    fn times_power(self, d: F, power: f32) -> F {
        self.mul(d, self.splat(power))
    }

    intrinsics! {
        fn splat(self, x: f32) -> F { [vdupq_n_f32(x); 4] }
        fn load(self, x: &[f32; 16]) -> F { four!(r => vld1q_f32(x.as_ptr().add(4 * r))) }
        fn store(self, x: F, to: &mut [f32; 16]) {
            for r in 0..4 {
                vst1q_f32(to.as_mut_ptr().add(4 * r), x[r]);
            }
        }
        fn load_f16(self, x: &[u16; 16]) -> F {
            let low = vreinterpretq_f16_u16(vld1q_u16(x.as_ptr()));
            let high = vreinterpretq_f16_u16(vld1q_u16(x.as_ptr().add(8)));
            [
                vcvt_f32_f16(vget_low_f16(low)),
                vcvt_high_f32_f16(low),
                vcvt_f32_f16(vget_low_f16(high)),
                vcvt_high_f32_f16(high),
            ]
        }
        fn load_bf16(self, x: &[u16; 16]) -> F {
            let (low, high) = (vld1q_u16(x.as_ptr()), vld1q_u16(x.as_ptr().add(8)));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(low))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(low)),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(high))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(high)),
            ]
        }
        fn add(self, a: F, b: F) -> F { four!(r => vaddq_f32(a[r], b[r])) }
        fn sub(self, a: F, b: F) -> F { four!(r => vsubq_f32(a[r], b[r])) }
        fn mul(self, a: F, b: F) -> F { four!(r => vmulq_f32(a[r], b[r])) }
        fn div(self, a: F, b: F) -> F { four!(r => vdivq_f32(a[r], b[r])) }
        fn fma(self, a: F, b: F, c: F) -> F { four!(r => vfmaq_f32(c[r], a[r], b[r])) }
        fn fnma(self, a: F, b: F, c: F) -> F { four!(r => vfmsq_f32(c[r], a[r], b[r])) }
        // Not `vmaxq_f32`, which treats NaN and signed zeros in its own way.
        fn max(self, a: F, b: F) -> F { four!(r => vbslq_f32(vcgtq_f32(a[r], b[r]), a[r], b[r])) }
        fn min(self, a: F, b: F) -> F { four!(r => vbslq_f32(vcltq_f32(a[r], b[r]), a[r], b[r])) }
        fn if_gt(self, a: F, b: F, yes: F, no: F) -> F {
            four!(r => vbslq_f32(vcgtq_f32(a[r], b[r]), yes[r], no[r]))
        }
        fn round_to_i32(self, a: F) -> I { four!(r => vcvtnq_s32_f32(a[r])) }
        fn bits(self, a: F) -> I { four!(r => vreinterpretq_s32_f32(a[r])) }
        fn of_bits(self, a: I) -> F { four!(r => vreinterpretq_f32_s32(a[r])) }

        fn splat_i(self, x: i32) -> I { [vdupq_n_s32(x); 4] }
        fn store_i(self, x: I, to: &mut [i32; 16]) {
            for r in 0..4 {
                vst1q_s32(to.as_mut_ptr().add(4 * r), x[r]);
            }
        }
        fn load_u8(self, x: &[u8; 16]) -> I {
            let x = vld1q_u8(x.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x));
            [
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
                vreinterpretq_s32_u32(vmovl_high_u16(low)),
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
                vreinterpretq_s32_u32(vmovl_high_u16(high)),
            ]
        }
        fn load_i8(self, x: &[u8; 16]) -> I {
            let x = vreinterpretq_s8_u8(vld1q_u8(x.as_ptr()));
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        }
        fn store_i8(self, x: I, to: &mut [i8; 16]) {
            let low = vmovn_high_s32(vmovn_s32(x[0]), x[1]);
            let high = vmovn_high_s32(vmovn_s32(x[2]), x[3]);
            vst1q_s8(to.as_mut_ptr(), vmovn_high_s16(vmovn_s16(low), high));
        }
        fn add_i(self, a: I, b: I) -> I { four!(r => vaddq_s32(a[r], b[r])) }
        fn sub_i(self, a: I, b: I) -> I { four!(r => vsubq_s32(a[r], b[r])) }
        fn and_i(self, a: I, b: I) -> I { four!(r => vandq_s32(a[r], b[r])) }
        fn or_i(self, a: I, b: I) -> I { four!(r => vorrq_s32(a[r], b[r])) }
        fn max_i(self, a: I, b: I) -> I { four!(r => vmaxq_s32(a[r], b[r])) }
        fn shl_i(self, a: I, s: u32) -> I {
            let s = vdupq_n_s32(s as i32);
            four!(r => vshlq_s32(a[r], s))
        }
        fn shr_i(self, a: I, s: u32) -> I {
            let s = vdupq_n_s32(-(s as i32));
            four!(r => vshlq_s32(a[r], s))
        }
        fn to_f32(self, a: I) -> F { four!(r => vcvtq_f32_s32(a[r])) }
        fn largest_i(self, a: I) -> i32 {
            vmaxvq_s32(vmaxq_s32(vmaxq_s32(a[0], a[1]), vmaxq_s32(a[2], a[3])))
        }
        fn sum_i(self, a: I) -> i32 {
            vaddvq_s32(vaddq_s32(vaddq_s32(a[0], a[1]), vaddq_s32(a[2], a[3])))
        }
        fn sum(self, a: F) -> f32 {
            let a = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let a = vaddq_f32(a, vextq_f32::<2>(a, a));
            vgetq_lane_f32::<0>(a) + vgetq_lane_f32::<1>(a)
        }

        // A byte with zeros above it is a subnormal binary16, of as many 2⁻²⁴ths: `BYTE_UNIT`.
        fn load_u8_as_f32(self, x: &[u8; 16]) -> F {
            let (x, zero) = (vld1q_u8(x.as_ptr()), vdupq_n_u8(0));
            let low = vreinterpretq_f16_u8(vzip1q_u8(x, zero));
            let high = vreinterpretq_f16_u8(vzip2q_u8(x, zero));
            [
                vcvt_f32_f16(vget_low_f16(low)),
                vcvt_high_f32_f16(low),
                vcvt_f32_f16(vget_low_f16(high)),
                vcvt_high_f32_f16(high),
            ]
        }
        // One table lookup puts a byte at the top of each lane, zeros below it; that is a number of 2⁻²⁴ths.
        fn load_i8_as_f32(self, x: &[u8; 16]) -> F {
            let x = vld1q_u8(x.as_ptr());
            four!(r => {
                let spread = vqtbl1q_u8(x, vld1q_u8(SPREAD_HIGH[r].as_ptr()));
                vcvtq_n_f32_s32::<24>(vreinterpretq_s32_u8(spread))
            })
        }

        fn load_b(self, x: &[u8; 64]) -> B { four!(r => vld1q_u8(x.as_ptr().add(16 * r))) }
        fn store_b(self, x: B, to: &mut [u8; 64]) {
            for r in 0..4 {
                vst1q_u8(to.as_mut_ptr().add(16 * r), x[r]);
            }
        }
        fn and_b(self, x: B, mask: u8) -> B {
            let mask = vdupq_n_u8(mask);
            four!(r => vandq_u8(x[r], mask))
        }
        fn or_b(self, a: B, b: B) -> B { four!(r => vorrq_u8(a[r], b[r])) }
        fn sub_b(self, x: B, by: u8) -> B {
            let by = vdupq_n_u8(by);
            four!(r => vsubq_u8(x[r], by))
        }
        fn shl_and_b(self, x: B, shift: u32, mask: u8) -> B {
            let (shift, mask) = (vdupq_n_s8(shift as i8), vdupq_n_u8(mask));
            four!(r => vandq_u8(vshlq_u8(x[r], shift), mask))
        }
        fn shr_and_b(self, x: B, shift: u32, mask: u8) -> B {
            let (shift, mask) = (vdupq_n_s8(-(shift as i8)), vdupq_n_u8(mask));
            four!(r => vandq_u8(vshlq_u8(x[r], shift), mask))
        }

        fn transpose(self, rows: &mut [F; 16]) {
            let mut out = [[vdupq_n_f32(0.0); 4]; 16];
            for i in 0..4 {
                for j in 0..4 {
                    // Rows 4j .. 4j + 4, columns 4i .. 4i + 4.
                    let block = transpose_4([
                        rows[4 * j][i],
                        rows[4 * j + 1][i],
                        rows[4 * j + 2][i],
                        rows[4 * j + 3][i],
                    ]);
                    for k in 0..4 {
                        out[4 * i + k][j] = block[k];
                    }
                }
            }
            *rows = out;
        }
    }

    #[inline(always)]
    fn prepare_signed(self, x: B) -> B {
        x
    }

    #[inline(always)]
    fn fma_each<const N: usize>(self, w: F, x: &[f32; N], acc: &mut [F; N]) {
        // SAFETY: `self` proves NEON; tiles are of one token or a multiple of four.
        unsafe { products::fma_each(w, x, acc) }
    }

    #[inline(always)]
    fn pair(self, quads: [B; 2]) -> [B; 2] {
        match LEVEL {
            0 => quads,
            // Eight rows of both, then the other eight: what one instruction loads.
            1 => {
                let [a, b] = quads;
                [[a[0], a[1], b[0], b[1]], [a[2], a[3], b[2], b[3]]]
            }
            // SAFETY: `self` proves NEON.
            _ => unsafe { matrix::pair(quads) },
        }
    }

    #[inline(always)]
    fn quantise<const OWN: bool, const N: usize>(self, x: &[f32], cols: usize, out: &mut [u8]) {
        // SAFETY: `self` proves NEON; tiles are of one token or a multiple of four.
        unsafe {
            if N > 1 && Self::PAIRED {
                quantise::tokens::<OWN, true, N>(x, cols, out);
            } else if N > 1 {
                quantise::tokens::<OWN, false, N>(x, cols, out);
            } else if cols >= 4 * 32 {
                quantise::one_token::<OWN>(x, out);
            } else {
                activations::quantise_rows::<Self, OWN, N>(self, x, cols, out);
            }
        }
    }

    #[inline(always)]
    fn interleave(self, x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
        if width == 1 {
            return activations::interleave_rows(self, x, cols, width, out);
        }
        with_width!(12, width, N => {
            // SAFETY: `self` proves NEON.
            unsafe { plain::interleave::<N>(x, cols, out) }
        });
    }

    #[inline(always)]
    fn plain_tile<C: Column<Self>, const N: usize>(
        self,
        w: &[C],
        x: &[[f32; N]],
        acc: &mut [F; N],
    ) {
        if N <= 4 {
            return plain_products::plain_tile(self, w, x, acc);
        }
        // SAFETY: `self` proves NEON; such tiles are of 8 or 12 tokens.
        unsafe {
            products::plain::<LEVEL, N, 0, C>(self, w, x, acc);
            products::plain::<LEVEL, N, 2, C>(self, w, x, acc);
        }
    }

    #[inline(always)]
    fn plain_pairs<const N: usize>(self, w: &[PlainPair], x: &[[f32; N]], acc: &mut [F; N]) {
        let x = &x[..2 * w.len()];
        // SAFETY: `self` proves NEON; tiles of plain weights with several tokens are of 4, 8 or 12.
        unsafe {
            plain::pairs::<N, 0>(w, x, acc);
            plain::pairs::<N, 2>(w, x, acc);
        }
    }

    #[inline(always)]
    fn tile<const N: usize, const G: usize, S: Source<Self>>(
        self,
        sources: [S; G],
        x: &[XBlock<N>],
        acc: &mut [[F; N]; G],
    ) {
        for g in 0..G {
            // SAFETY: `self` proves what each level needs; tiles are of one token or a multiple of
            // four.
            unsafe { products::tile(self, sources[g], x, &mut acc[g]) }
        }
    }
}
