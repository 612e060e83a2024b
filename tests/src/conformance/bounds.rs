//! How far a device's numbers may be from the reference's.
//!
//! The reference computes in f64 and rounds once. A found value `f` passes for an expected `e` where
//! `|f − e| ≤ relative·|e| + absolute·scale + tiny`. `scale` is the largest magnitude that went into the
//! result: for products, the same product of the operands' magnitudes, `Σ|x·w|`; for the rest, the largest
//! finite expected value of the tensor. `tiny` is the least normal number of the type computed in, as
//! devices may flush smaller ones to zero. NaN agrees with NaN only, an infinity with itself; integers and
//! truth values must be equal.
//!
//! The type computed in is the first of [`anynpu_hal::Capabilities::compute`], or the result's type where that
//! is narrower. `2⁻²³` is the distance of F32 numbers at 1, `2⁻¹⁰` of F16, `2⁻⁷` of BF16.
//!
//! | class | what | F32 | F16 | BF16, I16 | I8, U8 |
//! |---|---|---|---|---|---|
//! | exact | moves, choices, integers, conversions that are exact | 0 | 0 | 0 | 2⁻⁵ |
//! | rounded | one operation of arithmetic, a conversion (relative only) | 2⁻²³ | 2⁻¹⁰ | 2⁻⁷ | 2⁻⁵ |
//! | function | exp, tanh, activations, … | 2⁻¹⁹ | 2⁻⁹ | 2⁻⁶ | 2⁻⁴ |
//! | sum | products, convolutions, sums | 2⁻²⁰ | 2⁻⁹ | 2⁻⁶ | 2⁻⁴ |
//! | composite | norms, softmax, rotation, attention | 2⁻¹⁷ | 2⁻⁸ | 2⁻⁵ | 2⁻³ |
//! | blocks | products with block-quantised weights | 2⁻⁷ | 2⁻⁷ | 2⁻⁶ | 2⁻³ |
//! | layers | runs of a model's nodes, on F32 or F16 weights | 2⁻¹¹ | 2⁻⁵ | 2⁻³ | 2⁻² |
//! | layers in blocks | the same, on block-quantised weights | 2⁻⁴ | 2⁻⁴ | 2⁻³ | 2⁻² |
//!
//! Products with block-quantised weights may quantise the other operand to 8 bits a block, as fast kernels do,
//! which moves each factor by up to 1/254 of its block's largest.
//!
//! Where ONNX's node tests quantise what earlier nodes computed in a narrower type than F32, a code may be off by one.

use anynpu_cpu::reference::Tensor;
use anynpu_hal::Capabilities;
use anynpu_ir::DType;

use crate::{Tolerance, compare};

use super::outcome::{Check, Finding, Stop};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Moves, choices, integers.
    Exact,
    /// One operation of arithmetic.
    Rounded,
    /// A function.
    Function,
    /// Products and sums.
    Sum,
    /// Norms, softmax, rotation, attention.
    Composite,
    /// Products with block-quantised weights.
    Blocks,
    /// Runs of a model's nodes.
    Layers,
    /// Runs of a model's nodes on block-quantised weights.
    LayersInBlocks,
}

impl Class {
    /// The class's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Exact => "exact",
            Class::Rounded => "rounded",
            Class::Function => "function",
            Class::Sum => "sum",
            Class::Composite => "composite",
            Class::Blocks => "blocks",
            Class::Layers => "layers",
            Class::LayersInBlocks => "layers in blocks",
        }
    }

    /// The exponents of a row of the table: F32, F16, BF16 and I16, I8 and U8. `None` is 0.
    const fn exponents(self) -> [Option<i32>; 4] {
        match self {
            Class::Exact => [None, None, None, Some(-5)],
            Class::Rounded => [Some(-23), Some(-10), Some(-7), Some(-5)],
            Class::Function => [Some(-19), Some(-9), Some(-6), Some(-4)],
            Class::Sum => [Some(-20), Some(-9), Some(-6), Some(-4)],
            Class::Composite => [Some(-17), Some(-8), Some(-5), Some(-3)],
            Class::Blocks => [Some(-7), Some(-7), Some(-6), Some(-3)],
            Class::Layers => [Some(-11), Some(-5), Some(-3), Some(-2)],
            Class::LayersInBlocks => [Some(-4), Some(-4), Some(-3), Some(-2)],
        }
    }

    /// The bound in the type `computed`.
    pub fn in_type(self, computed: DType) -> f64 {
        let column = match computed {
            DType::F16 => 1,
            DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 => 3,
            _ => 0,
        };
        self.exponents()[column].map_or(0.0, |e| f64::from(e).exp2())
    }
}

/// The type that a device of `capabilities` computes in.
pub fn compute(capabilities: &Capabilities) -> DType {
    capabilities.compute.first().copied().unwrap_or(DType::F32)
}

/// Whether a device that computes in `computed` holds every finite element exactly.
pub(crate) fn holds(computed: DType, tensor: &Tensor) -> bool {
    if !matches!(computed, DType::F16 | DType::BF16) || !tensor.dtype().is_float() {
        return true;
    }
    let values = tensor.to_f32().unwrap_or_default();
    let rounded = Tensor::from_f32(computed, [values.len()], values.clone());
    let Some(rounded) = rounded.ok().and_then(|t| t.to_f32().ok()) else {
        return false;
    };
    let same = |(a, b): (&f32, &f32)| a == b || !a.is_finite();
    values.iter().zip(&rounded).all(same)
}

/// The largest finite magnitude of a float tensor.
pub(crate) fn magnitude(tensor: &Tensor) -> f64 {
    let values = tensor.to_f32().unwrap_or_default();
    let finite = values.iter().filter(|x| x.is_finite());
    finite.fold(0.0, |most, &x| most.max(f64::from(x).abs()))
}

/// The bound on one result.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Row of the table.
    pub class: Class,
    /// Type computed in.
    pub computed: DType,
    /// Magnitude that went into the result.
    pub scale: f64,
}

impl Bound {
    /// The tolerance for a result of `dtype`.
    pub fn tolerance(&self, dtype: DType) -> Tolerance {
        let wide = |d: DType| self.class.in_type(d);
        let share = match dtype.is_float() {
            true => wide(self.computed).max(wide(dtype)),
            false => 0.0,
        };
        let narrow = [self.computed, dtype].contains(&DType::F16);
        let tiny = match narrow {
            true => f64::from(-14f32).exp2(),
            false => f64::from(f32::MIN_POSITIVE),
        };
        let absolute = match self.class {
            Class::Exact | Class::Rounded => tiny,
            _ => share * self.scale + tiny,
        };
        Tolerance::new(absolute, share)
    }

    /// Compares; `place` names the result.
    pub fn check(&self, place: &str, found: &Tensor, expected: &Tensor) -> Check {
        let tolerance = self.tolerance(expected.dtype());
        match compare(found, expected, tolerance) {
            Ok(_) => Ok(()),
            Err(e) => {
                let (found, expected) = e.sides();
                Err(Stop::Failed(Box::new(Finding {
                    at: place.to_owned(),
                    found,
                    expected,
                    bound: Some(format!(
                        "class '{}' in {}: |Δ| ≤ {:e} + {:e}·|expected|",
                        self.class.name(),
                        self.computed,
                        tolerance.absolute,
                        tolerance.relative
                    )),
                })))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::tensor;

    #[test]
    fn a_narrower_type_has_a_wider_bound_and_integers_have_none() {
        for class in [
            Class::Rounded,
            Class::Function,
            Class::Sum,
            Class::Composite,
        ] {
            assert!(class.in_type(DType::F32) < class.in_type(DType::F16));
            assert!(class.in_type(DType::F16) < class.in_type(DType::BF16));
        }
        let bound = Bound {
            class: Class::Sum,
            computed: DType::F16,
            scale: 100.0,
        };
        let (a, b) = (tensor(&[1], [1i32]), tensor(&[1], [2i32]));
        assert!(bound.check("y", &a, &b).is_err());
    }

    #[test]
    fn a_finding_says_the_class_and_both_values() {
        let bound = Bound {
            class: Class::Rounded,
            computed: DType::F32,
            scale: 1.0,
        };
        let (a, b) = (tensor(&[2], [1f32, 2.5]), tensor(&[2], [1f32, 2.0]));
        let Err(Stop::Failed(finding)) = bound.check("output 0", &a, &b) else {
            panic!("2.5 passed for 2");
        };
        assert_eq!(finding.at, "output 0");
        assert!(finding.found.contains("2.5 at [1]"), "{finding}");
        assert!(
            finding
                .bound
                .is_some_and(|b| b.contains("'rounded' in f32"))
        );
    }
}
