//! Elementary functions that give the same bits on every processor.
//!
//! The vector functions use fused multiply-adds and exactly rounded operations only; their
//! polynomials were fitted to the least largest relative error (Remez exchange). Bounds are
//! checked in the tests against binary64. NaN gives NaN.

use std::f32::consts::{LN_2, LOG2_E};

use super::super::isa::Isa;

/// `eˣ`, within 1 unit in the last place, results below the normal range included.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and eʳ = 1 + r + r²·q(r).
#[inline(always)]
pub(in crate::kernels) fn exp<I: Isa>(isa: I, x: I::F) -> I::F {
    /// What [`LN_2`] lacks to ln 2.
    const LN_2_LOW: f32 = -1.904_654_3e-9;
    const Q: [f32; 5] = [
        4.999_999_4e-1,
        1.666_652_1e-1,
        4.166_839_3e-2,
        8.368_746e-3,
        1.381_453_6e-3,
    ];
    // Beyond these the result is 0 and infinity. The constants come first, so that NaN stays.
    let x = isa.min(isa.splat(89.0), isa.max(isa.splat(-104.0), x));
    let n = isa.round_to_i32(isa.mul(x, isa.splat(LOG2_E)));
    let turns = isa.to_f32(n);
    let r = isa.fnma(turns, isa.splat(LN_2), x);
    let r = isa.fnma(turns, isa.splat(LN_2_LOW), r);
    let q = polynomial(isa, &Q, r);
    let p = isa.add(isa.fma(isa.mul(r, r), q, r), isa.splat(1.0));
    // n reaches from −150 to 128.
    isa.ldexp(p, n, turns)
}

/// `Σ c[i]·xⁱ` by Horner's rule.
#[inline(always)]
fn polynomial<I: Isa, const N: usize>(isa: I, c: &[f32; N], x: I::F) -> I::F {
    let mut p = isa.splat(c[N - 1]);
    for i in 1..N {
        p = isa.fma(p, x, isa.splat(c[N - 1 - i]));
    }
    p
}

/// `|x|`, and the sign bit of `x`.
#[inline(always)]
fn split_sign<I: Isa>(isa: I, x: I::F) -> (I::F, I::I) {
    let bits = isa.bits(x);
    let magnitude = isa.of_bits(isa.and_i(bits, isa.splat_i(i32::MAX)));
    (magnitude, isa.and_i(bits, isa.splat_i(i32::MIN)))
}

#[inline(always)]
fn with_sign<I: Isa>(isa: I, magnitude: I::F, sign: I::I) -> I::F {
    isa.of_bits(isa.or_i(isa.bits(magnitude), sign))
}

/// `tanh x`, within 2 units in the last place.
///
/// An odd polynomial up to 0.625, `1 − 2 / (e²ˣ + 1)` beyond.
#[inline(always)]
pub(in crate::kernels) fn tanh<I: Isa>(isa: I, x: I::F) -> I::F {
    const P: [f32; 5] = [
        -3.333_328e-1,
        1.333_144_2e-1,
        -5.373_971e-2,
        2.063_907_9e-2,
        -5.704_977_6e-3,
    ];
    let (a, sign) = split_sign(isa, x);
    let square = isa.mul(a, a);
    let small = isa.fma(isa.mul(square, a), polynomial(isa, &P, square), a);
    let one = isa.splat(1.0);
    let e = exp(isa, isa.add(a, a));
    let large = isa.sub(one, isa.div(isa.splat(2.0), isa.add(e, one)));
    let large = isa.if_gt(a, isa.splat(0.625), large, small);
    with_sign(isa, large, sign)
}

/// `1 / (1 + e⁻ˣ) · factor`.
#[inline(always)]
fn times_sigmoid<I: Isa>(isa: I, factor: I::F, x: I::F) -> I::F {
    let e = exp(isa, isa.sub(isa.splat(0.0), x));
    isa.div(factor, isa.add(isa.splat(1.0), e))
}

/// The error function, within 2 units in the last place.
///
/// An odd polynomial up to 1, `1 − exp(r(x))` with `r ≈ ln(1 − erf x)` beyond.
#[inline(always)]
pub(in crate::kernels) fn erf<I: Isa>(isa: I, x: I::F) -> I::F {
    const SMALL: [f32; 7] = [
        1.283_791_7e-1,
        -3.761_262_6e-1,
        1.128_358_5e-1,
        -2.685_381e-2,
        5.188_327e-3,
        -8.010_187e-4,
        7.853_84e-5,
    ];
    const LARGE: [f32; 7] = [
        -3.537_333e-4,
        -1.127_04,
        -6.382_258e-1,
        -1.030_372_8e-1,
        2.180_527_5e-2,
        -2.939_596_5e-3,
        1.855_728_9e-4,
    ];
    let (a, sign) = split_sign(isa, x);
    let small = isa.fma(polynomial(isa, &SMALL, isa.mul(a, a)), a, a);
    // From 4 on the result is 1; NaN stays, the constant being first.
    let bounded = isa.min(isa.splat(4.0), a);
    let e = exp(isa, polynomial(isa, &LARGE, bounded));
    let large = isa.sub(isa.splat(1.0), e);
    let magnitude = isa.if_gt(a, isa.splat(1.0), large, small);
    with_sign(isa, magnitude, sign)
}

/// `x · σ(x)`.
#[inline(always)]
pub(super) fn silu<I: Isa>(isa: I, x: I::F) -> I::F {
    times_sigmoid(isa, x, x)
}

/// `x · σ(1.702 x)`.
#[inline(always)]
pub(super) fn gelu_quick<I: Isa>(isa: I, x: I::F) -> I::F {
    times_sigmoid(isa, x, isa.mul(x, isa.splat(1.702)))
}

/// `x/2 · (1 + erf(x/√2))`.
#[inline(always)]
pub(super) fn gelu<I: Isa>(isa: I, x: I::F) -> I::F {
    let e = erf(isa, isa.mul(x, isa.splat(std::f32::consts::FRAC_1_SQRT_2)));
    let half = isa.mul(x, isa.splat(0.5));
    isa.mul(half, isa.add(isa.splat(1.0), e))
}

/// `x/2 · (1 + tanh u)` with `u = √(2/π)·(x + 0.044715 x³)`, as `x · σ(2u)`, which is the same and
/// loses no digits for negative `x`.
#[inline(always)]
pub(super) fn gelu_tanh<I: Isa>(isa: I, x: I::F) -> I::F {
    // 2·√(2/π)
    const FACTOR: f32 = 1.595_769_2;
    let square = isa.mul(x, x);
    let u = isa.fma(square, isa.splat(FACTOR * 0.044_715), isa.splat(FACTOR));
    times_sigmoid(isa, x, isa.mul(u, x))
}

/// `max(x, 0)`.
#[inline(always)]
pub(super) fn relu<I: Isa>(isa: I, x: I::F) -> I::F {
    isa.max(isa.splat(0.0), x)
}

/// Sine and cosine of an angle in radians, in binary64 without fused operations: within 1e−15 for
/// |x| < 2²⁰ and within |x| · 2⁻⁵² up to 2³¹; NaN and infinity give NaN.
pub(super) fn sin_cos(x: f64) -> (f64, f64) {
    // π/2 in three parts: multiples of the first two by 21-bit integers are exact.
    const PART_1: f64 = 1.570_796_326_734_125_6;
    const PART_2: f64 = 6.077_100_506_303_966e-11;
    const PART_3: f64 = 2.022_266_248_795_950_6e-21;
    let turns = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = ((x - turns * PART_1) - turns * PART_2) - turns * PART_3;
    let z = r * r;
    // Taylor's series; |r| ≤ π/4, so what is left out is below 1e−17.
    let mut s = -1.0 / 121_645_100_408_832_000.0; // −1/19!
    for inverse in [
        1.0 / 355_687_428_096_000.0,
        -1.0 / 1_307_674_368_000.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5_040.0,
        1.0 / 120.0,
        -1.0 / 6.0,
    ] {
        s = s * z + inverse;
    }
    let sin = r + r * z * s;
    let mut c = 1.0 / 2_432_902_008_176_640_000.0; // 1/20!
    for inverse in [
        -1.0 / 6_402_373_705_728_000.0,
        1.0 / 20_922_789_888_000.0,
        -1.0 / 87_178_291_200.0,
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -0.5,
    ] {
        c = c * z + inverse;
    }
    let cos = 1.0 + z * c;
    match turns as i64 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::generic::Generic;

    /// Largest error of `f` over `inputs` in units in the last place of the exact result.
    fn worst(
        inputs: impl Iterator<Item = f32>,
        f: impl Fn([f32; 16]) -> [f32; 16],
        exact: impl Fn(f64) -> f64,
    ) -> f64 {
        let mut worst = 0f64;
        let inputs: Vec<f32> = inputs.collect();
        for x in inputs.chunks(16) {
            let mut v = [0.0; 16];
            v[..x.len()].copy_from_slice(x);
            for (x, got) in v.iter().zip(f(v)) {
                let exact = exact(f64::from(*x));
                let size = (exact.abs() as f32).max(f32::MIN_POSITIVE);
                let unit = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
                worst = worst.max((f64::from(got) - exact).abs() / unit);
            }
        }
        worst
    }

    fn range(from: f32, to: f32) -> impl Iterator<Item = f32> {
        let n = 400_000;
        (0..n).map(move |i| from + (to - from) * (i as f32 / n as f32))
    }

    /// Magnitudes from the smallest on, both signs.
    fn logarithmic() -> impl Iterator<Item = f32> {
        (0..0x7f80_0000u32)
            .step_by(0x2_7fff)
            .map(f32::from_bits)
            .flat_map(|x| [x, -x])
    }

    /// By its series, in binary64; for |x| < 6.
    fn erf_64(x: f64) -> f64 {
        // erf x = 2x/√π · exp(−x²) · Σ (2x²)ⁿ / (1·3·…·(2n+1)): no cancellation.
        let (mut term, mut sum) = (1.0, 1.0);
        for n in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * x * (-x * x).exp() * sum
    }

    #[test]
    fn exp_is_within_one_unit_in_the_last_place() {
        let error = worst(range(-104.0, 88.72), |x| exp(Generic, x), f64::exp);
        assert!(error <= 1.0, "{error}");
    }

    #[test]
    fn tanh_is_within_two_units_in_the_last_place() {
        let inputs = range(-10.0, 10.0).chain(logarithmic());
        let error = worst(inputs, |x| tanh(Generic, x), f64::tanh);
        assert!(error <= 2.0, "{error}");
    }

    #[test]
    fn erf_is_within_two_units_in_the_last_place() {
        let error = worst(range(-5.0, 5.0), |x| erf(Generic, x), erf_64);
        assert!(error <= 2.0, "{error}");
        let small = logarithmic().filter(|x| x.abs() < 0.5);
        let error = worst(small, |x| erf(Generic, x), erf_64);
        assert!(error <= 2.0, "{error}");
    }

    #[test]
    fn extremes_give_the_limits_and_nan_stays() {
        let x = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0];
        let mut v = [0.0; 16];
        v[..4].copy_from_slice(&x);
        let e = exp(Generic, v);
        assert!(e[0] == f32::INFINITY && e[1] == 0.0 && e[2].is_nan() && e[3] == 1.0);
        for f in [tanh(Generic, v), erf(Generic, v)] {
            assert!(f[0] == 1.0 && f[1] == -1.0 && f[2].is_nan());
            assert_eq!(f[3].to_bits(), (-0.0f32).to_bits());
        }
        for f in [silu::<Generic>, gelu, gelu_tanh, gelu_quick, relu] {
            let y = f(Generic, v);
            assert!(y[0] == f32::INFINITY && y[2].is_nan() && y[3] == 0.0);
        }
    }

    #[test]
    fn sine_and_cosine_are_as_close_as_stated() {
        let mut random = crate::kernels::tests::Random(1);
        for _ in 0..100_000 {
            let x = f64::from(random.f32()) * 2f64.powi((random.next() % 31) as i32);
            let bound = match x.abs() < f64::from(1 << 20) {
                true => 1e-15,
                false => x.abs() * f64::EPSILON,
            };
            let (s, c) = sin_cos(x);
            let (sin, cos) = x.sin_cos();
            assert!(
                (s - sin).abs() <= bound && (c - cos).abs() <= bound,
                "{x}: {s} {sin}"
            );
        }
        assert_eq!(sin_cos(0.0), (0.0, 1.0));
        assert!(sin_cos(f64::INFINITY).0.is_nan());
    }
}
