#![allow(clippy::cloned_ref_to_slice_refs)] // one form for all operand lists

use proptest::prelude::*;

use crate::DType::*;
use crate::*;

const T: Dim = Dim::TOKENS;
const C: Dim = Dim::CAPACITY;
const R: Dim = Dim::OUTPUTS;

/// A dimension written as a number or a symbol.
trait IntoDim {
    fn dim(self) -> Dim;
}
impl IntoDim for u32 {
    fn dim(self) -> Dim {
        Dim::Fixed(self)
    }
}
impl IntoDim for Dim {
    fn dim(self) -> Dim {
        self
    }
}

/// `t!(F32; T, 256)` is `f32[T, 256]`.
macro_rules! t {
    ($dtype:expr; $($d:expr),*) => { TensorType::new($dtype, Vec::<Dim>::from([$($d.dim()),*])) };
}

/// Two `f16[C, 2, 64]` states with axis 0 and one `f32[4, C]` with axis 1.
fn states() -> Vec<State> {
    let kv = |name: &str| State {
        name: name.into(),
        ty: t![F16; C, 2u32, 64u32],
        axis: 0,
    };
    let row = State {
        name: "row".into(),
        ty: t![F32; 4u32, C],
        axis: 1,
    };
    vec![kv("k"), kv("v"), row]
}

fn run(op: Op, inputs: &[TensorType]) -> Result<Vec<TensorType>, GraphError> {
    let inputs: Vec<&TensorType> = inputs.iter().collect();
    infer("n", &op, &inputs, &states())
}

/// The results, written as in messages.
#[track_caller]
fn gives(op: Op, inputs: &[TensorType], expected: &[&str]) {
    let found = run(op.clone(), inputs).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    let found: Vec<String> = found.iter().map(|t| t.to_string()).collect();
    assert_eq!(found, expected, "{op:?}");
}

/// The error message must contain each of `parts`, and name the node and the op.
#[track_caller]
fn refuses(op: Op, inputs: &[TensorType], parts: &[&str]) {
    let error = match run(op.clone(), inputs) {
        Ok(found) => panic!("{op:?} gave {found:?}"),
        Err(e) => e.to_string(),
    };
    for part in [&["'n'", op.name()], parts].concat() {
        assert!(error.contains(part), "{part:?} not in {error:?}");
    }
}

fn attention(kv: AttentionKv, causal: bool, mask: bool) -> Op {
    Op::Attention {
        kv,
        causal,
        mask,
        scale: 0.125,
        soft_cap: None,
        window: None,
    }
}

const STATE_KV: AttentionKv = AttentionKv::State {
    k: StateId(0),
    v: StateId(1),
};

fn rope(dims: u32) -> Op {
    Op::Rope {
        style: RopeStyle::HalfSplit,
        dims,
        base: 10000.0,
        scaling: RopeScaling::None,
    }
}

#[test]
fn linear_takes_quantised_weights_and_gives_f32_rows() {
    let x = t![F16; T, 256u32];
    let w = t![Q4_K; 10u32, 256u32];
    gives(Op::Linear, &[x.clone(), w.clone()], &["f32[T, 10]"]);
    gives(
        Op::Linear,
        &[t![F32; 256u32], w.clone(), t![BF16; 10u32]],
        &["f32[10]"],
    );
    refuses(
        Op::Linear,
        &[t![F32; T, 255u32], w.clone()],
        &["x is f32[T, 255]", "w is q4_k[10, 256]", "last dimensions"],
    );
    refuses(
        Op::Linear,
        &[x.clone(), w.clone(), t![F32; 256u32]],
        &["bias is f32[256]", "w is q4_k[10, 256]"],
    );
    refuses(
        Op::Linear,
        std::slice::from_ref(&x),
        &["takes 2 or 3", "got 1"],
    );
    refuses(
        Op::Linear,
        &[t![I32; T, 256u32], w],
        &["operand x is i32[T, 256]"],
    );
}

#[test]
fn expert_linear_takes_one_row_or_one_for_each_id() {
    let w = t![Q8_0; 8u32, 5u32, 32u32];
    let ids = t![I32; T, 2u32];
    for rows in [1u32, 2] {
        let x = t![F32; T, rows, 32u32];
        gives(
            Op::ExpertLinear,
            &[x, w.clone(), ids.clone()],
            &["f32[T, 2, 5]"],
        );
    }
    refuses(
        Op::ExpertLinear,
        &[t![F32; T, 3u32, 32u32], w.clone(), ids.clone()],
        &["x is f32[T, 3, 32]", "ids is i32[T, 2]", "one for each id"],
    );
    refuses(
        Op::ExpertLinear,
        &[t![F32; T, 1u32, 64u32], w.clone(), ids.clone()],
        &["w is q8_0[8, 5, 32]", "last dimensions"],
    );
    refuses(
        Op::ExpertLinear,
        &[t![F32; C, 1u32, 32u32], w, ids],
        &["first dimensions"],
    );
}

#[test]
fn matmul_broadcasts_leading_dimensions_and_transposes() {
    let plain = Op::MatMul {
        transpose_a: false,
        transpose_b: false,
    };
    gives(
        plain.clone(),
        &[t![F32; 2u32, 4u32, T, 8u32], t![F16; 2u32, 1u32, 8u32, C]],
        &["f32[2, 4, T, C]"],
    );
    let both = Op::MatMul {
        transpose_a: true,
        transpose_b: true,
    };
    gives(
        both,
        &[t![F32; 8u32, 3u32], t![F32; 5u32, 8u32]],
        &["f32[3, 5]"],
    );
    let inner = [t![F32; 3u32, T], t![F32; C, 5u32]];
    refuses(plain.clone(), &inner, &["f32[3, T]", "f32[C, 5]", "inner"]);
    let batch = [t![F32; 3u32, 2u32, 2u32], t![F32; T, 2u32, 2u32]];
    refuses(
        plain,
        &batch,
        &["f32[3, 2, 2]", "f32[T, 2, 2]", "broadcast"],
    );
}

#[test]
fn embedding_and_norms_give_f32() {
    let ids = t![I32; T];
    gives(
        Op::Embedding,
        &[t![Q8_0; 100u32, 64u32], ids],
        &["f32[T, 64]"],
    );
    let table = t![F16; 100u32, 64u32];
    refuses(
        Op::Embedding,
        &[table, t![F32; T]],
        &["operand ids is f32[T]", "i32"],
    );
    let norm = Op::RmsNorm { eps: 1e-5 };
    let x = t![BF16; T, 64u32];
    gives(norm.clone(), &[x.clone(), t![F16; 64u32]], &["f32[T, 64]"]);
    refuses(
        norm,
        &[x.clone(), t![F32; 32u32]],
        &["x is bf16[T, 64]", "weight is f32[32]"],
    );
    let nan = Op::RmsNorm { eps: f32::NAN };
    refuses(nan, &[x.clone(), t![F32; 64u32]], &["eps is NaN"]);
    let norm = Op::LayerNorm { eps: 1e-12 };
    gives(norm.clone(), &[x.clone(), t![F32; 64u32]], &["f32[T, 64]"]);
    refuses(
        norm,
        &[x, t![F32; 64u32], t![F32; 1u32]],
        &["beta is f32[1]"],
    );
}

#[test]
fn rope_needs_even_dims_within_the_head_and_one_position_per_row() {
    let x = t![F32; T, 4u32, 64u32];
    let p = t![I32; T];
    gives(rope(64), &[x.clone(), p.clone()], &["f32[T, 4, 64]"]);
    let factors = t![F32; 16u32];
    gives(
        rope(32),
        &[x.clone(), p.clone(), factors.clone()],
        &["f32[T, 4, 64]"],
    );
    for dims in [0, 3, 66, u32::MAX] {
        refuses(rope(dims), &[x.clone(), p.clone()], &["attribute dims"]);
    }
    refuses(
        rope(64),
        &[x.clone(), p, factors],
        &["freq_factors is f32[16]", "32 elements"],
    );
    refuses(
        rope(64),
        &[x, t![I32; R]],
        &["x is f32[T, 4, 64]", "positions is i32[R]"],
    );
}

#[test]
fn rope_scaling_parameters_are_checked() {
    let x = [t![F32; T, 4u32, 64u32], t![I32; T]];
    let with = |scaling| Op::Rope {
        style: RopeStyle::Interleaved,
        dims: 64,
        base: 10000.0,
        scaling,
    };
    let llama3 = |low_freq_factor, high_freq_factor| RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor,
        high_freq_factor,
        original_context: 8192,
    };
    gives(with(llama3(1.0, 4.0)), &x, &["f32[T, 4, 64]"]);
    refuses(with(llama3(4.0, 4.0)), &x, &["high_freq_factor is 4"]);
    let linear = |factor| with(RopeScaling::Linear { factor });
    gives(linear(4.0), &x, &["f32[T, 4, 64]"]);
    refuses(linear(0.0), &x, &["factor is 0"]);
}

#[test]
fn attention_over_states_takes_positions_and_a_mask_over_the_capacity() {
    let q = t![F32; T, 8u32, 64u32];
    let p = t![I32; T];
    let causal = attention(STATE_KV, true, false);
    gives(causal.clone(), &[q.clone(), p.clone()], &["f32[T, 8, 64]"]);
    let masked = attention(STATE_KV, true, true);
    gives(
        masked.clone(),
        &[q.clone(), p.clone(), t![F32; T, C]],
        &["f32[T, 8, 64]"],
    );
    refuses(
        masked,
        &[q.clone(), p.clone(), t![F32; T, T]],
        &["mask is f32[T, T]", "[T, C]"],
    );
    refuses(
        causal.clone(),
        std::slice::from_ref(&q),
        &["takes 2 operands, got 1"],
    );
    refuses(
        causal.clone(),
        &[t![F32; T, 3u32, 64u32], p.clone()],
        &["q is f32[T, 3, 64]", "state k is f16[C, 2, 64]", "multiple"],
    );
    refuses(
        causal,
        &[t![F32; T, 8u32, 32u32], p.clone()],
        &["head sizes", "f16[C, 2, 64]"],
    );
    let kv = AttentionKv::State {
        k: StateId(0),
        v: StateId(2),
    };
    refuses(
        attention(kv, true, false),
        &[q.clone(), p.clone()],
        &["state 'row' is f32[4, C], axis 1"],
    );
    let kv = AttentionKv::State {
        k: StateId(0),
        v: StateId(9),
    };
    refuses(
        attention(kv, true, false),
        &[q, p],
        &["attribute v is state number 9", "3 states"],
    );
}

#[test]
fn attention_over_operands_takes_the_value_size_from_v() {
    let q = t![F32; T, 4u32, 64u32];
    let k = t![F32; C, 2u32, 64u32];
    let v = t![F16; C, 2u32, 32u32];
    let op = attention(AttentionKv::Operands, false, false);
    gives(
        op.clone(),
        &[q.clone(), k.clone(), v.clone()],
        &["f32[T, 4, 32]"],
    );
    refuses(
        op,
        &[q.clone(), k.clone(), t![F32; T, 2u32, 32u32]],
        &["k is f32[C, 2, 64]", "v is f32[T, 2, 32]"],
    );
    let Op::Attention { kv, scale, .. } = attention(AttentionKv::Operands, false, false) else {
        unreachable!()
    };
    let window = |causal, window| Op::Attention {
        kv,
        causal,
        mask: false,
        scale,
        soft_cap: Some(50.0),
        window: Some(window),
    };
    refuses(
        window(false, 8),
        &[q.clone(), k.clone(), v.clone()],
        &["not causal"],
    );
    let p = t![I32; T];
    gives(
        window(true, 8),
        &[q.clone(), k.clone(), v.clone(), p.clone()],
        &["f32[T, 4, 32]"],
    );
    refuses(window(true, 0), &[q, k, v, p], &["window is 0"]);
}

#[test]
fn states_are_appended_along_their_axis_and_read_whole() {
    let append = |state| Op::KvAppend {
        state: StateId(state),
        at: Dim::CACHED,
    };
    gives(append(0), &[t![F32; T, 2u32, 64u32]], &[]);
    gives(append(2), &[t![F16; 4u32, T]], &[]);
    refuses(
        append(2),
        &[t![F32; T, 4u32]],
        &["rows is f32[T, 4]", "state is f32[4, C]"],
    );
    refuses(append(7), &[t![F32; T, 4u32]], &["state number 7"]);
    let read = Op::StateRead { state: StateId(0) };
    gives(read, &[], &["f32[C, 2, 64]"]);
}

#[test]
fn masks_and_iota_take_symbolic_lengths() {
    let mask = |hidden| Op::CausalMask {
        keys: C,
        window: Some(16),
        hidden,
    };
    gives(mask(-1e9), &[t![I32; T]], &["f32[T, C]"]);
    refuses(mask(f32::NEG_INFINITY), &[t![I32; T]], &["hidden is -inf"]);
    let iota = |length| Op::Iota {
        start: Dim::CACHED,
        length,
    };
    gives(iota(T), &[], &["i32[T]"]);
    let far = Dim::Sym(Symbol(8));
    let error = run(iota(far), &[]).unwrap_err();
    assert_eq!(
        error,
        GraphError::SymbolRange {
            name: "n".into(),
            symbol: Symbol(8)
        }
    );
}

#[test]
fn elementwise_keeps_the_type_that_operands_share() {
    let x = t![F16; T, 8u32];
    gives(
        Op::Activation(Activation::Silu),
        &[x.clone()],
        &["f16[T, 8]"],
    );
    gives(Op::Softmax { axis: 1 }, &[x.clone()], &["f16[T, 8]"]);
    refuses(
        Op::Softmax { axis: 2 },
        &[x.clone()],
        &["axis is 2", "f16[T, 8]"],
    );
    let gated = Op::GatedActivation(Activation::GeluTanh);
    gives(gated.clone(), &[x.clone(), x.clone()], &["f16[T, 8]"]);
    refuses(
        gated,
        &[x.clone(), t![F16; T, 1u32]],
        &["gate is f16[T, 8]", "up is f16[T, 1]"],
    );
    let add = Op::Binary(BinaryOp::Add);
    gives(add.clone(), &[x.clone(), t![F16; 1u32]], &["f16[T, 8]"]);
    refuses(
        add.clone(),
        &[x.clone(), t![F32; 1u32]],
        &["a is f16[T, 8]", "b is f32[1]", "element types"],
    );
    refuses(
        add,
        &[x, t![F16; R, 8u32]],
        &["a is f16[T, 8]", "b is f16[R, 8]", "broadcast"],
    );
    refuses(
        Op::Unary(UnaryOp::Neg),
        &[t![U8; 3u32]],
        &["x is u8[3]", "signed"],
    );
    gives(Op::Unary(UnaryOp::Neg), &[t![I8; 3u32]], &["i8[3]"]);
}

#[test]
fn comparisons_give_bool_and_logic_takes_it() {
    let n = t![I32; T];
    let b = t![Bool; T];
    gives(
        Op::Binary(BinaryOp::Less),
        &[n.clone(), n.clone()],
        &["bool[T]"],
    );
    gives(
        Op::Binary(BinaryOp::Equal),
        &[b.clone(), b.clone()],
        &["bool[T]"],
    );
    gives(
        Op::Binary(BinaryOp::And),
        &[b.clone(), b.clone()],
        &["bool[T]"],
    );
    refuses(
        Op::Binary(BinaryOp::Less),
        &[b.clone(), b.clone()],
        &["bool[T]"],
    );
    refuses(
        Op::Binary(BinaryOp::And),
        &[n.clone(), n],
        &["a is i32[T]", "bool"],
    );
    let x = t![F32; T, 1u32];
    gives(
        Op::Select,
        &[t![Bool; 4u32], x.clone(), t![F32; ]],
        &["f32[T, 4]"],
    );
    refuses(
        Op::Select,
        &[t![Bool; R, 1u32], x, t![F32; ]],
        &["condition is bool[R, 1]", "f32[T, 1]"],
    );
}

#[test]
fn casts_and_quantisation_convert_types() {
    gives(
        Op::Cast { to: F32 },
        &[t![Q6_K; 2u32, 256u32]],
        &["f32[2, 256]"],
    );
    refuses(Op::Cast { to: Q4_0 }, &[t![F32; 32u32]], &["to is q4_0"]);
    let x = t![F32; 4u32, 8u32];
    let tensor = Op::Quantize { to: U8, axis: None };
    gives(
        tensor.clone(),
        &[x.clone(), t![F32; ], t![I32; ]],
        &["u8[4, 8]"],
    );
    refuses(
        tensor,
        &[x.clone(), t![F32; 4u32], t![I32; ]],
        &["scale is f32[4]", "scalar"],
    );
    let channel = Op::Dequantize { axis: Some(0) };
    let q = t![I8; 4u32, 8u32];
    gives(
        channel.clone(),
        &[q.clone(), t![F32; 4u32], t![I32; 4u32]],
        &["f32[4, 8]"],
    );
    refuses(
        channel,
        &[q, t![F32; 4u32], t![I32; 8u32]],
        &["zero_point is i32[8]", "i8[4, 8]"],
    );
    refuses(
        Op::Quantize {
            to: F16,
            axis: None,
        },
        &[x, t![F32; ], t![I32; ]],
        &["to is f16"],
    );
}

#[test]
fn gather_and_scatter_index_one_axis() {
    let data = t![F32; 4u32, T, 8u32];
    gives(
        Op::Gather { axis: 1 },
        &[data.clone(), t![I64; R, 2u32]],
        &["f32[4, R, 2, 8]"],
    );
    gives(
        Op::Gather { axis: 0 },
        &[t![Q4_0; 4u32, 32u32], t![I32; ]],
        &["f32[32]"],
    );
    refuses(
        Op::Gather { axis: 1 },
        &[t![Q4_0; 4u32, 32u32], t![I32; ]],
        &["data is q4_0[4, 32]"],
    );
    refuses(
        Op::Gather { axis: 3 },
        &[data.clone(), t![I32; ]],
        &["axis is 3"],
    );
    let wide = t![I32; 1u32, 1u32, 1u32, 1u32, 1u32, 1u32, 1u32];
    assert_eq!(
        run(Op::Gather { axis: 0 }, &[data.clone(), wide]),
        Err(GraphError::Rank {
            name: "n".into(),
            rank: 9
        })
    );
    let scatter = Op::Scatter { axis: 1 };
    gives(
        scatter.clone(),
        &[data.clone(), t![I32; R], t![F32; 4u32, R, 8u32]],
        &["f32[4, T, 8]"],
    );
    refuses(
        scatter,
        &[data, t![I32; R], t![F32; 4u32, T, 8u32]],
        &["updates is f32[4, T, 8]", "[4, R, 8]"],
    );
}

#[test]
fn reshape_keeps_symbols_and_the_product_of_the_rest() {
    let to = |shape: Vec<Dim>| Op::Reshape {
        shape: shape.into(),
    };
    let x = t![F32; T, 256u32];
    gives(
        to(vec![4u32.dim(), T, 64u32.dim()]),
        &[x.clone()],
        &["f32[4, T, 64]"],
    );
    refuses(
        to(vec![T, 255u32.dim()]),
        &[x.clone()],
        &["x is f32[T, 256]", "[T, 255]"],
    );
    refuses(to(vec![R, 256u32.dim()]), &[x.clone()], &["[R, 256]"]);
    refuses(to(vec![T, T, 256u32.dim()]), &[x], &["[T, T, 256]"]);
    let huge = t![F32; u32::MAX, u32::MAX, u32::MAX];
    refuses(to(huge.shape.0.clone()), &[huge], &["2^64"]);
}

#[test]
fn layout_ops_move_axes() {
    let x = t![F32; T, 4u32, 8u32];
    let perm = |perm: &[u32]| Op::Transpose { perm: perm.into() };
    gives(perm(&[1, 2, 0]), &[x.clone()], &["f32[4, 8, T]"]);
    for bad in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3], &[0, 1, 2, 3]] {
        refuses(perm(bad), &[x.clone()], &["attribute perm"]);
    }
    let to = |shape: Vec<Dim>| Op::Broadcast {
        shape: shape.into(),
    };
    gives(to(vec![2u32.dim(), T]), &[t![F32; 1u32]], &["f32[2, T]"]);
    refuses(
        to(vec![1u32.dim()]),
        &[t![F32; 2u32]],
        &["x is f32[2]", "[1]"],
    );
    let slice = |axis, start, end, step| Op::Slice {
        axis,
        start,
        end,
        step,
    };
    gives(slice(2, 1, 8, 3), &[x.clone()], &["f32[T, 4, 3]"]);
    gives(slice(2, 8, 8, 1), &[x.clone()], &["f32[T, 4, 0]"]);
    refuses(slice(2, 1, 9, 1), &[x.clone()], &["1..9", "f32[T, 4, 8]"]);
    refuses(
        slice(0, 0, 1, 1),
        &[x.clone()],
        &["fixed size along axis 0"],
    );
    refuses(slice(2, 0, 1, 0), &[x], &["step is 0"]);
}

#[test]
fn concat_and_split_are_inverse_over_a_fixed_axis() {
    let x = t![F32; T, 4u32];
    let y = t![F32; T, 2u32];
    let concat = |axis| Op::Concat { axis };
    gives(
        concat(1),
        &[x.clone(), y.clone(), x.clone()],
        &["f32[T, 10]"],
    );
    gives(concat(0), &[x.clone()], &["f32[T, 4]"]);
    refuses(
        concat(0),
        &[x.clone(), x.clone()],
        &["joined axis must be fixed"],
    );
    refuses(concat(0), &[x.clone(), y], &["f32[T, 4]", "f32[T, 2]"]);
    refuses(concat(0), &[], &["1 or more"]);
    let huge = t![F32; u32::MAX];
    refuses(concat(0), &[huge.clone(), huge], &["2^32"]);
    let split = |sizes: &[u32]| Op::Split {
        axis: 1,
        sizes: sizes.into(),
    };
    gives(split(&[3, 1]), &[x.clone()], &["f32[T, 3]", "f32[T, 1]"]);
    refuses(split(&[3, 2]), &[x.clone()], &["[3, 2]", "sum is 4"]);
    refuses(split(&[u32::MAX, 5]), &[x.clone()], &["sum is 4"]);
    refuses(split(&[]), &[x], &["sum is 4"]);
}

#[test]
fn reductions_drop_or_keep_axes() {
    let x = t![F16; T, 4u32, 8u32];
    let mean = |axes: &[u32], keep_dims| Op::Reduce {
        op: ReduceOp::Mean,
        axes: axes.into(),
        keep_dims,
    };
    gives(mean(&[0, 2], true), &[x.clone()], &["f16[1, 4, 1]"]);
    gives(mean(&[0, 2], false), &[x.clone()], &["f16[4]"]);
    for axes in [&[][..], &[2, 0], &[1, 1], &[3]] {
        refuses(mean(axes, true), &[x.clone()], &["attribute axes"]);
    }
    refuses(mean(&[0], true), &[t![I32; T]], &["x is i32[T]"]);
    gives(
        Op::TopK { k: 3 },
        &[x.clone()],
        &["f16[T, 4, 3]", "i32[T, 4, 3]"],
    );
    refuses(Op::TopK { k: 9 }, &[x.clone()], &["k is 9", "from 1 to 8"]);
    gives(Op::ArgMax { axis: 2 }, &[x], &["i32[T, 4]"]);
    refuses(Op::ArgMax { axis: 0 }, &[t![F32; 0u32]], &["f32[0]"]);
}

#[test]
fn convolutions_compute_their_length_and_keep_a_symbolic_one() {
    let conv = |stride, padding, dilation, groups| Op::Conv1d {
        stride,
        padding,
        dilation,
        groups,
    };
    let x = t![F32; 1u32, 4u32, 10u32];
    let w = t![F16; 6u32, 4u32, 3u32];
    gives(
        conv(2, 1, 1, 1),
        &[x.clone(), w.clone(), t![F32; 6u32]],
        &["f32[1, 6, 5]"],
    );
    gives(
        conv(1, 0, 1, 2),
        &[x.clone(), t![F32; 6u32, 2u32, 3u32]],
        &["f32[1, 6, 8]"],
    );
    let t = t![F32; 1u32, 4u32, T];
    gives(conv(1, 2, 2, 1), &[t.clone(), w.clone()], &["f32[1, 6, T]"]);
    refuses(
        conv(1, 0, 1, 1),
        &[t, w.clone()],
        &["x is f32[1, 4, T]", "axis 2"],
    );
    refuses(
        conv(1, 0, 9, 1),
        &[x.clone(), w.clone()],
        &["shorter than the reach"],
    );
    refuses(conv(1, 0, 1, 3), &[x.clone(), w.clone()], &["groups"]);
    refuses(conv(0, 0, 1, 1), &[x.clone(), w.clone()], &["stride is 0"]);
    refuses(conv(1, u32::MAX, 1, 1), &[x, w], &["2^32"]);
    let op = Op::Conv2d {
        stride: [2, 2],
        padding: [0, 1],
        dilation: [1, 1],
        groups: 1,
    };
    gives(
        op,
        &[
            t![F32; 1u32, 3u32, 224u32, 224u32],
            t![F32; 8u32, 3u32, 2u32, 4u32],
        ],
        &["f32[1, 8, 112, 112]"],
    );
}

/// Whether every dimension of `shape` is one a graph may hold.
fn known(shape: &Shape) -> bool {
    let known = |d: &Dim| !matches!(d, Dim::Sym(s) if s.0 as usize >= Symbol::COUNT);
    shape.dims().iter().all(known)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases * 16))]

    #[test]
    fn any_op_over_any_types_infers_or_fails_without_panic(
        op in strategies::op(),
        inputs in prop::collection::vec(strategies::tensor_type(), 0..5),
        state_types in prop::collection::vec((strategies::tensor_type(), 0u32..4), 0..3),
    ) {
        let states: Vec<State> = state_types
            .into_iter()
            .map(|(ty, axis)| State { name: "s".into(), ty, axis })
            .collect();
        let operands: Vec<&TensorType> = inputs.iter().collect();
        match infer("n", &op, &operands, &states) {
            Ok(results) => {
                prop_assert!(results.iter().all(|ty| !ty.dtype.is_block()));
                if inputs.iter().chain(states.iter().map(|s| &s.ty)).all(|ty| known(&ty.shape)) {
                    prop_assert!(results.iter().all(|ty| known(&ty.shape)));
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    /// Symbolic inference says of the numbers what inference over the bound numbers says.
    #[test]
    fn inference_commutes_with_binding_symbols(
        a in strategies::tensor_type(),
        b in strategies::tensor_type(),
        f in proptest::sample::select(BinaryOp::ALL),
        values in [1u32..6, 1u32..6, 1u32..6, 1u32..6],
    ) {
        let [t, p, r, c] = values;
        let values = SymbolValues::step(t, p, r, c);
        let bind = |ty: &TensorType| {
            let dims = ty.shape.dims().iter().map(|d| Dim::Fixed(d.resolve(&values)));
            TensorType::new(ty.dtype, dims.collect::<Vec<_>>())
        };
        if let Ok(symbolic) = infer("n", &Op::Binary(f), &[&a, &b], &[]) {
            let bound = infer("n", &Op::Binary(f), &[&bind(&a), &bind(&b)], &[]);
            prop_assert_eq!(bound.ok(), Some(vec![bind(&symbolic[0])]));
        }
    }
}
