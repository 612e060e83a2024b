//! Ops that move elements.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{DType, Dim, Op, Shape};

use super::{error, exact, tensor};
use crate::Case;

pub(super) fn cases() -> Vec<Case> {
    let mut all = moves();
    all.extend(indexed());
    all
}

/// `0, 1, …` as I32.
fn counted(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    tensor(shape, (0..n as i32).collect::<Vec<_>>())
}

fn moves() -> Vec<Case> {
    let half = |shape: &[usize], values: &[f32]| {
        Tensor::from_f32(DType::F16, shape, values.to_vec()).expect("floats")
    };
    vec![
        exact(
            "reshape",
            Op::Reshape {
                shape: Shape::fixed(&[3, 1, 2]),
            },
            vec![counted(&[2, 3])],
            [counted(&[3, 1, 2])],
        ),
        exact(
            "reshape_to_a_scalar",
            Op::Reshape {
                shape: Shape::fixed(&[]),
            },
            vec![tensor(&[1, 1], [7i8])],
            [Tensor::scalar(7i8)],
        ),
        exact(
            "transpose_of_three_axes",
            Op::Transpose {
                perm: vec![2, 0, 1],
            },
            vec![counted(&[2, 3, 2])],
            [tensor(&[2, 2, 3], [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11])],
        ),
        exact(
            "transpose_moves_half_precision_as_it_is",
            Op::Transpose { perm: vec![1, 0] },
            vec![half(&[2, 2], &[1.0, 2.0, f32::NAN, 4.0])],
            [half(&[2, 2], &[1.0, f32::NAN, 2.0, 4.0])],
        ),
        exact(
            "transpose_without_elements",
            Op::Transpose { perm: vec![1, 0] },
            vec![tensor::<f32>(&[0, 2], [])],
            [tensor::<f32>(&[2, 0], [])],
        ),
        exact(
            "broadcast_adds_and_stretches_axes",
            Op::Broadcast {
                shape: Shape::fixed(&[2, 2, 3]),
            },
            vec![tensor(&[2, 1], [5u8, 6])],
            [tensor(&[2, 2, 3], [5u8, 5, 5, 6, 6, 6, 5, 5, 5, 6, 6, 6])],
        ),
        exact(
            "broadcast_to_nothing",
            Op::Broadcast {
                shape: Shape::fixed(&[0, 2]),
            },
            vec![tensor(&[1, 2], [1u8, 2])],
            [tensor::<u8>(&[0, 2], [])],
        ),
        exact(
            "slice_with_a_step",
            Op::Slice {
                axis: 1,
                start: 1,
                end: 5,
                step: 2,
            },
            vec![counted(&[2, 5])],
            [tensor(&[2, 2], [1, 3, 6, 8])],
        ),
        exact(
            "slice_of_nothing",
            Op::Slice {
                axis: 0,
                start: 2,
                end: 2,
                step: 1,
            },
            vec![counted(&[2, 1])],
            [tensor::<i32>(&[0, 1], [])],
        ),
        exact(
            "concat_of_the_middle_axis",
            Op::Concat { axis: 1 },
            vec![
                tensor(&[2, 1, 2], [0, 1, 6, 7]),
                tensor(&[2, 2, 2], [2, 3, 4, 5, 8, 9, 10, 11]),
                tensor::<i32>(&[2, 0, 2], []),
            ],
            [counted(&[2, 3, 2])],
        ),
        exact(
            "concat_of_one_operand",
            Op::Concat { axis: 0 },
            vec![tensor(&[2], [true, false])],
            [tensor(&[2], [true, false])],
        ),
        exact(
            "split_into_unequal_parts",
            Op::Split {
                axis: 1,
                sizes: vec![1, 0, 2],
            },
            vec![counted(&[2, 3])],
            [
                tensor(&[2, 1], [0, 3]),
                tensor::<i32>(&[2, 0], []),
                tensor(&[2, 2], [1, 2, 4, 5]),
            ],
        ),
        exact(
            "iota",
            Op::Iota {
                start: Dim::Fixed(7),
                length: Dim::Fixed(3),
            },
            vec![],
            [tensor(&[3], [7, 8, 9])],
        ),
        exact(
            "iota_of_nothing",
            Op::Iota {
                start: Dim::Fixed(7),
                length: Dim::Fixed(0),
            },
            vec![],
            [tensor::<i32>(&[0], [])],
        ),
    ]
}

fn indexed() -> Vec<Case> {
    let gather = |axis| Op::Gather { axis };
    let scatter = |axis| Op::Scatter { axis };
    vec![
        exact(
            "gather_of_the_last_axis_by_a_matrix",
            gather(1),
            vec![counted(&[2, 3]), tensor(&[2, 2], [2i64, 0, 1, 1])],
            [tensor(&[2, 2, 2], [2, 0, 1, 1, 5, 3, 4, 4])],
        ),
        exact(
            "gather_by_a_scalar_drops_the_axis",
            gather(0),
            vec![counted(&[2, 3]), Tensor::scalar(1i32)],
            [tensor(&[3], [3, 4, 5])],
        ),
        exact(
            "gather_of_no_rows",
            gather(0),
            vec![counted(&[2, 3]), tensor::<i32>(&[0], [])],
            [tensor::<i32>(&[0, 3], [])],
        ),
        exact(
            "gather_of_quantised_rows",
            gather(0),
            vec![
                Tensor::from_bytes(
                    DType::Q8_0,
                    [2, 32],
                    &[&[0x00, 0x3c][..], &[1; 32], &[0x00, 0x40], &[255; 32]].concat(),
                )
                .expect("two blocks"),
                tensor(&[1], [1i32]),
            ],
            [tensor(&[1, 32], [-2f32; 32])],
        ),
        error(
            "gather_refuses_a_negative_index",
            gather(1),
            vec![counted(&[1, 2]), tensor(&[2], [0i32, -2])],
            "element 1 of indices is -2, must be 0 to below 2",
        ),
        exact(
            "scatter_lets_later_duplicates_win",
            scatter(0),
            vec![
                counted(&[3, 2]),
                tensor(&[3], [2i64, 0, 2]),
                tensor(&[3, 2], [10, 11, 20, 21, 30, 31]),
            ],
            [tensor(&[3, 2], [20, 21, 2, 3, 30, 31])],
        ),
        exact(
            "scatter_along_the_last_axis",
            scatter(1),
            vec![
                tensor(&[2, 3], [0u8, 1, 2, 3, 4, 5]),
                tensor(&[1], [1i32]),
                tensor(&[2, 1], [8u8, 9]),
            ],
            [tensor(&[2, 3], [0u8, 8, 2, 3, 9, 5])],
        ),
        exact(
            "scatter_of_nothing",
            scatter(0),
            vec![
                counted(&[2]),
                tensor::<i32>(&[0], []),
                tensor::<i32>(&[0], []),
            ],
            [counted(&[2])],
        ),
        error(
            "scatter_names_an_index_out_of_range",
            scatter(0),
            vec![counted(&[2]), tensor(&[1], [2i64]), tensor(&[1], [0i32])],
            "element 0 of indices is 2, must be 0 to below 2",
        ),
    ]
}
