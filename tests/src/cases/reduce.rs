//! Reductions and searches.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{DType, Op, ReduceOp};

use super::{close, exact, tensor};
use crate::Case;

pub(super) fn cases() -> Vec<Case> {
    let reduce = |op, axes: &[u32], keep_dims| Op::Reduce {
        op,
        axes: axes.to_vec(),
        keep_dims,
    };
    let x = || tensor(&[2, 2, 2], [1f32, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0]);
    let nan = || tensor(&[2, 2], [1f32, f32::NAN, 2.0, 3.0]);
    let mut all = Vec::new();
    for (op, over_outer, over_middle, all_of_it) in [
        (
            ReduceOp::Sum,
            [6f32, 4.0, 10.0, -4.0],
            [4f32, 2.0, 12.0, -2.0],
            16f32,
        ),
        (
            ReduceOp::Mean,
            [3.0, 2.0, 5.0, -2.0],
            [2.0, 1.0, 6.0, -1.0],
            2.0,
        ),
        (
            ReduceOp::Max,
            [5.0, 6.0, 7.0, 4.0],
            [3.0, 4.0, 7.0, 6.0],
            7.0,
        ),
        (
            ReduceOp::Min,
            [1.0, -2.0, 3.0, -8.0],
            [1.0, -2.0, 5.0, -8.0],
            -8.0,
        ),
    ] {
        let name = op.name();
        all.extend([
            close(
                format!("reduce_{name}_of_the_outer_axis"),
                reduce(op, &[0], true),
                vec![x()],
                [tensor(&[1, 2, 2], over_outer)],
            ),
            close(
                format!("reduce_{name}_of_the_middle_axis"),
                reduce(op, &[1], false),
                vec![x()],
                [tensor(&[2, 2], over_middle)],
            ),
            close(
                format!("reduce_{name}_of_all_axes"),
                reduce(op, &[0, 1, 2], false),
                vec![x()],
                [Tensor::scalar(all_of_it)],
            ),
            close(
                format!("reduce_{name}_lets_nan_through"),
                reduce(op, &[1], false),
                vec![nan()],
                [tensor(
                    &[2],
                    [
                        f32::NAN,
                        match op {
                            ReduceOp::Sum => 5.0,
                            ReduceOp::Mean => 2.5,
                            ReduceOp::Max => 3.0,
                            _ => 2.0,
                        },
                    ],
                )],
            ),
        ]);
    }
    all.extend([
        exact(
            "reduce_sum_of_nothing_is_zero",
            reduce(ReduceOp::Sum, &[1], false),
            vec![tensor::<f32>(&[2, 0], [])],
            [tensor(&[2], [0f32, 0.0])],
        ),
        exact(
            "reduce_sum_of_integers_wraps",
            reduce(ReduceOp::Sum, &[0], false),
            vec![tensor(&[3], [100i8, 27, 1])],
            [Tensor::scalar(i8::MIN)],
        ),
        exact(
            "reduce_max_of_integers",
            reduce(ReduceOp::Max, &[0], true),
            vec![tensor(&[3], [i64::MIN, i64::MAX, i64::MAX - 1])],
            [tensor(&[1], [i64::MAX])],
        ),
        exact(
            "reduce_min_of_unsigned",
            reduce(ReduceOp::Min, &[0], false),
            vec![tensor(&[2], [200u8, 100])],
            [Tensor::scalar(100u8)],
        ),
        close(
            "reduce_mean_keeps_half_precision",
            reduce(ReduceOp::Mean, &[0], false),
            vec![Tensor::from_f32(DType::F16, [2], vec![60000.0, 60000.0]).expect("floats")],
            [Tensor::from_f32(DType::F16, [], vec![60000.0]).expect("floats")],
        ),
        exact(
            "top_k_orders_ties_by_index_and_nan_first",
            Op::TopK { k: 4 },
            vec![tensor(
                &[2, 5],
                [
                    1f32,
                    3.0,
                    3.0,
                    -1.0,
                    2.0,
                    0.0,
                    f32::NAN,
                    f32::INFINITY,
                    -0.0,
                    -5.0,
                ],
            )],
            [
                tensor(
                    &[2, 4],
                    [3f32, 3.0, 2.0, 1.0, f32::NAN, f32::INFINITY, 0.0, 0.0],
                ),
                tensor(&[2, 4], [1, 2, 4, 0, 1, 2, 0, 3]),
            ],
        ),
        exact(
            "top_k_of_one",
            Op::TopK { k: 1 },
            vec![tensor(&[1], [f32::NEG_INFINITY])],
            [tensor(&[1], [f32::NEG_INFINITY]), tensor(&[1], [0])],
        ),
        exact(
            "top_k_without_rows",
            Op::TopK { k: 1 },
            vec![tensor::<f32>(&[0, 3], [])],
            [tensor::<f32>(&[0, 1], []), tensor::<i32>(&[0, 1], [])],
        ),
        exact(
            "arg_max_of_the_outer_axis",
            Op::ArgMax { axis: 0 },
            vec![tensor(&[3, 2], [1f32, 9.0, 4.0, 9.0, 4.0, f32::NAN])],
            [tensor(&[2], [1, 2])],
        ),
        exact(
            "arg_max_of_integers",
            Op::ArgMax { axis: 1 },
            vec![tensor(&[2, 2], [i64::MAX - 1, i64::MAX, 7, 7])],
            [tensor(&[2], [1, 0])],
        ),
    ]);
    all
}
