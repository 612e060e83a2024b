//! Ops on rows: norms, softmax, rotation, attention, masks.

use anynpu_ir::{AttentionKv, DType, Dim, Op, RopeScaling, RopeStyle};

use super::Maker;
use crate::cases::tensor;
use crate::conformance::values::float_tensor;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

const SHAPES: [(&str, &[usize]); 7] = [
    ("vector", &[16]),
    ("one_element", &[3, 1]),
    ("rows", &[5, 24]),
    ("odd", &[2, 37]),
    ("wide", &[2, 600]),
    ("rank5", &[2, 1, 2, 1, 8]),
    ("empty", &[0, 8]),
];

pub(super) fn add(maker: &mut Maker<'_>) {
    norms(maker);
    softmax(maker);
    rope(maker);
    attention(maker);
    masks(maker);
}

fn norms(maker: &mut Maker<'_>) {
    for dtype in FLOATS {
        for (variant, shape) in SHAPES {
            let d = *shape.last().expect("a row");
            let mut v = maker.values(&format!("norm {dtype} {variant}"));
            let (x, gain) = (v.tensor(dtype, shape), v.tensor(dtype, &[d]));
            let beta = v.tensor(DType::F32, &[d]);
            let eps = 1e-3;
            maker.add(Op::RmsNorm { eps }, variant, vec![x.clone(), gain.clone()]);
            maker.add(
                Op::LayerNorm { eps },
                variant,
                vec![x.clone(), gain.clone()],
            );
            maker.add(
                Op::LayerNorm { eps },
                &format!("{variant}_beta"),
                vec![x, gain, beta],
            );
        }
    }
    // rows so small that epsilon decides
    for (eps, variant) in [
        (1e-5, "edge_eps_small"),
        (1e-2, "edge_eps_large"),
        (1.0, "edge_eps_one"),
    ] {
        let mut v = maker.values("norm eps");
        let x = v.floats(48).iter().map(|x| x / 1024.0).collect();
        let inputs = vec![
            float_tensor(DType::F32, &[3, 16], x),
            v.tensor(DType::F32, &[16]),
        ];
        maker.add(Op::RmsNorm { eps }, variant, inputs.clone());
        maker.add(Op::LayerNorm { eps }, variant, inputs);
    }
    let mut v = maker.values("norm edges");
    let inputs = [v.tensor(DType::F32, &[3, 8]), v.tensor(DType::F32, &[8])];
    for (name, value) in [("edge_nan", f32::NAN), ("edge_zero", 0.0)] {
        let mut x = inputs[0].to_f32().unwrap_or_default();
        match value.is_nan() {
            true => x[1] = value,
            false => x.fill(value),
        }
        let edged = vec![float_tensor(DType::F32, &[3, 8], x), inputs[1].clone()];
        maker.add(Op::RmsNorm { eps: 1e-5 }, name, edged.clone());
        maker.add(Op::LayerNorm { eps: 1e-5 }, name, edged);
    }
}

fn softmax(maker: &mut Maker<'_>) {
    for dtype in FLOATS {
        for (variant, shape) in SHAPES {
            for axis in 0..shape.len() as u32 {
                if shape[axis as usize] == 0 || (maker.quick() && axis + 1 < shape.len() as u32) {
                    continue;
                }
                let mut v = maker.values(&format!("softmax {dtype} {variant}"));
                let x = v.tensor(dtype, shape);
                maker.add(
                    Op::Softmax { axis },
                    &format!("{variant}_axis{axis}"),
                    vec![x],
                );
            }
        }
    }
    let inf = f32::INFINITY;
    for (variant, row) in [
        ("edge_masked", [0.5, -inf, 1.0, -inf]),
        ("edge_nan", [0.5, f32::NAN, 1.0, 2.0]),
        ("edge_large", [6e4, 6e4, 5.9e4, -6e4]),
        ("edge_far_apart", [0.0, -200.0, -100.0, -50.0]),
    ] {
        maker.add(Op::Softmax { axis: 1 }, variant, vec![tensor(&[1, 4], row)]);
    }
}

fn rope(maker: &mut Maker<'_>) {
    let scalings = [
        ("plain", RopeScaling::None),
        ("linear", RopeScaling::Linear { factor: 4.0 }),
        (
            "yarn",
            RopeScaling::Yarn {
                factor: 4.0,
                original_context: 64,
                ext_factor: 1.0,
                attn_factor: 1.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
            },
        ),
        (
            "llama3",
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            },
        ),
    ];
    for style in [RopeStyle::Interleaved, RopeStyle::HalfSplit] {
        for (scaled, scaling) in scalings {
            for (part, dims) in [("", 8), ("_partial", 4)] {
                let op = Op::Rope {
                    style,
                    dims,
                    base: 10000.0,
                    scaling,
                };
                for dtype in FLOATS {
                    let variant = format!("{}_{scaled}{part}", style.name());
                    let mut v = maker.values(&format!("rope {dtype} {variant}"));
                    let x = v.tensor(dtype, &[4, 3, 8]);
                    let positions = tensor(&[4], [0, 1, 7, 100]);
                    maker.add(op.clone(), &variant, vec![x.clone(), positions.clone()]);
                    if dtype == DType::F32 {
                        let factors = (0..dims / 2).map(|i| 1.0 + 0.5 * i as f32);
                        let factors = tensor(&[dims as usize / 2], factors.collect::<Vec<_>>());
                        let inputs = vec![x, positions, factors];
                        maker.add(op.clone(), &format!("{variant}_factors"), inputs);
                    }
                }
            }
        }
        let op = Op::Rope {
            style,
            dims: 2,
            base: 500_000.0,
            scaling: RopeScaling::None,
        };
        let mut v = maker.values("rope smallest");
        let inputs = vec![v.tensor(DType::F32, &[1, 1, 2]), tensor(&[1], [3])];
        maker.add(op.clone(), &format!("{}_smallest", style.name()), inputs);
        let none = vec![v.tensor(DType::F32, &[0, 2, 2]), tensor::<i32>(&[0], [])];
        maker.add(op, &format!("{}_no_tokens", style.name()), none);
    }
}

fn attention(maker: &mut Maker<'_>) {
    struct Form {
        variant: &'static str,
        heads: usize,
        kv_heads: usize,
        dims: [usize; 2],
        causal: bool,
        mask: bool,
        soft_cap: Option<f32>,
        window: Option<u32>,
    }
    let plain = |variant| Form {
        variant,
        heads: 4,
        kv_heads: 4,
        dims: [8, 8],
        causal: false,
        mask: false,
        soft_cap: None,
        window: None,
    };
    let forms = [
        plain("all_keys"),
        Form {
            causal: true,
            ..plain("causal")
        },
        Form {
            kv_heads: 2,
            causal: true,
            ..plain("grouped")
        },
        Form {
            kv_heads: 1,
            ..plain("one_kv_head")
        },
        Form {
            mask: true,
            ..plain("mask")
        },
        Form {
            causal: true,
            mask: true,
            ..plain("causal_mask")
        },
        Form {
            soft_cap: Some(2.0),
            ..plain("soft_cap")
        },
        Form {
            causal: true,
            window: Some(3),
            ..plain("window")
        },
        Form {
            causal: true,
            window: Some(1),
            ..plain("window_of_one")
        },
        Form {
            dims: [6, 10],
            ..plain("wider_values")
        },
        Form {
            heads: 1,
            kv_heads: 1,
            dims: [1, 1],
            ..plain("smallest")
        },
        Form {
            heads: 6,
            kv_heads: 3,
            dims: [64, 64],
            causal: true,
            ..plain("wide_heads")
        },
    ];
    for form in forms {
        for dtype in FLOATS {
            for (rows, tokens, keys) in [("", 3, 7), ("_one_query", 1, 9), ("_many", 12, 12)] {
                let name = format!("{}{rows}", form.variant);
                let mut v = maker.values(&format!("attention {dtype} {name}"));
                let [d, dv] = form.dims;
                let mut inputs = vec![
                    v.tensor(dtype, &[tokens, form.heads, d]),
                    v.tensor(dtype, &[keys, form.kv_heads, d]),
                    v.tensor(dtype, &[keys, form.kv_heads, dv]),
                ];
                if form.causal {
                    let last = (0..tokens).map(|t| (keys - tokens + t) as i32);
                    inputs.push(tensor(&[tokens], last.collect::<Vec<_>>()));
                }
                if form.mask {
                    // never all hidden: the first key is seen
                    let mask = (0..tokens * keys).map(|i| match i % keys {
                        0 => 0.0,
                        k if k % 3 == 2 => f32::NEG_INFINITY,
                        _ => v.grid(),
                    });
                    inputs.push(tensor(&[tokens, keys], mask.collect::<Vec<_>>()));
                }
                let op = Op::Attention {
                    kv: AttentionKv::Operands,
                    causal: form.causal,
                    mask: form.mask,
                    scale: 0.25,
                    soft_cap: form.soft_cap,
                    window: form.window,
                };
                maker.add(op, &name, inputs);
            }
        }
    }
}

fn masks(maker: &mut Maker<'_>) {
    for (variant, keys, window, positions) in [
        ("causal", 6, None, &[0, 3, 5][..]),
        ("window", 6, Some(2), &[0, 3, 5]),
        ("one_key", 1, None, &[0]),
        ("no_tokens", 4, None, &[]),
    ] {
        let op = Op::CausalMask {
            keys: Dim::Fixed(keys),
            window,
            hidden: -16384.0,
        };
        maker.add(op, variant, vec![tensor(&[positions.len()], positions)]);
    }
}
