//! How tokens are chosen.

use super::error::SampleError;

/// How a [`Sampler`](super::Sampler) chooses; the steps happen in the order of the fields below the seed.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Where the random numbers start: the same seed gives the same tokens for the same logits, on every platform.
    pub seed: u64,
    /// Added to the logits of these tokens; -inf excludes a token. Of several for one token the last counts.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides positive logits and multiplies negative ones of tokens that were seen lately; 1 is off. Above zero.
    pub repeat_penalty: f32,
    /// How many of the latest tokens count as seen lately; 0 is off. At most [`MAX_REPEAT_WINDOW`].
    pub repeat_window: u32,
    /// Keeps the so many most likely tokens; 0 is off.
    pub top_k: u32,
    /// Keeps the fewest most likely tokens that together have at least this probability, and at least one; 1 is off.
    pub top_p: f32,
    /// Keeps tokens at least this likely, relative to the likeliest; 0 is off.
    pub min_p: f32,
    /// Divides the logits before one of the remaining tokens is drawn: above 1 evens out, below 1 sharpens. 0 takes the most
    /// likely token, of equal ones that with the lowest id, and draws nothing.
    pub temperature: f32,
}

/// Largest repetition window.
pub const MAX_REPEAT_WINDOW: u32 = 1 << 20;

impl Default for SampleOptions {
    fn default() -> Self {
        SampleOptions {
            seed: 0,
            logit_bias: Vec::new(),
            repeat_penalty: 1.0,
            repeat_window: 64,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            temperature: 0.8,
        }
    }
}

impl SampleOptions {
    /// Always the most likely token, without penalty or bias.
    pub fn greedy() -> Self {
        SampleOptions {
            temperature: 0.0,
            ..SampleOptions::default()
        }
    }

    /// Checks every option against its range, for a model of `tokens` tokens.
    ///
    /// # Errors
    /// Names the first option that is outside, with its value and what is allowed.
    pub fn check(&self, tokens: u32) -> Result<(), SampleError> {
        for &(token, value) in &self.logit_bias {
            if token >= tokens || value.is_nan() || value == f32::INFINITY {
                return Err(SampleError::Bias {
                    token,
                    value,
                    tokens,
                });
            }
        }
        let at_least_zero = |value: f32| value.is_finite() && value >= 0.0;
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let penalty = self.repeat_penalty;
        for (option, value, good, allowed) in [
            (
                "repeat_penalty",
                penalty,
                penalty.is_finite() && penalty > 0.0,
                "a number above 0 (1 is off)",
            ),
            ("top_p", self.top_p, share(self.top_p), "0 to 1 (1 is off)"),
            ("min_p", self.min_p, share(self.min_p), "0 to 1 (0 is off)"),
            (
                "temperature",
                self.temperature,
                at_least_zero(self.temperature),
                "a number from 0 (0 takes the likeliest)",
            ),
        ] {
            if !good {
                return Err(SampleError::OptionOutOfRange {
                    option,
                    value: f64::from(value),
                    allowed,
                });
            }
        }
        if self.repeat_window > MAX_REPEAT_WINDOW {
            return Err(SampleError::OptionOutOfRange {
                option: "repeat_window",
                value: f64::from(self.repeat_window),
                allowed: "0 to 1048576 (0 is off)",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_out_of_range_is_named_with_its_value_and_range() {
        type Spoil = fn(&mut SampleOptions);
        let cases: [(Spoil, &str); 11] = [
            (
                |o| o.temperature = -0.5,
                "temperature is -0.5; allowed: a number from 0 (0 takes the likeliest)",
            ),
            (
                |o| o.temperature = f32::NAN,
                "temperature is NaN; allowed: a number from 0 (0 takes the likeliest)",
            ),
            (
                |o| o.temperature = f32::INFINITY,
                "temperature is inf; allowed: a number from 0 (0 takes the likeliest)",
            ),
            (
                |o| o.top_p = 1.5,
                "top_p is 1.5; allowed: 0 to 1 (1 is off)",
            ),
            (
                |o| o.top_p = f32::NAN,
                "top_p is NaN; allowed: 0 to 1 (1 is off)",
            ),
            (
                |o| o.min_p = -1.0,
                "min_p is -1; allowed: 0 to 1 (0 is off)",
            ),
            (
                |o| o.repeat_penalty = 0.0,
                "repeat_penalty is 0; allowed: a number above 0 (1 is off)",
            ),
            (
                |o| o.repeat_window = u32::MAX,
                "repeat_window is 4294967295; allowed: 0 to 1048576 (0 is off)",
            ),
            (
                |o| o.logit_bias = vec![(8, 1.0)],
                "logit_bias of token 8 is 1; allowed: a number or -inf, for tokens below 8",
            ),
            (
                |o| o.logit_bias = vec![(1, f32::NAN)],
                "logit_bias of token 1 is NaN; allowed: a number or -inf, for tokens below 8",
            ),
            (
                |o| o.logit_bias = vec![(1, f32::INFINITY)],
                "logit_bias of token 1 is inf; allowed: a number or -inf, for tokens below 8",
            ),
        ];
        for (spoil, message) in cases {
            let mut options = SampleOptions::default();
            spoil(&mut options);
            assert_eq!(options.check(8).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_ends_of_each_range_are_allowed() {
        let mut options = SampleOptions::greedy();
        (
            options.top_p,
            options.min_p,
            options.repeat_window,
            options.top_k,
        ) = (0.0, 1.0, MAX_REPEAT_WINDOW, u32::MAX);
        options.logit_bias = vec![(7, f32::NEG_INFINITY), (0, f32::MAX)];
        assert_eq!(options.check(8), Ok(()));
    }
}
