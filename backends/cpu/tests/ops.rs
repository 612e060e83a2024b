//! Every op with a kernel around the matrix products, through the device, against the reference.

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, RopeScaling, RopeStyle, Shape,
    SymbolValues, TensorType,
};
use common::{Numbers, Weights, assert_close, both};
use proptest::prelude::*;

/// Bound of one op in binary32 with at most a few hundred terms.
const BOUND: f32 = 2e-6;

/// A graph under construction with its operands.
struct Case {
    graph: Graph,
    weights: Weights,
    inputs: HashMap<String, Tensor>,
    numbers: Numbers,
    /// Type that states are kept in.
    kept: DType,
}

impl Case {
    fn new(seed: u64) -> Self {
        Case {
            graph: Graph::new("case"),
            weights: Weights::default(),
            inputs: HashMap::new(),
            numbers: Numbers(seed),
            kept: DType::F32,
        }
    }

    fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| scale * self.numbers.next()).collect()
    }

    fn input(&mut self, name: &str, shape: &[u32], scale: f32) -> anynpu_ir::ValueId {
        let data = self.floats(shape.iter().product::<u32>() as usize, scale);
        let dims: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
        let tensor = Tensor::new(dims, data).unwrap();
        self.inputs.insert(name.into(), tensor);
        let ty = TensorType::new(DType::F32, Shape::fixed(shape));
        self.graph.add_input(name, ty).unwrap()
    }

    fn ints(&mut self, name: &str, values: Vec<i32>) -> anynpu_ir::ValueId {
        let ty = TensorType::new(DType::I32, Shape::fixed(&[values.len() as u32]));
        let tensor = Tensor::new(vec![values.len()], values).unwrap();
        self.inputs.insert(name.into(), tensor);
        self.graph.add_input(name, ty).unwrap()
    }

    fn weight(&mut self, name: &str, shape: &[u32]) -> anynpu_ir::ValueId {
        let data = self.floats(shape.iter().product::<u32>() as usize, 2.0);
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.weights.0.insert(name.into(), (DType::F32, bytes));
        let ty = TensorType::new(DType::F32, Shape::fixed(shape));
        self.graph.add_weight(name, ty).unwrap()
    }

    fn check(self, op: Op, operands: &[anynpu_ir::ValueId], symbols: &SymbolValues) {
        self.check_with(op, operands, symbols, 0.0);
    }

    /// As [`Case::check`], with `absolute` allowed besides.
    fn check_with(
        mut self,
        op: Op,
        operands: &[anynpu_ir::ValueId],
        symbols: &SymbolValues,
        absolute: f32,
    ) {
        let what = format!("{op:?}");
        let out = self.graph.add("out", op, operands).unwrap();
        self.graph.set_output(out).unwrap();
        let graph = Arc::new(self.graph);
        let results = both(&graph, &self.weights, &self.inputs, symbols, self.kept);
        for (_, found, expected) in &results {
            let largest = expected
                .to_f32()
                .unwrap()
                .iter()
                .fold(1e-6f32, |m, v| m.max(v.abs()));
            assert_close(&what, found, expected, BOUND + absolute / largest);
        }
    }
}

/// What rounding the mean of a row of `x` can move its layer norm by, gamma being up to 2: the row's
/// largest element, an ulp of it, over its standard deviation.
fn layer_norm_rounding(x: &Tensor, width: usize, eps: f32) -> f32 {
    let values = x.to_f32().unwrap();
    let row = |row: &[f32]| {
        let n = row.len() as f64;
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let squares = row.iter().map(|&x| (f64::from(x) - mean).powi(2));
        let deviation = (squares.sum::<f64>() / n + f64::from(eps)).sqrt();
        let largest = row.iter().fold(0f32, |m, x| m.max(x.abs()));
        2.0 * f32::EPSILON * largest / deviation as f32
    };
    values.chunks(width.max(1)).map(row).fold(0.0, f32::max)
}

fn activations() -> impl Strategy<Value = Activation> {
    proptest::sample::select(Activation::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]

    #[test]
    fn norms(rows in 0u32..5, width in 1u32..200, scale in 0.01f32..100.0, beta: bool, seed: u64) {
        let mut c = Case::new(seed);
        let x = c.input("x", &[rows, width], scale);
        let w = c.weight("w", &[width]);
        c.check(Op::RmsNorm { eps: 1e-5 }, &[x, w], &SymbolValues::default());
        let mut c = Case::new(seed);
        let x = c.input("x", &[rows, width], scale);
        let mut operands = vec![x, c.weight("gamma", &[width])];
        if beta {
            operands.push(c.weight("beta", &[width]));
        }
        let rounding = layer_norm_rounding(&c.inputs["x"], width as usize, 1e-3);
        c.check_with(Op::LayerNorm { eps: 1e-3 }, &operands, &SymbolValues::default(), rounding);
    }

    #[test]
    fn activations_and_gates(act in activations(), n in 0u32..300, scale in 0.1f32..60.0, seed: u64) {
        let mut c = Case::new(seed);
        let x = c.input("x", &[n], scale);
        // far below zero a GELU is the difference of two numbers near 1, times x
        let rounding = 2.0 * f32::EPSILON * scale;
        c.check_with(Op::Activation(act), &[x], &SymbolValues::default(), rounding);
        let mut c = Case::new(seed);
        let (gate, up) = (c.input("gate", &[2, n], scale), c.input("up", &[2, n], 1.0));
        c.check_with(Op::GatedActivation(act), &[gate, up], &SymbolValues::default(), rounding);
    }

    #[test]
    fn sums_and_products(n in 0u32..300, seed: u64) {
        for op in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul] {
            let mut c = Case::new(seed);
            let (a, b) = (c.input("a", &[3, n], 4.0), c.input("b", &[3, n], 4.0));
            c.check(Op::Binary(op), &[a, b], &SymbolValues::default());
        }
    }

    #[test]
    fn caps_scales_softmax_and_splits(
        rows in 0u32..4, a in 1u32..70, b in 1u32..70, cap in 0.5f32..50.0, seed: u64,
    ) {
        let none = SymbolValues::default();
        let mut c = Case::new(seed);
        let x = c.input("x", &[rows, a], 60.0);
        c.check(Op::SoftCap { cap }, &[x], &none);
        let mut c = Case::new(seed);
        let x = c.input("x", &[rows, a], 20.0);
        c.check(Op::Softmax { axis: 1 }, &[x], &none);
        let mut c = Case::new(seed);
        let x = c.input("x", &[rows, a], 4.0);
        let ty = TensorType::new(DType::F32, []);
        let factor = c.graph.add_constant("factor", ty, cap.to_le_bytes().to_vec()).unwrap();
        c.check(Op::Binary(BinaryOp::Mul), &[x, factor], &none);
        let mut c = Case::new(seed);
        let x = c.input("x", &[rows, a + b], 4.0);
        let split = Op::Split { axis: 1, sizes: vec![a, b] };
        let parts = c.graph.add_node("parts", split, &[x]).unwrap();
        c.graph.set_output(parts[0]).unwrap();
        c.graph.set_output(parts[1]).unwrap();
        for (name, found, expected) in &both(&Arc::new(c.graph), &c.weights, &c.inputs, &none, DType::F32) {
            prop_assert_eq!(found, expected, "{}", name);
        }
    }

    #[test]
    fn every_row_with_a_vector(rows in 0u32..5, width in 1u32..200, seed: u64) {
        for op in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul] {
            let mut c = Case::new(seed);
            let (a, b) = (c.input("a", &[2, rows, width], 4.0), c.weight("b", &[width]));
            c.check(Op::Binary(op), &[a, b], &SymbolValues::default());
        }
    }

    #[test]
    fn experts_chosen_by_id(
        tokens in 0u32..5, experts in 1u32..6, chosen in 1u32..12, rows in 1u32..40,
        cols in 1u32..70, own_row: bool, seed: u64,
    ) {
        let mut c = Case::new(seed);
        let x_rows = if own_row { chosen } else { 1 };
        let x = c.input("x", &[tokens, x_rows, cols], 2.0);
        let w = c.weight("w", &[experts, rows, cols]);
        let numbers = c.floats((tokens * chosen) as usize, 1e6);
        let ids = numbers.iter().map(|n| n.abs() as i32 % experts as i32).collect::<Vec<_>>();
        let shape = [tokens, chosen];
        let dims = shape.map(|d| d as usize).to_vec();
        c.inputs.insert("ids".into(), Tensor::new(dims, ids).unwrap());
        let ids = TensorType::new(DType::I32, Shape::fixed(&shape));
        let ids = c.graph.add_input("ids", ids).unwrap();
        // terms of up to 2 · 2 may cancel out
        let rounding = 4.0 * cols as f32 * f32::EPSILON;
        c.check_with(Op::ExpertLinear, &[x, w, ids], &SymbolValues::default(), rounding);
    }

    #[test]
    fn rotary_embedding(
        tokens in 0u32..4,
        heads in 1u32..4,
        pairs in 1u32..9,
        rest in 0u32..5,
        interleaved: bool,
        factors: bool,
        first in 0i32..2000,
        seed: u64,
    ) {
        let mut c = Case::new(seed);
        let x = c.input("x", &[tokens, heads, 2 * pairs + rest], 2.0);
        let positions = c.ints("positions", (0..tokens as i32).map(|t| first + t).collect());
        let mut operands = vec![x, positions];
        if factors {
            let data: Vec<u8> = (0..pairs).flat_map(|i| (1.0 + i as f32).to_le_bytes()).collect();
            c.weights.0.insert("factors".into(), (DType::F32, data));
            let ty = TensorType::new(DType::F32, Shape::fixed(&[pairs]));
            operands.push(c.graph.add_weight("factors", ty).unwrap());
        }
        let op = Op::Rope {
            style: if interleaved { RopeStyle::Interleaved } else { RopeStyle::HalfSplit },
            dims: 2 * pairs,
            base: 10000.0,
            scaling: RopeScaling::None,
        };
        // values of up to 4 may cancel out
        c.check_with(op, &operands, &SymbolValues::default(), 64.0 * f32::EPSILON);
    }

    #[test]
    fn attention_over_operands(
        tokens in 0u32..4,
        keys in 1u32..80,
        kv_heads in 1u32..3,
        group in 1u32..11,
        dim in 1u32..40,
        v_dim in 1u32..40,
        mask: bool,
        cap: bool,
        seed: u64,
    ) {
        let mut c = Case::new(seed);
        let q = c.input("q", &[tokens, kv_heads * group, dim], 4.0);
        let k = c.input("k", &[keys, kv_heads, dim], 4.0);
        let v = c.input("v", &[keys, kv_heads, v_dim], 4.0);
        let mut operands = vec![q, k, v];
        if mask {
            operands.push(c.input("mask", &[tokens, keys], 6.0));
        }
        let op = Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            mask,
            scale: 1.0 / (dim as f32).sqrt(),
            soft_cap: cap.then_some(3.0),
            window: None,
        };
        c.check(op, &operands, &SymbolValues::default());
    }

    #[test]
    fn attention_over_states(
        tokens in 1u32..70,
        kv_heads in 1u32..3,
        group in 1u32..4,
        dim in 1u32..24,
        window in proptest::option::of(1u32..50),
        kept in proptest::sample::select(vec![DType::F32, DType::F16, DType::Q8_0]),
        seed: u64,
    ) {
        let capacity = tokens + 3;
        let dim = dim.next_multiple_of(kept.block_len() as u32);
        let mut c = Case::new(seed);
        c.kept = kept;
        let row = [kv_heads, dim];
        let shape = [Dim::CAPACITY, Dim::Fixed(row[0]), Dim::Fixed(row[1])];
        let k = c.graph.add_state("k", TensorType::new(DType::F32, shape), 0).unwrap();
        let v = c.graph.add_state("v", TensorType::new(DType::F32, shape), 0).unwrap();
        let n = tokens as usize;
        let positions: Vec<i32> = (0..tokens as i32).collect();
        let ty = TensorType::new(DType::I32, [Dim::TOKENS]);
        let positions_id = c.graph.add_input("positions", ty).unwrap();
        c.inputs.insert("positions".into(), Tensor::new(vec![n], positions).unwrap());
        let mut rows = |name: &str, heads: u32| {
            let data = c.floats(n * (heads * dim) as usize, 4.0);
            let tensor = Tensor::new(vec![n, heads as usize, dim as usize], data).unwrap();
            c.inputs.insert(name.into(), tensor);
            let shape = [Dim::TOKENS, Dim::Fixed(heads), Dim::Fixed(dim)];
            c.graph.add_input(name, TensorType::new(DType::F32, shape)).unwrap()
        };
        let (k_rows, v_rows) = (rows("k_rows", kv_heads), rows("v_rows", kv_heads));
        let q = rows("q", kv_heads * group);
        let append = |state| Op::KvAppend { state, at: Dim::CACHED };
        c.graph.add_node("append_k", append(k), &[k_rows]).unwrap();
        c.graph.add_node("append_v", append(v), &[v_rows]).unwrap();
        let op = Op::Attention {
            kv: AttentionKv::State { k, v },
            causal: true,
            mask: false,
            scale: 0.3,
            soft_cap: None,
            window,
        };
        let symbols = SymbolValues::step(tokens, 0, 0, capacity);
        c.check_with(op, &[q, positions_id], &symbols, 64.0 * f32::EPSILON);
    }
}

#[test]
fn the_reference_reads_states_of_every_type() {
    for kept in [DType::F32, DType::F16, DType::Q8_0] {
        let mut c = Case::new(7);
        c.kept = kept;
        let shape = [Dim::CAPACITY, Dim::Fixed(2), Dim::Fixed(32)];
        let ty = TensorType::new(DType::F32, shape);
        let state = c.graph.add_state("s", ty, 0).unwrap();
        let rows = c.input("rows", &[3, 2, 32], 4.0);
        let append = Op::KvAppend {
            state,
            at: Dim::CACHED,
        };
        c.graph.add_node("append", append, &[rows]).unwrap();
        let symbols = SymbolValues::step(3, 1, 0, 5);
        c.check(Op::StateRead { state }, &[], &symbols);
    }
}

#[test]
fn ops_without_a_kernel_run_on_the_reference() {
    let mut c = Case::new(3);
    let x = c.input("x", &[4, 6], 2.0);
    c.check(Op::Softmax { axis: 1 }, &[x], &SymbolValues::default());
    let mut c = Case::new(4);
    let x = c.input("x", &[4, 6], 2.0);
    c.check(
        Op::Transpose { perm: vec![1, 0] },
        &[x],
        &SymbolValues::default(),
    );
    let mut c = Case::new(5);
    let x = c.input("x", &[4, 6], 2.0);
    let w = c.weight("w", &[6]);
    c.check(Op::Binary(BinaryOp::Add), &[x, w], &SymbolValues::default());
    let mut c = Case::new(6);
    let (x, w) = (c.input("x", &[4, 6], 2.0), c.input("w", &[3, 6], 2.0));
    c.check(Op::Linear, &[x, w], &SymbolValues::default());
}
