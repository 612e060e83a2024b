//! The 16 lanes in one 512-bit register, with or without VNNI and BF16.

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2::{largest_8, sum_8};
use crate::kernels::isa::{self, Dot, Isa, OffsetCodes, Quads, XBlock, intrinsics};
use crate::kernels::matmul;
use crate::kernels::sources::Source;

/// [`Avx512`] from this level on has VNNI.
const VNNI: u8 = 1;
/// [`Avx512`] from this level on has BF16.
const BF16: u8 = 2;

/// AVX-512 F, BW, VL and DQ; from level [`VNNI`] and [`BF16`] on also those. Includes AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512<const LEVEL: u8> {
    _proof: (),
}

impl<const LEVEL: u8> Avx512<LEVEL> {
    /// # Safety
    /// The processor has the instructions.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn new() -> Self {
        Avx512 { _proof: () }
    }
}

/// A mask of up to 16 lanes.
#[inline(always)]
fn first_lanes(count: usize) -> u16 {
    debug_assert!(count <= 16, "{count}");
    ((1u32 << count.min(16)) - 1) as u16
}

/// How many quads of products of `bits`-bit codes with 7-bit activations and a sign a 16-bit lane
/// can sum.
pub(super) const fn quads_in_16_bits(bits: u32) -> usize {
    // Each quad adds two products.
    match bits {
        4 => 8, // 8 · 2 · 15 · 127 = 30 480
        5 => 4, // 4 · 2 · 31 · 127 = 31 496
        6 => 2, // 2 · 2 · 63 · 127 = 32 004
        _ => 1, // 2 · 128 · 127 = 32 512
    }
}

impl<const LEVEL: u8> Isa for Avx512<LEVEL> {
    const TILE: usize = if LEVEL >= VNNI { 8 } else { 12 };
    const PLAIN_TILE: usize = 12;
    // Packed, a group's rows lie in the nearest caches, where panels do not; what each tile of tokens takes to put
    // fifth and sixth bits in place is more than that in the end. By measurement on Zen 4.
    const DIRECT_TOKENS: [usize; 9] = if LEVEL >= VNNI {
        let many = usize::MAX;
        [many, many, many, many, many, 256, 32, many, many]
    } else {
        [4; 9]
    };
    const PANEL_GROUPS: usize = if LEVEL >= VNNI { 2 } else { 1 };
    const OFFSET_CODES: OffsetCodes = if LEVEL >= VNNI {
        OffsetCodes::Raised
    } else {
        OffsetCodes::AsPacked
    };
    const SUM_SHIFT: u32 = if LEVEL >= VNNI { 7 } else { 0 };
    const BF16: bool = LEVEL >= BF16;
    const ATTENTION_VECTORS: usize = 4;

    /// `k`, for an instruction of its own: multiplying is for the units that the integer products need.
    #[inline(always)]
    fn power(k: u32) -> f32 {
        k as f32
    }

    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    intrinsics! {
        fn prefetch(self, address: *const u8) { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        fn prefetch_once(self, address: *const u8) { _mm_prefetch::<_MM_HINT_NTA>(address.cast()) }
        fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(self, x: &[f32; 16]) -> __m512 { _mm512_loadu_ps(x.as_ptr()) }
        fn store(self, x: __m512, to: &mut [f32; 16]) { _mm512_storeu_ps(to.as_mut_ptr(), x) }
        fn load_part(self, x: &[f32], fill: f32) -> __m512 {
            _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(x.len()), x.as_ptr())
        }
        fn store_part(self, x: __m512, to: &mut [f32]) {
            _mm512_mask_storeu_ps(to.as_mut_ptr(), first_lanes(to.len()), x)
        }
        fn load_f16(self, x: &[u16; 16]) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()))
        }
        fn load_bf16(self, x: &[u16; 16]) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn times_power(self, d: __m512, power: f32) -> __m512 {
            _mm512_scalef_ps(d, _mm512_set1_ps(power))
        }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fnmadd_ps(a, b, c) }
        fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(self, a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn if_gt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes)
        }
        fn round_to_i32(self, a: __m512) -> __m512i { _mm512_cvtps_epi32(a) }
        fn ldexp(self, p: __m512, _n: __m512i, turns: __m512) -> __m512 {
            _mm512_scalef_ps(p, turns)
        }
        fn bits(self, a: __m512) -> __m512i { _mm512_castps_si512(a) }
        fn of_bits(self, a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }

        fn splat_i(self, x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn splat_difference(self, a: i32, b: i32) -> __m512i {
            // Both are read into all lanes, which takes no vector unit; a number would be moved there by two.
            _mm512_sub_epi32(in_order(_mm512_set1_epi32(a)), _mm512_set1_epi32(b))
        }
        fn store_i(self, x: __m512i, to: &mut [i32; 16]) {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), x)
        }
        fn load_u8(self, x: &[u8; 16]) -> __m512i {
            _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()))
        }
        fn load_i8(self, x: &[u8; 16]) -> __m512i {
            _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))
        }
        fn store_i8(self, x: __m512i, to: &mut [i8; 16]) {
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x))
        }
        fn add_i(self, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn sub_i(self, a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn and_i(self, a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or_i(self, a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn max_i(self, a: __m512i, b: __m512i) -> __m512i { _mm512_max_epi32(a, b) }
        fn shl_i(self, a: __m512i, s: u32) -> __m512i {
            _mm512_sll_epi32(a, _mm_cvtsi32_si128(s as i32))
        }
        fn shr_i(self, a: __m512i, s: u32) -> __m512i {
            _mm512_sra_epi32(a, _mm_cvtsi32_si128(s as i32))
        }
        fn to_f32(self, a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn largest_i(self, a: __m512i) -> i32 { _mm512_reduce_max_epi32(a) }
        fn sum_i(self, a: __m512i) -> i32 { _mm512_reduce_add_epi32(a) }

        fn sum(self, a: __m512) -> f32 {
            sum_8(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a)))
        }
        fn largest(self, a: __m512) -> f32 {
            largest_8(_mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a)))
        }

        fn load_b(self, x: &[u8; 64]) -> __m512i { _mm512_loadu_si512(x.as_ptr().cast()) }
        fn store_b(self, x: __m512i, to: &mut [u8; 64]) {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), x)
        }
        fn and_b(self, x: __m512i, mask: u8) -> __m512i {
            _mm512_and_si512(x, _mm512_set1_epi8(mask as i8))
        }
        fn or_b(self, a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn sub_b(self, x: __m512i, by: u8) -> __m512i {
            _mm512_sub_epi8(x, _mm512_set1_epi8(by as i8))
        }
        fn shl_and_b(self, x: __m512i, shift: u32, mask: u8) -> __m512i {
            let shifted = _mm512_sll_epi16(x, _mm_cvtsi32_si128(shift as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
        fn shr_and_b(self, x: __m512i, shift: u32, mask: u8) -> __m512i {
            let shifted = _mm512_srl_epi16(x, _mm_cvtsi32_si128(shift as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
        fn prepare_signed(self, x: __m512i) -> __m512i {
            if LEVEL >= VNNI { _mm512_xor_si512(x, _mm512_set1_epi8(-128)) } else { x }
        }

        fn transpose(self, r: &mut [__m512; 16]) {
            // Pairs of rows, then fours: s[4q + k] holds, in its part l, column 4l + k of rows
            // 4q .. 4q + 4.
            let mut s = [_mm512_setzero_ps(); 16];
            for q in 0..4 {
                let (a, b) = (r[4 * q], r[4 * q + 1]);
                let (c, d) = (r[4 * q + 2], r[4 * q + 3]);
                let ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                let cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
                let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
                s[4 * q] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                s[4 * q + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
                s[4 * q + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
                s[4 * q + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
            }
            for k in 0..4 {
                let (s0, s1, s2, s3) = (s[k], s[4 + k], s[8 + k], s[12 + k]);
                let even = _mm512_shuffle_f32x4::<0x88>(s0, s1);
                let odd = _mm512_shuffle_f32x4::<0xdd>(s0, s1);
                let even_high = _mm512_shuffle_f32x4::<0x88>(s2, s3);
                let odd_high = _mm512_shuffle_f32x4::<0xdd>(s2, s3);
                r[k] = _mm512_shuffle_f32x4::<0x88>(even, even_high);
                r[4 + k] = _mm512_shuffle_f32x4::<0x88>(odd, odd_high);
                r[8 + k] = _mm512_shuffle_f32x4::<0xdd>(even, even_high);
                r[12 + k] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_high);
            }
        }
    }

    #[inline(always)]
    fn dot_bf16(self, w: __m512, x: __m512i, acc: __m512) -> __m512 {
        if LEVEL < BF16 {
            return isa::dot_bf16(self, w, x, acc);
        }
        // SAFETY: `self` proves BF16; any bits are pairs of bfloat16.
        unsafe {
            let w = std::mem::transmute::<__m512, __m512bh>(w);
            let x = std::mem::transmute::<__m512i, __m512bh>(x);
            _mm512_dpbf16_ps(acc, w, x)
        }
    }

    #[inline(always)]
    fn tile<const N: usize, const G: usize, S: Source<Self>>(
        self,
        sources: [S; G],
        x: &[XBlock<N>],
        acc: &mut [[Self::F; N]; G],
    ) {
        matmul::tile(self, sources, x, acc);
    }
}

impl<const LEVEL: u8> Dot for Avx512<LEVEL> {
    const SIGNED_SHIFT: Option<u32> = if LEVEL >= VNNI { Some(7) } else { None };

    #[inline(always)]
    fn dot<const N: usize, const G: usize, const FROM: usize, const TO: usize, Q: Quads<Self>>(
        self,
        w: [Q; G],
        x: &XBlock<N>,
        init: [__m512i; N],
    ) -> [[__m512i; N]; G] {
        let mut acc = [init; G];
        if LEVEL < VNNI {
            for g in 0..G {
                dot_without_vnni::<LEVEL, N, FROM, TO, Q>(self, w[g], x, &mut acc[g]);
            }
            return acc;
        }
        for j in FROM..TO {
            let mut codes = [self.splat_i(0); G];
            for g in 0..G {
                codes[g] = w[g].quad(self, j);
            }
            for t in 0..N {
                let x = self.splat_i(i32::from_ne_bytes(x.q[j][t].map(|b| b as u8)));
                for g in 0..G {
                    // SAFETY: `self` proves VNNI.
                    acc[g][t] = unsafe { _mm512_dpbusd_epi32(acc[g][t], codes[g], x) };
                }
            }
            for acc in acc.as_flattened_mut() {
                // SAFETY: `self` proves AVX-512.
                *acc = unsafe { in_order(*acc) };
            }
        }
        acc
    }
}

/// Keeps the compiler from moving what makes `x` behind what makes any `x` of a later call, or what uses it before
/// this one: sums that depend on one another are to lie apart.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(mut x: __m512i) -> __m512i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(zmm_reg) x, options(nomem, nostack, preserves_flags)) }
    x
}

/// [`Dot::dot`] for one group in AVX-512 BW.
#[inline(always)]
fn dot_without_vnni<
    const LEVEL: u8,
    const N: usize,
    const FROM: usize,
    const TO: usize,
    Q: Quads<Avx512<LEVEL>>,
>(
    isa: Avx512<LEVEL>,
    w: Q,
    x: &XBlock<N>,
    acc: &mut [__m512i; N],
) {
    let group = quads_in_16_bits(Q::BITS);
    let mut j = FROM;
    while j < TO {
        // SAFETY: `isa` proves AVX-512 BW.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); N];
            for j in j..j + group.min(TO - j) {
                let mut w = w.quad(isa, j);
                let negative = _mm512_movepi8_mask(w);
                if Q::BITS == 8 {
                    w = _mm512_abs_epi8(w);
                }
                for t in 0..N {
                    let mut x = _mm512_set1_epi32(i32::from_ne_bytes(x.q[j][t].map(|b| b as u8)));
                    if Q::BITS == 8 {
                        x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
                    }
                    sums[t] = _mm512_add_epi16(sums[t], _mm512_maddubs_epi16(w, x));
                }
            }
            for t in 0..N {
                let pairs = _mm512_madd_epi16(sums[t], _mm512_set1_epi16(1));
                acc[t] = _mm512_add_epi32(acc[t], pairs);
            }
        }
        j += group;
    }
}
