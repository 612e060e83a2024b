//! Reductions and searches.

use anynpu_ir::{DType, Op, ReduceOp};

use super::Maker;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const NUMBERS: [DType; 8] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::U8,
    DType::I16,
    DType::I32,
    DType::I64,
];

pub(super) fn add(maker: &mut Maker<'_>) {
    for &op in ReduceOp::ALL {
        let types = match op {
            ReduceOp::Mean => &FLOATS[..],
            _ => &NUMBERS[..],
        };
        for &dtype in types {
            for (variant, shape, axes) in [
                ("last_axis", &[3, 10][..], &[1u32][..]),
                ("first_axis", &[6, 4], &[0]),
                ("middle", &[2, 5, 3], &[1]),
                ("outer_two", &[2, 3, 4], &[0, 2]),
                ("all_axes", &[3, 5], &[0, 1]),
                ("long", &[2, 1000], &[1]),
                ("rank8", &[1, 2, 1, 3, 1, 2, 1, 2], &[1, 3, 7]),
                ("no_rows", &[0, 4], &[1]),
            ] {
                for keep_dims in [false, true] {
                    if maker.quick() && keep_dims {
                        continue;
                    }
                    let kept = if keep_dims { "_kept" } else { "" };
                    let mut v = maker.values(&format!("{} {dtype} {variant}", op.name()));
                    let x = v.tensor(dtype, shape);
                    let axes = axes.to_vec();
                    let op = Op::Reduce {
                        op,
                        axes,
                        keep_dims,
                    };
                    maker.add(op, &format!("{variant}{kept}"), vec![x]);
                }
            }
        }
        let mut v = maker.values(&format!("{} edges", op.name()));
        let x = v.tensor(DType::F32, &[3, 6]);
        let reduce = Op::Reduce {
            op,
            axes: vec![1],
            keep_dims: false,
        };
        maker.with_edges(reduce, "special", vec![x], 0);
    }
    for dtype in NUMBERS {
        for (variant, shape, k) in [
            ("rows", &[3, 9][..], 4u32),
            ("vector", &[7], 7),
            ("one", &[2, 5], 1),
            ("rank4", &[2, 1, 2, 6], 3),
            ("no_rows", &[0, 5], 2),
        ] {
            if !dtype.is_float() {
                continue;
            }
            let mut v = maker.values(&format!("top_k {dtype} {variant}"));
            maker.add(Op::TopK { k }, variant, vec![v.tensor(dtype, shape)]);
        }
        for (variant, shape, axis) in [
            ("last_axis", &[4, 9][..], 1u32),
            ("first_axis", &[9, 4], 0),
            ("middle", &[2, 6, 3], 1),
            ("vector", &[8], 0),
            ("no_rows", &[0, 5], 1),
        ] {
            let mut v = maker.values(&format!("arg_max {dtype} {variant}"));
            maker.add(Op::ArgMax { axis }, variant, vec![v.tensor(dtype, shape)]);
        }
    }
    let mut v = maker.values("search edges");
    let x = v.tensor(DType::F32, &[2, 6]);
    maker.with_edges(Op::TopK { k: 3 }, "special", vec![x.clone()], 0);
    maker.with_edges(Op::ArgMax { axis: 1 }, "special", vec![x], 0);
}
