//! Tokens of several sequences in one run, against a run of each sequence alone.

mod common;

use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::{
    Buffer, BufferDesc, CompileOptions, Device, HalError, Module, Sequence, Submission, Support,
    Timeline,
};
use anynpu_ir::{
    AttentionKv, BinaryOp, DType, Dim, Graph, Op, ReduceOp, RopeScaling, RopeStyle, Shape,
    SymbolValues, TensorType,
};
use common::{Numbers, Weights, buffer, contents, entry, open};
use proptest::prelude::*;

const HIDDEN: u32 = 64;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 32;
const VOCABULARY: u32 = 40;
const CAPACITY: u32 = 24;
/// Most tokens of a run.
const TOKENS: u32 = 160;

/// A decoder of one layer that attends over keys and values in its states.
fn decoder(window: Option<u32>, weights: &mut Weights) -> Graph {
    let mut g = Graph::new("decoder");
    let ints = |d: Dim| TensorType::new(DType::I32, [d]);
    let tokens = g.add_input("tokens", ints(Dim::TOKENS)).unwrap();
    let positions = g.add_input("positions", ints(Dim::TOKENS)).unwrap();
    let rows = g.add_input("output_rows", ints(Dim::OUTPUTS)).unwrap();
    let home = [Dim::CAPACITY, Dim::Fixed(KV_HEADS), Dim::Fixed(HEAD_DIM)];
    let [k, v] = ["k", "v"].map(|name| {
        let ty = TensorType::new(DType::F32, home);
        g.add_state(name, ty, 0).unwrap()
    });
    let mut numbers = Numbers(5);
    let mut weight = |g: &mut Graph, name: &str, dims: &[u32]| {
        let count = dims.iter().product::<u32>();
        let bytes = (0..count).flat_map(|_| numbers.next().to_le_bytes());
        let bytes = bytes.collect();
        weights.0.insert(name.into(), (DType::F32, bytes));
        let ty = TensorType::new(DType::F32, Shape::fixed(dims));
        g.add_weight(name, ty).unwrap()
    };
    let table = weight(&mut g, "table", &[VOCABULARY, HIDDEN]);
    let norm = weight(&mut g, "norm", &[HIDDEN]);
    let x = g.add("embed", Op::Embedding, &[table, tokens]).unwrap();
    let h = g
        .add("normed", Op::RmsNorm { eps: 1e-5 }, &[x, norm])
        .unwrap();
    let mut heads = |g: &mut Graph, name: &str, count: u32| {
        let w = weight(g, &format!("w{name}"), &[count * HEAD_DIM, HIDDEN]);
        let x = g.add(format!("{name}.rows"), Op::Linear, &[h, w]).unwrap();
        let shape = [Dim::TOKENS, Dim::Fixed(count), Dim::Fixed(HEAD_DIM)].into();
        g.add(format!("{name}.heads"), Op::Reshape { shape }, &[x])
            .unwrap()
    };
    let q = heads(&mut g, "q", HEADS);
    let k_rows = heads(&mut g, "k", KV_HEADS);
    let v_rows = heads(&mut g, "v", KV_HEADS);
    let rope = Op::Rope {
        style: RopeStyle::Interleaved,
        dims: HEAD_DIM,
        base: 10000.0,
        scaling: RopeScaling::None,
    };
    let q = g.add("q.rope", rope.clone(), &[q, positions]).unwrap();
    let k_rows = g.add("k.rope", rope, &[k_rows, positions]).unwrap();
    for (name, state, rows) in [("k.append", k, k_rows), ("v.append", v, v_rows)] {
        let at = Dim::CACHED;
        g.add_node(name, Op::KvAppend { state, at }, &[rows])
            .unwrap();
    }
    let attention = Op::Attention {
        kv: AttentionKv::State { k, v },
        causal: true,
        mask: false,
        scale: 0.25,
        soft_cap: None,
        window,
    };
    let a = g.add("attention", attention, &[q, positions]).unwrap();
    let shape = [Dim::TOKENS, Dim::Fixed(HEADS * HEAD_DIM)].into();
    let a = g.add("flat", Op::Reshape { shape }, &[a]).unwrap();
    let wo = weight(&mut g, "wo", &[HIDDEN, HEADS * HEAD_DIM]);
    let a = g.add("o", Op::Linear, &[a, wo]).unwrap();
    let add = Op::Binary(BinaryOp::Add);
    let x = g.add("residual", add, &[x, a]).unwrap();
    let x = g.add("picked", Op::Gather { axis: 0 }, &[x, rows]).unwrap();
    let logits = g.add("logits", Op::Linear, &[x, table]).unwrap();
    g.set_output(logits).unwrap();
    g
}

struct Bench {
    device: Arc<dyn Device>,
    module: Arc<dyn Module>,
    kept: DType,
}

/// A text: its tokens and the homes of its states.
struct Text {
    tokens: Vec<i32>,
    /// Tokens that went in.
    cached: u32,
    homes: Vec<Arc<dyn Buffer>>,
}

impl Bench {
    fn new(window: Option<u32>, kept: DType, threads: usize) -> Self {
        let mut weights = Weights::default();
        let graph = Arc::new(decoder(window, &mut weights));
        let device = open(threads, None);
        let limits = SymbolValues::step(TOKENS, CAPACITY, TOKENS, CAPACITY);
        let entry = entry(&graph, &limits);
        let module = device
            .compile(
                &[entry],
                &CompileOptions::new(kept),
                Arc::new(weights),
                &mut |_, _| true,
            )
            .unwrap();
        assert_eq!(module.sequences(0), Support::Yes);
        Bench {
            device,
            module,
            kept,
        }
    }

    fn text(&self, number: u32, length: u32) -> Text {
        let token = |i| ((31 * number + 7 * i + 3) % VOCABULARY) as i32;
        let row = self.kept.row_bytes((KV_HEADS * HEAD_DIM) as usize).unwrap();
        let desc = |name| BufferDesc::host(name, CAPACITY as usize * row);
        let home = |name| self.device.allocate(&desc(name)).unwrap();
        Text {
            tokens: (0..length).map(token).collect(),
            cached: 0,
            homes: vec![home("k"), home("v")],
        }
    }

    /// Puts the next tokens of texts in, as many of each as said, and gives the logits of all.
    fn run(&self, texts: &mut [&mut Text], counts: &[u32]) -> Result<Vec<u8>, HalError> {
        let (mut tokens, mut positions, mut sequences) = (vec![], vec![], vec![]);
        let mut states = Vec::new();
        for (text, &count) in texts.iter().zip(counts) {
            let new = text.cached..text.cached + count;
            tokens.extend(new.clone().map(|i| text.tokens[i as usize]));
            positions.extend(new.map(|i| i as i32));
            sequences.push(Sequence {
                tokens: count,
                cached: text.cached,
            });
            states.extend(text.homes.iter().cloned());
        }
        let all = tokens.len() as u32;
        let longest = texts.iter().map(|t| t.cached).max().unwrap_or(0);
        let rows: Vec<i32> = (0..all as i32).collect();
        let input = |data: &[i32]| {
            let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
            buffer(self.device.as_ref(), "input", &bytes)
        };
        let inputs = [&tokens, &positions, &rows].map(|data| input(data));
        let room = vec![0; (all * VOCABULARY * 4) as usize];
        let logits = buffer(self.device.as_ref(), "logits", &room);
        let signal = Timeline::new("test").point(1);
        self.device.queue().submit(&Submission {
            module: &self.module,
            entry: 0,
            inputs: &inputs,
            outputs: std::slice::from_ref(&logits),
            states: &states,
            // one alone goes as ever
            sequences: if sequences.len() > 1 { &sequences } else { &[] },
            symbols: SymbolValues::step(all, longest, all, CAPACITY),
            wait: &[],
            signal: &signal,
        })?;
        signal.wait(Duration::from_secs(60))?;
        for (text, count) in texts.iter_mut().zip(counts) {
            text.cached += count;
        }
        Ok(contents(&*logits))
    }

    /// Puts the first tokens in, then some of each at once; and each alone: logits and states agree.
    fn agrees(&self, texts: &[(u32, u32)]) {
        let make = || -> Vec<Text> {
            let text = |(n, &(cached, count)): (usize, &(u32, u32))| {
                let mut text = self.text(n as u32, cached + count);
                if cached > 0 {
                    self.run(&mut [&mut text], &[cached]).unwrap();
                }
                text
            };
            texts.iter().enumerate().map(text).collect()
        };
        let counts: Vec<u32> = texts.iter().map(|t| t.1).collect();
        let (mut together, mut alone) = (make(), make());
        let found = self
            .run(&mut together.iter_mut().collect::<Vec<_>>(), &counts)
            .unwrap();
        let each = alone.iter_mut().zip(&counts);
        let expected: Vec<u8> = each
            .flat_map(|(text, &count)| self.run(&mut [text], &[count]).unwrap())
            .collect();
        assert!(found == expected, "logits of {texts:?} in {}", self.kept);
        for (n, (a, b)) in together.iter().zip(&alone).enumerate() {
            for (a, b) in a.homes.iter().zip(&b.homes) {
                assert!(
                    contents(&**a) == contents(&**b),
                    "states of {n} of {texts:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn each_sequence_of_a_run_gives_the_bits_it_gives_alone(
        texts in prop::collection::vec((0u32..18, 1u32..6), 2..9),
        window in prop::option::of(1u32..12),
        threads in 1usize..3,
        kept in prop::sample::select(vec![DType::F32, DType::F16, DType::Q8_0]),
    ) {
        Bench::new(window, kept, threads).agrees(&texts);
    }
}

#[test]
fn more_sequences_than_attention_takes_at_a_time_give_the_same_bits() {
    for kept in [DType::F32, DType::F16, DType::Q8_0] {
        let bench = Bench::new(None, kept, 2);
        let texts: Vec<_> = (0..75).map(|n| (n % 20, 1 + n % 3)).collect();
        bench.agrees(&texts);
    }
}

#[test]
fn a_state_bound_to_two_sequences_or_too_small_is_refused() {
    let bench = Bench::new(None, DType::F32, 1);
    let (mut a, mut b) = (bench.text(0, 4), bench.text(1, 4));
    b.homes[1] = a.homes[1].clone();
    let e = bench.run(&mut [&mut a, &mut b], &[1, 1]).unwrap_err();
    assert!(e.to_string().contains("bound twice"), "{e}");
    let mut b = bench.text(1, 4);
    b.homes[0] = buffer(bench.device.as_ref(), "small", &[0; 16]);
    let e = bench.run(&mut [&mut a, &mut b], &[1, 1]).unwrap_err();
    assert!(e.to_string().contains("rows of state 'k'"), "{e}");
}

/// What the device says of a graph of one node named `y`.
fn verdict(build: impl FnOnce(&mut Graph)) -> Support {
    let mut graph = Graph::new("g");
    build(&mut graph);
    let limits = SymbolValues::step(4, 8, 4, 8);
    let entry = entry(&Arc::new(graph), &limits);
    let weights = Arc::new(Weights::default());
    let options = CompileOptions::new(DType::F32);
    let module = open(1, None).compile(&[entry], &options, weights, &mut |_, _| true);
    module.unwrap().sequences(0)
}

#[test]
fn entries_that_mix_tokens_take_one_sequence_and_say_which_node_does() {
    let rows = |dims: &[Dim]| TensorType::new(DType::F32, Shape::from(dims.to_vec()));
    let wide = [Dim::TOKENS, Dim::Fixed(4)];
    let unary = |op: Op| {
        verdict(|g| {
            let x = g.add_input("x", rows(&wide)).unwrap();
            let y = g.add_node("y", op, &[x]).unwrap();
            g.set_output(y[0]).unwrap();
        })
    };
    let reduce = |axis| Op::Reduce {
        op: ReduceOp::Sum,
        axes: vec![axis],
        keep_dims: true,
    };
    assert_eq!(unary(Op::Softmax { axis: 1 }), Support::Yes);
    assert_eq!(unary(reduce(1)), Support::Yes);
    assert_eq!(unary(Op::TopK { k: 2 }), Support::Yes);
    let attention = verdict(|g| {
        let heads = [Dim::TOKENS, Dim::Fixed(1), Dim::Fixed(4)];
        let [q, k, v] = ["q", "k", "v"].map(|n| g.add_input(n, rows(&heads)).unwrap());
        let op = Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            mask: false,
            scale: 1.0,
            soft_cap: None,
            window: None,
        };
        let y = g.add("y", op, &[q, k, v]).unwrap();
        g.set_output(y).unwrap();
    });
    let mask = verdict(|g| {
        let positions = TensorType::new(DType::I32, [Dim::TOKENS]);
        let positions = g.add_input("positions", positions).unwrap();
        let op = Op::CausalMask {
            keys: Dim::CAPACITY,
            window: None,
            hidden: -1e4,
        };
        let y = g.add("y", op, &[positions]).unwrap();
        g.set_output(y).unwrap();
    });
    let elsewhere = verdict(|g| {
        let home = [Dim::CAPACITY, Dim::Fixed(4)];
        let state = g.add_state("s", rows(&home), 0).unwrap();
        let x = g.add_input("x", rows(&wide)).unwrap();
        let at = Dim::Fixed(0);
        g.add_node("y", Op::KvAppend { state, at }, &[x]).unwrap();
    });
    for (verdict, why) in [
        (unary(Op::Softmax { axis: 0 }), "works along the tokens"),
        (unary(reduce(0)), "works along the tokens"),
        (attention, "attends over the tokens of its run"),
        (mask, "has a value as long as the states"),
        (elsewhere, "writes rows of a state"),
    ] {
        let reason = verdict.reason().map(|r| r.detail.as_str());
        let reason = reason.unwrap_or_default();
        assert!(
            reason.contains("'y'") && reason.contains(why),
            "{verdict:?}; {why}"
        );
    }
}
