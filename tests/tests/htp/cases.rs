//! Graphs of models' nodes that are lowered, with what their weights and inputs hold.

use std::collections::HashMap;
use std::sync::Arc;

use anynpu_cpu::reference::{StateStore, Tensor, TensorRef, evaluate};
use anynpu_graphs::quant::quantize_row;
use anynpu_hal::{Bounds, Device, Entry, Extent, HalError, Support, WeightSource, WeightView};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, RopeScaling, RopeStyle, Shape,
    Symbol, SymbolValues, TensorType, ValueId,
};
use anynpu_qnn::htp::{self, FixedForm, Range, TensorId};
use anynpu_qnn::lower::{Contents, Feed, Fetch, lower};
use anynpu_qnn::weights::Matrix;
use anynpu_qnn::{WeightForm, exec};
use anynpu_tests::run_with;

use crate::numbers;

/// Tokens of a step, where nothing else is said.
const TOKENS: u32 = 16;

/// A graph under construction, with what its weights and inputs hold.
pub struct Case {
    pub tokens: u32,
    /// The type that matrices are in.
    pub matrices: DType,
    pub graph: Graph,
    pub weights: Weights,
    inputs: HashMap<String, Tensor>,
}

/// Types and bytes, and of matrices rows and columns.
#[derive(Clone, Debug, Default)]
pub struct Weights(
    HashMap<String, (DType, Vec<u8>)>,
    HashMap<String, (usize, usize)>,
);

impl WeightSource for Weights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let (dtype, bytes) = &self.0[name];
        Ok(WeightView {
            dtype: *dtype,
            bytes: bytes.into(),
        })
    }
}

impl Weights {
    /// The same with matrices as they are in `form`.
    fn in_form(&self, form: WeightForm) -> Weights {
        let mut held = self.clone();
        for (name, (rows, columns)) in &self.1 {
            let view = self.weight(name).unwrap();
            let matrix = Matrix::of(name, &view, *rows, *columns, form).unwrap();
            let numbers = matrix.numbers(*columns);
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            held.0.insert(name.clone(), (DType::F32, bytes));
        }
        held
    }
}

impl Case {
    pub fn new(name: &str) -> Case {
        Case {
            tokens: TOKENS,
            matrices: DType::F32,
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
        let count = self.tokens * dims.iter().product::<u32>();
        let shape: Vec<usize> = [self.tokens]
            .iter()
            .chain(dims)
            .map(|d| *d as usize)
            .collect();
        let values: Vec<f32> = numbers(count as usize, self.seed());
        let values = values.iter().map(|x| 3.0 * x).collect::<Vec<f32>>();
        self.inputs
            .insert(name.into(), Tensor::new(shape, values).unwrap());
        let ty = TensorType::new(DType::F32, Shape::from(all));
        self.graph.add_input(name, ty).unwrap()
    }

    /// A mask that hides the last quarter of the tokens.
    fn padding(&mut self) -> ValueId {
        let tokens = self.tokens as usize;
        let hidden = |i: usize| if 4 * i < 3 * tokens { 0.0 } else { -3e4f32 };
        let values = (0..tokens * tokens).map(|i| hidden(i % tokens));
        let tensor = Tensor::new(vec![tokens; 2], values.collect::<Vec<f32>>()).unwrap();
        self.inputs.insert("padding".into(), tensor);
        let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::TOKENS]);
        self.graph.add_input("padding", ty).unwrap()
    }

    fn positions(&mut self) -> ValueId {
        let values: Vec<i32> = (0..self.tokens as i32).collect();
        let tensor = Tensor::new(vec![self.tokens as usize], values).unwrap();
        self.inputs.insert("positions".into(), tensor);
        let ty = TensorType::new(DType::I32, Shape::from([Dim::TOKENS]));
        self.graph.add_input("positions", ty).unwrap()
    }

    /// The number of the row that is chosen: one but the last.
    fn row(&mut self) -> ValueId {
        let chosen = self.tokens.saturating_sub(2) as i32;
        let tensor = Tensor::new(vec![1], vec![chosen]).unwrap();
        self.inputs.insert("row".into(), tensor);
        let ty = TensorType::new(DType::I32, Shape::from([Dim::OUTPUTS]));
        self.graph.add_input("row", ty).unwrap()
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

    fn matrix(&mut self, name: &str, rows: u32, columns: u32) -> ValueId {
        let scale = (3.0 / columns as f32).sqrt();
        let values = numbers((rows * columns) as usize, self.seed());
        let values: Vec<f32> = values.iter().map(|x| x * scale).collect();
        let bytes = self.matrices.row_bytes(values.len()).unwrap();
        let mut bytes = vec![0; bytes];
        match self.matrices {
            DType::F32 => bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            dtype => quantize_row(dtype, &values, &mut bytes).unwrap(),
        }
        let size = (rows as usize, columns as usize);
        self.weights.1.insert(name.into(), size);
        self.weights.0.insert(name.into(), (self.matrices, bytes));
        // the reference has numbers, the device what they are made of
        let ty = TensorType::new(DType::F32, Shape::fixed(&[rows, columns]));
        self.graph.add_weight(name, ty).unwrap()
    }

    fn op(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = format!("{}.{}", op.name(), self.graph.nodes().len());
        self.graph.add(name, op, inputs).unwrap()
    }

    fn linear(&mut self, x: ValueId, from: u32, to: u32) -> ValueId {
        let n = self.graph.nodes().len();
        let w = self.matrix(&format!("w.{n}"), to, from);
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

    /// The graph of the HTP that it becomes, as text.
    pub fn lowered(mut self, form: WeightForm, result: ValueId) -> String {
        self.graph.set_output(result).unwrap();
        let symbols = SymbolValues::step(self.tokens, 0, 1, 64);
        let entry = entry(&Arc::new(self.graph), &symbols);
        let lowered = lower(
            "qnn",
            &entry,
            DType::F32,
            form,
            Contents::All(&self.weights),
        )
        .unwrap();
        let mut text = lowered.graph.to_string();
        for feed in &lowered.feeds {
            text += &format!("takes {feed:?}\n");
        }
        for fetch in &lowered.fetches {
            text += &format!("gives {fetch:?}\n");
        }
        text
    }

    /// As [`Case::error`], with activations in fixed point: in the ranges that numbers have in this very step.
    pub fn fixed_error(
        mut self,
        chip: &Arc<exec::Device>,
        activations: FixedForm,
        form: WeightForm,
        result: ValueId,
    ) -> f32 {
        self.graph.set_output(result).unwrap();
        let symbols = SymbolValues::step(self.tokens, 0, 1, 64);
        let graph = Arc::new(self.graph);
        let entry = entry(&graph, &symbols);
        let lowered = lower(
            "qnn",
            &entry,
            DType::F32,
            form,
            Contents::All(&self.weights),
        )
        .unwrap();
        let given: Vec<Tensor> = graph
            .whole()
            .inputs()
            .iter()
            .map(|&v| self.inputs[&graph.value(v).name].clone())
            .collect();
        let positions: Vec<i32> = (0..self.tokens as i32).collect();
        let feeds = lowered.feeds.iter().zip(lowered.graph.inputs());
        let inputs = feeds.map(|(feed, tensor)| match feed {
            Feed::Value(i) | Feed::Added(i, _) => {
                let numbers = given[*i].to_f32().unwrap();
                numbers.iter().map(|x| f64::from(*x)).collect()
            }
            Feed::State(_) | Feed::NewRows(_) => vec![0.0; tensor.elements().unwrap()],
            Feed::Cosines(r) => r.angles(&positions).0.iter().map(|x| x.to_f64()).collect(),
            Feed::Sines(r) => r.angles(&positions).1.iter().map(|x| x.to_f64()).collect(),
            Feed::Mask(m) => m.mask(&positions, 0).iter().map(|x| x.to_f64()).collect(),
        });
        let inputs: Vec<Vec<f64>> = inputs.collect();
        let values = htp::reference::evaluate(&lowered.graph, &inputs).unwrap();
        let ids = (0..lowered.graph.tensors.len() as u32).map(TensorId);
        let ranges: Vec<Range> = ids.map(|id| Range::of(values.of(id))).collect();
        let fixed = htp::fixed(&lowered.graph, &ranges, activations).unwrap();
        fixed.check().unwrap();

        let context = exec::Context::new(chip, exec::ContextOptions::default()).unwrap();
        let executable = context.compile(&fixed).unwrap();
        let held = fixed.inputs().zip(&inputs);
        let held: Vec<Vec<u8>> = held.map(|(t, x)| t.encode(x).unwrap()).collect();
        let held: Vec<&[u8]> = held.iter().map(|x| &x[..]).collect();
        let ports = executable.outputs().iter();
        let mut made: Vec<Vec<u8>> = ports.map(|p| vec![0; p.bytes]).collect();
        let mut slices: Vec<&mut [u8]> = made.iter_mut().map(|m| &mut m[..]).collect();
        executable.execute(&held, &mut slices).unwrap();
        let at = lowered.fetches.iter().position(|f| *f == Fetch::Value(0));
        let at = at.unwrap();
        let found = fixed.outputs().nth(at).unwrap().decode(&made[at]).unwrap();
        let found: Vec<f32> = found.iter().map(|x| *x as f32).collect();
        let expected = expected(&graph, &given, &self.weights.in_form(form), &symbols);
        share(&found, &expected)
    }

    /// How far the chip's result is from the reference, as a share of the largest number. The reference computes
    /// with what weights of products are in `form`.
    pub fn error(mut self, device: &dyn Device, form: WeightForm, result: ValueId) -> f32 {
        self.graph.set_output(result).unwrap();
        let symbols = SymbolValues::step(self.tokens, 0, 1, 64);
        let graph = Arc::new(self.graph);
        let run = graph.whole();
        for (verdict, node) in device.support(&run).iter().zip(graph.nodes()) {
            assert_eq!(*verdict, Support::Yes, "{} of {}", node.name, graph.name());
        }
        let given: Vec<Tensor> = run
            .inputs()
            .iter()
            .map(|&v| self.inputs[&graph.value(v).name].clone())
            .collect();
        let held = self.weights.in_form(form);
        let found = run_with(device, &graph, &given, Arc::new(self.weights), &symbols);
        let found = found.unwrap_or_else(|e| panic!("{}: {e}", graph.name()));
        let found = found[0].to_f32().unwrap();
        share(&found, &expected(&graph, &given, &held, &symbols))
    }
}

/// What the reference gives.
fn expected(
    graph: &Graph,
    given: &[Tensor],
    weights: &Weights,
    symbols: &SymbolValues,
) -> Vec<f32> {
    let mut states = StateStore::kept(graph, symbols, None).unwrap();
    let views: Vec<TensorRef<'_>> = given.iter().map(|t| t.view()).collect();
    let expected = evaluate(&graph.whole(), &views, weights, &mut states, symbols).unwrap();
    expected[0].to_f32().unwrap()
}

/// The largest difference as a share of the largest number.
fn share(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    assert_eq!(found.len(), expected.len());
    let apart = found
        .iter()
        .zip(expected)
        .map(|(f, e)| match (f - e).abs() {
            far if far.is_nan() => f32::INFINITY,
            far => far,
        });
    apart.fold(0f32, f32::max) / largest
}

/// The whole of `graph` for steps of exactly these sizes.
fn entry(graph: &Arc<Graph>, symbols: &SymbolValues) -> Entry {
    let mut bounds = Bounds::new();
    for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
        bounds = bounds.with(symbol, Extent::Exact(symbols.get(symbol)));
    }
    Entry {
        name: graph.name().into(),
        graph: graph.clone(),
        nodes: 0..graph.nodes().len() as u32,
        bounds,
    }
}

pub fn attention(causal: bool, soft_cap: Option<f32>, window: Option<u32>) -> Op {
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
pub fn cases() -> Vec<(Case, ValueId)> {
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
    one("product in parts", &|c| {
        let x = c.x("x", &[16]);
        c.linear(x, 16, 20_000)
    });
    one("results of one token", &|c| {
        let (x, row) = (c.x("x", &[64]), c.row());
        let x = c.op(Op::Gather { axis: 0 }, &[x, row]);
        let gamma = c.w("gamma", &[64], 1.0);
        let x = c.op(Op::RmsNorm { eps: 1e-5 }, &[x, gamma]);
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
    one("product with a constant", &|c| {
        let ty = TensorType::new(DType::F32, []);
        let number = 1.5f32.to_le_bytes().to_vec();
        let number = c.graph.add_constant("number", ty, number).unwrap();
        let x = c.x("x", &[48]);
        c.op(Op::Binary(BinaryOp::Mul), &[x, number])
    });
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
    one("rotation with factors", &|c| {
        let (x, positions) = (c.x("x", &[4, 32]), c.positions());
        let factors: Vec<u8> = (0..16u8)
            .flat_map(|i| (1.0 + f32::from(i) / 4.0).to_le_bytes())
            .collect();
        c.weights.0.insert("factors".into(), (DType::F32, factors));
        let ty = TensorType::new(DType::F32, Shape::fixed(&[16]));
        let factors = c.graph.add_weight("factors", ty).unwrap();
        let rope = Op::Rope {
            style: RopeStyle::HalfSplit,
            dims: 32,
            base: 10000.0,
            scaling: RopeScaling::None,
        };
        c.op(rope, &[x, positions, factors])
    });
    for kv_heads in [1, 2, 4] {
        for cap in [None, Some(2.0)] {
            one(&format!("attention of {kv_heads} of 4, {cap:?}"), &|c| {
                let (q, k) = (c.x("q", &[4, 16]), c.x("k", &[kv_heads, 16]));
                let v = c.x("v", &[kv_heads, 16]);
                c.op(attention(false, cap, None), &[q, k, v])
            });
            one(
                &format!("padded attention of {kv_heads} of 4, {cap:?}"),
                &|c| {
                    let (q, k) = (c.x("q", &[4, 16]), c.x("k", &[kv_heads, 16]));
                    let (v, padding) = (c.x("v", &[kv_heads, 16]), c.padding());
                    let mut op = attention(false, cap, None);
                    if let Op::Attention { mask, .. } = &mut op {
                        *mask = true;
                    }
                    c.op(op, &[q, k, v, padding])
                },
            );
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

/// A layer as MiniLM's: 384 wide, 12 heads, 1536 in between.
pub fn encoder_block(mut c: Case) -> (Case, ValueId) {
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

/// A layer as llama's: 256 wide, 8 heads that share 2 of keys and values, 512 in between.
pub fn decoder_block(mut c: Case) -> (Case, ValueId) {
    let (x, positions) = (c.x("x", &[256]), c.positions());
    let gamma = c.w("attn.gamma", &[256], 1.0);
    let normed = c.op(Op::RmsNorm { eps: 1e-5 }, &[x, gamma]);
    let rope = Op::Rope {
        style: RopeStyle::HalfSplit,
        dims: 32,
        base: 10000.0,
        scaling: RopeScaling::None,
    };
    let part = |c: &mut Case, heads: u32, turned: bool| {
        let part = c.linear(normed, 256, heads * 32);
        let part = c.reshape(part, &[heads, 32]);
        match turned {
            true => c.op(rope.clone(), &[part, positions]),
            false => part,
        }
    };
    let (q, k, v) = (
        part(&mut c, 8, true),
        part(&mut c, 2, true),
        part(&mut c, 2, false),
    );
    let mixed = c.op(attention(true, None, None), &[q, k, v, positions]);
    let mixed = c.reshape(mixed, &[256]);
    let mixed = c.linear(mixed, 256, 256);
    let x = c.op(Op::Binary(BinaryOp::Add), &[x, mixed]);
    let gamma = c.w("ffn.gamma", &[256], 1.0);
    let normed = c.op(Op::RmsNorm { eps: 1e-5 }, &[x, gamma]);
    let (gate, up) = (c.linear(normed, 256, 512), c.linear(normed, 256, 512));
    let fed = c.op(Op::GatedActivation(Activation::Silu), &[gate, up]);
    let fed = c.linear(fed, 512, 256);
    let result = c.op(Op::Binary(BinaryOp::Add), &[x, fed]);
    (c, result)
}
