//! Functions of elements, selections and conversions.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{Activation, BinaryOp, DType, Op, UnaryOp};

use super::Maker;
use crate::cases::tensor;
use crate::conformance::values::float_tensor;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const INTEGERS: [DType; 5] = [DType::I8, DType::U8, DType::I16, DType::I32, DType::I64];
const PLAIN: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::U8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::Bool,
];

/// Shapes from none to the most axes.
const SHAPES: [(&str, &[usize]); 6] = [
    ("scalar", &[]),
    ("vector", &[37]),
    ("matrix", &[3, 21]),
    ("rank4", &[2, 3, 1, 5]),
    ("rank8", &[1, 2, 1, 2, 1, 2, 1, 3]),
    ("empty", &[2, 0, 3]),
];

/// Pairs of shapes that broadcast.
const PAIRS: [(&str, &[usize], &[usize]); 9] = [
    ("same", &[4, 9], &[4, 9]),
    ("scalars", &[], &[]),
    ("scalar_right", &[3, 7], &[]),
    ("scalar_left", &[], &[3, 7]),
    ("row", &[5, 6], &[6]),
    ("column", &[5, 6], &[5, 1]),
    ("both", &[3, 1, 4], &[2, 1]),
    (
        "rank8",
        &[2, 1, 1, 2, 1, 1, 1, 3],
        &[1, 2, 1, 1, 1, 2, 1, 1],
    ),
    ("empty", &[0, 4], &[4]),
];

pub(super) fn add(maker: &mut Maker<'_>) {
    unary(maker);
    activations(maker);
    binary(maker);
    select(maker);
    cast(maker);
    quantize(maker);
}

/// Numbers that the function takes: those above 0 where it takes no others.
fn domain(positive: bool, tensor: Tensor) -> Tensor {
    if !positive {
        return tensor;
    }
    let values = tensor.to_f32().unwrap_or_default();
    let values = values.iter().map(|x| x.abs() + 0.25).collect();
    float_tensor(tensor.dtype(), tensor.shape(), values)
}

fn unary(maker: &mut Maker<'_>) {
    for &f in UnaryOp::ALL {
        if f == UnaryOp::Not {
            for (variant, shape) in SHAPES {
                let x = maker
                    .values(&format!("not {variant}"))
                    .tensor(DType::Bool, shape);
                maker.add(Op::Unary(f), variant, vec![x]);
            }
            continue;
        }
        let positive = matches!(
            f,
            UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Reciprocal
        );
        for dtype in FLOATS {
            for (variant, shape) in SHAPES {
                let mut v = maker.values(&format!("{} {dtype} {variant}", f.name()));
                let x = domain(positive, v.tensor(dtype, shape));
                maker.add(Op::Unary(f), variant, vec![x]);
            }
        }
        let mut v = maker.values(&format!("{} edges", f.name()));
        let x = domain(positive, v.tensor(DType::F32, &[2, 5]));
        // the sine of numbers past 2^53 is a matter of how far π is known
        let edges = !matches!(f, UnaryOp::Sin | UnaryOp::Cos);
        match edges {
            true => maker.with_edges(Op::Unary(f), "special", vec![x], 0),
            false => maker.add(Op::Unary(f), "special", vec![x]),
        }
        if matches!(f, UnaryOp::Neg | UnaryOp::Abs) {
            for dtype in INTEGERS.into_iter().filter(|&d| d != DType::U8) {
                for (variant, shape) in SHAPES {
                    let mut v = maker.values(&format!("{} {dtype} {variant}", f.name()));
                    maker.add(Op::Unary(f), variant, vec![v.tensor(dtype, shape)]);
                }
            }
        }
    }
}

fn activations(maker: &mut Maker<'_>) {
    for &f in Activation::ALL {
        for dtype in FLOATS {
            for (variant, shape) in SHAPES {
                let mut v = maker.values(&format!("{} {dtype} {variant}", f.name()));
                let (x, y) = (v.tensor(dtype, shape), v.tensor(dtype, shape));
                maker.add(Op::Activation(f), variant, vec![x.clone()]);
                maker.add(Op::GatedActivation(f), variant, vec![x, y]);
            }
        }
        let mut v = maker.values(&format!("{} edges", f.name()));
        let x = v.tensor(DType::F32, &[11]);
        maker.with_edges(Op::Activation(f), "special", vec![x], 0);
    }
    for dtype in FLOATS {
        for (variant, shape) in SHAPES {
            let mut v = maker.values(&format!("soft_cap {dtype} {variant}"));
            let x = v.tensor(dtype, shape);
            maker.add(Op::SoftCap { cap: 1.5 }, variant, vec![x]);
        }
    }
    let x = maker.values("soft_cap edges").tensor(DType::F32, &[7]);
    maker.with_edges(Op::SoftCap { cap: 30.0 }, "special", vec![x], 0);
}

fn binary(maker: &mut Maker<'_>) {
    for &f in BinaryOp::ALL {
        let types: Vec<DType> = match f {
            BinaryOp::And | BinaryOp::Or => vec![DType::Bool],
            BinaryOp::Pow => FLOATS.to_vec(),
            BinaryOp::Equal => PLAIN.to_vec(),
            _ => PLAIN[..8].to_vec(),
        };
        for dtype in types {
            for (variant, a, b) in PAIRS {
                if maker.quick() && !matches!(variant, "same" | "row" | "both" | "empty") {
                    continue;
                }
                let mut v = maker.values(&format!("{} {dtype} {variant}", f.name()));
                let (mut x, mut y) = (v.tensor(dtype, a), v.tensor(dtype, b));
                if f == BinaryOp::Pow {
                    x = domain(true, x);
                }
                if f == BinaryOp::Div && dtype.is_float() {
                    y = domain(true, y);
                }
                maker.add(Op::Binary(f), variant, vec![x, y]);
            }
        }
        if !matches!(f, BinaryOp::And | BinaryOp::Or | BinaryOp::Pow) {
            let mut v = maker.values(&format!("{} edges", f.name()));
            let (x, y) = (v.tensor(DType::F32, &[2, 4]), v.tensor(DType::F32, &[2, 4]));
            let y = if f == BinaryOp::Div {
                domain(true, y)
            } else {
                y
            };
            maker.with_edges(Op::Binary(f), "special", vec![x, y], 0);
        }
    }
    extremes(maker);
}

/// Integers at the ends of their types, where arithmetic wraps around.
fn extremes(maker: &mut Maker<'_>) {
    use BinaryOp::{Add, Div, Equal, Greater, Less, Max, Min, Mul, Sub};
    for f in [Add, Sub, Mul, Div, Max, Min, Equal, Less, Greater] {
        let pairs = [
            (
                tensor(&[4], [i8::MIN, i8::MAX, -1, 0]),
                tensor(&[4], [-1i8, 1, 0, i8::MIN]),
            ),
            (
                tensor(&[4], [0u8, u8::MAX, 200, 1]),
                tensor(&[4], [1u8, 1, 100, 0]),
            ),
            (
                tensor(&[4], [i16::MIN, i16::MAX, -1, 0]),
                tensor(&[4], [-1i16, 1, 0, i16::MIN]),
            ),
            (
                tensor(&[4], [i32::MIN, i32::MAX, -1, 0]),
                tensor(&[4], [-1i32, 1, 0, i32::MIN]),
            ),
            (
                tensor(&[4], [i64::MIN, i64::MAX, -1, 0]),
                tensor(&[4], [-1i64, 1, 0, i64::MIN]),
            ),
        ];
        for (a, b) in pairs {
            maker.add(Op::Binary(f), "edge_extremes", vec![a, b]);
        }
    }
}

fn select(maker: &mut Maker<'_>) {
    for dtype in PLAIN {
        for (variant, condition, a, b) in [
            ("same", &[3, 4][..], &[3, 4][..], &[3, 4][..]),
            ("scalars", &[], &[], &[]),
            ("condition_row", &[4], &[3, 4], &[3, 4]),
            ("broadcast_all", &[3, 1], &[1, 4], &[]),
            ("rank5", &[2, 1, 1, 3, 1], &[1, 2, 1, 1, 2], &[1]),
            ("empty", &[0, 1], &[0, 4], &[4]),
        ] {
            let mut v = maker.values(&format!("select {dtype} {variant}"));
            let inputs = vec![
                v.tensor(DType::Bool, condition),
                v.tensor(dtype, a),
                v.tensor(dtype, b),
            ];
            maker.add(Op::Select, variant, inputs);
        }
    }
    let mut v = maker.values("select edges");
    let inputs = vec![
        v.tensor(DType::Bool, &[6]),
        v.tensor(DType::F32, &[6]),
        v.tensor(DType::F32, &[6]),
    ];
    maker.with_edges(Op::Select, "special", inputs, 1);
}

fn cast(maker: &mut Maker<'_>) {
    let blocks = [
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
    ];
    let large = [DType::Q4_K, DType::Q5_K, DType::Q6_K];
    for from in PLAIN.into_iter().chain(blocks).chain(large) {
        for to in PLAIN {
            let shape = [2, from.block_len().max(9)];
            let mut v = maker.values(&format!("cast {from} {to}"));
            maker.add(
                Op::Cast { to },
                &format!("to_{to}"),
                vec![v.tensor(from, &shape)],
            );
        }
        if !from.is_block() {
            let x = maker.values("cast empty").tensor(from, &[0, 2]);
            maker.add(Op::Cast { to: DType::F32 }, "to_f32_empty", vec![x]);
        }
    }
    let values = [
        -1e20,
        -300.5,
        -1.5,
        -0.5,
        0.49,
        1.5,
        127.9,
        300.7,
        70000.0,
        1e20,
        f32::NAN,
    ];
    for to in INTEGERS {
        let x = tensor(&[11], values);
        maker.add(
            Op::Cast { to },
            &format!("to_{to}_edge_saturation"),
            vec![x],
        );
    }
    let integers = tensor(&[5], [i64::MIN, -129, 127, 65536 + 5, i64::MAX]);
    for to in [DType::I8, DType::U8, DType::I16, DType::I32] {
        maker.add(
            Op::Cast { to },
            &format!("to_{to}_edge_wrap"),
            vec![integers.clone()],
        );
    }
}

fn quantize(maker: &mut Maker<'_>) {
    for to in [DType::I8, DType::U8, DType::I16, DType::I32] {
        for (variant, shape, axis) in [
            ("tensor", &[3, 4][..], None),
            ("scalar", &[], None),
            ("first_axis", &[3, 4], Some(0)),
            ("last_axis", &[2, 3, 4], Some(2)),
            ("empty", &[0, 4], Some(1)),
        ] {
            let mut v = maker.values(&format!("quantize {to} {variant}"));
            let channels: Vec<usize> = axis.map(|a: u32| shape[a as usize]).into_iter().collect();
            let n = channels.iter().product();
            let scale: Vec<f32> = (0..n).map(|i| 0.125 * (1 + i % 3) as f32).collect();
            let (scale, zero) = (tensor(&channels, scale), v.tensor(DType::I32, &channels));
            let x = v.tensor(DType::F32, shape);
            let q = v.tensor(to, shape);
            let parameters = [scale, zero];
            let quantize = Op::Quantize { to, axis };
            let own = [&[x][..], &parameters].concat();
            maker.add(quantize, &format!("to_{to}_{variant}"), own);
            let own = [&[q][..], &parameters].concat();
            maker.add(Op::Dequantize { axis }, variant, own);
        }
        let x = tensor(
            &[6],
            [1e9f32, -1e9, f32::INFINITY, f32::NEG_INFINITY, 0.5, 1.5],
        );
        let inputs = vec![x, Tensor::scalar(1f32), Tensor::scalar(3i32)];
        let op = Op::Quantize { to, axis: None };
        maker.add(op, &format!("to_{to}_edge_saturation"), inputs);
    }
}
