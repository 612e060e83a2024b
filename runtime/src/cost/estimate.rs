//! A predicted time and where it comes from.

use std::ops::{Add, AddAssign, Mul};

/// Where a predicted time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EstimateSource {
    /// A profile of the device has that very kind of work.
    Measured,
    /// Derived from a measured bandwidth or rate of another kind of work.
    Roofline,
    /// The driver states its device's rates.
    VendorHint,
    /// Round figures for a device of its kind.
    Guess,
}

impl EstimateSource {
    /// All, the surest first.
    pub const ALL: [EstimateSource; 4] = [
        EstimateSource::Measured,
        EstimateSource::Roofline,
        EstimateSource::VendorHint,
        EstimateSource::Guess,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            EstimateSource::Measured => "measured",
            EstimateSource::Roofline => "roofline",
            EstimateSource::VendorHint => "vendor_hint",
            EstimateSource::Guess => "guess",
        }
    }
}

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Microseconds.
    pub us: f64,
    /// Microseconds by where they come from, as [`EstimateSource::ALL`] orders them.
    by_source: [f64; 4],
}

impl Estimate {
    /// No time at all.
    pub const ZERO: Estimate = Estimate {
        us: 0.0,
        by_source: [0.0; 4],
    };

    /// `us` microseconds from `source`.
    pub fn new(us: f64, source: EstimateSource) -> Estimate {
        let mut by_source = [0.0; 4];
        by_source[source as usize] = us;
        Estimate { us, by_source }
    }

    /// The share of the time that comes from `source`, from 0 to 1; of no time, 0.
    pub fn share(&self, source: EstimateSource) -> f64 {
        let all: f64 = self.by_source.iter().sum();
        match all > 0.0 {
            true => self.by_source[source as usize] / all,
            false => 0.0,
        }
    }

    /// The share of the time that is a guess, from 0 to 1.
    pub fn guess_share(&self) -> f64 {
        self.share(EstimateSource::Guess)
    }
}

impl Add for Estimate {
    type Output = Estimate;

    fn add(self, other: Estimate) -> Estimate {
        let mut sum = self;
        sum += other;
        sum
    }
}

impl AddAssign for Estimate {
    fn add_assign(&mut self, other: Estimate) {
        self.us += other.us;
        for (a, b) in self.by_source.iter_mut().zip(other.by_source) {
            *a += b;
        }
    }
}

impl Mul<f64> for Estimate {
    type Output = Estimate;

    fn mul(self, factor: f64) -> Estimate {
        Estimate {
            us: self.us * factor,
            by_source: self.by_source.map(|us| us * factor),
        }
    }
}

impl std::iter::Sum for Estimate {
    fn sum<I: Iterator<Item = Estimate>>(all: I) -> Estimate {
        all.fold(Estimate::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_time_and_sum_to_one() {
        let sum = Estimate::new(30.0, EstimateSource::Measured)
            + Estimate::new(10.0, EstimateSource::Guess) * 2.0
            + Estimate::new(50.0, EstimateSource::Roofline);
        assert_eq!(sum.us, 100.0);
        assert_eq!(sum.guess_share(), 0.2);
        let all: f64 = EstimateSource::ALL.iter().map(|&s| sum.share(s)).sum();
        assert!((all - 1.0).abs() < 1e-12);
        assert_eq!(Estimate::ZERO.guess_share(), 0.0);
    }
}
