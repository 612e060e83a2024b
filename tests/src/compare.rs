//! Comparing tensors within a stated tolerance.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::DType;
use thiserror::Error;

/// How far a found value may be from the expected one:
/// `|found − expected| ≤ absolute + relative · |expected|`.
///
/// NaN agrees with NaN, an infinity with itself. Integers and Bool must be equal whatever the
/// tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// In the values' unit.
    pub absolute: f64,
    /// As a share of the expected value.
    pub relative: f64,
}

impl Tolerance {
    /// Equal values (`−0` equals `0`).
    pub const EXACT: Tolerance = Tolerance::new(0.0, 0.0);

    /// Correctly rounded F32 but for the last place, for values not far below 1.
    pub const ROUNDING: Tolerance = Tolerance::new(1e-7, 1.2e-7);

    /// Both parts.
    pub const fn new(absolute: f64, relative: f64) -> Self {
        Tolerance { absolute, relative }
    }

    fn admits(&self, found: f64, expected: f64) -> bool {
        found == expected
            || (found.is_nan() && expected.is_nan())
            || (found - expected).abs() <= self.absolute + self.relative * expected.abs()
                && expected.is_finite()
    }
}

/// What a comparison that succeeded saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Elements compared.
    pub elements: usize,
    /// The largest difference of finite elements.
    pub max_difference: f64,
}

/// Tensors that don't agree.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum Mismatch {
    /// Of different types.
    #[error("found {found}, expected {expected}")]
    DType {
        /// Found.
        found: DType,
        /// Expected.
        expected: DType,
    },
    /// Of different shapes.
    #[error("found shape {found:?}, expected {expected:?}")]
    Shape {
        /// Found.
        found: Vec<usize>,
        /// Expected.
        expected: Vec<usize>,
    },
    /// Elements differ.
    #[error(
        "{count} of {elements} elements differ, the first at {index:?}: found {found}, expected \
         {expected}; max |Δ| {max_difference:e}, allowed {} + {}·|expected|",
        tolerance.absolute,
        tolerance.relative
    )]
    Values {
        /// How many are out of tolerance.
        count: usize,
        /// Of how many.
        elements: usize,
        /// Index of the first.
        index: Vec<usize>,
        /// Its value.
        found: f64,
        /// What it should be.
        expected: f64,
        /// The largest difference of finite elements.
        max_difference: f64,
        /// What was allowed.
        tolerance: Tolerance,
    },
}

impl Mismatch {
    /// What was found and what was expected, in words.
    pub fn sides(&self) -> (String, String) {
        match self {
            Mismatch::DType { found, expected } => (found.to_string(), expected.to_string()),
            Mismatch::Shape { found, expected } => {
                (format!("shape {found:?}"), format!("shape {expected:?}"))
            }
            Mismatch::Values {
                count,
                elements,
                index,
                found,
                expected,
                max_difference,
                ..
            } => (
                format!(
                    "{found} at {index:?} ({count} of {elements} elements differ, by up to {max_difference:e})"
                ),
                expected.to_string(),
            ),
        }
    }
}

/// Compares type, shape and every element.
///
/// # Errors
/// [`Mismatch`] telling the first element out of tolerance and the largest difference.
pub fn compare(
    found: &Tensor,
    expected: &Tensor,
    tolerance: Tolerance,
) -> Result<Agreement, Mismatch> {
    if found.dtype() != expected.dtype() {
        return Err(Mismatch::DType {
            found: found.dtype(),
            expected: expected.dtype(),
        });
    }
    if found.shape() != expected.shape() {
        return Err(Mismatch::Shape {
            found: found.shape().to_vec(),
            expected: expected.shape().to_vec(),
        });
    }
    let (a, b) = (elements(found), elements(expected));
    let tolerance = match &a {
        Elements::Integers(_) => Tolerance::EXACT,
        Elements::Floats(_) => tolerance,
    };
    let (mut first, mut count, mut max_difference) = (None, 0, 0f64);
    for i in 0..a.len() {
        let (x, y) = (a.at(i), b.at(i));
        let agree = match (&a, &b) {
            (Elements::Integers(a), Elements::Integers(b)) => a[i] == b[i],
            _ => tolerance.admits(x, y),
        };
        if !agree {
            first.get_or_insert(i);
            count += 1;
        }
        let difference = (x - y).abs();
        if difference.is_finite() {
            max_difference = max_difference.max(difference);
        }
    }
    match first {
        None => Ok(Agreement {
            elements: a.len(),
            max_difference,
        }),
        Some(i) => Err(Mismatch::Values {
            count,
            elements: a.len(),
            index: unravel(i, found.shape()),
            found: a.at(i),
            expected: b.at(i),
            max_difference,
            tolerance,
        }),
    }
}

enum Elements {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Elements {
    fn len(&self) -> usize {
        match self {
            Elements::Floats(v) => v.len(),
            Elements::Integers(v) => v.len(),
        }
    }

    fn at(&self, i: usize) -> f64 {
        match self {
            Elements::Floats(v) => v[i].into(),
            Elements::Integers(v) => v[i] as f64,
        }
    }
}

fn elements(tensor: &Tensor) -> Elements {
    match tensor.to_i64() {
        Ok(integers) => Elements::Integers(integers),
        Err(_) => Elements::Floats(tensor.to_f32().unwrap_or_default()),
    }
}

fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &n) in index.iter_mut().zip(shape).rev() {
        (*i, flat) = (flat % n, flat / n);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::new([2, values.len() / 2], values.to_vec()).unwrap()
    }

    #[test]
    fn a_mismatch_tells_where_and_by_how_much() {
        let (a, b) = (floats(&[1.0, 2.0, 3.0, 4.0]), floats(&[1.0, 2.0, 3.5, 5.0]));
        let error = compare(&a, &b, Tolerance::new(0.25, 0.0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 of 4 elements differ, the first at [1, 0]: found 3, expected 3.5; max |Δ| 1e0, \
             allowed 0.25 + 0·|expected|"
        );
        let agreement = compare(&a, &b, Tolerance::new(0.0, 0.2)).unwrap();
        assert_eq!((agreement.elements, agreement.max_difference), (4, 1.0));
    }

    #[test]
    fn specials_agree_only_with_themselves() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let wide = Tolerance::new(1e9, 1e9);
        assert!(compare(&floats(&[inf, nan]), &floats(&[inf, nan]), wide).is_ok());
        for (a, b) in [(inf, -inf), (1.0, inf), (inf, 1.0), (nan, 1.0), (1.0, nan)] {
            let (a, b) = (floats(&[a, 0.0]), floats(&[b, 0.0]));
            assert!(compare(&a, &b, wide).is_err(), "{a:?} {b:?}");
        }
    }

    #[test]
    fn integers_are_compared_exactly() {
        let a = Tensor::new([1], vec![i64::MAX]).unwrap();
        let b = Tensor::new([1], vec![i64::MAX - 1]).unwrap();
        assert!(compare(&a, &b, Tolerance::new(10.0, 1.0)).is_err());
        assert!(compare(&a, &a, Tolerance::EXACT).is_ok());
    }

    #[test]
    fn types_and_shapes_must_agree() {
        let a = Tensor::new([2], vec![1i32, 2]).unwrap();
        let b = Tensor::new([2], vec![1i64, 2]).unwrap();
        let c = Tensor::new([2, 1], vec![1i32, 2]).unwrap();
        assert!(matches!(
            compare(&a, &b, Tolerance::EXACT),
            Err(Mismatch::DType { .. })
        ));
        assert!(matches!(
            compare(&a, &c, Tolerance::EXACT),
            Err(Mismatch::Shape { .. })
        ));
    }
}
