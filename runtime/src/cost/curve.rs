//! Figures between those that were measured.

/// A figure as a function of another, both above 0: straight lines between measured points in
/// logarithms of both, never falling.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Curve {
    /// Ascending in both.
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// The curve through `points`. Points at the same place count as their geometric mean, and one below
    /// an earlier one as high as that.
    pub fn rising(points: impl IntoIterator<Item = (f64, f64)>) -> Curve {
        let mut points: Vec<(f64, f64)> = points.into_iter().collect();
        points.retain(|p| p.0 > 0.0 && p.1 > 0.0 && p.0.is_finite() && p.1.is_finite());
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut merged: Vec<(f64, f64, f64)> = Vec::new();
        for (x, y) in points {
            match merged.last_mut() {
                Some((at, sum, count)) if *at == x => {
                    *sum += y.ln();
                    *count += 1.0;
                }
                _ => merged.push((x, y.ln(), 1.0)),
            }
        }
        let mut highest = 0.0f64;
        let points = merged.into_iter().map(|(x, sum, count)| {
            highest = highest.max((sum / count).exp());
            (x, highest)
        });
        Curve {
            points: points.collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The place of the first point and its figure.
    pub fn first(&self) -> Option<(f64, f64)> {
        self.points.first().copied()
    }

    /// The figure at `x`; 0 if there is no point. Past the last point it grows in proportion with `x`;
    /// before the first it falls in proportion down to `floor`.
    pub fn at(&self, x: f64, floor: f64) -> f64 {
        let (Some(&first), Some(&last)) = (self.points.first(), self.points.last()) else {
            return 0.0;
        };
        if x <= first.0 {
            return (first.1 * x / first.0).max(floor.min(first.1));
        }
        if x >= last.0 {
            return last.1 * x / last.0;
        }
        let after = self.points.partition_point(|p| p.0 <= x);
        let (a, b) = (self.points[after - 1], self.points[after]);
        let share = (x / a.0).ln() / (b.0 / a.0).ln();
        (a.1.ln() + share * (b.1 / a.1).ln()).exp()
    }
}

/// The figure at `x` between `points` (ascending in their first, second any), in logarithms of both; that
/// of the nearest end outside of them. `None` without points.
pub(super) fn between(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let (first, last) = (points.first()?, points.last()?);
    if x <= first.0 {
        return Some(first.1);
    }
    if x >= last.0 {
        return Some(last.1);
    }
    let after = points.partition_point(|p| p.0 <= x);
    let (a, b) = (points[after - 1], points[after]);
    let share = (x / a.0).ln() / (b.0 / a.0).ln();
    Some((a.1.ln() + share * (b.1 / a.1).ln()).exp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn powers_are_straight_lines() {
        let curve = Curve::rising([(1.0, 3.0), (100.0, 3000.0)]);
        let close = |x: f64, floor: f64, y: f64| {
            let found = curve.at(x, floor);
            assert!((found - y).abs() < 1e-9 * y, "{found} {y}");
        };
        close(10.0, 0.0, (3.0f64 * 3000.0).sqrt());
        close(1.0, 0.0, 3.0);
        close(200.0, 0.0, 6000.0);
        close(0.5, 0.0, 1.5);
        close(0.5, 2.0, 2.0);
        assert_eq!(Curve::default().at(1.0, 5.0), 0.0);
    }

    #[test]
    fn repeated_points_are_averaged_and_falling_ones_raised() {
        let curve = Curve::rising([(1.0, 2.0), (1.0, 8.0), (4.0, 1.0)]);
        assert!((curve.at(1.0, 0.0) - 4.0).abs() < 1e-12);
        assert!((curve.at(4.0, 0.0) - 4.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn a_curve_is_finite_and_never_falls(
            points in prop::collection::vec((1e-3..1e9f64, 1e-3..1e9f64), 1..8),
            a in 1e-3..1e12f64,
            b in 1e-3..1e12f64,
            floor in 0.0..10.0f64,
        ) {
            let curve = Curve::rising(points);
            let (low, high) = (curve.at(a.min(b), floor), curve.at(a.max(b), floor));
            prop_assert!(low.is_finite() && high.is_finite() && low > 0.0);
            prop_assert!(low <= high * (1.0 + 1e-9), "{low} {high}");
        }
    }
}
