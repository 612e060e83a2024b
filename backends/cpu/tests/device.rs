//! The CPU device against the reference: a small decoder, run whole and in chunks.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anynpu_cpu::kernels::Features;
use anynpu_cpu::reference::{StateStore, Tensor, TensorRef, evaluate};
use anynpu_hal::{
    Buffer, BufferDesc, CompileOptions, Device, HalError, Module, Submission, Support, Timeline,
};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, RopeScaling, RopeStyle, Shape,
    SymbolValues, TensorType,
};

use common::{Numbers, Weights, both_with, buffer, contents, open};

const HIDDEN: u32 = 64;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 16;
const VOCABULARY: u32 = 48;
const CAPACITY: u32 = 32;

/// A decoder of one layer with q, k, v, a gated feed-forward and a tied head.
fn decoder() -> Graph {
    let mut g = Graph::new("decoder");
    let ints = |d: Dim| TensorType::new(DType::I32, [d]);
    let tokens = g.add_input("tokens", ints(Dim::TOKENS)).unwrap();
    let positions = g.add_input("positions", ints(Dim::TOKENS)).unwrap();
    let rows = g.add_input("output_rows", ints(Dim::OUTPUTS)).unwrap();
    let kv_shape = [Dim::CAPACITY, Dim::Fixed(KV_HEADS), Dim::Fixed(HEAD_DIM)];
    let k_state = g
        .add_state("k", TensorType::new(DType::F32, kv_shape), 0)
        .unwrap();
    let v_state = g
        .add_state("v", TensorType::new(DType::F32, kv_shape), 0)
        .unwrap();
    let mut weight = |name: &str, dtype, dims: &[u32]| {
        g.add_weight(name, TensorType::new(dtype, Shape::fixed(dims)))
            .unwrap()
    };
    let table = weight("table", DType::Q8_0, &[VOCABULARY, HIDDEN]);
    let norm = weight("norm", DType::F32, &[HIDDEN]);
    let wq = weight("wq", DType::Q4_0, &[HEADS * HEAD_DIM, HIDDEN]);
    let wk = weight("wk", DType::F16, &[KV_HEADS * HEAD_DIM, HIDDEN]);
    let wv = weight("wv", DType::F32, &[KV_HEADS * HEAD_DIM, HIDDEN]);
    let bias = weight("bias", DType::F32, &[KV_HEADS * HEAD_DIM]);
    let wo = weight("wo", DType::Q8_0, &[HIDDEN, HEADS * HEAD_DIM]);
    let gate = weight("gate", DType::Q5_1, &[96, HIDDEN]);
    let up = weight("up", DType::Q4_1, &[96, HIDDEN]);
    let down = weight("down", DType::Q5_0, &[HIDDEN, 96]);
    let x = g.add("embed", Op::Embedding, &[table, tokens]).unwrap();
    let h = g
        .add("attn_norm", Op::RmsNorm { eps: 1e-5 }, &[x, norm])
        .unwrap();
    let q = g.add("q", Op::Linear, &[h, wq]).unwrap();
    let k = g.add("k_rows", Op::Linear, &[h, wk]).unwrap();
    let v = g.add("v_rows", Op::Linear, &[h, wv, bias]).unwrap();
    let mut heads = |name: &str, x, n: u32| {
        let shape = Shape::from([Dim::TOKENS, Dim::Fixed(n), Dim::Fixed(HEAD_DIM)]);
        g.add(name, Op::Reshape { shape }, &[x]).unwrap()
    };
    let (q, k, v) = (
        heads("qh", q, HEADS),
        heads("kh", k, KV_HEADS),
        heads("vh", v, KV_HEADS),
    );
    let rope = Op::Rope {
        style: RopeStyle::Interleaved,
        dims: HEAD_DIM,
        base: 10000.0,
        scaling: RopeScaling::None,
    };
    let q = g.add("q_rope", rope.clone(), &[q, positions]).unwrap();
    let k = g.add("k_rope", rope, &[k, positions]).unwrap();
    let append = |state| Op::KvAppend {
        state,
        at: Dim::CACHED,
    };
    g.add_node("k_append", append(k_state), &[k]).unwrap();
    g.add_node("v_append", append(v_state), &[v]).unwrap();
    let attention = Op::Attention {
        kv: AttentionKv::State {
            k: k_state,
            v: v_state,
        },
        causal: true,
        mask: false,
        scale: 0.25,
        soft_cap: None,
        window: None,
    };
    let a = g.add("attention", attention, &[q, positions]).unwrap();
    let flat = Shape::from([Dim::TOKENS, Dim::Fixed(HEADS * HEAD_DIM)]);
    let a = g.add("flat", Op::Reshape { shape: flat }, &[a]).unwrap();
    let a = g.add("o", Op::Linear, &[a, wo]).unwrap();
    let x = g
        .add("residual", Op::Binary(BinaryOp::Add), &[x, a])
        .unwrap();
    let h = g
        .add("ffn_norm", Op::RmsNorm { eps: 1e-5 }, &[x, norm])
        .unwrap();
    let gate = g.add("ffn_gate", Op::Linear, &[h, gate]).unwrap();
    let up = g.add("ffn_up", Op::Linear, &[h, up]).unwrap();
    let f = g
        .add(
            "ffn_act",
            Op::GatedActivation(Activation::Silu),
            &[gate, up],
        )
        .unwrap();
    let f = g.add("ffn_down", Op::Linear, &[f, down]).unwrap();
    let x = g
        .add("residual2", Op::Binary(BinaryOp::Add), &[x, f])
        .unwrap();
    let x = g.add("picked", Op::Gather { axis: 0 }, &[x, rows]).unwrap();
    let x = g
        .add("last_norm", Op::RmsNorm { eps: 1e-5 }, &[x, norm])
        .unwrap();
    let logits = g.add("logits", Op::Linear, &[x, table]).unwrap();
    g.set_output(logits).unwrap();
    g
}

/// Random weights: random codes in every block, scales of about 0.02.
fn random_weights(graph: &Graph) -> Weights {
    let mut numbers = Numbers(1);
    let small_f16 = |n: f32| half::f16::from_f32(0.02 + 0.01 * n).to_le_bytes();
    let mut all = HashMap::new();
    for w in graph.weights() {
        let ty = graph.ty(w.value);
        let elements = ty.shape.elements(&SymbolValues::default()).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..elements / ty.dtype.block_len() {
            match ty.dtype {
                DType::F32 => bytes.extend(numbers.next().to_le_bytes()),
                DType::F16 => bytes.extend(half::f16::from_f32(numbers.next()).to_le_bytes()),
                dtype => {
                    let scales = if matches!(dtype, DType::Q4_1 | DType::Q5_1) {
                        2
                    } else {
                        1
                    };
                    for _ in 0..scales {
                        bytes.extend(small_f16(numbers.next()));
                    }
                    for _ in 2 * scales..dtype.block_bytes() {
                        bytes.push((numbers.next() * 256.0) as i8 as u8);
                    }
                }
            }
        }
        all.insert(w.name.clone(), (ty.dtype, bytes));
    }
    Weights(all)
}

/// One sequence on one device.
struct Runner {
    device: Arc<dyn Device>,
    module: Arc<dyn Module>,
    states: Vec<Arc<dyn Buffer>>,
    cached: u32,
}

impl Runner {
    fn new(
        graph: &Arc<Graph>,
        weights: &Arc<Weights>,
        threads: usize,
        features: Option<&str>,
    ) -> Self {
        let options = CompileOptions::new(DType::F32);
        Runner::with(graph, weights, threads, features, &options)
    }

    fn with(
        graph: &Arc<Graph>,
        weights: &Arc<Weights>,
        threads: usize,
        features: Option<&str>,
        options: &CompileOptions,
    ) -> Self {
        let device = open(threads, features);
        let limits = SymbolValues::step(CAPACITY, CAPACITY, CAPACITY, CAPACITY);
        let entry = common::entry(graph, &limits);
        let module = device
            .compile(&[entry], options, weights.clone(), &mut |_, _| true)
            .unwrap();
        let bytes = (CAPACITY * KV_HEADS * HEAD_DIM * 4) as usize;
        let states = ["k", "v"]
            .map(|n| device.allocate(&BufferDesc::host(n, bytes)).unwrap())
            .to_vec();
        Runner {
            device,
            module,
            states,
            cached: 0,
        }
    }

    fn input(&self, data: &[i32]) -> Arc<dyn Buffer> {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        buffer(self.device.as_ref(), "input", &bytes)
    }

    fn try_step(&mut self, tokens: &[i32], rows: &[i32]) -> Result<Vec<f32>, HalError> {
        let count = tokens.len() as u32;
        let positions: Vec<i32> = (self.cached..self.cached + count)
            .map(|p| p as i32)
            .collect();
        let graph_inputs = [tokens, &positions[..], rows];
        // The subgraph lists inputs by first use; this graph uses them in declaration order.
        let inputs: Vec<_> = graph_inputs.iter().map(|d| self.input(d)).collect();
        let bytes = rows.len() * VOCABULARY as usize * 4;
        let output = buffer(self.device.as_ref(), "logits", &vec![0; bytes]);
        let timeline = Timeline::new("test");
        let point = timeline.point(1);
        self.device.queue().submit(&Submission {
            module: &self.module,
            entry: 0,
            inputs: &inputs,
            outputs: std::slice::from_ref(&output),
            states: &self.states,
            sequences: &[],
            symbols: SymbolValues::step(count, self.cached, rows.len() as u32, CAPACITY),
            wait: &[],
            signal: &point,
        })?;
        point.wait(Duration::from_secs(60))?;
        self.cached += count;
        let out = contents(output.as_ref());
        Ok(out
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect())
    }

    fn step(&mut self, tokens: &[i32], rows: &[i32]) -> Vec<f32> {
        self.try_step(tokens, rows).unwrap()
    }
}

const PROMPT: [i32; 11] = [1, 7, 3, 47, 0, 12, 30, 7, 7, 21, 5];

fn setup() -> (Arc<Graph>, Arc<Weights>) {
    let graph = Arc::new(decoder());
    let weights = Arc::new(random_weights(&graph));
    (graph, weights)
}

/// Whether the processor offers one of the levels: then, where `precision` is permitted, the decoder is checked to compute
/// in it, to give what it gives in 32 bits but for so much of the largest number, and the same for all chunks and threads.
fn narrower(precision: DType, levels: &[&str], within: f32) -> bool {
    let (graph, weights) = setup();
    let rows: Vec<i32> = (0..PROMPT.len() as i32).collect();
    let mut options = CompileOptions::new(DType::F32);
    let plain = Runner::with(&graph, &weights, 1, None, &options).step(&PROMPT, &rows);
    options.precision = Some(precision);
    let mut without = Runner::with(&graph, &weights, 1, Some("generic"), &options);
    assert_eq!(without.module.computes_in(), None);
    assert_eq!(without.step(&PROMPT, &rows), plain);
    let mut narrow = Runner::with(&graph, &weights, 1, None, &options);
    if !levels.iter().any(|level| Features::parse(level).is_ok()) {
        assert_eq!(narrow.module.computes_in(), None);
        return false;
    }
    assert_eq!(narrow.module.computes_in(), Some(precision.name()));
    let found = narrow.step(&PROMPT, &rows);
    let largest = plain.iter().fold(0f32, |a, x| a.max(x.abs()));
    assert_ne!(found, plain);
    for (f, p) in found.iter().zip(&plain) {
        assert!(
            (f - p).abs() < within * largest,
            "{f} instead of {p} of {largest}"
        );
    }
    for threads in [1, 3] {
        for chunk in [1, 2, 5] {
            let mut runner = Runner::with(&graph, &weights, threads, None, &options);
            let mut logits = Vec::new();
            for part in PROMPT.chunks(chunk) {
                logits = runner.step(part, &[part.len() as i32 - 1]);
            }
            assert_eq!(logits, found[found.len() - logits.len()..]);
        }
    }
    true
}

#[test]
fn float_products_are_in_bf16_where_that_is_permitted_and_the_processor_offers_it() {
    if !narrower(DType::BF16, &["avx512bf16"], 0.02) && cfg!(target_arch = "x86_64") {
        println!("SKIPPED products in BF16: this CPU has no avx512bf16 instructions");
    }
}

/// Activations keep 11 significant bits and weights all of theirs; those that are quantised after that may come out another
/// way.
#[test]
fn products_with_f16_are_in_f16_where_that_is_permitted_and_the_processor_offers_it() {
    let levels = ["dotprod-fhm", "i8mm-fhm"];
    if !narrower(DType::F16, &levels, 0.01) && cfg!(target_arch = "aarch64") {
        println!("SKIPPED products in F16: this CPU has no fhm instructions");
    }
}

#[test]
fn of_a_model_in_bf16_wider_matrices_are_multiplied_as_they_are() {
    let mut g = Graph::new("router");
    let x = g
        .add_input(
            "x",
            TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(64)]),
        )
        .unwrap();
    let mut weights = Weights::default();
    let mut numbers = Numbers(3);
    for (name, dtype) in [("rounded", DType::BF16), ("exact", DType::F32)] {
        let ty = TensorType::new(dtype, Shape::fixed(&[20, 64]));
        let weight = g.add_weight(name, ty).unwrap();
        let product = g.add(format!("{name}_rows"), Op::Linear, &[x, weight]);
        g.set_output(product.unwrap()).unwrap();
        let values = (0..20 * 64).map(|_| half::bf16::from_f32(numbers.next()));
        let bytes = match dtype {
            DType::BF16 => values.flat_map(|v| v.to_le_bytes()).collect(),
            _ => values.flat_map(|v| v.to_f32().to_le_bytes()).collect(),
        };
        weights.0.insert(name.into(), (dtype, bytes));
    }
    let values: Vec<f32> = (0..7 * 64).map(|_| numbers.next()).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let x = Tensor::from_bytes(DType::F32, vec![7, 64], &bytes).unwrap();
    let inputs = HashMap::from([("x".to_owned(), x)]);
    let mut options = CompileOptions::new(DType::F32);
    options.precision = Some(DType::BF16);
    let symbols = SymbolValues::step(7, 0, 7, 7);
    let offered = Features::parse("avx512bf16").is_ok();
    for (name, found, expected) in both_with(&Arc::new(g), &weights, &inputs, &symbols, &options) {
        let (found, expected) = (found.to_f32().unwrap(), expected.to_f32().unwrap());
        let largest = expected.iter().fold(0f32, |a, x| a.max(x.abs()));
        let differences = found.iter().zip(&expected).map(|(f, e)| (f - e).abs());
        let worst = differences.fold(0f32, f32::max) / largest;
        let rounds = offered && name == "rounded_rows";
        assert_eq!(worst > 1e-5, rounds, "{name}: {worst}");
        assert!(worst < 0.01, "{name}: {worst}");
    }
}

#[test]
fn the_device_agrees_with_the_reference_on_a_decoder() {
    let (graph, weights) = setup();
    let rows: Vec<i32> = (0..PROMPT.len() as i32).collect();
    let found = Runner::new(&graph, &weights, 2, None).step(&PROMPT, &rows);
    let symbols = SymbolValues::step(PROMPT.len() as u32, 0, rows.len() as u32, CAPACITY);
    let positions = rows.clone();
    let shape = [PROMPT.len()];
    let inputs = [
        TensorRef::new(&shape, &PROMPT[..]).unwrap(),
        TensorRef::new(&shape, &positions[..]).unwrap(),
        TensorRef::new(&shape, &rows[..]).unwrap(),
    ];
    let mut states = StateStore::new(&graph, &symbols).unwrap();
    let run = graph.whole();
    let expected = evaluate(&run, &inputs, weights.as_ref(), &mut states, &symbols).unwrap();
    let expected = expected[0].to_f32().unwrap();
    // The bound: activations are quantised to 8 bits before products with quantised weights.
    let (mut error, mut norm) = (0f64, 0f64);
    for (f, e) in found.iter().zip(&expected) {
        error += f64::from(f - e).powi(2);
        norm += f64::from(*e).powi(2);
    }
    assert_eq!(found.len(), expected.len());
    assert!(
        error <= 2e-4 * norm,
        "normalised squared error {}",
        error / norm
    );
}

#[test]
fn chunks_threads_and_feature_paths_give_the_same_bits() {
    let (graph, weights) = setup();
    let last = [PROMPT.len() as i32 - 1];
    let whole = Runner::new(&graph, &weights, 1, None).step(&PROMPT, &last);
    for threads in [1, 2, 3] {
        for chunk in [1, 2, 5] {
            for features in [None, Some("generic")] {
                let mut runner = Runner::new(&graph, &weights, threads, features);
                let mut logits = Vec::new();
                for part in PROMPT.chunks(chunk) {
                    logits = runner.step(part, &[part.len() as i32 - 1]);
                }
                assert_eq!(
                    logits, whole,
                    "{threads} threads, chunks of {chunk}, {features:?}"
                );
            }
        }
    }
}

#[test]
fn a_step_without_output_rows_still_fills_the_state() {
    let (graph, weights) = setup();
    let mut runner = Runner::new(&graph, &weights, 1, None);
    assert!(runner.step(&PROMPT[..4], &[]).is_empty());
    let split = runner.step(&PROMPT[4..], &[6]);
    let whole = Runner::new(&graph, &weights, 1, None).step(&PROMPT, &[10]);
    assert_eq!(split, whole);
}

#[test]
fn hostile_steps_are_errors_and_the_device_goes_on() {
    let (graph, weights) = setup();
    let mut runner = Runner::new(&graph, &weights, 2, None);
    let refused = |r: Result<Vec<f32>, HalError>, word: &str| {
        let e = r.unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    };
    refused(runner.try_step(&[VOCABULARY as i32], &[0]), "48");
    refused(runner.try_step(&[-1], &[0]), "-1");
    refused(runner.try_step(&[1], &[1]), "output row");
    refused(runner.try_step(&[1; 33], &[0]), "at most");
    runner.cached = CAPACITY;
    refused(runner.try_step(&[1], &[0]), "32..33");
    runner.cached = 0;
    assert!(runner.step(&PROMPT, &[0]).iter().all(|l| l.is_finite()));
}

#[test]
fn the_device_never_says_no() {
    let (graph, _) = setup();
    let device = open(2, None);
    assert!(device.capabilities().features.baseline);
    let verdicts = device.support(&graph.whole());
    assert_eq!(verdicts.len(), graph.nodes().len());
    assert!(verdicts.iter().all(|v| *v == Support::Yes));
}

#[test]
fn a_weight_of_another_size_is_named() {
    let (graph, weights) = setup();
    let mut short = Weights(weights.0.clone());
    short.0.get_mut("wo").unwrap().1.pop();
    let entry = common::entry(&graph, &SymbolValues::default());
    let device = open(2, None);
    let options = CompileOptions::new(DType::F32);
    let e = device
        .compile(&[entry], &options, Arc::new(short), &mut |_, _| true)
        .unwrap_err()
        .to_string();
    assert!(e.contains("'wo'") && e.contains("q8_0"), "{e}");
}

#[test]
fn compiling_can_be_cancelled() {
    let (graph, weights) = setup();
    let entry = common::entry(&graph, &SymbolValues::default());
    let device = open(2, None);
    let options = CompileOptions::new(DType::F32);
    let e = device
        .compile(&[entry], &options, weights, &mut |done, _| done < 2)
        .unwrap_err();
    assert!(matches!(e, HalError::Cancelled { .. }), "{e}");
}

#[test]
fn a_state_type_that_cannot_be_kept_is_named() {
    let (graph, weights) = setup();
    let device = open(2, None);
    let compile = |state_dtype| {
        let entry = common::entry(&graph, &SymbolValues::default());
        let options = CompileOptions::new(state_dtype);
        let module = device.compile(&[entry], &options, weights.clone(), &mut |_, _| true);
        module.map(drop)
    };
    compile(DType::F16).unwrap();
    // heads of 16 elements are half a block
    let e = compile(DType::Q8_0).unwrap_err().to_string();
    assert!(e.contains("'k' kept in q8_0") && e.contains("32"), "{e}");
    let e = compile(DType::Q4_0).unwrap_err().to_string();
    assert!(e.contains("q4_0") && e.contains("f16 or q8_0"), "{e}");
}
