//! Proptest strategies over ops and types, shared by this crate's tests.

use proptest::prelude::*;
use proptest::sample::select;

use crate::*;

/// A number that is often small, as sizes and axes are, and sometimes at an edge.
pub(crate) fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => 0u32..5,
        2 => select(vec![6, 8, 32, 64, 256, 1 << 16]),
        1 => select(vec![i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX]),
    ]
}

/// A number, usually a sensible one.
pub(crate) fn real() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => select(vec![1e-5f32, 0.125, 1.0, 2.0, 8.0, 10000.0, 500000.0]),
        2 => -4.0f32..4.0,
        1 => any::<f32>(),
    ]
}

pub(crate) fn dim() -> impl Strategy<Value = Dim> {
    prop_oneof![
        4 => number().prop_map(Dim::Fixed),
        2 => (0u16..4).prop_map(|s| Dim::Sym(Symbol(s))),
        1 => any::<u16>().prop_map(|s| Dim::Sym(Symbol(s))),
    ]
}

pub(crate) fn shape() -> BoxedStrategy<Shape> {
    prop_oneof![
        12 => prop::collection::vec(dim(), 0..5),
        1 => prop::collection::vec(dim(), 5..12),
    ]
    .prop_map(Shape)
    .boxed()
}

pub(crate) fn dtype() -> impl Strategy<Value = DType> {
    prop_oneof![
        4 => Just(DType::F32),
        1 => Just(DType::I32),
        2 => select(DType::ALL.to_vec()),
    ]
}

pub(crate) fn tensor_type() -> BoxedStrategy<TensorType> {
    (dtype(), shape())
        .prop_map(|(dtype, shape)| TensorType { dtype, shape })
        .boxed()
}

fn scaling() -> BoxedStrategy<RopeScaling> {
    prop_oneof![
        Just(RopeScaling::None),
        real().prop_map(|factor| RopeScaling::Linear { factor }),
        (real(), number(), real(), real(), real(), real()).prop_map(
            |(factor, original_context, ext_factor, attn_factor, beta_fast, beta_slow)| {
                RopeScaling::Yarn {
                    factor,
                    original_context,
                    ext_factor,
                    attn_factor,
                    beta_fast,
                    beta_slow,
                }
            }
        ),
        (real(), real(), real(), number()).prop_map(
            |(factor, low_freq_factor, high_freq_factor, original_context)| RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            }
        ),
    ]
    .boxed()
}

/// Any op with any attributes, fitting or not.
pub(crate) fn op() -> BoxedStrategy<Op> {
    let axis = || 0u32..4;
    let state = || (0u32..3).prop_map(StateId);
    let numbers = || prop::collection::vec(number(), 0..4);
    let products = prop_oneof![
        Just(Op::Linear),
        Just(Op::ExpertLinear),
        any::<(bool, bool)>().prop_map(|(transpose_a, transpose_b)| Op::MatMul {
            transpose_a,
            transpose_b
        }),
        Just(Op::Embedding),
        real().prop_map(|eps| Op::RmsNorm { eps }),
        real().prop_map(|eps| Op::LayerNorm { eps }),
        (number(), number(), number(), number()).prop_map(|(stride, padding, dilation, groups)| {
            Op::Conv1d {
                stride,
                padding,
                dilation,
                groups,
            }
        }),
        (
            [number(), number()],
            [number(), number()],
            [number(), number()],
            number()
        )
            .prop_map(|(stride, padding, dilation, groups)| Op::Conv2d {
                stride,
                padding,
                dilation,
                groups
            }),
    ];
    let kv = prop_oneof![
        Just(AttentionKv::Operands),
        (state(), state()).prop_map(|(k, v)| AttentionKv::State { k, v }),
    ];
    let attention = prop_oneof![
        (any::<bool>(), number(), real(), scaling()).prop_map(|(half, dims, base, scaling)| {
            Op::Rope {
                style: if half {
                    RopeStyle::HalfSplit
                } else {
                    RopeStyle::Interleaved
                },
                dims,
                base,
                scaling,
            }
        }),
        (
            kv,
            any::<(bool, bool)>(),
            real(),
            prop::option::of(real()),
            prop::option::of(number())
        )
            .prop_map(|(kv, (causal, mask), scale, soft_cap, window)| {
                Op::Attention {
                    kv,
                    causal,
                    mask,
                    scale,
                    soft_cap,
                    window,
                }
            }),
        (state(), dim()).prop_map(|(state, at)| Op::KvAppend { state, at }),
        state().prop_map(|state| Op::StateRead { state }),
        (dim(), prop::option::of(number()), real()).prop_map(|(keys, window, hidden)| {
            Op::CausalMask {
                keys,
                window,
                hidden,
            }
        }),
        axis().prop_map(|axis| Op::Softmax { axis }),
    ];
    let elementwise = prop_oneof![
        select(UnaryOp::ALL).prop_map(Op::Unary),
        select(Activation::ALL).prop_map(Op::Activation),
        select(Activation::ALL).prop_map(Op::GatedActivation),
        real().prop_map(|cap| Op::SoftCap { cap }),
        select(BinaryOp::ALL).prop_map(Op::Binary),
        Just(Op::Select),
        dtype().prop_map(|to| Op::Cast { to }),
        (dtype(), prop::option::of(axis())).prop_map(|(to, axis)| Op::Quantize { to, axis }),
        prop::option::of(axis()).prop_map(|axis| Op::Dequantize { axis }),
    ];
    let layout = prop_oneof![
        axis().prop_map(|axis| Op::Gather { axis }),
        axis().prop_map(|axis| Op::Scatter { axis }),
        shape().prop_map(|shape| Op::Reshape { shape }),
        numbers().prop_map(|perm| Op::Transpose { perm }),
        shape().prop_map(|shape| Op::Broadcast { shape }),
        (axis(), number(), number(), number()).prop_map(|(axis, start, end, step)| Op::Slice {
            axis,
            start,
            end,
            step
        }),
        axis().prop_map(|axis| Op::Concat { axis }),
        (axis(), numbers()).prop_map(|(axis, sizes)| Op::Split { axis, sizes }),
        (dim(), dim()).prop_map(|(start, length)| Op::Iota { start, length }),
    ];
    let reduce = prop_oneof![
        (select(ReduceOp::ALL), numbers(), any::<bool>()).prop_map(|(op, axes, keep_dims)| {
            Op::Reduce {
                op,
                axes,
                keep_dims,
            }
        }),
        number().prop_map(|k| Op::TopK { k }),
        axis().prop_map(|axis| Op::ArgMax { axis }),
    ];
    prop_oneof![
        products.boxed(),
        attention.boxed(),
        elementwise.boxed(),
        layout.boxed(),
        reduce.boxed()
    ]
    .boxed()
}

/// A graph that has every op at least once, and composite ops in all their forms.
pub(crate) fn every_op() -> Graph {
    let (t, p, r, c) = (Dim::TOKENS, Dim::CACHED, Dim::OUTPUTS, Dim::CAPACITY);
    let f = Dim::Fixed;
    let ty = |dtype, dims: &[Dim]| TensorType::new(dtype, dims.to_vec());
    let mut g = Graph::new("every op");
    let k = g
        .add_state("kv.k", ty(DType::F16, &[c, f(2), f(8)]), 0)
        .unwrap();
    let v = g
        .add_state("kv.v", ty(DType::F16, &[c, f(2), f(8)]), 0)
        .unwrap();
    let ids = g.add_input("ids", ty(DType::I32, &[t])).unwrap();
    let positions = g.add_input("positions", ty(DType::I32, &[t])).unwrap();
    let rows = g.add_input("rows", ty(DType::I32, &[r])).unwrap();
    let mask = g.add_input("mask", ty(DType::F32, &[t, c])).unwrap();
    let heads = g
        .add_input("heads", ty(DType::F32, &[t, f(4), f(8)]))
        .unwrap();
    let keys = g
        .add_input("keys", ty(DType::F16, &[c, f(4), f(8)]))
        .unwrap();
    let shared = g
        .add_input("shared", ty(DType::BF16, &[c, f(2), f(8)]))
        .unwrap();
    let half = g.add_input("half", ty(DType::F16, &[t, f(32)])).unwrap();
    let image = g
        .add_input("image", ty(DType::F32, &[f(1), f(4), f(9), f(9)]))
        .unwrap();
    let wave = g
        .add_input("wave", ty(DType::F32, &[f(1), f(4), t]))
        .unwrap();
    let scalar = g.add_input("scalar", ty(DType::F32, &[])).unwrap();
    let table = g
        .add_weight("table", ty(DType::Q4_0, &[f(50), f(32)]))
        .unwrap();
    let half_table = g
        .add_weight("half_table", ty(DType::F16, &[f(50), f(32)]))
        .unwrap();
    let w = g.add_weight("w", ty(DType::Q8_0, &[f(16), f(32)])).unwrap();
    let gain = g.add_weight("gain", ty(DType::BF16, &[f(32)])).unwrap();
    let shift = g.add_weight("shift", ty(DType::F32, &[f(32)])).unwrap();
    let taps = g
        .add_weight("taps", ty(DType::F32, &[f(4), f(2), f(3)]))
        .unwrap();
    let taps2 = g
        .add_weight("taps2", ty(DType::F16, &[f(6), f(4), f(3), f(3)]))
        .unwrap();
    let factors: Vec<u8> = [1.0f32, 1.5, 2.0, 4.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let factors = g
        .add_constant("factors", ty(DType::F32, &[f(4)]), factors)
        .unwrap();
    let scale = g
        .add_constant("scale", ty(DType::F32, &[]), 0.5f32.to_le_bytes().to_vec())
        .unwrap();
    let zero = g
        .add_constant("zero", ty(DType::I32, &[]), vec![0u8; 4])
        .unwrap();

    let h = g.add("embed", Op::Embedding, &[table, ids]).unwrap();
    g.add("embed_half", Op::Embedding, &[half_table, rows])
        .unwrap();
    let norm = Op::RmsNorm { eps: 1e-5 };
    let n = g.add("layers.0.norm", norm.clone(), &[h, gain]).unwrap();
    g.add("norm_half", norm, &[half, shift]).unwrap();
    let norm = Op::LayerNorm { eps: 1e-12 };
    g.add("layer_norm", norm.clone(), &[n, gain, shift])
        .unwrap();
    g.add("layer_norm_no_beta", norm, &[half, gain]).unwrap();
    let experts = g
        .add_weight("experts", ty(DType::Q8_0, &[f(4), f(8), f(32)]))
        .unwrap();
    let wide = Op::Reshape {
        shape: vec![t, f(1), f(32)].into(),
    };
    let wide = g.add("expert_rows", wide, &[n]).unwrap();
    let chosen = Op::Reshape {
        shape: vec![t, f(1)].into(),
    };
    let chosen = g.add("expert_ids", chosen, &[positions]).unwrap();
    g.add("experts_mixed", Op::ExpertLinear, &[wide, experts, chosen])
        .unwrap();
    let q = g.add("q", Op::Linear, &[n, w]).unwrap();
    let split_heads = Op::Reshape {
        shape: vec![t, f(2), f(8)].into(),
    };
    let q = g.add("q_heads", split_heads, &[q]).unwrap();

    let scalings = [
        RopeScaling::None,
        RopeScaling::Linear { factor: 4.0 },
        RopeScaling::Yarn {
            factor: 16.0,
            original_context: 4096,
            ext_factor: 1.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        },
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        },
    ];
    for (i, scaling) in scalings.into_iter().enumerate() {
        for &style in RopeStyle::ALL {
            let rope = |dims| Op::Rope {
                style,
                dims,
                base: 10000.0,
                scaling,
            };
            let name = |what: &str| format!("rope.{}.{i}.{what}", style.name());
            let all = [q, positions, factors];
            g.add(name("all"), rope(8), &all[..2]).unwrap();
            g.add(name("factors"), rope(8), &all).unwrap();
            g.add(name("part"), rope(6), &[heads, positions]).unwrap();
        }
    }

    for (name, state, rows) in [("append.k", k, q), ("append.v", v, q)] {
        g.add_node(name, Op::KvAppend { state, at: p }, &[rows])
            .unwrap();
    }
    g.add("read", Op::StateRead { state: k }, &[]).unwrap();
    let forms = [
        (false, false, None, None),
        (true, false, None, None),
        (true, true, Some(30.0), Some(16)),
        (false, true, Some(50.0), None),
    ];
    for (i, (causal, masked, soft_cap, window)) in forms.into_iter().enumerate() {
        let attention = |kv| Op::Attention {
            kv,
            causal,
            mask: masked,
            scale: 0.25,
            soft_cap,
            window,
        };
        let tail: Vec<ValueId> = [causal.then_some(positions), masked.then_some(mask)]
            .into_iter()
            .flatten()
            .collect();
        let operands = |head: &[ValueId]| [head, &tail].concat();
        g.add(
            format!("attention.state.{i}"),
            attention(AttentionKv::State { k, v }),
            &operands(&[heads]),
        )
        .unwrap();
        g.add(
            format!("attention.grouped.{i}"),
            attention(AttentionKv::Operands),
            &operands(&[heads, shared, shared]),
        )
        .unwrap();
        g.add(
            format!("attention.plain.{i}"),
            attention(AttentionKv::Operands),
            &operands(&[heads, keys, keys]),
        )
        .unwrap();
    }
    for (name, window) in [("causal", None), ("sliding", Some(8))] {
        let op = Op::CausalMask {
            keys: c,
            window,
            hidden: -1e9,
        };
        g.add(name, op, &[positions]).unwrap();
    }

    for (name, x) in [("f32", h), ("f16", half), ("scalar", scalar)] {
        for &act in Activation::ALL {
            g.add(format!("{name}.{}", act.name()), Op::Activation(act), &[x])
                .unwrap();
            let gated = Op::GatedActivation(act);
            g.add(format!("{name}.gated.{}", act.name()), gated, &[x, x])
                .unwrap();
        }
        g.add(format!("{name}.cap"), Op::SoftCap { cap: 30.0 }, &[x])
            .unwrap();
    }
    for (name, axis, x) in [("rows", 0, h), ("columns", 1, half)] {
        g.add(format!("softmax.{name}"), Op::Softmax { axis }, &[x])
            .unwrap();
    }
    let dot = Op::MatMul {
        transpose_a: false,
        transpose_b: true,
    };
    g.add("scores", dot, &[h, n]).unwrap();
    g.add("exp", Op::Unary(UnaryOp::Exp), &[h]).unwrap();
    let less = g.add("less", Op::Binary(BinaryOp::Less), &[h, n]).unwrap();
    g.add("select", Op::Select, &[less, h, n]).unwrap();
    let last = g.add("last", Op::Gather { axis: 0 }, &[h, rows]).unwrap();
    g.add("scatter", Op::Scatter { axis: 0 }, &[h, rows, last])
        .unwrap();
    let op = Op::Transpose {
        perm: vec![1, 0, 2],
    };
    g.add("transpose", op, &[q]).unwrap();
    let shape = vec![t, f(32)].into();
    g.add("broadcast", Op::Broadcast { shape }, &[shift])
        .unwrap();
    let op = Op::Slice {
        axis: 1,
        start: 1,
        end: 31,
        step: 3,
    };
    g.add("slice", op, &[h]).unwrap();
    g.add("concat", Op::Concat { axis: 1 }, &[h, n, h]).unwrap();
    let sizes = vec![8, 24];
    let parts = g
        .add_node("split", Op::Split { axis: 1, sizes }, &[h])
        .unwrap();
    let op = Op::Reduce {
        op: ReduceOp::Sum,
        axes: vec![0, 1],
        keep_dims: false,
    };
    g.add("sum", op, &[parts[1]]).unwrap();
    g.add("cast", Op::Cast { to: DType::F32 }, &[half]).unwrap();
    let op = Op::Quantize {
        to: DType::I8,
        axis: None,
    };
    let i8s = g.add("quantize", op, &[h, scale, zero]).unwrap();
    let op = Op::Dequantize { axis: None };
    g.add("dequantize", op, &[i8s, scale, zero]).unwrap();
    let top = g.add_node("top", Op::TopK { k: 3 }, &[last]).unwrap();
    let best = g.add("best", Op::ArgMax { axis: 1 }, &[last]).unwrap();
    let op = Op::Conv1d {
        stride: 1,
        padding: 1,
        dilation: 1,
        groups: 2,
    };
    g.add("conv1d", op, &[wave, taps]).unwrap();
    let op = Op::Conv2d {
        stride: [2, 1],
        padding: [0, 1],
        dilation: [1, 2],
        groups: 1,
    };
    g.add("conv2d", op, &[image, taps2]).unwrap();
    let op = Op::Iota {
        start: p,
        length: t,
    };
    g.add("iota", op, &[]).unwrap();
    for id in [top[0], top[1], best] {
        g.set_output(id).unwrap();
    }
    g
}

/// Random graphs: random ops over random earlier values, those that don't fit left out.
pub(crate) fn graph() -> BoxedStrategy<Graph> {
    let step = (
        op(),
        prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    );
    let data = prop::collection::vec(any::<u8>(), 0..64);
    (
        ".{0,12}",
        prop::collection::vec((tensor_type(), 0u32..3), 0..3),
        prop::collection::vec((0u8..3, tensor_type()), 1..6),
        data,
        prop::collection::vec(step, 0..120),
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    )
        .prop_map(|(name, states, leaves, data, steps, outputs)| {
            let mut g = Graph::new(name);
            for (i, (ty, axis)) in states.into_iter().enumerate() {
                let _ = g.add_state(format!("state.{i}"), ty, axis);
            }
            for (i, (kind, ty)) in leaves.into_iter().enumerate() {
                let _ = match kind {
                    0 => g.add_input(format!("input.{i}"), ty),
                    1 => g.add_weight(format!("weight.{i}"), ty),
                    _ => {
                        let shape = vec![Dim::Fixed(data.len() as u32)];
                        let ty = TensorType::new(DType::I8, shape);
                        g.add_constant(format!("constant.{i}"), ty, data.clone())
                    }
                };
            }
            for (i, (op, picks)) in steps.into_iter().enumerate() {
                let count = g.values().len();
                let pick = |at: &prop::sample::Index| ValueId(at.index(count.max(1)) as u32);
                // An op alone often wants fewer operands than were picked.
                for n in (0..=picks.len()).rev() {
                    let inputs: Vec<ValueId> = picks[..n].iter().map(pick).collect();
                    if g.add_node(format!("n{i}"), op.clone(), &inputs).is_ok() {
                        break;
                    }
                }
            }
            for at in outputs {
                if !g.values().is_empty() {
                    g.set_output(ValueId(at.index(g.values().len()) as u32))
                        .unwrap();
                }
            }
            g
        })
        .boxed()
}
