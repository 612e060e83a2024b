//! Functions of single elements and conversions of their type.

use std::f32::consts::{E, LN_10, SQRT_2};

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{Activation, BinaryOp, DType, Op, UnaryOp};

use super::{close, error, exact, tensor};
use crate::Case;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

pub(super) fn cases() -> Vec<Case> {
    let mut all = unary();
    all.extend(activations());
    all.extend(binary());
    all.extend(conversions());
    all
}

fn row(values: &[f32]) -> Tensor {
    tensor(&[values.len()], values)
}

fn unary() -> Vec<Case> {
    // Expected values from decimal expansions, rounded to F32.
    let floats: [(UnaryOp, &[f32], &[f32]); 15] = [
        (UnaryOp::Neg, &[1.0, -0.5, INF], &[-1.0, 0.5, -INF]),
        (UnaryOp::Abs, &[-1.5, 0.0, -INF], &[1.5, 0.0, INF]),
        (UnaryOp::Exp, &[0.0, 1.0, -INF, 100.0], &[1.0, E, 0.0, INF]),
        (
            UnaryOp::Log,
            &[1.0, 10.0, 0.0, -1.0],
            &[0.0, LN_10, -INF, NAN],
        ),
        (UnaryOp::Sqrt, &[0.0, 2.0, -1.0], &[0.0, SQRT_2, NAN]),
        (UnaryOp::Rsqrt, &[4.0, 0.0, INF], &[0.5, INF, 0.0]),
        (UnaryOp::Reciprocal, &[4.0, 0.0, -INF], &[0.25, INF, 0.0]),
        (
            UnaryOp::Sin,
            &[0.0, 1.0, 1000.0],
            &[0.0, 0.841_471, 0.826_879_56],
        ),
        (
            UnaryOp::Cos,
            &[0.0, 1.0, 1000.0],
            &[1.0, 0.540_302_3, 0.562_379_06],
        ),
        (
            UnaryOp::Tanh,
            &[0.0, 0.5, 100.0, -INF],
            &[0.0, 0.462_117_16, 1.0, -1.0],
        ),
        (
            UnaryOp::Sigmoid,
            &[0.0, 2.0, -200.0, INF],
            &[0.5, 0.880_797, 0.0, 1.0],
        ),
        (
            UnaryOp::Erf,
            &[0.0, 0.5, -2.0, INF],
            &[0.0, 0.520_499_9, -0.995_322_3, 1.0],
        ),
        (UnaryOp::Floor, &[1.5, -1.5, -2.0], &[1.0, -2.0, -2.0]),
        (UnaryOp::Ceil, &[1.5, -1.5, 2.0], &[2.0, -1.0, 2.0]),
        (
            UnaryOp::Round,
            &[0.5, 1.5, 2.5, -0.5, -1.5, 8_388_609.0],
            &[0.0, 2.0, 2.0, 0.0, -2.0, 8_388_609.0],
        ),
    ];
    let mut all = Vec::new();
    for (f, x, y) in floats {
        let name = format!("unary_{}", f.name());
        all.push(close(&name, Op::Unary(f), vec![row(x)], [row(y)]));
        all.push(close(
            name + "_of_nan",
            Op::Unary(f),
            vec![tensor(&[1, 1], [NAN])],
            [tensor(&[1, 1], [NAN])],
        ));
    }
    all.extend([
        exact(
            "unary_neg_wraps",
            Op::Unary(UnaryOp::Neg),
            vec![tensor(&[3], [i8::MIN, 0, 5])],
            [tensor(&[3], [i8::MIN, 0, -5])],
        ),
        exact(
            "unary_abs_wraps",
            Op::Unary(UnaryOp::Abs),
            vec![tensor(&[2], [i64::MIN, -5])],
            [tensor(&[2], [i64::MIN, 5])],
        ),
        exact(
            "unary_not",
            Op::Unary(UnaryOp::Not),
            vec![tensor(&[2], [true, false])],
            [tensor(&[2], [false, true])],
        ),
        exact(
            "unary_exp_keeps_half_precision",
            Op::Unary(UnaryOp::Exp),
            vec![half(&[0.0, 1.0, 20.0])],
            [half(&[1.0, E, INF])],
        ),
        exact(
            "unary_without_elements",
            Op::Unary(UnaryOp::Exp),
            vec![tensor::<f32>(&[0, 3], [])],
            [tensor::<f32>(&[0, 3], [])],
        ),
    ]);
    all
}

fn half(values: &[f32]) -> Tensor {
    Tensor::from_f32(DType::F16, [values.len()], values.to_vec()).expect("floats")
}

fn activations() -> Vec<Case> {
    let x = &[-1.0f32, 0.0, 2.0, 10.0];
    let expected: [(Activation, &[f32]); 5] = [
        (Activation::Relu, &[0.0, 0.0, 2.0, 10.0]),
        (
            Activation::Silu,
            &[-0.268_941_43, 0.0, 1.761_594_2, 9.999_546],
        ),
        (Activation::Gelu, &[-0.158_655_25, 0.0, 1.954_499_7, 10.0]),
        (Activation::GeluTanh, &[-0.158_808, 0.0, 1.954_597_7, 10.0]),
        (
            Activation::GeluQuick,
            &[-0.154_204_24, 0.0, 1.935_658_6, 9.999_999_6],
        ),
    ];
    let up = &[1.0f32, 5.0, -2.0, 0.5];
    let mut all = Vec::new();
    for (f, y) in expected {
        let name = f.name();
        all.push(close(
            format!("activation_{name}"),
            Op::Activation(f),
            vec![row(x)],
            [row(y)],
        ));
        let product: Vec<f32> = y.iter().zip(up).map(|(y, up)| y * up).collect();
        all.push(close(
            format!("gated_activation_{name}"),
            Op::GatedActivation(f),
            vec![row(x), row(up)],
            [row(&product)],
        ));
        all.push(close(
            format!("activation_{name}_of_nan"),
            Op::Activation(f),
            vec![row(&[NAN])],
            [row(&[NAN])],
        ));
    }
    all.push(close(
        "soft_cap",
        Op::SoftCap { cap: 4.0 },
        vec![row(&[0.0, 2.0, -1000.0, INF])],
        [row(&[0.0, 1.848_468_6, -4.0, 4.0])],
    ));
    all
}

fn binary() -> Vec<Case> {
    use BinaryOp::*;
    let floats: [(BinaryOp, [f32; 5]); 7] = [
        (Add, [8.0, 0.5, INF, NAN, NAN]),
        (Sub, [4.0, -3.5, INF, NAN, NAN]),
        (Mul, [12.0, -3.0, INF, NAN, NAN]),
        (Div, [3.0, -0.75, INF, NAN, NAN]),
        (Pow, [36.0, 2.25, INF, NAN, 1.0]),
        (Max, [6.0, 2.0, INF, NAN, NAN]),
        (Min, [2.0, -1.5, 1.0, NAN, NAN]),
    ];
    let a = row(&[6.0, -1.5, INF, NAN, 1.0]);
    let b = row(&[2.0, 2.0, 1.0, 1.0, NAN]);
    let op = Op::Binary;
    let mut all: Vec<Case> = floats
        .into_iter()
        .map(|(f, y)| {
            let name = format!("binary_{}", f.name());
            close(name, op(f), vec![a.clone(), b.clone()], [row(&y)])
        })
        .collect();
    let comparisons: [(BinaryOp, [bool; 4]); 5] = [
        (Equal, [false, true, false, false]),
        (Less, [true, false, false, false]),
        (LessEqual, [true, true, false, false]),
        (Greater, [false, false, true, false]),
        (GreaterEqual, [false, true, true, false]),
    ];
    for (f, y) in comparisons {
        let name = format!("binary_{}", f.name());
        let floats = vec![row(&[1.0, 2.0, 3.0, NAN]), row(&[2.0, 2.0, 2.0, NAN])];
        all.push(exact(&name, op(f), floats, [tensor(&[4], y)]));
        let integers = vec![
            tensor(&[3], [i64::MAX - 1, 5, 3]),
            tensor(&[3], [i64::MAX, 5, -3]),
        ];
        all.push(exact(
            name + "_of_integers",
            op(f),
            integers,
            [tensor(&[3], &y[..3])],
        ));
    }
    let bytes = vec![
        tensor(&[4], [200u8, 3, 7, 9]),
        tensor(&[4], [100u8, 5, 2, 0]),
    ];
    let wrapped: [(BinaryOp, [u8; 4]); 4] = [
        (Add, [44, 8, 9, 9]),
        (Sub, [100, 254, 5, 9]),
        (Mul, [32, 15, 14, 0]),
        (Div, [2, 0, 3, 0]),
    ];
    for (f, y) in wrapped {
        let name = format!("binary_{}_wraps", f.name());
        all.push(exact(name, op(f), bytes.clone(), [tensor(&[4], y)]));
    }
    let (yes, no) = (true, false);
    let truth = vec![
        tensor(&[4], [no, no, yes, yes]),
        tensor(&[4], [no, yes, no, yes]),
    ];
    for (f, y) in [
        (And, [no, no, no, yes]),
        (Or, [no, yes, yes, yes]),
        (Equal, [yes, no, no, yes]),
    ] {
        let name = format!("binary_{}_of_truth_values", f.name());
        all.push(exact(name, op(f), truth.clone(), [tensor(&[4], y)]));
    }
    all.extend([
        exact(
            "binary_div_truncates_towards_zero",
            op(Div),
            vec![
                tensor(&[3], [-7i32, i32::MIN, 7]),
                tensor(&[3], [2i32, -1, -2]),
            ],
            [tensor(&[3], [-3i32, i32::MIN, -3])],
        ),
        exact(
            "binary_broadcasts_both_ways",
            op(Sub),
            vec![
                tensor(&[2, 1, 2], [1f32, 2.0, 3.0, 4.0]),
                tensor(&[3, 1], [10f32, 20.0, 30.0]),
            ],
            [tensor(
                &[2, 3, 2],
                [
                    -9f32, -8.0, -19.0, -18.0, -29.0, -28.0, -7.0, -6.0, -17.0, -16.0, -27.0, -26.0,
                ],
            )],
        ),
        exact(
            "binary_broadcasts_to_nothing",
            op(Add),
            vec![tensor(&[1, 2], [1f32, 2.0]), tensor::<f32>(&[0, 2], [])],
            [tensor::<f32>(&[0, 2], [])],
        ),
        exact(
            "binary_of_scalars",
            op(Add),
            vec![Tensor::scalar(1f32), Tensor::scalar(2f32)],
            [Tensor::scalar(3f32)],
        ),
        exact(
            "select_broadcasts_and_moves_any_type",
            Op::Select,
            vec![
                tensor(&[2, 1], [true, false]),
                tensor(&[2], [1i16, 2]),
                Tensor::scalar(-1i16),
            ],
            [tensor(&[2, 2], [1i16, 2, -1, -1])],
        ),
        exact(
            "select_passes_no_nan_of_the_other_side",
            Op::Select,
            vec![
                tensor(&[2], [true, false]),
                row(&[1.0, NAN]),
                row(&[NAN, 2.0]),
            ],
            [row(&[1.0, 2.0])],
        ),
    ]);
    all
}

fn conversions() -> Vec<Case> {
    let cast = |to| Op::Cast { to };
    let quantize = |to, axis| Op::Quantize { to, axis };
    let wide = row(&[1.9, -1.9, 300.0, -300.0, INF, NAN]);
    let (scale, zero) = (Tensor::scalar(0.5f32), Tensor::scalar(3i32));
    vec![
        exact(
            "cast_to_i8_truncates_and_saturates",
            cast(DType::I8),
            vec![wide.clone()],
            [tensor(&[6], [1i8, -1, 127, -128, 127, 0])],
        ),
        exact(
            "cast_to_u8_truncates_and_saturates",
            cast(DType::U8),
            vec![wide.clone()],
            [tensor(&[6], [1u8, 0, 255, 0, 255, 0])],
        ),
        exact(
            "cast_to_i64_saturates",
            cast(DType::I64),
            vec![wide.clone()],
            [tensor(&[6], [1i64, -1, 300, -300, i64::MAX, 0])],
        ),
        exact(
            "cast_to_bool_tells_what_is_not_zero",
            cast(DType::Bool),
            vec![row(&[0.0, -0.0, 0.25, NAN])],
            [tensor(&[4], [false, false, true, true])],
        ),
        exact(
            "cast_of_integers_keeps_the_low_bits",
            cast(DType::I8),
            vec![tensor(&[3], [0x1_0000_0081i64, -1, 255])],
            [tensor(&[3], [-127i8, -1, -1])],
        ),
        exact(
            "cast_of_unsigned_does_not_extend_the_sign",
            cast(DType::I32),
            vec![tensor(&[1], [200u8])],
            [tensor(&[1], [200i32])],
        ),
        exact(
            "cast_of_bool",
            cast(DType::F32),
            vec![tensor(&[2], [true, false])],
            [row(&[1.0, 0.0])],
        ),
        exact(
            "cast_to_half_rounds_to_even",
            cast(DType::F16),
            // Halfway between 2048 and 2050, and between 2050 and 2052.
            vec![row(&[2049.0, 2051.0, 70000.0])],
            [half(&[2048.0, 2052.0, INF])],
        ),
        exact(
            "cast_from_bfloat16",
            cast(DType::F32),
            vec![Tensor::from_bytes(DType::BF16, [2], &[0x80, 0x3f, 0x49, 0xc0]).expect("bytes")],
            [row(&[1.0, -3.140_625])],
        ),
        exact(
            "cast_dequantises_blocks",
            cast(DType::I32),
            vec![q4_row()],
            [tensor(&[32], [3i32; 32])],
        ),
        exact(
            "quantize_rounds_to_even_and_saturates",
            quantize(DType::U8, None),
            vec![
                row(&[0.25, 0.75, 1.0, -2.0, 1e9, -1e30, NAN]),
                scale.clone(),
                zero.clone(),
            ],
            [tensor(&[7], [3u8, 5, 5, 0, 255, 0, 3])],
        ),
        exact(
            "quantize_per_channel",
            quantize(DType::I8, Some(1)),
            vec![
                tensor(&[2, 2, 1], [1f32, 1.0, -2.0, -2.0]),
                row(&[1.0, 0.25]),
                tensor(&[2], [0i32, -100]),
            ],
            [tensor(&[2, 2, 1], [1i8, -96, -2, -108])],
        ),
        exact(
            "quantize_to_i32_adds_without_overflow",
            quantize(DType::I32, None),
            vec![
                row(&[INF, -INF]),
                Tensor::scalar(1f32),
                Tensor::scalar(i32::MAX),
            ],
            [tensor(&[2], [i32::MAX, i32::MIN])],
        ),
        exact(
            "dequantize_per_tensor",
            Op::Dequantize { axis: None },
            vec![tensor(&[3], [0u8, 3, 255]), scale, zero],
            [row(&[-1.5, 0.0, 126.0])],
        ),
        exact(
            "dequantize_per_channel_without_overflow",
            Op::Dequantize { axis: Some(0) },
            vec![
                tensor(&[2, 1], [i32::MAX, 1]),
                row(&[1.0, 0.5]),
                tensor(&[2], [i32::MIN, -1]),
            ],
            [tensor(&[2, 1], [4_294_967_295f32, 1.0])],
        ),
        error(
            "gather_names_an_index_out_of_range",
            Op::Gather { axis: 0 },
            vec![row(&[1.0, 2.0]), tensor(&[1], [2i64])],
            "element 0 of indices is 2, must be 0 to below 2",
        ),
    ]
}

/// One Q4_0 block of codes 11 (3 above the middle) and scale 1.
fn q4_row() -> Tensor {
    let mut bytes = vec![0x00, 0x3c];
    bytes.extend([0xbb; 16]);
    Tensor::from_bytes(DType::Q4_0, [32], &bytes).expect("one block")
}
