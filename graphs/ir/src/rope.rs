//! Frequencies of rotary embedding.

use std::f64::consts::TAU;

use crate::RopeScaling;

/// The angular frequency of each of the `dims / 2` pairs, in radians per position, and the
/// magnitude by which cosines and sines are multiplied.
///
/// Pair `i` has θᵢ = base^(−2i/dims) (RoFormer, arXiv 2104.09864, §3.2.2), changed by `scaling`:
/// - [`RopeScaling::Linear`]: θᵢ / factor (position interpolation, arXiv 2306.15595).
/// - [`RopeScaling::Yarn`] (arXiv 2309.00071, §3): the pair that turns `r` times within the original
///   context is `c(r) = dims · ln(original_context / 2πr) / (2 ln base)`. Pairs up to
///   `⌊c(beta_fast)⌋` keep θᵢ, those from `⌈c(beta_slow)⌉` on get θᵢ / factor, with a blend linear in
///   `i` between, where the kept part is multiplied by `ext_factor`. The magnitude is `attn_factor ·
///   (0.1 · ln factor + 1)`. With an `ext_factor` of 0 all pairs get θᵢ / factor and the magnitude is
///   `attn_factor`.
/// - [`RopeScaling::Llama3`] (Llama 3.1's `rope_type: llama3`): wavelengths λᵢ = 2π/θᵢ above
///   `original_context / low_freq_factor` get θᵢ / factor, those below `original_context /
///   high_freq_factor` keep θᵢ; between, with `s = (original_context/λᵢ − low_freq_factor) /
///   (high_freq_factor − low_freq_factor)`, they get `(1 − s)·θᵢ/factor + s·θᵢ`.
///
/// All of this in f64; the results are rounded to f32 and then divided by `factors`, if given.
///
/// # Panics
/// If `factors` has not `dims / 2` elements; [`crate::infer`] ensures it for every graph.
pub fn rope_frequencies(
    dims: u32,
    base: f32,
    scaling: RopeScaling,
    factors: Option<&[f32]>,
) -> (Vec<f32>, f32) {
    let pairs = (dims / 2) as usize;
    if let Some(factors) = factors {
        assert_eq!(factors.len(), pairs, "one frequency factor per pair");
    }
    let (base, dims) = (f64::from(base), f64::from(dims));
    let scale = Scale::new(base, dims, scaling);
    let frequencies = (0..pairs)
        .map(|i| {
            let theta = base.powf(-2.0 * i as f64 / dims);
            let frequency = scale.apply(i, theta) as f32;
            factors.map_or(frequency, |f| frequency / f[i])
        })
        .collect();
    (frequencies, scale.magnitude(scaling) as f32)
}

/// A [`RopeScaling`] in f64, with YaRN's bounds worked out.
enum Scale {
    None,
    Linear {
        factor: f64,
    },
    Yarn {
        factor: f64,
        ext_factor: f64,
        /// First pair of the blend.
        low: f64,
        /// Last pair of the blend.
        high: f64,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        context: f64,
    },
}

impl Scale {
    fn new(base: f64, dims: f64, scaling: RopeScaling) -> Self {
        match scaling {
            RopeScaling::None => Scale::None,
            RopeScaling::Linear { factor } => Scale::Linear {
                factor: factor.into(),
            },
            RopeScaling::Yarn {
                factor,
                original_context,
                ext_factor,
                beta_fast,
                beta_slow,
                ..
            } => {
                let pair_turning = |rotations: f32| {
                    let turns = f64::from(original_context) / (f64::from(rotations) * TAU);
                    dims * turns.ln() / (2.0 * base.ln())
                };
                Scale::Yarn {
                    factor: factor.into(),
                    ext_factor: ext_factor.into(),
                    low: pair_turning(beta_fast).floor().max(0.0),
                    high: pair_turning(beta_slow).ceil().min(dims - 1.0),
                }
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => Scale::Llama3 {
                factor: factor.into(),
                low: low_freq_factor.into(),
                high: high_freq_factor.into(),
                context: original_context.into(),
            },
        }
    }

    fn apply(&self, pair: usize, theta: f64) -> f64 {
        match *self {
            Scale::None => theta,
            Scale::Linear { factor } => theta / factor,
            Scale::Yarn {
                factor,
                ext_factor,
                low,
                high,
            } => {
                let ramp = (pair as f64 - low) / (high - low).max(0.001);
                let kept = (1.0 - ramp.clamp(0.0, 1.0)) * ext_factor;
                theta / factor * (1.0 - kept) + theta * kept
            }
            Scale::Llama3 {
                factor,
                low,
                high,
                context,
            } => {
                let rotations = context * theta / TAU;
                let kept = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                theta / factor * (1.0 - kept) + theta * kept
            }
        }
    }

    fn magnitude(&self, scaling: RopeScaling) -> f64 {
        match scaling {
            RopeScaling::Yarn {
                factor,
                ext_factor,
                attn_factor,
                ..
            } => {
                let correction = match ext_factor == 0.0 {
                    true => 1.0,
                    false => 0.1 * f64::from(factor).ln() + 1.0,
                };
                f64::from(attn_factor) * correction
            }
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values: the formulas of the papers written out once more in Python's f64.
    #[track_caller]
    fn close(found: f32, golden: f64) {
        assert!(
            (f64::from(found) - golden).abs() <= golden.abs() * 1e-7,
            "{found} is not {golden}"
        );
    }

    #[test]
    fn plain_frequencies_fall_geometrically_from_one() {
        let (f, magnitude) = rope_frequencies(8, 10000.0, RopeScaling::None, None);
        for (f, golden) in f.into_iter().zip([1.0, 0.1, 0.01, 0.001]) {
            close(f, golden);
        }
        assert_eq!(magnitude, 1.0);
    }

    #[test]
    fn linear_scaling_and_factors_divide() {
        let linear = RopeScaling::Linear { factor: 4.0 };
        let (f, magnitude) = rope_frequencies(4, 100.0, linear, Some(&[1.0, 2.0]));
        close(f[0], 0.25);
        close(f[1], 0.0125);
        assert_eq!(magnitude, 1.0);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        let (f, magnitude) = rope_frequencies(128, 500_000.0, scaling, None);
        for (pair, golden) in [
            (0, 1.0),
            (1, 0.8146172338565447),
            (28, 0.003211445994752591),
            (29, 0.002166570763503359),
            (32, 0.0005248461609929547),
            (34, 0.0001785078127679964),
            (35, 9.556212353964683e-05),
            (63, 3.068925988914511e-07),
        ] {
            close(f[pair], golden);
        }
        assert_eq!(magnitude, 1.0);
    }

    #[test]
    fn yarn_blends_between_its_bounds_and_raises_the_magnitude() {
        let yarn = |ext_factor, attn_factor| RopeScaling::Yarn {
            factor: 16.0,
            original_context: 4096,
            ext_factor,
            attn_factor,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let (f, magnitude) = rope_frequencies(128, 10000.0, yarn(1.0, 1.0), None);
        for (pair, golden) in [
            (0, 1.0),
            (20, 0.05623413252),
            (21, 0.046940859997959404),
            (30, 0.00852684377296741),
            (45, 0.0001517716047318249),
            (46, 8.334508951020775e-05),
            (63, 7.217387404309114e-06),
        ] {
            close(f[pair], golden);
        }
        close(magnitude, 1.2772588722239782);

        let (f, magnitude) = rope_frequencies(128, 10000.0, yarn(0.0, 0.5), None);
        close(f[0], 1.0 / 16.0);
        assert_eq!(magnitude, 0.5);
    }

    #[test]
    fn odd_parameters_give_numbers_without_panic() {
        for base in [f32::MIN_POSITIVE, 1.0, f32::MAX] {
            for context in [1, u32::MAX] {
                let yarn = RopeScaling::Yarn {
                    factor: 1.0,
                    original_context: context,
                    ext_factor: 1.0,
                    attn_factor: 1.0,
                    beta_fast: f32::MIN_POSITIVE,
                    beta_slow: f32::MAX,
                };
                assert_eq!(rope_frequencies(64, base, yarn, None).0.len(), 32);
            }
        }
    }
}
