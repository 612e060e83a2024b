//! Ops that move elements.

use anynpu_ir::{DType, Dim, Op, Shape};

use super::Maker;
use crate::cases::tensor;

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

pub(super) fn add(maker: &mut Maker<'_>) {
    for dtype in PLAIN {
        reshapes(maker, dtype);
        cuts(maker, dtype);
        gathers(maker, dtype);
    }
    blocks(maker);
    iota(maker);
}

fn reshapes(maker: &mut Maker<'_>, dtype: DType) {
    for (variant, from, to) in [
        ("flatten", &[2, 3, 4][..], &[24u32][..]),
        ("split_axis", &[24], &[2, 3, 4]),
        ("scalar", &[1, 1], &[]),
        ("rank8", &[16], &[1, 2, 1, 2, 1, 2, 1, 2]),
        ("empty", &[0, 3], &[3, 0, 2]),
    ] {
        let x = maker
            .values(&format!("reshape {dtype} {variant}"))
            .tensor(dtype, from);
        let shape = Shape::fixed(to);
        maker.add(Op::Reshape { shape }, variant, vec![x]);
    }
    for (variant, shape, perm) in [
        ("matrix", &[3, 5][..], &[1u32, 0][..]),
        ("identity", &[3, 5], &[0, 1]),
        ("heads", &[4, 3, 2], &[1, 0, 2]),
        ("last_two", &[2, 3, 4], &[0, 2, 1]),
        ("rotate", &[2, 3, 4], &[2, 0, 1]),
        ("reverse4", &[2, 3, 1, 4], &[3, 2, 1, 0]),
        (
            "rank8",
            &[1, 2, 1, 2, 3, 1, 2, 1],
            &[7, 4, 1, 6, 0, 3, 2, 5],
        ),
        ("empty", &[2, 0, 3], &[2, 1, 0]),
    ] {
        let x = maker
            .values(&format!("transpose {dtype} {variant}"))
            .tensor(dtype, shape);
        let perm = perm.to_vec();
        maker.add(Op::Transpose { perm }, variant, vec![x]);
    }
    for (variant, from, to) in [
        ("scalar", &[][..], &[2u32, 3][..]),
        ("row", &[4], &[3, 4]),
        ("column", &[3, 1], &[3, 4]),
        ("both", &[1, 3, 1], &[2, 3, 4]),
        ("same", &[2, 3], &[2, 3]),
        ("empty", &[1, 3], &[0, 3]),
    ] {
        let x = maker
            .values(&format!("broadcast {dtype} {variant}"))
            .tensor(dtype, from);
        let shape = Shape::fixed(to);
        maker.add(Op::Broadcast { shape }, variant, vec![x]);
    }
}

fn cuts(maker: &mut Maker<'_>, dtype: DType) {
    for (variant, shape, axis, [start, end, step]) in [
        ("first_axis", &[6, 4][..], 0, [1, 4, 1]),
        ("last_axis", &[3, 9], 1, [2, 9, 1]),
        ("middle", &[2, 7, 3], 1, [3, 6, 1]),
        ("step", &[2, 9], 1, [1, 9, 3]),
        ("step_past_end", &[10], 0, [0, 10, 7]),
        ("all", &[4], 0, [0, 4, 1]),
        ("one", &[5, 2], 0, [4, 5, 1]),
        ("nothing", &[5, 2], 0, [3, 3, 1]),
    ] {
        let x = maker
            .values(&format!("slice {dtype} {variant}"))
            .tensor(dtype, shape);
        let op = Op::Slice {
            axis,
            start,
            end,
            step,
        };
        maker.add(op, variant, vec![x]);
    }
    for (variant, shapes, axis) in [
        ("first_axis", &[&[2, 3][..], &[1, 3], &[4, 3]][..], 0),
        ("last_axis", &[&[2, 3], &[2, 5]], 1),
        ("middle", &[&[2, 1, 3], &[2, 4, 3]], 1),
        ("one_part", &[&[2, 2]], 0),
        ("empty_part", &[&[2, 0], &[2, 3], &[2, 0]], 1),
    ] {
        let mut v = maker.values(&format!("concat {dtype} {variant}"));
        let parts = shapes.iter().map(|shape| v.tensor(dtype, shape)).collect();
        maker.add(Op::Concat { axis }, variant, parts);
    }
    for (variant, shape, axis, sizes) in [
        ("first_axis", &[6, 2][..], 0, &[1u32, 2, 3][..]),
        ("last_axis", &[2, 8], 1, &[4, 4]),
        ("middle", &[2, 5, 3], 1, &[2, 3]),
        ("one_part", &[3, 2], 0, &[3]),
        ("empty_part", &[2, 3], 1, &[0, 3]),
    ] {
        let x = maker
            .values(&format!("split {dtype} {variant}"))
            .tensor(dtype, shape);
        let sizes = sizes.to_vec();
        maker.add(Op::Split { axis, sizes }, variant, vec![x]);
    }
}

fn gathers(maker: &mut Maker<'_>, dtype: DType) {
    for (variant, shape, axis, indices) in [
        ("first_axis", &[5, 3][..], 0u32, &[4][..]),
        ("last_axis", &[2, 6], 1, &[3]),
        ("middle", &[2, 4, 3], 1, &[2, 2]),
        ("scalar_index", &[4, 2], 0, &[]),
        ("no_indices", &[4, 2], 0, &[0]),
    ] {
        let mut v = maker.values(&format!("gather {dtype} {variant}"));
        let rows = shape[axis as usize];
        let inputs = vec![v.tensor(dtype, shape), v.indices(indices, rows)];
        maker.add(Op::Gather { axis }, variant, inputs);
    }
    for (variant, shape, axis, n) in [
        ("first_axis", &[5, 3][..], 0u32, 3),
        ("last_axis", &[2, 6], 1, 2),
        ("middle", &[2, 4, 3], 1, 5),
        ("no_indices", &[4, 2], 0, 0),
    ] {
        let mut v = maker.values(&format!("scatter {dtype} {variant}"));
        let rows = shape[axis as usize];
        let mut updates = shape.to_vec();
        updates[axis as usize] = n;
        let inputs = vec![
            v.tensor(dtype, shape),
            v.indices(&[n], rows),
            v.tensor(dtype, &updates),
        ];
        maker.add(Op::Scatter { axis }, variant, inputs);
    }
    let mut v = maker.values(&format!("scatter {dtype} duplicates"));
    let inputs = vec![
        v.tensor(dtype, &[4, 2]),
        tensor(&[3], [2, 2, 2]),
        v.tensor(dtype, &[3, 2]),
    ];
    maker.add(Op::Scatter { axis: 0 }, "edge_last_duplicate_wins", inputs);
    let inputs = vec![v.tensor(dtype, &[4, 2]), tensor(&[2], [0i64, 3])];
    maker.add(Op::Gather { axis: 0 }, "i64_indices", inputs);
}

fn blocks(maker: &mut Maker<'_>) {
    for dtype in [
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
    ] {
        let mut v = maker.values(&format!("gather {dtype}"));
        let inputs = vec![v.tensor(dtype, &[6, dtype.block_len()]), v.indices(&[4], 6)];
        maker.add(Op::Gather { axis: 0 }, "rows", inputs);
    }
}

fn iota(maker: &mut Maker<'_>) {
    for (variant, start, length) in [
        ("counts", 0, 9),
        ("from", 5, 4),
        ("one", 7, 1),
        ("none", 3, 0),
    ] {
        let op = Op::Iota {
            start: Dim::Fixed(start),
            length: Dim::Fixed(length),
        };
        maker.add(op, variant, Vec::new());
    }
}
