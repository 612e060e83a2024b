//! Products, embeddings, norms and convolutions.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{DType, Op};

use super::{close, error, exact, tensor};
use crate::Case;

pub(super) fn cases() -> Vec<Case> {
    let mut all = products();
    all.extend(norms());
    all.extend(convolutions());
    all
}

/// A Q8_0 matrix of one block a row whose codes are `first, first + 1, …`, scaled by 0.5.
fn q8_rows(firsts: &[i8]) -> Tensor {
    let scale = 0x3800u16.to_le_bytes(); // 0.5 as binary16
    let bytes: Vec<u8> = firsts
        .iter()
        .flat_map(|&first| {
            let codes = (0..32).map(move |i| (first + i) as u8);
            scale.into_iter().chain(codes)
        })
        .collect();
    Tensor::from_bytes(DType::Q8_0, [firsts.len(), 32], &bytes).expect("whole blocks")
}

fn products() -> Vec<Case> {
    let matmul = |transpose_a, transpose_b| Op::MatMul {
        transpose_a,
        transpose_b,
    };
    let (a, b) = (
        tensor(&[2, 3], [1f32, 2.0, 3.0, 4.0, 5.0, 6.0]),
        tensor(&[3, 2], [7f32, 8.0, 9.0, 10.0, 11.0, 12.0]),
    );
    let (a_t, b_t) = (
        tensor(&[3, 2], [1f32, 4.0, 2.0, 5.0, 3.0, 6.0]),
        tensor(&[2, 3], [7f32, 9.0, 11.0, 8.0, 10.0, 12.0]),
    );
    let product = tensor(&[2, 2], [58f32, 64.0, 139.0, 154.0]);
    let ones: Vec<f32> = vec![1.0; 64];
    let ids = |ids: &[i32]| tensor(&[ids.len()], ids);
    let table = tensor(&[3, 2], [0f32, 1.0, 10.0, 11.0, 20.0, 21.0]);
    // Codes −2..=29 and 0..=31 sum to 432 and 496.
    let quantised = || q8_rows(&[-2, 0]);
    let mut all = vec![
        exact(
            "linear_with_bias",
            Op::Linear,
            vec![a.clone(), b_t.clone(), tensor(&[2], [100f32, -100.0])],
            [tensor(&[2, 2], [158f32, -36.0, 239.0, 54.0])],
        ),
        exact(
            "linear_of_a_vector",
            Op::Linear,
            vec![tensor(&[3], [1f32, 2.0, 3.0]), b_t.clone()],
            [tensor(&[2], [58f32, 64.0])],
        ),
        exact(
            "linear_without_tokens",
            Op::Linear,
            vec![tensor::<f32>(&[0, 3], []), b_t.clone()],
            [tensor::<f32>(&[0, 2], [])],
        ),
        exact(
            "linear_of_nothing_is_the_bias",
            Op::Linear,
            vec![
                tensor::<f32>(&[2, 0], []),
                tensor::<f32>(&[1, 0], []),
                tensor(&[1], [3f32]),
            ],
            [tensor(&[2, 1], [3f32, 3.0])],
        ),
        exact(
            "linear_of_a_quantised_matrix",
            Op::Linear,
            vec![tensor(&[2, 32], &ones[..]), quantised()],
            [tensor(&[2, 2], [216f32, 248.0, 216.0, 248.0])],
        ),
        exact(
            "expert_linear_of_one_row_for_all",
            Op::ExpertLinear,
            vec![
                tensor(&[2, 1, 2], [1f32, 2.0, 3.0, 4.0]),
                tensor(&[3, 1, 2], [1f32, 0.0, 0.0, 1.0, 1.0, 1.0]),
                tensor(&[2, 2], [2, 0, 1, 1]),
            ],
            [tensor(&[2, 2, 1], [3f32, 1.0, 4.0, 4.0])],
        ),
        exact(
            "expert_linear_of_a_row_for_each",
            Op::ExpertLinear,
            vec![
                tensor(&[1, 2, 2], [1f32, 2.0, 3.0, 4.0]),
                tensor(&[2, 2, 2], [1f32, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, -1.0]),
                tensor(&[1, 2], [1, 0]),
            ],
            [tensor(&[1, 2, 2], [3f32, -1.0, 3.0, 4.0])],
        ),
        exact(
            "linear_of_half_precision",
            Op::Linear,
            vec![
                Tensor::from_f32(DType::F16, [1, 2], vec![1.5, 2.0]).expect("floats"),
                Tensor::from_f32(DType::BF16, [1, 2], vec![4.0, 0.5]).expect("floats"),
            ],
            [tensor(&[1, 1], [7f32])],
        ),
        exact(
            "matmul_broadcasts_leading_dimensions",
            matmul(false, false),
            vec![
                tensor(&[2, 1, 1, 2], [1f32, 2.0, 3.0, 4.0]),
                tensor(&[2, 2, 1], [1f32, 10.0, 100.0, 1000.0]),
            ],
            [tensor(&[2, 2, 1, 1], [21f32, 2100.0, 43.0, 4300.0])],
        ),
        exact(
            "matmul_of_nothing_is_zero",
            matmul(false, false),
            vec![tensor::<f32>(&[2, 0], []), tensor::<f32>(&[0, 1], [])],
            [tensor(&[2, 1], [0f32, 0.0])],
        ),
        exact(
            "embedding_takes_rows_in_any_order",
            Op::Embedding,
            vec![table.clone(), tensor(&[2, 2], [2, 0, 1, 2])],
            [tensor(
                &[2, 2, 2],
                [20f32, 21.0, 0.0, 1.0, 10.0, 11.0, 20.0, 21.0],
            )],
        ),
        exact(
            "embedding_without_ids",
            Op::Embedding,
            vec![table.clone(), ids(&[])],
            [tensor::<f32>(&[0, 2], [])],
        ),
        exact(
            "embedding_of_a_quantised_table",
            Op::Embedding,
            vec![quantised(), ids(&[1])],
            [tensor(
                &[1, 32],
                (0..32).map(|i| i as f32 * 0.5).collect::<Vec<_>>(),
            )],
        ),
        error(
            "embedding_refuses_an_id_past_the_table",
            Op::Embedding,
            vec![table.clone(), ids(&[0, 3])],
            "element 1 of ids is 3",
        ),
        error(
            "embedding_refuses_a_negative_id",
            Op::Embedding,
            vec![table, ids(&[-1])],
            "element 0 of ids is -1",
        ),
    ];
    for (ta, a) in [(false, &a), (true, &a_t)] {
        for (tb, b) in [(false, &b), (true, &b_t)] {
            all.push(exact(
                format!("matmul_{ta}_{tb}"),
                matmul(ta, tb),
                vec![a.clone(), b.clone()],
                [product.clone()],
            ));
        }
    }
    all
}

fn norms() -> Vec<Case> {
    let x = tensor(&[2, 2], [3f32, 4.0, 0.0, 0.0]);
    let weight = tensor(&[2], [1f32, 2.0]);
    // mean(x²) is 12.5 and 0.
    let rms = 12.5f32.sqrt();
    vec![
        close(
            "rms_norm",
            Op::RmsNorm { eps: 0.0 },
            vec![tensor(&[1, 2], [3f32, 4.0]), weight.clone()],
            [tensor(&[1, 2], [3.0 / rms, 8.0 / rms])],
        ),
        close(
            "rms_norm_adds_eps_to_the_mean_square",
            Op::RmsNorm { eps: 12.5 },
            vec![x.clone(), weight.clone()],
            [tensor(&[2, 2], [0.6f32, 1.6, 0.0, 0.0])],
        ),
        close(
            "rms_norm_without_rows",
            Op::RmsNorm { eps: 1e-5 },
            vec![tensor::<f32>(&[0, 2], []), weight.clone()],
            [tensor::<f32>(&[0, 2], [])],
        ),
        close(
            "layer_norm",
            Op::LayerNorm { eps: 0.0 },
            vec![
                tensor(&[1, 2], [3f32, 5.0]),
                weight.clone(),
                tensor(&[2], [10f32, 20.0]),
            ],
            [tensor(&[1, 2], [9f32, 22.0])],
        ),
        close(
            "layer_norm_without_beta_takes_the_biased_variance",
            Op::LayerNorm { eps: 1.0 },
            vec![x, weight],
            // Means 3.5 and 0, variances 0.25 and 0.
            [tensor(
                &[2, 2],
                [-0.5 / 1.25f32.sqrt(), 1.0 / 1.25f32.sqrt(), 0.0, 0.0],
            )],
        ),
        close(
            "layer_norm_of_a_large_offset_keeps_precision",
            Op::LayerNorm { eps: 0.0 },
            vec![
                tensor(&[4], [4096f32, 4097.0, 4098.0, 4099.0]),
                tensor(&[4], [1f32; 4]),
            ],
            [tensor(
                &[4],
                [-1.5f32, -0.5, 0.5, 1.5].map(|x| x / 1.25f32.sqrt()),
            )],
        ),
        close(
            "softmax_of_the_middle_axis",
            Op::Softmax { axis: 1 },
            vec![tensor(&[1, 2, 2], [0f32, 1.0, 3f32.ln(), 1.0 + 9f32.ln()])],
            [tensor(&[1, 2, 2], [0.25f32, 0.1, 0.75, 0.9])],
        ),
        close(
            "softmax_of_large_numbers",
            Op::Softmax { axis: 0 },
            vec![tensor(&[3], [1000f32, 1000.0, f32::NEG_INFINITY])],
            [tensor(&[3], [0.5f32, 0.5, 0.0])],
        ),
        close(
            "softmax_of_one_element",
            Op::Softmax { axis: 0 },
            vec![tensor(&[1], [-7f32])],
            [tensor(&[1], [1f32])],
        ),
        close(
            "softmax_without_rows",
            Op::Softmax { axis: 1 },
            vec![tensor::<f32>(&[0, 2], [])],
            [tensor::<f32>(&[0, 2], [])],
        ),
    ]
}

fn convolutions() -> Vec<Case> {
    let conv1d = |stride, padding, dilation, groups| Op::Conv1d {
        stride,
        padding,
        dilation,
        groups,
    };
    let x = tensor(&[1, 2, 4], [1f32, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]);
    vec![
        exact(
            "conv1d_sums_channels_and_taps",
            conv1d(1, 0, 1, 1),
            vec![
                x.clone(),
                tensor(&[1, 2, 2], [1f32, -1.0, 1.0, 0.0]),
                tensor(&[1], [0.5f32]),
            ],
            [tensor(&[1, 1, 3], [9.5f32, 19.5, 29.5])],
        ),
        exact(
            "conv1d_pads_with_zeros_and_strides",
            conv1d(2, 1, 1, 2),
            vec![
                x.clone(),
                tensor(&[2, 1, 3], [1f32, 1.0, 1.0, 1.0, 2.0, 3.0]),
            ],
            // Windows start at −1 and 1.
            [tensor(&[1, 2, 2], [3f32, 9.0, 80.0, 200.0])],
        ),
        exact(
            "conv1d_dilates",
            conv1d(1, 0, 3, 2),
            vec![x, tensor(&[2, 1, 2], [1f32, 10.0, 1.0, -1.0])],
            [tensor(&[1, 2, 1], [41f32, -30.0])],
        ),
        exact(
            "conv2d_strides_each_axis_by_its_own",
            Op::Conv2d {
                stride: [1, 2],
                padding: [1, 0],
                dilation: [1, 1],
                groups: 1,
            },
            vec![
                tensor(&[1, 1, 2, 4], [1f32, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]),
                tensor(&[1, 1, 2, 2], [1000f32, 100.0, 1.0, 2.0]),
                tensor(&[1], [0f32]),
            ],
            [tensor(
                &[1, 1, 3, 2],
                [5f32, 11.0, 1250.0, 3510.0, 12000.0, 34000.0],
            )],
        ),
        exact(
            "conv2d_of_two_batches_and_groups",
            Op::Conv2d {
                stride: [1, 1],
                padding: [0, 0],
                dilation: [1, 1],
                groups: 2,
            },
            vec![
                tensor(&[2, 2, 1, 1], [1f32, 2.0, 3.0, 4.0]),
                tensor(&[4, 1, 1, 1], [1f32, 10.0, 100.0, 1000.0]),
            ],
            [tensor(
                &[2, 4, 1, 1],
                [1f32, 10.0, 200.0, 2000.0, 3.0, 30.0, 400.0, 4000.0],
            )],
        ),
    ]
}
