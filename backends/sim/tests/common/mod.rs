//! What the tests share: a small llama-like graph with weights, and running it on a device.
#![allow(dead_code, unsafe_code)] // each test uses a part; buffers are mapped

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anynpu_cpu::CpuDriver;
use anynpu_hal::{
    Bounds, Buffer, BufferDesc, CompileOptions, Device, Driver, Entry, Extent, HalError, Module,
    OpenOptions, Submission, Timeline, WeightSource, WeightView, read_bytes, write_bytes,
};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, RopeScaling, RopeStyle, Shape,
    Symbol, SymbolValues, TensorType, ValueDef, ValueId,
};
use anynpu_sim::{Description, Shipped, SimDriver};

pub const HIDDEN: u32 = 64;
pub const VOCABULARY: u32 = 48;
pub const CAPACITY: u32 = 16;

/// One layer of a llama between an embedding and an output head.
pub fn llama() -> Graph {
    let (heads, kv_heads, head, ffn) = (4, 2, HIDDEN / 4, 96);
    let mut g = Graph::new("llama");
    let ints = |dim| TensorType::new(DType::I32, [dim]);
    let tokens = g.add_input("tokens", ints(Dim::TOKENS)).unwrap();
    let positions = g.add_input("positions", ints(Dim::TOKENS)).unwrap();
    let rows = g.add_input("output_rows", ints(Dim::OUTPUTS)).unwrap();
    let mut weight = |name: &str, dims: &[u32]| {
        let ty = TensorType::new(DType::F32, Shape::fixed(dims));
        g.add_weight(name, ty).unwrap()
    };
    let table = weight("table", &[VOCABULARY, HIDDEN]);
    let norm = weight("norm", &[HIDDEN]);
    let wq = weight("wq", &[heads * head, HIDDEN]);
    let wk = weight("wk", &[kv_heads * head, HIDDEN]);
    let wv = weight("wv", &[kv_heads * head, HIDDEN]);
    let wo = weight("wo", &[HIDDEN, heads * head]);
    let gate = weight("gate", &[ffn, HIDDEN]);
    let up = weight("up", &[ffn, HIDDEN]);
    let down = weight("down", &[HIDDEN, ffn]);
    let rows_of = |n| TensorType::new(DType::F32, [Dim::CAPACITY, Dim::Fixed(n), Dim::Fixed(head)]);
    let k_state = g.add_state("k", rows_of(kv_heads), 0).unwrap();
    let v_state = g.add_state("v", rows_of(kv_heads), 0).unwrap();
    let mut add = |name: &str, op: Op, inputs: &[ValueId]| g.add(name, op, inputs).unwrap();
    let rms = || Op::RmsNorm { eps: 1e-5 };
    let by_heads = |n| Op::Reshape {
        shape: Shape::from([Dim::TOKENS, Dim::Fixed(n), Dim::Fixed(head)]),
    };
    let rope = || Op::Rope {
        style: RopeStyle::Interleaved,
        dims: head,
        base: 10000.0,
        scaling: RopeScaling::None,
    };
    let x = add("embedding", Op::Embedding, &[table, tokens]);
    let h = add("layers.0.norm", rms(), &[x, norm]);
    let q = add("layers.0.q", Op::Linear, &[h, wq]);
    let k = add("layers.0.k", Op::Linear, &[h, wk]);
    let v = add("layers.0.v", Op::Linear, &[h, wv]);
    let q = add("layers.0.q_heads", by_heads(heads), &[q]);
    let k = add("layers.0.k_heads", by_heads(kv_heads), &[k]);
    let v = add("layers.0.v_heads", by_heads(kv_heads), &[v]);
    let q = add("layers.0.q_rope", rope(), &[q, positions]);
    let k = add("layers.0.k_rope", rope(), &[k, positions]);
    for (name, state, rows) in [
        ("layers.0.k_append", k_state, k),
        ("layers.0.v_append", v_state, v),
    ] {
        let at = Dim::CACHED;
        g.add_node(name, Op::KvAppend { state, at }, &[rows])
            .unwrap();
    }
    let mut add = |name: &str, op: Op, inputs: &[ValueId]| g.add(name, op, inputs).unwrap();
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
    let a = add("layers.0.attention", attention, &[q, positions]);
    let flat = Shape::from([Dim::TOKENS, Dim::Fixed(heads * head)]);
    let a = add("layers.0.flat", Op::Reshape { shape: flat }, &[a]);
    let a = add("layers.0.o", Op::Linear, &[a, wo]);
    let x = add("layers.0.residual", Op::Binary(BinaryOp::Add), &[x, a]);
    let h = add("layers.0.ffn_norm", rms(), &[x, norm]);
    let gated = add("layers.0.gate", Op::Linear, &[h, gate]);
    let up = add("layers.0.up", Op::Linear, &[h, up]);
    let act = Op::GatedActivation(Activation::Silu);
    let f = add("layers.0.act", act, &[gated, up]);
    let f = add("layers.0.down", Op::Linear, &[f, down]);
    let x = add("layers.0.out", Op::Binary(BinaryOp::Add), &[x, f]);
    let x = add("picked", Op::Gather { axis: 0 }, &[x, rows]);
    let x = add("last_norm", rms(), &[x, norm]);
    let logits = add("logits", Op::Linear, &[x, table]);
    g.set_output(logits).unwrap();
    g
}

/// Weights of a fixed pseudo-random sequence, scaled by what they are multiplied with.
#[derive(Debug)]
pub struct Weights(pub HashMap<String, (DType, Vec<u8>)>);

impl Weights {
    pub fn of(graph: &Graph) -> Arc<Self> {
        let mut seed = 7u32;
        let mut all = HashMap::new();
        for weight in graph.weights() {
            let ty = graph.ty(weight.value);
            let dims = ty.shape.as_fixed().unwrap();
            let scale = match dims[..] {
                [_, inner] => 1.7 / (inner as f32).sqrt(),
                _ => 0.3,
            };
            let count: u32 = dims.iter().product();
            let numbers = (0..count).flat_map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let x = (seed >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
                let x = if dims.len() == 1 {
                    1.0 + scale * x
                } else {
                    scale * x
                };
                x.to_ne_bytes()
            });
            all.insert(weight.name.clone(), (ty.dtype, numbers.collect()));
        }
        Arc::new(Weights(all))
    }
}

impl WeightSource for Weights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let (dtype, bytes) = self.0.get(name).ok_or_else(|| HalError::Weight {
            name: name.into(),
            why: "absent".into(),
        })?;
        Ok(WeightView {
            dtype: *dtype,
            bytes: bytes.into(),
        })
    }
}

/// The shipped description called `name`.
pub fn shipped(name: &str) -> Description {
    Shipped::find(name).unwrap().read().unwrap()
}

/// A description: reference-f32 with `from` in its text replaced by `to`.
pub fn changed(from: &str, to: &str) -> Description {
    let text = Shipped::find("reference-f32").unwrap().text;
    assert!(text.contains(from), "{from}");
    Description::parse(&text.replacen(from, to, 1), "changed.toml").unwrap()
}

/// Reference-f32 with `more` after its text: tables that it does not have.
pub fn with(more: &str) -> Description {
    let text = Shipped::find("reference-f32").unwrap().text;
    Description::parse(&format!("{text}\n{more}"), "with.toml").unwrap()
}

pub fn open(description: Description) -> Arc<dyn Device> {
    open_driver(&SimDriver::new(description, Box::new(CpuDriver)))
}

pub fn cpu() -> Arc<dyn Device> {
    open_driver(&CpuDriver)
}

pub fn open_driver(driver: &dyn Driver) -> Arc<dyn Device> {
    let mut options = OpenOptions::default();
    options.threads = Some(1);
    driver
        .open(&driver.enumerate().unwrap()[0], &options)
        .unwrap()
}

/// An entry of `graph` for up to 8 tokens.
pub fn entry(graph: &Arc<Graph>, nodes: Range<u32>) -> Entry {
    Entry {
        name: format!("nodes {nodes:?}"),
        graph: graph.clone(),
        nodes,
        bounds: Bounds::new()
            .with(Symbol::TOKENS, Extent::AtMost(8))
            .with(Symbol::CACHED, Extent::AtMost(CAPACITY))
            .with(Symbol::OUTPUTS, Extent::AtMost(8))
            .with(Symbol::CAPACITY, Extent::AtMost(CAPACITY)),
    }
}

pub fn compile(
    device: &Arc<dyn Device>,
    graph: &Arc<Graph>,
    runs: &[Range<u32>],
) -> Result<Arc<dyn Module>, HalError> {
    let entries: Vec<Entry> = runs.iter().map(|r| entry(graph, r.clone())).collect();
    let options = CompileOptions::new(DType::F32);
    device.compile(&entries, &options, Weights::of(graph), &mut |_, _| true)
}

/// A session on one device: a graph compiled as some runs, and its buffers.
pub struct Session {
    pub device: Arc<dyn Device>,
    pub module: Arc<dyn Module>,
    pub graph: Arc<Graph>,
    buffers: HashMap<ValueId, Arc<dyn Buffer>>,
    states: HashMap<u32, Arc<dyn Buffer>>,
    timeline: Timeline,
    submitted: u64,
}

impl Session {
    pub fn new(device: &Arc<dyn Device>, graph: &Arc<Graph>, runs: &[Range<u32>]) -> Self {
        let module = compile(device, graph, runs).unwrap();
        let (mut buffers, mut states) = (HashMap::new(), HashMap::new());
        let allocate = |name: &str, bytes| device.allocate(&BufferDesc::host(name, bytes)).unwrap();
        for info in module.entries() {
            for port in info.inputs.iter().chain(&info.outputs) {
                let name = &graph.value(port.value).name;
                let buffer = buffers.entry(port.value);
                buffer.or_insert_with(|| allocate(name, port.max_bytes));
            }
            for port in &info.states {
                let state = graph.state(port.state);
                let bytes = state.ty.bytes(&SymbolValues::step(1, 0, 1, CAPACITY));
                let buffer = states.entry(port.state.0);
                buffer.or_insert_with(|| allocate(&state.name, bytes.unwrap()));
            }
        }
        Session {
            device: device.clone(),
            module,
            graph: graph.clone(),
            buffers,
            states,
            timeline: Timeline::new("session"),
            submitted: 0,
        }
    }

    pub fn symbols(tokens: &[i32], position: u32) -> SymbolValues {
        SymbolValues::step(tokens.len() as u32, position, 1, CAPACITY)
    }

    /// Runs a step and returns the logits of its last token.
    pub fn step(&mut self, tokens: &[i32], position: u32) -> Result<Vec<f32>, HalError> {
        let positions: Vec<i32> = (0..tokens.len())
            .map(|i| (position as usize + i) as i32)
            .collect();
        let last = [tokens.len() as i32 - 1];
        for (name, numbers) in [
            ("tokens", tokens),
            ("positions", &positions),
            ("output_rows", &last),
        ] {
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
            let value = self.graph.find_value(name).unwrap();
            if let Some(buffer) = self.buffers.get(&value) {
                // SAFETY: no submission is in flight, and nothing else maps the buffer.
                unsafe { write_bytes(&**buffer, 0, &bytes).unwrap() };
            }
        }
        for entry in 0..self.module.entries().len() {
            self.submit(entry, Self::symbols(tokens, position))?;
        }
        let logits = self.graph.outputs()[0];
        Ok(self.read(logits, VOCABULARY as usize))
    }

    pub fn submit(&mut self, entry: usize, symbols: SymbolValues) -> Result<(), HalError> {
        let info = &self.module.entries()[entry];
        let bound = |ports: &[anynpu_hal::Port]| -> Vec<Arc<dyn Buffer>> {
            ports
                .iter()
                .map(|p| self.buffers[&p.value].clone())
                .collect()
        };
        let states: Vec<_> = info
            .states
            .iter()
            .map(|s| self.states[&s.state.0].clone())
            .collect();
        self.submitted += 1;
        let signal = self.timeline.point(self.submitted);
        self.device.queue().submit(&Submission {
            module: &self.module,
            entry,
            inputs: &bound(&info.inputs),
            outputs: &bound(&info.outputs),
            states: &states,
            sequences: &[],
            symbols,
            wait: &[],
            signal: &signal,
        })?;
        signal.wait(Duration::from_millis(200))
    }

    pub fn read(&self, value: ValueId, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; count * 4];
        // SAFETY: no submission is in flight.
        unsafe { read_bytes(&*self.buffers[&value], 0, &mut bytes).unwrap() };
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_ne_bytes(*b))
            .collect()
    }

    pub fn write(&self, value: ValueId, numbers: &[f32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        // SAFETY: no submission is in flight, and nothing else maps the buffer.
        unsafe { write_bytes(&*self.buffers[&value], 0, &bytes).unwrap() };
    }
}

/// Logits after each of two steps of prefill and three of decoding.
pub fn conversation(session: &mut Session) -> Vec<Vec<f32>> {
    let steps: [(&[i32], u32); 5] = [
        (&[1, 7, 3, 40, 12], 0),
        (&[5, 5, 47], 5),
        (&[9], 8),
        (&[2], 9),
        (&[30], 10),
    ];
    let steps = steps.into_iter();
    steps
        .map(|(tokens, at)| session.step(tokens, at).unwrap())
        .collect()
}

/// Whether a value is a weight.
pub fn is_weight(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.value(value).def, ValueDef::Weight(_))
}
