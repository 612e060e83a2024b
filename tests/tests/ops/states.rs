//! States: what is appended is read, and attention over them is attention over their rows.

use anynpu_cpu::reference::{
    NoStates, ReferenceError, StateStore, States, Tensor, TensorRef, evaluate_node,
};
use anynpu_ir::{
    AttentionKv, DType, Dim, Graph, Op, RopeScaling, RopeStyle, Shape, StateId, Symbol,
    SymbolValues, TensorType,
};
use anynpu_tests::cases::tensor;
use anynpu_tests::run_reference;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::floats;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const D: usize = 4;

/// One layer's attention: `q`, `k`, `v` of `T` tokens are turned, appended and attended to.
fn layer(window: Option<u32>, state_type: DType) -> Graph {
    let mut g = Graph::new("layer");
    let rows = |heads: usize| [Dim::TOKENS, Dim::Fixed(heads as u32), Dim::Fixed(D as u32)];
    let of = |heads| TensorType::new(DType::F32, rows(heads));
    let q = g.add_input("q", of(HEADS)).unwrap();
    let k = g.add_input("k", of(KV_HEADS)).unwrap();
    let v = g.add_input("v", of(KV_HEADS)).unwrap();
    let mut shape = rows(KV_HEADS);
    shape[0] = Dim::CAPACITY;
    let state = TensorType::new(state_type, shape);
    let keys = g.add_state("keys", state.clone(), 0).unwrap();
    let values = g.add_state("values", state, 0).unwrap();
    let iota = Op::Iota {
        start: Dim::CACHED,
        length: Dim::TOKENS,
    };
    let positions = g.add("positions", iota, &[]).unwrap();
    let rope = Op::Rope {
        style: RopeStyle::HalfSplit,
        dims: D as u32,
        base: 10000.0,
        scaling: RopeScaling::None,
    };
    let q = g.add("q_turned", rope.clone(), &[q, positions]).unwrap();
    let k = g.add("k_turned", rope, &[k, positions]).unwrap();
    for (name, state, rows) in [("append_k", keys, k), ("append_v", values, v)] {
        let at = Dim::CACHED;
        g.add_node(name, Op::KvAppend { state, at }, &[rows])
            .unwrap();
    }
    let attention = Op::Attention {
        kv: AttentionKv::State { k: keys, v: values },
        causal: true,
        mask: false,
        scale: 0.5,
        soft_cap: None,
        window,
    };
    let y = g.add("y", attention, &[q, positions]).unwrap();
    g.set_output(y).unwrap();
    g
}

/// Rows `range` of each of `inputs`.
fn rows(inputs: &[Tensor], range: std::ops::Range<usize>) -> Vec<Tensor> {
    let cut = |t: &Tensor| {
        let width: usize = t.shape()[1..].iter().product();
        let mut shape = t.shape().to_vec();
        shape[0] = range.len();
        let all = t.to_f32().unwrap();
        tensor(&shape, &all[range.start * width..range.end * width])
    };
    inputs.iter().map(cut).collect()
}

/// Runs `graph` over `inputs` in steps that end at `ends`, and joins what it gives.
fn in_steps(
    graph: &Graph,
    inputs: &[Tensor],
    ends: &[usize],
    capacity: usize,
) -> (Vec<f32>, StateStore) {
    let at = |t: usize, p: usize| SymbolValues::step(t as u32, p as u32, 0, capacity as u32);
    let mut states = StateStore::new(graph, &at(0, 0)).unwrap();
    let (mut out, mut start) = (Vec::new(), 0);
    for &end in ends {
        let inputs = rows(inputs, start..end);
        let symbols = at(end - start, start);
        let y = run_reference(graph, &inputs, &mut states, &symbols).unwrap();
        out.extend(y[0].to_f32().unwrap());
        start = end;
    }
    (out, states)
}

fn tokens() -> impl Strategy<Value = Vec<Tensor>> {
    (1usize..9).prop_flat_map(|t| {
        let [q, k, v] = [HEADS, KV_HEADS, KV_HEADS].map(|heads| floats(&[t, heads, D]));
        (q, k, v).prop_map(|(q, k, v)| vec![q, k, v])
    })
}

proptest! {
    /// Exactly: a row's result depends on nothing but the rows it sees.
    #[test]
    fn prefill_in_chunks_gives_what_prefill_at_once_gives(
        inputs in tokens(),
        mut cuts in vec(0usize..9, 0..4),
        window in proptest::option::of(1u32..5),
        state_type in select(vec![DType::F32, DType::F16]),
        spare in 0usize..3,
    ) {
        let t = inputs[0].shape()[0];
        let graph = layer(window, state_type);
        cuts.iter_mut().for_each(|c| *c = (*c).min(t));
        cuts.push(t);
        cuts.sort();
        let chunked = in_steps(&graph, &inputs, &cuts, t + spare);
        let at_once = in_steps(&graph, &inputs, &[t], t + spare);
        let one_by_one: Vec<usize> = (1..=t).collect();
        let decoded = in_steps(&graph, &inputs, &one_by_one, t + spare);
        prop_assert_eq!(&chunked, &at_once);
        prop_assert_eq!(&decoded, &at_once);
    }

    /// Exactly, for states of F32.
    #[test]
    fn attention_over_states_is_attention_over_their_rows(
        inputs in tokens(),
        cached in 0usize..8,
        window in proptest::option::of(1u32..5),
        causal in any::<bool>(),
        junk in floats(&[3, KV_HEADS, D]),
    ) {
        let t = inputs[0].shape()[0];
        let cached = cached.min(t - 1);
        let graph = layer(window, DType::F32);
        // Rows past P+T hold something that must not be seen.
        let symbols = SymbolValues::step(0, 0, 0, t as u32 + 3);
        let mut states = StateStore::new(&graph, &symbols).unwrap();
        let mut append = |id: u32, at: usize, rows: &Tensor| {
            let op = Op::KvAppend { state: StateId(id), at: Dim::Fixed(at as u32) };
            evaluate_node("append", &op, &[rows.view()], &mut states, &symbols).unwrap();
        };
        for (id, all) in [(0, &inputs[1]), (1, &inputs[2])] {
            append(id, t, &junk);
            let all = std::slice::from_ref(all);
            append(id, cached, &rows(all, cached..t)[0]);
            append(id, 0, &rows(all, 0..cached)[0]);
        }
        let positions: Vec<i32> = (cached..t).map(|p| p as i32).collect();
        let positions = tensor(&[t - cached], positions);
        let op = |kv| Op::Attention {
            kv,
            causal,
            mask: false,
            scale: 0.5,
            soft_cap: None,
            window: window.filter(|_| causal),
        };
        let q = &rows(&inputs, cached..t)[0];
        let positions: Vec<TensorRef<'_>> = causal.then(|| positions.view()).into_iter().collect();
        let step = SymbolValues::step((t - cached) as u32, cached as u32, 0, t as u32 + 3);
        let kv = AttentionKv::State { k: StateId(0), v: StateId(1) };
        let operands = [&[q.view()], &positions[..]].concat();
        let found = evaluate_node("y", &op(kv), &operands, &mut states, &step).unwrap();
        let operands = [&[q.view(), inputs[1].view(), inputs[2].view()], &positions[..]].concat();
        let direct = op(AttentionKv::Operands);
        let expected = evaluate_node("y", &direct, &operands, &mut NoStates, &step).unwrap();
        prop_assert_eq!(found, expected);
    }

    /// Along any axis, at any row, in any type; what is past the capacity is refused and changes
    /// nothing.
    #[test]
    fn what_is_appended_is_read(
        shape in [1usize..4, 1usize..4, 1usize..4],
        axis in 0usize..3,
        writes in vec((0u32..5, 0usize..4, -2f32..2.0), 0..5),
        dtype in select(vec![DType::F32, DType::F16, DType::BF16]),
    ) {
        let mut graph = Graph::new("state");
        let dims: Vec<u32> = shape.iter().map(|&d| d as u32).collect();
        let ty = TensorType::new(dtype, Shape::fixed(&dims));
        graph.add_state("s", ty, axis as u32).unwrap();
        let symbols = SymbolValues::default();
        let mut states = StateStore::new(&graph, &symbols).unwrap();
        let mut expected = vec![0f32; shape.iter().product()];
        for (at, n, first) in writes {
            let mut rows_shape = shape;
            rows_shape[axis] = n;
            let count: usize = rows_shape.iter().product();
            let rows: Vec<f32> = (0..count).map(|i| first + i as f32 * 0.3).collect();
            let rows = tensor(&rows_shape, rows);
            let before = states.clone();
            let op = Op::KvAppend { state: StateId(0), at: Dim::Fixed(at) };
            let outcome = evaluate_node("append", &op, &[rows.view()], &mut states, &symbols);
            if at as usize + n > shape[axis] {
                let error = outcome.unwrap_err().to_string();
                let end = at as usize + n;
                let text = format!("rows {at}..{end} of state 's' are past its {}", shape[axis]);
                prop_assert!(error.contains(&text), "{}", error);
                prop_assert_eq!(&states, &before);
                continue;
            }
            prop_assert_eq!(outcome.unwrap(), vec![]);
            let rounded = Tensor::from_f32(dtype, rows_shape, rows.to_f32().unwrap()).unwrap();
            let values = rounded.to_f32().unwrap();
            for (i, value) in values.into_iter().enumerate() {
                // The index of element i along each axis, moved by `at` along one.
                let mut index = [
                    i / (rows_shape[1] * rows_shape[2]),
                    i / rows_shape[2] % rows_shape[1],
                    i % rows_shape[2],
                ];
                index[axis] += at as usize;
                expected[(index[0] * shape[1] + index[1]) * shape[2] + index[2]] = value;
            }
        }
        let read = Op::StateRead { state: StateId(0) };
        let found = evaluate_node("read", &read, &[], &mut states, &symbols).unwrap();
        prop_assert_eq!(found, vec![tensor(&shape, expected)]);
    }
}

#[test]
fn a_step_run_again_gives_the_same() {
    let graph = layer(None, DType::F16);
    let inputs = vec![
        tensor(
            &[2, HEADS, D],
            (0..32).map(|i| i as f32 * 0.1).collect::<Vec<_>>(),
        ),
        tensor(
            &[2, KV_HEADS, D],
            (0..16).map(|i| i as f32 * -0.2).collect::<Vec<_>>(),
        ),
        tensor(
            &[2, KV_HEADS, D],
            (0..16).map(|i| i as f32 * 0.3).collect::<Vec<_>>(),
        ),
    ];
    let symbols = SymbolValues::step(2, 1, 0, 4);
    let mut states = StateStore::new(&graph, &symbols).unwrap();
    let first = run_reference(&graph, &inputs, &mut states, &symbols).unwrap();
    let after = states.clone();
    let again = run_reference(&graph, &inputs, &mut states, &symbols).unwrap();
    assert_eq!((first, after), (again, states));
}

/// A causal attention over states with one query at `position`, under `symbols`.
fn query(position: i32, symbols: &SymbolValues) -> Result<Vec<Tensor>, ReferenceError> {
    let mut states = StateStore::new(&layer(None, DType::F32), symbols).unwrap();
    let op = Op::Attention {
        kv: AttentionKv::State {
            k: StateId(0),
            v: StateId(1),
        },
        causal: true,
        mask: false,
        scale: 1.0,
        soft_cap: None,
        window: None,
    };
    let q = tensor(&[1, HEADS, D], vec![1f32; HEADS * D]);
    let position = tensor(&[1], [position]);
    let operands = [q.view(), position.view()];
    evaluate_node("y", &op, &operands, &mut states, symbols)
}

#[test]
fn positions_and_rows_past_what_is_filled_are_refused() {
    let ok = SymbolValues::step(1, 2, 0, 4);
    assert!(query(2, &ok).is_ok());
    let error = query(3, &ok).unwrap_err().to_string();
    assert_eq!(
        error,
        "node 'y' (Attention): element 0 of positions is 3, must be 0 to below 3"
    );
    let full = SymbolValues::step(3, 2, 0, 4);
    let error = query(2, &full).unwrap_err().to_string();
    assert!(
        error.contains("rows 0..5 of state 'keys' are past its 4"),
        "{error}"
    );
    let empty = SymbolValues::step(0, 0, 0, 4);
    let error = query(0, &empty).unwrap_err().to_string();
    assert!(error.contains("must be 0 to below 0"), "{error}");
}

#[test]
fn states_that_are_not_bound_or_of_another_size_are_refused() {
    let symbols = SymbolValues::step(1, 0, 0, 4);
    let read = Op::StateRead { state: StateId(7) };
    let error = evaluate_node("r", &read, &[], &mut NoStates, &symbols).unwrap_err();
    assert_eq!(error.to_string(), "node 'r': state number 7 is not bound");

    let graph = layer(None, DType::F32);
    let mut states = StateStore::new(&graph, &symbols).unwrap();
    assert_eq!(states.tensor(StateId(0)).unwrap().shape(), [4, KV_HEADS, D]);
    assert!(states.get(StateId(2)).is_none() && states.get_mut(StateId(2)).is_none());
    let mut larger = symbols;
    larger.set(Symbol::CAPACITY, 5);
    let inputs = [HEADS, KV_HEADS, KV_HEADS].map(|h| tensor(&[1, h, D], vec![0f32; h * D]));
    let error = run_reference(&graph, &inputs, &mut states, &larger).unwrap_err();
    assert_eq!(
        error.to_string(),
        "state 'keys' is bound with shape [4, 2, 4], the graph declares [5, 2, 4]"
    );
}
