//! Operands that don't fit are errors, never panics, and results are what inference says.

use std::sync::LazyLock;

use anynpu_cpu::reference::{
    DataRef, NoStates, ReferenceError, StateStore, Tensor, TensorRef, evaluate_node,
};
use anynpu_ir::{
    AttentionKv, DType, Dim, Graph, Op, Shape, StateId, SymbolValues, TensorType, infer,
};
use anynpu_tests::cases::tensor;
use anynpu_tests::{cases, run_reference, type_of};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Any small tensor of any type, its bytes at random.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    (select(&DType::ALL[..]), vec(0usize..4, 0..4), any::<u64>()).prop_map(
        |(dtype, mut shape, mut seed)| {
            match shape.last_mut() {
                Some(last) => *last *= dtype.block_len(),
                None => shape.extend((dtype.is_block()).then(|| dtype.block_len())),
            }
            let n: usize = shape.iter().product();
            let bytes: Vec<u8> = (0..n / dtype.block_len() * dtype.block_bytes())
                .map(|_| {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                    // Often small, so that integers are often valid indices.
                    let byte = (seed >> 56) as u8;
                    if byte < 128 { byte % 2 } else { byte }
                })
                .collect();
            Tensor::from_bytes(dtype, shape, &bytes).unwrap()
        },
    )
}

/// The ops of all cases, and those on states, with operands that they take.
static OPS: LazyLock<Vec<(Op, Vec<Tensor>)>> = LazyLock::new(ops);

fn ops() -> Vec<(Op, Vec<Tensor>)> {
    let of_case = |case: anynpu_tests::Case| (case.graph.nodes()[0].op.clone(), case.inputs);
    let mut ops: Vec<_> = cases::all().into_iter().map(of_case).collect();
    let rows = || tensor(&[1, 2, 2], vec![0f32; 4]);
    let state = StateId(0);
    ops.push((Op::StateRead { state }, vec![]));
    for at in [0, 1, u32::MAX] {
        let at = Dim::Fixed(at);
        ops.push((Op::KvAppend { state, at }, vec![rows()]));
    }
    let attention = |causal, mask| Op::Attention {
        kv: AttentionKv::State { k: state, v: state },
        causal,
        mask,
        scale: 1.0,
        soft_cap: None,
        window: None,
    };
    ops.push((attention(false, false), vec![rows()]));
    let operands = vec![rows(), tensor(&[1], [0]), tensor(&[1, 2], [0f32, 0.0])];
    ops.push((attention(true, true), operands));
    ops
}

fn state() -> (Graph, SymbolValues) {
    let mut graph = Graph::new("state");
    let ty = TensorType::new(DType::F16, Shape::fixed(&[2, 2, 2]));
    graph.add_state("s", ty, 0).unwrap();
    (graph, SymbolValues::step(1, 0, 0, 2))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases * 8))]

    /// Each op is given its own operands with some of them replaced, dropped or added.
    #[test]
    fn operands_that_do_not_fit_are_errors(
        which in any::<Index>(),
        changes in vec((any::<Index>(), any_tensor()), 0..3),
        more in vec(any_tensor(), 0..2),
        fewer in 0usize..2,
        cached in 0u32..3,
    ) {
        let (op, mut inputs) = which.get(&OPS[..]).clone();
        for (at, tensor) in changes {
            if !inputs.is_empty() {
                let at = at.index(inputs.len());
                inputs[at] = tensor;
            }
        }
        inputs.truncate(inputs.len() - fewer.min(inputs.len()));
        inputs.extend(more);
        let (graph, mut symbols) = state();
        symbols.set(anynpu_ir::Symbol::CACHED, cached);
        let mut states = StateStore::new(&graph, &symbols).unwrap();
        let views: Vec<TensorRef<'_>> = inputs.iter().map(Tensor::view).collect();
        let found = evaluate_node("node", &op, &views, &mut states, &symbols);
        let types: Vec<TensorType> = inputs.iter().map(type_of).collect();
        let types: Vec<&TensorType> = types.iter().collect();
        match (found, infer("node", &op, &types, graph.states())) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<TensorType> = found.iter().map(type_of).collect();
                prop_assert_eq!(found, expected);
            }
            (Ok(_), Err(e)) => prop_assert!(false, "evaluated what inference refuses: {}", e),
            (Err(ReferenceError::Graph(found)), Err(e)) => prop_assert_eq!(found, e),
            (Err(e), Err(_)) => prop_assert!(false, "{} hides what inference refuses", e),
            (Err(e), Ok(_)) => {
                let by_value = matches!(
                    e,
                    ReferenceError::Index { .. }
                        | ReferenceError::NothingVisible { .. }
                        | ReferenceError::StateRows { .. }
                );
                prop_assert!(by_value, "{}", e);
            }
        }
    }

    /// A tensor given as bytes is the tensor given as elements.
    #[test]
    fn bytes_and_elements_give_the_same(which in any::<Index>()) {
        let (op, inputs) = which.get(&OPS[..]);
        let (graph, symbols) = state();
        let views: Vec<TensorRef<'_>> = inputs.iter().map(Tensor::view).collect();
        let bytes: Vec<Vec<u8>> = inputs.iter().map(Tensor::to_bytes).collect();
        let raw: Vec<TensorRef<'_>> = inputs
            .iter()
            .zip(&bytes)
            .map(|(t, bytes)| {
                let data = DataRef::Raw { dtype: t.dtype(), bytes };
                TensorRef::new(t.shape(), data).unwrap()
            })
            .collect();
        let run = |inputs: &[TensorRef<'_>]| {
            let mut states = StateStore::new(&graph, &symbols).unwrap();
            let results = evaluate_node("node", op, inputs, &mut states, &symbols);
            let results = results.map_err(|e| e.to_string());
            results.map(|r| r.iter().map(Tensor::to_bytes).collect::<Vec<_>>())
        };
        prop_assert_eq!(run(&views), run(&raw));
    }
}

#[test]
fn data_of_another_length_than_the_shape_is_refused() {
    let error = Tensor::new([2, 2], vec![1f32; 3]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a f32 tensor of shape [2, 2] takes 16 bytes, 12 given"
    );
    assert!(Tensor::from_bytes(DType::Q4_0, [1, 31], &[0; 18]).is_err());
    assert!(Tensor::from_bytes(DType::F32, [usize::MAX, 2], &[]).is_err());
    assert!(TensorRef::new(&[1], &[1i32, 2][..]).is_err());
}

#[test]
fn results_too_large_for_memory_are_refused() {
    let symbols = SymbolValues::default();
    let most = u32::MAX;
    let shape = Shape::fixed(&[most, most, most]);
    let one = tensor(&[1], [1f32]);
    let broadcast = Op::Broadcast { shape };
    let error = evaluate_node("b", &broadcast, &[one.view()], &mut NoStates, &symbols);
    let error = error.unwrap_err();
    assert!(
        matches!(error, ReferenceError::OutOfMemory { .. }),
        "{error}"
    );

    let mut graph = Graph::new("state");
    let ty = TensorType::new(DType::F32, Shape::fixed(&[most, most, most]));
    graph.add_state("s", ty, 0).unwrap();
    assert!(StateStore::new(&graph, &symbols).is_err());
}

#[test]
fn huge_shapes_without_elements_are_quick() {
    let symbols = SymbolValues::default();
    let wide = tensor::<f32>(&[u32::MAX as usize, 0, 3], []);
    for op in [
        Op::Softmax { axis: 2 },
        Op::Transpose {
            perm: vec![2, 0, 1],
        },
        Op::RmsNorm { eps: 1.0 },
    ] {
        let weight = tensor(&[3], [1f32; 3]);
        let operands = match op {
            Op::RmsNorm { .. } => vec![wide.view(), weight.view()],
            _ => vec![wide.view()],
        };
        let found = evaluate_node("n", &op, &operands, &mut NoStates, &symbols).unwrap();
        assert_eq!(found[0].to_bytes(), b"");
    }
}

#[test]
fn values_of_another_type_than_the_graph_declares_are_refused() {
    let mut graph = Graph::new("typed");
    let x = graph
        .add_input("x", TensorType::new(DType::F32, [Dim::TOKENS]))
        .unwrap();
    let y = graph.add("y", Op::SoftCap { cap: 1.0 }, &[x]).unwrap();
    graph.set_output(y).unwrap();
    let run = |x: Tensor, tokens| {
        let symbols = SymbolValues::step(tokens, 0, 0, 0);
        run_reference(&graph, &[x], &mut NoStates, &symbols)
    };
    assert!(run(tensor(&[2], [1f32, 2.0]), 2).is_ok());
    let error = run(tensor(&[2], [1f32, 2.0]), 3).unwrap_err().to_string();
    assert_eq!(error, "value 'x' is f32[2], the graph declares f32[3]");
    let error = run(tensor(&[2], [1i32, 2]), 2).unwrap_err().to_string();
    assert_eq!(error, "value 'x' is i32[2], the graph declares f32[2]");
}
