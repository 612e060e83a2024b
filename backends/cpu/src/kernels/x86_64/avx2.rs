//! The 16 lanes in two 256-bit registers.

use std::arch::x86_64::*;

use super::avx512::quads_in_16_bits;
use crate::kernels::isa::{Dot, Isa, Quads, XBlock, intrinsics};
use crate::kernels::matmul;
use crate::kernels::sources::Source;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2 {
    _proof: (),
}

impl Avx2 {
    /// # Safety
    /// The processor has the instructions.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn new() -> Self {
        Avx2 { _proof: () }
    }
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// The last three steps of [`Isa::sum`].
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn sum_8(a: __m256) -> f32 {
    // SAFETY: the caller's contract.
    unsafe {
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
    }
}

/// The last three steps of [`Isa::largest`].
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn largest_8(a: __m256) -> f32 {
    // SAFETY: the caller's contract.
    unsafe {
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
    }
}

/// Transposes 8 × 8.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn transpose_8(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut s = [_mm256_setzero_ps(); 8];
        for q in 0..2 {
            let (a, b) = (r[4 * q], r[4 * q + 1]);
            let (c, d) = (r[4 * q + 2], r[4 * q + 3]);
            let ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
            let ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
            let cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
            let cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
            s[4 * q] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
            s[4 * q + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
            s[4 * q + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
            s[4 * q + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
        }
        let mut out = s;
        for k in 0..4 {
            out[k] = _mm256_permute2f128_ps::<0x20>(s[k], s[4 + k]);
            out[4 + k] = _mm256_permute2f128_ps::<0x31>(s[k], s[4 + k]);
        }
        out
    }
}

impl Isa for Avx2 {
    const TILE: usize = 4;
    type F = F;
    type I = I;
    type B = I;

    #[inline(always)]
    fn times_power(self, d: F, power: f32) -> F {
        self.mul(d, self.splat(power))
    }

    intrinsics! {
        fn prefetch(self, address: *const u8) { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        fn prefetch_once(self, address: *const u8) { _mm_prefetch::<_MM_HINT_NTA>(address.cast()) }
        fn splat(self, x: f32) -> F { [_mm256_set1_ps(x); 2] }
        fn load(self, x: &[f32; 16]) -> F {
            [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))]
        }
        fn store(self, x: F, to: &mut [f32; 16]) {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
        fn load_f16(self, x: &[u16; 16]) -> F {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
            ]
        }
        fn load_bf16(self, x: &[u16; 16]) -> F {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
        fn add(self, a: F, b: F) -> F { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        fn sub(self, a: F, b: F) -> F { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        fn mul(self, a: F, b: F) -> F { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        fn div(self, a: F, b: F) -> F { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
        fn fma(self, a: F, b: F, c: F) -> F {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn fnma(self, a: F, b: F, c: F) -> F {
            [_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])]
        }
        fn max(self, a: F, b: F) -> F { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        fn min(self, a: F, b: F) -> F { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
        fn if_gt(self, a: F, b: F, yes: F, no: F) -> F {
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]);
            [_mm256_blendv_ps(no[0], yes[0], low), _mm256_blendv_ps(no[1], yes[1], high)]
        }
        fn round_to_i32(self, a: F) -> I { [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])] }
        fn bits(self, a: F) -> I { [_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])] }
        fn of_bits(self, a: I) -> F { [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])] }

        fn splat_i(self, x: i32) -> I { [_mm256_set1_epi32(x); 2] }
        fn store_i(self, x: I, to: &mut [i32; 16]) {
            let at: *mut __m256i = to.as_mut_ptr().cast();
            _mm256_storeu_si256(at, x[0]);
            _mm256_storeu_si256(at.add(1), x[1]);
        }
        fn load_u8(self, x: &[u8; 16]) -> I {
            let low = _mm_loadu_si128(x.as_ptr().cast());
            [_mm256_cvtepu8_epi32(low), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(low))]
        }
        fn load_i8(self, x: &[u8; 16]) -> I {
            let low = _mm_loadu_si128(x.as_ptr().cast());
            [_mm256_cvtepi8_epi32(low), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(low))]
        }
        fn store_i8(self, x: I, to: &mut [i8; 16]) {
            let words = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(x[0], x[1]));
            let high = _mm256_extracti128_si256::<1>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), high);
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
        fn add_i(self, a: I, b: I) -> I {
            [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
        }
        fn sub_i(self, a: I, b: I) -> I {
            [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])]
        }
        fn and_i(self, a: I, b: I) -> I {
            [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])]
        }
        fn or_i(self, a: I, b: I) -> I { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
        fn max_i(self, a: I, b: I) -> I {
            [_mm256_max_epi32(a[0], b[0]), _mm256_max_epi32(a[1], b[1])]
        }
        fn shl_i(self, a: I, s: u32) -> I {
            let s = _mm_cvtsi32_si128(s as i32);
            [_mm256_sll_epi32(a[0], s), _mm256_sll_epi32(a[1], s)]
        }
        fn shr_i(self, a: I, s: u32) -> I {
            let s = _mm_cvtsi32_si128(s as i32);
            [_mm256_sra_epi32(a[0], s), _mm256_sra_epi32(a[1], s)]
        }
        fn to_f32(self, a: I) -> F { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
        fn largest_i(self, a: I) -> i32 {
            let a = _mm256_max_epi32(a[0], a[1]);
            let a = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_max_epi32(a, _mm_shuffle_epi32::<0x4e>(a));
            _mm_cvtsi128_si32(_mm_max_epi32(a, _mm_shuffle_epi32::<0xb1>(a)))
        }
        fn sum_i(self, a: I) -> i32 {
            let a = _mm256_add_epi32(a[0], a[1]);
            let a = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_add_epi32(a, _mm_shuffle_epi32::<0x4e>(a));
            _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32::<0xb1>(a)))
        }

        fn sum(self, a: F) -> f32 { sum_8(_mm256_add_ps(a[0], a[1])) }
        fn largest(self, a: F) -> f32 { largest_8(_mm256_max_ps(a[0], a[1])) }

        fn load_b(self, x: &[u8; 64]) -> I {
            let at: *const __m256i = x.as_ptr().cast();
            [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
        }
        fn store_b(self, x: I, to: &mut [u8; 64]) {
            let at: *mut __m256i = to.as_mut_ptr().cast();
            _mm256_storeu_si256(at, x[0]);
            _mm256_storeu_si256(at.add(1), x[1]);
        }
        fn and_b(self, x: I, mask: u8) -> I {
            let mask = _mm256_set1_epi8(mask as i8);
            [_mm256_and_si256(x[0], mask), _mm256_and_si256(x[1], mask)]
        }
        fn or_b(self, a: I, b: I) -> I { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
        fn sub_b(self, x: I, by: u8) -> I {
            let by = _mm256_set1_epi8(by as i8);
            [_mm256_sub_epi8(x[0], by), _mm256_sub_epi8(x[1], by)]
        }
        fn shl_and_b(self, x: I, shift: u32, mask: u8) -> I {
            let (s, mask) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi8(mask as i8));
            [
                _mm256_and_si256(_mm256_sll_epi16(x[0], s), mask),
                _mm256_and_si256(_mm256_sll_epi16(x[1], s), mask),
            ]
        }
        fn shr_and_b(self, x: I, shift: u32, mask: u8) -> I {
            let (s, mask) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi8(mask as i8));
            [
                _mm256_and_si256(_mm256_srl_epi16(x[0], s), mask),
                _mm256_and_si256(_mm256_srl_epi16(x[1], s), mask),
            ]
        }

        fn transpose(self, r: &mut [F; 16]) {
            let mut quarters = [[_mm256_setzero_ps(); 8]; 4];
            for i in 0..8 {
                quarters[0][i] = r[i][0];
                quarters[1][i] = r[i + 8][0];
                quarters[2][i] = r[i][1];
                quarters[3][i] = r[i + 8][1];
            }
            for q in 0..4 {
                quarters[q] = transpose_8(quarters[q]);
            }
            for i in 0..8 {
                r[i] = [quarters[0][i], quarters[1][i]];
                r[i + 8] = [quarters[2][i], quarters[3][i]];
            }
        }
    }

    #[inline(always)]
    fn prepare_signed(self, x: I) -> I {
        x
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

impl Dot for Avx2 {
    const SIGNED_SHIFT: Option<u32> = None;

    #[inline(always)]
    fn dot<const N: usize, const G: usize, const FROM: usize, const TO: usize, Q: Quads<Self>>(
        self,
        w: [Q; G],
        x: &XBlock<N>,
        init: [I; N],
    ) -> [[I; N]; G] {
        let mut acc = [init; G];
        for g in 0..G {
            dot_group::<N, FROM, TO, Q>(self, w[g], x, &mut acc[g]);
        }
        acc
    }
}

/// [`Dot::dot`] for one group.
#[inline(always)]
fn dot_group<const N: usize, const FROM: usize, const TO: usize, Q: Quads<Avx2>>(
    isa: Avx2,
    w: Q,
    x: &XBlock<N>,
    acc: &mut [I; N],
) {
    let group = quads_in_16_bits(Q::BITS);
    let mut j = FROM;
    while j < TO {
        // SAFETY: `isa` proves AVX2.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 2]; N];
            for j in j..j + group.min(TO - j) {
                let w = w.quad(isa, j);
                for t in 0..N {
                    let x = _mm256_set1_epi32(i32::from_ne_bytes(x.q[j][t].map(|b| b as u8)));
                    for h in 0..2 {
                        let products = if Q::BITS == 8 {
                            // The sign of the code goes to the activation.
                            let x = _mm256_sign_epi8(x, w[h]);
                            _mm256_maddubs_epi16(_mm256_abs_epi8(w[h]), x)
                        } else {
                            _mm256_maddubs_epi16(w[h], x)
                        };
                        sums[t][h] = _mm256_add_epi16(sums[t][h], products);
                    }
                }
            }
            for t in 0..N {
                for h in 0..2 {
                    let pairs = _mm256_madd_epi16(sums[t][h], _mm256_set1_epi16(1));
                    acc[t][h] = _mm256_add_epi32(acc[t][h], pairs);
                }
            }
        }
        j += group;
    }
}
