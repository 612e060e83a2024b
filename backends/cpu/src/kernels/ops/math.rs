//! Functions that are the same bits on every processor.

/// `eˣ`, within 2 units in the last place where the result is normal; below that it is 0.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and eʳ by its Taylor polynomial of degree 7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // ln 2 in two parts: n times the first is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5·2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-104.0, 89.0);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2ⁿ in two factors, so that n = 128 and results near the smallest normal work.
    let n = n as i32;
    let (half, rest) = (n >> 1, n - (n >> 1));
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let result = p * power(half) * power(rest);
    if result < f32::MIN_POSITIVE {
        0.0
    } else {
        result
    }
}

/// The error function, within 4e-7: its series up to 1, Abramowitz and Stegun's formula 7.1.26
/// beyond.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let magnitude = if a < 1.0 {
        // 2/√π · Σ (−1)ⁿ a²ⁿ⁺¹ / (n!·(2n+1)), ten terms.
        const TERMS: [f32; 10] = [
            1.0,
            -1.0 / 3.0,
            1.0 / 10.0,
            -1.0 / 42.0,
            1.0 / 216.0,
            -1.0 / 1320.0,
            1.0 / 9360.0,
            -1.0 / 75600.0,
            1.0 / 685_440.0,
            -1.0 / 6_894_720.0,
        ];
        let square = a * a;
        let mut p = 0.0;
        for term in TERMS.iter().rev() {
            p = p * square + term;
        }
        std::f32::consts::FRAC_2_SQRT_PI * a * p
    } else {
        let t = 1.0 / (1.0 + 0.327_591_1 * a);
        let p = 1.061_405_4;
        let p = p * t - 1.453_152;
        let p = p * t + 1.421_413_8;
        let p = p * t - 0.284_496_72;
        let p = p * t + 0.254_829_6;
        1.0 - p * t * exp(-a * a)
    };
    magnitude.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let unit = f64::from(f32::EPSILON) * exact;
            worst = worst.max((f64::from(exp(x)) - exact).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst}");
    }

    #[test]
    fn exp_of_extremes() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_its_bound() {
        // Reference: the series in f64 up to 2, where it converges well.
        for i in -2000..=2000 {
            let x = f64::from(i) * 1e-3;
            let (mut term, mut total) = (x, x);
            for n in 1..60 {
                term *= -x * x / f64::from(n);
                total += term / f64::from(2 * n + 1);
            }
            let exact = total * std::f64::consts::FRAC_2_SQRT_PI;
            let error = (f64::from(erf(x as f32)) - exact).abs();
            assert!(error <= 4e-7, "erf({x}): {error}");
        }
        assert_eq!(erf(10.0), 1.0);
        assert!(erf(f32::NAN).is_nan());
    }
}
