//! Products: linear layers, experts, matrices, convolutions, embeddings.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{DType, Op};

use super::Maker;
use crate::cases::tensor;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const BLOCKS: [DType; 8] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

pub(super) fn add(maker: &mut Maker<'_>) {
    linear(maker);
    experts(maker);
    matmul(maker);
    convolutions(maker);
    embedding(maker);
}

fn linear(maker: &mut Maker<'_>) {
    let mut case = |x: DType, w: DType, variant: &str, shape: &[usize], n: usize, bias: bool| {
        let mut v = maker.values(&format!("linear {x} {w} {variant}"));
        let k = *shape.last().expect("a row");
        let mut inputs = vec![v.tensor(x, shape), v.tensor(w, &[n, k])];
        if bias {
            inputs.push(v.tensor(DType::F32, &[n]));
        }
        maker.add(Op::Linear, variant, inputs);
    };
    for w in FLOATS.into_iter().chain(BLOCKS) {
        let k = w.block_len().max(32);
        case(DType::F32, w, "one_row", &[1, 2 * k], 7, false);
        case(DType::F32, w, "rows", &[5, k], 33, false);
        case(DType::F32, w, "bias", &[3, k], 16, true);
        case(DType::F32, w, "vector", &[k], 5, false);
        case(DType::F32, w, "rank4", &[2, 1, 3, k], 4, true);
        case(DType::F32, w, "no_rows", &[0, k], 4, true);
        case(DType::F32, w, "many_rows", &[17, k], 9, false);
        case(DType::F32, w, "long", &[2, 1024], 3, false);
        for x in [DType::F16, DType::BF16] {
            case(x, w, "half_rows", &[4, k], 6, true);
        }
    }
    for w in FLOATS {
        for k in [1, 3, 31, 65] {
            case(DType::F32, w, &format!("odd_k{k}"), &[3, k], 5, true);
        }
        case(DType::F32, w, "nothing_summed", &[2, 0], 3, true);
        case(DType::F32, w, "no_columns", &[2, 8], 0, false);
    }
    case(DType::F32, DType::F32, "wide", &[2, 64], 515, true);
    let mut v = maker.values("linear edges");
    let inputs = vec![
        v.tensor(DType::F32, &[3, 8]),
        v.tensor(DType::F32, &[4, 8]),
        v.tensor(DType::F32, &[4]),
    ];
    maker.with_edges(Op::Linear, "small", inputs, 0);
}

fn experts(maker: &mut Maker<'_>) {
    for w in FLOATS.into_iter().chain(BLOCKS) {
        let k = w.block_len().max(8);
        for (variant, rows) in [("one_row_for_all", 1), ("a_row_for_each", 2)] {
            let mut v = maker.values(&format!("experts {w} {variant}"));
            let inputs = vec![
                v.tensor(DType::F32, &[3, rows, k]),
                v.tensor(w, &[5, 6, k]),
                v.indices(&[3, 2], 5),
            ];
            maker.add(Op::ExpertLinear, variant, inputs);
        }
        let mut v = maker.values(&format!("experts {w} no_tokens"));
        let inputs = vec![
            v.tensor(DType::F32, &[0, 1, k]),
            v.tensor(w, &[2, 3, k]),
            v.indices(&[0, 2], 2),
        ];
        maker.add(Op::ExpertLinear, "no_tokens", inputs);
    }
}

fn matmul(maker: &mut Maker<'_>) {
    let op = |transpose_a, transpose_b| Op::MatMul {
        transpose_a,
        transpose_b,
    };
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        for (variant, lead_a, lead_b) in [
            ("matrices", &[][..], &[][..]),
            ("stacks", &[2, 3], &[2, 3]),
            ("broadcast_b", &[2, 3], &[]),
            ("broadcast_both", &[2, 1], &[1, 3]),
            ("rank8", &[1, 1, 2, 1, 1, 1], &[1, 1, 1, 1, 2, 1]),
        ] {
            let (m, k, n) = (4, 5, 3);
            let a = if ta { [k, m] } else { [m, k] };
            let b = if tb { [n, k] } else { [k, n] };
            for dtype in FLOATS {
                let name = format!(
                    "{variant}_{}{}",
                    if ta { "t" } else { "n" },
                    if tb { "t" } else { "n" }
                );
                let mut v = maker.values(&format!("matmul {dtype} {name}"));
                let inputs = vec![
                    v.tensor(dtype, &[lead_a, &a].concat()),
                    v.tensor(dtype, &[lead_b, &b].concat()),
                ];
                maker.add(op(ta, tb), &name, inputs);
            }
        }
    }
    for (variant, a, b) in [
        ("no_rows", [0, 4], [4, 3]),
        ("nothing_summed", [2, 0], [0, 3]),
        ("no_columns", [2, 4], [4, 0]),
        ("long", [2, 700], [700, 2]),
        ("large", [33, 65], [65, 31]),
    ] {
        let mut v = maker.values(&format!("matmul {variant}"));
        let inputs = vec![v.tensor(DType::F32, &a), v.tensor(DType::F32, &b)];
        maker.add(op(false, false), variant, inputs);
    }
    let mut v = maker.values("matmul edges");
    let inputs = vec![v.tensor(DType::F32, &[3, 4]), v.tensor(DType::F32, &[4, 2])];
    maker.with_edges(op(false, false), "small", inputs, 0);
}

fn convolutions(maker: &mut Maker<'_>) {
    for (variant, stride, padding, dilation, groups, bias) in [
        ("plain", 1, 0, 1, 1, false),
        ("bias", 1, 1, 1, 1, true),
        ("stride", 2, 1, 1, 1, true),
        ("dilation", 1, 2, 2, 1, false),
        ("groups", 1, 1, 1, 2, true),
        ("depthwise", 1, 1, 1, 4, false),
        ("wide_padding", 3, 4, 1, 1, true),
    ] {
        for dtype in FLOATS {
            let mut v = maker.values(&format!("conv {variant} {dtype}"));
            let (channels, out) = (4, 8);
            let mut inputs = vec![
                v.tensor(DType::F32, &[2, channels, 9]),
                v.tensor(dtype, &[out, channels / groups, 3]),
            ];
            let mut plane = vec![
                v.tensor(DType::F32, &[1, channels, 7, 6]),
                v.tensor(dtype, &[out, channels / groups, 3, 2]),
            ];
            if bias {
                inputs.push(v.tensor(DType::F32, &[out]));
                plane.push(v.tensor(DType::F32, &[out]));
            }
            let one = Op::Conv1d {
                stride,
                padding,
                dilation,
                groups: groups as u32,
            };
            maker.add(one, variant, inputs);
            let two = Op::Conv2d {
                stride: [stride, 1],
                padding: [padding, 1],
                dilation: [1, dilation],
                groups: groups as u32,
            };
            maker.add(two, variant, plane);
        }
    }
    let mut v = maker.values("conv edges");
    let inputs = vec![
        v.tensor(DType::F32, &[1, 2, 6]),
        v.tensor(DType::F32, &[3, 2, 2]),
    ];
    let op = Op::Conv1d {
        stride: 1,
        padding: 0,
        dilation: 1,
        groups: 1,
    };
    maker.with_edges(op, "small", inputs, 0);
}

fn embedding(maker: &mut Maker<'_>) {
    for table in FLOATS.into_iter().chain(BLOCKS) {
        let d = table.block_len().max(6);
        for (variant, ids) in [
            ("ids", &[5][..]),
            ("one_id", &[1]),
            ("ids_of_rank2", &[2, 3]),
            ("scalar_id", &[]),
            ("no_ids", &[0]),
        ] {
            let mut v = maker.values(&format!("embedding {table} {variant}"));
            let inputs = vec![v.tensor(table, &[9, d]), v.indices(ids, 9)];
            maker.add(Op::Embedding, variant, inputs);
        }
        let mut v = maker.values(&format!("embedding {table} ends"));
        let ends: Tensor = tensor(&[3], [0, 8, 8]);
        maker.add(
            Op::Embedding,
            "first_and_last",
            vec![v.tensor(table, &[9, d]), ends],
        );
    }
}
