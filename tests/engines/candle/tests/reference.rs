//! The engine in this process against the slow reference.
#![allow(unsafe_code)] // fills and reads buffers

use std::sync::Arc;
use std::time::Duration;

use anynpu_cpu::reference::{StateStore, States, Tensor, TensorRef, evaluate};
use anynpu_engine_candle::CandleDriver;
use anynpu_hal::{
    Bounds, Buffer, BufferDesc, CompileOptions, Device, Driver, Entry, Extent, HalError,
    OpenOptions, ReasonCode, Submission, Support, Timeline, WeightSource, WeightView, read_bytes,
    write_bytes,
};
use anynpu_ir::{
    AttentionKv, BinaryOp, DType, Dim, Graph, Op, RopeScaling, RopeStyle, Symbol, SymbolValues,
    TensorType, ValueId, block,
};

#[derive(Debug, Default)]
struct Named(Vec<(String, DType, Vec<u8>)>);

impl WeightSource for Named {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let found = self.0.iter().find(|w| w.0 == name);
        let (_, dtype, bytes) = found.ok_or_else(|| HalError::Weight {
            name: name.into(),
            why: "absent".into(),
        })?;
        Ok(WeightView {
            dtype: *dtype,
            bytes: bytes.into(),
        })
    }
}

fn open() -> Arc<dyn Device> {
    let driver = CandleDriver::new();
    let found = driver.enumerate().unwrap();
    driver.open(&found[0], &OpenOptions::default()).unwrap()
}

fn ty(dtype: DType, dims: &[Dim]) -> TensorType {
    TensorType::new(dtype, dims.to_vec())
}

/// Numbers that look random, within ±2.
fn floats(seed: u32, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2654435761) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x % 4001) as f32 / 1000.0 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

fn tensor(shape: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::from_f32(DType::F32, shape, values).unwrap()
}

/// What a run left.
struct Left {
    outputs: Vec<Tensor>,
    states: Vec<Vec<u8>>,
}

/// Runs all of `graph` with states kept in `kept`, which hold `states` before.
fn run(
    graph: &Arc<Graph>,
    weights: &Arc<Named>,
    inputs: &[Tensor],
    symbols: &SymbolValues,
    kept: DType,
    states: &[Vec<u8>],
) -> Result<Left, HalError> {
    let device = open();
    let mut bounds = Bounds::new();
    for s in (0..Symbol::COUNT as u16).map(Symbol) {
        bounds = bounds.with(s, Extent::AtMost(symbols.get(s)));
    }
    let entry = Entry {
        name: "all".into(),
        graph: graph.clone(),
        nodes: 0..graph.nodes().len() as u32,
        bounds,
    };
    let options = CompileOptions::new(kept);
    let module = device.compile(&[entry], &options, weights.clone(), &mut |_, _| true)?;
    let info = &module.entries()[0];
    let filled = |data: &[u8]| {
        let buffer = device.allocate(&BufferDesc::host("buffer", data.len()))?;
        // SAFETY: nothing else uses the buffer yet.
        unsafe { write_bytes(&*buffer, 0, data)? };
        Ok(buffer)
    };
    let bound = info.inputs.iter().map(|port| {
        let at = graph
            .inputs()
            .iter()
            .position(|&v| v == port.value)
            .unwrap();
        filled(&inputs[at].to_bytes())
    });
    let bound = bound.collect::<Result<Vec<Arc<dyn Buffer>>, HalError>>()?;
    let outputs = info
        .outputs
        .iter()
        .map(|p| filled(&vec![0; p.ty.bytes(symbols).unwrap()]));
    let outputs = outputs.collect::<Result<Vec<_>, HalError>>()?;
    let homes = states.iter().map(|s| filled(s));
    let homes = homes.collect::<Result<Vec<_>, HalError>>()?;
    let done = Timeline::new("test").point(1);
    device.queue().submit(&Submission {
        module: &module,
        entry: 0,
        inputs: &bound,
        outputs: &outputs,
        states: &homes,
        sequences: &[],
        symbols: *symbols,
        wait: &[],
        signal: &done,
    })?;
    done.wait(Duration::from_secs(60))?;
    assert_eq!(device.queue().counters().nodes, graph.nodes().len() as u64);
    let read = |buffer: &Arc<dyn Buffer>| {
        let mut bytes = vec![0; buffer.desc().bytes];
        // SAFETY: the run is done.
        unsafe { read_bytes(&**buffer, 0, &mut bytes)? };
        Ok(bytes)
    };
    let result = |(port, buffer): (&anynpu_hal::Port, &Arc<dyn Buffer>)| {
        let shape = port.ty.shape.resolve(symbols);
        Ok(Tensor::from_bytes(port.ty.dtype, shape, &read(buffer)?).unwrap())
    };
    Ok(Left {
        outputs: info
            .outputs
            .iter()
            .zip(&outputs)
            .map(result)
            .collect::<Result<_, HalError>>()?,
        states: homes.iter().map(read).collect::<Result<_, HalError>>()?,
    })
}

/// Runs `graph` on the engine and on the reference and compares results and states.
fn compare(
    graph: Graph,
    weights: Named,
    inputs: &[Tensor],
    symbols: &SymbolValues,
    kept: DType,
    bound: f32,
) {
    let (graph, weights) = (Arc::new(graph), Arc::new(weights));
    let mut store = StateStore::kept(&graph, symbols, Some(kept)).unwrap();
    let whole = graph.whole();
    let bytes = |store: &StateStore| -> Vec<Vec<u8>> {
        let state = |&id| {
            store
                .get(id)
                .unwrap()
                .tensor
                .to_tensor()
                .unwrap()
                .to_bytes()
        };
        whole.states().iter().map(state).collect()
    };
    let before = bytes(&store);
    let own = |v: &ValueId| graph.inputs().iter().position(|i| i == v).unwrap();
    let views: Vec<TensorRef<'_>> = whole
        .inputs()
        .iter()
        .map(|v| inputs[own(v)].view())
        .collect();
    let expected = evaluate(&whole, &views, &*weights, &mut store, symbols).unwrap();
    let found = run(&graph, &weights, inputs, symbols, kept, &before).unwrap();
    for (found, expected) in found.outputs.iter().zip(&expected) {
        assert_eq!(found.shape(), expected.shape());
        let (f, e) = (found.to_f32().unwrap(), expected.to_f32().unwrap());
        let largest = e.iter().fold(1e-30f32, |m, x| m.max(x.abs()));
        for (i, (f, e)) in f.iter().zip(&e).enumerate() {
            let same = f == e || (f.is_nan() && e.is_nan()) || (f - e).abs() <= bound * largest;
            assert!(same, "{f} is not {e} at {i}: {graph}");
        }
    }
    for ((id, found), expected) in whole.states().iter().zip(&found.states).zip(bytes(&store)) {
        let shape = graph.state(*id).ty.shape.resolve(symbols);
        let numbers = |bytes: &[u8]| {
            let home = Tensor::from_bytes(kept, &shape[..], bytes).unwrap();
            home.to_f32().unwrap()
        };
        let pairs = numbers(found).into_iter().zip(numbers(&expected));
        pairs.for_each(|(f, e)| assert!((f - e).abs() <= 2.0 * bound, "{f} is not {e}: {graph}"));
    }
}

const F: fn(u32) -> Dim = Dim::Fixed;

#[test]
fn every_block_format_is_decoded_by_the_engine_to_the_very_same_numbers() {
    for dtype in DType::ALL.into_iter().filter(|d| d.is_block()) {
        let (rows, cols) = (5usize, dtype.block_len() * 2);
        let mut bytes: Vec<u8> = floats(7, rows * dtype.row_bytes(cols).unwrap())
            .iter()
            .map(|x| (x * 1000.0) as i32 as u8)
            .collect();
        // scales of any bits may be infinite: keep the exponents of 16-bit numbers small
        for block in bytes.chunks_mut(dtype.block_bytes()) {
            let at = |block: &mut [u8], i: usize| block[i] &= 0xbf;
            match dtype {
                DType::Q6_K => at(block, 209),
                _ => [1, 3].into_iter().for_each(|i| at(block, i)),
            }
        }
        let mut wanted = vec![0f32; rows * cols];
        block::dequantize(dtype, &bytes, &mut wanted).unwrap();
        let mut g = Graph::new("blocks");
        let table = g
            .add_weight("table", ty(dtype, &[F(rows as u32), F(cols as u32)]))
            .unwrap();
        let ids = g
            .add_input("ids", ty(DType::I32, &[F(rows as u32)]))
            .unwrap();
        let y = g.add("rows", Op::Embedding, &[table, ids]).unwrap();
        g.set_output(y).unwrap();
        let weights = Arc::new(Named(vec![("table".into(), dtype, bytes)]));
        let ids = Tensor::new([rows], vec![0i32, 1, 2, 3, 4]).unwrap();
        let symbols = SymbolValues::default();
        let found = run(&Arc::new(g), &weights, &[ids], &symbols, DType::F32, &[]).unwrap();
        assert_eq!(found.outputs[0].to_f32().unwrap(), wanted, "{dtype}");
    }
}

/// A layer's attention with its states, in all that decides it.
fn attention_block(heads: u32, kv_heads: u32, soft_cap: Option<f32>, window: Option<u32>) -> Graph {
    let mut g = Graph::new("attention");
    let rows = |n| [Dim::TOKENS, F(n), F(8)];
    let q = g.add_input("q", ty(DType::F32, &rows(heads))).unwrap();
    let k = g.add_input("k", ty(DType::F32, &rows(kv_heads))).unwrap();
    let v = g.add_input("v", ty(DType::F32, &rows(kv_heads))).unwrap();
    let positions = g
        .add_input("positions", ty(DType::I32, &[Dim::TOKENS]))
        .unwrap();
    let home = ty(DType::F32, &[Dim::CAPACITY, F(kv_heads), F(8)]);
    let keys = g.add_state("keys", home.clone(), 0).unwrap();
    let values = g.add_state("values", home, 0).unwrap();
    let rope = |style| Op::Rope {
        style,
        dims: 6,
        base: 10000.0,
        scaling: RopeScaling::Linear { factor: 2.0 },
    };
    let q = g
        .add("q.rope", rope(RopeStyle::Interleaved), &[q, positions])
        .unwrap();
    let k = g
        .add("k.rope", rope(RopeStyle::HalfSplit), &[k, positions])
        .unwrap();
    for (name, state, rows) in [("k.append", keys, k), ("v.append", values, v)] {
        let at = Dim::CACHED;
        g.add_node(name, Op::KvAppend { state, at }, &[rows])
            .unwrap();
    }
    let op = Op::Attention {
        kv: AttentionKv::State { k: keys, v: values },
        causal: true,
        mask: false,
        scale: 0.35,
        soft_cap,
        window,
    };
    let y = g.add("attend", op, &[q, positions]).unwrap();
    g.set_output(y).unwrap();
    g
}

#[test]
fn attention_over_states_of_every_home_is_the_references() {
    for (heads, kv_heads) in [(4, 4), (4, 2), (6, 1)] {
        for (soft_cap, window) in [(None, None), (Some(1.5), None), (None, Some(2))] {
            for kept in [DType::F32, DType::F16, DType::BF16] {
                for tokens in [1usize, 5] {
                    let g = attention_block(heads, kv_heads, soft_cap, window);
                    let part = |seed, n: u32| {
                        let shape = [tokens, n as usize, 8];
                        tensor(&shape, floats(seed, shape.iter().product()))
                    };
                    let positions: Vec<i32> = (3..3 + tokens as i32).collect();
                    let inputs = [
                        part(1, heads),
                        part(2, kv_heads),
                        part(3, kv_heads),
                        Tensor::new([tokens], positions).unwrap(),
                    ];
                    let symbols = SymbolValues::step(tokens as u32, 3, 1, 12);
                    // an angle's sine differs in its last bits, which rounding to 16 bits may tell
                    let bound = if kept == DType::F32 { 1e-6 } else { 2e-3 };
                    compare(g, Named::default(), &inputs, &symbols, kept, bound);
                }
            }
        }
    }
}

/// `q, k, v, positions` of an attention over operands.
fn over_operands() -> Graph {
    let mut g = Graph::new("operands");
    let x = ["q", "k", "v"].map(|n| g.add_input(n, ty(DType::F32, &[F(4), F(2), F(3)])).unwrap());
    let positions = g.add_input("positions", ty(DType::I32, &[F(4)])).unwrap();
    let op = Op::Attention {
        kv: AttentionKv::Operands,
        causal: true,
        mask: false,
        scale: 1.0,
        soft_cap: None,
        window: None,
    };
    let y = g.add("attend", op, &[x[0], x[1], x[2], positions]).unwrap();
    g.set_output(y).unwrap();
    g
}

#[test]
fn hidden_rows_do_not_count_whatever_they_hold() {
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for which in [1, 2] {
            let part = |seed| floats(seed, 24);
            let mut parts = [part(4), part(5), part(6)];
            parts[which][18..].fill(poison);
            let [q, k, v] = parts.map(|p| tensor(&[4, 2, 3], p));
            let positions = Tensor::new([4], vec![0i32, 1, 2, 1]).unwrap();
            let inputs = [q, k, v, positions];
            let symbols = SymbolValues::default();
            compare(
                over_operands(),
                Named::default(),
                &inputs,
                &symbols,
                DType::F32,
                1e-6,
            );
        }
    }
}

#[test]
fn positions_and_ids_out_of_range_are_errors() {
    let parts = [1, 2, 3].map(|seed| tensor(&[4, 2, 3], floats(seed, 24)));
    let [q, k, v] = parts;
    for bad in [-1, 4, i32::MAX, i32::MIN] {
        let positions = Tensor::new([4], vec![0i32, bad, 2, 3]).unwrap();
        let inputs = [q.clone(), k.clone(), v.clone(), positions];
        let graph = Arc::new(over_operands());
        let symbols = SymbolValues::default();
        let weights = Arc::new(Named::default());
        let e = run(&graph, &weights, &inputs, &symbols, DType::F32, &[])
            .err()
            .unwrap();
        assert!(matches!(e, HalError::InvalidUse { .. }), "{e}");
        assert!(e.to_string().contains(&bad.to_string()), "{e}");
    }
}

#[test]
fn states_in_blocks_and_ops_with_other_edges_are_refused_by_name() {
    let device = open();
    let graph = Arc::new(attention_block(2, 2, None, None));
    let entry = |graph: &Arc<Graph>| Entry {
        name: "all".into(),
        graph: graph.clone(),
        nodes: 0..graph.nodes().len() as u32,
        bounds: Bounds::new(),
    };
    let none = Arc::new(Named::default());
    let mut wide = Graph::new("wide");
    let state = wide
        .add_state("s", ty(DType::F32, &[Dim::CAPACITY, F(32)]), 0)
        .unwrap();
    let y = wide.add_node("read", Op::StateRead { state }, &[]).unwrap();
    wide.set_output(y[0]).unwrap();
    let wide = [entry(&Arc::new(wide))];
    let options = CompileOptions::new(DType::Q8_0);
    let e = device
        .compile(&wide, &options, none.clone(), &mut |_, _| true)
        .unwrap_err();
    let HalError::CompileRejected { nodes, .. } = &e else {
        panic!("{e}");
    };
    assert_eq!(
        (nodes.len(), nodes[0].1.code),
        (1, ReasonCode::State),
        "{e}"
    );

    let mut g = Graph::new("max");
    let x = g.add_input("x", ty(DType::F32, &[F(2)])).unwrap();
    let y = g.add("larger", Op::Binary(BinaryOp::Max), &[x, x]).unwrap();
    g.set_output(y).unwrap();
    let verdicts = device.support(&g.whole());
    assert!(
        matches!(&verdicts[..], [Support::No(r)] if r.detail.contains("NaN")),
        "{verdicts:?}"
    );
    let all = [entry(&Arc::new(g))];
    let options = CompileOptions::new(DType::F32);
    let e = device
        .compile(&all, &options, none.clone(), &mut |_, _| true)
        .unwrap_err();
    assert!(matches!(e, HalError::CompileRejected { .. }), "{e}");

    let verdicts = device.support(&graph.whole());
    assert!(verdicts.iter().all(|v| *v == Support::Yes), "{verdicts:?}");
}

#[test]
fn compiling_stops_when_it_is_told_to_and_says_which_weight_is_wrong() {
    let mut g = Graph::new("weights");
    let x = g.add_input("x", ty(DType::F32, &[F(1), F(4)])).unwrap();
    let w = g.add_weight("w", ty(DType::F16, &[F(3), F(4)])).unwrap();
    let y = g.add("y", Op::Linear, &[x, w]).unwrap();
    g.set_output(y).unwrap();
    let graph = Arc::new(g);
    let entries = [Entry {
        name: "all".into(),
        graph: graph.clone(),
        nodes: 0..1,
        bounds: Bounds::new(),
    }];
    let (device, options) = (open(), CompileOptions::new(DType::F32));
    let named = |dtype, n| Arc::new(Named(vec![("w".into(), dtype, vec![0; n])]));
    let stopped = device.compile(&entries, &options, named(DType::F16, 24), &mut |_, _| false);
    assert!(matches!(stopped, Err(HalError::Cancelled { .. })));
    for (dtype, n) in [(DType::F16, 23), (DType::F32, 48)] {
        let e = device
            .compile(&entries, &options, named(dtype, n), &mut |_, _| true)
            .unwrap_err();
        assert!(
            matches!(&e, HalError::Weight { name, .. } if name == "w"),
            "{e}"
        );
    }
    let module = device
        .compile(&entries, &options, named(DType::F16, 24), &mut |_, _| true)
        .unwrap();
    assert_eq!(module.resident_bytes(), 12 * 4);
}
