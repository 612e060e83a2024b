//! Corrections learned from runs.

use crate::profile::Correction;

/// A correction never makes a prediction longer or shorter by more than this.
pub const MOST: f64 = 4.0;

/// A change of plan or of a correction must gain at least this share.
pub const LEAST_WIN: f64 = 0.1;

/// And at least so many spreads of what was measured.
pub const SPREADS: f64 = 3.0;

/// How much the newest run counts once there are several.
const NEWEST: f64 = 0.2;

impl Correction {
    /// No run yet.
    pub fn new(pattern: &str) -> Correction {
        Correction {
            pattern: pattern.into(),
            factor: 1.0,
            mean: 1.0,
            spread: 0.0,
            runs: 0,
        }
    }

    /// Takes in a run that was predicted, without any correction, to take `predicted` microseconds and took
    /// `measured`. The factor follows the mean of all runs only once that is off by more than [`LEAST_WIN`] and
    /// [`SPREADS`] spreads, so that noise does not change plans.
    pub fn observe(&mut self, predicted: f64, measured: f64) {
        let ratio = measured / predicted;
        if !(ratio.is_finite() && ratio > 0.0) {
            return;
        }
        let ratio = ratio.clamp(1.0 / MOST, MOST);
        self.runs = self.runs.saturating_add(1);
        let share = NEWEST.max(1.0 / f64::from(self.runs));
        self.mean += share * (ratio - self.mean);
        self.spread += share * ((ratio - self.mean).abs() - self.spread);
        if is_win(self.factor, self.mean, self.spread)
            || is_win(self.mean, self.factor, self.spread)
        {
            self.factor = self.mean.clamp(1.0 / MOST, MOST);
        }
    }
}

/// Whether `candidate` is so much less than `present`, with measurements that far apart, that it is worth a
/// change: by more than [`LEAST_WIN`] of it and by more than [`SPREADS`] times `spread`.
pub fn is_win(present: f64, candidate: f64, spread: f64) -> bool {
    let win = present - candidate;
    win > LEAST_WIN * present && win > SPREADS * spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_miss_is_corrected_within_the_bounds() {
        for (ratio, expected) in [(2.0, 2.0), (0.5, 0.5), (100.0, 4.0), (1e-6, 0.25)] {
            let mut c = Correction::new("decode q4_0");
            (0..10).for_each(|_| c.observe(100.0, 100.0 * ratio));
            assert!((c.factor - expected).abs() < 1e-9, "{ratio}: {c:?}");
        }
    }

    #[test]
    fn small_or_scattered_misses_change_nothing() {
        let mut c = Correction::new("decode q4_0");
        (0..50).for_each(|_| c.observe(100.0, 108.0));
        assert_eq!(c.factor, 1.0);
        let mut c = Correction::new("decode q4_0");
        c.observe(100.0, 100.0);
        (0..50).for_each(|i| c.observe(100.0, if i % 2 == 0 { 50.0 } else { 200.0 }));
        assert_eq!(c.factor, 1.0, "{c:?}");
    }

    #[test]
    fn runs_that_can_not_be_compared_are_not_counted() {
        let mut c = Correction::new("decode q4_0");
        for (predicted, measured) in [
            (0.0, 1.0),
            (1.0, 0.0),
            (f64::NAN, 1.0),
            (1.0, f64::INFINITY),
        ] {
            c.observe(predicted, measured);
        }
        assert_eq!(c, Correction::new("decode q4_0"));
    }

    #[test]
    fn a_change_needs_a_tenth_and_three_spreads() {
        assert!(is_win(100.0, 89.0, 3.0));
        assert!(!is_win(100.0, 91.0, 0.0));
        assert!(!is_win(100.0, 80.0, 7.0));
        assert!(!is_win(100.0, 110.0, 0.0));
    }
}
