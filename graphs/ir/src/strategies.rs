//! Proptest strategies over ops and types, shared by this crate's tests.

use proptest::prelude::*;
use proptest::sample::select;

use crate::*;

pub(crate) const UNARY: [UnaryOp; 16] = [
    UnaryOp::Neg,
    UnaryOp::Abs,
    UnaryOp::Exp,
    UnaryOp::Log,
    UnaryOp::Sqrt,
    UnaryOp::Rsqrt,
    UnaryOp::Reciprocal,
    UnaryOp::Sin,
    UnaryOp::Cos,
    UnaryOp::Tanh,
    UnaryOp::Sigmoid,
    UnaryOp::Erf,
    UnaryOp::Floor,
    UnaryOp::Ceil,
    UnaryOp::Round,
    UnaryOp::Not,
];
pub(crate) const BINARY: [BinaryOp; 14] = [
    BinaryOp::Add,
    BinaryOp::Sub,
    BinaryOp::Mul,
    BinaryOp::Div,
    BinaryOp::Pow,
    BinaryOp::Max,
    BinaryOp::Min,
    BinaryOp::Equal,
    BinaryOp::Less,
    BinaryOp::LessEqual,
    BinaryOp::Greater,
    BinaryOp::GreaterEqual,
    BinaryOp::And,
    BinaryOp::Or,
];
pub(crate) const ACTIVATIONS: [Activation; 5] = [
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::GeluQuick,
];
const REDUCE: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min];

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

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        12 => prop::collection::vec(dim(), 0..5),
        1 => prop::collection::vec(dim(), 5..12),
    ]
    .prop_map(Shape)
}

pub(crate) fn dtype() -> impl Strategy<Value = DType> {
    prop_oneof![
        4 => Just(DType::F32),
        1 => Just(DType::I32),
        2 => select(DType::ALL.to_vec()),
    ]
}

pub(crate) fn tensor_type() -> impl Strategy<Value = TensorType> {
    (dtype(), shape()).prop_map(|(dtype, shape)| TensorType { dtype, shape })
}

fn scaling() -> impl Strategy<Value = RopeScaling> {
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
}

/// Any op with any attributes, fitting or not.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let axis = || 0u32..4;
    let state = || (0u32..3).prop_map(StateId);
    let numbers = || prop::collection::vec(number(), 0..4);
    let products = prop_oneof![
        Just(Op::Linear),
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
        select(UNARY.to_vec()).prop_map(Op::Unary),
        select(ACTIVATIONS.to_vec()).prop_map(Op::Activation),
        select(ACTIVATIONS.to_vec()).prop_map(Op::GatedActivation),
        real().prop_map(|cap| Op::SoftCap { cap }),
        select(BINARY.to_vec()).prop_map(Op::Binary),
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
        (select(REDUCE.to_vec()), numbers(), any::<bool>()).prop_map(|(op, axes, keep_dims)| {
            Op::Reduce {
                op,
                axes,
                keep_dims,
            }
        }),
        number().prop_map(|k| Op::TopK { k }),
        axis().prop_map(|axis| Op::ArgMax { axis }),
    ];
    prop_oneof![products, attention, elementwise, layout, reduce]
}
