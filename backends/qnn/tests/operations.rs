//! Every operation of graphs that is lowered, on the chip beside the slow reference, and blocks of them.
#![allow(unsafe_code)] // maps buffers

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anynpu_cpu::reference::{StateStore, Tensor, TensorRef, evaluate};
use anynpu_hal::{
    Bounds, Buffer, BufferDesc, CompileOptions, Device, Driver, Entry, Extent, HalError,
    OpenOptions, Submission, Support, Timeline, WeightSource, WeightView, read_bytes, write_bytes,
};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, RopeScaling, RopeStyle, Shape,
    Symbol, SymbolValues, TensorType, ValueId,
};
use anynpu_qnn::QnnDriver;
use common::{library, numbers};

/// Results may differ by this share of the largest number: what 16 bits leave of one operation, and of a block.
const ONE: f32 = 4e-3;
const BLOCK: f32 = 1e-2;
const TOKENS: u32 = 16;

/// A graph under construction, with what its weights and inputs hold.
struct Case {
    graph: Graph,
    weights: Weights,
    inputs: HashMap<String, Tensor>,
}

#[derive(Clone, Debug, Default)]
struct Weights(HashMap<String, (DType, Vec<u8>)>);

impl WeightSource for Weights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let (dtype, bytes) = &self.0[name];
        Ok(WeightView {
            dtype: *dtype,
            bytes: bytes.into(),
        })
    }
}

impl Case {
    fn new(name: &str) -> Case {
        Case {
            graph: Graph::new(name),
            weights: Weights::default(),
            inputs: HashMap::new(),
        }
    }

    fn seed(&self) -> u32 {
        self.graph.values().len() as u32 + 1
    }

    /// An operand of a row a token.
    fn x(&mut self, name: &str, dims: &[u32]) -> ValueId {
        let all = [Dim::TOKENS].into_iter();
        let all: Vec<Dim> = all.chain(dims.iter().map(|d| Dim::Fixed(*d))).collect();
        let count = TOKENS * dims.iter().product::<u32>();
        let shape: Vec<usize> = [TOKENS].iter().chain(dims).map(|d| *d as usize).collect();
        let values: Vec<f32> = numbers(count as usize, self.seed());
        let values = values.iter().map(|x| 3.0 * x).collect::<Vec<f32>>();
        self.inputs
            .insert(name.into(), Tensor::new(shape, values).unwrap());
        let ty = TensorType::new(DType::F32, Shape::from(all));
        self.graph.add_input(name, ty).unwrap()
    }

    fn positions(&mut self) -> ValueId {
        let values: Vec<i32> = (0..TOKENS as i32).collect();
        let tensor = Tensor::new(vec![TOKENS as usize], values).unwrap();
        self.inputs.insert("positions".into(), tensor);
        let ty = TensorType::new(DType::I32, Shape::from([Dim::TOKENS]));
        self.graph.add_input("positions", ty).unwrap()
    }

    /// A weight of numbers in -1..1 times `scale`.
    fn w(&mut self, name: &str, dims: &[u32], scale: f32) -> ValueId {
        let count = dims.iter().product::<u32>() as usize;
        let values = numbers(count, self.seed());
        let bytes = values.iter().flat_map(|x| (x * scale).to_le_bytes());
        let held = (DType::F32, bytes.collect());
        self.weights.0.insert(name.into(), held);
        let ty = TensorType::new(DType::F32, Shape::fixed(dims));
        self.graph.add_weight(name, ty).unwrap()
    }

    fn op(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = format!("{}.{}", op.name(), self.graph.nodes().len());
        self.graph.add(name, op, inputs).unwrap()
    }

    fn linear(&mut self, x: ValueId, from: u32, to: u32) -> ValueId {
        let n = self.graph.nodes().len();
        let scale = (3.0 / from as f32).sqrt();
        let w = self.w(&format!("w.{n}"), &[to, from], scale);
        let b = self.w(&format!("b.{n}"), &[to], 0.1);
        self.op(Op::Linear, &[x, w, b])
    }

    fn norm(&mut self, x: ValueId, width: u32) -> ValueId {
        let n = self.graph.nodes().len();
        let gamma = self.w(&format!("gamma.{n}"), &[width], 1.0);
        let beta = self.w(&format!("beta.{n}"), &[width], 0.1);
        self.op(Op::LayerNorm { eps: 1e-12 }, &[x, gamma, beta])
    }

    fn reshape(&mut self, x: ValueId, dims: &[u32]) -> ValueId {
        let all = [Dim::TOKENS].into_iter();
        let all: Vec<Dim> = all.chain(dims.iter().map(|d| Dim::Fixed(*d))).collect();
        let shape = Shape::from(all);
        self.op(Op::Reshape { shape }, &[x])
    }

    /// How far the chip's result is from the reference, as a share of the largest number.
    fn error(mut self, device: &dyn Device, result: ValueId) -> f32 {
        self.graph.set_output(result).unwrap();
        let symbols = SymbolValues::step(TOKENS, 0, 1, 64);
        let graph = Arc::new(self.graph);
        let run = graph.whole();
        for (verdict, node) in device.support(&run).iter().zip(graph.nodes()) {
            assert_eq!(*verdict, Support::Yes, "{} of {}", node.name, graph.name());
        }
        let mut bounds = Bounds::new();
        for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
            bounds = bounds.with(symbol, Extent::Exact(symbols.get(symbol)));
        }
        let entry = Entry {
            name: graph.name().into(),
            graph: graph.clone(),
            nodes: 0..graph.nodes().len() as u32,
            bounds,
        };
        let options = CompileOptions::new(DType::F32);
        let weights = Arc::new(self.weights);
        let module = device.compile(&[entry], &options, weights.clone(), &mut |_, _| true);
        let module = module.unwrap_or_else(|e| panic!("{}: {e}", graph.name()));
        let given: Vec<&Tensor> = run
            .inputs()
            .iter()
            .map(|&v| &self.inputs[&graph.value(v).name])
            .collect();
        let buffer = |bytes: &[u8]| -> Arc<dyn Buffer> {
            let desc = BufferDesc::host("operand", bytes.len());
            let buffer = device.allocate(&desc).unwrap();
            // SAFETY: the buffer was just made, nobody else has it.
            unsafe { write_bytes(&*buffer, 0, bytes).unwrap() };
            buffer
        };
        let inputs: Vec<_> = given.iter().map(|t| buffer(&t.to_bytes())).collect();
        let bytes = graph.ty(result).bytes(&symbols).unwrap();
        let outputs = [buffer(&vec![0; bytes])];
        let point = Timeline::new("test").point(1);
        let submission = Submission {
            module: &module,
            entry: 0,
            inputs: &inputs,
            outputs: &outputs,
            states: &[],
            symbols,
            wait: &[],
            signal: &point,
        };
        device.queue().submit(&submission).unwrap();
        point.wait(Duration::from_secs(60)).unwrap();
        let mut found = vec![0; bytes];
        // SAFETY: the submission is done.
        unsafe { read_bytes(&*outputs[0], 0, &mut found).unwrap() };
        let found = found.chunks_exact(4);
        let found = found.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mut states = StateStore::kept(&graph, &symbols, None).unwrap();
        let views: Vec<TensorRef<'_>> = given.iter().map(|t| t.view()).collect();
        let expected = evaluate(&run, &views, &*weights, &mut states, &symbols).unwrap();
        let expected = expected[0].to_f32().unwrap();
        let largest = expected.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
        assert_eq!(found.len(), expected.len());
        let apart = found.zip(&expected).map(|(f, e)| match (f - e).abs() {
            far if far.is_nan() => f32::INFINITY,
            far => far,
        });
        apart.fold(0f32, f32::max) / largest
    }
}

fn device(test: &str, soc: &str) -> Option<Arc<dyn Device>> {
    library(test)?;
    let driver = QnnDriver {
        library: None,
        soc: Some(soc.into()),
    };
    let found = driver.enumerate().unwrap();
    Some(driver.open(&found[0], &OpenOptions::default()).unwrap())
}

fn attention(causal: bool, soft_cap: Option<f32>, window: Option<u32>) -> Op {
    Op::Attention {
        kv: AttentionKv::Operands,
        causal,
        mask: false,
        scale: 0.25,
        soft_cap,
        window,
    }
}

/// Each kind of operation that is lowered, in the forms that models have.
fn cases() -> Vec<(Case, ValueId)> {
    let mut cases = Vec::new();
    let mut one = |name: &str, make: &dyn Fn(&mut Case) -> ValueId| {
        let mut case = Case::new(name);
        let result = make(&mut case);
        cases.push((case, result));
    };
    one("product", &|c| {
        let x = c.x("x", &[64]);
        c.linear(x, 64, 96)
    });
    for dims in [&[64][..], &[4, 32]] {
        let width = dims[dims.len() - 1];
        one("rms norm", &|c| {
            let x = c.x("x", dims);
            let gamma = c.w("gamma", &[width], 1.0);
            c.op(Op::RmsNorm { eps: 1e-5 }, &[x, gamma])
        });
        one("layer norm", &|c| {
            let x = c.x("x", dims);
            c.norm(x, width)
        });
    }
    let activations = [
        Activation::Relu,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::GeluQuick,
    ];
    for activation in activations {
        one(activation.name(), &|c| {
            let x = c.x("x", &[48]);
            c.op(Op::Activation(activation), &[x])
        });
        one(&format!("gated {}", activation.name()), &|c| {
            let (gate, up) = (c.x("gate", &[48]), c.x("up", &[48]));
            c.op(Op::GatedActivation(activation), &[gate, up])
        });
    }
    for op in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul] {
        one(&format!("{op:?} of values"), &|c| {
            let (a, b) = (c.x("a", &[48]), c.x("b", &[48]));
            c.op(Op::Binary(op), &[a, b])
        });
        one(&format!("{op:?} of a weight"), &|c| {
            let (a, b) = (c.x("a", &[48]), c.w("b", &[48], 1.0));
            c.op(Op::Binary(op), &[a, b])
        });
    }
    one("soft cap", &|c| {
        let x = c.x("x", &[48]);
        c.op(Op::SoftCap { cap: 2.0 }, &[x])
    });
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        for dims in [16, 32] {
            one(&format!("rotation {style:?} of {dims}"), &|c| {
                let (x, positions) = (c.x("x", &[4, 32]), c.positions());
                let rope = Op::Rope {
                    style,
                    dims,
                    base: 10000.0,
                    scaling: RopeScaling::None,
                };
                c.op(rope, &[x, positions])
            });
        }
    }
    for kv_heads in [1, 2, 4] {
        for cap in [None, Some(2.0)] {
            one(&format!("attention of {kv_heads} of 4, {cap:?}"), &|c| {
                let (q, k) = (c.x("q", &[4, 16]), c.x("k", &[kv_heads, 16]));
                let v = c.x("v", &[kv_heads, 16]);
                c.op(attention(false, cap, None), &[q, k, v])
            });
            for window in [None, Some(5)] {
                let name = format!("causal attention of {kv_heads} of 4, {cap:?}, {window:?}");
                one(&name, &|c| {
                    let (q, k) = (c.x("q", &[4, 16]), c.x("k", &[kv_heads, 16]));
                    let (v, positions) = (c.x("v", &[kv_heads, 16]), c.positions());
                    c.op(attention(true, cap, window), &[q, k, v, positions])
                });
            }
        }
    }
    cases
}

#[test]
fn every_operation_that_is_lowered_is_right_on_every_chip() {
    let test = "every_operation_that_is_lowered_is_right_on_every_chip";
    for soc in ["SM8650", "SM8450", "SM8550", "SM8750", "SM8850"] {
        let Some(device) = device(test, soc) else {
            return;
        };
        let mut wrong = Vec::new();
        for (case, result) in cases() {
            let name = case.graph.name().to_owned();
            let error = case.error(&*device, result);
            if error > ONE {
                wrong.push(format!("{name}: {error}"));
            }
        }
        assert!(wrong.is_empty(), "{soc}:\n  {}", wrong.join("\n  "));
    }
}

/// A layer as MiniLM's: 384 wide, 12 heads, 1536 in between.
fn encoder_block() -> (Case, ValueId) {
    let mut c = Case::new("encoder block");
    let x = c.x("x", &[384]);
    let parts = [0, 1, 2].map(|_| {
        let part = c.linear(x, 384, 384);
        c.reshape(part, &[12, 32])
    });
    let mixed = c.op(attention(false, None, None), &parts);
    let mixed = c.reshape(mixed, &[384]);
    let mixed = c.linear(mixed, 384, 384);
    let x = c.op(Op::Binary(BinaryOp::Add), &[x, mixed]);
    let x = c.norm(x, 384);
    let fed = c.linear(x, 384, 1536);
    let fed = c.op(Op::Activation(Activation::Gelu), &[fed]);
    let fed = c.linear(fed, 1536, 384);
    let x = c.op(Op::Binary(BinaryOp::Add), &[x, fed]);
    let result = c.norm(x, 384);
    (c, result)
}

#[test]
fn an_encoder_block_is_right() {
    let Some(device) = device("an_encoder_block_is_right", "SM8650") else {
        return;
    };
    let (case, result) = encoder_block();
    let error = case.error(&*device, result);
    println!("error of an encoder block: {error}");
    assert!(error < BLOCK, "{error}");
}
