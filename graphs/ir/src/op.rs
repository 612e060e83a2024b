//! The op set.
//!
//! It is versioned as a whole and append-only: an op, once published, keeps its meaning, and new
//! ops or attributes raise [`OP_SET_VERSION`]. Operand order and shapes are documented at each
//! variant; [`crate::infer`] enforces them. Shapes use `…` for any leading dimensions.
//!
//! Element types, where a variant does not say otherwise:
//! - "float" is F32, F16 or BF16; arithmetic is done in F32 and rounded once to the result's type.
//! - Linear, ExpertLinear, MatMul, Embedding, RmsNorm, LayerNorm, Rope, Attention and the convolutions take any
//!   float type for each operand and give F32.
//! - Elementwise ops, Softmax, reductions and data movement keep their operands' type; several
//!   operands must agree in it.
//! - Block-quantised types are taken only by Linear and ExpertLinear (`w`), Embedding (`table`), Gather (`data`)
//!   and Cast.
//!
//! Integer arithmetic wraps around; integer division truncates towards zero and gives 0 where the
//! divisor is 0. Dimensions that are run-time symbols agree only with the same symbol; a dimension
//! is stretched by broadcasting only if it is the fixed number 1.
//!
//! NaN goes through every function of floats, Max, Min and reductions included; only Pow follows
//! IEEE 754 in that 1 to any power and anything to the power 0 are 1. Comparisons with NaN are false;
//! TopK and ArgMax take it as above all numbers. An index, id or position out of range is an error
//! when the op runs, never clamped.

use crate::{DType, Dim, Shape, StateId};

/// Version of the op set as a whole.
pub const OP_SET_VERSION: u32 = 2;

/// How rotary embedding pairs the elements of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Pairs `(2i, 2i+1)`: the original paper's and GGUF llama files' convention.
    Interleaved,
    /// Pairs `(i, i + dims/2)`: GPT-NeoX's and Hugging Face's convention.
    HalfSplit,
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// θᵢ = base^(−2i/dims).
    None,
    /// θᵢ divided by `factor`, as if positions were.
    Linear {
        /// Stretch, ≥ 1.
        factor: f32,
    },
    /// YaRN (arXiv 2309.00071): interpolates low frequencies, keeps high ones, scales magnitude.
    Yarn {
        /// Stretch.
        factor: f32,
        /// Context the model was trained with.
        original_context: u32,
        /// Interpolation weight of the blended part.
        ext_factor: f32,
        /// Multiplier of the magnitude, besides YaRN's own correction (none if `ext_factor` is 0).
        attn_factor: f32,
        /// Upper rotation bound of the blend.
        beta_fast: f32,
        /// Lower rotation bound of the blend.
        beta_slow: f32,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a linear blend between.
    Llama3 {
        /// Stretch.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are stretched fully.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context the model was trained with.
        original_context: u32,
    },
}

/// One-operand elementwise functions. They take floats; Neg and Abs signed integers too; Not
/// only Bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the function its name says
pub enum UnaryOp {
    Neg,
    Abs,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Reciprocal,
    Sin,
    Cos,
    Tanh,
    Sigmoid,
    Erf,
    Floor,
    Ceil,
    /// Half to even.
    Round,
    Not,
}

/// Activation functions, all composed of [`UnaryOp`]s and arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x·σ(x).
    Silu,
    /// x·Φ(x), with erf.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// x·σ(1.702x).
    GeluQuick,
}

/// Two-operand elementwise functions with numpy broadcasting.
///
/// Arithmetic takes floats and integers (Pow: floats), comparisons those and, for Equal, Bool; And
/// and Or take Bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the function its name says
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Max,
    Min,
    /// Result is `Bool`, as for the following comparisons.
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
}

/// Reductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the function its name says
pub enum ReduceOp {
    Sum,
    Mean,
    Max,
    Min,
}

/// Where attention reads keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKv {
    /// Operands 1 and 2: `k[S, kv_heads, D]` and `v[S, kv_heads, Dv]` (encoders, cross attention,
    /// devices that get the cache as an input).
    Operands,
    /// The rows `0..P+T` of two states `[C, kv_heads, D]` and `[C, kv_heads, Dv]` with axis 0; this
    /// step's rows must have been appended by earlier nodes. Positions must be below `P+T`.
    State {
        /// Keys.
        k: StateId,
        /// Values.
        v: StateId,
    },
}

/// One operation. Operands are listed in order; `?` marks an optional last operand.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// `x[…, K], w[N, K], bias[N]? → […, N]`, F32: `x·wᵀ + bias`. `w` may be block-quantised.
    Linear,
    /// `x[T, M, K], w[E, N, K], ids[T, S] (I32) → [T, S, N]`, F32: row `x[t, s]` (or `x[t, 0]` where
    /// `M` is 1) times the matrix `w[ids[t, s]]`, transposed: the chosen experts of a mixture. `M` is
    /// 1 or `S`. `w` may be block-quantised.
    ExpertLinear,
    /// `a[…, M, K], b[…, K, N] → […, M, N]`; leading dimensions broadcast. F32.
    MatMul {
        /// `a` is given as `[…, K, M]`.
        transpose_a: bool,
        /// `b` is given as `[…, N, K]`.
        transpose_b: bool,
    },
    /// `table[V, D], ids[…] (I32) → […, D]`, F32. `table` may be block-quantised.
    Embedding,
    /// `x[…, D], weight[D] → […, D]`, F32: `x / √(mean(x²) + eps) · weight`.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `x[…, D], gamma[D], beta[D]? → […, D]`, F32: `(x − mean) / √(variance + eps) · gamma + beta`,
    /// with the biased variance.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// `x[T, H, D], positions[T] (I32), freq_factors[dims/2]? (F32) → [T, H, D]`, F32. Rotates the
    /// first `dims` elements of each head, the others pass. Frequencies, and what their cosines and
    /// sines are multiplied by, are those of [`crate::rope_frequencies`], F32; the angle of pair `i`
    /// is the F32 product `position · frequency[i]`.
    Rope {
        /// Pairing.
        style: RopeStyle,
        /// Rotated elements per head, even, ≤ D.
        dims: u32,
        /// Frequency base θ.
        base: f32,
        /// Context extension.
        scaling: RopeScaling,
    },
    /// `q[T, heads, D], (k, v)?, positions[T]? (I32; if causal), mask?[T, S] (F32, added) →
    /// [T, heads, Dv]`, F32. Query head `h` reads KV head `h / (heads / kv_heads)`. `S` is the number
    /// of rows of `k`, for states their capacity `C`. Positions must be key rows, and every query must
    /// see one.
    Attention {
        /// Where keys and values are.
        kv: AttentionKv,
        /// Query `t` sees key rows `≤ positions[t]` only. Needs the positions operand.
        causal: bool,
        /// The last operand is an additive mask.
        mask: bool,
        /// Multiplies q·k.
        scale: f32,
        /// If set, scores become `cap·tanh(score / cap)` before masking.
        soft_cap: Option<f32>,
        /// If set (causal only), key rows `≤ positions[t] − window` are hidden too.
        window: Option<u32>,
    },
    /// `rows → ()`: writes rows `at .. at+n` of `state` along its axis, converting to its type.
    /// `rows` has the state's shape but for that axis, which has any size `n`.
    KvAppend {
        /// The state written.
        state: StateId,
        /// First row written.
        at: Dim,
    },
    /// `() → state's shape`, F32: all `C` rows, those never written being zero.
    StateRead {
        /// The state read.
        state: StateId,
    },
    /// `positions[T] (I32) → [T, keys]`, F32: 0 where visible, `hidden` where not (as in
    /// [`Op::Attention`]'s `causal` and `window`).
    CausalMask {
        /// Number of key rows.
        keys: Dim,
        /// Sliding window.
        window: Option<u32>,
        /// The finite value of hidden places.
        hidden: f32,
    },
    /// `x → x`, along `axis`.
    Softmax {
        /// Axis that sums to 1.
        axis: u32,
    },
    /// `x → x`.
    Unary(UnaryOp),
    /// `x → x`.
    Activation(Activation),
    /// `gate, up → act(gate)·up`: SwiGLU with [`Activation::Silu`], GeGLU with a GELU.
    GatedActivation(Activation),
    /// `x → cap·tanh(x / cap)`.
    SoftCap {
        /// Bound of the magnitude.
        cap: f32,
    },
    /// `a, b → broadcast(a, b)`.
    Binary(BinaryOp),
    /// `condition (Bool), a, b → broadcast`: `a` where true.
    Select,
    /// `data, indices (I32/I64) → data.shape` with `axis` replaced by the indices' shape. `data` may
    /// be block-quantised if `axis` is 0 and not its last; the result is then F32.
    Gather {
        /// Axis indexed.
        axis: u32,
    },
    /// `data, indices[n] (I32/I64), updates → data` with the slices at `indices` along `axis`
    /// replaced; later duplicates win.
    Scatter {
        /// Axis indexed.
        axis: u32,
    },
    /// `x → shape`, same number of elements.
    Reshape {
        /// New shape.
        shape: Shape,
    },
    /// `x → x` with axes permuted: output axis `i` is input axis `perm[i]`.
    Transpose {
        /// Permutation.
        perm: Vec<u32>,
    },
    /// `x → x` expanded to `shape` by numpy broadcasting.
    Broadcast {
        /// New shape.
        shape: Shape,
    },
    /// `x → x[start..end:step]` along `axis`.
    Slice {
        /// Axis cut.
        axis: u32,
        /// First element.
        start: u32,
        /// One past the last element.
        end: u32,
        /// Distance, ≥ 1.
        step: u32,
    },
    /// `x₀, x₁, … → x` joined along `axis`.
    Concat {
        /// Axis joined.
        axis: u32,
    },
    /// `x → x₀, x₁, …` with `sizes` along `axis`.
    Split {
        /// Axis cut.
        axis: u32,
        /// Size of each part; they sum to the axis.
        sizes: Vec<u32>,
    },
    /// `x → x` reduced over `axes`. Mean takes floats, the others integers too.
    Reduce {
        /// Which reduction.
        op: ReduceOp,
        /// Axes, ascending.
        axes: Vec<u32>,
        /// Keep reduced axes as size 1.
        keep_dims: bool,
    },
    /// `x → x` converted. From a block format: dequantised. Float → integer truncates, saturating,
    /// NaN giving 0. Integer → narrower integer keeps the low bits. To Bool: whether it is not 0.
    Cast {
        /// Target type (plain).
        to: DType,
    },
    /// `x (F32), scale[] or [n] (F32), zero_point[] or [n] (I32) → to`:
    /// `clamp(round(x/scale) + zero_point)`, rounding half to even.
    Quantize {
        /// I8, U8, I16 or I32.
        to: DType,
        /// Axis of per-channel parameters; per tensor if absent.
        axis: Option<u32>,
    },
    /// `q (I8, U8, I16 or I32), scale, zero_point → F32`: `(q − zero_point)·scale`, parameters as in
    /// [`Op::Quantize`].
    Dequantize {
        /// Axis of per-channel parameters; per tensor if absent.
        axis: Option<u32>,
    },
    /// `x[…, N] → values[…, k], indices[…, k] (I32)`, largest first, ties by lower index. `N` fixed.
    TopK {
        /// How many.
        k: u32,
    },
    /// `x → indices (I32)` with `axis` removed; ties by lower index.
    ArgMax {
        /// Axis searched.
        axis: u32,
    },
    /// `x[B, C, L], w[O, C/groups, K], bias[O]? → [B, O, L']`, F32, with
    /// `L' = (L + 2·padding − dilation·(K − 1) − 1) / stride + 1`. A run-time `L` is taken only where
    /// `L' = L`: stride 1 and `2·padding = dilation·(K − 1)`.
    Conv1d {
        /// Step.
        stride: u32,
        /// Zeros added at both ends.
        padding: u32,
        /// Distance between taps.
        dilation: u32,
        /// Channel groups.
        groups: u32,
    },
    /// `x[B, C, H, W], w[O, C/groups, KH, KW], bias[O]? → [B, O, H', W']`, F32; each axis as in
    /// [`Op::Conv1d`].
    Conv2d {
        /// Steps (height, width).
        stride: [u32; 2],
        /// Zeros added at both ends (height, width).
        padding: [u32; 2],
        /// Distances between taps.
        dilation: [u32; 2],
        /// Channel groups.
        groups: u32,
    },
    /// `() → [length] (I32)`: `start, start + 1, …`.
    Iota {
        /// First element.
        start: Dim,
        /// Number of elements.
        length: Dim,
    },
}

/// Gives an enum of plain words its list and its spelling in text dumps.
macro_rules! words {
    ($enum:ident { $($variant:ident: $word:literal,)+ }) => {
        impl $enum {
            /// Every variant.
            pub const ALL: &[$enum] = &[$($enum::$variant),+];

            /// The name used in text dumps and messages.
            pub const fn name(self) -> &'static str {
                match self {
                    $($enum::$variant => $word),+
                }
            }
        }

        impl std::str::FromStr for $enum {
            type Err = ();

            fn from_str(s: &str) -> Result<Self, ()> {
                $enum::ALL.iter().copied().find(|x| x.name() == s).ok_or(())
            }
        }
    };
}
words!(RopeStyle {
    Interleaved: "interleaved",
    HalfSplit: "half_split",
});
words!(UnaryOp {
    Neg: "neg",
    Abs: "abs",
    Exp: "exp",
    Log: "log",
    Sqrt: "sqrt",
    Rsqrt: "rsqrt",
    Reciprocal: "reciprocal",
    Sin: "sin",
    Cos: "cos",
    Tanh: "tanh",
    Sigmoid: "sigmoid",
    Erf: "erf",
    Floor: "floor",
    Ceil: "ceil",
    Round: "round",
    Not: "not",
});
words!(Activation {
    Relu: "relu",
    Silu: "silu",
    Gelu: "gelu",
    GeluTanh: "gelu_tanh",
    GeluQuick: "gelu_quick",
});
words!(BinaryOp {
    Add: "add",
    Sub: "sub",
    Mul: "mul",
    Div: "div",
    Pow: "pow",
    Max: "max",
    Min: "min",
    Equal: "equal",
    Less: "less",
    LessEqual: "less_equal",
    Greater: "greater",
    GreaterEqual: "greater_equal",
    And: "and",
    Or: "or",
});
words!(ReduceOp {
    Sum: "sum",
    Mean: "mean",
    Max: "max",
    Min: "min",
});

impl Op {
    /// The states this op reads or writes.
    pub fn states(&self) -> impl Iterator<Item = StateId> + use<> {
        let (a, b) = match *self {
            Op::Attention {
                kv: AttentionKv::State { k, v },
                ..
            } => (Some(k), Some(v)),
            Op::KvAppend { state, .. } | Op::StateRead { state } => (Some(state), None),
            _ => (None, None),
        };
        a.into_iter().chain(b)
    }

    /// Whether [`crate::decompose`] can write the op as others; the rest are primitives.
    pub const fn is_composite(&self) -> bool {
        match self {
            Op::ExpertLinear
            | Op::Embedding
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Rope { .. }
            | Op::Attention { .. }
            | Op::CausalMask { .. }
            | Op::Softmax { .. }
            | Op::Activation(_)
            | Op::GatedActivation(_)
            | Op::SoftCap { .. }
            | Op::Conv1d { .. } => true,
            Op::Linear
            | Op::MatMul { .. }
            | Op::KvAppend { .. }
            | Op::StateRead { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Broadcast { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Split { .. }
            | Op::Reduce { .. }
            | Op::Cast { .. }
            | Op::Quantize { .. }
            | Op::Dequantize { .. }
            | Op::TopK { .. }
            | Op::ArgMax { .. }
            | Op::Conv2d { .. }
            | Op::Iota { .. } => false,
        }
    }

    /// The op's name in text dumps and messages, e.g. `RmsNorm`.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Linear => "Linear",
            Op::ExpertLinear => "ExpertLinear",
            Op::MatMul { .. } => "MatMul",
            Op::Embedding => "Embedding",
            Op::RmsNorm { .. } => "RmsNorm",
            Op::LayerNorm { .. } => "LayerNorm",
            Op::Rope { .. } => "Rope",
            Op::Attention { .. } => "Attention",
            Op::KvAppend { .. } => "KvAppend",
            Op::StateRead { .. } => "StateRead",
            Op::CausalMask { .. } => "CausalMask",
            Op::Softmax { .. } => "Softmax",
            Op::Unary(_) => "Unary",
            Op::Activation(_) => "Activation",
            Op::GatedActivation(_) => "GatedActivation",
            Op::SoftCap { .. } => "SoftCap",
            Op::Binary(_) => "Binary",
            Op::Select => "Select",
            Op::Gather { .. } => "Gather",
            Op::Scatter { .. } => "Scatter",
            Op::Reshape { .. } => "Reshape",
            Op::Transpose { .. } => "Transpose",
            Op::Broadcast { .. } => "Broadcast",
            Op::Slice { .. } => "Slice",
            Op::Concat { .. } => "Concat",
            Op::Split { .. } => "Split",
            Op::Reduce { .. } => "Reduce",
            Op::Cast { .. } => "Cast",
            Op::Quantize { .. } => "Quantize",
            Op::Dequantize { .. } => "Dequantize",
            Op::TopK { .. } => "TopK",
            Op::ArgMax { .. } => "ArgMax",
            Op::Conv1d { .. } => "Conv1d",
            Op::Conv2d { .. } => "Conv2d",
            Op::Iota { .. } => "Iota",
        }
    }
}
