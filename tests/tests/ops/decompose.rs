//! A composite op and its decomposition give the same.
//!
//! The bound: the reference rounds once, the decomposition at every step, so results differ by a
//! few units in the last place of the largest term. Operands are within ±2 here, heads at most 8
//! elements, which bounds that by 1e-5; where results are F16, a difference may cross one rounding.

use anynpu_cpu::reference::{StateStore, Tensor};
use anynpu_ir::{
    Activation, AttentionKv, DType, Dim, Graph, Op, RopeScaling, RopeStyle, StateId, SymbolValues,
    TensorType, decompose_all,
};
use anynpu_tests::cases::tensor;
use anynpu_tests::{Tolerance, compare, graph_of, run_reference, type_of};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::floats;

const F32_BOUND: Tolerance = Tolerance::new(1e-5, 1e-5);
const F16_BOUND: Tolerance = Tolerance::new(1e-5, 1.0 / 1024.0);

fn check(
    graph: &Graph,
    inputs: &[Tensor],
    symbols: &SymbolValues,
    tolerance: Tolerance,
) -> Result<(), TestCaseError> {
    let fail = |e: String| TestCaseError::fail(e);
    let primitive = decompose_all(graph).map_err(|e| fail(e.to_string()))?;
    let composite = primitive.nodes().iter().find(|n| n.op.is_composite());
    prop_assert_eq!(composite, None);
    let run = |graph: &Graph| {
        let mut states = StateStore::new(graph, symbols).map_err(|e| fail(e.to_string()))?;
        let results = run_reference(graph, inputs, &mut states, symbols);
        Ok::<_, TestCaseError>((results.map_err(|e| fail(e.to_string()))?, states))
    };
    let ((expected, expected_states), (found, found_states)) = (run(graph)?, run(&primitive)?);
    prop_assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        compare(found, expected, tolerance).map_err(|e| fail(e.to_string()))?;
    }
    prop_assert_eq!(found_states, expected_states);
    Ok(())
}

fn check_op(op: Op, inputs: &[Tensor], tolerance: Tolerance) -> Result<(), TestCaseError> {
    let graph = graph_of(op, inputs).map_err(|e| TestCaseError::fail(e.to_string()))?;
    check(&graph, inputs, &SymbolValues::default(), tolerance)
}

/// `tensor` in another float type.
fn to(dtype: DType, tensor: &Tensor) -> Tensor {
    let values = tensor.to_f32().expect("floats");
    Tensor::from_f32(dtype, tensor.shape(), values).expect("a float type")
}

fn float_type() -> impl Strategy<Value = DType> {
    select(vec![DType::F32, DType::F16, DType::BF16])
}

fn bound(dtype: DType) -> Tolerance {
    match dtype {
        DType::F32 => F32_BOUND,
        DType::F16 => F16_BOUND,
        _ => Tolerance::new(1e-5, 1.0 / 128.0),
    }
}

/// A row of `n` tokens of width `d`.
fn rows() -> impl Strategy<Value = (Tensor, usize)> {
    (0usize..4, 1usize..9).prop_flat_map(|(n, d)| (floats(&[n, d]), Just(d)))
}

proptest! {
    #[test]
    fn of_embedding(
        (table, ids) in (1usize..5, 1usize..4).prop_flat_map(|(v, d)| {
            (floats(&[v, d]), vec(0..v as i32, 0..4))
        }),
        dtype in float_type(),
    ) {
        let ids = tensor(&[ids.len()], ids);
        check_op(Op::Embedding, &[to(dtype, &table), ids], Tolerance::EXACT)?;
    }

    #[test]
    fn of_embedding_in_blocks(
        bytes in vec(any::<u8>(), 3 * 34),
        ids in vec(0i32..3, 0..4),
    ) {
        let table = Tensor::from_bytes(DType::Q8_0, [3, 32], &bytes).unwrap();
        let ids = tensor(&[ids.len()], ids);
        check_op(Op::Embedding, &[table, ids], Tolerance::EXACT)?;
    }

    #[test]
    fn of_expert_linear(
        (x, w, ids) in (0usize..4, 1usize..4, 1usize..4, 1usize..6, 1usize..6, any::<bool>())
            .prop_flat_map(|(t, s, e, n, k, own_row)| {
                let x = floats(&[t, if own_row { s } else { 1 }, k]);
                let ids = vec(0..e as i32, t * s).prop_map(move |ids| tensor(&[t, s], ids));
                (x, floats(&[e, n, k]), ids)
            }),
        dtype in float_type(),
    ) {
        check_op(Op::ExpertLinear, &[x, to(dtype, &w), ids], F32_BOUND)?;
    }

    #[test]
    fn of_norms(
        (x, weight, beta, with_beta) in rows().prop_flat_map(|(x, d)| {
            (Just(x), floats(&[d]), floats(&[d]), any::<bool>())
        }),
        dtype in float_type(),
        // Of a variance far below eps any rounding of the mean would be enlarged.
        eps in select(vec![1e-2f32, 0.5]),
    ) {
        let mut operands = vec![to(dtype, &x), to(dtype, &weight)];
        check_op(Op::RmsNorm { eps }, &operands, F32_BOUND)?;
        if with_beta {
            operands.push(beta);
        }
        check_op(Op::LayerNorm { eps }, &operands, F32_BOUND)?;
    }

    #[test]
    fn of_softmax(
        x in vec(1usize..4, 1..4).prop_flat_map(|shape| floats(&shape)),
        axis in 0usize..3,
        dtype in float_type(),
    ) {
        let axis = (axis % x.shape().len()) as u32;
        check_op(Op::Softmax { axis }, &[to(dtype, &x)], bound(dtype))?;
    }

    #[test]
    fn of_activations(
        x in vec(-30f32..30.0, 0..9),
        up in -2f32..2.0,
        f in select(Activation::ALL),
        dtype in float_type(),
        cap in 0.5f32..50.0,
    ) {
        let up = to(dtype, &tensor(&[x.len()], vec![up; x.len()]));
        let x = to(dtype, &tensor(&[x.len()], x));
        check_op(Op::Activation(f), std::slice::from_ref(&x), bound(dtype))?;
        check_op(Op::SoftCap { cap }, std::slice::from_ref(&x), bound(dtype))?;
        check_op(Op::GatedActivation(f), &[x, up], bound(dtype))?;
    }

    #[test]
    fn of_causal_mask(
        positions in vec(-2i32..9, 0..5),
        keys in 0u32..8,
        window in proptest::option::of(1u32..5),
        hidden in select(vec![-1e9f32, f32::MIN, 0.0]),
    ) {
        let keys = Dim::Fixed(keys);
        let mask = Op::CausalMask { keys, window, hidden };
        check_op(mask, &[tensor(&[positions.len()], positions)], Tolerance::EXACT)?;
    }

    #[test]
    fn of_conv1d(
        (x, w, bias, groups) in (1usize..3, 1usize..3, 1usize..3, 1usize..3, 1usize..4, 1usize..8)
            .prop_flat_map(|(batch, per_group, out, groups, taps, length)| (
                floats(&[batch, groups * per_group, length + 4]),
                floats(&[groups * out, per_group, taps]),
                floats(&[groups * out]),
                Just(groups as u32),
            )),
        stride in 1u32..3,
        padding in 0u32..3,
        dilation in 1u32..3,
        with_bias in any::<bool>(),
    ) {
        let conv = Op::Conv1d { stride, padding, dilation, groups };
        let mut operands = vec![x, w];
        if with_bias {
            operands.push(bias);
        }
        check_op(conv, &operands, Tolerance::EXACT)?;
    }

    #[test]
    fn of_rope(
        (x, factors) in (0usize..4, 1usize..3, 1usize..5).prop_flat_map(|(t, h, half)| {
            (floats(&[t, h, 2 * half + 1]), vec(0.5f32..4.0, half))
        }),
        first in 0i32..4000,
        style in select(RopeStyle::ALL),
        base in select(vec![1e4f32, 5e5]),
        scaling in scaling(),
        with_factors in any::<bool>(),
        dtype in float_type(),
    ) {
        let (tokens, half) = (x.shape()[0], factors.len());
        let positions: Vec<i32> = (0..tokens as i32).map(|t| first + t).collect();
        let mut operands = vec![to(dtype, &x), tensor(&[tokens], positions)];
        if with_factors {
            operands.push(tensor(&[half], factors));
        }
        let rope = Op::Rope { style, dims: 2 * half as u32, base, scaling };
        check_op(rope, &operands, F32_BOUND)?;
    }

    #[test]
    fn of_attention_over_operands(a in attention(), dtype in float_type()) {
        let mut operands = vec![to(dtype, &a.q), to(dtype, &a.k), to(dtype, &a.v)];
        operands.extend(a.positions().into_iter().chain(a.mask()));
        check_op(a.op(AttentionKv::Operands), &operands, F32_BOUND)?;
    }

    #[test]
    fn of_attention_over_states(a in attention(), spare in 0usize..3) {
        // All rows are appended by the graph itself, before the attention: P is 0.
        let (rows, capacity) = (a.k.shape()[0], a.k.shape()[0] + spare);
        let (mut graph, mut inputs) = (Graph::new("stateful"), Vec::new());
        let mut values = Vec::new();
        for (name, tensor) in [("q", &a.q), ("k", &a.k), ("v", &a.v)] {
            values.push(graph.add_input(name, type_of(tensor)).unwrap());
            inputs.push(tensor.clone());
        }
        let mut states = Vec::new();
        for (name, rows) in [("keys", &a.k), ("values", &a.v)] {
            let mut shape = type_of(rows).shape;
            shape.0[0] = Dim::CAPACITY;
            states.push(graph.add_state(name, TensorType::new(DType::F32, shape), 0).unwrap());
        }
        for (i, &state) in states.iter().enumerate() {
            let append = Op::KvAppend { state, at: Dim::Fixed(0) };
            graph.add_node(format!("append{i}"), append, &[values[i + 1]]).unwrap();
        }
        let mut operands = vec![values[0]];
        if let Some(positions) = a.positions() {
            operands.push(graph.add_input("positions", type_of(&positions)).unwrap());
            inputs.push(positions);
        }
        if a.masked {
            let shape = [Dim::Fixed(a.q.shape()[0] as u32), Dim::CAPACITY];
            operands.push(graph.add_input("mask", TensorType::new(DType::F32, shape)).unwrap());
            let mask = vec![0.5; a.q.shape()[0] * capacity];
            inputs.push(tensor(&[a.q.shape()[0], capacity], mask));
        }
        let kv = AttentionKv::State { k: states[0], v: states[1] };
        let y = graph.add("attention", a.op(kv), &operands).unwrap();
        graph.set_output(y).unwrap();
        let symbols = SymbolValues::step(rows as u32, 0, 0, capacity as u32);
        check(&graph, &inputs, &symbols, F32_BOUND)?;
        prop_assert_eq!(states, vec![StateId(0), StateId(1)]);
    }
}

fn scaling() -> impl Strategy<Value = RopeScaling> {
    let yarn = (1f32..8.0, 0f32..1.0).prop_map(|(factor, ext_factor)| RopeScaling::Yarn {
        factor,
        original_context: 2048,
        ext_factor,
        attn_factor: 1.25,
        beta_fast: 32.0,
        beta_slow: 1.0,
    });
    prop_oneof![
        Just(RopeScaling::None),
        (1f32..8.0).prop_map(|factor| RopeScaling::Linear { factor }),
        yarn,
        (1f32..32.0).prop_map(|factor| RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        }),
    ]
}

/// Operands and attributes of an attention whose queries all see a key.
#[derive(Clone, Debug)]
struct Attention {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Vec<f32>,
    masked: bool,
    causal: bool,
    window: Option<u32>,
    soft_cap: Option<f32>,
    scale: f32,
}

impl Attention {
    fn op(&self, kv: AttentionKv) -> Op {
        Op::Attention {
            kv,
            causal: self.causal,
            mask: self.masked,
            scale: self.scale,
            soft_cap: self.soft_cap,
            window: self.window.filter(|_| self.causal),
        }
    }

    /// The last positions, one for each query.
    fn positions(&self) -> Option<Tensor> {
        let (tokens, keys) = (self.q.shape()[0], self.k.shape()[0]);
        let positions: Vec<i32> = (keys - tokens..keys).map(|p| p as i32).collect();
        self.causal.then(|| tensor(&[tokens], positions))
    }

    fn mask(&self) -> Option<Tensor> {
        let shape = [self.q.shape()[0], self.k.shape()[0]];
        let mask = self.mask[..shape[0] * shape[1]].to_vec();
        self.masked.then(|| tensor(&shape, mask))
    }
}

fn attention() -> impl Strategy<Value = Attention> {
    let sizes = (
        0usize..4,
        1usize..4,
        1usize..3,
        1usize..3,
        1usize..9,
        1usize..4,
    );
    let operands = sizes.prop_flat_map(|(tokens, cached, kv_heads, group, d, dv)| {
        let keys = tokens + cached;
        (
            floats(&[tokens, kv_heads * group, d]),
            floats(&[keys, kv_heads, d]),
            floats(&[keys, kv_heads, dv]),
        )
    });
    let options = (
        vec(-2f32..2.0, 3 * 6),
        any::<(bool, bool)>(),
        proptest::option::of(1u32..5),
        proptest::option::of(0.5f32..20.0),
        0.1f32..1.0,
    );
    (operands, options).prop_map(
        |((q, k, v), (mask, (masked, causal), window, soft_cap, scale))| Attention {
            q,
            k,
            v,
            mask,
            masked,
            causal,
            window,
            soft_cap,
            scale,
        },
    )
}
