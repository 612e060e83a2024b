//! What the forms of weights add to the error that a file's weights have already.

use std::fmt::Write;

use anynpu_graphs::quant::quantize_row;
use anynpu_hal::WeightView;
use anynpu_ir::DType;
use anynpu_ir::block::dequantize;
use anynpu_qnn::WeightForm;
use anynpu_qnn::weights::Matrix;

use crate::{kept, numbers};

const ROWS: usize = 64;
const COLUMNS: usize = 1024;

/// The types of matrices in files.
const TYPES: [DType; 10] = [
    DType::F16,
    DType::Q8_0,
    DType::Q6_K,
    DType::Q5_K,
    DType::Q5_1,
    DType::Q5_0,
    DType::Q4_K,
    DType::Q4_1,
    DType::Q4_0,
    DType::BF16,
];

/// The root of the mean square of what `form` changes, in percent of that of the weights.
fn added(dtype: DType, weights: &[f32], form: WeightForm) -> f64 {
    let mut bytes = vec![0; dtype.row_bytes(weights.len()).unwrap()];
    quantize_row(dtype, weights, &mut bytes).unwrap();
    let mut before = vec![0f32; weights.len()];
    dequantize(dtype, &bytes, &mut before).unwrap();
    let view = WeightView {
        dtype,
        bytes: bytes.into(),
    };
    let held = Matrix::of("w", &view, ROWS, COLUMNS, form).unwrap();
    let after = held.numbers(COLUMNS);
    let squares = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = after.iter().zip(&before).map(|(a, b)| squares(a - b)).sum();
    let all: f64 = before.iter().copied().map(squares).sum();
    100.0 * (off / all).sqrt()
}

#[test]
fn forms_of_weights_add_the_error_that_is_kept() {
    // sums of four: near to a bell, as weights are
    let parts: Vec<Vec<f32>> = (1..=4).map(|s| numbers(ROWS * COLUMNS, s)).collect();
    let sum = |i: usize| parts.iter().map(|p| p[i]).sum::<f32>() / 32.0;
    let weights: Vec<f32> = (0..ROWS * COLUMNS).map(sum).collect();
    let mut text = format!("{:<6}", "file");
    for form in WeightForm::ALL {
        write!(text, " {:>7}", form.name()).unwrap();
    }
    for dtype in TYPES {
        write!(text, "\n{:<6}", dtype.name()).unwrap();
        for form in WeightForm::ALL {
            write!(text, " {:>6.2}%", added(dtype, &weights, form)).unwrap();
        }
    }
    text += "\n";
    // what the format can hold is held exactly
    assert_eq!(added(DType::F16, &weights, WeightForm::F16), 0.0);
    assert_eq!(added(DType::Q4_0, &weights, WeightForm::Blocks), 0.0);
    kept("conversion", &text);
}
